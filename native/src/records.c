#include "records.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_COUNT_MAX (1u << 20)
#define OP_COUNT_MAX 4096
/* For each number of lost records; so many steps take a fraction of a second. What needs more is not told apart. */
#define STEPS_MAX 3000000

enum op_kind { OP_BYTES = 1, OP_STRING = 2, OP_SEQUENCE = 3 };

struct op {
	enum op_kind kind;
	uint32_t size; /* of the bytes, or of an element */
	uint8_t length_size;
	bool is_big_endian;
};

struct layout {
	bool is_known;
	struct op *ops;
	size_t op_count;
};

struct tf_record_layouts {
	pthread_mutex_t lock; /* of everything below */
	int header_type;
	struct layout context;
	struct layout *events;
	size_t event_count;
};

struct tf_record_layouts *tf_record_layouts_create(int header_type)
{
	struct tf_record_layouts *layouts = calloc(1, sizeof(*layouts));

	if (!layouts)
		return NULL;
	pthread_mutex_init(&layouts->lock, NULL);
	layouts->header_type = header_type;
	return layouts;
}

void tf_record_layouts_free(struct tf_record_layouts *layouts)
{
	if (!layouts)
		return;
	for (size_t i = 0; i < layouts->event_count; i++)
		free(layouts->events[i].ops);
	free(layouts->events);
	free(layouts->context.ops);
	pthread_mutex_destroy(&layouts->lock);
	free(layouts);
}

static uint32_t read_u32(const uint8_t *at)
{
	return at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

/* Decode @ops into @decoded (OP_COUNT_MAX of them). Returns their number or -EINVAL. */
static int decode(const uint8_t *ops, size_t size, struct op *decoded)
{
	size_t at = 0;
	int count = 0;

	while (at < size) {
		struct op *op = &decoded[count];
		const size_t room = size - at;

		if (count == OP_COUNT_MAX)
			return -EINVAL;
		*op = (struct op){ .kind = (enum op_kind)ops[at] };
		switch (op->kind) {
		case OP_BYTES:
			if (room < 5)
				return -EINVAL;
			op->size = read_u32(ops + at + 1);
			at += 5;
			break;
		case OP_STRING:
			at++;
			break;
		case OP_SEQUENCE:
			if (room < 7)
				return -EINVAL;
			op->length_size = ops[at + 1];
			op->is_big_endian = ops[at + 2] != 0;
			op->size = read_u32(ops + at + 3);
			if (op->length_size < 1 || op->length_size > 8)
				return -EINVAL;
			at += 7;
			break;
		default:
			return -EINVAL;
		}
		count++;
	}
	return count;
}

/* With the lock held. */
static int make_room(struct tf_record_layouts *layouts, size_t count)
{
	struct layout *events;

	if (count <= layouts->event_count)
		return 0;
	events = realloc(layouts->events, count * sizeof(*events));
	if (!events)
		return -ENOMEM;
	memset(events + layouts->event_count, 0, (count - layouts->event_count) * sizeof(*events));
	layouts->events = events;
	layouts->event_count = count;
	return 0;
}

int tf_record_layouts_set(struct tf_record_layouts *layouts, int64_t event_id, const uint8_t *ops, size_t size)
{
	struct op *decoded;
	struct layout *layout;
	int count, ret = 0;

	if (event_id < TF_CONTEXT_LAYOUT || event_id >= EVENT_COUNT_MAX)
		return -EINVAL;
	decoded = malloc(OP_COUNT_MAX * sizeof(*decoded));
	if (!decoded)
		return -ENOMEM;
	count = decode(ops, size, decoded);
	if (count < 0) {
		ret = count;
		goto out;
	}
	pthread_mutex_lock(&layouts->lock);
	if (event_id != TF_CONTEXT_LAYOUT)
		ret = make_room(layouts, (size_t)event_id + 1);
	if (ret == 0) {
		struct op *fitted = realloc(decoded, (size_t)(count > 0 ? count : 1) * sizeof(*decoded));

		layout = event_id == TF_CONTEXT_LAYOUT ? &layouts->context : &layouts->events[event_id];
		free(layout->ops);
		*layout = (struct layout){ .is_known = true,
					   .ops = fitted ? fitted : decoded,
					   .op_count = (size_t)count };
		decoded = NULL;
	}
	pthread_mutex_unlock(&layouts->lock);
out:
	free(decoded);
	return ret;
}

bool tf_record_layouts_are_known(struct tf_record_layouts *layouts)
{
	bool is_known;

	pthread_mutex_lock(&layouts->lock);
	is_known = layouts->context.is_known && layouts->event_count > 0;
	pthread_mutex_unlock(&layouts->lock);
	return is_known;
}

/* ---- one record ---- */

struct walk {
	const struct tf_record_layouts *layouts;
	const struct tf_damage_search *search;
	uint8_t *reaches_end; /* by offset: 0 not known, 1 whole records up to the end, 2 not */
	uint64_t steps;
};

static uint64_t short_range(const struct walk *walk)
{
	return walk->layouts->header_type == 2 ? UINT64_C(1) << 32 : UINT64_C(1) << 27;
}

static bool is_short_packet(const struct walk *walk)
{
	return walk->search->time_end - walk->search->time_begin < short_range(walk);
}

/* The offset behind the fields of @layout at @at, or 0. */
static size_t skip_fields(const struct walk *walk, const struct layout *layout, size_t at)
{
	const uint8_t *bytes = walk->search->bytes, *nul;
	const size_t end = walk->search->data_end;

	for (size_t i = 0; i < layout->op_count; i++) {
		const struct op *op = &layout->ops[i];
		uint64_t length = 0;

		switch (op->kind) {
		case OP_BYTES:
			if (op->size > end - at)
				return 0;
			at += op->size;
			break;
		case OP_STRING:
			nul = memchr(bytes + at, '\0', end - at);
			if (!nul)
				return 0;
			at = (size_t)(nul - bytes) + 1;
			break;
		case OP_SEQUENCE:
			if (op->length_size > end - at)
				return 0;
			for (uint8_t byte = 0; byte < op->length_size; byte++)
				length |= (uint64_t)bytes[at + byte]
					  << 8 * (op->is_big_endian ? op->length_size - 1 - byte : byte);
			at += op->length_size;
			if (op->size > 0 && length > (end - at) / op->size)
				return 0;
			at += (size_t)length * op->size;
			break;
		}
	}
	return at;
}

/* True when a whole record of a known event begins at @at, at a time within the packet. */
static bool read_record(struct walk *walk, size_t at, struct tf_record *record)
{
	const struct tf_damage_search *search = walk->search;
	const bool is_large = walk->layouts->header_type == 2;
	const size_t short_size = is_large ? 6 : 4, id_size = is_large ? 2 : 1;
	const uint8_t *bytes = search->bytes + at;
	const uint64_t range = short_range(walk);
	uint32_t id, value;
	uint64_t time;
	size_t behind;

	walk->steps++;
	if (search->data_end - at < short_size)
		return false;
	memcpy(&value, bytes + (is_large ? 2 : 0), sizeof(value));
	id = is_large ? (uint32_t)(bytes[0] | bytes[1] << 8) : value & 31;
	*record = (struct tf_record){ .begin = at,
				      .is_extended = id == (is_large ? UINT16_MAX : 31),
				      .time = is_large ? value : value >> 5 };
	behind = at + short_size;
	if (record->is_extended) {
		if (search->data_end - at < id_size + 12)
			return false;
		id = read_u32(bytes + id_size);
		memcpy(&record->time, bytes + id_size + 4, sizeof(record->time));
		behind = at + id_size + 12;
		time = record->time;
	} else {
		time = (search->time_begin & ~(range - 1)) | record->time;
		if (time < search->time_begin)
			time += range;
		record->time = time;
	}
	/* In a packet that lasted longer than that, any short time is one within it. */
	if ((record->is_extended || is_short_packet(walk)) && (time < search->time_begin || time > search->time_end))
		return false;
	if (id >= walk->layouts->event_count || !walk->layouts->events[id].is_known)
		return false;
	behind = skip_fields(walk, &walk->layouts->context, behind);
	if (behind != 0)
		behind = skip_fields(walk, &walk->layouts->events[id], behind);
	record->end = behind;
	return behind != 0;
}

/* ---- many ---- */

/* As read_record, for the record that follows one of the time *@time, which becomes its own. */
static bool read_next(struct walk *walk, size_t at, uint64_t *time, struct tf_record *record)
{
	if (!read_record(walk, at, record) || (is_short_packet(walk) && record->time < *time))
		return false;
	*time = record->time;
	return true;
}

/* Whether a reader that comes from a record of the time @time finds whole records in order from @from to the end. */
static bool reaches_end(struct walk *walk, size_t from, uint64_t time)
{
	struct tf_record record;
	size_t at = from;
	bool is_reaching;

	if (from < walk->search->data_end && !read_next(walk, from, &time, &record))
		return false;
	for (time = 0;; time = record.time, at = record.end) {
		is_reaching = at == walk->search->data_end;
		if (is_reaching || walk->reaches_end[at] == 2)
			break;
		if (!read_record(walk, at, &record)) {
			walk->reaches_end[at] = 2;
			break;
		}
		/* Out of order: no way leads on from before it, but one may begin here. */
		if (is_short_packet(walk) && record.time < time)
			break;
		is_reaching = walk->reaches_end[at] == 1;
		if (is_reaching)
			break;
	}
	/* The whole way there has the same answer. */
	for (size_t step = from; step < at; step = record.end) {
		walk->reaches_end[step] = is_reaching ? 1 : 2;
		if (!read_record(walk, step, &record))
			break;
	}
	return is_reaching;
}

/*
 * How many records a hole from @begin to @end has swallowed. A writer that dies has often written its record's
 * header, so what would be records, had they been committed, count each for itself; anything else is one.
 */
static int count_lost(struct walk *walk, size_t begin, size_t end)
{
	struct tf_record record;
	size_t at = begin;
	int count = 0;

	while (at < end && read_record(walk, at, &record)) {
		at = record.end;
		count++;
	}
	return at == end ? count : 1;
}

/*
 * From the boundary @at on, with @missing bytes to explain by the loss of at most @budget records. On success the
 * segments behind each hole are in @recovery, the last hole's last, and the end of the segment that @at is in is
 * in *@end.
 */
static bool explain(struct walk *walk, size_t at, uint64_t time, size_t missing, int budget,
		    struct tf_recovery *recovery, size_t depth, size_t *end)
{
	const size_t data_end = walk->search->data_end;
	const size_t smallest = walk->layouts->header_type == 2 ? 6 : 4;
	struct tf_record record;

	for (;; at = record.end) {
		uint64_t next_time;
		int lost;

		*end = at;
		if (at + missing > data_end || walk->steps > STEPS_MAX)
			return false;
		if (at + missing == data_end || reaches_end(walk, at + missing, time)) {
			lost = count_lost(walk, at, at + missing);
			if (lost <= budget) {
				recovery->kept[depth] = (struct tf_segment){ at + missing, data_end };
				recovery->kept_count = depth + 1;
				recovery->lost_count = (uint64_t)lost;
				return true;
			}
		}
		/* At least one record lies between two holes, else they are one. */
		for (size_t size = smallest; budget > 1 && size + smallest <= missing; size++) {
			size_t segment_end;

			next_time = time;
			if (!read_next(walk, at + size, &next_time, &record))
				continue;
			lost = count_lost(walk, at, at + size);
			if (lost >= budget || !explain(walk, record.end, next_time, missing - size, budget - lost,
						       recovery, depth + 1, &segment_end))
				continue;
			recovery->kept[depth] = (struct tf_segment){ at + size, segment_end };
			recovery->lost_count += (uint64_t)lost;
			return true;
		}
		if (!read_next(walk, at, &time, &record))
			return false;
	}
}

static uint64_t count_records(struct walk *walk, const struct tf_segment *segment)
{
	struct tf_record record;
	uint64_t count = 0;

	for (size_t at = segment->begin; at < segment->end && read_record(walk, at, &record); at = record.end)
		count++;
	return count;
}

/* A short time counts on from the record before it; without the one in the hole it may mean another lap. */
static void drop_ambiguous(struct walk *walk, struct tf_recovery *recovery)
{
	struct tf_record record;
	size_t i;

	for (i = 1; i < recovery->kept_count; i++)
		if (!is_short_packet(walk) &&
		    !(read_record(walk, recovery->kept[i].begin, &record) && record.is_extended))
			break;
	for (size_t dropped = i; dropped < recovery->kept_count; dropped++)
		recovery->lost_count += count_records(walk, &recovery->kept[dropped]);
	if (recovery->kept_count > i)
		recovery->kept_count = i;
}

static bool recover(struct walk *walk, struct tf_recovery *recovery)
{
	const struct tf_damage_search *search = walk->search;
	struct tf_record record;
	uint64_t time = search->time_begin;
	size_t at = search->begin, end;

	while (at < search->prefix && read_next(walk, at, &time, &record))
		at = record.end;
	if (at != search->prefix)
		return false; /* the layouts are not those of these records */
	if (search->missing == 0) { /* only the packet header was not committed */
		*recovery = (struct tf_recovery){ .kept = { { search->begin, search->data_end } }, .kept_count = 1 };
		return reaches_end(walk, at, time);
	}
	for (int budget = 1; budget <= TF_LOST_MAX; budget++) {
		*recovery = (struct tf_recovery){ .kept_count = 0 };
		walk->steps = 0;
		if (!explain(walk, search->prefix, time, search->missing, budget, recovery, 1, &end))
			continue;
		recovery->kept[0] = (struct tf_segment){ search->begin, end };
		drop_ambiguous(walk, recovery);
		return true;
	}
	return false;
}

bool tf_records_recover(struct tf_record_layouts *layouts, const struct tf_damage_search *search,
			struct tf_recovery *recovery)
{
	struct walk walk = { .layouts = layouts, .search = search };
	bool is_recovered = false;

	if (search->begin > search->prefix || search->prefix > search->data_end)
		return false;
	walk.reaches_end = calloc(1, search->data_end + 1);
	if (!walk.reaches_end)
		return false;
	pthread_mutex_lock(&layouts->lock);
	if (layouts->context.is_known)
		is_recovered = recover(&walk, recovery);
	pthread_mutex_unlock(&layouts->lock);
	free(walk.reaches_end);
	return is_recovered;
}

/* With the lock held. The most whole records that can stand behind each other, with anything between them. */
static uint64_t count_at_most(struct walk *walk, uint32_t *counts)
{
	const struct tf_damage_search *search = walk->search;
	struct tf_record record;

	for (size_t at = search->data_end; at-- > search->prefix;) {
		counts[at] = counts[at + 1];
		if (read_record(walk, at, &record) && counts[record.end] + 1 > counts[at])
			counts[at] = counts[record.end] + 1;
	}
	return counts[search->prefix];
}

uint64_t tf_records_count_at_most(struct tf_record_layouts *layouts, const struct tf_damage_search *search)
{
	struct walk walk = { .layouts = layouts, .search = search };
	uint32_t *counts;
	uint64_t count = 0;

	if (search->prefix > search->data_end)
		return 0;
	counts = calloc(search->data_end + 1, sizeof(*counts));
	if (!counts)
		return 0;
	pthread_mutex_lock(&layouts->lock);
	if (layouts->context.is_known)
		count = count_at_most(&walk, counts);
	pthread_mutex_unlock(&layouts->lock);
	free(counts);
	return count;
}
