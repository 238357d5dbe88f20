#include "trace_file.h"

#include "clock.h"
#include "io.h"
#include "output.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#define INDEX_MAGIC 0xC1F1DCC1u
/* Below it a trip to the device costs more than a copy: measured, see README.md. */
#define DIRECT_SIZE_MIN (64 << 10)
/* A device slower than that (about 400 MB/s) is slower than the page cache by enough to pay for the copy. */
#define DIRECT_SLOW_US_PER_MIB 2500
/* Per stream: enough for a burst of a few dozen milliseconds at memory speed, little beside the ring buffers. */
#define CACHED_SIZE_MAX (32 << 20)
/* Writing out begins in the background for each of these, and is waited for when so much is ahead of it. */
#define CACHED_STEP_SIZE (1 << 20)
#define CACHED_WINDOW_SIZE (8 << 20)
#define CACHED_QUIET_MS 250

struct index_header {
	uint32_t magic, major, minor, entry_size;
};

struct index_entry { /* all big-endian; offset in bytes, sizes in bits */
	uint64_t offset, packet_size, content_size, timestamp_begin, timestamp_end;
	uint64_t events_discarded, stream_id, stream_instance_id, packet_seq_num;
};

_Static_assert(sizeof(struct index_header) == 16, "CTF index 1.1");
_Static_assert(sizeof(struct index_entry) == TF_INDEX_ENTRY_SIZE, "CTF index 1.1");

static int open_pair(struct tf_trace_file *file, uint64_t number)
{
	const struct index_header header = { htobe32(INDEX_MAGIC), htobe32(1), htobe32(1),
					     htobe32(TF_INDEX_ENTRY_SIZE) };
	char data_name[NAME_MAX + 1], index_name[NAME_MAX + 1];
	int size, data_fd, index_fd, ret;

	if (file->size_limit > 0)
		size = snprintf(data_name, sizeof(data_name), "%s_%" PRIu32 "_%" PRIu64, file->channel_name, file->cpu,
				number);
	else
		size = snprintf(data_name, sizeof(data_name), "%s_%" PRIu32, file->channel_name, file->cpu);
	if (size < 0 || (size_t)size >= sizeof(data_name) ||
	    (size_t)snprintf(index_name, sizeof(index_name), "%s.idx", data_name) >= sizeof(index_name))
		return -ENAMETOOLONG;
	data_fd = tf_output_create_file(file->output, NULL, data_name, O_WRONLY | O_DIRECT);
	if (data_fd < 0)
		return data_fd;
	index_fd = tf_output_create_file(file->output, "index", index_name, O_WRONLY);
	if (index_fd < 0) {
		ret = index_fd;
		goto err_data;
	}
	ret = tf_write_whole(index_fd, &header, sizeof(header), 0);
	if (ret < 0)
		goto err_index;
	tf_trace_file_close(file);
	file->number = number;
	file->data_fd = data_fd;
	file->index_fd = index_fd;
	file->data_size = 0;
	file->index_size = sizeof(header);
	file->has_direct = file->is_direct = fcntl(data_fd, F_GETFL) & O_DIRECT;
	file->cached_begin = file->started_end = 0;
	file->cached_size = 0;
	return 0;

err_index:
	close(index_fd);
err_data:
	close(data_fd);
	return ret;
}

int tf_trace_file_open(struct tf_trace_file *file, struct tf_output *output, const char *channel_name, uint32_t cpu,
		       uint32_t stream_id, uint64_t size_limit, uint64_t count_limit)
{
	*file = (struct tf_trace_file){ .output = output,
					.channel_name = channel_name,
					.cpu = cpu,
					.stream_id = stream_id,
					.size_limit = size_limit,
					.count_limit = count_limit,
					.data_fd = -1,
					.index_fd = -1 };
	return open_pair(file, 0);
}

void tf_trace_file_close(struct tf_trace_file *file)
{
	if (file->data_fd >= 0)
		close(file->data_fd);
	if (file->index_fd >= 0)
		close(file->index_fd);
	file->data_fd = file->index_fd = -1;
}

static void set_direct(struct tf_trace_file *file, bool is_direct)
{
	if (file->is_direct == is_direct)
		return;
	fcntl(file->data_fd, F_SETFL, O_WRONLY | (is_direct ? O_DIRECT : 0));
	file->is_direct = is_direct;
}

/* The device has what was cached up to @end, and the page cache may forget it. */
static void settle_cache(struct tf_trace_file *file, off_t end)
{
	const off_t size = end - file->cached_begin;

	if (size > 0) {
		sync_file_range(file->data_fd, file->cached_begin, size,
				SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE | SYNC_FILE_RANGE_WAIT_AFTER);
		posix_fadvise(file->data_fd, file->cached_begin, size, POSIX_FADV_DONTNEED);
	}
	file->cached_begin = end;
	file->cached_size = (size_t)(file->data_size - end);
	if (file->started_end < end)
		file->started_end = end;
}

/* Direct or through the page cache: how the next @size bytes go. */
static void choose_way(struct tf_trace_file *file, size_t size, bool is_urgent)
{
	const bool is_slow = file->direct_us_per_mib > DIRECT_SLOW_US_PER_MIB;
	const bool is_cached = !file->has_direct || size < DIRECT_SIZE_MIN ||
			       (is_urgent && is_slow && file->cached_size < CACHED_SIZE_MAX);

	set_direct(file, !is_cached);
	if (file->cached_size == 0) {
		file->cached_begin = file->started_end = file->data_size;
		return;
	}
	/* In a hurry there is no waiting; the limit above is what bounds it then. */
	if (is_urgent && file->has_direct)
		return;
	if (!is_cached && tf_now_ms() - file->cached_at_ms > CACHED_QUIET_MS)
		settle_cache(file, file->data_size);
	else if (is_cached && file->data_size - file->cached_begin > CACHED_WINDOW_SIZE)
		settle_cache(file, file->data_size - CACHED_WINDOW_SIZE / 2);
}

/* The latest write counts for a quarter: one that met a busy processor says little about the device. */
static void note_direct_speed(struct tf_trace_file *file, size_t size, uint64_t took_us)
{
	const uint64_t us_per_mib = took_us * (1 << 20) / size;

	file->direct_us_per_mib =
		file->direct_us_per_mib == 0 ? us_per_mib : (3 * file->direct_us_per_mib + us_per_mib) / 4;
}

static void note_written(struct tf_trace_file *file, size_t size, bool is_urgent)
{
	file->data_size += (off_t)size;
	if (file->is_direct)
		return;
	file->cached_size += size;
	file->cached_at_ms = tf_now_ms();
	/* To begin writing waits for room in a slow device's queue; what was cached in a hurry can wait instead. */
	if (!(is_urgent && file->has_direct) && file->data_size - file->started_end >= CACHED_STEP_SIZE) {
		sync_file_range(file->data_fd, file->started_end, file->data_size - file->started_end,
				SYNC_FILE_RANGE_WRITE);
		file->started_end = file->data_size;
	}
}

/* Write, taking a file system at its word when it cannot do direct I/O after all. Bytes written or -errno. */
static ssize_t write_data(struct tf_trace_file *file, const struct iovec *vector, int count)
{
	for (;;) {
		ssize_t written = pwritev(file->data_fd, vector, count, file->data_size);

		if (written >= 0)
			return written;
		if (errno == EINVAL && file->is_direct) {
			file->has_direct = false;
			set_direct(file, false);
		} else if (errno != EINTR) {
			return -errno;
		}
	}
}

static int write_index(struct tf_trace_file *file, const struct tf_packet *packets, int count)
{
	struct index_entry entries[TF_PACKETS_PER_WRITE];
	uint64_t offset = (uint64_t)file->data_size;
	int ret;

	for (int i = 0; i < count; i++) {
		entries[i] = (struct index_entry){ .offset = htobe64(offset),
						   .packet_size = htobe64(packets[i].size * 8),
						   .content_size = htobe64(packets[i].content_size_bits),
						   .timestamp_begin = htobe64(packets[i].timestamp_begin),
						   .timestamp_end = htobe64(packets[i].timestamp_end),
						   .events_discarded = htobe64(packets[i].events_discarded),
						   .stream_id = htobe64(file->stream_id),
						   .stream_instance_id = htobe64(file->cpu),
						   .packet_seq_num = htobe64(packets[i].sequence_number) };
		offset += packets[i].size;
	}
	ret = tf_write_whole(file->index_fd, entries, (size_t)count * sizeof(entries[0]), file->index_size);
	if (ret < 0)
		tf_truncate(file->index_fd, file->index_size);
	return ret;
}

/* How many packets fit into the file that is open. */
static int count_fitting(const struct tf_trace_file *file, const struct tf_packet *packets, int count)
{
	uint64_t size = (uint64_t)file->data_size;
	int i;

	if (file->size_limit == 0)
		return count;
	for (i = 0; i < count; i++) {
		size += packets[i].size;
		if (size > file->size_limit)
			break;
	}
	return i;
}

int tf_trace_file_write(struct tf_trace_file *file, const struct tf_packet *packets, int count, bool is_urgent)
{
	struct iovec vector[TF_PACKETS_PER_WRITE];
	size_t size = 0, whole = 0;
	uint64_t begin_us;
	ssize_t written;
	int ret, i;

	ret = count_fitting(file, packets, count);
	if (ret == 0) {
		const uint64_t next = file->number + 1;

		ret = open_pair(file, file->count_limit > 0 ? next % file->count_limit : next);
		if (ret < 0)
			return ret;
		/* A packet larger than the limit gets a file of its own. */
		ret = count_fitting(file, packets, count);
		if (ret == 0)
			ret = 1;
	}
	count = ret;
	for (i = 0; i < count; i++) {
		vector[i] = (struct iovec){ .iov_base = (void *)(uintptr_t)packets[i].bytes, .iov_len = packets[i].size };
		size += packets[i].size;
	}
	choose_way(file, size, is_urgent);
	begin_us = tf_now_us();
	written = write_data(file, vector, count);
	if (written > 0 && file->is_direct)
		note_direct_speed(file, (size_t)written, tf_now_us() - begin_us);
	if (written < 0) {
		tf_truncate(file->data_fd, file->data_size);
		return (int)written;
	}
	for (i = 0; i < count && whole + packets[i].size <= (size_t)written; i++)
		whole += packets[i].size;
	if (whole < (size_t)written)
		tf_truncate(file->data_fd, file->data_size + (off_t)whole);
	if (i == 0)
		return -ENOSPC; /* a short write says no more than that; the next attempt tells the cause */
	ret = write_index(file, packets, i);
	if (ret < 0) {
		tf_truncate(file->data_fd, file->data_size);
		return ret;
	}
	file->index_size += (off_t)((size_t)i * TF_INDEX_ENTRY_SIZE);
	note_written(file, whole, is_urgent);
	return i;
}
