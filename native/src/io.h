#ifndef TF_SRC_IO_H
#define TF_SRC_IO_H

#include <stddef.h>
#include <sys/types.h>

/* Write all of @size bytes at @offset. Returns 0 or a negative errno; then any part may have been written. */
int tf_write_whole(int fd, const void *bytes, size_t size, off_t offset);

/* Cut what a failed write left behind. It frees space, so only a damaged file system refuses; nothing to do then. */
void tf_truncate(int fd, off_t size);

#endif
