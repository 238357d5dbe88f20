#include "stream.h"

#include "clock.h"
#include "guard.h"

#include "output.h"

#include <tracefleet/pump.h>

#include <errno.h>
#include <string.h>
#include <unistd.h>

#include <lttng/ust-ctl.h>

#define RETRY_DELAY_MIN_MS 50
#define RETRY_DELAY_MAX_MS 1000

struct turn {
	struct tf_stream *stream;
	bool is_forced;
	enum tf_turn_result result;
};

void tf_stream_break(struct tf_stream *stream)
{
	if (stream->is_broken)
		return;
	stream->is_broken = true;
	stream->error = -EIO;
	stream->hole_since_ms = 0;
	stream->reports |= 1u << TF_REPORT_BROKEN;
}

static enum tf_turn_result broken(struct tf_stream *stream)
{
	tf_stream_break(stream);
	return TF_TURN_FAILED;
}

/* Run @function on shared memory; what is gone from under it breaks the stream. */
static int run_guarded(struct tf_stream *stream, int (*function)(void *argument), void *argument)
{
	int ret;

	if (stream->is_broken)
		return -EIO;
	if (stream->map)
		ret = tf_guarded(function, argument, stream->map, stream->map_size);
	else
		ret = tf_guarded(function, argument, stream->library_data, stream->library_data_size);
	if (ret == TF_GUARD_TRIPPED) {
		tf_stream_break(stream);
		return -EIO;
	}
	return ret;
}

/* ---- positions ---- */

static int read_positions(struct tf_stream *stream, uint64_t *consumed, uint64_t *produced)
{
	unsigned long from, to;
	int ret;

	if (stream->map) {
		*consumed = tf_consumed(stream->map);
		*produced = tf_produced(stream->map);
		/* A writer may have moved both in between (overwrite mode). */
		if (stream->layout.is_overwrite && *produced - *consumed > tf_buffer_size(&stream->layout))
			*produced = tf_produced(stream->map);
		return 0;
	}
	ret = lttng_ust_ctl_snapshot_sample_positions(stream->ust);
	if (ret < 0 || lttng_ust_ctl_snapshot_get_consumed(stream->ust, &from) < 0 ||
	    lttng_ust_ctl_snapshot_get_produced(stream->ust, &to) < 0)
		return -EIO;
	*consumed = from;
	*produced = to;
	return 0;
}

struct positions {
	struct tf_stream *stream;
	uint64_t *consumed, *produced;
};

static int read_positions_guarded(void *argument)
{
	struct positions *positions = argument;

	return read_positions(positions->stream, positions->consumed, positions->produced);
}

int tf_stream_positions(struct tf_stream *stream, uint64_t *consumed, uint64_t *produced)
{
	struct positions positions = { stream, consumed, produced };

	if (run_guarded(stream, read_positions_guarded, &positions) < 0)
		return -EIO;
	return 0;
}

bool tf_stream_has_unread(struct tf_stream *stream)
{
	uint64_t consumed, produced;

	return tf_stream_positions(stream, &consumed, &produced) == 0 &&
	       tf_sub_buffer_begin(&stream->layout, consumed) + stream->layout.sub_buffer_size <= produced;
}

static bool is_committed(struct tf_stream *stream, uint64_t position)
{
	const struct tf_layout *layout = &stream->layout;
	const size_t index = tf_sub_buffer_index(layout, position);

	/* Acquire: pairs with the delivery's store, after which the packet is as the writers left it. */
	return __atomic_load_n(tf_commit_cold(layout, stream->map, index), __ATOMIC_ACQUIRE) ==
	       tf_commit_base(layout, position) + layout->sub_buffer_size;
}

static int count_complete(void *argument)
{
	struct tf_stream *stream = argument;
	const uint64_t size = stream->layout.sub_buffer_size;
	uint64_t consumed, produced;
	int count = 0;

	if (read_positions(stream, &consumed, &produced) < 0)
		return 0;
	for (uint64_t at = tf_sub_buffer_begin(&stream->layout, consumed);
	     at + size <= produced && produced - at <= tf_buffer_size(&stream->layout); at += size)
		count += stream->map ? is_committed(stream, at) : 1;
	return count;
}

uint64_t tf_stream_count_complete(struct tf_stream *stream)
{
	const int count = run_guarded(stream, count_complete, stream);

	return count < 0 ? 0 : (uint64_t)count;
}

/* ---- packets ---- */

/*
 * The header's count of discarded event records, made right, once per packet: a packet whose write failed comes
 * here again.
 *
 * The tracer takes the count from the writer that commits last, who knows it only when it is also the one that
 * switched to the next sub-buffer; otherwise the header says 0. The count never falls, so it is at least that of
 * the packet before. Records that a repair gave up were never in it, so they are added from there on.
 */
static uint64_t count_discarded(struct tf_stream *stream, uint64_t position, struct tf_packet_header *in_place,
				uint64_t events_discarded)
{
	int passed = 0;

	if (position < stream->counted_position)
		return events_discarded;
	while (passed < stream->repair_count && stream->repairs[passed].position <= position)
		stream->repaired_event_count += stream->repairs[passed++].lost_record_count;
	stream->repair_count -= passed;
	memmove(stream->repairs, stream->repairs + passed, (size_t)stream->repair_count * sizeof(stream->repairs[0]));
	stream->counted_position = position + 1;
	if (stream->raw_events_discarded < events_discarded)
		stream->raw_events_discarded = events_discarded;
	if (stream->raw_events_discarded + stream->repaired_event_count != events_discarded) {
		events_discarded = stream->raw_events_discarded + stream->repaired_event_count;
		in_place->events_discarded = events_discarded;
	}
	return events_discarded;
}

/* Check the packet at @bytes, complete and ours for now, and describe it. False: no tracer wrote that. */
static bool describe_packet(struct tf_stream *stream, uint64_t position, uint8_t *bytes, struct tf_packet *packet)
{
	const uint64_t page_bits = (uint64_t)sysconf(_SC_PAGESIZE) * 8;
	struct tf_packet_header header;

	memcpy(&header, bytes, sizeof(header));
	if (header.magic != TF_PACKET_MAGIC || header.content_size_bits < TF_PACKET_HEADER_SIZE * 8 ||
	    header.content_size_bits > header.packet_size_bits || header.packet_size_bits % page_bits != 0 ||
	    header.packet_size_bits > stream->layout.sub_buffer_size * 8)
		return false;
	*packet = (struct tf_packet){
		.bytes = bytes,
		.size = header.packet_size_bits / 8,
		.content_size_bits = header.content_size_bits,
		.timestamp_begin = header.timestamp_begin,
		.timestamp_end = header.timestamp_end,
		.events_discarded = count_discarded(stream, position, (void *)bytes, header.events_discarded),
		.sequence_number = header.sequence_number,
	};
	return true;
}

static void keep_books(struct tf_stream *stream, const struct tf_packet *packet)
{
	stream->packet_count++;
	stream->byte_count += packet->size;
	if (packet->events_discarded > stream->events_discarded) {
		stream->discarded_event_count += packet->events_discarded - stream->events_discarded;
		stream->events_discarded = packet->events_discarded;
	}
	if (packet->sequence_number > stream->next_sequence_number)
		stream->lost_packet_count += packet->sequence_number - stream->next_sequence_number;
	stream->next_sequence_number = packet->sequence_number + 1;
	stream->timestamp_end = packet->timestamp_end;
}

/* ---- what was given to a fleet ---- */

/* Take what has become safe into the books. Returns how many packets. */
static uint32_t settle(struct tf_stream *stream)
{
	struct tf_fleet_progress progress;
	uint32_t count = 0;

	tf_fleet_progress(stream->fleet, stream->fleet_key, &progress);
	for (; stream->given_count > 0 && stream->settled_sequence < progress.safe_sequence; count++) {
		keep_books(stream, &stream->given[stream->given_begin]);
		stream->given_begin = (stream->given_begin + 1) % (uint32_t)stream->layout.sub_buffer_count;
		stream->given_count--;
		stream->settled_sequence++;
	}
	if (progress.is_unreadable)
		tf_stream_break(stream);
	return count;
}

static int give(struct tf_stream *stream, const struct tf_packet *packets, int count)
{
	const uint32_t capacity = (uint32_t)stream->layout.sub_buffer_count;
	const int ret = tf_fleet_give(stream->fleet, stream->fleet_key, stream->stream_id, stream->cpu, packets, count);

	for (int i = 0; i < count && ret == 0; i++)
		stream->given[(stream->given_begin + stream->given_count++) % capacity] = packets[i];
	if (ret == 0 && stream->given_since_ms == 0)
		stream->given_since_ms = tf_now_ms();
	return ret == 0 ? count : ret;
}

static void note_failure(struct tf_stream *stream, int error)
{
	if (stream->error != error)
		stream->reports |= 1u << TF_REPORT_WRITE_FAILED;
	stream->reports &= ~(1u << TF_REPORT_WRITE_RECOVERED);
	stream->error = error;
}

static void note_success(struct tf_stream *stream)
{
	if (stream->error != 0)
		stream->reports |= 1u << TF_REPORT_WRITE_RECOVERED;
	stream->error = 0;
}

/* Move the consumed position over @count packets, or let go of the one that is held. Under the guard. */
static bool release_given(struct tf_stream *stream, uint32_t count)
{
	const uint64_t position = stream->position;

	if (stream->is_holding) {
		stream->is_holding = false;
		stream->position = stream->held_position + stream->layout.sub_buffer_size;
		return lttng_ust_ctl_put_next_subbuf(stream->ust) == 0;
	}
	stream->position = position + count * stream->layout.sub_buffer_size;
	return tf_consume(stream->map, position, stream->position);
}

/* A relay daemon that acknowledges nothing for a while is trouble; the packets wait on. */
static void watch_given(struct tf_stream *stream, uint32_t settled_count)
{
	if (stream->given_count == 0)
		stream->given_since_ms = 0;
	else if (settled_count > 0)
		stream->given_since_ms = tf_now_ms();
	else if (tf_now_ms() - stream->given_since_ms >= TF_REFUSAL_MS)
		note_failure(stream, -ETIMEDOUT);
	if (settled_count > 0)
		note_success(stream);
}

struct release {
	struct tf_stream *stream;
	uint32_t count;
};

static int release_guarded(void *argument)
{
	struct release *release = argument;

	return release_given(release->stream, release->count) ? 0 : -EIO;
}

/* False: the stream is broken. */
static bool settle_and_release(struct tf_stream *stream)
{
	struct release release = { .stream = stream, .count = settle(stream) };

	watch_given(stream, release.count);
	if (release.count > 0 && run_guarded(stream, release_guarded, &release) < 0)
		tf_stream_break(stream);
	return !stream->is_broken;
}

bool tf_stream_settle(void *argument)
{
	struct tf_stream *stream = argument;
	bool is_done;

	/* Who has it looks by itself, or is a close, which waits for nobody but us. */
	if (pthread_mutex_trylock(&stream->lock) != 0)
		return false;
	/* In overwrite mode the next sub-buffer waits for this one. */
	is_done = stream->has_sink && settle_and_release(stream) && stream->map && !stream->layout.is_overwrite;
	pthread_mutex_unlock(&stream->lock);
	return is_done;
}

static int put_held(void *argument)
{
	struct tf_stream *stream = argument;
	uint64_t consumed, produced;

	lttng_ust_ctl_put_subbuf(stream->ust);
	if (read_positions(stream, &consumed, &produced) < 0)
		return 0;
	return tf_sub_buffer_begin(&stream->layout, consumed) != stream->held_position;
}

void tf_stream_take_back(struct tf_stream *stream)
{
	tf_fleet_take_back(stream->fleet, stream->fleet_key);
	settle_and_release(stream);
	/* Writers may have gone past what is held: then nobody else counts it. */
	if (stream->is_holding && run_guarded(stream, put_held, stream) == 1)
		stream->unwritten_packet_count++;
	stream->is_holding = false;
}

uint64_t tf_stream_count_passed(const struct tf_stream *stream)
{
	return stream->packet_count + stream->given_count;
}

/* ---- writing ---- */

static int hand_over(struct tf_stream *stream, const struct tf_packet *packets, int count, bool is_urgent)
{
	/* What describes the event records comes first; it was published before they could be recorded. */
	const int ret = tf_output_write_metadata(stream->output);

	if (ret < 0)
		return ret;
	if (stream->relay)
		return tf_relay_write(stream->relay, &stream->relayed, packets, count);
	if (stream->fleet)
		return give(stream, packets, count);
	return tf_trace_file_write(&stream->file, packets, count, is_urgent);
}

/* A relay daemon that is slower than the programs is no trouble; one that takes nothing at all is, after a while. */
static int bear_refusal(struct tf_stream *stream)
{
	const uint64_t now_ms = tf_now_ms();

	if (stream->refused_since_ms == 0)
		stream->refused_since_ms = now_ms;
	return now_ms - stream->refused_since_ms < TF_REFUSAL_MS ? 0 : -ETIMEDOUT;
}

/* Write @count packets; what happened goes into the stream. Returns how many were written. */
static int write_packets(struct tf_stream *stream, const struct tf_packet *packets, int count, bool is_urgent)
{
	int ret = hand_over(stream, packets, count, is_urgent);

	if (ret == -EAGAIN && stream->relay) {
		ret = bear_refusal(stream);
		if (ret == 0)
			return 0;
	} else {
		stream->refused_since_ms = 0;
	}
	/* The kernel met the memory that an application took away. */
	if (ret == -EFAULT) {
		tf_stream_break(stream);
		return 0;
	}
	if (ret < 0) {
		if (stream->error == 0 || ret == -ETIMEDOUT) /* to ask a relay daemon again costs next to nothing */
			stream->retry_delay_ms = RETRY_DELAY_MIN_MS;
		else if (stream->retry_delay_ms < RETRY_DELAY_MAX_MS)
			stream->retry_delay_ms *= 2;
		note_failure(stream, ret);
		stream->retry_at_ms = tf_now_ms() + stream->retry_delay_ms;
		return 0;
	}
	if (stream->fleet)
		return ret; /* how it goes is known when they are safe */
	note_success(stream);
	for (int i = 0; i < ret; i++)
		keep_books(stream, &packets[i]);
	return ret;
}

/* ---- a turn ---- */

static enum tf_turn_result found_hole(struct tf_stream *stream, uint64_t position, uint64_t produced)
{
	const uint64_t now = tf_now_ms();

	if (stream->hole_since_ms == 0 || stream->hole_position != position) {
		stream->hole_since_ms = now;
		stream->hole_position = position;
		stream->is_jam_reported = false;
	}
	/* Long against a writer that was preempted, short against a person who waits for the trace. */
	if (!stream->is_jam_reported && now - stream->hole_since_ms >= TF_JAM_MS) {
		stream->is_jam_reported = true;
		stream->jam_limit = produced;
		stream->reports |= 1u << TF_REPORT_JAMMED;
	}
	return TF_TURN_HOLE;
}

static enum tf_turn_result found_nothing(struct tf_stream *stream)
{
	stream->hole_since_ms = 0;
	return stream->given_count > 0 ? TF_TURN_GAVE : TF_TURN_EMPTY;
}

/* Discard mode: all that is complete, in one write. */
static enum tf_turn_result take_many(struct tf_stream *stream)
{
	const struct tf_layout *layout = &stream->layout;
	const uint64_t size = layout->sub_buffer_size;
	struct tf_packet packets[TF_PACKETS_PER_WRITE];
	uint64_t consumed, produced, ready_size, at;
	size_t bytes = 0;
	int count = 0, written;

	read_positions(stream, &consumed, &produced);
	if (consumed != stream->position || produced < consumed || produced - consumed > tf_buffer_size(layout))
		return broken(stream);
	for (at = consumed + stream->given_count * size; at + size <= produced; at += size) {
		const ptrdiff_t pages =
			tf_pages_index(layout, *tf_sub_buffer_id(layout, stream->map, tf_sub_buffer_index(layout, at)));

		if (!is_committed(stream, at) || count == TF_PACKETS_PER_WRITE || bytes + size > TF_TURN_SIZE + size)
			break;
		if (pages < 0 || !describe_packet(stream, at, tf_pages(layout, stream->map, (size_t)pages),
						  &packets[count]))
			return broken(stream);
		bytes += packets[count++].size;
	}
	if (count == 0)
		return at + size <= produced ? found_hole(stream, at, produced) : found_nothing(stream);
	stream->hole_since_ms = 0;
	ready_size = produced - consumed;
	written = write_packets(stream, packets, count, ready_size > tf_buffer_size(layout) / 2);
	if (written == 0)
		return TF_TURN_FAILED;
	if (stream->fleet)
		return at + size <= produced ? TF_TURN_WROTE : TF_TURN_GAVE;
	stream->position = consumed + (uint64_t)written * size;
	if (!tf_consume(stream->map, consumed, stream->position))
		return broken(stream);
	return TF_TURN_WROTE;
}

/* One sub-buffer, held through the library: overwrite mode, or a layout that is not known. */
static enum tf_turn_result take_one(struct tf_stream *stream)
{
	uint64_t consumed, produced;
	unsigned long offset, position;
	struct tf_packet packet;
	uint8_t *data;
	int ret;

	if (stream->is_holding)
		return TF_TURN_GAVE;
	if (read_positions(stream, &consumed, &produced) < 0)
		return broken(stream);
	consumed = tf_sub_buffer_begin(&stream->layout, consumed);
	if (consumed + stream->layout.sub_buffer_size > produced)
		return found_nothing(stream);
	/* The library would wait up to 100 ms for the record that is missing. */
	if (stream->map && !is_committed(stream, consumed))
		return found_hole(stream, consumed, produced);
	ret = lttng_ust_ctl_get_next_subbuf(stream->ust);
	if (ret == -EAGAIN || ret == -ENODATA)
		return found_hole(stream, consumed, produced);
	if (ret < 0)
		return broken(stream);
	stream->hole_since_ms = 0;
	data = stream->map ? stream->map + stream->layout.memory_map : stream->library_data;
	if (lttng_ust_ctl_snapshot_get_consumed(stream->ust, &position) < 0 ||
	    lttng_ust_ctl_get_mmap_read_offset(stream->ust, &offset) < 0 ||
	    offset > stream->library_data_size - stream->layout.sub_buffer_size ||
	    !describe_packet(stream, position, data + offset, &packet)) {
		lttng_ust_ctl_put_subbuf(stream->ust);
		return broken(stream);
	}
	if (write_packets(stream, &packet, 1, produced - consumed > tf_buffer_size(&stream->layout) / 2) == 0) {
		lttng_ust_ctl_put_subbuf(stream->ust);
		return TF_TURN_FAILED;
	}
	if (stream->fleet) {
		stream->is_holding = true;
		stream->held_position = position;
		return TF_TURN_GAVE;
	}
	stream->position = position + stream->layout.sub_buffer_size;
	if (lttng_ust_ctl_put_next_subbuf(stream->ust) < 0)
		return broken(stream);
	return TF_TURN_WROTE;
}

static int take_turn(void *argument)
{
	struct turn *turn = argument;
	struct tf_stream *stream = turn->stream;

	turn->result = stream->map && !stream->layout.is_overwrite ? take_many(stream) : take_one(stream);
	return 0;
}

enum tf_turn_result tf_stream_turn(struct tf_stream *stream, bool is_forced)
{
	struct turn turn = { .stream = stream, .result = TF_TURN_FAILED };

	if (!stream->has_sink)
		return TF_TURN_EMPTY;
	if (stream->fleet)
		settle_and_release(stream);
	if (stream->is_broken)
		return TF_TURN_FAILED;
	if (stream->error != 0 && !is_forced && tf_now_ms() < stream->retry_at_ms)
		return TF_TURN_FAILED;
	run_guarded(stream, take_turn, &turn);
	return turn.result;
}

/* ---- flush ---- */

/* Nothing but the header that opens a packet, or not even that. */
static bool is_current_empty(struct tf_stream *stream)
{
	return tf_produced(stream->map) % stream->layout.sub_buffer_size <= TF_PACKET_HEADER_SIZE;
}

static int flush_final(void *argument)
{
	struct tf_stream *stream = argument;

	return lttng_ust_ctl_flush_buffer(stream->ust, 0);
}

static int flush_filled(void *argument)
{
	struct tf_stream *stream = argument;

	if (stream->map && is_current_empty(stream))
		return 0;
	return lttng_ust_ctl_flush_buffer(stream->ust, 1);
}

static int flush(struct tf_stream *stream, int (*function)(void *argument))
{
	const int ret = run_guarded(stream, function, stream);

	if (ret < 0)
		tf_stream_break(stream);
	return ret;
}

void tf_stream_flush(struct tf_stream *stream, bool is_final)
{
	if (stream->is_broken || stream->is_quiescent)
		return;
	stream->is_quiescent = is_final;
	flush(stream, is_final ? flush_final : flush_filled);
}

void tf_stream_open_packet(struct tf_stream *stream)
{
	if (!stream->is_broken && stream->packet_count == 0 && !tf_stream_has_unread(stream))
		flush(stream, flush_final);
}

struct timestamp {
	struct tf_stream *stream;
	uint64_t *now;
};

static int read_timestamp(void *argument)
{
	struct timestamp *timestamp = argument;

	return lttng_ust_ctl_get_current_timestamp(timestamp->stream->ust, timestamp->now);
}

int tf_stream_timestamp(struct tf_stream *stream, uint64_t *timestamp)
{
	struct timestamp argument = { stream, timestamp };

	return run_guarded(stream, read_timestamp, &argument) < 0 ? -EIO : 0;
}

/* As tf_stream_has_unread(), without what was given to the fleet. */
static bool has_more(struct tf_stream *stream)
{
	uint64_t consumed, produced;

	if (tf_stream_positions(stream, &consumed, &produced) < 0)
		return false;
	consumed = stream->is_holding ? stream->held_position : tf_sub_buffer_begin(&stream->layout, consumed);
	return consumed + (1 + stream->given_count) * stream->layout.sub_buffer_size <= produced;
}

bool tf_stream_is_idle(struct tf_stream *stream)
{
	return stream->has_sink && !stream->is_broken && stream->error == 0 && stream->refused_since_ms == 0 &&
	       !has_more(stream);
}

static int has_untold_losses(void *argument)
{
	struct tf_stream *stream = argument;

	return tf_lost_records(stream->map) > stream->raw_events_discarded;
}

bool tf_stream_tell_losses(struct tf_stream *stream)
{
	if (!stream->is_quiescent || !stream->map || !stream->has_sink || stream->error != 0)
		return false;
	return run_guarded(stream, has_untold_losses, stream) == 1 && flush(stream, flush_final) == 0;
}

static int count_lost(void *argument)
{
	struct tf_stream *stream = argument;
	const uint64_t lost = tf_lost_records(stream->map) + stream->repaired_event_count;

	if (lost > stream->discarded_event_count)
		stream->discarded_ahead = lost - stream->discarded_event_count;
	else
		stream->discarded_ahead = 0;
	return 0;
}

uint64_t tf_stream_count_discarded(struct tf_stream *stream)
{
	if (stream->map)
		run_guarded(stream, count_lost, stream);
	return stream->discarded_event_count + stream->discarded_ahead;
}

/* ---- repair ---- */

struct repair {
	struct tf_stream *stream;
	uint64_t limit;
};

static int repair(void *argument)
{
	struct repair *repair = argument;

	return tf_stream_repair_guarded(repair->stream, repair->limit);
}

int tf_stream_repair(struct tf_stream *stream, uint64_t limit)
{
	struct repair argument = { stream, limit };
	int ret;

	if (stream->is_broken)
		return 0; /* said before */
	if (!stream->map)
		return -ENOTSUP;
	ret = run_guarded(stream, repair, &argument);
	if (ret < 0)
		tf_stream_break(stream);
	return ret < 0 ? 0 : ret;
}
