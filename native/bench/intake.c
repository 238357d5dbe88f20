/*
 * intake PACKET_SIZE TOTAL_MIB DIRECTORY [CONNECTIONS [fleet | checked]]: CPU seconds per GB of an intake, fed over
 * loopback by another process. Every connection has a stream and a file, which begins anew at 256 MiB. In LTTng's
 * framing, or in ours, with an index and acknowledgements; checked: with a checksum of the data.
 */
#include <tracefleet/fleet_frame.h>
#include <tracefleet/intake.h>

#include "crc32c.h"

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

static bool is_fleet, is_checked;

static size_t put_header(uint8_t *bytes, uint64_t handle, uint64_t number, uint32_t packet_size, uint32_t payload_crc)
{
	const uint64_t numbers[3] = { 0, htobe64(handle), htobe64(number) };
	const uint32_t sizes[2] = { htobe32(packet_size), 0 };
	struct tf_fleet_header header = { .magic = htole32(TF_FLEET_HEADER_MAGIC),
					  .handle = htole64(handle),
					  .sequence = htole64(number),
					  .data_size = htole32(packet_size),
					  .payload_crc = htole32(payload_crc),
					  .packet_size = htole64(8 * (uint64_t)packet_size) };

	if (is_fleet) {
		header.header_crc = htole32(tf_crc32c(0, &header, sizeof(header)));
		memcpy(bytes, &header, sizeof(header));
		return sizeof(header);
	}
	memcpy(bytes, numbers, sizeof(numbers));
	memcpy(bytes + sizeof(numbers), sizes, sizeof(sizes));
	return sizeof(numbers) + sizeof(sizes);
}

/* The process that feeds: packets of all connections by turns. */
static void feed(const struct sockaddr_in *address, int count, uint32_t packet_size, uint64_t packet_count)
{
	uint8_t *bytes = malloc(sizeof(struct tf_fleet_header) + packet_size), acks[4096];
	int fds[CONNECTION_COUNT_MAX];
	uint32_t crc;

	need(bytes, "malloc");
	memset(bytes, 7, sizeof(struct tf_fleet_header) + packet_size);
	crc = is_checked ? tf_crc32c(0, bytes, packet_size) : 0;
	for (int i = 0; i < count; i++) {
		fds[i] = socket(AF_INET, SOCK_STREAM, 0);
		need(connect(fds[i], (const struct sockaddr *)address, sizeof(*address)) == 0, "connect");
	}
	for (uint64_t packet = 0; packet < packet_count; packet++) {
		const uint64_t handle = packet % (uint64_t)count;
		const size_t size = put_header(bytes, handle, packet / (uint64_t)count, packet_size, crc) + packet_size;

		for (size_t sent = 0; sent < size;) {
			const ssize_t part = send(fds[handle], bytes + sent, size - sent, 0);

			need(part > 0, "send");
			sent += (size_t)part;
		}
		if (is_fleet)
			while (recv(fds[handle], acks, sizeof(acks), MSG_DONTWAIT) > 0)
				;
	}
	/* Closing with acknowledgements unread would reset the connection, and throw away what is under way. */
	for (int i = 0; i < count; i++) {
		shutdown(fds[i], SHUT_WR);
		while (recv(fds[i], acks, sizeof(acks), 0) > 0)
			;
	}
	exit(0);
}

static void set_target(struct tf_intake *intake, uint64_t handle, const char *directory)
{
	struct tf_intake_target target = { .size_limit = 256 << 20,
					   .stop_net_seq = TF_INTAKE_NO_STOP,
					   .index_fd = -1,
					   .next_sequence = TF_INTAKE_KEEP_OFFSET };
	char path[4096];

	snprintf(path, sizeof(path), "%s/intake-bench-%d", directory, (int)handle);
	target.fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	need(target.fd >= 0, path);
	unlink(path); /* what was written is gone with the program */
	if (is_fleet) {
		target.index_fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		need(target.index_fd >= 0, path);
		unlink(path);
	}
	need(tf_intake_set_target(intake, handle, &target) == 0, "tf_intake_set_target");
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
	int open_count = count;
	double cpu, begin;
	int listener;
	pid_t child;

	if (packet_count == 0 || count < 1 || count > CONNECTION_COUNT_MAX) {
		fprintf(stderr, "usage: intake PACKET_SIZE TOTAL_MIB DIRECTORY [CONNECTIONS [fleet | checked]]\n");
		return 2;
	}
	is_checked = argc > 5 && strcmp(argv[5], "checked") == 0;
	is_fleet = is_checked || (argc > 5 && strcmp(argv[5], "fleet") == 0);
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
		need(tf_intake_add(intake, accept(listener, NULL, NULL), (uint64_t)i,
				   is_fleet ? TF_INTAKE_FLEET : TF_INTAKE_LTTNG, 0) == 0,
		     "tf_intake_add");
	while (open_count > 0) {
		const int taken = tf_intake_wait(intake, -1, reports, 256);

		for (int i = 0; i < taken; i++) {
			if (reports[i].kind == TF_INTAKE_HOLD) {
				need(reports[i].reason == TF_INTAKE_FILE_FULL, "hold");
				set_target(intake, reports[i].handle, argv[3]);
				tf_intake_resume(intake, reports[i].token);
			}
			if (reports[i].kind == TF_INTAKE_CLOSED) {
				need(reports[i].error == 0, "closed");
				tf_intake_close(intake, reports[i].token);
				open_count--;
			}
			arrived += reports[i].kind == TF_INTAKE_PACKET;
		}
	}
	cpu = cpu_seconds() - cpu;
	begin = now_seconds() - begin;
	printf("%u-byte packets, %d connections%s%s: %.3f CPU s/GB, %.0f MB/s\n", packet_size, count,
	       is_fleet ? ", acknowledged" : "", is_checked ? ", checked" : "",
	       cpu / ((double)packet_count * packet_size) * 1e9, (double)packet_count * packet_size / begin / 1e6);
	need(arrived == packet_count, "packets are missing");
	waitpid(child, NULL, 0);
	tf_intake_free(intake);
	return 0;
}
