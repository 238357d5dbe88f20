#ifndef TF_SRC_RECORDS_H
#define TF_SRC_RECORDS_H

/*
 * Where event records begin and end: a repair walks them, nobody else needs to. Whoever knows the events of a
 * channel hands their layouts in, op by op (little-endian, no alignment):
 *
 *   01 u32 N                         N bytes
 *   02                               bytes up to a NUL
 *   03 u8 L, u8 is_big_endian, u32 E a length of L bytes, then so many elements of E bytes
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TF_CONTEXT_LAYOUT (-1) /* instead of an event id: the fields that precede those of every event */

struct tf_record_layouts;

/* @header_type: 1 compact, 2 large. NULL: no memory. */
struct tf_record_layouts *tf_record_layouts_create(int header_type);
void tf_record_layouts_free(struct tf_record_layouts *layouts);

/* Take the layout of @event_id over. Returns 0, -EINVAL (no layout, or no such id) or -ENOMEM. Any thread. */
int tf_record_layouts_set(struct tf_record_layouts *layouts, int64_t event_id, const uint8_t *ops, size_t size);

/* One record. */
struct tf_record {
	size_t begin, end;
	bool is_extended; /* its header has the whole time */
	uint64_t time;	  /* of no use for a short one in a packet that lasted longer than short times go */
};

/* What a repair has to find out; offsets in the packet. */
struct tf_damage_search {
	const uint8_t *bytes;
	size_t begin;	 /* the first record */
	size_t prefix;	 /* committed up to here, at least */
	size_t data_end; /* behind the last record */
	size_t missing;	 /* bytes between prefix and data_end that are not committed */
	uint64_t time_begin, time_end;
};

#define TF_LOST_MAX 16 /* more writers hardly die inside records of one sub-buffer */

struct tf_segment {
	size_t begin, end;
};

struct tf_recovery {
	struct tf_segment kept[TF_LOST_MAX + 1];
	size_t kept_count;
	uint64_t lost_count; /* in the holes, and behind them where a time would be read wrongly */
};

/*
 * Find the fewest holes that explain what is missing: all between them are whole records up to the last byte.
 * False: not with these layouts, or not with bearable effort.
 */
bool tf_records_recover(struct tf_record_layouts *layouts, const struct tf_damage_search *search,
			struct tf_recovery *recovery);
/* At most so many records begin behind the prefix: what to count when they cannot be told apart. 0: not known. */
uint64_t tf_records_count_at_most(struct tf_record_layouts *layouts, const struct tf_damage_search *search);
/* True when layouts were handed in. */
bool tf_record_layouts_are_known(struct tf_record_layouts *layouts);

#endif
