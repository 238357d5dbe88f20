#include "shared_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define DIRECTORY "/dev/shm"

int tf_shared_memory_open(void)
{
	static unsigned int counter; /* atomic */
	char name[64];
	int fd = open(DIRECTORY, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

	if (fd >= 0)
		return fd;
	if (errno != EOPNOTSUPP && errno != EISDIR)
		return -errno;
	/* A file system without nameless files there: a name for a moment. */
	snprintf(name, sizeof(name), "/tracefleet-%d-%u", (int)getpid(),
		 __atomic_fetch_add(&counter, 1, __ATOMIC_RELAXED));
	fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	shm_unlink(name);
	return fd;
}

int tf_shared_memory_available(uint64_t *available)
{
	struct statvfs file_system;

	if (statvfs(DIRECTORY, &file_system) < 0)
		return -errno;
	/* No block count: a tmpfs without a limit of its own. */
	*available = file_system.f_blocks == 0 ? UINT64_MAX
					       : (uint64_t)file_system.f_bavail * (uint64_t)file_system.f_frsize;
	return 0;
}
