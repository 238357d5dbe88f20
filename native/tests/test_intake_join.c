/* Index entries that come on LTTng's control connections: joined with their packets, or given back in order. */
#include "intake_peer.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define REQUEST_SIZE 104
#define ENTRY_SIZE 72
#define HEADER_OF_INDEX_SIZE 16
#define GROUP 7
#define SEND_INDEX 13
#define BEACON UINT64_MAX

struct world {
	struct tf_intake *intake;
	int data, control; /* the peer's ends; tokens 1 and 2 */
	int lent;	   /* our end of the control connection */
};

static void put_request(uint8_t *bytes, uint64_t handle, uint64_t net_seq)
{
	const bool is_beacon = net_seq == BEACON;
	const uint64_t numbers[] = {
		0, 80, (uint64_t)SEND_INDEX << 32, handle, net_seq, is_beacon ? 0 : 800 + net_seq, 400 + net_seq,
		1000 + net_seq, is_beacon ? 77 : 2000 + net_seq, 3 * net_seq, 5, 6, 50 + net_seq
	};

	for (size_t i = 0; i < REQUEST_SIZE / 8; i++) {
		const uint64_t big = htobe64(numbers[i]);

		memcpy(bytes + 8 * i, &big, 8);
	}
}

static void send_index(const struct world *world, uint64_t handle, uint64_t net_seq)
{
	uint8_t bytes[REQUEST_SIZE];

	put_request(bytes, handle, net_seq);
	send_bytes(world->control, bytes, sizeof(bytes));
}

static void expect_replies(const struct world *world, size_t count)
{
	for (size_t i = 0; i < count; i++) {
		struct pollfd event = { .fd = world->control, .events = POLLIN };
		uint32_t status;

		CHECK(poll(&event, 1, DEADLINE_MS) == 1);
		CHECK(recv(world->control, &status, sizeof(status), MSG_WAITALL) == sizeof(status));
		CHECK(be32toh(status) == 10);
	}
}

static int open_index(const char *name)
{
	const int fd = open_file(name, 0);

	CHECK(ftruncate(fd, HEADER_OF_INDEX_SIZE) == 0);
	return fd;
}

static int join(const struct world *world, uint64_t handle, const char *name, uint64_t data_offset)
{
	const struct tf_intake_index index = { .fd = name ? open_index(name) : -1,
					       .offset = HEADER_OF_INDEX_SIZE,
					       .data_offset = data_offset };
	const int ret = tf_intake_join(world->intake, handle, &index);

	if (ret < 0 && index.fd >= 0)
		close(index.fd);
	return ret;
}

static void open_world(struct world *world, uint64_t group)
{
	int ends[2];

	world->intake = open_intake();
	world->data = add_peer(world->intake, 1);
	connect_tcp(ends);
	world->control = ends[0];
	world->lent = ends[1];
	CHECK(tf_intake_add(world->intake, world->lent, 2, TF_INTAKE_CONTROL, group) == 0);
}

static void set_stream(const struct world *world, uint64_t handle, const char *name)
{
	struct tf_intake_target target = target_of(name, 0);

	target.group = GROUP;
	CHECK(ftruncate(target.fd, 0) == 0);
	CHECK(tf_intake_set_target(world->intake, handle, &target) == 0);
}

static void close_world(struct world *world)
{
	close(world->data);
	close(world->control);
	CHECK(tf_intake_close(world->intake, 2) == 0);
	CHECK(fcntl(world->lent, F_GETFD) >= 0); /* it stayed ours */
	close(world->lent);
	tf_intake_free(world->intake);
}

static void check_entry(const char *name, size_t number, uint64_t offset, uint64_t net_seq)
{
	const uint64_t expected[ENTRY_SIZE / 8] = { offset,	    800 + net_seq, 400 + net_seq, 1000 + net_seq, 2000 + net_seq,
						    3 * net_seq, 5,		   6,		  50 + net_seq };
	uint64_t entry[ENTRY_SIZE / 8];
	const int fd = open_file(name, 0);

	CHECK(pread(fd, entry, sizeof(entry), (off_t)(HEADER_OF_INDEX_SIZE + number * ENTRY_SIZE)) == sizeof(entry));
	for (size_t i = 0; i < ENTRY_SIZE / 8; i++)
		CHECK(be64toh(entry[i]) == expected[i]);
	close(fd);
}

static void expect_entry(const struct world *world, uint64_t handle, uint64_t net_seq, uint64_t offset)
{
	const struct tf_intake_report report = expect(world->intake, TF_INTAKE_ENTRY, 0, 0);

	CHECK(report.token == 1 && report.handle == handle && report.net_seq == net_seq && report.offset == offset);
	CHECK(report.timestamp_end == 2000 + net_seq && report.stream_class_id == 5);
	CHECK(report.events_discarded == 3 * net_seq && report.packet_seq_num == 50 + net_seq);
	CHECK(report.packet_size == 800 + net_seq && report.content_size == 400 + net_seq);
	CHECK(report.timestamp_begin == 1000 + net_seq && report.stream_instance_id == 6);
}

static void expect_index(const struct world *world, uint64_t handle, uint64_t net_seq)
{
	const struct tf_intake_report report = expect(world->intake, TF_INTAKE_INDEX, 0, 0);

	CHECK(report.handle == handle && report.net_seq == net_seq && report.packet_seq_num == 50 + net_seq);
	CHECK(report.packet_size == 800 + net_seq && report.stream_instance_id == 6);
}

/* The connection is ours again: with these bytes, after so many bytes of replies. */
static void expect_back(const struct world *world, const uint8_t *bytes, size_t size)
{
	static uint8_t back[TF_INTAKE_BACK_SIZE_MAX];
	size_t reply_size;

	CHECK(expect(world->intake, TF_INTAKE_HOLD, TF_INTAKE_COMMAND, 0).token == 2);
	CHECK(tf_intake_take_back(world->intake, 2, back, &reply_size) == (int)size && reply_size == 0);
	CHECK(size == 0 || memcmp(back, bytes, size) == 0);
	CHECK(tf_intake_take_back(world->intake, 2, back, &reply_size) == 0);
}

/* Until the intake has read all that was sent to it. */
static void wait_read(const struct world *world)
{
	int unread = 1;

	for (int i = 0; unread > 0; i++) {
		CHECK(i < DEADLINE_MS && ioctl(world->lent, FIONREAD, &unread) == 0);
		poll(NULL, 0, unread > 0);
	}
}

/* ---- in good order ---- */

static void test_either_half_first(void)
{
	struct world world;

	open_world(&world, GROUP);
	set_stream(&world, 5, "either");
	CHECK(join(&world, 5, "either.idx", 0) == 0);
	/* Data first; the index entry comes byte by byte. */
	send_packet(world.data, 5, 0, 100, 28);
	for (int i = 0; books_of(world.intake, 5).packet_count < 1; i++)
		CHECK(i < DEADLINE_MS && poll(NULL, 0, 1) == 0);
	expect_nothing(world.intake);
	for (size_t at = 0; at < REQUEST_SIZE; at++) {
		uint8_t bytes[REQUEST_SIZE];

		put_request(bytes, 5, 0);
		send_bytes(world.control, bytes + at, 1);
		wait_read(&world);
	}
	expect_replies(&world, 1);
	expect_entry(&world, 5, 0, 0);
	check_entry("either.idx", 0, 0, 0);
	/* Index entries first, several at once. */
	send_index(&world, 5, 1);
	send_index(&world, 5, 2);
	expect_replies(&world, 2);
	expect_nothing(world.intake);
	send_packet(world.data, 5, 1, 300000, 0);
	send_packet(world.data, 5, 2, 1, 0);
	expect_entry(&world, 5, 1, 128);
	expect_entry(&world, 5, 2, 300128);
	check_entry("either.idx", 1, 128, 1);
	check_entry("either.idx", 2, 300128, 2);
	CHECK(size_of("either.idx") == HEADER_OF_INDEX_SIZE + 3 * ENTRY_SIZE);
	check_packet("either", 128, 5, 1, 300000, 0);
	/* Numbers that cross. */
	send_index(&world, 5, 4);
	expect_replies(&world, 1);
	send_packet(world.data, 5, 3, 1, 0);
	send_packet(world.data, 5, 4, 1, 0);
	expect_entry(&world, 5, 4, 300130);
	send_index(&world, 5, 3);
	expect_replies(&world, 1);
	expect_entry(&world, 5, 3, 300129);
	close_world(&world);
}

static void test_beacons(void)
{
	struct world world;
	struct tf_intake_report report;

	open_world(&world, GROUP);
	set_stream(&world, 5, "beacons");
	CHECK(join(&world, 5, NULL, 0) == 0);
	send_index(&world, 5, BEACON);
	expect_replies(&world, 1);
	report = expect(world.intake, TF_INTAKE_BEACON, 0, 0);
	CHECK(report.token == 2 && report.handle == 5 && report.timestamp_end == 77 && report.stream_class_id == 5);
	/* The first packet has nowhere to put its entry. */
	send_packet(world.data, 5, 0, 10, 0);
	expect_packet(world.intake, 1, 5, 0, 0);
	CHECK(join(&world, 5, "beacons.idx", 0) == -ESTALE);
	CHECK(join(&world, 5, "beacons.idx", 10) == 0 && join(&world, 5, "beacons.idx", 10) == -ESTALE);
	/* While a half waits, something older is on its way. */
	send_index(&world, 5, 1);
	send_index(&world, 5, BEACON);
	expect_replies(&world, 2);
	expect_nothing(world.intake);
	send_packet(world.data, 5, 1, 10, 0);
	expect_entry(&world, 5, 1, 10);
	send_index(&world, 5, BEACON);
	expect_replies(&world, 1);
	expect(world.intake, TF_INTAKE_BEACON, 0, 0);
	close_world(&world);
}

static void test_many(void)
{
	enum { COUNT = 300, STREAMS = 3 };
	struct world world;
	char name[32];

	open_world(&world, GROUP);
	for (uint64_t handle = 0; handle < STREAMS; handle++) {
		snprintf(name, sizeof(name), "many%d", (int)handle);
		set_stream(&world, handle, name);
		snprintf(name, sizeof(name), "many%d.idx", (int)handle);
		CHECK(join(&world, handle, name, 0) == 0);
	}
	for (uint64_t number = 0; number < COUNT; number++) {
		for (uint64_t handle = 0; handle < STREAMS; handle++) {
			const bool is_index_first = (number + handle) % 3 == 0;

			if (is_index_first)
				send_index(&world, handle, number);
			send_packet(world.data, handle, number, 500, 12);
			if (!is_index_first)
				send_index(&world, handle, number);
		}
		expect_replies(&world, STREAMS);
		for (size_t i = 0; i < STREAMS; i++)
			expect(world.intake, TF_INTAKE_ENTRY, 0, 0);
	}
	for (uint64_t handle = 0; handle < STREAMS; handle++) {
		snprintf(name, sizeof(name), "many%d.idx", (int)handle);
		CHECK(size_of(name) == HEADER_OF_INDEX_SIZE + COUNT * ENTRY_SIZE);
		for (uint64_t number = 0; number < COUNT; number++)
			check_entry(name, number, 512 * number, number);
	}
	close_world(&world);
}

/* A connection does not run ahead of reports that nobody takes. */
static void test_nobody_takes_reports(void)
{
	struct world world;
	struct tf_intake_report reports[TF_INTAKE_REPORTS_PER_CONNECTION * 2];
	const size_t count = TF_INTAKE_REPORTS_PER_CONNECTION + 100;
	size_t taken = 0;

	open_world(&world, GROUP);
	set_stream(&world, 5, "nobody");
	CHECK(join(&world, 5, NULL, 0) == 0);
	for (size_t i = 0; i < count; i++)
		send_index(&world, 5, BEACON);
	expect_replies(&world, TF_INTAKE_REPORTS_PER_CONNECTION);
	while (taken < count) {
		const int some = tf_intake_wait(world.intake, DEADLINE_MS, reports, 2 * TF_INTAKE_REPORTS_PER_CONNECTION);

		CHECK(some > 0 && some <= TF_INTAKE_REPORTS_PER_CONNECTION);
		taken += (size_t)some;
	}
	expect_replies(&world, 100);
	close_world(&world);
}

/* ---- what goes back ---- */

static void test_other_commands(void)
{
	uint8_t bytes[3 * REQUEST_SIZE + 5];
	struct world world;

	open_world(&world, GROUP);
	set_stream(&world, 5, "others");
	CHECK(join(&world, 5, "others.idx", 0) == 0);
	/* Behind an index entry: a lying length, which is not looked at, and the start of another entry. */
	put_request(bytes, 5, 0);
	memset(bytes + REQUEST_SIZE, 0xff, 40);
	put_request(bytes + REQUEST_SIZE + 40, 5, 1);
	send_bytes(world.control, bytes, REQUEST_SIZE + 40 + 50);
	expect_replies(&world, 1);
	expect_back(&world, bytes + REQUEST_SIZE, 90);
	/* It is not read until it is lent again. */
	send_index(&world, 5, 1);
	CHECK(tf_intake_resume(world.intake, 2) == 0);
	expect_replies(&world, 1);
	/* Right code, wrong sizes: with the first byte behind the header, it goes back. */
	for (uint64_t size = 0; size < 200; size += 20) {
		const uint64_t big = htobe64(size);

		if (size == 80)
			continue;
		put_request(bytes, 5, 9);
		memcpy(bytes + 8, &big, 8);
		send_bytes(world.control, bytes, 24);
		expect_back(&world, bytes, 24);
		CHECK(tf_intake_resume(world.intake, 2) == 0);
	}
	/* A stream that nobody knows, that is not joined, or of another session. */
	put_request(bytes, 6, 0);
	send_bytes(world.control, bytes, REQUEST_SIZE);
	expect_back(&world, bytes, REQUEST_SIZE);
	set_stream(&world, 6, "others6");
	CHECK(tf_intake_resume(world.intake, 2) == 0);
	send_bytes(world.control, bytes, REQUEST_SIZE);
	expect_back(&world, bytes, REQUEST_SIZE);
	/* The end. */
	CHECK(tf_intake_resume(world.intake, 2) == 0);
	CHECK(shutdown(world.control, SHUT_WR) == 0);
	expect_back(&world, NULL, 0);
	close_world(&world);

	open_world(&world, GROUP + 1);
	set_stream(&world, 5, "others");
	CHECK(join(&world, 5, "others.idx", 0) == 0);
	put_request(bytes, 5, 0);
	send_bytes(world.control, bytes, REQUEST_SIZE);
	expect_back(&world, bytes, REQUEST_SIZE);
	CHECK(join(&world, 5, "others.idx", 0) == -ESTALE); /* and it changed nothing */
	close_world(&world);
}

static void test_out_of_order(void)
{
	uint8_t bytes[REQUEST_SIZE];
	struct world world;

	open_world(&world, GROUP);
	set_stream(&world, 5, "order");
	CHECK(join(&world, 5, "order.idx", 0) == 0);
	/* An index entry twice, and one without a number. */
	send_index(&world, 5, 3);
	expect_replies(&world, 1);
	put_request(bytes, 5, 3);
	send_bytes(world.control, bytes, REQUEST_SIZE);
	expect_index(&world, 5, 3);
	expect_back(&world, bytes, REQUEST_SIZE);
	CHECK(join(&world, 5, "order.idx", 0) == 0 && tf_intake_resume(world.intake, 2) == 0);
	memset(bytes + 32, 0xff, 8);
	send_bytes(world.control, bytes, REQUEST_SIZE);
	expect_back(&world, bytes, REQUEST_SIZE);
	/* A packet twice. */
	CHECK(join(&world, 5, "order.idx", 0) == 0 && tf_intake_resume(world.intake, 2) == 0);
	send_packet(world.data, 5, 8, 10, 0);
	send_packet(world.data, 5, 8, 10, 0);
	expect_packet(world.intake, 1, 5, 8, 0);
	expect_packet(world.intake, 1, 5, 8, 10);
	send_packet(world.data, 5, 9, 10, 0);
	expect_packet(world.intake, 1, 5, 9, 20);
	/* More halves than are on their way in good order, of either kind, in the order in which they came. */
	CHECK(join(&world, 5, "order.idx", 30) == 0);
	for (uint64_t i = 0; i < 65; i++)
		send_packet(world.data, 5, 100 + i, 1, 0);
	for (uint64_t i = 0; i < 65; i++)
		expect_packet(world.intake, 1, 5, 100 + i, 30 + i);
	CHECK(join(&world, 5, "order.idx", 95) == 0);
	for (uint64_t i = 0; i < 65; i++)
		send_index(&world, 5, 200 + i);
	expect_replies(&world, 64);
	for (uint64_t i = 0; i < 64; i++)
		expect_index(&world, 5, 200 + i);
	put_request(bytes, 5, 264);
	expect_back(&world, bytes, REQUEST_SIZE);
	CHECK(size_of("order.idx") == HEADER_OF_INDEX_SIZE);
	close_world(&world);
}

/* What the caller does with the stream ends it; what waits comes first. */
static void test_caller_ends_it(void)
{
	struct world world;

	open_world(&world, GROUP);
	for (int i = 0; i < 4; i++) {
		set_stream(&world, (uint64_t)i, "caller");
		CHECK(join(&world, (uint64_t)i, "caller.idx", 0) == 0);
		send_index(&world, (uint64_t)i, 6);
		expect_replies(&world, 1);
		if (i == 0)
			CHECK(tf_intake_unjoin(world.intake, 0) == 0);
		else if (i == 1)
			CHECK(tf_intake_set_stop(world.intake, 1, 100) == 0);
		else if (i == 2)
			set_target(world.intake, 2, "caller-next", 0);
		else
			CHECK(tf_intake_remove(world.intake, 3) == 0);
		expect_index(&world, (uint64_t)i, 6);
		expect_nothing(world.intake);
	}
	CHECK(join(&world, 1, "caller.idx", 0) == -ESTALE); /* it has a stop number */
	CHECK(join(&world, 3, "caller.idx", 0) == -ENOENT && tf_intake_unjoin(world.intake, 3) == -ENOENT);
	/* Without its data file for a while, it goes on where it was. */
	set_stream(&world, 4, "caller4");
	CHECK(join(&world, 4, "caller4.idx", 0) == 0);
	send_index(&world, 4, 0);
	expect_replies(&world, 1);
	CHECK(tf_intake_revoke(world.intake, 4) == 0);
	send_packet(world.data, 4, 0, 10, 0);
	expect(world.intake, TF_INTAKE_HOLD, TF_INTAKE_NO_FILE, 0);
	{
		struct tf_intake_target target = target_of("caller4", TF_INTAKE_KEEP_OFFSET);

		target.group = GROUP;
		CHECK(tf_intake_set_target(world.intake, 4, &target) == 0 && tf_intake_resume(world.intake, 1) == 0);
	}
	expect_entry(&world, 4, 0, 0);
	close_world(&world);
}

/* A peer that does not read its replies: what the socket does not take goes back, and nothing is read. */
static void test_replies_unread(void)
{
	static uint8_t back[TF_INTAKE_BACK_SIZE_MAX], burst[512 * REQUEST_SIZE];
	struct tf_intake_report report = { 0 };
	struct world world;
	size_t reply_size, unread = 0, sent = 0;
	const int little = 1;

	open_world(&world, GROUP);
	CHECK(setsockopt(world.lent, SOL_SOCKET, SO_SNDBUF, &little, sizeof(little)) == 0);
	CHECK(setsockopt(world.control, SOL_SOCKET, SO_RCVBUF, &little, sizeof(little)) == 0);
	set_stream(&world, 5, "unread");
	CHECK(join(&world, 5, "unread.idx", 0) == 0);
	/* Beacons while a half waits need no report. */
	send_index(&world, 5, 0);
	for (size_t i = 0; i < 512; i++)
		put_request(burst + i * REQUEST_SIZE, 5, BEACON);
	while (report.kind != TF_INTAKE_HOLD) {
		const ssize_t count = send(world.control, burst + sent % sizeof(burst), sizeof(burst) - sent % sizeof(burst),
					   MSG_DONTWAIT | MSG_NOSIGNAL);

		CHECK(count > 0 || errno == EAGAIN);
		sent += count > 0 ? (size_t)count : 0;
		tf_intake_wait(world.intake, 1, &report, 1);
	}
	CHECK(report.reason == TF_INTAKE_COMMAND);
	CHECK(tf_intake_take_back(world.intake, 2, back, &reply_size) >= (int)reply_size && reply_size > 0);
	/* Every reply that went out, then those that came back. */
	for (struct pollfd event = { .fd = world.control, .events = POLLIN }; poll(&event, 1, 0) == 1;) {
		uint8_t some[4096];
		const ssize_t count = recv(world.control, some, sizeof(some), 0);

		CHECK(count > 0);
		unread += (size_t)count;
	}
	CHECK((unread + reply_size) % 4 == 0 && back[reply_size - 1] == 10);
	close_world(&world);
}

static void test_no_room(void)
{
	char place[96];
	struct world world;
	uint8_t bytes[REQUEST_SIZE];

	snprintf(place, sizeof(place), "%s/small", root);
	CHECK(mkdir(place, 0700) == 0);
	CHECK(mount("none", place, "tmpfs", 0, "size=4096") == 0);
	open_world(&world, GROUP);
	set_stream(&world, 5, "room");
	CHECK(join(&world, 5, "small/idx", 0) == 0);
	for (uint64_t i = 0; i < (4096 - HEADER_OF_INDEX_SIZE) / ENTRY_SIZE; i++) {
		send_packet(world.data, 5, i, 10, 0);
		send_index(&world, 5, i);
		expect_entry(&world, 5, i, 10 * i);
		expect_replies(&world, 1);
	}
	/* The next entry does not fit as a whole: both halves come back, and nothing is left of it. */
	send_index(&world, 5, 56);
	expect_replies(&world, 1);
	send_packet(world.data, 5, 56, 10, 0);
	expect_index(&world, 5, 56);
	expect_packet(world.intake, 1, 5, 56, 560);
	CHECK(size_of("small/idx") == HEADER_OF_INDEX_SIZE + 56 * ENTRY_SIZE);
	{
		const struct tf_intake_index index = { .fd = open_file("small/idx", 0),
						       .offset = HEADER_OF_INDEX_SIZE + 56 * ENTRY_SIZE,
						       .data_offset = 570 };

		CHECK(tf_intake_join(world.intake, 5, &index) == 0);
	}
	send_packet(world.data, 5, 57, 10, 0);
	for (int i = 0; books_of(world.intake, 5).packet_count < 58; i++)
		CHECK(i < DEADLINE_MS && poll(NULL, 0, 1) == 0);
	put_request(bytes, 5, 57);
	send_bytes(world.control, bytes, REQUEST_SIZE);
	expect_packet(world.intake, 1, 5, 57, 570);
	expect_back(&world, bytes, REQUEST_SIZE);
	CHECK(size_of("small/idx") == HEADER_OF_INDEX_SIZE + 56 * ENTRY_SIZE);
	close_world(&world);
	CHECK(umount2(place, MNT_DETACH) == 0);
}

/*
 * Requests that are damaged at random, in pieces of any size: those that are carried out have a reply each, and what follows
 * them comes back, byte for byte.
 */
static void test_fuzz(void)
{
	static const size_t places[] = { 8, 15, 16, 19, 24, 31, 32, 39 }; /* in size, command, handle and number */
	static uint8_t bytes[41 * REQUEST_SIZE], back[TF_INTAKE_BACK_SIZE_MAX];
	uint32_t seed = 1;

	for (int round = 0; round < 300; round++) {
		struct tf_intake_report report = { 0 };
		size_t at = 0, good = 0, reply_size;
		bool is_damaged = false;
		struct world world;
		int count, replies;

		open_world(&world, GROUP);
		set_stream(&world, 5, "fuzz");
		CHECK(join(&world, 5, "fuzz.idx", 0) == 0);
		memset(bytes, 0, sizeof(bytes)); /* at the end, a request that is none of ours */
		for (uint64_t i = 0; i < 40; i++) {
			put_request(bytes + i * REQUEST_SIZE, 5, i);
			seed = seed * 1664525 + 1013904223;
			if (seed >> 28 == 0) {
				bytes[i * REQUEST_SIZE + places[(seed >> 8) % 8]] ^= (uint8_t)(seed >> 16 | 1);
				is_damaged = true;
			}
			good += !is_damaged;
		}
		while (at < sizeof(bytes)) {
			size_t part;

			seed = seed * 1664525 + 1013904223;
			part = (seed >> 16) % 300 + 1;
			if (part > sizeof(bytes) - at)
				part = sizeof(bytes) - at;
			send_bytes(world.control, bytes + at, part);
			at += part;
		}
		while (report.kind != TF_INTAKE_HOLD)
			CHECK(tf_intake_wait(world.intake, DEADLINE_MS, &report, 1) == 1);
		CHECK(report.reason == TF_INTAKE_COMMAND);
		count = tf_intake_take_back(world.intake, 2, back, &reply_size);
		CHECK(count > 0 && reply_size == 0 && ioctl(world.control, FIONREAD, &replies) == 0 && replies % 4 == 0);
		at = (size_t)replies / 4 * REQUEST_SIZE;
		CHECK((size_t)replies / 4 >= good && at + (size_t)count <= sizeof(bytes));
		CHECK(memcmp(back, bytes + at, (size_t)count) == 0);
		close_world(&world);
	}
}

int main(void)
{
	char command[96];

	snprintf(root, sizeof(root), "/tmp/tf-native-join-XXXXXX");
	CHECK(mkdtemp(root));
	test_either_half_first();
	test_beacons();
	test_many();
	test_nobody_takes_reports();
	test_other_commands();
	test_out_of_order();
	test_caller_ends_it();
	test_replies_unread();
	test_fuzz();
	if (unshare(CLONE_NEWNS) == 0 && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
		test_no_room();
	snprintf(command, sizeof(command), "rm -r %s", root);
	CHECK(system(command) == 0);
	return geteuid() == 0 ? 0 : 77;
}
