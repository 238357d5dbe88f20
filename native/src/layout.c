#include "layout.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define CACHE_LINE_SIZE 128

struct tf_shm_reference {
	int64_t object; /* in the table of the process: 0 the channel, then one per stream */
	int64_t offset;
};

/* Published by the library itself, for the reader of a crash dump. */
struct tf_shm_crash_record {
	uint8_t magic[16];
	uint64_t map_size;
	uint16_t endian, major, minor;
	uint8_t word_size, layout_type;
	uint32_t produced, consumed, commit_hot, commit_hot_sequence, buf_wsb, buf_wsb_id;
	uint32_t array, array_offset, pages_offset, content_size, packet_size;
	uint8_t lengths[8];
	uint32_t commit_hot_stride, buf_wsb_stride, array_stride;
	uint64_t buffer_size, sub_buffer_size, sub_buffer_count;
	uint32_t mode; /* 0 overwrite, 1 discard */
} __attribute__((packed));

struct tf_shm_buffer {
	struct tf_shm_crash_record crash;
	uint64_t produced __attribute__((aligned(32)));
	struct tf_shm_reference commit_hot;
	uint64_t consumed;
	uint32_t record_disabled, padding_1;
	uint64_t last_timestamp;
	struct tf_shm_reference buf_wsb;
	uint64_t reader_id;
	struct tf_shm_reference buf_cnt;
	struct tf_shm_reference array;
	struct tf_shm_reference memory_map;
	struct tf_shm_reference channel;
	int32_t cpu, padding_2;
	uint64_t records_read;
	uint32_t is_allocated;
	uint8_t padding_3[68];
	struct tf_shm_reference commit_cold;
	struct tf_shm_reference ts_end;
	uint64_t active_reader_count;
	uint64_t lost_full, lost_wrap, lost_big;
	uint8_t padding_4[224];
};

struct tf_shm_commit_hot {
	uint64_t committed;
	uint64_t sequence;
	uint8_t padding[CACHE_LINE_SIZE - 16];
};

struct tf_shm_commit_cold {
	uint64_t committed;
	uint8_t padding[CACHE_LINE_SIZE - 8];
};

struct tf_shm_pages {
	uint64_t map_offset; /* from memory_map */
	uint64_t records_committed, records_unread;
	uint64_t data_size;
	struct tf_shm_reference bytes;
	uint8_t padding[16];
};

_Static_assert(sizeof(struct tf_shm_crash_record) == 124, "the tracer's struct lttng_crash_abi");
_Static_assert(offsetof(struct tf_shm_buffer, produced) == 128, "the tracer's ring buffer");
_Static_assert(offsetof(struct tf_shm_buffer, commit_cold) == 352, "the tracer's ring buffer");
_Static_assert(offsetof(struct tf_shm_buffer, lost_full) == 392, "the tracer's ring buffer");
_Static_assert(sizeof(struct tf_shm_buffer) == 640, "the tracer's ring buffer");
_Static_assert(sizeof(struct tf_shm_commit_hot) == CACHE_LINE_SIZE, "the tracer's commit counters");
_Static_assert(sizeof(struct tf_shm_commit_cold) == CACHE_LINE_SIZE, "the tracer's commit counters");
_Static_assert(sizeof(struct tf_shm_pages) == 64, "the tracer's backend pages");

static const uint8_t crash_magic[16] = { 0x17, 0x7B, 0xF1, 0x77, 0xBF, 0x17, 0x7B, 0xF1,
					 0x77, 0xBF, 0x17, 0x7B, 0xF1, 0x77, 0xBF, 0x17 };

static size_t align_up(size_t value, size_t alignment)
{
	return (value + alignment - 1) / alignment * alignment;
}

size_t tf_layout_size(size_t sub_buffer_size, size_t sub_buffer_count)
{
	const size_t block_count = sub_buffer_count + 1; /* reserved in both modes */
	size_t size = sizeof(struct tf_shm_buffer);

	size += (sizeof(struct tf_shm_commit_hot) + sizeof(struct tf_shm_commit_cold)) * sub_buffer_count;
	size += sizeof(uint64_t) * sub_buffer_count;
	size += sizeof(struct tf_shm_reference) * block_count;
	size = align_up(size, (size_t)sysconf(_SC_PAGESIZE));
	size += sub_buffer_size * block_count;
	size += sizeof(struct tf_shm_pages) * block_count;
	size += 2 * sizeof(uint64_t) * sub_buffer_count;
	return size;
}

/* A reference into this stream's object, with room for @size bytes behind it; 0 (never valid) otherwise. */
static size_t offset_of(const struct tf_shm_reference *reference, uint32_t cpu, size_t size, size_t map_size)
{
	if (reference->object != (int64_t)cpu + 1 || reference->offset <= 0)
		return 0;
	if ((uint64_t)reference->offset > map_size || map_size - (size_t)reference->offset < size)
		return 0;
	return (size_t)reference->offset;
}

static bool is_known_crash_record(const struct tf_shm_crash_record *crash, size_t map_size,
				  const struct tf_layout *layout)
{
	return memcmp(crash->magic, crash_magic, sizeof(crash_magic)) == 0 && crash->map_size == map_size &&
	       crash->endian == 0x1234 && crash->major == 0 && crash->minor == 0 && crash->word_size == 8 &&
	       crash->layout_type == 0 && crash->produced == offsetof(struct tf_shm_buffer, produced) &&
	       crash->consumed == offsetof(struct tf_shm_buffer, consumed) &&
	       crash->commit_hot == layout->commit_hot && crash->commit_hot_sequence == 8 &&
	       crash->buf_wsb == layout->buf_wsb && crash->buf_wsb_id == 0 &&
	       crash->content_size == offsetof(struct tf_packet_header, content_size_bits) &&
	       crash->packet_size == offsetof(struct tf_packet_header, packet_size_bits) &&
	       crash->commit_hot_stride == sizeof(struct tf_shm_commit_hot) &&
	       crash->buf_wsb_stride == sizeof(uint64_t) && crash->buffer_size == tf_buffer_size(layout) &&
	       crash->sub_buffer_size == layout->sub_buffer_size &&
	       crash->sub_buffer_count == layout->sub_buffer_count && crash->mode == !layout->is_overwrite;
}

/* The pages lie one behind the other, each naming its block of the memory map. */
static bool are_known_pages(const uint8_t *map, size_t map_size, size_t array, uint32_t cpu, struct tf_layout *layout)
{
	const size_t block_count = layout->sub_buffer_count + layout->is_overwrite;

	for (size_t i = 0; i < block_count; i++) {
		struct tf_shm_reference reference;
		struct tf_shm_pages pages;
		size_t offset;

		memcpy(&reference, map + array + i * sizeof(reference), sizeof(reference));
		offset = offset_of(&reference, cpu, sizeof(pages), map_size);
		if (i == 0)
			layout->pages = offset;
		if (offset == 0 || offset != layout->pages + i * sizeof(pages))
			return false;
		memcpy(&pages, map + offset, sizeof(pages));
		if (pages.map_offset != i * layout->sub_buffer_size || pages.bytes.object != (int64_t)cpu + 1 ||
		    (uint64_t)pages.bytes.offset != layout->memory_map + i * layout->sub_buffer_size)
			return false;
	}
	return true;
}

int tf_layout_read(const uint8_t *map, size_t map_size, size_t sub_buffer_size, size_t sub_buffer_count,
		   bool is_overwrite, uint32_t cpu, struct tf_layout *out)
{
	const size_t block_count = sub_buffer_count + is_overwrite;
	const struct tf_shm_buffer *buffer = (const void *)map;
	struct tf_layout layout = { .sub_buffer_size = sub_buffer_size,
				    .sub_buffer_count = sub_buffer_count,
				    .is_overwrite = is_overwrite };
	size_t array;

	if (map_size < sizeof(*buffer) || map_size != tf_layout_size(sub_buffer_size, sub_buffer_count))
		return -ENOTSUP;
	layout.commit_hot = offset_of(&buffer->commit_hot, cpu, sizeof(struct tf_shm_commit_hot) * sub_buffer_count,
				      map_size);
	layout.commit_cold = offset_of(&buffer->commit_cold, cpu,
				       sizeof(struct tf_shm_commit_cold) * sub_buffer_count, map_size);
	layout.ts_end = offset_of(&buffer->ts_end, cpu, sizeof(uint64_t) * sub_buffer_count, map_size);
	layout.memory_map = offset_of(&buffer->memory_map, cpu, sub_buffer_size * block_count, map_size);
	layout.buf_wsb = offset_of(&buffer->buf_wsb, cpu, sizeof(uint64_t) * sub_buffer_count, map_size);
	layout.buf_cnt = offset_of(&buffer->buf_cnt, cpu, sizeof(uint64_t) * sub_buffer_count, map_size);
	array = offset_of(&buffer->array, cpu, sizeof(struct tf_shm_reference) * block_count, map_size);
	if (!layout.commit_hot || !layout.commit_cold || !layout.ts_end || !layout.memory_map || !layout.buf_wsb ||
	    !layout.buf_cnt || !array || buffer->cpu != (int32_t)cpu)
		return -ENOTSUP;
	if (layout.memory_map % (size_t)sysconf(_SC_PAGESIZE) != 0)
		return -ENOTSUP;
	if (!is_known_crash_record(&buffer->crash, map_size, &layout) ||
	    !are_known_pages(map, map_size, array, cpu, &layout))
		return -ENOTSUP;
	*out = layout;
	return 0;
}

uint64_t tf_produced(const uint8_t *map)
{
	return __atomic_load_n(&((const struct tf_shm_buffer *)(const void *)map)->produced, __ATOMIC_ACQUIRE);
}

uint64_t tf_consumed(const uint8_t *map)
{
	return __atomic_load_n(&((const struct tf_shm_buffer *)(const void *)map)->consumed, __ATOMIC_ACQUIRE);
}

bool tf_consume(uint8_t *map, uint64_t from, uint64_t to)
{
	/* Pairs with the writer's read of it before it enters a sub-buffer: our reads of the packet come first. */
	return __atomic_compare_exchange_n(&((struct tf_shm_buffer *)(void *)map)->consumed, &from, to, false,
					   __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
}

uint64_t tf_lost_records(const uint8_t *map)
{
	const struct tf_shm_buffer *buffer = (const void *)map;

	return __atomic_load_n(&buffer->lost_full, __ATOMIC_RELAXED) +
	       __atomic_load_n(&buffer->lost_wrap, __ATOMIC_RELAXED) +
	       __atomic_load_n(&buffer->lost_big, __ATOMIC_RELAXED);
}

uint64_t *tf_commit_hot(const struct tf_layout *layout, uint8_t *map, size_t index)
{
	return (void *)(map + layout->commit_hot + index * sizeof(struct tf_shm_commit_hot));
}

uint64_t *tf_commit_hot_sequence(const struct tf_layout *layout, uint8_t *map, size_t index)
{
	return tf_commit_hot(layout, map, index) + 1;
}

uint64_t *tf_commit_cold(const struct tf_layout *layout, uint8_t *map, size_t index)
{
	return (void *)(map + layout->commit_cold + index * sizeof(struct tf_shm_commit_cold));
}

uint64_t *tf_ts_end(const struct tf_layout *layout, uint8_t *map, size_t index)
{
	return (void *)(map + layout->ts_end + index * sizeof(uint64_t));
}

uint64_t *tf_delivery_count(const struct tf_layout *layout, uint8_t *map, size_t index)
{
	return (void *)(map + layout->buf_cnt + index * sizeof(uint64_t));
}

uint64_t *tf_sub_buffer_id(const struct tf_layout *layout, uint8_t *map, size_t index)
{
	return (void *)(map + layout->buf_wsb + index * sizeof(uint64_t));
}

uint64_t *tf_data_size(const struct tf_layout *layout, uint8_t *map, size_t pages_index)
{
	return (void *)(map + layout->pages + pages_index * sizeof(struct tf_shm_pages) +
			offsetof(struct tf_shm_pages, data_size));
}

ptrdiff_t tf_pages_index(const struct tf_layout *layout, uint64_t id)
{
	const uint64_t index = layout->is_overwrite ? id & (TF_ID_NOREF - 1) : id;

	return index < layout->sub_buffer_count + layout->is_overwrite ? (ptrdiff_t)index : -1;
}

uint8_t *tf_pages(const struct tf_layout *layout, uint8_t *map, size_t pages_index)
{
	return map + layout->memory_map + pages_index * layout->sub_buffer_size;
}
