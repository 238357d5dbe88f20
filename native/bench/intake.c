/*
 * intake PACKET_SIZE TOTAL_MIB DIRECTORY [CONNECTIONS]: CPU seconds per GB of an intake, fed over loopback by another
 * process. Every connection has a stream and a file, which begins anew at 256 MiB.
 */
#include <tracefleet/intake.h>

#include <arpa/inet.h>
#include <endian.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CONNECTION_COUNT_MAX 64

static void need(bool is_well, const char *what)
{
	if (is_well)
		return;
	perror(what);
	exit(1);
}

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

/* The process that feeds: packets of all connections by turns. */
static void feed(const struct sockaddr_in *address, int count, uint32_t packet_size, uint64_t packet_count)
{
	uint8_t *bytes = malloc(32 + packet_size);
	int fds[CONNECTION_COUNT_MAX];

	need(bytes, "malloc");
	memset(bytes, 7, 32 + packet_size);
	for (int i = 0; i < count; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM, 0);
		need(connect(fds[i], (const struct sockaddr *)address, sizeof(*address)) == 0, "connect");
	}
	for (uint64_t packet = 0; packet < packet_count; packet++) {
		const uint64_t numbers[3] = { 0, htobe64(packet % (uint64_t)count), htobe64(packet / (uint64_t)count) };
		const uint32_t sizes[2] = { htobe32(packet_size), 0 };

		memcpy(bytes, numbers, sizeof(numbers));
		memcpy(bytes + 24, sizes, sizeof(sizes));
		for (size_t sent = 0; sent < 32 + (size_t)packet_size;) {
			const ssize_t part = send(fds[packet % (uint64_t)count], bytes + sent, 32 + packet_size - sent, 0);

			need(part > 0, "send");
			sent += (size_t)part;
		}
	}
	exit(0);
}

static void set_target(struct tf_intake *intake, uint64_t handle, const char *directory)
{
	struct tf_intake_target target = { .size_limit = 256 << 20, .stop_net_seq = TF_INTAKE_NO_STOP, .index_fd = -1 };
	char path[4096];

	snprintf(path, sizeof(path), "%s/intake-bench-%d", directory, (int)handle);
	target.fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	need(target.fd >= 0, path);
	need(tf_intake_set_target(intake, handle, &target) == 0, "tf_intake_set_target");
	unlink(path); /* what was written is gone with the program */
}

int main(int argc, char **argv)
{
	const uint32_t packet_size = argc > 3 ? (uint32_t)atol(argv[1]) : 0;
	const uint64_t packet_count = packet_size ? ((uint64_t)atol(argv[2]) << 20) / packet_size : 0;
	const int count = argc > 4 ? atoi(argv[4]) : 1;
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct tf_intake_report reports[256];
	socklen_t size = sizeof(address);
	struct tf_intake *intake;
	uint64_t arrived = 0;
	double cpu, begin;
	int listener;
	pid_t child;

	if (packet_count == 0 || count < 1 || count > CONNECTION_COUNT_MAX) {
		fprintf(stderr, "usage: intake PACKET_SIZE TOTAL_MIB DIRECTORY [CONNECTIONS]\n");
		return 2;
	}
	listener = socket(AF_INET, SOCK_STREAM, 0);
	need(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, count) == 0, "listen");
	need(getsockname(listener, (struct sockaddr *)&address, &size) == 0, "getsockname");
	child = fork();
	need(child >= 0, "fork");
	if (child == 0)
		feed(&address, count, packet_size, packet_count);
	need(tf_intake_create(0, &intake) == 0, "tf_intake_create");
	for (int i = 0; i < count; i++)
		set_target(intake, (uint64_t)i, argv[3]);
	cpu = cpu_seconds();
	begin = now_seconds();
	for (int i = 0; i < count; i++)
		need(tf_intake_add(intake, accept(listener, NULL, NULL), (uint64_t)i, TF_INTAKE_LTTNG) == 0, "tf_intake_add");
	while (arrived < packet_count) {
		const int taken = tf_intake_wait(intake, -1, reports, 256);

		for (int i = 0; i < taken; i++) {
			if (reports[i].kind == TF_INTAKE_HOLD) {
				need(reports[i].reason == TF_INTAKE_FILE_FULL, "hold");
				set_target(intake, reports[i].handle, argv[3]);
				tf_intake_resume(intake, reports[i].token);
			}
			arrived += reports[i].kind == TF_INTAKE_PACKET;
		}
	}
	cpu = cpu_seconds() - cpu;
	begin = now_seconds() - begin;
	printf("%u-byte packets, %d connections: %.3f CPU s/GB, %.0f MB/s\n", packet_size, count,
	       cpu / ((double)packet_count * packet_size) * 1e9, (double)packet_count * packet_size / begin / 1e6);
	waitpid(child, NULL, 0);
	tf_intake_free(intake);
	return 0;
}
