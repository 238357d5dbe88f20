#include "intake.h"

#include "io.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* More are not on their way in good order: then it is the caller's to judge them. */
#define HALVES_MAX 64

struct half { /* of a packet: its data is in the file, or its index entry was received */
	uint64_t net_seq;
	bool is_data;
	/* data */
	uint64_t token, offset;
	uint32_t data_size, padding_size;
	/* index entry */
	struct intake_index_command command;
};

struct intake_halves {
	size_t count;
	struct half items[HALVES_MAX]; /* in order of arrival */
};

void tf_intake_join_init(struct intake_join *join)
{
	pthread_mutex_init(&join->lock, NULL);
	join->fd = -1;
}

void tf_intake_join_destroy(struct intake_join *join)
{
	if (join->fd >= 0)
		close(join->fd);
	free(join->halves);
	pthread_mutex_destroy(&join->lock);
}

/* With the lock held. */
static struct half *find_half(const struct intake_join *join, uint64_t net_seq, bool is_data)
{
	for (size_t i = 0; i < join->halves->count; i++)
		if (join->halves->items[i].net_seq == net_seq && join->halves->items[i].is_data == is_data)
			return &join->halves->items[i];
	return NULL;
}

/* With the lock held; there is room. A report is promised for each half: that of its packet, or of itself. */
static void keep_half(struct intake_join *join, const struct half *half)
{
	join->halves->items[join->halves->count++] = *half;
	tf_intake_promise_report(join->intake);
}

/* With the lock held; the promise is used up. */
static void drop_half(struct intake_join *join, struct half *half)
{
	struct half *end = join->halves->items + join->halves->count--;

	memmove(half, half + 1, (size_t)(end - half - 1) * sizeof(*half));
}

static void describe_data(const struct half *half, struct tf_intake_report *report)
{
	report->token = half->token;
	report->offset = half->offset;
	report->data_size = half->data_size;
	report->padding_size = half->padding_size;
}

static void describe_index(const struct intake_index_command *command, struct tf_intake_report *report)
{
	report->timestamp_end = be64toh(command->timestamp_end);
	report->stream_class_id = be64toh(command->stream_class_id);
	report->events_discarded = be64toh(command->events_discarded);
	report->packet_seq_num = be64toh(command->packet_seq_num);
	report->packet_size = be64toh(command->packet_size);
	report->content_size = be64toh(command->content_size);
	report->timestamp_begin = be64toh(command->timestamp_begin);
	report->stream_instance_id = be64toh(command->stream_instance_id);
}

/* With the lock held: from now on the caller joins, beginning with the halves there are. */
static void give_back(struct intake_stream *stream)
{
	struct intake_join *join = &stream->join;

	if (!join->is_on)
		return;
	for (size_t i = 0; i < join->halves->count; i++) {
		const struct half *half = &join->halves->items[i];
		struct tf_intake_report report = { .handle = stream->node.key, .net_seq = half->net_seq };

		report.kind = half->is_data ? TF_INTAKE_PACKET : TF_INTAKE_INDEX;
		if (half->is_data)
			describe_data(half, &report);
		else
			describe_index(&half->command, &report);
		tf_intake_push_promised(join->intake, &report);
	}
	if (join->fd >= 0)
		close(join->fd);
	join->fd = -1;
	free(join->halves);
	join->halves = NULL;
	join->is_on = false;
}

void tf_intake_join_stop(struct intake_stream *stream)
{
	pthread_mutex_lock(&stream->join.lock);
	give_back(stream);
	pthread_mutex_unlock(&stream->join.lock);
}

int tf_intake_join_start(struct tf_intake *intake, struct intake_stream *stream, const struct tf_intake_index *index)
{
	struct intake_halves *halves = malloc(sizeof(*halves));
	struct intake_join *join = &stream->join;
	int ret = -ESTALE;

	if (!halves)
		return -ENOMEM;
	halves->count = 0;
	pthread_mutex_lock(&stream->lock);
	pthread_mutex_lock(&join->lock);
	if (!stream->is_removed && !join->is_on && stream->target.offset == index->data_offset &&
	    stream->target.stop_net_seq == TF_INTAKE_NO_STOP) {
		join->intake = intake;
		join->is_on = true;
		join->fd = index->fd;
		join->offset = index->offset;
		join->group = stream->target.group;
		join->halves = halves;
		halves = NULL;
		ret = 0;
	}
	pthread_mutex_unlock(&join->lock);
	pthread_mutex_unlock(&stream->lock);
	free(halves);
	return ret;
}

/* With the lock held: write the entry. On failure nothing is left of it. */
static bool write_entry(struct intake_join *join, const struct intake_index_command *command, uint64_t offset)
{
	uint64_t entry[INTAKE_INDEX_ENTRY_SIZE / 8] = { htobe64(offset) };

	/* Apart from the offset, an entry of format 1.1 is what the command says, in the same order. */
	memcpy(entry + 1, &command->packet_size, sizeof(entry) - sizeof(entry[0]));
	if (tf_write_whole(join->fd, entry, sizeof(entry), (off_t)join->offset) < 0) {
		tf_truncate(join->fd, (off_t)join->offset);
		return false;
	}
	join->offset += sizeof(entry);
	return true;
}

static void report_entry(const struct intake_stream *stream, const struct half *data,
			 const struct intake_index_command *command)
{
	struct tf_intake_report report = { .kind = TF_INTAKE_ENTRY, .handle = stream->node.key, .net_seq = data->net_seq };

	describe_data(data, &report);
	describe_index(command, &report);
	tf_intake_push_promised(stream->join.intake, &report);
}

/* With the lock held. */
static bool take_data(struct intake_stream *stream, const struct half *data)
{
	struct intake_join *join = &stream->join;
	struct half *index = find_half(join, data->net_seq, false);

	if (!index) {
		if (join->fd < 0 || join->halves->count == HALVES_MAX || find_half(join, data->net_seq, true))
			return false;
		keep_half(join, data);
		return true;
	}
	if (!write_entry(join, &index->command, data->offset))
		return false;
	report_entry(stream, data, &index->command);
	drop_half(join, index);
	return true;
}

bool tf_intake_join_data(struct intake_stream *stream, const struct intake_connection *connection, uint64_t offset)
{
	const struct intake_packet *packet = &connection->packet;
	const struct half data = { .net_seq = packet->net_seq,
				   .is_data = true,
				   .token = connection->node.key,
				   .offset = offset,
				   .data_size = packet->data_size,
				   .padding_size = packet->padding_size };
	bool is_taken;

	pthread_mutex_lock(&stream->join.lock);
	is_taken = stream->join.is_on && take_data(stream, &data);
	if (!is_taken)
		give_back(stream);
	pthread_mutex_unlock(&stream->join.lock);
	return is_taken;
}

/* With the lock held: when nothing is on its way that is older. */
static void take_beacon(struct intake_stream *stream, struct intake_connection *connection,
			const struct intake_index_command *command)
{
	struct tf_intake_report report = { .kind = TF_INTAKE_BEACON,
					   .token = connection->node.key,
					   .handle = stream->node.key,
					   .timestamp_end = be64toh(command->timestamp_end),
					   .stream_class_id = be64toh(command->stream_class_id) };

	if (stream->join.halves->count == 0)
		tf_intake_push_own(connection, &report);
}

/* With the lock held. */
static bool take_index(struct intake_stream *stream, struct intake_connection *connection,
		       const struct intake_index_command *command)
{
	struct intake_join *join = &stream->join;
	const uint64_t net_seq = be64toh(command->net_seq);
	struct half *data;

	if (join->group != connection->group)
		return false;
	if (command->packet_size == 0) {
		take_beacon(stream, connection, command);
		return true;
	}
	if (net_seq == UINT64_MAX || join->fd < 0 || find_half(join, net_seq, false))
		return false;
	data = find_half(join, net_seq, true);
	if (!data) {
		if (join->halves->count == HALVES_MAX)
			return false;
		keep_half(join, &(struct half){ .net_seq = net_seq, .command = *command });
		return true;
	}
	if (!write_entry(join, command, data->offset))
		return false;
	report_entry(stream, data, command);
	drop_half(join, data);
	return true;
}

bool tf_intake_join_index(struct intake_stream *stream, struct intake_connection *connection,
			  const struct intake_index_command *command)
{
	bool is_taken;

	pthread_mutex_lock(&stream->join.lock);
	is_taken = stream->join.is_on && take_index(stream, connection, command);
	/* Another session's connection must not change anything. */
	if (!is_taken && stream->join.group == connection->group)
		give_back(stream);
	pthread_mutex_unlock(&stream->join.lock);
	return is_taken;
}
