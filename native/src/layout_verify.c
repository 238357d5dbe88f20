#include "layout.h"

#include <errno.h>
#include <string.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <lttng/ust-ctl.h>

#define CHANNEL_ID 0x7f5a
#define SUB_BUFFER_COUNT 2
#define LOST_RECORDS 6

/* One stream of a channel that nobody writes to; final flushes fill it with empty packets. */
struct trial {
	struct lttng_ust_ctl_consumer_stream *stream;
	uint8_t *map;
	struct tf_layout layout;
};

/* What the fields must say after @flush_count final flushes, of which @read_count packets were read. */
static bool is_as_expected(const struct trial *trial, uint64_t flush_count, uint64_t read_count, bool is_fresh)
{
	const struct tf_layout *layout = &trial->layout;
	const uint64_t size = layout->sub_buffer_size;

	if (tf_produced(trial->map) != flush_count * size + (is_fresh ? TF_PACKET_HEADER_SIZE : 0) ||
	    tf_consumed(trial->map) != read_count * size)
		return false;
	for (uint64_t n = flush_count < SUB_BUFFER_COUNT ? 0 : flush_count - SUB_BUFFER_COUNT; n < flush_count; n++) {
		const size_t index = tf_sub_buffer_index(layout, n * size);
		const uint64_t committed = tf_commit_base(layout, n * size) + size;
		const uint64_t id = *tf_sub_buffer_id(layout, trial->map, index);
		const ptrdiff_t pages = tf_pages_index(layout, id);
		struct tf_packet_header header;

		if (pages < 0 || (layout->is_overwrite && (!(id & TF_ID_NOREF) ||
							   id >> TF_ID_LAP_SHIFT != n / SUB_BUFFER_COUNT)))
			return false;
		memcpy(&header, tf_pages(layout, trial->map, (size_t)pages), sizeof(header));
		if (*tf_commit_hot(layout, trial->map, index) != committed ||
		    *tf_commit_hot_sequence(layout, trial->map, index) != committed ||
		    *tf_commit_cold(layout, trial->map, index) != committed ||
		    *tf_delivery_count(layout, trial->map, index) != n / SUB_BUFFER_COUNT + 1 ||
		    *tf_data_size(layout, trial->map, (size_t)pages) != TF_PACKET_HEADER_SIZE ||
		    *tf_ts_end(layout, trial->map, index) != header.timestamp_end || header.timestamp_end == 0 ||
		    header.magic != TF_PACKET_MAGIC || header.stream_id != CHANNEL_ID ||
		    header.content_size_bits != TF_PACKET_HEADER_SIZE * 8 || header.sequence_number != n ||
		    header.events_discarded != (n == 0 ? 0 : LOST_RECORDS))
			return false;
	}
	return true;
}

static bool read_packet(const struct trial *trial)
{
	return lttng_ust_ctl_get_next_subbuf(trial->stream) == 0 && lttng_ust_ctl_put_next_subbuf(trial->stream) == 0;
}

/* Fill, wrap around, and compare at each step. */
static int run_trial(const struct trial *trial)
{
	const uint64_t before = tf_lost_records(trial->map);
	uint64_t *lost = (void *)(trial->map + 392);

	if (!is_as_expected(trial, 0, 0, true) || before != 0)
		return -ENOTSUP;
	if (lttng_ust_ctl_flush_buffer(trial->stream, 0) < 0 || !is_as_expected(trial, 1, 0, false))
		return -ENOTSUP;
	/* What these three counters are for shows in the header of the next packet. */
	lost[0] = 1;
	lost[1] = 2;
	lost[2] = 3;
	if (tf_lost_records(trial->map) != LOST_RECORDS)
		return -ENOTSUP;
	if (lttng_ust_ctl_flush_buffer(trial->stream, 0) < 0 || !is_as_expected(trial, 2, 0, false))
		return -ENOTSUP;
	if (!read_packet(trial))
		return -ENOTSUP;
	if (tf_consumed(trial->map) != trial->layout.sub_buffer_size)
		return -ENOTSUP;
	if (lttng_ust_ctl_flush_buffer(trial->stream, 0) < 0 || !is_as_expected(trial, 3, 1, false))
		return -ENOTSUP;
	return 0;
}

static int try_stream(struct lttng_ust_ctl_consumer_channel *channel, int shm_fd, size_t sub_buffer_size,
		      bool is_overwrite)
{
	struct trial trial = { 0 };
	struct stat status;
	int ret;

	if (fstat(shm_fd, &status) < 0)
		return -errno;
	trial.map = mmap(NULL, (size_t)status.st_size, PROT_READ | PROT_WRITE, MAP_SHARED, shm_fd, 0);
	if (trial.map == MAP_FAILED)
		return -errno;
	ret = tf_layout_read(trial.map, (size_t)status.st_size, sub_buffer_size, SUB_BUFFER_COUNT, is_overwrite, 0,
			     &trial.layout);
	if (ret < 0)
		goto out;
	trial.stream = lttng_ust_ctl_create_stream(channel, 0);
	if (!trial.stream) {
		ret = -ENOMEM;
		goto out;
	}
	ret = run_trial(&trial);
	lttng_ust_ctl_destroy_stream(trial.stream);
out:
	munmap(trial.map, (size_t)status.st_size);
	return ret;
}

static int try_channel(bool is_overwrite)
{
	const size_t sub_buffer_size = (size_t)sysconf(_SC_PAGESIZE);
	const int count = lttng_ust_ctl_get_nr_stream_per_channel();
	struct lttng_ust_ctl_consumer_channel_attr attributes = { .type = LTTNG_UST_ABI_CHAN_PER_CPU,
								  .subbuf_size = sub_buffer_size,
								  .num_subbuf = SUB_BUFFER_COUNT,
								  .overwrite = is_overwrite,
								  .output = LTTNG_UST_ABI_MMAP,
								  .chan_id = CHANNEL_ID };
	struct lttng_ust_ctl_consumer_channel *channel = NULL;
	int opened = 0, ret = 0, *fds;

	fds = calloc((size_t)count, sizeof(*fds));
	if (!fds)
		return -ENOMEM;
	while (opened < count && ret == 0) {
		/* Private memory: /dev/shm may be full, and nobody else is to have it. */
		fds[opened] = memfd_create("tracefleet-layout", MFD_CLOEXEC);
		if (fds[opened] < 0)
			ret = -errno;
		else
			opened++;
	}
	if (ret == 0) {
		channel = lttng_ust_ctl_create_channel(&attributes, fds, count);
		ret = channel ? try_stream(channel, fds[0], sub_buffer_size, is_overwrite) : -ENOTSUP;
	}
	if (channel)
		lttng_ust_ctl_destroy_channel(channel);
	while (opened > 0)
		close(fds[--opened]);
	free(fds);
	return ret;
}

int tf_layout_verify(void)
{
	const int ret = try_channel(false);

	return ret < 0 ? ret : try_channel(true);
}
