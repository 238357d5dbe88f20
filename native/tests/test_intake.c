/* Packets of other hosts: what arrives is in the files, exactly, whatever connections and files do meanwhile. */
#include "intake_peer.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- one connection ---- */

static void test_byte_by_byte(void)
{
	static const uint32_t sizes[][2] = { { 146, 3950 }, { 0, 0 }, { 0, 4096 }, { 1, 0 }, { 700, 100000 }, { 33, 1 } };
	const size_t count = sizeof(sizes) / sizeof(sizes[0]);
	struct tf_intake *intake = open_intake();
	uint64_t offset = 0, data_bytes = 0;
	struct tf_intake_books books;
	int ends[2], waiting;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	set_target(intake, 5, "bytes", 0);
	waiting = dup(ends[1]);
	CHECK(tf_intake_add(intake, ends[1], 1, TF_INTAKE_LTTNG, 0) == 0);
	for (size_t i = 0; i < count; i++) {
		size_t size;
		uint8_t *bytes = make_packet(5, i, sizes[i][0], sizes[i][1], &size);

		for (size_t at = 0; at < size; at++) {
			int unread = 1;

			send_bytes(ends[0], bytes + at, 1);
			while (unread > 0)
				CHECK(ioctl(waiting, FIONREAD, &unread) == 0);
		}
		free(bytes);
		expect_packet(intake, 1, 5, i, offset);
		check_packet("bytes", offset, 5, i, sizes[i][0], sizes[i][1]);
		offset += sizes[i][0] + sizes[i][1];
		data_bytes += sizes[i][0];
		CHECK(size_of("bytes") == offset);
	}
	books = books_of(intake, 5);
	CHECK(books.packet_count == count && books.data_bytes == data_bytes && books.offset == offset);
	CHECK(books.padding_bytes == offset - data_bytes && books.cut_count == 0 && !books.is_under_way);
	close(waiting);
	close(ends[0]);
	expect(intake, TF_INTAKE_CLOSED, 0, 0);
	CHECK(tf_intake_close(intake, 1) == 0 && tf_intake_close(intake, 1) == -ENOENT);
	tf_intake_free(intake);
}

/* Nobody reads while the packet's header says too much. */
static void test_lying_lengths(void)
{
	static const uint32_t sizes[][2] = {
		{ UINT32_MAX, 0 }, { 0, UINT32_MAX }, { UINT32_MAX, UINT32_MAX }, { 1 << 30, 1 }, { 0x80000000u, 0x80000000u }
	};
	struct tf_intake *intake = open_intake();
	uint8_t header[HEADER_SIZE];

	set_target(intake, 1, "lies", 0);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
		const int peer = add_peer(intake, i);

		put_header(header, 1, 0, sizes[i][0], sizes[i][1]);
		send_bytes(peer, header, sizeof(header));
		CHECK(expect(intake, TF_INTAKE_CLOSED, 0, EMSGSIZE).token == i);
		CHECK(tf_intake_close(intake, i) == 0);
		close(peer);
	}
	CHECK(size_of("lies") == 0 && books_of(intake, 1).packet_count == 0);
	tf_intake_free(intake);
}

static void test_ends(void)
{
	const struct linger reset = { .l_onoff = 1, .l_linger = 0 };
	struct tf_intake *intake = open_intake();
	uint8_t *bytes;
	size_t size;
	int peer;

	set_target(intake, 1, "ends", 0);
	/* Half closed after whole packets: all of them count. */
	peer = add_peer(intake, 1);
	send_packet(peer, 1, 0, 100, 0);
	CHECK(shutdown(peer, SHUT_WR) == 0);
	expect_packet(intake, 1, 1, 0, 0);
	expect(intake, TF_INTAKE_CLOSED, 0, 0);
	CHECK(tf_intake_close(intake, 1) == 0);
	close(peer);
	/* Within a header, within small and large data. */
	bytes = make_packet(1, 1, 300000, 0, &size);
	for (uint64_t token = 2; token < 5; token++) {
		const size_t part = token == 2 ? 31 : token == 3 ? 1000 : 200000;

		peer = add_peer(intake, token);
		send_bytes(peer, bytes, part);
		if (token > 2) {
			wait_received(intake, 1, part - HEADER_SIZE);
			CHECK(size_of("ends") == 100 + part - HEADER_SIZE && books_of(intake, 1).is_under_way);
		}
		close(peer);
		CHECK(expect(intake, TF_INTAKE_CLOSED, 0, ENODATA).token == token);
		CHECK(size_of("ends") == 100);
		CHECK(tf_intake_close(intake, token) == 0);
	}
	/* A reset, and a close from this side. */
	peer = add_peer(intake, 5);
	send_bytes(peer, bytes, 1000);
	wait_received(intake, 1, 1000 - HEADER_SIZE);
	CHECK(setsockopt(peer, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset)) == 0);
	close(peer);
	expect(intake, TF_INTAKE_CLOSED, 0, ECONNRESET);
	peer = add_peer(intake, 6);
	send_bytes(peer, bytes, 150000);
	wait_received(intake, 1, 150000 - HEADER_SIZE);
	CHECK(tf_intake_close(intake, 6) == 0);
	CHECK(size_of("ends") == 100 && books_of(intake, 1).cut_count == 4 && books_of(intake, 1).packet_count == 1);
	close(peer);
	/* Nothing of it is in the way of the next. */
	peer = add_peer(intake, 7);
	send_bytes(peer, bytes, size);
	expect_packet(intake, 7, 1, 1, 100);
	check_packet("ends", 100, 1, 1, 300000, 0);
	close(peer);
	free(bytes);
	tf_intake_free(intake);
}

/* ---- holds ---- */

static void test_holds(void)
{
	struct tf_intake *intake = open_intake();
	struct tf_intake_target target;
	struct tf_intake_report report;
	int peer = add_peer(intake, 1), other = add_peer(intake, 2);
	uint8_t *bytes;
	size_t size;

	/* Unknown, and what was sent behind it comes in order. */
	send_packet(peer, 7, 0, 5000, 0);
	send_packet(peer, 7, 1, 100000, 0);
	send_packet(peer, 8, 0, 10, 10);
	report = expect(intake, TF_INTAKE_HOLD, TF_INTAKE_UNKNOWN_STREAM, 0);
	CHECK(report.token == 1 && report.handle == 7 && report.net_seq == 0 && report.data_size == 5000);
	CHECK(tf_intake_resume(intake, 1) == 0);
	expect(intake, TF_INTAKE_HOLD, TF_INTAKE_UNKNOWN_STREAM, 0);
	set_target(intake, 8, "h8", 0);
	target = target_of("h7", 0);
	target.size_limit = 5000;
	CHECK(tf_intake_set_target(intake, 7, &target) == 0 && tf_intake_resume(intake, 1) == 0);
	expect_packet(intake, 1, 7, 0, 0);
	CHECK(expect(intake, TF_INTAKE_HOLD, TF_INTAKE_FILE_FULL, 0).net_seq == 1);
	/* The next file takes it, larger than the limit as it is. */
	target = target_of("h7_1", 0);
	target.size_limit = 5000;
	target.stop_net_seq = 3;
	CHECK(tf_intake_set_target(intake, 7, &target) == 0 && tf_intake_resume(intake, 1) == 0);
	expect_packet(intake, 1, 7, 1, 0);
	expect_packet(intake, 1, 8, 0, 0);
	/* One that is too full again is full again, and truncating it in place makes it another. */
	send_packet(peer, 7, 2, 1, 0);
	expect(intake, TF_INTAKE_HOLD, TF_INTAKE_FILE_FULL, 0);
	target.fd = open_file("h7_1", O_TRUNC);
	CHECK(tf_intake_set_target(intake, 7, &target) == 0 && tf_intake_resume(intake, 1) == 0);
	expect_packet(intake, 1, 7, 2, 0);
	send_packet(peer, 7, 3, 1, 0);
	expect(intake, TF_INTAKE_HOLD, TF_INTAKE_STOPPED, 0);
	CHECK(tf_intake_set_stop(intake, 7, TF_INTAKE_NO_STOP) == 0 && tf_intake_resume(intake, 1) == 0);
	expect_packet(intake, 1, 7, 3, 1);

	/* Two connections, one stream. */
	bytes = make_packet(7, 4, 4000, 0, &size);
	send_bytes(peer, bytes, 2000);
	wait_received(intake, 7, 2000 - HEADER_SIZE);
	send_packet(other, 7, 5, 6, 0);
	report = expect(intake, TF_INTAKE_HOLD, TF_INTAKE_STREAM_BUSY, 0);
	CHECK(report.token == 2);
	CHECK(tf_intake_set_stop(intake, 7, 5) == 1);
	send_bytes(peer, bytes + 2000, size - 2000);
	expect_packet(intake, 1, 7, 4, 2);
	CHECK(tf_intake_set_stop(intake, 7, TF_INTAKE_NO_STOP) == 0);
	CHECK(tf_intake_resume(intake, 2) == 0 && tf_intake_resume(intake, 2) == 0 && tf_intake_resume(intake, 1) == 0);
	expect_packet(intake, 2, 7, 5, 4002);
	free(bytes);

	/* A stream of somebody else. */
	target = target_of("h9", 0);
	target.group = 40;
	CHECK(tf_intake_set_target(intake, 9, &target) == 0);
	target = target_of("h10", 0);
	target.group = 41;
	CHECK(tf_intake_set_target(intake, 10, &target) == 0);
	send_packet(other, 9, 0, 1, 0);
	expect_packet(intake, 2, 9, 0, 0);
	send_packet(other, 10, 0, 1, 0);
	expect(intake, TF_INTAKE_HOLD, TF_INTAKE_FOREIGN_STREAM, 0);
	CHECK(size_of("h10") == 0);
	/* A held connection can be closed; one in the middle of a packet of a removed stream closes itself. */
	CHECK(tf_intake_close(intake, 2) == 0);
	bytes = make_packet(8, 1, 500, 0, &size);
	send_bytes(peer, bytes, 300);
	wait_received(intake, 8, 300 - HEADER_SIZE);
	CHECK(tf_intake_remove(intake, 8) == 0 && tf_intake_remove(intake, 8) == -ENOENT);
	CHECK(size_of("h8") == 20);
	send_bytes(peer, bytes + 300, 1);
	expect(intake, TF_INTAKE_CLOSED, 0, ENOENT);
	expect_nothing(intake);
	free(bytes);
	close(peer);
	close(other);
	tf_intake_free(intake);
}

static void test_revoke_and_move(uint32_t data_size)
{
	struct tf_intake *intake = open_intake();
	const int peer = add_peer(intake, 1);
	struct tf_intake_target target;
	const size_t part = data_size / 2;
	uint8_t *bytes;
	size_t size;

	target = target_of("m1", 0);
	CHECK(ftruncate(target.fd, 0) == 0);
	CHECK(tf_intake_set_target(intake, 3, &target) == 0);
	send_packet(peer, 3, 0, 1000, 0);
	expect_packet(intake, 1, 3, 0, 0);
	/* Between packets. */
	CHECK(tf_intake_revoke(intake, 3) == 0 && tf_intake_revoke(intake, 3) == 0);
	CHECK(fcntl(target.fd, F_GETFD) < 0 && errno == EBADF);
	send_packet(peer, 3, 1, 1000, 0);
	expect(intake, TF_INTAKE_HOLD, TF_INTAKE_NO_FILE, 0);
	target = target_of("m2", TF_INTAKE_KEEP_OFFSET);
	CHECK(tf_intake_set_target(intake, 3, &target) == -ESTALE);
	close(target.fd);
	set_target(intake, 3, "m1", TF_INTAKE_KEEP_OFFSET);
	CHECK(tf_intake_resume(intake, 1) == 0);
	expect_packet(intake, 1, 3, 1, 1000);
	/* Within one. */
	bytes = make_packet(3, 2, data_size, 50, &size);
	send_bytes(peer, bytes, HEADER_SIZE + part);
	wait_received(intake, 3, part);
	CHECK(tf_intake_revoke(intake, 3) == 0);
	send_bytes(peer, bytes + HEADER_SIZE + part, part / 2);
	CHECK(expect(intake, TF_INTAKE_HOLD, TF_INTAKE_NO_FILE, 0).net_seq == 2);
	target = target_of("m2", 0);
	CHECK(tf_intake_set_target(intake, 3, &target) == -EBADF);
	close(target.fd);
	target = target_of("m1", 1000);
	CHECK(tf_intake_set_target(intake, 3, &target) == -ESTALE);
	target.offset = 2000;
	CHECK(tf_intake_set_target(intake, 3, &target) == 0 && tf_intake_resume(intake, 1) == 0);
	wait_received(intake, 3, part + part / 2);
	/* Into another file, behind what that has; what it has behind that goes. */
	target = target_of("m2", 0);
	CHECK(ftruncate(target.fd, 700) == 0);
	target.offset = 701;
	CHECK(tf_intake_set_target(intake, 3, &target) == -EINVAL);
	target.offset = 300;
	CHECK(tf_intake_set_target(intake, 3, &target) == 0);
	CHECK(size_of("m1") == 2000 && size_of("m2") == 300 + part + part / 2);
	send_bytes(peer, bytes + HEADER_SIZE + part + part / 2, size - HEADER_SIZE - part - part / 2);
	expect_packet(intake, 1, 3, 2, 300);
	check_packet("m2", 300, 3, 2, data_size, 50);
	CHECK(size_of("m2") == 300 + data_size + 50);
	free(bytes);
	/* A rest that could not be cut is cut when the file is set again. */
	bytes = make_packet(3, 3, data_size, 0, &size);
	send_bytes(peer, bytes, HEADER_SIZE + part);
	wait_received(intake, 3, part);
	CHECK(tf_intake_revoke(intake, 3) == 0 && tf_intake_close(intake, 1) == 0);
	CHECK(size_of("m2") == 300 + data_size + 50 + part && books_of(intake, 3).cut_count == 1);
	target = target_of("m1", 0);
	CHECK(tf_intake_set_target(intake, 3, &target) == -EBADF);
	close(target.fd);
	set_target(intake, 3, "m2", TF_INTAKE_KEEP_OFFSET);
	CHECK(size_of("m2") == 300 + data_size + 50);
	free(bytes);
	/* Only files. */
	target.fd = peer;
	CHECK(tf_intake_set_target(intake, 3, &target) == -EINVAL);
	close(peer);
	tf_intake_free(intake);
}

static void test_full_disk(uint32_t data_size)
{
	struct tf_intake *intake = open_intake();
	const int peer = add_peer(intake, 1), other = add_peer(intake, 2);
	char path[128];
	int filler;

	snprintf(path, sizeof(path), "%s/small", root);
	CHECK((mkdir(path, 0700) == 0 || errno == EEXIST) && mount("none", path, "tmpfs", 0, "size=1m") == 0);
	filler = open_file("small/filler", 0);
	CHECK(posix_fallocate(filler, 0, (1 << 20) - 16384) == 0);
	set_target(intake, 1, "small/data", 0);
	set_target(intake, 2, "elsewhere", 0);
	send_packet(peer, 1, 0, data_size, 10);
	send_packet(peer, 1, 1, 100, 0);
	CHECK(expect(intake, TF_INTAKE_HOLD, TF_INTAKE_WRITE_FAILED, ENOSPC).token == 1);
	send_packet(other, 2, 0, data_size, 0);
	expect(intake, TF_INTAKE_PACKET, 0, 0);
	CHECK(tf_intake_resume(intake, 1) == 0);
	expect(intake, TF_INTAKE_HOLD, TF_INTAKE_WRITE_FAILED, ENOSPC);
	CHECK(ftruncate(filler, 0) == 0 && tf_intake_resume(intake, 1) == 0);
	expect_packet(intake, 1, 1, 0, 0);
	expect_packet(intake, 1, 1, 1, data_size + 10);
	check_packet("small/data", 0, 1, 0, data_size, 10);
	check_packet("small/data", data_size + 10, 1, 1, 100, 0);
	/* Closed while it waits for room. */
	CHECK(posix_fallocate(filler, 0, (1 << 20) - 16384 - (data_size + 4096) / 4096 * 4096) == 0);
	send_packet(peer, 1, 2, data_size, 0);
	expect(intake, TF_INTAKE_HOLD, TF_INTAKE_WRITE_FAILED, ENOSPC);
	CHECK(tf_intake_close(intake, 1) == 0 && size_of("small/data") == data_size + 110);
	CHECK(books_of(intake, 1).packet_count == 2 && books_of(intake, 1).data_bytes == data_size + 100);
	close(filler);
	close(peer);
	close(other);
	tf_intake_free(intake);
	CHECK(umount2(path, MNT_DETACH) == 0);
}

/* ---- many ---- */

#define PEER_COUNT 60
#define STREAMS_PER_PEER 3
#define STREAM_COUNT (PEER_COUNT * STREAMS_PER_PEER)
#define PACKETS_PER_PEER 90
#define FILE_LIMIT 800000
#define SENDER_COUNT 3

struct record { /* what a stream was told about a packet */
	uint64_t file, offset;
	uint32_t data_size, padding_size;
};

struct many {
	struct tf_intake *intake;
	int peers[PEER_COUNT];
	int next_sender;
	_Atomic bool is_over;
	/* by stream */
	struct record records[STREAM_COUNT][PACKETS_PER_PEER];
	size_t counts[STREAM_COUNT];
	uint64_t files[STREAM_COUNT];
	uint64_t bytes[STREAM_COUNT];
};

/* Sizes that go all the ways: empty, small, padded a little and a lot, over several turns. */
static void sizes_of(uint64_t handle, uint64_t net_seq, uint32_t *data_size, uint32_t *padding_size)
{
	const uint32_t dice = (uint32_t)((handle * 7919 + net_seq * 104729) % 1009);

	*data_size = dice % 11 == 0 ? 0 : dice % 5 == 0 ? dice * 1500 : dice * 7;
	*padding_size = dice % 3 == 0 ? 0 : dice % 3 == 1 ? dice : dice * 60;
}

static void *send_many(void *argument)
{
	struct many *many = argument;
	const int sender = __atomic_fetch_add(&many->next_sender, 1, __ATOMIC_RELAXED);

	for (uint64_t i = 0; i < PACKETS_PER_PEER; i++)
		for (int peer = sender; peer < PEER_COUNT; peer += SENDER_COUNT) {
			const uint64_t handle = (uint64_t)peer * STREAMS_PER_PEER + i % STREAMS_PER_PEER;
			uint32_t data_size, padding_size;

			sizes_of(handle, i / STREAMS_PER_PEER, &data_size, &padding_size);
			send_packet(many->peers[peer], handle, i / STREAMS_PER_PEER, data_size, padding_size);
		}
	for (int peer = sender; peer < PEER_COUNT; peer += SENDER_COUNT)
		close(many->peers[peer]);
	return NULL;
}

static void *revoke_many(void *argument)
{
	struct many *many = argument;
	uint64_t dice = 1;

	while (!many->is_over) {
		dice = dice * 6364136223846793005u + 1442695040888963407u;
		CHECK(tf_intake_revoke(many->intake, (dice >> 33) % STREAM_COUNT) == 0);
		poll(NULL, 0, 1);
	}
	return NULL;
}

static void many_target(struct many *many, uint64_t handle, bool is_next)
{
	struct tf_intake_target target;
	char name[64];

	many->files[handle] += is_next;
	snprintf(name, sizeof(name), "many_%d_%d", (int)handle, (int)many->files[handle]);
	target = target_of(name, is_next ? 0 : TF_INTAKE_KEEP_OFFSET);
	target.size_limit = FILE_LIMIT;
	target.group = 1 + handle / STREAMS_PER_PEER;
	CHECK(tf_intake_set_target(many->intake, handle, &target) == 0);
}

static void many_report(struct many *many, const struct tf_intake_report *report)
{
	const uint64_t handle = report->handle;
	struct record *record = &many->records[handle][many->counts[handle]];

	CHECK(handle < STREAM_COUNT && report->token == 1000 + handle / STREAMS_PER_PEER);
	if (report->kind == TF_INTAKE_PACKET) {
		CHECK(report->net_seq == many->counts[handle]++);
		*record = (struct record){ many->files[handle], report->offset, report->data_size, report->padding_size };
		many->bytes[handle] += report->data_size;
		return;
	}
	CHECK(report->kind == TF_INTAKE_HOLD);
	CHECK(report->reason == TF_INTAKE_FILE_FULL || report->reason == TF_INTAKE_NO_FILE);
	many_target(many, handle, report->reason == TF_INTAKE_FILE_FULL);
	CHECK(tf_intake_resume(many->intake, report->token) == 0);
}

/* Many connections, files that fill up, and somebody who takes descriptors away all the time. */
static void test_many(void)
{
	struct many *many = calloc(1, sizeof(*many));
	pthread_t senders[SENDER_COUNT], revoker;
	struct tf_intake_report reports[64];
	int open_count = PEER_COUNT;

	CHECK(many);
	many->intake = open_intake();
	for (int i = 0; i < PEER_COUNT; i++)
		many->peers[i] = add_peer(many->intake, 1000 + (uint64_t)i);
	for (uint64_t handle = 0; handle < STREAM_COUNT; handle++)
		many_target(many, handle, true);
	for (int i = 0; i < SENDER_COUNT; i++)
		CHECK(pthread_create(&senders[i], NULL, send_many, many) == 0);
	CHECK(pthread_create(&revoker, NULL, revoke_many, many) == 0);
	while (open_count > 0) {
		const int count = tf_intake_wait(many->intake, DEADLINE_MS, reports, 64);

		CHECK(count > 0);
		for (int i = 0; i < count; i++) {
			if (reports[i].kind != TF_INTAKE_CLOSED) {
				many_report(many, &reports[i]);
				continue;
			}
			CHECK(reports[i].error == 0 && tf_intake_close(many->intake, reports[i].token) == 0);
			open_count--;
		}
	}
	many->is_over = true;
	CHECK(pthread_join(revoker, NULL) == 0);
	for (int i = 0; i < SENDER_COUNT; i++)
		CHECK(pthread_join(senders[i], NULL) == 0);
	for (uint64_t handle = 0; handle < STREAM_COUNT; handle++) {
		const struct tf_intake_books books = books_of(many->intake, handle);
		uint64_t end = 0, file = 1;
		char name[64];

		snprintf(name, sizeof(name), "many_%d_1", (int)handle);
		CHECK(many->counts[handle] == PACKETS_PER_PEER / STREAMS_PER_PEER);
		CHECK(books.packet_count == many->counts[handle] && books.data_bytes == many->bytes[handle]);
		CHECK(books.cut_count == 0 && !books.is_under_way && books.received_bytes == 0);
		for (size_t i = 0; i < many->counts[handle]; i++) {
			const struct record *record = &many->records[handle][i];
			uint32_t data_size, padding_size;

			if (record->file != file) {
				CHECK(record->file > file && size_of(name) == end);
				file = record->file;
				end = 0;
			}
			snprintf(name, sizeof(name), "many_%d_%d", (int)handle, (int)record->file);
			sizes_of(handle, i, &data_size, &padding_size);
			CHECK(record->offset == end);
			CHECK(record->data_size == data_size && record->padding_size == padding_size);
			check_packet(name, record->offset, handle, i, data_size, padding_size);
			end += data_size + padding_size;
		}
		CHECK(size_of(name) == end && books.offset == end);
	}
	tf_intake_free(many->intake);
	free(many);
}

struct flood {
	int peer;
	uint64_t count;
};

static void *send_flood(void *argument)
{
	const struct flood *flood = argument;

	for (uint64_t i = 0; i < flood->count; i++)
		send_packet(flood->peer, 1, i, 0, 0);
	return NULL;
}

/* 32 bytes for a report is a bargain: the sender waits for who takes them. */
static void test_flood_of_empty_packets(void)
{
	struct tf_intake *intake = open_intake();
	struct flood flood = { .peer = add_peer(intake, 1), .count = 20000 };
	struct tf_intake_report reports[1000];
	struct pollfd event = { .fd = tf_intake_fd(intake), .events = POLLIN };
	uint64_t net_seq = 0;
	pthread_t thread;
	int count;

	set_target(intake, 1, "flood", 0);
	CHECK(poll(&event, 1, 0) == 0);
	CHECK(pthread_create(&thread, NULL, send_flood, &flood) == 0);
	for (int i = 0; books_of(intake, 1).packet_count < TF_INTAKE_REPORTS_PER_CONNECTION; i++) {
		CHECK(i < DEADLINE_MS);
		poll(NULL, 0, 1);
	}
	CHECK(poll(&event, 1, 0) == 1);
	while (net_seq < flood.count) {
		count = tf_intake_wait(intake, DEADLINE_MS, reports, 1000);
		CHECK(count > 0 && count <= TF_INTAKE_REPORTS_PER_CONNECTION);
		for (int i = 0; i < count; i++)
			CHECK(reports[i].kind == TF_INTAKE_PACKET && reports[i].net_seq == net_seq++);
	}
	CHECK(pthread_join(thread, NULL) == 0);
	CHECK(books_of(intake, 1).packet_count == flood.count);
	CHECK(poll(&event, 1, 0) == 0);
	tf_intake_wake(intake);
	CHECK(poll(&event, 1, 0) == 1 && tf_intake_wait(intake, -1, reports, 1000) == 0 && poll(&event, 1, 0) == 0);
	close(flood.peer);
	tf_intake_free(intake);
}

/* Slow and silent connections cost nobody anything: hundreds of them, and one that works. */
static void test_silent_connections(void)
{
	struct tf_intake *intake = open_intake();
	int peers[200];
	size_t size;
	uint8_t *bytes = make_packet(1, 0, 1000, 0, &size);

	for (uint64_t i = 0; i < 200; i++) {
		char name[32];

		snprintf(name, sizeof(name), "silent_%d", (int)i);
		set_target(intake, 100 + i, name, 0);
		put_header(bytes, 100 + i, 0, 1000, 0);
		peers[i] = add_peer(intake, i);
		send_bytes(peers[i], bytes, i % 3 == 0 ? 20 : i % 3 == 1 ? 32 : 500);
	}
	set_target(intake, 1, "loud", 0);
	{
		const int peer = add_peer(intake, 999);

		for (uint64_t i = 0; i < 100; i++) {
			send_packet(peer, 1, i, 100000, 0);
			expect_packet(intake, 999, 1, i, i * 100000);
		}
		close(peer);
		expect(intake, TF_INTAKE_CLOSED, 0, 0);
	}
	/* Closed all at once, connections and files. */
	tf_intake_free(intake);
	for (int i = 0; i < 200; i++)
		close(peers[i]);
	CHECK(size_of("silent_2") == 0);
	free(bytes);
}

/* Closing a connection whose peer does not stop to send, again and again. */
static void test_close_under_load(void)
{
	struct tf_intake *intake = open_intake();
	size_t size;
	uint8_t *bytes = make_packet(1, 0, 3000000, 0, &size);
	struct tf_intake_report report;

	for (uint64_t token = 0; token < 50; token++) {
		const int peer = add_peer(intake, token);
		uint64_t sent = 0;

		set_target(intake, 1, token % 2 ? "load1" : "load2", 0);
		CHECK(fcntl(peer, F_SETFL, O_NONBLOCK) == 0);
		while (sent < token * 40000) {
			const ssize_t count = send(peer, bytes + sent, token * 40000 - sent, MSG_NOSIGNAL);

			CHECK(count > 0 || errno == EAGAIN);
			sent += count > 0 ? (uint64_t)count : 0;
		}
		CHECK(tf_intake_close(intake, token) == 0);
		CHECK(size_of(token % 2 ? "load1" : "load2") == 0 && !books_of(intake, 1).is_under_way);
		close(peer);
	}
	while (tf_intake_wait(intake, 0, &report, 1) == 1)
		CHECK(report.kind == TF_INTAKE_HOLD || report.kind == TF_INTAKE_CLOSED);
	free(bytes);
	tf_intake_free(intake);
}

static void test_refusals(void)
{
	struct tf_intake *intake = open_intake();
	struct tf_intake_books books;
	int ends[2], fd = open_file("refusals", 0);

	connect_tcp(ends);
	CHECK(tf_intake_add(intake, fd, 1, TF_INTAKE_LTTNG, 0) == -ENOTSOCK);
	CHECK(tf_intake_add(intake, ends[0], 1, 17, 0) == -EINVAL);
	CHECK(tf_intake_add(intake, ends[0], 1, TF_INTAKE_LTTNG, 0) == 0);
	CHECK(tf_intake_add(intake, ends[1], 1, TF_INTAKE_LTTNG, 0) == -EEXIST);
	CHECK(tf_intake_resume(intake, 2) == -ENOENT && tf_intake_close(intake, 2) == -ENOENT);
	CHECK(tf_intake_revoke(intake, 2) == -ENOENT && tf_intake_set_stop(intake, 2, 0) == -ENOENT);
	CHECK(tf_intake_books(intake, 2, &books) == -ENOENT && tf_intake_remove(intake, 2) == -ENOENT);
	expect_nothing(intake);
	close(ends[1]);
	close(fd);
	tf_intake_free(intake);
	CHECK(tf_intake_create(-1, &intake) == -EINVAL);
	tf_intake_free(NULL);
}

int main(void)
{
	char command[96];

	snprintf(root, sizeof(root), "/tmp/tf-native-intake-XXXXXX");
	CHECK(mkdtemp(root));
	test_byte_by_byte();
	test_lying_lengths();
	test_ends();
	test_holds();
	test_revoke_and_move(2000);
	test_revoke_and_move(900000);
	test_flood_of_empty_packets();
	test_silent_connections();
	test_close_under_load();
	test_refusals();
	test_many();
	if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0) {
		test_full_disk(30000);
		test_full_disk(700000);
	}
	snprintf(command, sizeof(command), "rm -r %s", root);
	CHECK(system(command) == 0);
	return geteuid() == 0 ? 0 : 77;
}
