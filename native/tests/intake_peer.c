#include "intake_peer.h"

#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>


char root[64];

/* ---- peers ---- */

/* Every byte tells where it belongs. */
uint8_t byte_of(uint64_t handle, uint64_t net_seq, size_t at)
{
	return (uint8_t)(handle * 31 + net_seq * 7 + at + (at >> 8) * 3 + 1);
}

void fill(uint8_t *bytes, uint64_t handle, uint64_t net_seq, size_t size)
{
	for (size_t i = 0; i < size; i++)
		bytes[i] = byte_of(handle, net_seq, i);
}

void put_header(uint8_t *bytes, uint64_t handle, uint64_t net_seq, uint32_t data_size, uint32_t padding_size)
{
	const uint64_t numbers[3] = { htobe64(99), htobe64(handle), htobe64(net_seq) };
	const uint32_t sizes[2] = { htobe32(data_size), htobe32(padding_size) };

	memcpy(bytes, numbers, sizeof(numbers));
	memcpy(bytes + sizeof(numbers), sizes, sizeof(sizes));
}

/* A whole packet as it travels; the caller frees it. */
uint8_t *make_packet(uint64_t handle, uint64_t net_seq, uint32_t data_size, uint32_t padding_size, size_t *size)
{
	uint8_t *bytes = malloc(HEADER_SIZE + data_size);

	CHECK(bytes);
	put_header(bytes, handle, net_seq, data_size, padding_size);
	fill(bytes + HEADER_SIZE, handle, net_seq, data_size);
	*size = HEADER_SIZE + data_size;
	return bytes;
}

void send_bytes(int fd, const uint8_t *bytes, size_t size)
{
	while (size > 0) {
		const ssize_t count = send(fd, bytes, size, MSG_NOSIGNAL);

		CHECK(count > 0);
		bytes += count;
		size -= (size_t)count;
	}
}

void send_packet(int fd, uint64_t handle, uint64_t net_seq, uint32_t data_size, uint32_t padding_size)
{
	size_t size;
	uint8_t *bytes = make_packet(handle, net_seq, data_size, padding_size, &size);

	send_bytes(fd, bytes, size);
	free(bytes);
}

void connect_tcp(int ends[2])
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(listener >= 0 && bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0);
	CHECK(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
	ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(ends[0] >= 0 && connect(ends[0], (struct sockaddr *)&address, size) == 0);
	ends[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	CHECK(ends[1] >= 0);
	close(listener);
}

/* The peer's end of a new connection. */
int add_peer(struct tf_intake *intake, uint64_t token)
{
	int ends[2];

	connect_tcp(ends);
	CHECK(tf_intake_add(intake, ends[1], token, TF_INTAKE_LTTNG, 0) == 0);
	return ends[0];
}

/* ---- files and reports ---- */

int open_file(const char *name, int flags)
{
	char path[160];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", root, name);
	fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | flags, 0600);
	CHECK(fd >= 0);
	return fd;
}

uint64_t size_of(const char *name)
{
	struct stat status;
	char path[160];

	snprintf(path, sizeof(path), "%s/%s", root, name);
	CHECK(stat(path, &status) == 0);
	return (uint64_t)status.st_size;
}

struct tf_intake_target target_of(const char *name, uint64_t offset)
{
	return (struct tf_intake_target){ .fd = open_file(name, 0),
					  .offset = offset,
					  .stop_net_seq = TF_INTAKE_NO_STOP,
					  .index_fd = -1 };
}

void set_target(struct tf_intake *intake, uint64_t handle, const char *name, uint64_t offset)
{
	const struct tf_intake_target target = target_of(name, offset);

	CHECK(tf_intake_set_target(intake, handle, &target) == 0);
}

void check_packet(const char *name, uint64_t offset, uint64_t handle, uint64_t net_seq, uint32_t data_size,
			 uint32_t padding_size)
{
	const size_t size = (size_t)data_size + padding_size;
	uint8_t *bytes = malloc(size + 1);
	const int fd = open_file(name, 0);

	CHECK(bytes && pread(fd, bytes, size, (off_t)offset) == (ssize_t)size);
	for (size_t i = 0; i < size; i++)
		CHECK(bytes[i] == (i < data_size ? byte_of(handle, net_seq, i) : 0));
	close(fd);
	free(bytes);
}

struct tf_intake_report next_report(struct tf_intake *intake)
{
	struct tf_intake_report report;

	CHECK(tf_intake_wait(intake, DEADLINE_MS, &report, 1) == 1);
	return report;
}

struct tf_intake_report expect(struct tf_intake *intake, int32_t kind, int32_t reason, int32_t error)
{
	const struct tf_intake_report report = next_report(intake);

	if (report.kind != kind || report.reason != reason || report.error != error)
		fprintf(stderr, "report of kind %d, reason %d, error %d (%s)\n", report.kind, report.reason, report.error,
			strerror(report.error));
	CHECK(report.kind == kind && report.reason == reason && report.error == error);
	return report;
}

void expect_packet(struct tf_intake *intake, uint64_t token, uint64_t handle, uint64_t net_seq, uint64_t offset)
{
	const struct tf_intake_report report = expect(intake, TF_INTAKE_PACKET, 0, 0);

	CHECK(report.token == token && report.handle == handle && report.net_seq == net_seq && report.offset == offset);
}

void expect_nothing(struct tf_intake *intake)
{
	struct tf_intake_report report;

	CHECK(tf_intake_wait(intake, 0, &report, 1) == 0);
}

struct tf_intake_books books_of(struct tf_intake *intake, uint64_t handle)
{
	struct tf_intake_books books;

	CHECK(tf_intake_books(intake, handle, &books) == 0);
	return books;
}

/* Until so many bytes of the packet under way are in the file. */
void wait_received(struct tf_intake *intake, uint64_t handle, uint64_t size)
{
	for (int i = 0; books_of(intake, handle).received_bytes != size; i++) {
		CHECK(i < DEADLINE_MS);
		poll(NULL, 0, 1);
	}
}

struct tf_intake *open_intake(void)
{
	struct tf_intake *intake;

	CHECK(tf_intake_create(0, &intake) == 0);
	return intake;
}
