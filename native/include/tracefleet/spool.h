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

/*
 * Open the spool in @directory, which exists, and find the frames that are in it. @size_limit: bytes of disk that it may
 * take; what is there already may be more. *@is_damaged: frames at the end were cut or changed, and are dropped.
 * Returns 0 or a negative errno: -EBUSY when another process has it open.
 */
int tf_spool_open(const char *directory, uint64_t size_limit, struct tf_spool **out, bool *is_damaged);
void tf_spool_close(struct tf_spool *spool);

/*
 * Append one packet. @header in host order, without magic and checksums, which are made here; @data is its data_size
 * bytes, and may be memory that vanishes (-EFAULT then). All of it is in the file on return, or nothing: -ENOSPC when
 * the limit or the disk is reached, or another negative errno.
 */
int tf_spool_append(struct tf_spool *spool, const struct tf_fleet_header *header, const void *data);

/* See that the device has all that was appended. 0 or a negative errno. */
int tf_spool_sync(struct tf_spool *spool);

/*
 * The frame after those that were read, and read it. 1: there is one; 0: no more; -EBADMSG: it is damaged; or another
 * negative errno. tf_spool_rewind() begins again at the oldest that was not released.
 */
int tf_spool_next(struct tf_spool *spool, struct tf_spool_frame *frame);
void tf_spool_rewind(struct tf_spool *spool);

/* Send @size bytes of the frame's data from @begin on; as sendfile(). */
ssize_t tf_spool_send(struct tf_spool *spool, int fd, const struct tf_spool_frame *frame, uint32_t begin, uint32_t size);

/* The packet @sequence of the stream @handle and all before it in that stream are safe elsewhere. 0 or negative errno. */
int tf_spool_release(struct tf_spool *spool, uint64_t handle, uint64_t sequence);

struct tf_spool_books {
	uint64_t frame_count, byte_count; /* not released, headers included */
	uint64_t disk_size;		  /* bytes that it takes */
	uint64_t appended_count, released_count; /* frames, since it was opened */
};

void tf_spool_books(const struct tf_spool *spool, struct tf_spool_books *books);

/* For what was found by tf_spool_open(): the frames of the stream @handle that are there. False: none. */
bool tf_spool_range(const struct tf_spool *spool, uint64_t handle, uint64_t *oldest_sequence, uint64_t *next_sequence);

#endif
