/*
 * A writer that is killed between the reservation of its record and the commit leaves a hole: its sub-buffer's
 * commit counters never get full, so no reader takes it, and writers that come round to it drop their records.
 *
 * When no living writer can be behind a hole, the sub-buffer is completed here as its last writer would have:
 *
 *   before   | header | records … | hole | records … | padding |      committed: all but the hole
 *   after    | header | records … | records … | padding       |      and the counters full
 *
 * How much is missing is known exactly from the commit counters, where it begins from the tracer's own note of
 * the committed prefix. With the layouts of the channel's records, the likeliest lost ones are found (recovery.h),
 * cut out and counted as discarded. Without
 * layouts, one hole is cut out when a record seems to begin behind it; else the prefix is kept, and the records
 * behind it are counted by their headers, as well as that goes.
 */

#include "recovery.h"
#include "stream.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <lttng/ust-ctl.h>

/* More event types than any channel has; the id is half of what tells a record from other bytes. */
#define EVENT_ID_MAX 4096
/* So many writers hardly die inside records of one sub-buffer. */
#define HOLES_MAX 8

struct damage {
	uint64_t position;
	size_t index;
	uint64_t base; /* commit counters at the begin of the lap */
	size_t pages_index;
	uint8_t *bytes;
	size_t missing;	   /* bytes not committed */
	size_t prefix;	   /* bytes committed without a gap; 0: not even the header is there */
	size_t data_end;   /* where the padding begins */
	bool is_end_known; /* else the writer that switched to the next sub-buffer died too */
	uint64_t begin, end; /* timestamps */
};

/* ---- event record headers ---- */

/* The time that a short event header spans. In a packet that lasted longer, any short time looks right. */
static uint64_t short_time_range(const struct tf_stream *stream)
{
	return stream->header_type == 2 ? UINT64_C(1) << 32 : UINT64_C(1) << 27;
}

/* The time of a record whose header would be at @at, at or after @earliest; false when none can be there. */
static bool read_event_header(const struct tf_stream *stream, const uint8_t *at, size_t room, uint64_t earliest,
			      uint64_t latest, uint64_t *time, bool *is_extended)
{
	const bool is_large = stream->header_type == 2;
	const size_t short_size = is_large ? 6 : 4, id_size = is_large ? 2 : 1;
	const uint64_t range = short_time_range(stream);
	uint32_t id, value;
	uint16_t large_id;

	if (room < short_size)
		return false;
	if (is_large) {
		memcpy(&large_id, at, sizeof(large_id));
		memcpy(&value, at + 2, sizeof(value));
		id = large_id;
		*is_extended = large_id == UINT16_MAX;
	} else {
		memcpy(&value, at, sizeof(value));
		id = value & 31;
		value >>= 5;
		*is_extended = id == 31;
	}
	if (*is_extended) {
		if (room < id_size + 12)
			return false;
		memcpy(&id, at + id_size, sizeof(id));
		memcpy(time, at + id_size + 4, sizeof(*time));
	} else {
		/* Memory that nobody has written yet; it would be the first event, at one moment of all. */
		if (id == 0 && value == 0)
			return false;
		*time = (earliest & ~(range - 1)) | value;
		if (*time < earliest)
			*time += range;
	}
	return id <= EVENT_ID_MAX && *time >= earliest && *time <= latest;
}

static bool is_short_packet(const struct tf_stream *stream, const struct damage *damage)
{
	return damage->end - damage->begin < short_time_range(stream);
}

/*
 * Where nobody knows the records' sizes: count what looks like the begin of one, in order of time. What earlier
 * laps left behind has times before this packet's. 0 when times tell nothing.
 */
static uint64_t count_event_headers(const struct tf_stream *stream, const struct damage *damage, size_t from, size_t end,
				    uint64_t time, uint64_t latest)
{
	uint64_t count = 0, next;
	bool is_extended;

	if (!is_short_packet(stream, damage))
		return 0;
	while (from < end) {
		if (read_event_header(stream, damage->bytes + from, end - from, time, latest, &next, &is_extended)) {
			count++;
			time = next;
			from += stream->header_type == 2 ? 6 : 4;
		} else {
			from++;
		}
	}
	return count;
}

/*
 * Two dead writers with records of one size, and committed ones between them: then a record begins behind the
 * assumed hole all the same, but others begin at equal distances inside it.
 */
static bool has_equal_records(const struct tf_stream *stream, const struct damage *damage, size_t begin, size_t end,
			      uint64_t earliest, uint64_t latest)
{
	const size_t size = end - begin;
	bool is_extended;
	uint64_t time;

	if (!is_short_packet(stream, damage))
		return false;
	for (size_t parts = 2; parts <= HOLES_MAX; parts++)
		for (size_t i = 1; size % parts == 0 && i < parts; i++)
			if (read_event_header(stream, damage->bytes + begin + i * (size / parts), size / parts, earliest,
					      latest, &time, &is_extended))
				return true;
	return false;
}

/* True when a record begins behind the hole, and means the same without the one that is cut out. */
static bool is_single_hole(const struct tf_stream *stream, const struct damage *damage)
{
	const size_t behind = damage->prefix + damage->missing;
	const size_t hole = damage->prefix > 0 ? damage->prefix : TF_PACKET_HEADER_SIZE;
	uint64_t earliest = damage->begin, time;
	bool is_extended;

	if (behind >= damage->data_end || behind < hole)
		return false;
	/* The header of the lost record may have been written, and tells what comes at the earliest. */
	if (read_event_header(stream, damage->bytes + hole, damage->missing, damage->begin, damage->end, &time,
			      &is_extended))
		earliest = time;
	if (!read_event_header(stream, damage->bytes + behind, damage->data_end - behind, earliest, damage->end, &time,
			       &is_extended))
		return false;
	if (has_equal_records(stream, damage, hole, behind, earliest, time))
		return false;
	/* A short time stamp counts on from the record before it, which must then be less than its range away. */
	return is_extended || is_short_packet(stream, damage);
}

/* ---- what is there ---- */

static uint64_t load(const uint64_t *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE); /* pairs with the writers' commits */
}

/* Bytes of the sub-buffer at @position that are committed without a gap, by the tracer's note; 0: none of this lap. */
static size_t committed_prefix(struct tf_stream *stream, uint64_t position)
{
	const struct tf_layout *layout = &stream->layout;
	const uint64_t base = tf_commit_base(layout, position);
	const uint64_t note =
		load(tf_commit_hot_sequence(layout, stream->map, tf_sub_buffer_index(layout, position)));

	if (note < base + TF_PACKET_HEADER_SIZE || note > base + layout->sub_buffer_size)
		return 0;
	return (size_t)(note - base);
}

static struct tf_packet_header *header_at(struct tf_stream *stream, uint64_t position)
{
	const struct tf_layout *layout = &stream->layout;
	const size_t index = tf_sub_buffer_index(layout, position);
	const ptrdiff_t pages = tf_pages_index(layout, load(tf_sub_buffer_id(layout, stream->map, index)));

	return pages < 0 ? NULL : (void *)tf_pages(layout, stream->map, (size_t)pages);
}

/* When the next sub-buffer was opened whose header is there, or now: this one ended no later. */
static uint64_t latest_end(struct tf_stream *stream, uint64_t position, uint64_t produced)
{
	const uint64_t size = stream->layout.sub_buffer_size;
	uint64_t now = 0;

	for (uint64_t next = position + size; next < produced; next += size) {
		const struct tf_packet_header *header = header_at(stream, next);

		if (header && committed_prefix(stream, next) > 0)
			return header->timestamp_begin;
	}
	lttng_ust_ctl_get_current_timestamp(stream->ust, &now);
	return now;
}

/* When the packet before @position ended. What was read is the writers' again, and may hold a later lap. */
static uint64_t previous_end(struct tf_stream *stream, uint64_t position, bool is_previous_read)
{
	const struct tf_layout *layout = &stream->layout;

	if (is_previous_read)
		return stream->timestamp_end;
	return load(tf_ts_end(layout, stream->map, tf_sub_buffer_index(layout, position - layout->sub_buffer_size)));
}

/* 1: needs a repair, as described in *@damage; 0: complete; -EIO: no tracer leaves that. */
static int examine(struct tf_stream *stream, uint64_t position, bool is_previous_read, uint64_t produced,
		   struct damage *damage)
{
	const struct tf_layout *layout = &stream->layout;
	const size_t size = layout->sub_buffer_size, index = tf_sub_buffer_index(layout, position);
	const uint64_t base = tf_commit_base(layout, position);
	const uint64_t delivered = load(tf_commit_cold(layout, stream->map, index));
	const uint64_t committed = load(tf_commit_hot(layout, stream->map, index)) - base;
	const ptrdiff_t pages = tf_pages_index(layout, load(tf_sub_buffer_id(layout, stream->map, index)));
	uint64_t noted_end;
	size_t noted_size;

	if (delivered == base + size)
		return 0;
	/* One more than the base: the writer died in the middle of the delivery. */
	if ((delivered != base && delivered != base + 1) || committed > size || pages < 0)
		return -EIO;
	*damage = (struct damage){ .position = position,
				   .index = index,
				   .base = base,
				   .pages_index = (size_t)pages,
				   .bytes = tf_pages(layout, stream->map, (size_t)pages),
				   .missing = size - (size_t)committed,
				   .prefix = committed_prefix(stream, position) };
	if (damage->prefix > committed)
		return -EIO;
	damage->begin = previous_end(stream, position, is_previous_read);
	if (damage->prefix > 0)
		memcpy(&damage->begin, damage->bytes + offsetof(struct tf_packet_header, timestamp_begin),
		       sizeof(damage->begin));
	/* Both are noted by the switch away from the sub-buffer; else they are of an earlier lap. */
	noted_end = load(tf_ts_end(layout, stream->map, index));
	noted_size = (size_t)load(tf_data_size(layout, stream->map, (size_t)pages));
	damage->is_end_known = (damage->prefix > 0 ? noted_end >= damage->begin : noted_end > damage->begin) &&
			       noted_size >= damage->prefix && noted_size >= TF_PACKET_HEADER_SIZE && noted_size <= size;
	damage->end = damage->is_end_known ? noted_end : latest_end(stream, position, produced);
	if (damage->end < damage->begin)
		damage->end = damage->begin;
	damage->data_end = damage->is_end_known ? noted_size : size;
	return 1;
}

/* ---- the repair ---- */

/*
 * Keep every record that is whole. False when what is missing cannot be explained; then nothing was touched, and
 * *@lost_count is how many records can be behind the prefix (0: not known).
 */
static bool keep_records(struct tf_stream *stream, struct damage *damage, size_t *content_size, uint64_t *lost_count)
{
	const size_t header_missing = damage->prefix > 0 ? 0 : TF_PACKET_HEADER_SIZE;
	const size_t padding = stream->layout.sub_buffer_size - damage->data_end;
	/* The search holds a lock and memory of its own, so it must not touch what an application can take away. */
	uint8_t *copy = malloc(damage->data_end);
	struct tf_damage_search search = { .bytes = copy,
					   .begin = TF_PACKET_HEADER_SIZE,
					   .prefix = damage->prefix > 0 ? damage->prefix : TF_PACKET_HEADER_SIZE,
					   .data_end = damage->data_end,
					   .missing = damage->missing - header_missing,
					   .time_begin = damage->begin,
					   .time_end = damage->end };
	struct tf_recovery recovery;
	bool is_recovered = false;

	*lost_count = 0;
	if (!copy)
		return false;
	memcpy(copy, damage->bytes, damage->data_end);
	if (damage->is_end_known && damage->missing >= header_missing) {
		is_recovered = tf_records_recover(stream->layouts, &search, &recovery);
		if (!is_recovered && padding > 0 && search.missing >= padding) {
			/* The writer that switched away may have died as well, before it committed the padding. */
			search.missing -= padding;
			is_recovered = tf_records_recover(stream->layouts, &search, &recovery);
		}
	}
	if (!is_recovered)
		*lost_count = tf_records_count_at_most(stream->layouts, &search);
	free(copy);
	if (!is_recovered)
		return false;
	*content_size = TF_PACKET_HEADER_SIZE;
	for (size_t i = 0; i < recovery.kept_count; i++) {
		const size_t size = recovery.kept[i].end - recovery.kept[i].begin;

		memmove(damage->bytes + *content_size, damage->bytes + recovery.kept[i].begin, size);
		*content_size += size;
	}
	*lost_count = recovery.lost_count;
	return true;
}

/* Close the gap in the records. Returns how many records are lost; *@content_size is what is left, header included. */
static uint64_t cut_hole(struct tf_stream *stream, struct damage *damage, size_t *content_size)
{
	const bool has_header = damage->prefix > 0;
	const size_t hole_begin = has_header ? damage->prefix : TF_PACKET_HEADER_SIZE;
	const size_t hole_end = damage->prefix + damage->missing;
	uint64_t counted = 0, looks;

	*content_size = hole_begin;
	/* Nothing but the padding, or the delivery, is missing. */
	if (damage->is_end_known ? hole_begin == damage->data_end : hole_end == stream->layout.sub_buffer_size)
		return 0;
	if (tf_record_layouts_are_known(stream->layouts)) {
		if (keep_records(stream, damage, content_size, &counted))
			return counted;
	} else if (damage->is_end_known && hole_end == damage->data_end) {
		return 1; /* the last record */
	} else if (damage->is_end_known && is_single_hole(stream, damage)) {
		memmove(damage->bytes + hole_begin, damage->bytes + hole_end, damage->data_end - hole_end);
		*content_size = hole_begin + damage->data_end - hole_end;
		return hole_end > hole_begin;
	}
	looks = count_event_headers(stream, damage, hole_begin, damage->data_end, damage->begin, damage->end);
	if (counted < looks)
		counted = looks;
	return counted > 2 ? counted : 2; /* the dead writers', two at least */
}

/* The tracer's count as of the packet before; what was discarded since then, the next packet tells. */
static uint64_t previous_events_discarded(struct tf_stream *stream, uint64_t position)
{
	const uint64_t size = stream->layout.sub_buffer_size;
	const struct tf_packet_header *previous;

	if (position < size || position - size < stream->counted_position)
		return stream->raw_events_discarded;
	previous = header_at(stream, position - size);
	if (!previous || previous->sequence_number != position / size - 1)
		return stream->raw_events_discarded;
	return previous->events_discarded;
}

static void fill_header(struct tf_stream *stream, const struct damage *damage, size_t content_size)
{
	const size_t page_size = (size_t)sysconf(_SC_PAGESIZE);
	const size_t packet_size = (content_size + page_size - 1) / page_size * page_size;
	struct tf_packet_header header = { .magic = TF_PACKET_MAGIC,
					   .stream_id = stream->stream_id,
					   .stream_instance_id = stream->cpu,
					   .timestamp_begin = damage->begin,
					   .timestamp_end = damage->end,
					   .content_size_bits = content_size * 8,
					   .packet_size_bits = packet_size * 8,
					   .sequence_number = damage->position / stream->layout.sub_buffer_size,
					   .events_discarded = previous_events_discarded(stream, damage->position),
					   .cpu = stream->cpu };

	memcpy(header.uuid, stream->trace_uuid, sizeof(header.uuid));
	memcpy(damage->bytes, &header, sizeof(header));
	memset(damage->bytes + content_size, 0, packet_size - content_size);
}

/* Say that the sub-buffer is complete, in the order in which its last writer would have. */
static void deliver(struct tf_stream *stream, const struct damage *damage, size_t content_size)
{
	const struct tf_layout *layout = &stream->layout;
	const uint64_t lap = damage->position / tf_buffer_size(layout);
	const uint64_t full = damage->base + layout->sub_buffer_size;

	*tf_data_size(layout, stream->map, damage->pages_index) = content_size;
	*tf_ts_end(layout, stream->map, damage->index) = damage->end;
	*tf_delivery_count(layout, stream->map, damage->index) = lap + 1;
	if (layout->is_overwrite)
		__atomic_store_n(tf_sub_buffer_id(layout, stream->map, damage->index),
				 lap << TF_ID_LAP_SHIFT | TF_ID_NOREF | damage->pages_index, __ATOMIC_RELEASE);
	__atomic_add_fetch(tf_commit_hot(layout, stream->map, damage->index), damage->missing, __ATOMIC_RELAXED);
	__atomic_store_n(tf_commit_hot_sequence(layout, stream->map, damage->index), full, __ATOMIC_RELAXED);
	/* Last, and after all of the above: with it writers and readers may have the sub-buffer. */
	__atomic_store_n(tf_commit_cold(layout, stream->map, damage->index), full, __ATOMIC_SEQ_CST);
}

static void note_repair(struct tf_stream *stream, uint64_t position, uint64_t lost_record_count)
{
	if (lost_record_count == 0)
		return;
	if (stream->repair_count == TF_REPAIRS_PENDING_MAX) {
		stream->repairs[stream->repair_count - 1].lost_record_count += lost_record_count;
		return;
	}
	stream->repairs[stream->repair_count++] =
		(struct tf_repair){ .position = position, .lost_record_count = lost_record_count };
}

int tf_stream_repair_guarded(struct tf_stream *stream, uint64_t limit)
{
	const size_t size = stream->layout.sub_buffer_size;
	const uint64_t produced = tf_produced(stream->map), consumed = tf_consumed(stream->map);
	const uint64_t begin = tf_sub_buffer_begin(&stream->layout, consumed);
	const uint64_t end = produced < limit ? produced : limit;
	int repaired = 0;

	if (produced < consumed || produced - consumed > tf_buffer_size(&stream->layout))
		return -EIO;
	for (uint64_t at = begin; at + size <= end; at += size) {
		struct damage damage;
		uint64_t lost_record_count;
		size_t content_size;
		int ret = examine(stream, at, at == begin, produced, &damage);

		if (ret < 0)
			return ret;
		if (ret == 0)
			continue;
		lost_record_count = cut_hole(stream, &damage, &content_size);
		fill_header(stream, &damage, content_size);
		note_repair(stream, at, lost_record_count);
		deliver(stream, &damage, content_size);
		repaired++;
	}
	stream->hole_since_ms = 0;
	stream->is_jam_reported = false;
	return repaired;
}
