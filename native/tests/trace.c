#include "trace.h"

#include <dirent.h>
#include <endian.h>
#include <ftw.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>

#include "layout.h"

static uint8_t *read_file(const char *path, size_t *size)
{
	FILE *file = fopen(path, "rb");
	struct stat status;
	uint8_t *bytes;

	if (!file)
		return NULL;
	CHECK(fstat(fileno(file), &status) == 0);
	*size = (size_t)status.st_size;
	bytes = malloc(*size + 1);
	CHECK(fread(bytes, 1, *size, file) == *size);
	fclose(file);
	return bytes;
}

static uint64_t big(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return be64toh(value);
}

/* Records of the tracer's large kind: u16 id, u32 time; or 0xffff, u32 id, u64 time. Then our three fields. */
static void read_records(struct trace *trace, const uint8_t *at, const uint8_t *end,
			 const struct tf_packet_header *header, uint64_t *next_number)
{
	uint64_t time = header->timestamp_begin;

	while (at < end) {
		uint64_t record_time, number;
		uint32_t id, short_time, writer, payload_size;
		uint16_t short_id;

		memcpy(&short_id, at, 2);
		if (short_id == UINT16_MAX) {
			memcpy(&id, at + 2, 4);
			memcpy(&record_time, at + 6, 8);
			at += 14;
		} else {
			id = short_id;
			memcpy(&short_time, at + 2, 4);
			record_time = (time & ~UINT64_C(0xffffffff)) | short_time;
			if (record_time < time)
				record_time += UINT64_C(1) << 32;
			at += 6;
		}
		CHECK(id == 0 && record_time >= time && record_time <= header->timestamp_end);
		time = record_time;
		memcpy(&writer, at, 4);
		memcpy(&number, at + 4, 8);
		memcpy(&payload_size, at + 12, 4);
		at += 16;
		CHECK(writer < 16 && payload_size <= (size_t)(end - at));
		CHECK(number >= next_number[writer]);
		next_number[writer] = number + 1;
		for (uint32_t i = 0; i < payload_size; i++)
			CHECK(at[i] == 'x');
		at += payload_size;
		trace->record_count++;
		trace->record_counts[writer]++;
	}
	CHECK(at == end);
}

struct stream_state {
	uint64_t next_number[16];
	uint64_t next_sequence, events_discarded, end;
	int is_first;
};

static int read_pair(struct trace *trace, const char *directory, const char *name, struct stream_state *state)
{
	char path[256];
	size_t data_size, index_size, offset = 0;
	uint8_t *data, *index, *entry;

	snprintf(path, sizeof(path), "%s/%s", directory, name);
	data = read_file(path, &data_size);
	if (!data)
		return 0;
	snprintf(path, sizeof(path), "%s/index/%s.idx", directory, name);
	index = read_file(path, &index_size);
	CHECK(index && index_size >= 16 && (index_size - 16) % 72 == 0);
	CHECK(memcmp(index, "\xc1\xf1\xdc\xc1\0\0\0\1\0\0\0\1\0\0\0\x48", 16) == 0);
	for (entry = index + 16; entry < index + index_size; entry += 72) {
		struct tf_packet_header header;

		CHECK(offset + sizeof(header) <= data_size);
		memcpy(&header, data + offset, sizeof(header));
		CHECK(header.magic == TF_PACKET_MAGIC && header.packet_size_bits % (4096 * 8) == 0);
		CHECK(offset + header.packet_size_bits / 8 <= data_size);
		CHECK(big(entry) == offset && big(entry + 8) == header.packet_size_bits);
		CHECK(big(entry + 16) == header.content_size_bits && big(entry + 24) == header.timestamp_begin);
		CHECK(big(entry + 32) == header.timestamp_end && big(entry + 40) == header.events_discarded);
		CHECK(big(entry + 48) == header.stream_id && big(entry + 56) == header.cpu);
		CHECK(big(entry + 64) == header.sequence_number);
		CHECK(header.timestamp_begin >= state->end && header.timestamp_end >= header.timestamp_begin);
		CHECK(state->is_first || header.sequence_number >= state->next_sequence);
		CHECK(header.events_discarded >= state->events_discarded);
		if (!state->is_first || header.sequence_number > 0)
			trace->lost_packet_count += header.sequence_number - state->next_sequence;
		state->is_first = 0;
		state->next_sequence = header.sequence_number + 1;
		state->events_discarded = header.events_discarded;
		state->end = header.timestamp_end;
		read_records(trace, data + offset + TF_PACKET_HEADER_SIZE,
			     data + offset + header.content_size_bits / 8, &header, state->next_number);
		offset += header.packet_size_bits / 8;
		trace->packet_count++;
	}
	CHECK(offset == data_size);
	trace->file_count++;
	free(data);
	free(index);
	return 1;
}

struct trace read_trace(const char *directory, int file_limit)
{
	struct trace trace = { 0 };
	char name[64];

	for (int cpu = 0; cpu < tf_possible_cpu_count(); cpu++) {
		struct stream_state state = { .is_first = 1 };

		snprintf(name, sizeof(name), "channel0_%d", cpu);
		if (file_limit == 0)
			CHECK(read_pair(&trace, directory, name, &state));
		for (int i = 0; i < file_limit; i++) {
			snprintf(name, sizeof(name), "channel0_%d_%d", cpu, i);
			if (!read_pair(&trace, directory, name, &state))
				break;
		}
		trace.discarded_event_count += state.events_discarded;
	}
	return trace;
}

void recording_open(struct recording *recording, struct tf_channel_attributes attributes)
{
	uint64_t needed, available;

	memset(recording, 0, sizeof(*recording));
	session_open(&recording->session);
	strcpy(recording->root, "/tmp/tf-native-trace-XXXXXX");
	CHECK(mkdtemp(recording->root));
	snprintf(recording->directory, sizeof(recording->directory), "%s/ust/uid/0/64-bit", recording->root);
	CHECK(tf_output_create(recording->root, "ust/uid/0/64-bit", 0, 0, NULL, 0, &recording->output) == 0);
	attributes.name = "channel0";
	attributes.header_type = 2;
	memcpy(attributes.trace_uuid, recording->session.uuid, 16);
	CHECK(tf_channel_create(&attributes, recording->output, &recording->channel, &needed, &available) == 0);
	session_write_metadata(&recording->session, recording->output);
	session_use(&recording->session, recording->channel);
}

struct tf_stream_books recording_books(struct recording *recording)
{
	struct tf_stream_books books[64], sum = { 0 };
	const size_t count = (size_t)tf_possible_cpu_count();

	CHECK(count <= 64 && tf_channel_books(recording->channel, books, count) == 0);
	for (size_t i = 0; i < count; i++) {
		sum.packet_count += books[i].packet_count;
		sum.bytes += books[i].bytes;
		sum.discarded_event_count += books[i].discarded_event_count;
		sum.lost_packet_count += books[i].lost_packet_count;
		sum.unwritten_packet_count += books[i].unwritten_packet_count;
	}
	return sum;
}

static int remove_one(const char *path, const struct stat *status, int type, struct FTW *walk)
{
	(void)status;
	(void)type;
	(void)walk;
	return remove(path);
}

void recording_close(struct recording *recording)
{
	tf_channel_free(recording->channel);
	tf_output_put(recording->output);
	session_close(&recording->session);
	nftw(recording->root, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

void stay_on_one_cpu(void)
{
	cpu_set_t allowed;
	int cpu = 0;

	CHECK(sched_getaffinity(0, sizeof(allowed), &allowed) == 0);
	while (!CPU_ISSET(cpu, &allowed))
		cpu++;
	CPU_ZERO(&allowed);
	CPU_SET(cpu, &allowed);
	CHECK(sched_setaffinity(0, sizeof(allowed), &allowed) == 0);
}
