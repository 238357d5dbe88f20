#include "io.h"

#include <errno.h>
#include <unistd.h>

int tf_write_whole(int fd, const void *bytes, size_t size, off_t offset)
{
	const char *next = bytes;

	while (size > 0) {
		ssize_t written = pwrite(fd, next, size, offset);

		if (written < 0 && errno == EINTR)
			continue;
		if (written <= 0)
			return written < 0 ? -errno : -ENOSPC;
		next += written;
		offset += written;
		size -= (size_t)written;
	}
	return 0;
}

void tf_truncate(int fd, off_t size)
{
	int ret;

	do {
		ret = ftruncate(fd, size);
	} while (ret < 0 && errno == EINTR);
}
