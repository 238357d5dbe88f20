/* What is handed over arrives once and in order, and is kept until it was acknowledged, whatever the peer does. */
#include "trace.h"

#include "clock.h"
#include "crc32c.h"
#include "fleet.h"
#include "output.h"

#include <tracefleet/fleet_frame.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEADLINE_MS 20000
#define PACKET_SIZE 65536
#define CONTENT_SIZE (PACKET_SIZE - 1001)
#define CAPACITY 64
/* What the relay daemon calls the stream of a key. */
#define HANDLE(key) (1000 + 7 * (uint64_t)(key))

struct ring { /* one stream whose packets are in memory of its own */
	uint32_t key;
	uint8_t *bytes;
	int wakeup[2];
	uint64_t given_count;
	int settle_count;
};

static char spool_directory[] = "/tmp/tf-native-spool-XXXXXX";
static bool comes_from_spool; /* what is read next */

static struct tf_fleet *open_spooling(uint64_t size_limit)
{
	struct tf_fleet *fleet;
	bool is_damaged;

	CHECK(tf_fleet_create(spool_directory, size_limit, &fleet, &is_damaged) == 0 && !is_damaged);
	return fleet;
}

static struct tf_fleet *open_fleet(void)
{
	struct tf_fleet *fleet;
	bool is_damaged;

	CHECK(tf_fleet_create(NULL, 0, &fleet, &is_damaged) == 0 && !is_damaged);
	return fleet;
}

static uint8_t content_at(uint32_t key, uint64_t sequence, size_t at)
{
	return (uint8_t)(key * 101 + sequence * 31 + at * 7 % 251);
}

/* It leaves every second thing to the pipe. */
static bool settle(void *argument)
{
	struct ring *ring = argument;
	const ssize_t ret = ++ring->settle_count % 2 ? write(ring->wakeup[1], "", 1) : 0;

	return ret == 1;
}

static void open_ring(struct ring *ring, struct tf_fleet *fleet)
{
	const int key = tf_fleet_add_stream(fleet);

	CHECK(key >= 0);
	*ring = (struct ring){ .key = (uint32_t)key };
	ring->bytes = mmap(NULL, CAPACITY * PACKET_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(ring->bytes != MAP_FAILED && pipe2(ring->wakeup, O_CLOEXEC | O_NONBLOCK) == 0);
	CHECK(tf_fleet_open_source(fleet, ring->key, CAPACITY, settle, ring, ring->wakeup[1]) == 0);
	CHECK(tf_fleet_open_source(fleet, ring->key, CAPACITY, settle, ring, ring->wakeup[1]) == -EBUSY);
}

static void close_ring(struct ring *ring, struct tf_fleet *fleet)
{
	tf_fleet_take_back(fleet, ring->key);
	munmap(ring->bytes, CAPACITY * PACKET_SIZE);
	close(ring->wakeup[0]);
	close(ring->wakeup[1]);
}

static void give(struct ring *ring, struct tf_fleet *fleet, int count)
{
	struct tf_packet packets[TF_PACKETS_PER_WRITE];

	for (int i = 0; i < count; i++) {
		const uint64_t sequence = ring->given_count++;
		uint8_t *bytes = ring->bytes + sequence % CAPACITY * PACKET_SIZE;

		for (size_t at = 0; at < PACKET_SIZE; at++)
			bytes[at] = content_at(ring->key, sequence, at);
		packets[i] = (struct tf_packet){ .bytes = bytes,
						 .size = PACKET_SIZE,
						 .content_size_bits = CONTENT_SIZE * 8 - 3,
						 .timestamp_begin = 10 + sequence,
						 .timestamp_end = 20 + sequence,
						 .events_discarded = 5,
						 .sequence_number = 100 + sequence };
	}
	CHECK(tf_fleet_give(fleet, ring->key, 3, 1, packets, count) == 0);
}

static uint64_t safe_sequence(struct tf_fleet *fleet, const struct ring *ring)
{
	struct tf_fleet_progress progress;

	tf_fleet_progress(fleet, ring->key, &progress);
	CHECK(!progress.is_unreadable);
	return progress.safe_sequence;
}

/* The ring's pipe says that there is something to see, and there is. */
static void expect_safe(struct tf_fleet *fleet, struct ring *ring, uint64_t sequence)
{
	struct pollfd readable = { .fd = ring->wakeup[0], .events = POLLIN };
	uint64_t seen = safe_sequence(fleet, ring);
	char bytes[64];

	while (seen < sequence) {
		CHECK(poll(&readable, 1, DEADLINE_MS) == 1 && read(ring->wakeup[0], bytes, sizeof(bytes)) > 0);
		seen = safe_sequence(fleet, ring);
	}
	CHECK(seen == sequence);
}

static void connect_sockets(int ends[2])
{
	struct sockaddr_in address = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t size = sizeof(address);
	const int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), small = 16384;

	/* Little room, so that packets are sent in pieces. */
	CHECK(setsockopt(listener, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)) == 0);
	CHECK(bind(listener, (struct sockaddr *)&address, size) == 0 && listen(listener, 1) == 0);
	CHECK(getsockname(listener, (struct sockaddr *)&address, &size) == 0);
	ends[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	CHECK(setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &small, sizeof(small)) == 0);
	CHECK(connect(ends[0], (struct sockaddr *)&address, size) == 0);
	ends[1] = accept(listener, NULL, NULL);
	CHECK(ends[1] >= 0);
	close(listener);
}

/* Attach with the first @count streams, all of which the peer has up to @next_sequence. Returns the peer's end. */
static int attach(struct tf_fleet *fleet, uint32_t count, uint64_t next_sequence)
{
	struct tf_fleet_binding bindings[16];
	int ends[2];

	for (uint32_t key = 0; key < count; key++)
		bindings[key] = (struct tf_fleet_binding){ key, HANDLE(key), next_sequence };
	connect_sockets(ends);
	CHECK(tf_fleet_attach(fleet, ends[0], bindings, count) == 0);
	return ends[1];
}

static struct tf_fleet_books books_of(struct tf_fleet *fleet)
{
	struct tf_fleet_books books;

	tf_fleet_books(fleet, &books);
	return books;
}

static void expect_lost(struct tf_fleet *fleet, int error)
{
	struct pollfd readable = { .fd = tf_fleet_fd(fleet), .events = POLLIN };

	CHECK(poll(&readable, 1, DEADLINE_MS) == 1);
	CHECK(!books_of(fleet).is_attached);
	if (books_of(fleet).error != error)
		fprintf(stderr, "lost because of %d\n", books_of(fleet).error);
	CHECK(books_of(fleet).error == error);
}

static void read_whole(int fd, void *buffer, size_t size)
{
	uint8_t *next = buffer;

	while (size > 0) {
		struct pollfd readable = { .fd = fd, .events = POLLIN };
		ssize_t got;

		CHECK(poll(&readable, 1, DEADLINE_MS) == 1);
		got = read(fd, next, size);
		CHECK(got > 0);
		next += got;
		size -= (size_t)got;
	}
}

static struct tf_fleet_header read_header(int fd)
{
	struct tf_fleet_header header;
	uint32_t crc;

	read_whole(fd, &header, sizeof(header));
	crc = le32toh(header.header_crc);
	header.header_crc = 0;
	CHECK(le32toh(header.magic) == TF_FLEET_HEADER_MAGIC && tf_crc32c(0, &header, sizeof(header)) == crc);
	return header;
}

static void check_header(const struct tf_fleet_header *header, const struct ring *ring, uint64_t sequence)
{
	CHECK(le64toh(header->handle) == HANDLE(ring->key) && le64toh(header->sequence) == sequence);
	CHECK(le32toh(header->data_size) == CONTENT_SIZE && le32toh(header->padding_size) == PACKET_SIZE - CONTENT_SIZE);
	CHECK(header->flags == 0);
	CHECK(le64toh(header->packet_size) == PACKET_SIZE * 8 && le64toh(header->content_size) == CONTENT_SIZE * 8 - 3);
	CHECK(le64toh(header->timestamp_begin) == 10 + sequence && le64toh(header->timestamp_end) == 20 + sequence);
	CHECK(le64toh(header->events_discarded) == 5 && le64toh(header->stream_class_id) == 3);
	CHECK(le64toh(header->stream_instance_id) == 1 && le64toh(header->packet_seq_num) == 100 + sequence);
}

static void expect_packet(int fd, const struct ring *ring, uint64_t sequence)
{
	static uint8_t content[CONTENT_SIZE];
	const struct tf_fleet_header header = read_header(fd);

	check_header(&header, ring, sequence);
	read_whole(fd, content, sizeof(content));
	for (size_t at = 0; at < sizeof(content); at++)
		CHECK(content[at] == content_at(ring->key, sequence, at));
	CHECK(le32toh(header.payload_crc) == (comes_from_spool ? tf_crc32c(0, content, sizeof(content)) : 0));
}

/* Whatever comes next, of whatever stream. Returns its header. */
static struct tf_fleet_header take_any(int fd)
{
	static uint8_t content[CONTENT_SIZE];
	const struct tf_fleet_header header = read_header(fd);

	CHECK(le32toh(header.data_size) <= sizeof(content));
	read_whole(fd, content, le32toh(header.data_size));
	return header;
}

static void expect_nothing(int fd)
{
	uint8_t byte;

	CHECK(recv(fd, &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0 && errno == EAGAIN);
}

static void expect_end(int fd)
{
	uint8_t bytes[4096];
	ssize_t got;

	do {
		struct pollfd readable = { .fd = fd, .events = POLLIN };

		CHECK(poll(&readable, 1, DEADLINE_MS) == 1);
		got = recv(fd, bytes, sizeof(bytes), 0);
	} while (got > 0);
	close(fd);
}

static void answer(int fd, uint32_t status, uint64_t handle, uint64_t sequence)
{
	const struct tf_fleet_ack ack = { .magic = htole32(TF_FLEET_ACK_MAGIC),
					  .status = htole32(status),
					  .handle = htole64(handle),
					  .sequence = htole64(sequence) };

	/* In pieces: it is a stream. */
	CHECK(send(fd, &ack, 5, MSG_NOSIGNAL) == 5);
	CHECK(send(fd, (const uint8_t *)&ack + 5, sizeof(ack) - 5, MSG_NOSIGNAL) == sizeof(ack) - 5);
}

static void acknowledge(int fd, const struct ring *ring, uint64_t sequence)
{
	answer(fd, sequence % 2 ? TF_FLEET_WRITTEN : TF_FLEET_SYNCED, HANDLE(ring->key), sequence);
}

static void test_packets_wait_for_their_acknowledgement(void)
{
	struct tf_fleet *fleet = open_fleet();
	struct tf_fleet_stream_state state;
	struct tf_fleet_books books;
	struct ring ring;
	int peer;

	CHECK(tf_fleet_is_settled(fleet, false));
	open_ring(&ring, fleet);
	give(&ring, fleet, 2); /* before anybody is there */
	CHECK(!tf_fleet_is_settled(fleet, false));
	expect_lost(fleet, 0);
	peer = attach(fleet, 1, 0);
	CHECK(books_of(fleet).is_attached);
	expect_packet(peer, &ring, 0);
	give(&ring, fleet, 3);
	for (uint64_t sequence = 1; sequence < 5; sequence++)
		expect_packet(peer, &ring, sequence);
	expect_nothing(peer);
	CHECK(safe_sequence(fleet, &ring) == 0);
	acknowledge(peer, &ring, 0);
	expect_safe(fleet, &ring, 1);
	answer(peer, TF_FLEET_WRITTEN, HANDLE(0), TF_FLEET_NO_SEQUENCE); /* says nothing */
	acknowledge(peer, &ring, 0);					   /* again */
	acknowledge(peer, &ring, 3);
	expect_safe(fleet, &ring, 4);
	CHECK(tf_fleet_stream_state(fleet, ring.key, &state) == 0);
	CHECK(state.oldest_sequence == 4 && state.acknowledged_sequence == 4 && state.next_sequence == 5);
	CHECK(tf_fleet_stream_state(fleet, 1, &state) == -ENOENT);
	CHECK(!tf_fleet_is_settled(fleet, true));
	acknowledge(peer, &ring, 4);
	expect_safe(fleet, &ring, 5);
	CHECK(tf_fleet_is_settled(fleet, false));
	books = books_of(fleet);
	CHECK(books.sent_count == 5 && books.sent_bytes == 5 * PACKET_SIZE && books.resent_count == 0);
	CHECK(books.acknowledged_count == 5 && books.acknowledged_bytes == 5 * PACKET_SIZE && books.error == 0);
	tf_fleet_detach(fleet);
	expect_lost(fleet, -ENOTCONN);
	expect_end(peer);
	close_ring(&ring, fleet);
	tf_fleet_put(fleet);
}

static void test_another_connection_goes_on(void)
{
	struct tf_fleet *fleet = open_fleet();
	struct tf_fleet_binding binding;
	struct tf_fleet_books books;
	struct ring rings[3];
	int peer, ends[2];

	for (int i = 0; i < 3; i++)
		open_ring(&rings[i], fleet);
	for (int i = 0; i < 4; i++)
		for (int ring = 0; ring < 2; ring++)
			give(&rings[ring], fleet, 1);
	peer = attach(fleet, 2, 0);
	for (uint64_t sequence = 0; sequence < 2; sequence++)
		for (int ring = 0; ring < 2; ring++)
			expect_packet(peer, &rings[ring], sequence);
	CHECK(read_header(peer).sequence == htole64(2)); /* it dies in the middle of a packet */
	acknowledge(peer, &rings[0], 0);
	expect_safe(fleet, &rings[0], 1);
	connect_sockets(ends);
	CHECK(tf_fleet_attach(fleet, ends[0], NULL, 0) == -EISCONN);
	close(peer);
	{
		struct pollfd readable = { .fd = tf_fleet_fd(fleet), .events = POLLIN };

		CHECK(poll(&readable, 1, DEADLINE_MS) == 1 && books_of(fleet).error < 0);
	}
	/* What cannot be is refused, and leaves it as it was. */
	binding = (struct tf_fleet_binding){ 7, 1, 0 };
	CHECK(tf_fleet_attach(fleet, ends[0], &binding, 1) == -ENOENT);
	binding = (struct tf_fleet_binding){ 0, 1, 5 };
	CHECK(tf_fleet_attach(fleet, ends[0], &binding, 1) == -EPROTO);
	CHECK(tf_fleet_bind(fleet, &binding) == -ENOTCONN);
	close(ends[0]);
	close(ends[1]);

	/* It has two of each: the second of these was not acknowledged here. One stream comes late. */
	peer = attach(fleet, 2, 2);
	expect_safe(fleet, &rings[0], 2);
	expect_safe(fleet, &rings[1], 2);
	for (uint64_t sequence = 2; sequence < 4; sequence++)
		for (int ring = 0; ring < 2; ring++)
			expect_packet(peer, &rings[ring], sequence);
	give(&rings[2], fleet, 1);
	give(&rings[0], fleet, 1);
	expect_packet(peer, &rings[0], 4);
	binding = (struct tf_fleet_binding){ 2, HANDLE(1), 0 };
	CHECK(tf_fleet_bind(fleet, &binding) == -EEXIST);
	binding = (struct tf_fleet_binding){ 1, HANDLE(2), 0 };
	CHECK(tf_fleet_bind(fleet, &binding) == -EEXIST);
	binding = (struct tf_fleet_binding){ 2, HANDLE(2), 0 };
	CHECK(tf_fleet_bind(fleet, &binding) == 0);
	expect_packet(peer, &rings[2], 0);
	acknowledge(peer, &rings[0], 4);
	acknowledge(peer, &rings[1], 3);
	acknowledge(peer, &rings[2], 0);
	expect_safe(fleet, &rings[0], 5);
	expect_safe(fleet, &rings[1], 4);
	expect_safe(fleet, &rings[2], 1);
	books = books_of(fleet);
	CHECK(books.sent_count == 10 && books.acknowledged_count == 10);
	CHECK(books.resent_count == 0 || books.resent_count == 1); /* whether it saw the end in the middle of a third */
	for (int i = 0; i < 3; i++)
		close_ring(&rings[i], fleet);
	tf_fleet_put(fleet);
	expect_end(peer);
}

static void test_refusals(void)
{
	struct tf_fleet *fleet = open_fleet();
	struct ring rings[2];
	int peer;

	open_ring(&rings[0], fleet);
	open_ring(&rings[1], fleet);
	peer = attach(fleet, 2, 0);
	give(&rings[0], fleet, 4);
	give(&rings[1], fleet, 1);
	for (uint64_t sequence = 0; sequence < 4; sequence++)
		expect_packet(peer, &rings[0], sequence);
	expect_packet(peer, &rings[1], 0);
	/* The second was damaged on its way, and those behind it came in vain. */
	answer(peer, TF_FLEET_CORRUPT, HANDLE(0), 0);
	for (uint64_t sequence = 1; sequence < 4; sequence++)
		expect_packet(peer, &rings[0], sequence);
	CHECK(safe_sequence(fleet, &rings[0]) == 0); /* a refusal stands for nothing */
	answer(peer, TF_FLEET_GAP, HANDLE(0), TF_FLEET_NO_SEQUENCE);
	for (uint64_t sequence = 0; sequence < 4; sequence++)
		expect_packet(peer, &rings[0], sequence);
	acknowledge(peer, &rings[0], 3);
	acknowledge(peer, &rings[1], 0);
	expect_safe(fleet, &rings[0], 4);
	expect_safe(fleet, &rings[1], 1);
	expect_nothing(peer);
	CHECK(books_of(fleet).resent_count == 7 && books_of(fleet).sent_count == 5);
	answer(peer, TF_FLEET_GAP, HANDLE(0), 1); /* late, and of no meaning any more */
	give(&rings[1], fleet, 1);
	expect_packet(peer, &rings[1], 1);
	acknowledge(peer, &rings[1], 1);
	expect_safe(fleet, &rings[1], 2); /* so it has seen the other as well */
	give(&rings[0], fleet, 1);
	expect_packet(peer, &rings[0], 4);
	answer(peer, TF_FLEET_GAP, HANDLE(0), 2); /* of what is acknowledged, and gone */
	expect_lost(fleet, -EPROTO);
	expect_end(peer);
	close_ring(&rings[0], fleet);
	close_ring(&rings[1], fleet);
	tf_fleet_put(fleet);
}

static void test_answers_that_cannot_be(void)
{
	static const uint8_t noise[sizeof(struct tf_fleet_ack)] = "HTTP/1.1 400 Bad Reques";
	struct tf_fleet *fleet = open_fleet();
	struct ring ring;

	open_ring(&ring, fleet);
	give(&ring, fleet, 1);
	for (int i = 0; i < 5; i++) {
		const int peer = attach(fleet, 1, 0);

		expect_packet(peer, &ring, 0);
		if (i == 0)
			answer(peer, TF_FLEET_WRITTEN, HANDLE(1), 0); /* nobody's */
		else if (i == 1)
			answer(peer, TF_FLEET_WRITTEN, HANDLE(0), 1); /* not sent */
		else if (i == 2)
			answer(peer, TF_FLEET_GAP, HANDLE(0), 1);
		else if (i == 3)
			answer(peer, 9, HANDLE(0), 0);
		else
			CHECK(send(peer, noise, sizeof(noise), MSG_NOSIGNAL) == sizeof(noise));
		expect_lost(fleet, -EPROTO);
		expect_end(peer);
		CHECK(safe_sequence(fleet, &ring) == 0);
	}
	close_ring(&ring, fleet);
	tf_fleet_put(fleet);
}

/* A ring buffer goes away while a packet of it is half sent to a peer that does not read. */
static void test_a_ring_buffer_that_is_closed(void)
{
	struct tf_fleet *fleet = open_fleet();
	struct tf_fleet_stream_state state;
	struct ring rings[2];
	int peer;

	open_ring(&rings[0], fleet);
	open_ring(&rings[1], fleet);
	peer = attach(fleet, 2, 0);
	give(&rings[0], fleet, CAPACITY); /* more than goes anywhere by itself */
	CHECK(read_header(peer).sequence == 0);
	close_ring(&rings[0], fleet);
	expect_lost(fleet, -ECONNABORTED);
	expect_end(peer);
	CHECK(tf_fleet_is_settled(fleet, false));
	CHECK(tf_fleet_stream_state(fleet, 0, &state) == 0);
	CHECK(state.oldest_sequence == CAPACITY && state.acknowledged_sequence == 0 && state.next_sequence == CAPACITY);
	give(&rings[1], fleet, 1);
	peer = attach(fleet, 2, 0);
	expect_packet(peer, &rings[1], 0);
	/* One that was sent before its ring buffer was closed may be acknowledged later. */
	close_ring(&rings[1], fleet);
	CHECK(books_of(fleet).is_attached);
	acknowledge(peer, &rings[1], 0);
	do {
		CHECK(tf_fleet_stream_state(fleet, 1, &state) == 0);
		poll(NULL, 0, 1);
	} while (state.acknowledged_sequence == 0);
	CHECK(tf_fleet_is_settled(fleet, false));
	tf_fleet_put(fleet);
	expect_end(peer);
}

/* An application truncates the memory of its ring buffer. */
static void test_memory_that_vanishes(void)
{
	struct tf_fleet *fleet = open_fleet();
	struct tf_fleet_progress progress;
	struct tf_packet packets[3];
	struct pollfd readable;
	struct ring ring, other;
	const int memory = memfd_create("ring", MFD_CLOEXEC);
	uint8_t *bytes;
	int peer;

	open_ring(&ring, fleet);
	open_ring(&other, fleet);
	CHECK(ftruncate(memory, 3 * 4096) == 0);
	bytes = mmap(NULL, 3 * 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	CHECK(bytes != MAP_FAILED);
	for (int i = 0; i < 3; i++)
		packets[i] = (struct tf_packet){ .bytes = bytes + i * 4096,
						 .size = 4096,
						 .content_size_bits = 4096 * 8,
						 .sequence_number = (uint64_t)i };
	CHECK(tf_fleet_give(fleet, ring.key, 3, 1, packets, 3) == 0);
	give(&other, fleet, 1);
	CHECK(ftruncate(memory, 4096) == 0);
	peer = attach(fleet, 2, 0);
	/* The first is whole, and goes; the second may cost the connection, when its header was on its way. */
	CHECK(take_any(peer).sequence == 0);
	readable = (struct pollfd){ .fd = ring.wakeup[0], .events = POLLIN };
	CHECK(poll(&readable, 1, DEADLINE_MS) == 1);
	tf_fleet_progress(fleet, ring.key, &progress);
	CHECK(progress.is_unreadable && progress.safe_sequence == 0);
	if (!books_of(fleet).is_attached) {
		expect_lost(fleet, -ECONNABORTED);
		expect_end(peer);
		peer = attach(fleet, 2, 0);
	}
	expect_packet(peer, &other, 0);
	acknowledge(peer, &other, 0);
	expect_safe(fleet, &other, 1);
	CHECK(tf_fleet_is_settled(fleet, false));
	tf_fleet_take_back(fleet, ring.key);
	munmap(bytes, 3 * 4096);
	close(memory);
	close_ring(&ring, fleet);
	close_ring(&other, fleet);
	tf_fleet_put(fleet);
	close(peer);
}

static void test_beacons(void)
{
	struct tf_fleet *fleet = open_fleet();
	struct tf_fleet_header header;
	struct ring ring, other;
	int peer;

	open_ring(&ring, fleet);
	open_ring(&other, fleet);
	tf_fleet_send_beacon(fleet, ring.key, 3, 1, 5); /* to nobody */
	peer = attach(fleet, 2, 0);
	tf_fleet_send_beacon(fleet, ring.key, 3, 1, 77);
	header = read_header(peer);
	CHECK(le32toh(header.flags) == TF_FLEET_BEACON && le64toh(header.timestamp_end) == 77);
	CHECK(le64toh(header.handle) == HANDLE(0) && header.sequence == 0 && header.data_size == 0);
	CHECK(header.packet_size == 0 && header.content_size == 0 && header.padding_size == 0);
	CHECK(le64toh(header.stream_class_id) == 3 && le64toh(header.stream_instance_id) == 1);
	give(&ring, fleet, 1);
	expect_packet(peer, &ring, 0);
	while (books_of(fleet).sent_count == 0)
		poll(NULL, 0, 1);
	tf_fleet_send_beacon(fleet, ring.key, 3, 1, 78);
	header = read_header(peer);
	CHECK(le32toh(header.flags) == TF_FLEET_BEACON && le64toh(header.sequence) == 1);
	/* None overtakes a packet, and none waits for a peer that does not read. */
	give(&ring, fleet, CAPACITY - 1);
	tf_fleet_send_beacon(fleet, ring.key, 3, 1, 5000);
	for (uint64_t sequence = 1; sequence < CAPACITY; sequence++)
		expect_packet(peer, &ring, sequence);
	acknowledge(peer, &ring, CAPACITY - 1);
	expect_safe(fleet, &ring, CAPACITY);
	tf_fleet_send_beacon(fleet, ring.key, 3, 1, 6000);
	header = read_header(peer);
	CHECK(le64toh(header.timestamp_end) == 6000 && le64toh(header.sequence) == CAPACITY);
	CHECK(books_of(fleet).sent_count == CAPACITY && tf_fleet_is_settled(fleet, false));
	close_ring(&ring, fleet);
	close_ring(&other, fleet);
	tf_fleet_put(fleet);
	expect_end(peer);
}

static void test_metadata_comes_first_and_again(void)
{
	static const uint8_t uuid[16] = { 1, 2, 3 };
	struct tf_fleet *fleet = open_fleet();
	const int memory = metadata_memory_create();
	struct tf_fleet_header header;
	struct tf_output *output;
	uint8_t bytes[37 + 5000];
	char text[5000];
	struct ring ring;

	memset(text, 'm', sizeof(text));
	CHECK(tf_fleet_add_stream(fleet) == 0);
	open_ring(&ring, fleet);
	CHECK(tf_output_create_fleet(fleet, 0, &output) == 0 && tf_output_prepare(output) == 0);
	CHECK(tf_output_create_file(output, NULL, "a", O_WRONLY) == -EINVAL);
	CHECK(tf_output_set_metadata(output, memory, uuid) == 0);
	metadata_memory_append(memory, text, 10);
	CHECK(tf_output_write_metadata(output) == 0 && tf_output_write_metadata(output) == 0);
	give(&ring, fleet, 1);
	metadata_memory_append(memory, text, sizeof(text));
	CHECK(tf_output_write_metadata(output) == 0);
	give(&ring, fleet, 1);
	for (int i = 0; i < 2; i++) { /* the first peer dies before it has written anything */
		const int peer = attach(fleet, 2, 0);
		const size_t sizes[2] = { 10, 5000 }, packet_sizes[2] = { 4096, 8192 };

		for (int k = 0; k < 2; k++) {
			header = read_header(peer);
			CHECK(le64toh(header.handle) == HANDLE(0) && le64toh(header.sequence) == (uint64_t)k);
			CHECK(le32toh(header.data_size) == 37 + sizes[k]);
			CHECK(le32toh(header.padding_size) == packet_sizes[k] - 37 - sizes[k]);
			CHECK(le64toh(header.packet_size) == packet_sizes[k] * 8);
			CHECK(le64toh(header.content_size) == (37 + sizes[k]) * 8);
			read_whole(peer, bytes, 37 + sizes[k]);
			CHECK(bytes[0] == 0x57 && memcmp(bytes + 4, uuid, 16) == 0);
			CHECK(memcmp(bytes + 37, text, sizes[k]) == 0);
			expect_packet(peer, &ring, (uint64_t)k);
		}
		if (i == 0) {
			tf_fleet_detach(fleet);
			expect_end(peer);
			continue;
		}
		acknowledge(peer, &ring, 1);
		expect_safe(fleet, &ring, 2);
		CHECK(!tf_fleet_is_settled(fleet, true));
		answer(peer, TF_FLEET_WRITTEN, HANDLE(0), 1);
		while (!tf_fleet_is_settled(fleet, false))
			poll(NULL, 0, 1);
		tf_fleet_close(fleet);
		expect_end(peer);
	}
	metadata_memory_append(memory, text, 10);
	CHECK(tf_output_write_metadata(output) == -ESHUTDOWN);
	close_ring(&ring, fleet);
	tf_output_put(output);
	tf_fleet_put(fleet);
	close(memory);
}

/* After the close nothing is sent, and all say so. */
static void test_the_end(void)
{
	struct tf_fleet *fleet = open_fleet();
	struct tf_packet packet = { 0 };
	struct ring ring;
	int ends[2], peer;

	open_ring(&ring, fleet);
	peer = attach(fleet, 1, 0);
	give(&ring, fleet, CAPACITY);
	CHECK(read_header(peer).sequence == 0);
	tf_fleet_close(fleet);
	expect_end(peer);
	tf_fleet_close(fleet);
	CHECK(tf_fleet_add_stream(fleet) == -ESHUTDOWN);
	CHECK(tf_fleet_give(fleet, ring.key, 3, 1, &packet, 1) == -ESHUTDOWN);
	connect_sockets(ends);
	CHECK(tf_fleet_attach(fleet, ends[0], NULL, 0) == -ESHUTDOWN);
	CHECK(!tf_fleet_is_settled(fleet, true));
	close_ring(&ring, fleet);
	tf_fleet_put(fleet);
	close(ends[0]);
	close(ends[1]);
}

/* ---- with a spool ---- */

static uint64_t size_of_spool(void)
{
	struct stat status;
	char path[64];

	snprintf(path, sizeof(path), "%s/frames", spool_directory);
	return stat(path, &status) == 0 ? (uint64_t)status.st_size : 0;
}

static void await_settled(struct tf_fleet *fleet)
{
	for (int i = 0; !tf_fleet_is_settled(fleet, false); i++) {
		CHECK(i < DEADLINE_MS);
		poll(NULL, 0, 1);
	}
	CHECK(books_of(fleet).spooled_count == 0);
}

static void test_nobody_is_there(void)
{
	struct tf_fleet *fleet = open_spooling(1 << 30);
	struct tf_fleet_stream_state state;
	struct ring rings[2];
	int peer;

	open_ring(&rings[0], fleet);
	open_ring(&rings[1], fleet);
	give(&rings[0], fleet, 3);
	give(&rings[1], fleet, 2);
	expect_safe(fleet, &rings[0], 3);
	expect_safe(fleet, &rings[1], 2);
	CHECK(books_of(fleet).spooled_count == 5 && books_of(fleet).sent_count == 0);
	CHECK(tf_fleet_is_settled(fleet, true) && !tf_fleet_is_settled(fleet, false));
	CHECK(tf_fleet_stream_state(fleet, 0, &state) == 0);
	CHECK(state.oldest_sequence == 0 && state.acknowledged_sequence == 0 && state.next_sequence == 3);
	/* From the spool first, in order; what comes meanwhile follows from its ring buffer. */
	peer = attach(fleet, 2, 0);
	give(&rings[0], fleet, 1);
	comes_from_spool = true;
	for (uint64_t sequence = 0; sequence < 3; sequence++)
		expect_packet(peer, &rings[0], sequence);
	for (uint64_t sequence = 0; sequence < 2; sequence++)
		expect_packet(peer, &rings[1], sequence);
	comes_from_spool = false;
	expect_packet(peer, &rings[0], 3);
	/* A second connection, and all that was not acknowledged again. */
	acknowledge(peer, &rings[0], 0);
	while (books_of(fleet).acknowledged_count < 1)
		poll(NULL, 0, 1);
	tf_fleet_detach(fleet);
	expect_end(peer);
	CHECK(tf_fleet_stream_state(fleet, 0, &state) == 0 && state.oldest_sequence == 1);
	peer = attach(fleet, 2, 1);
	comes_from_spool = true;
	for (uint64_t sequence = 1; sequence < 3; sequence++)
		expect_packet(peer, &rings[0], sequence);
	expect_packet(peer, &rings[1], 1);
	comes_from_spool = false;
	expect_packet(peer, &rings[0], 3);
	acknowledge(peer, &rings[0], 3);
	acknowledge(peer, &rings[1], 1);
	await_settled(fleet);
	CHECK(books_of(fleet).sent_count == 6 && books_of(fleet).resent_count == 4);
	/* One was acknowledged by its binding alone. */
	CHECK(books_of(fleet).acknowledged_count == 5);
	give(&rings[1], fleet, 1);
	expect_packet(peer, &rings[1], 2);
	while (size_of_spool() > 0)
		poll(NULL, 0, 1);
	close_ring(&rings[0], fleet);
	close_ring(&rings[1], fleet);
	CHECK(books_of(fleet).spooled_count == 1); /* safe at the last moment */
	acknowledge(peer, &rings[1], 2);
	await_settled(fleet);
	tf_fleet_put(fleet);
	expect_end(peer);
}

/* It takes a packet and a half, and then nothing for a while: the ring buffer fills, and the rest goes to the spool. */
static void test_a_peer_that_is_too_slow(void)
{
	struct tf_fleet *fleet = open_spooling(1 << 30);
	struct ring rings[2];
	int peer;

	open_ring(&rings[0], fleet);
	open_ring(&rings[1], fleet);
	peer = attach(fleet, 1, 0);
	give(&rings[1], fleet, 1); /* waits for a handle, and is in the way */
	give(&rings[0], fleet, CAPACITY / 2);
	expect_packet(peer, &rings[0], 0);
	CHECK(safe_sequence(fleet, &rings[0]) == 0);
	give(&rings[0], fleet, 1);
	expect_safe(fleet, &rings[0], CAPACITY / 2 + 1);
	expect_safe(fleet, &rings[1], 1);
	memset(rings[0].bytes, 0, CAPACITY * PACKET_SIZE);
	memset(rings[1].bytes, 0, CAPACITY * PACKET_SIZE);
	{
		const struct tf_fleet_binding binding = { 1, HANDLE(1), 0 };
		struct tf_fleet_header header = { 0 };
		uint64_t sequence = 1;
		bool has_other = false;

		/* What was sent in part goes on as it began; then the spool, where the other one is before it. */
		CHECK(tf_fleet_bind(fleet, &binding) == 0);
		while (sequence < CAPACITY / 2 + 1 || !has_other) {
			static uint8_t content[CONTENT_SIZE];

			header = read_header(peer);
			read_whole(peer, content, sizeof(content));
			if (header.handle == htole64(HANDLE(1))) {
				CHECK(!has_other && header.sequence == 0);
				has_other = true;
			} else {
				check_header(&header, &rings[0], sequence++);
			}
			for (size_t at = 0; at < sizeof(content); at++)
				CHECK(content[at] == content_at(header.handle == htole64(HANDLE(1)), le64toh(header.sequence), at));
		}
		CHECK(header.payload_crc != 0);
	}
	acknowledge(peer, &rings[0], CAPACITY / 2);
	acknowledge(peer, &rings[1], 0);
	await_settled(fleet);
	CHECK(books_of(fleet).resent_count == 0 && books_of(fleet).acknowledged_count == CAPACITY / 2 + 2);
	CHECK(books_of(fleet).acknowledged_bytes == (CAPACITY / 2 + 2) * PACKET_SIZE);
	give(&rings[0], fleet, 1);
	expect_packet(peer, &rings[0], CAPACITY / 2 + 1);
	acknowledge(peer, &rings[0], CAPACITY / 2 + 1);
	await_settled(fleet);
	close_ring(&rings[0], fleet);
	close_ring(&rings[1], fleet);
	tf_fleet_put(fleet);
	expect_end(peer);
}

/* It takes what it gets, and says nothing: what waits longer than a peer should make it wait is safe all the same. */
static void test_a_peer_that_says_nothing(void)
{
	struct tf_fleet *fleet = open_spooling(1 << 30);
	struct ring ring;
	int peer;

	open_ring(&ring, fleet);
	peer = attach(fleet, 1, 0);
	for (uint64_t sequence = 0; sequence < 2; sequence++) {
		give(&ring, fleet, 1);
		expect_packet(peer, &ring, sequence);
		expect_safe(fleet, &ring, sequence + 1);
		CHECK(books_of(fleet).spooled_count == sequence + 1);
	}
	acknowledge(peer, &ring, 1);
	await_settled(fleet);
	CHECK(books_of(fleet).acknowledged_count == 2 && books_of(fleet).resent_count == 0);
	close_ring(&ring, fleet);
	tf_fleet_put(fleet);
	expect_end(peer);
}

static void test_another_life(void)
{
	struct tf_fleet *fleet = open_spooling(1 << 30);
	struct tf_fleet_stream_state state;
	struct tf_fleet_binding binding;
	struct ring rings[2], ring;
	int peer, ends[2];

	open_ring(&rings[0], fleet);
	open_ring(&rings[1], fleet);
	give(&rings[0], fleet, 5);
	give(&rings[1], fleet, 1);
	tf_fleet_close(fleet); /* all of it goes to the spool */
	CHECK(tf_fleet_is_settled(fleet, true) && books_of(fleet).spooled_count == 6);
	CHECK(safe_sequence(fleet, &rings[0]) == 5);

	struct tf_fleet *second = open_spooling(1 << 30);

	CHECK(tf_fleet_is_settled(second, true) && books_of(second).spooled_count == 6);
	CHECK(tf_fleet_stream_state(second, 0, &state) == 0);
	CHECK(state.oldest_sequence == 0 && state.next_sequence == 5);
	open_ring(&ring, second);
	CHECK(ring.key == 2);
	/* It has more of the second stream than we know of. */
	connect_sockets(ends);
	peer = ends[1];
	binding = (struct tf_fleet_binding){ 2, HANDLE(2), 1 };
	CHECK(tf_fleet_attach(second, ends[0], &binding, 1) == -EPROTO);
	binding = (struct tf_fleet_binding){ 1, HANDLE(1), 9 };
	CHECK(tf_fleet_attach(second, ends[0], &binding, 1) == 0);
	CHECK(tf_fleet_stream_state(second, 1, &state) == 0);
	CHECK(state.oldest_sequence == 9 && state.next_sequence == 9);
	give(&ring, second, 1);
	binding = (struct tf_fleet_binding){ 2, HANDLE(2), 0 };
	CHECK(tf_fleet_bind(second, &binding) == 0);
	binding = (struct tf_fleet_binding){ 0, HANDLE(0), 3 };
	CHECK(tf_fleet_bind(second, &binding) == 0);
	comes_from_spool = true;
	expect_packet(peer, &rings[0], 3);
	expect_packet(peer, &rings[0], 4);
	comes_from_spool = false;
	expect_packet(peer, &ring, 0);
	acknowledge(peer, &rings[0], 4);
	acknowledge(peer, &ring, 0);
	await_settled(second);
	close_ring(&ring, second);
	tf_fleet_put(second);
	expect_end(peer);
	close_ring(&rings[0], fleet);
	close_ring(&rings[1], fleet);
	tf_fleet_put(fleet);
	CHECK(size_of_spool() == 0);
}

static void test_a_spool_that_is_full(void)
{
	struct tf_fleet *fleet = open_spooling(5 * PACKET_SIZE);
	struct tf_fleet_stream_state state;
	struct ring ring;
	uint64_t spooled;
	int peer;

	open_ring(&ring, fleet);
	give(&ring, fleet, 12);
	while (books_of(fleet).error != -ENOSPC)
		poll(NULL, 0, 1);
	spooled = books_of(fleet).spooled_count;
	CHECK(spooled >= 4 && spooled <= 5 && safe_sequence(fleet, &ring) == spooled);
	CHECK(!tf_fleet_is_settled(fleet, true));
	peer = attach(fleet, 1, 0);
	for (uint64_t sequence = 0; sequence < 12; sequence++) {
		comes_from_spool = sequence < spooled;
		expect_packet(peer, &ring, sequence);
	}
	comes_from_spool = false;
	acknowledge(peer, &ring, 2);
	expect_safe(fleet, &ring, spooled); /* they were safe before */
	acknowledge(peer, &ring, 8);
	expect_safe(fleet, &ring, 9);
	/* Three are not acknowledged; now there is room for them. */
	tf_fleet_detach(fleet);
	expect_end(peer);
	expect_safe(fleet, &ring, 12);
	CHECK(books_of(fleet).spooled_count == 3);
	CHECK(tf_fleet_stream_state(fleet, 0, &state) == 0 && state.oldest_sequence == 9);
	peer = attach(fleet, 1, 9);
	comes_from_spool = true;
	for (int i = 0; i < 3; i++) { /* one is refused twice, and what is behind it again and again */
		for (uint64_t sequence = 9; sequence < 12; sequence++)
			expect_packet(peer, &ring, sequence);
		if (i < 2)
			answer(peer, TF_FLEET_CORRUPT, HANDLE(0), 8);
	}
	/* For ever is too often: the file is what is damaged. */
	for (int i = 0; i < 2; i++)
		answer(peer, TF_FLEET_CORRUPT, HANDLE(0), 8);
	expect_lost(fleet, -EBADMSG);
	expect_end(peer);
	peer = attach(fleet, 1, 9);
	for (uint64_t sequence = 9; sequence < 12; sequence++)
		expect_packet(peer, &ring, sequence);
	comes_from_spool = false;
	acknowledge(peer, &ring, 11);
	await_settled(fleet);
	CHECK(books_of(fleet).error == 0 && books_of(fleet).sent_count == 12);
	close_ring(&ring, fleet);
	tf_fleet_put(fleet);
	expect_end(peer);
}

static void remove_spool(void)
{
	char path[64];

	snprintf(path, sizeof(path), "%s/frames", spool_directory);
	CHECK(unlink(path) == 0 && rmdir(spool_directory) == 0);
}

int main(void)
{
	CHECK(mkdtemp(spool_directory));
	test_packets_wait_for_their_acknowledgement();
	test_another_connection_goes_on();
	test_refusals();
	test_answers_that_cannot_be();
	test_a_ring_buffer_that_is_closed();
	test_memory_that_vanishes();
	test_beacons();
	test_metadata_comes_first_and_again();
	test_the_end();
	test_nobody_is_there();
	test_a_peer_that_is_too_slow();
	test_a_peer_that_says_nothing();
	test_another_life();
	test_a_spool_that_is_full();
	remove_spool();
	return 0;
}
