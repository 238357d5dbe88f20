#ifndef TF_SRC_LAYOUT_H
#define TF_SRC_LAYOUT_H

/*
 * The ring buffer of one stream in shared memory, as liblttng-ust 2.13 lays it out (64-bit).
 *
 *   0            struct tf_shm_buffer        positions, references to the arrays below, lost record counts
 *   commit_hot   one tf_shm_commit_hot per sub-buffer    bytes committed, by every record
 *   commit_cold  one tf_shm_commit_cold per sub-buffer   bytes committed, by the delivery of a sub-buffer
 *   ts_end       one u64 per sub-buffer      time of the last reservation
 *   array        references to the tf_shm_pages, one more of them than sub-buffers
 *   memory_map   the sub-buffers, page aligned; one spare for the reader in overwrite mode
 *   pages        one tf_shm_pages per block of memory_map
 *   buf_wsb      one id per sub-buffer: which pages it uses now
 *   buf_cnt      one u64 per sub-buffer: how often it was delivered
 *
 * Positions count bytes from the creation on and never wrap in practice: position / buffer size is the lap,
 * position % buffer size the place. After lap n (from 0) a sub-buffer's commit counters stand at
 * (n + 1) * sub-buffer size. Every application that records can write all of this, so positions, counters and
 * ids are read once, then checked; the references are read once for all, before the buffer is given away.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TF_PACKET_HEADER_SIZE 84
#define TF_PACKET_MAGIC 0xC1FC1FC1u

/* The start of every sub-buffer, packed. */
struct tf_packet_header {
	uint32_t magic;
	uint8_t uuid[16];
	uint32_t stream_id;
	uint64_t stream_instance_id;
	uint64_t timestamp_begin;
	uint64_t timestamp_end;
	uint64_t content_size_bits;
	uint64_t packet_size_bits;
	uint64_t sequence_number;
	uint64_t events_discarded;
	uint32_t cpu;
} __attribute__((packed));

_Static_assert(sizeof(struct tf_packet_header) == TF_PACKET_HEADER_SIZE, "the tracer's packet header");

/* Where things are in the shared memory of one stream: byte offsets, checked against its size. */
struct tf_layout {
	size_t sub_buffer_size;
	size_t sub_buffer_count;
	bool is_overwrite;
	size_t commit_hot;
	size_t commit_cold;
	size_t ts_end;
	size_t pages;
	size_t memory_map;
	size_t buf_wsb;
	size_t buf_cnt;
};

/*
 * Read the layout of a buffer nobody else has yet. Returns 0, or -ENOTSUP when anything in it is not as it
 * would be in the version this was written for.
 */
int tf_layout_read(const uint8_t *map, size_t map_size, size_t sub_buffer_size, size_t sub_buffer_count,
		   bool is_overwrite, uint32_t cpu, struct tf_layout *out);

/* The size of the shared memory of one stream. */
size_t tf_layout_size(size_t sub_buffer_size, size_t sub_buffer_count);

/*
 * Check once per process, with private channels, that the library changes the fields named here when and as it
 * should. Returns 0, -ENOTSUP, or another negative errno when that could not be tried.
 */
int tf_layout_verify(void);

/* Fields. The words that writers change: loads acquire and stores release, pairing with the tracer's barriers. */
uint64_t tf_produced(const uint8_t *map);
uint64_t tf_consumed(const uint8_t *map);
/* Move the consumed position from @from to @to; false when somebody else moved it (overwrite mode). */
bool tf_consume(uint8_t *map, uint64_t from, uint64_t to);
uint64_t tf_lost_records(const uint8_t *map);
uint64_t *tf_commit_hot(const struct tf_layout *layout, uint8_t *map, size_t index);
uint64_t *tf_commit_hot_sequence(const struct tf_layout *layout, uint8_t *map, size_t index);
uint64_t *tf_commit_cold(const struct tf_layout *layout, uint8_t *map, size_t index);
uint64_t *tf_ts_end(const struct tf_layout *layout, uint8_t *map, size_t index);
uint64_t *tf_delivery_count(const struct tf_layout *layout, uint8_t *map, size_t index);
uint64_t *tf_sub_buffer_id(const struct tf_layout *layout, uint8_t *map, size_t index);
uint64_t *tf_data_size(const struct tf_layout *layout, uint8_t *map, size_t pages_index);

/* The pages that the id of a sub-buffer names, or -1 when no application of good will wrote that id. */
ptrdiff_t tf_pages_index(const struct tf_layout *layout, uint64_t id);
uint8_t *tf_pages(const struct tf_layout *layout, uint8_t *map, size_t pages_index);

static inline size_t tf_buffer_size(const struct tf_layout *layout)
{
	return layout->sub_buffer_size * layout->sub_buffer_count;
}

static inline size_t tf_sub_buffer_index(const struct tf_layout *layout, uint64_t position)
{
	return (size_t)(position / layout->sub_buffer_size % layout->sub_buffer_count);
}

/* What the commit counters of the sub-buffer at @position show before a record of this lap is committed. */
static inline uint64_t tf_commit_base(const struct tf_layout *layout, uint64_t position)
{
	return position / tf_buffer_size(layout) * layout->sub_buffer_size;
}

static inline uint64_t tf_sub_buffer_begin(const struct tf_layout *layout, uint64_t position)
{
	return position - position % layout->sub_buffer_size;
}

/* Overwrite mode: bits of a sub-buffer id. The lap is above them, the index of the pages below. */
#define TF_ID_NOREF (UINT64_C(1) << 32)
#define TF_ID_LAP_SHIFT 33

#endif
