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
/* True when layouts were handed in. Any thread. */
bool tf_record_layouts_are_known(struct tf_record_layouts *layouts);

/* Nobody sets layouts meanwhile; for those who read records. */
void tf_record_layouts_lock(struct tf_record_layouts *layouts);
void tf_record_layouts_unlock(struct tf_record_layouts *layouts);

/* One record, offsets in the packet. */
struct tf_record {
	size_t begin, fields, end; /* end: 0 when the fields do not end within the packet */
	uint64_t time;
	bool has_header;    /* there is a header, of a known event and at a possible time */
	bool is_extended;    /* its header has the whole time, not one that counts on from the record before */
	bool has_fixed_size; /* whatever its fields say */
};

/* The time that a short event header spans. */
uint64_t tf_record_short_range(const struct tf_record_layouts *layouts);

/*
 * True when a whole record of a known event stands at @at, with a time from @earliest (the record's before it) to
 * @latest, and ends at @end or before. With the lock held.
 */
bool tf_record_read(const struct tf_record_layouts *layouts, const uint8_t *bytes, size_t at, size_t end,
		    uint64_t earliest, uint64_t latest, struct tf_record *record);

#endif
