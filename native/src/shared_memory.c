#include "shared_memory.h"

#include "clock.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define DIRECTORY "/dev/shm"
#define LARGE_PAGE_SIZE ((size_t)2 << 20)
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1 */
#endif

/* Somebody waits: where the kernel has to look for large pages, small ones do until there is time. */
#define JOINING_TIME_MS 3

static int open_nameless(void)
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

/* Have every large page joined that lies in the first @size bytes; @function does one of them. */
static void for_each_large_page(int fd, size_t size, bool (*function)(int fd, uint8_t *page, off_t offset, void *data),
				void *data)
{
	const size_t length = size / LARGE_PAGE_SIZE * LARGE_PAGE_SIZE;
	uint8_t *space, *begin;

	if (length == 0)
		return;
	/* Pages are joined only where the address is as round as the offset in the file. */
	space = mmap(NULL, length + LARGE_PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (space == MAP_FAILED)
		return;
	begin = space + (-(uintptr_t)space & (LARGE_PAGE_SIZE - 1));
	if (mmap(begin, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0) != MAP_FAILED)
		for (size_t at = 0; at < length && function(fd, begin + at, (off_t)at, data); at += LARGE_PAGE_SIZE)
			;
	munmap(space, length + LARGE_PAGE_SIZE);
}

static bool make_page(int fd, uint8_t *page, off_t offset, void *data)
{
	const uint64_t *end_ms = data;

	/* Nothing is joined where nothing is. */
	return pwrite(fd, "", 1, offset) == 1 && madvise(page, LARGE_PAGE_SIZE, MADV_COLLAPSE) == 0 &&
	       tf_now_ms() < *end_ms;
}

int tf_shared_memory_open(size_t size)
{
	uint64_t end_ms = tf_now_ms() + JOINING_TIME_MS;
	const int fd = open_nameless();
	int ret = 0;

	if (fd < 0)
		return fd;
	if (ftruncate(fd, (off_t)size) < 0)
		ret = -errno;
	if (ret == 0)
		for_each_large_page(fd, size, make_page, &end_ms);
	if (ret == 0 && fallocate(fd, 0, 0, (off_t)size) < 0 && errno != EOPNOTSUPP && errno != EINTR)
		ret = -errno;
	if (ret < 0)
		close(fd);
	return ret < 0 ? ret : fd;
}

static bool join_page(int fd, uint8_t *page, off_t offset, void *data)
{
	(void)fd;
	(void)offset;
	(void)data;
	madvise(page, LARGE_PAGE_SIZE, MADV_COLLAPSE);
	return true;
}

void tf_shared_memory_join_pages(int fd, size_t size)
{
	for_each_large_page(fd, size, join_page, NULL);
}
