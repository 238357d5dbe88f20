/*
 * spool PACKET_SIZE TOTAL_MIB DIRECTORY: what the spool costs. Packets go in, from memory that is shared; they are
 * found again as after a restart; and released one by one.
 */
#include <tracefleet/spool.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static void need(bool is_well, const char *what)
{
	if (is_well)
		return;
	perror(what);
	exit(1);
}

static double cpu_begin, begin;

static double cpu_seconds(void)
{
	struct rusage usage;

	getrusage(RUSAGE_SELF, &usage);
	return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
	       (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static double now_seconds(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static void start(void)
{
	cpu_begin = cpu_seconds();
	begin = now_seconds();
}

static void tell(const char *what, uint64_t size)
{
	const double time = now_seconds() - begin, cpu = cpu_seconds() - cpu_begin;

	printf("%-8s %8.0f MB/s  %.3f CPU s/GB\n", what, (double)size / 1e6 / time, cpu / ((double)size / 1e9));
}

int main(int argc, char **argv)
{
	const uint32_t size = argc == 4 ? (uint32_t)strtoul(argv[1], NULL, 0) : 0;
	const uint64_t count = size ? (strtoull(argv[2], NULL, 0) << 20) / size : 0;
	struct tf_fleet_header header = { .data_size = size, .packet_size = 8 * (uint64_t)size };
	/* As many buffers as do not fit into the processor's caches. */
	const size_t buffer_count = size ? (64u << 20) / size + 1 : 0;
	struct tf_spool_frame frame;
	struct tf_spool *spool;
	uint8_t *buffers;
	bool is_damaged;
	char path[4096];

	if (size == 0) {
		fprintf(stderr, "usage: spool PACKET_SIZE TOTAL_MIB DIRECTORY\n");
		return 2;
	}
	buffers = mmap(NULL, buffer_count * size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	need(buffers != MAP_FAILED, "mmap");
	memset(buffers, 0x5a, buffer_count * size);
	need(tf_spool_open(argv[3], UINT64_MAX, &spool, &is_damaged) == 0, "open");

	start();
	for (; header.sequence < count; header.sequence++)
		need(tf_spool_append(spool, &header, buffers + header.sequence % buffer_count * size) == 0, "append");
	tell("append", count * size);

	tf_spool_close(spool);
	start();
	need(tf_spool_open(argv[3], UINT64_MAX, &spool, &is_damaged) == 0 && !is_damaged, "open");
	tell("find", count * size);

	start();
	while (tf_spool_next(spool, &frame) == 1)
		need(tf_spool_release(spool, 0, frame.header.sequence) == 0, "release");
	tell("release", count * size);
	tf_spool_close(spool);
	snprintf(path, sizeof(path), "%s/frames", argv[3]);
	unlink(path);
	return 0;
}
