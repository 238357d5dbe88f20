#ifndef TRACEFLEET_SPOOL_H
#define TRACEFLEET_SPOOL_H

/*
 * Packets of one session that wait on this host's disk for their relay daemon: frames as they travel (fleet_frame.h),
 * with checksums of header and data, in the order in which they came. The handle in a frame is the sender's own number
 * of the stream (its key).
 *
 * One file, "frames", in a directory of its own that is the spool's alone. It grows at its end; what was acknowledged is
 * given back to the file system from its begin on. After a crash it is found again as it was written: frames up to the
 * first that is cut or damaged.
 *
 * Not safe for several threads at once.
 */

#include <tracefleet/fleet_frame.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct tf_spool;

/* A frame that is in the spool, its header in host order. */
struct tf_spool_frame {
	struct tf_fleet_header header;
	uint64_t offset; /* of its header, in the spool */
};

/* Handles are below it. */
#define TF_SPOOL_STREAM_COUNT_MAX (1u << 20)

/*
 * Open the spool in @directory, which exists, and find the frames that are in it: all of them are read. @size_limit:
 * bytes of disk that it may take; what is there already may be more. *@is_damaged: frames at the end were cut or
 * changed, and are dropped. Returns 0 or a negative errno: -EBUSY when somebody else has it open.
 */
int tf_spool_open(const char *directory, uint64_t size_limit, struct tf_spool **out, bool *is_damaged);
void tf_spool_close(struct tf_spool *spool);

/*
 * Append one packet. @header in host order, without magic and checksums, which are made here; @data is its data_size
 * bytes, and may be memory that vanishes (-EFAULT then; so this is not called under a guard, src/guard.h). All of it is
 * in the file on return, or nothing: -ENOSPC when the limit or the disk is reached, or another negative errno.
 *
 * Sequences of a stream only grow (-EINVAL otherwise). Where they jump, what was before is safe elsewhere.
 */
int tf_spool_append(struct tf_spool *spool, const struct tf_fleet_header *header, const void *data);

/* See that the device has all that was appended. 0 or a negative errno. */
int tf_spool_sync(struct tf_spool *spool);

/*
 * The frame after those that were read, without those that were released. 1: there is one; 0: no more; -EBADMSG: its
 * header is damaged; or another negative errno. Data is not looked at: it is checked when a spool is opened, and by who
 * receives it. tf_spool_rewind() begins again at the oldest that was not released.
 */
int tf_spool_next(struct tf_spool *spool, struct tf_spool_frame *frame);
void tf_spool_rewind(struct tf_spool *spool);

/*
 * Send @size bytes of the frame's data from @begin on, as sendfile(): how many went, or a negative errno. -EINVAL: the
 * spool has no such frame, or not any more.
 */
ssize_t tf_spool_send(struct tf_spool *spool, int fd, const struct tf_spool_frame *frame, uint32_t begin, uint32_t size);

/* The packet @sequence of the stream @handle and all before it in that stream are safe elsewhere. 0 or negative errno. */
int tf_spool_release(struct tf_spool *spool, uint64_t handle, uint64_t sequence);

struct tf_spool_books {
	uint64_t frame_count, byte_count; /* from the oldest that was not released on; headers included, padding not */
	uint64_t disk_size;		  /* bytes that it takes: what is released behind that one is not given back yet */
	uint64_t appended_count, released_count; /* frames, since it was opened; in front of that one */
};

void tf_spool_books(const struct tf_spool *spool, struct tf_spool_books *books);

/* One more than the highest handle that the spool ever saw. */
size_t tf_spool_stream_count(const struct tf_spool *spool);
/* The frames of the stream @handle that were not released; they are without a gap. False: none. */
bool tf_spool_range(const struct tf_spool *spool, uint64_t handle, uint64_t *oldest_sequence, uint64_t *next_sequence);

#endif
