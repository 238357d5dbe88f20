#ifndef TF_SRC_RECOVERY_H
#define TF_SRC_RECOVERY_H

/*
 * Which records of a packet are whole, when some of its writers died inside theirs. The records' slots follow each
 * other without a gap, and how many bytes of them were never committed is known:
 *
 *   | whole | whole | dead | whole | dead | whole |    the dead ones' sizes add up to the missing bytes
 *
 * A dead writer may have written its record to the end: then it looks as whole as the others, and only the sum
 * tells. Or it left a record that is broken: then the walk from record to record comes to something that is
 * none, and goes on where records begin again. The likeliest explanation is the one with the fewest dead writers.
 */

#include "records.h"

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
	uint64_t lost_count; /* the dead, and those whose time would be read wrongly without them */
};

/* False: nothing explains what is missing, or not with bearable effort. */
bool tf_records_recover(struct tf_record_layouts *layouts, const struct tf_damage_search *search,
			struct tf_recovery *recovery);

/* At most so many records begin behind the prefix: what to count when they cannot be told apart. 0: not known. */
uint64_t tf_records_count_at_most(struct tf_record_layouts *layouts, const struct tf_damage_search *search);

#endif
