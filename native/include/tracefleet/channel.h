#ifndef TRACEFLEET_CHANNEL_H
#define TRACEFLEET_CHANNEL_H

/*
 * The ring buffers of one channel, one stream per possible CPU: made here, filled by applications, written to
 * the files of an output.
 *
 * Every function may be called from any thread. They return 0 or a negative errno unless they say otherwise;
 * -EBADF after tf_channel_close().
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tf_channel;
struct tf_output;

struct tf_channel_attributes {
	const char *name;
	uint32_t channel_id;
	uint8_t trace_uuid[16];
	bool is_overwrite;
	uint64_t sub_buffer_size;  /* bytes, a power of two, at least a page */
	uint64_t sub_buffer_count; /* a power of two, at least 2 in overwrite mode */
	uint32_t switch_timer_period_us;
	uint32_t read_timer_period_us;
	uint32_t live_timer_period_us; /* 0: none; otherwise instead of the switch timer, to a relay daemon */
	int64_t blocking_timeout_us;
	uint64_t trace_file_size;
	uint64_t trace_file_count;
	int32_t header_type; /* of event records: 1 compact, 2 large */
};

struct tf_stream_books {
	uint32_t cpu;
	uint64_t packet_count;
	uint64_t bytes;
	uint64_t discarded_event_count;
	uint64_t lost_packet_count;
	uint64_t unwritten_packet_count;
};

struct tf_channel_usage {
	uint64_t lowest, highest; /* unread bytes of a stream */
	uint64_t consumed;	  /* bytes, over all streams */
};

/* Once per process and before it has threads: signals, SIGBUS, the check of the ring buffer's layout. */
int tf_initialize(void);

/* True when the ring buffer's layout is the known one: jams are found at once, and can be repaired. */
bool tf_has_repair(void);
int tf_possible_cpu_count(void);
uint64_t tf_ring_buffer_size(uint64_t sub_buffer_size, uint64_t sub_buffer_count);

/*
 * Make the buffers and, with an @output (it keeps a reference), the files of every stream. NULL: nothing reads
 * the buffers. -ENOSPC with *@needed and *@available bytes set: /dev/shm is too small for them.
 */
int tf_channel_create(const struct tf_channel_attributes *attributes, struct tf_output *output,
		      struct tf_channel **out, uint64_t *needed, uint64_t *available);

/* Have the kernel put the buffers into large pages if it can: reading them then costs less. Any thread, any time. */
void tf_channel_join_pages(struct tf_channel *channel);

/*
 * What an application has to receive: the channel object (*@data is malloc'ed, the caller's) and descriptors,
 * @fd_count of them, the caller's too: the channel's wakeup descriptor, then (shared memory, wakeup) per
 * stream. From the first export on a hang-up is noticed when all copies of the first one are closed.
 */
int tf_channel_export(struct tf_channel *channel, int32_t *type, uint8_t **data, size_t *data_size, int *fds,
		      size_t fd_count);

/* @is_final: also packets without an event record, once until tf_channel_resume(). */
int tf_channel_flush(struct tf_channel *channel, bool is_final);
int tf_channel_resume(struct tf_channel *channel);

/*
 * Write every complete sub-buffer, for at most @deadline_ms. 1: all are written, through a fleet: acknowledged or
 * spooled; 0: a jam, an error or the time.
 */
int tf_channel_drain(struct tf_channel *channel, uint32_t deadline_ms);

/*
 * Complete the sub-buffers that wait for records which will never be committed. The caller knows that no living
 * writer is behind them: no writer was inside a probe after the flush, or, with @is_tracing, every writer has
 * left its probe since the JAMMED report. Returns how many were repaired; -ENOTSUP when the layout is unknown.
 */
int tf_channel_repair(struct tf_channel *channel, bool is_tracing);

/*
 * Say how the records of @event_id are laid out (-1: the fields that precede those of every event), so that a repair
 * can tell them apart; src/records.h has the form. Returns 0, -EINVAL or -ENOMEM. Also after the close.
 */
int tf_channel_set_record_layout(struct tf_channel *channel, int64_t event_id, const uint8_t *layout, size_t size);

/*
 * The output is a relay daemon: what it calls the streams, one after the other. Nothing is read before that. Returns 0
 * or a negative errno: -EINVAL for other outputs, or the second time.
 */
int tf_channel_set_relay_streams(struct tf_channel *channel, const uint64_t *handles, size_t count);
/* How many packets each stream has sent there. Also after the close. */
int tf_channel_relay_positions(struct tf_channel *channel, uint64_t *packet_counts, size_t count);

/*
 * The output is a fleet's: the streams' keys there, one after the other. Nothing is read before that. Returns 0 or a
 * negative errno: -EINVAL for other outputs, or the second time; -ENOENT, or -EBUSY for keys in use.
 */
int tf_channel_set_fleet_streams(struct tf_channel *channel, const uint32_t *keys, size_t count);

/* Fill @books, one per stream. */
int tf_channel_books(struct tf_channel *channel, struct tf_stream_books *books, size_t count);
int tf_channel_usage(struct tf_channel *channel, struct tf_channel_usage *usage);
/* The positive errno of the latest failing write, 0 when all is well. */
int tf_channel_error(struct tf_channel *channel);

/* Give up buffers and files; the books stay. The caller has taken it out of its pump. */
void tf_channel_close(struct tf_channel *channel);
void tf_channel_free(struct tf_channel *channel);

#endif
