#include "records.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#define EVENT_COUNT_MAX (1u << 20)
#define OP_COUNT_MAX 4096

enum op_kind { OP_BYTES = 1, OP_STRING = 2, OP_SEQUENCE = 3 };

struct op {
	enum op_kind kind;
	uint32_t size; /* of the bytes, or of an element */
	uint8_t length_size;
	bool is_big_endian;
};

struct layout {
	bool is_known, has_fixed_size;
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
					   .has_fixed_size = true,
					   .ops = fitted ? fitted : decoded,
					   .op_count = (size_t)count };
		for (int i = 0; i < count; i++)
			layout->has_fixed_size &= layout->ops[i].kind == OP_BYTES;
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

void tf_record_layouts_lock(struct tf_record_layouts *layouts)
{
	pthread_mutex_lock(&layouts->lock);
}

void tf_record_layouts_unlock(struct tf_record_layouts *layouts)
{
	pthread_mutex_unlock(&layouts->lock);
}

uint64_t tf_record_short_range(const struct tf_record_layouts *layouts)
{
	return layouts->header_type == 2 ? UINT64_C(1) << 32 : UINT64_C(1) << 27;
}

/* The offset behind the fields of @layout at @at, or 0. */
static size_t skip_fields(const struct layout *layout, const uint8_t *bytes, size_t at, size_t end)
{
	const uint8_t *nul;

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

bool tf_record_read(const struct tf_record_layouts *layouts, const uint8_t *bytes, size_t at, size_t end,
		    uint64_t earliest, uint64_t latest, struct tf_record *record)
{
	const bool is_large = layouts->header_type == 2;
	const size_t short_size = is_large ? 6 : 4, extended_size = is_large ? 14 : 13;
	uint32_t id, value;

	*record = (struct tf_record){ .begin = at };
	if (end - at < short_size)
		return false;
	memcpy(&value, bytes + at + (is_large ? 2 : 0), sizeof(value));
	id = is_large ? (uint32_t)(bytes[at] | bytes[at + 1] << 8) : value & 31;
	record->is_extended = id == (is_large ? UINT16_MAX : 31);
	if (record->is_extended) {
		if (end - at < extended_size)
			return false;
		id = read_u32(bytes + at + extended_size - 12);
		memcpy(&record->time, bytes + at + extended_size - 8, sizeof(record->time));
		record->fields = at + extended_size;
	} else {
		const uint64_t time = is_large ? value : value >> 5;

		/* Memory that nobody has written yet; it would be the first event, at one moment of all. */
		if (id == 0 && time == 0)
			return false;
		record->time = earliest + ((time - earliest) & (tf_record_short_range(layouts) - 1));
		record->fields = at + short_size;
	}
	if (record->time < earliest || record->time > latest || id >= layouts->event_count ||
	    !layouts->events[id].is_known)
		return false;
	record->has_header = true;
	record->has_fixed_size = layouts->context.has_fixed_size && layouts->events[id].has_fixed_size;
	record->end = skip_fields(&layouts->context, bytes, record->fields, end);
	if (record->end != 0)
		record->end = skip_fields(&layouts->events[id], bytes, record->end, end);
	return record->end != 0;
}
