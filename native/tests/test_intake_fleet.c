/* Our own framing: what is acknowledged is in the files with its index entry, once, and nothing else is acknowledged. */
#include "intake_peer.h"

#include "crc32c.h"

#include <tracefleet/fleet_frame.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define ENTRY_SIZE 72
#define INDEX_HEADER_SIZE 16

/* ---- a sender ---- */

static uint32_t slow_crc32c(const uint8_t *bytes, size_t size)
{
	uint32_t crc = ~0u;

	for (size_t i = 0; i < size; i++) {
		crc ^= bytes[i];
		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return ~crc;
}

static void test_checksum(void)
{
	uint8_t bytes[300] = { 0 };

	CHECK(tf_crc32c(0, "123456789", 9) == 0xe3069283u && tf_crc32c(0, bytes, 32) == 0x8a9136aau);
	fill(bytes, 1, 2, sizeof(bytes));
	for (size_t size = 0; size < sizeof(bytes); size++) {
		const size_t half = size / 3;

		CHECK(tf_crc32c(0, bytes, size) == slow_crc32c(bytes, size));
		CHECK(tf_crc32c_by_tables(0, bytes, size) == slow_crc32c(bytes, size));
		CHECK(tf_crc32c(tf_crc32c_by_tables(0, bytes, half), bytes + half, size - half) == slow_crc32c(bytes, size));
	}
}

static void seal(struct tf_fleet_header *header)
{
	header->header_crc = 0;
	header->header_crc = htole32(slow_crc32c((const uint8_t *)header, sizeof(*header)));
}

static struct tf_fleet_header header_of(uint64_t handle, uint64_t sequence, uint32_t data_size, uint32_t padding_size)
{
	struct tf_fleet_header header = { .magic = htole32(TF_FLEET_HEADER_MAGIC),
					  .handle = htole64(handle),
					  .sequence = htole64(sequence),
					  .data_size = htole32(data_size),
					  .padding_size = htole32(padding_size),
					  .packet_size = htole64(8 * ((uint64_t)data_size + padding_size)),
					  .content_size = htole64(8 * (uint64_t)data_size),
					  .timestamp_begin = htole64(1000 + sequence),
					  .timestamp_end = htole64(2000 + sequence),
					  .events_discarded = htole64(3),
					  .stream_class_id = htole64(4),
					  .stream_instance_id = htole64(handle),
					  .packet_seq_num = htole64(500 + sequence) };

	seal(&header);
	return header;
}

/* Header and data; the caller frees it. */
static uint8_t *make_fleet_packet(uint64_t handle, uint64_t sequence, uint32_t data_size, uint32_t padding_size,
				  bool has_crc, size_t *size)
{
	struct tf_fleet_header header = header_of(handle, sequence, data_size, padding_size);
	uint8_t *bytes = malloc(sizeof(header) + data_size);

	CHECK(bytes);
	fill(bytes + sizeof(header), handle, sequence, data_size);
	if (has_crc) {
		header.payload_crc = htole32(tf_crc32c(0, bytes + sizeof(header), data_size));
		seal(&header);
	}
	memcpy(bytes, &header, sizeof(header));
	*size = sizeof(header) + data_size;
	return bytes;
}

static void send_fleet_packet(int fd, uint64_t handle, uint64_t sequence, uint32_t data_size, uint32_t padding_size,
			      bool has_crc)
{
	size_t size;
	uint8_t *bytes = make_fleet_packet(handle, sequence, data_size, padding_size, has_crc, &size);

	send_bytes(fd, bytes, size);
	free(bytes);
}

static int add_fleet_peer(struct tf_intake *intake, uint64_t token)
{
	int ends[2];

	connect_tcp(ends);
	CHECK(tf_intake_add(intake, ends[1], token, TF_INTAKE_FLEET, 0) == 0);
	return ends[0];
}

static struct tf_fleet_ack next_ack(int fd)
{
	struct pollfd event = { .fd = fd, .events = POLLIN };
	struct tf_fleet_ack ack;

	CHECK(poll(&event, 1, DEADLINE_MS) == 1);
	CHECK(recv(fd, &ack, sizeof(ack), MSG_WAITALL) == sizeof(ack));
	CHECK(le32toh(ack.magic) == TF_FLEET_ACK_MAGIC);
	ack.status = le32toh(ack.status);
	ack.handle = le64toh(ack.handle);
	ack.sequence = le64toh(ack.sequence);
	return ack;
}

/* Acknowledgements of earlier packets may come on their own. */
static void expect_ack(int fd, uint32_t status, uint64_t handle, uint64_t sequence)
{
	struct tf_fleet_ack ack;

	do {
		ack = next_ack(fd);
		CHECK(ack.status == status && ack.handle == handle);
	} while (ack.sequence + 1 < sequence + 1);
	CHECK(ack.sequence == sequence);
}

static void expect_no_ack(int fd)
{
	uint8_t byte;

	CHECK(recv(fd, &byte, 1, MSG_DONTWAIT) < 0 && errno == EAGAIN);
}

/* ---- files ---- */

static struct tf_intake_target fleet_target(const char *name, bool is_new)
{
	struct tf_intake_target target = target_of(name, is_new ? 0 : TF_INTAKE_KEEP_OFFSET);
	char index_name[80];

	snprintf(index_name, sizeof(index_name), "%s.idx", name);
	target.index_fd = open_file(index_name, 0);
	if (is_new) {
		CHECK(ftruncate(target.fd, 0) == 0 && ftruncate(target.index_fd, INDEX_HEADER_SIZE) == 0);
		target.index_offset = INDEX_HEADER_SIZE;
	} else {
		target.index_offset = TF_INTAKE_KEEP_OFFSET;
	}
	target.next_sequence = TF_INTAKE_KEEP_OFFSET;
	return target;
}

static void set_fleet_target(struct tf_intake *intake, uint64_t handle, const char *name, bool is_new)
{
	const struct tf_intake_target target = fleet_target(name, is_new);

	CHECK(tf_intake_set_target(intake, handle, &target) == 0);
}

static uint64_t entry_count(const char *name)
{
	char index_name[80];
	uint64_t size;

	snprintf(index_name, sizeof(index_name), "%s.idx", name);
	size = size_of(index_name) - INDEX_HEADER_SIZE;
	CHECK(size % ENTRY_SIZE == 0);
	return size / ENTRY_SIZE;
}

static void check_entry(const char *name, uint64_t number, uint64_t offset, uint64_t handle, uint64_t sequence,
			uint32_t data_size, uint32_t padding_size)
{
	const uint64_t wanted[9] = { offset,	      8 * ((uint64_t)data_size + padding_size),
				     8 * (uint64_t)data_size, 1000 + sequence,
				     2000 + sequence, 3,
				     4,		      handle,
				     500 + sequence };
	uint64_t entry[9];
	char index_name[80];
	int fd;

	snprintf(index_name, sizeof(index_name), "%s.idx", name);
	fd = open_file(index_name, 0);
	CHECK(pread(fd, entry, sizeof(entry), (off_t)(INDEX_HEADER_SIZE + number * ENTRY_SIZE)) == sizeof(entry));
	for (int i = 0; i < 9; i++)
		CHECK(be64toh(entry[i]) == wanted[i]);
	close(fd);
	check_packet(name, offset, handle, sequence, data_size, padding_size);
}

/* ---- the tests ---- */

static const uint32_t sizes[][2] = { { 146, 3950 },   { 0, 0 },	      { 0, 4096 }, { 1, 0 },
				     { 70000, 100000 }, { 900000, 0 }, { 33, 1 },   { 1500000, 70000 } };
#define SIZE_COUNT (sizeof(sizes) / sizeof(sizes[0]))

static void test_packets(bool has_crc, bool is_synced)
{
	struct tf_intake *intake = open_intake();
	const int peer = add_fleet_peer(intake, 1);
	struct tf_intake_target target = fleet_target("packets", true);
	uint64_t offset = 0;

	target.is_synced = is_synced;
	CHECK(tf_intake_set_target(intake, 5, &target) == 0);
	for (uint64_t i = 0; i < SIZE_COUNT; i++) {
		send_fleet_packet(peer, 5, i, sizes[i][0], sizes[i][1], has_crc);
		expect_ack(peer, is_synced ? TF_FLEET_SYNCED : TF_FLEET_WRITTEN, 5, i);
		CHECK(entry_count("packets") == i + 1);
		check_entry("packets", i, offset, 5, i, sizes[i][0], sizes[i][1]);
		expect_packet(intake, 1, 5, i, offset);
		offset += sizes[i][0] + sizes[i][1];
		CHECK(size_of("packets") == offset);
	}
	CHECK(books_of(intake, 5).packet_count == SIZE_COUNT && books_of(intake, 5).offset == offset);
	/* A sender that has no more to send still hears of what it sent. */
	send_fleet_packet(peer, 5, SIZE_COUNT, 10, 0, has_crc);
	CHECK(shutdown(peer, SHUT_WR) == 0);
	expect_ack(peer, is_synced ? TF_FLEET_SYNCED : TF_FLEET_WRITTEN, 5, SIZE_COUNT);
	expect_packet(intake, 1, 5, SIZE_COUNT, offset);
	expect(intake, TF_INTAKE_CLOSED, 0, 0);
	close(peer);
	tf_intake_free(intake);
}

static void test_byte_by_byte(void)
{
	struct tf_intake *intake = open_intake();
	const int peer = add_fleet_peer(intake, 1);

	set_fleet_target(intake, 5, "bytes", true);
	for (uint64_t i = 0; i < 3; i++) {
		size_t size;
		/* The second is a gap, and thrown away. */
		uint8_t *bytes = make_fleet_packet(5, i == 1 ? 7 : i, i == 2 ? 0 : 300, 100, true, &size);

		for (size_t at = 0; at < size; at++)
			send_bytes(peer, bytes + at, 1);
		free(bytes);
		if (i == 1)
			expect_ack(peer, TF_FLEET_GAP, 5, 0);
		else
			expect_ack(peer, i == 2 ? TF_FLEET_GAP : TF_FLEET_WRITTEN, 5, 0);
	}
	CHECK(size_of("bytes") == 400 && entry_count("bytes") == 1);
	close(peer);
	tf_intake_free(intake);
}

static void test_repeats_and_gaps(void)
{
	struct tf_intake *intake = open_intake();
	int peer = add_fleet_peer(intake, 1);
	size_t size;
	uint8_t *bytes;

	set_fleet_target(intake, 9, "repeats", true);
	send_fleet_packet(peer, 9, 1, 1000, 0, true);
	expect_ack(peer, TF_FLEET_GAP, 9, TF_FLEET_NO_SEQUENCE);
	for (uint64_t i = 0; i < 4; i++)
		send_fleet_packet(peer, 9, i, 100000, 8, false);
	expect_ack(peer, TF_FLEET_WRITTEN, 9, 3);
	/* Everything again, as after a lost acknowledgement, in the middle of which the connection ends. */
	bytes = make_fleet_packet(9, 4, 50000, 0, true, &size);
	send_bytes(peer, bytes, 20000);
	wait_received(intake, 9, 20000 - sizeof(struct tf_fleet_header));
	CHECK(size_of("repeats") == 4 * 100008 + 20000 - sizeof(struct tf_fleet_header));
	close(peer);
	peer = add_fleet_peer(intake, 2);
	for (int i = 0; i < 4; i++)
		expect(intake, TF_INTAKE_PACKET, 0, 0);
	CHECK(expect(intake, TF_INTAKE_CLOSED, 0, ENODATA).token == 1);
	for (uint64_t i = 0; i < 4; i++) {
		send_fleet_packet(peer, 9, i, i == 2 ? 900000 : 100000, 8, true);
		expect_ack(peer, TF_FLEET_WRITTEN, 9, 3);
	}
	send_bytes(peer, bytes, size);
	expect_ack(peer, TF_FLEET_WRITTEN, 9, 4);
	/* A gap, and all behind it. */
	send_fleet_packet(peer, 9, 6, 10, 0, true);
	send_fleet_packet(peer, 9, 7, 10, 0, true);
	expect_ack(peer, TF_FLEET_GAP, 9, 4);
	send_fleet_packet(peer, 9, UINT64_MAX - 1, 900000, 0, false);
	expect_ack(peer, TF_FLEET_GAP, 9, 4);
	CHECK(size_of("repeats") == 4 * 100008 + 50000 && entry_count("repeats") == 5);
	for (uint64_t i = 0; i < 5; i++)
		check_entry("repeats", i, i * 100008, 9, i, i < 4 ? 100000 : 50000, i < 4 ? 8 : 0);
	CHECK(books_of(intake, 9).packet_count == 5 && books_of(intake, 9).duplicate_count == 4);
	CHECK(books_of(intake, 9).cut_count == 1);
	free(bytes);
	close(peer);
	tf_intake_free(intake);
}

static void test_corruption(void)
{
	struct tf_intake *intake = open_intake();
	int peer = add_fleet_peer(intake, 1);

	set_fleet_target(intake, 2, "corrupt", true);
	send_fleet_packet(peer, 2, 0, 700, 0, true);
	expect_ack(peer, TF_FLEET_WRITTEN, 2, 0);
	expect(intake, TF_INTAKE_PACKET, 0, 0);
	for (uint32_t data_size = 1000; data_size < 2000000; data_size *= 10) {
		size_t size;
		uint8_t *bytes = make_fleet_packet(2, 1, data_size, 20, true, &size);

		bytes[size - 1 - data_size / 3] ^= 0x10;
		send_bytes(peer, bytes, size);
		expect_ack(peer, TF_FLEET_CORRUPT, 2, 0);
		CHECK(size_of("corrupt") == 700 && entry_count("corrupt") == 1);
		free(bytes);
	}
	expect_nothing(intake);
	send_fleet_packet(peer, 2, 1, 700, 0, true);
	expect_ack(peer, TF_FLEET_WRITTEN, 2, 1);
	expect(intake, TF_INTAKE_PACKET, 0, 0);
	CHECK(books_of(intake, 2).packet_count == 2 && books_of(intake, 2).cut_count == 4);
	close(peer);
	expect(intake, TF_INTAKE_CLOSED, 0, 0);

	/* Headers that are not what they should be end the connection. */
	for (uint64_t i = 0; i < 7; i++) {
		struct tf_fleet_header header = header_of(2, 2, 100, 0);

		if (i == 0)
			header.magic ^= 1;
		else if (i == 1)
			header.packet_size = htole64(808);
		else if (i == 2)
			header.content_size = htole64(801);
		else if (i == 3)
			header.flags = htole32(1);
		else if (i == 4)
			header.sequence = htole64(UINT64_MAX);
		else if (i == 5)
			header.data_size = htole32(1u << 31);
		if (i < 6)
			seal(&header);
		else
			header.timestamp_begin ^= 1;
		peer = add_fleet_peer(intake, 10 + i);
		send_bytes(peer, (uint8_t *)&header, sizeof(header));
		CHECK(expect(intake, TF_INTAKE_CLOSED, 0, i == 5 ? EMSGSIZE : EBADMSG).token == 10 + i);
		close(peer);
	}
	CHECK(size_of("corrupt") == 1400 && entry_count("corrupt") == 2);
	tf_intake_free(intake);
}

static void test_revoke_and_move(void)
{
	struct tf_intake *intake = open_intake();
	const int peer = add_fleet_peer(intake, 1);
	struct tf_intake_target target = fleet_target("move1", true);
	size_t size;
	uint8_t *bytes;

	/* A daemon that was started again knows what it has; what lies behind is the rest of something. */
	CHECK(ftruncate(target.fd, 5000) == 0 && ftruncate(target.index_fd, INDEX_HEADER_SIZE + ENTRY_SIZE + 10) == 0);
	target.offset = 4000;
	target.index_offset = INDEX_HEADER_SIZE + ENTRY_SIZE;
	target.next_sequence = 40;
	target.is_synced = true;
	CHECK(tf_intake_set_target(intake, 3, &target) == 0);
	CHECK(size_of("move1") == 4000 && entry_count("move1") == 1);
	send_fleet_packet(peer, 3, 39, 10, 0, true);
	expect_ack(peer, TF_FLEET_SYNCED, 3, 39);
	send_fleet_packet(peer, 3, 40, 1000, 0, true);
	expect_ack(peer, TF_FLEET_SYNCED, 3, 40);
	expect_packet(intake, 1, 3, 40, 4000);
	/* Files taken away, and to another pair in the middle of a packet. */
	CHECK(tf_intake_revoke(intake, 3) == 0);
	send_fleet_packet(peer, 3, 41, 1000, 0, true);
	expect(intake, TF_INTAKE_HOLD, TF_INTAKE_NO_FILE, 0);
	expect_no_ack(peer);
	target = target_of("move1", TF_INTAKE_KEEP_OFFSET);
	target.next_sequence = TF_INTAKE_KEEP_OFFSET;
	CHECK(tf_intake_set_target(intake, 3, &target) == -ESTALE); /* where is the index? */
	close(target.fd);
	target = fleet_target("move1", false);
	target.next_sequence = 40;
	CHECK(tf_intake_set_target(intake, 3, &target) == -ESTALE);
	target.next_sequence = 41;
	CHECK(tf_intake_set_target(intake, 3, &target) == 0 && tf_intake_resume(intake, 1) == 0);
	expect_ack(peer, TF_FLEET_WRITTEN, 3, 41);
	expect_packet(intake, 1, 3, 41, 5000);
	bytes = make_fleet_packet(3, 42, 5000, 7, true, &size);
	send_bytes(peer, bytes, 3000);
	wait_received(intake, 3, 3000 - sizeof(struct tf_fleet_header));
	set_fleet_target(intake, 3, "move2", true);
	send_bytes(peer, bytes + 3000, size - 3000);
	expect_ack(peer, TF_FLEET_WRITTEN, 3, 42);
	expect_packet(intake, 1, 3, 42, 0);
	CHECK(size_of("move1") == 6000 && entry_count("move1") == 3 && entry_count("move2") == 1);
	check_entry("move1", 1, 4000, 3, 40, 1000, 0);
	check_entry("move1", 2, 5000, 3, 41, 1000, 0);
	check_entry("move2", 0, 0, 3, 42, 5000, 7);
	free(bytes);
	close(peer);
	tf_intake_free(intake);
}

/* No room for the data, or for the index entry: no acknowledgement until there is. */
static void test_full_disk(bool is_index)
{
	struct tf_intake *intake = open_intake();
	const int peer = add_fleet_peer(intake, 1);
	struct tf_intake_target target;
	char path[128];
	int filler;

	snprintf(path, sizeof(path), "%s/small", root);
	CHECK((mkdir(path, 0700) == 0 || errno == EEXIST) && mount("none", path, "tmpfs", 0, "size=1m") == 0);
	target = fleet_target("small/full", true);
	if (is_index) {
		close(target.fd);
		target.fd = open_file("roomy", O_TRUNC);
		CHECK(ftruncate(target.index_fd, 0) == 0);
		target.index_offset = 0;
	}
	CHECK(tf_intake_set_target(intake, 1, &target) == 0);
	if (!is_index) {
		send_fleet_packet(peer, 1, 0, 100, 0, true);
		expect_ack(peer, TF_FLEET_WRITTEN, 1, 0);
		expect(intake, TF_INTAKE_PACKET, 0, 0);
	}
	filler = open_file("small/filler", 0);
	CHECK(posix_fallocate(filler, 0, 2 << 20) == ENOSPC);
	while (write(filler, path, 128) > 0)
		;
	send_fleet_packet(peer, 1, is_index ? 0 : 1, 300000, 10, true);
	expect(intake, TF_INTAKE_HOLD, TF_INTAKE_WRITE_FAILED, ENOSPC);
	CHECK(tf_intake_resume(intake, 1) == 0);
	expect(intake, TF_INTAKE_HOLD, TF_INTAKE_WRITE_FAILED, ENOSPC);
	expect_no_ack(peer);
	CHECK(ftruncate(filler, 0) == 0 && tf_intake_resume(intake, 1) == 0);
	expect_ack(peer, TF_FLEET_WRITTEN, 1, is_index ? 0 : 1);
	expect(intake, TF_INTAKE_PACKET, 0, 0);
	if (is_index)
		CHECK(size_of("small/full.idx") == ENTRY_SIZE && size_of("roomy") == 300010);
	else
		check_entry("small/full", 1, 100, 1, 1, 300000, 10);
	close(filler);
	close(peer);
	tf_intake_free(intake);
	CHECK(umount2(path, MNT_DETACH) == 0);
}

#define DEAF_STREAM_COUNT 150
#define DEAF_ROUND_COUNT 400

static void *send_deaf(void *argument)
{
	const int peer = *(const int *)argument;

	for (uint64_t round = 0; round < DEAF_ROUND_COUNT; round++)
		for (uint64_t handle = 0; handle < DEAF_STREAM_COUNT; handle++)
			send_fleet_packet(peer, handle, round, 20, 0, true);
	return NULL;
}

/* A peer that does not read what it is told: it waits, nobody else does, and nothing of it is lost. */
static void test_deaf_peer(void)
{
	const int little = 4096;
	struct tf_intake *intake = open_intake();
	struct tf_intake_report reports[256];
	uint64_t packet_count = 0, done_count = 0, written[DEAF_STREAM_COUNT] = { 0 };
	int ends[2], other, quiet_count = 0;
	pthread_t thread;
	char name[32];

	connect_tcp(ends);
	CHECK(setsockopt(ends[0], SOL_SOCKET, SO_RCVBUF, &little, sizeof(little)) == 0);
	CHECK(setsockopt(ends[1], SOL_SOCKET, SO_SNDBUF, &little, sizeof(little)) == 0);
	CHECK(tf_intake_add(intake, ends[1], 1, TF_INTAKE_FLEET, 0) == 0);
	for (uint64_t handle = 0; handle < DEAF_STREAM_COUNT; handle++) {
		snprintf(name, sizeof(name), "deaf_%d", (int)handle);
		set_fleet_target(intake, handle, name, true);
	}
	CHECK(pthread_create(&thread, NULL, send_deaf, &ends[0]) == 0);
	/* Until it gets no further. */
	while (quiet_count < 3) {
		const int count = tf_intake_wait(intake, 200, reports, 256);

		packet_count += (uint64_t)count;
		quiet_count = count == 0 ? quiet_count + 1 : 0;
	}
	CHECK(packet_count < DEAF_STREAM_COUNT * DEAF_ROUND_COUNT);
	other = add_fleet_peer(intake, 2);
	set_fleet_target(intake, 1000, "hearing", true);
	send_fleet_packet(other, 1000, 0, 100000, 0, true);
	expect_ack(other, TF_FLEET_WRITTEN, 1000, 0);
	CHECK(expect(intake, TF_INTAKE_PACKET, 0, 0).token == 2);
	while (done_count < DEAF_STREAM_COUNT) {
		const struct tf_fleet_ack ack = next_ack(ends[0]);

		CHECK(ack.status == TF_FLEET_WRITTEN && ack.handle < DEAF_STREAM_COUNT);
		CHECK(ack.sequence + 1 > written[ack.handle]);
		written[ack.handle] = ack.sequence + 1;
		done_count += written[ack.handle] == DEAF_ROUND_COUNT;
		packet_count += (uint64_t)tf_intake_wait(intake, 0, reports, 256);
	}
	CHECK(pthread_join(thread, NULL) == 0);
	while (packet_count < DEAF_STREAM_COUNT * DEAF_ROUND_COUNT) {
		const int count = tf_intake_wait(intake, DEADLINE_MS, reports, 256);

		CHECK(count > 0);
		packet_count += (uint64_t)count;
	}
	for (uint64_t handle = 0; handle < DEAF_STREAM_COUNT; handle++) {
		snprintf(name, sizeof(name), "deaf_%d", (int)handle);
		CHECK(entry_count(name) == DEAF_ROUND_COUNT && size_of(name) == DEAF_ROUND_COUNT * 20);
		check_entry(name, DEAF_ROUND_COUNT - 1, (DEAF_ROUND_COUNT - 1) * 20, handle, DEAF_ROUND_COUNT - 1, 20, 0);
		CHECK(books_of(intake, handle).packet_count == DEAF_ROUND_COUNT);
	}
	expect_nothing(intake);
	close(ends[0]);
	close(other);
	tf_intake_free(intake);
}

static void send_beacon(int fd, uint64_t handle, uint64_t sequence, uint64_t timestamp_end)
{
	struct tf_fleet_header header = header_of(handle, sequence, 0, 0);

	header.flags = htole32(TF_FLEET_BEACON);
	header.timestamp_end = htole64(timestamp_end);
	seal(&header);
	send_bytes(fd, (const uint8_t *)&header, sizeof(header));
}

/* Beacons are told in their place among the packets, unless something before them is not there; nobody answers them. */
static void test_beacons(void)
{
	struct tf_intake *intake = open_intake();
	const int peer = add_fleet_peer(intake, 1);
	struct tf_fleet_header header = header_of(6, 2, 100, 0);
	struct tf_intake_report report;

	set_fleet_target(intake, 6, "beacons", true);
	send_beacon(peer, 6, 0, 7000);
	report = expect(intake, TF_INTAKE_BEACON, 0, 0);
	CHECK(report.handle == 6 && report.net_seq == 0 && report.timestamp_end == 7000 && report.stream_class_id == 4);
	CHECK(report.token == 1 && report.offset == 0 && report.data_size == 0);
	send_fleet_packet(peer, 6, 0, 100, 20, true);
	send_beacon(peer, 6, 1, 7100);
	send_beacon(peer, 6, 0, 7200); /* late */
	send_beacon(peer, 6, 5, 7300); /* early */
	send_beacon(peer, 66, 0, 7400); /* of a stream that has ended */
	send_fleet_packet(peer, 6, 1, 100, 20, true);
	expect_ack(peer, TF_FLEET_WRITTEN, 6, 1);
	report = expect(intake, TF_INTAKE_PACKET, 0, 0);
	CHECK(report.timestamp_end == 2000 && report.stream_class_id == 4 && report.events_discarded == 3);
	CHECK(report.packet_seq_num == 500 && report.padding_size == 20);
	CHECK(expect(intake, TF_INTAKE_BEACON, 0, 0).timestamp_end == 7100);
	CHECK(expect(intake, TF_INTAKE_PACKET, 0, 0).packet_seq_num == 501);
	expect_nothing(intake);
	CHECK(entry_count("beacons") == 2 && books_of(intake, 6).packet_count == 2);
	CHECK(books_of(intake, 6).duplicate_count == 0);
	/* One that has data is none. */
	header.flags = htole32(TF_FLEET_BEACON);
	seal(&header);
	send_bytes(peer, (const uint8_t *)&header, sizeof(header));
	expect(intake, TF_INTAKE_CLOSED, 0, EBADMSG);
	close(peer);
	tf_intake_free(intake);
}

/* More beacons than anybody takes: the connection waits, and no memory fills. */
static void test_many_beacons(void)
{
	enum { COUNT = 4 * TF_INTAKE_REPORTS_PER_CONNECTION };
	struct tf_intake *intake = open_intake();
	const int peer = add_fleet_peer(intake, 1);
	struct tf_intake_report reports[COUNT];
	int count = 0;

	set_fleet_target(intake, 6, "many-beacons", true);
	for (uint64_t i = 0; i < COUNT; i++)
		send_beacon(peer, 6, 0, i);
	CHECK(tf_intake_wait(intake, DEADLINE_MS, reports, COUNT) <= TF_INTAKE_REPORTS_PER_CONNECTION);
	send_fleet_packet(peer, 6, 0, 10, 0, true);
	while (count < 1) {
		struct tf_intake_report report;

		CHECK(tf_intake_wait(intake, DEADLINE_MS, &report, 1) == 1);
		count += report.kind == TF_INTAKE_PACKET;
	}
	expect_ack(peer, TF_FLEET_WRITTEN, 6, 0);
	close(peer);
	tf_intake_free(intake);
}

/* What a connection may write to is settled before its first packet. */
static void test_given_group(void)
{
	struct tf_intake *intake = open_intake();
	struct tf_intake_target target = fleet_target("grouped", true);
	int ends[2];

	target.group = 8;
	CHECK(tf_intake_set_target(intake, 6, &target) == 0);
	connect_tcp(ends);
	CHECK(tf_intake_add(intake, ends[1], 1, TF_INTAKE_FLEET, 9) == 0);
	send_beacon(ends[0], 6, 0, 7000);
	CHECK(expect(intake, TF_INTAKE_HOLD, TF_INTAKE_FOREIGN_STREAM, 0).handle == 6);
	CHECK(tf_intake_close(intake, 1) == 0);
	close(ends[0]);
	connect_tcp(ends);
	CHECK(tf_intake_add(intake, ends[1], 2, TF_INTAKE_FLEET, 9) == 0);
	send_fleet_packet(ends[0], 6, 0, 10, 0, true);
	CHECK(expect(intake, TF_INTAKE_HOLD, TF_INTAKE_FOREIGN_STREAM, 0).handle == 6);
	CHECK(tf_intake_close(intake, 2) == 0);
	close(ends[0]);
	connect_tcp(ends);
	CHECK(tf_intake_add(intake, ends[1], 3, TF_INTAKE_FLEET, 8) == 0);
	send_fleet_packet(ends[0], 6, 0, 10, 0, true);
	expect_ack(ends[0], TF_FLEET_WRITTEN, 6, 0);
	CHECK(entry_count("grouped") == 1);
	close(ends[0]);
	tf_intake_free(intake);
}

int main(void)
{
	char command[96];

	snprintf(root, sizeof(root), "/tmp/tf-native-fleet-XXXXXX");
	CHECK(mkdtemp(root));
	test_checksum();
	for (int i = 0; i < 4; i++)
		test_packets(i & 1, i & 2);
	test_byte_by_byte();
	test_repeats_and_gaps();
	test_corruption();
	test_revoke_and_move();
	test_deaf_peer();
	test_beacons();
	test_many_beacons();
	test_given_group();
	if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0) {
		test_full_disk(false);
		test_full_disk(true);
	}
	snprintf(command, sizeof(command), "rm -r %s", root);
	CHECK(system(command) == 0);
	return geteuid() == 0 ? 0 : 77;
}
