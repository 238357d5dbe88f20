/* Packets, index entries and metadata go to a relay daemon in order and whole, however it reads, and it stalls nobody. */
#include "trace.h"

#include "clock.h"
#include "output.h"
#include "relay.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define PACKET_SIZE 65536
#define CONTENT_SIZE (PACKET_SIZE - 1001)
#define HANDLE 77
#define SOCKET_SIZE 16384

static const uint8_t ok[4] = { 0, 0, 0, 10 };

struct peer {
	struct tf_relay *relay;
	int control, data; /* the relay daemon's ends */
	int own_control;   /* ours, for commands */
	struct tf_relay_stream stream;
};

static void open_peer(struct peer *peer)
{
	int control[2], data[2], size = SOCKET_SIZE;

	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, control) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, data) == 0);
	setsockopt(data[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
	CHECK(tf_relay_create(control[0], data[0], &peer->relay) == 0);
	peer->own_control = control[0];
	close(data[0]);
	peer->control = control[1];
	peer->data = data[1];
	peer->stream = (struct tf_relay_stream){ .handle = HANDLE, .stream_id = 3, .cpu = 1 };
}

static void close_peer(struct peer *peer)
{
	tf_relay_put(peer->relay);
	close(peer->own_control);
	close(peer->control);
	close(peer->data);
}

static uint8_t *make_packets(struct tf_packet *packets, int count)
{
	uint8_t *bytes = malloc((size_t)count * PACKET_SIZE);

	CHECK(bytes);
	for (int i = 0; i < count; i++) {
		for (size_t at = 0; at < PACKET_SIZE; at++)
			bytes[(size_t)i * PACKET_SIZE + at] = (uint8_t)(i * 31 + (int)(at * 7 % 251));
		packets[i] = (struct tf_packet){ .bytes = bytes + (size_t)i * PACKET_SIZE,
						 .size = PACKET_SIZE,
						 .content_size_bits = CONTENT_SIZE * 8 - 3,
						 .timestamp_begin = 10 + (uint64_t)i,
						 .timestamp_end = 20 + (uint64_t)i,
						 .events_discarded = 5,
						 .sequence_number = 100 + (uint64_t)i };
	}
	return bytes;
}

static void read_whole(int fd, void *buffer, size_t size)
{
	uint8_t *next = buffer;

	while (size > 0) {
		struct pollfd readable = { .fd = fd, .events = POLLIN };
		ssize_t got;

		CHECK(poll(&readable, 1, 10000) == 1);
		got = read(fd, next, size);
		CHECK(got > 0);
		next += got;
		size -= (size_t)got;
	}
}

static uint64_t number_at(const uint8_t *bytes, size_t offset)
{
	uint64_t number;

	memcpy(&number, bytes + offset, sizeof(number));
	return be64toh(number);
}

static uint32_t word_at(const uint8_t *bytes, size_t offset)
{
	uint32_t word;

	memcpy(&word, bytes + offset, sizeof(word));
	return be32toh(word);
}

/* The next packet on the data connection is @packet, number @number. */
static void expect_packet(int data, const struct tf_packet *packet, uint64_t number)
{
	uint8_t header[32], *content = malloc(CONTENT_SIZE);

	read_whole(data, header, sizeof(header));
	CHECK(number_at(header, 0) == 0 && number_at(header, 8) == HANDLE && number_at(header, 16) == number);
	CHECK(word_at(header, 24) == CONTENT_SIZE && word_at(header, 28) == PACKET_SIZE - CONTENT_SIZE);
	read_whole(data, content, CONTENT_SIZE);
	CHECK(memcmp(content, packet->bytes, CONTENT_SIZE) == 0);
	free(content);
}

static void expect_header(int control, uint32_t command, uint64_t size)
{
	uint8_t header[24];

	read_whole(control, header, sizeof(header));
	CHECK(number_at(header, 0) == 0 && number_at(header, 8) == size);
	CHECK(word_at(header, 16) == command && word_at(header, 20) == 0);
}

/* The next command is the index entry of @packet (NULL: a beacon at 4711); it is answered. */
static void expect_index(int control, const struct tf_packet *packet, uint64_t number)
{
	const struct tf_packet beacon = { .timestamp_end = 4711 };
	uint8_t index[80];

	expect_header(control, 13, sizeof(index));
	read_whole(control, index, sizeof(index));
	CHECK(number_at(index, 0) == HANDLE && number_at(index, 8) == number && number_at(index, 56) == 3);
	CHECK(number_at(index, 64) == (packet ? 1 : 0));
	packet = packet ? packet : &beacon;
	CHECK(number_at(index, 16) == packet->size * 8 && number_at(index, 24) == packet->content_size_bits);
	CHECK(number_at(index, 32) == packet->timestamp_begin && number_at(index, 40) == packet->timestamp_end);
	CHECK(number_at(index, 48) == packet->events_discarded && number_at(index, 72) == packet->sequence_number);
	CHECK(write(control, ok, sizeof(ok)) == sizeof(ok));
}

static bool is_silent(int fd)
{
	struct pollfd readable = { .fd = fd, .events = POLLIN };

	return poll(&readable, 1, 0) == 0;
}

struct reader {
	const struct peer *peer;
	const struct tf_packet *packets;
	int count;
};

static void *read_packets(void *argument)
{
	const struct reader *reader = argument;

	for (int i = 0; i < reader->count; i++)
		expect_packet(reader->peer->data, &reader->packets[i], (uint64_t)i);
	return NULL;
}

static void expect_sums(const struct peer *peer, uint64_t packet_count)
{
	struct tf_relay_sums sums;

	tf_relay_get_sums(peer->relay, &sums);
	CHECK(sums.packet_count == packet_count && sums.size == packet_count * PACKET_SIZE);
}

static void test_a_peer_that_reads(void)
{
	struct tf_packet packets[TF_PACKETS_PER_WRITE];
	uint8_t *bytes = make_packets(packets, TF_PACKETS_PER_WRITE);
	struct peer peer;
	struct reader reader = { &peer, packets, TF_PACKETS_PER_WRITE };
	pthread_t thread;
	int sent = 0;

	open_peer(&peer);
	CHECK(pthread_create(&thread, NULL, read_packets, &reader) == 0);
	while (sent < TF_PACKETS_PER_WRITE) {
		const int ret = tf_relay_write(peer.relay, &peer.stream, packets + sent, TF_PACKETS_PER_WRITE - sent);

		CHECK(ret > 0 || ret == -EAGAIN);
		sent += ret > 0 ? ret : 0;
	}
	while (tf_relay_is_waiting(peer.relay))
		CHECK(tf_relay_poll(peer.relay) >= 0);
	pthread_join(thread, NULL);
	CHECK(peer.stream.next_number == TF_PACKETS_PER_WRITE);
	for (int i = 0; i < TF_PACKETS_PER_WRITE; i++)
		expect_index(peer.control, &packets[i], (uint64_t)i);
	tf_relay_send_beacon(peer.relay, &peer.stream, 4711);
	expect_index(peer.control, NULL, TF_PACKETS_PER_WRITE - 1);
	CHECK(tf_relay_poll(peer.relay) == 0);
	expect_sums(&peer, TF_PACKETS_PER_WRITE);
	close_peer(&peer);
	free(bytes);
}

/* The packet that has begun is ours to end; the ones after it stay where they are. */
static void test_a_peer_that_stops_reading(void)
{
	struct tf_packet packets[3];
	uint8_t *bytes = make_packets(packets, 3), *copy = malloc(PACKET_SIZE);
	struct tf_packet first = packets[0];
	struct peer peer;
	uint64_t begin_ms;

	open_peer(&peer);
	memcpy(copy, packets[0].bytes, PACKET_SIZE);
	first.bytes = copy;
	CHECK(tf_relay_write(peer.relay, &peer.stream, packets, 3) == 1);
	memset(bytes, 0xff, PACKET_SIZE); /* the tracer may write there again */
	begin_ms = tf_now_ms();
	for (int i = 0; i < 100; i++)
		CHECK(tf_relay_write(peer.relay, &peer.stream, packets + 1, 2) == -EAGAIN);
	CHECK(tf_now_ms() - begin_ms < 1000); /* one that is known to be stalled is not waited for */
	expect_sums(&peer, 1);
	CHECK(tf_relay_poll(peer.relay) == 1);
	expect_index(peer.control, &first, 0);
	CHECK(is_silent(peer.control));
	for (size_t at = 0; at < CONTENT_SIZE + 32;) {
		uint8_t piece[4096];
		const size_t left = CONTENT_SIZE + 32 - at, size = left < sizeof(piece) ? left : sizeof(piece);

		read_whole(peer.data, piece, size);
		for (size_t i = 0; i < size; i++)
			CHECK(at + i < 32 || piece[i] == copy[at + i - 32]);
		at += size;
		CHECK(tf_relay_poll(peer.relay) >= 0);
	}
	CHECK(tf_relay_poll(peer.relay) == 0 && is_silent(peer.data));
	close_peer(&peer);
	free(bytes);
	free(copy);
}

static void test_a_peer_that_goes_away(void)
{
	static const uint8_t refused[4] = { 0, 0, 0, 11 };
	struct tf_packet packet;
	uint8_t *bytes = make_packets(&packet, 1);
	struct peer peer;

	signal(SIGPIPE, SIG_IGN);
	packet.content_size_bits = 800;
	open_peer(&peer);
	CHECK(tf_relay_write(peer.relay, &peer.stream, &packet, 1) == 1);
	CHECK(tf_relay_error(peer.relay) == 0);
	CHECK(write(peer.control, refused, 4) == 4);
	CHECK(tf_relay_poll(peer.relay) == -EPROTO);
	CHECK(tf_relay_write(peer.relay, &peer.stream, &packet, 1) == -EPROTO);
	expect_sums(&peer, 1);
	CHECK(tf_relay_begin(peer.relay, 100) == -EPROTO && tf_relay_error(peer.relay) == -EPROTO);
	close_peer(&peer);

	open_peer(&peer);
	CHECK(write(peer.control, ok, 4) == 4); /* to nothing */
	CHECK(tf_relay_poll(peer.relay) == -EPROTO);
	close_peer(&peer);

	open_peer(&peer);
	shutdown(peer.control, SHUT_RDWR);
	CHECK(tf_relay_poll(peer.relay) == -ECONNRESET);
	close_peer(&peer);

	open_peer(&peer);
	shutdown(peer.data, SHUT_RDWR);
	CHECK(tf_relay_write(peer.relay, &peer.stream, &packet, 1) == -EPIPE);
	close_peer(&peer);

	open_peer(&peer);
	tf_relay_close(peer.relay);
	CHECK(tf_relay_write(peer.relay, &peer.stream, &packet, 1) == -ENOTCONN);
	close_peer(&peer);
	free(bytes);
}

static void test_a_command_between_index_entries(void)
{
	struct tf_packet packets[2];
	uint8_t *bytes = make_packets(packets, 2), reply[4];
	struct peer peer;

	packets[0].content_size_bits = packets[1].content_size_bits = 800;
	open_peer(&peer);
	CHECK(tf_relay_write(peer.relay, &peer.stream, packets, 1) == 1);
	CHECK(tf_relay_begin(peer.relay, 50) == -ETIMEDOUT); /* the reply to the index entry is due */
	expect_index(peer.control, &packets[0], 0);
	CHECK(tf_relay_begin(peer.relay, 1000) == 0);
	CHECK(tf_relay_begin(peer.relay, 50) == -ETIMEDOUT);
	CHECK(tf_relay_write(peer.relay, &peer.stream, packets + 1, 1) == 1);
	CHECK(is_silent(peer.control));
	/* The reply of four bytes comes too late for whoever asked; it is nobody else's. */
	tf_relay_end(peer.relay, 0, 4);
	expect_index(peer.control, &packets[1], 1);
	CHECK(tf_relay_begin(peer.relay, 50) == -ETIMEDOUT);
	CHECK(write(peer.control, "late", 4) == 4);
	CHECK(tf_relay_begin(peer.relay, 1000) == -EPROTO); /* the order of replies is the order of requests */
	close_peer(&peer);

	open_peer(&peer);
	CHECK(tf_relay_begin(peer.relay, 1000) == 0);
	tf_relay_end(peer.relay, 0, 4);
	CHECK(tf_relay_write(peer.relay, &peer.stream, packets, 1) == 1);
	CHECK(write(peer.control, "late", 4) == 4);
	expect_index(peer.control, &packets[0], 0);
	CHECK(tf_relay_begin(peer.relay, 1000) == 0);
	CHECK(recv(peer.control, reply, 4, MSG_DONTWAIT) < 0);
	tf_relay_end(peer.relay, ENOENT, 0);
	CHECK(tf_relay_error(peer.relay) == -ENOENT);
	close_peer(&peer);
	free(bytes);
}

/* Memory that an application took away: the peer gets the bytes that it waits for, and goes on. */
static void test_a_packet_that_vanishes(void)
{
	const size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct tf_packet packets[2];
	uint8_t *bytes = make_packets(packets, 2), *piece = malloc(PACKET_SIZE);
	struct peer peer;
	uint8_t *map = mmap(NULL, PACKET_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	CHECK(map != MAP_FAILED);
	memcpy(map, packets[0].bytes, PACKET_SIZE);
	packets[0].bytes = map;
	munmap(map + PACKET_SIZE - 2 * page, 2 * page);
	open_peer(&peer);
	CHECK(tf_relay_write(peer.relay, &peer.stream, packets, 2) == -EFAULT);
	CHECK(tf_relay_error(peer.relay) == 0);
	for (int i = 0; i < 17; i++) { /* what was sent of it, if anything, is as long as it should be */
		struct pollfd readable = { .fd = peer.data, .events = POLLIN };

		if (poll(&readable, 1, 20) == 0)
			break;
		CHECK(read(peer.data, piece, PACKET_SIZE) > 0);
		CHECK(tf_relay_poll(peer.relay) >= 0);
	}
	CHECK(tf_relay_poll(peer.relay) == 0);
	packets[1].content_size_bits = 800;
	CHECK(tf_relay_write(peer.relay, &peer.stream, packets + 1, 1) == 1);
	expect_index(peer.control, &packets[1], 0);
	CHECK(is_silent(peer.control));
	munmap(map, PACKET_SIZE - 2 * page);
	close_peer(&peer);
	free(bytes);
	free(piece);
}

static void expect_metadata(int control, const char *text, size_t size)
{
	const size_t content_size = 37 + size, packet_size = (content_size + 4095) / 4096 * 4096;
	uint8_t *packet = malloc(12 + content_size);
	uint32_t bits[2];

	expect_header(control, 6, 12 + content_size);
	read_whole(control, packet, 12 + content_size);
	CHECK(number_at(packet, 0) == 99 && word_at(packet, 8) == packet_size - content_size);
	memcpy(bits, packet + 12 + 24, sizeof(bits));
	CHECK(bits[0] == content_size * 8 && bits[1] == packet_size * 8);
	CHECK(memcmp(packet + 12 + 37, text, size) == 0);
	free(packet);
}

static void test_metadata(void)
{
	static const uint8_t uuid[16] = { 1 };
	const int memory = metadata_memory_create();
	struct tf_output *output;
	struct peer peer;
	char text[10000];

	memset(text, 'x', sizeof(text));
	open_peer(&peer);
	CHECK(tf_output_create_relayed(peer.relay, 99, &output) == 0);
	CHECK(tf_output_relay(output) == peer.relay && tf_output_prepare(output) == 0);
	CHECK(tf_output_create_file(output, NULL, "a", O_WRONLY) == -EINVAL);
	CHECK(tf_output_set_metadata(output, memory, uuid) == 0);
	metadata_memory_append(memory, text, sizeof(text));
	CHECK(tf_output_write_metadata(output) == 0);
	expect_metadata(peer.control, text, sizeof(text)); /* in one piece */
	CHECK(tf_output_write_metadata(output) == 0 && is_silent(peer.control));
	metadata_memory_append(memory, "end", 3);
	CHECK(tf_output_close(output) == 0);
	expect_metadata(peer.control, "end", 3);
	tf_relay_close(peer.relay);
	tf_output_put(output);
	close_peer(&peer);
	close(memory);
}

/* Several streams of one session, each with its thread, and commands in between: every reply finds its request. */
struct writer {
	struct peer *peer;
	struct tf_relay_stream stream;
	const struct tf_packet *packets;
	pthread_t thread;
};

#define WRITER_COUNT 4
#define PACKETS_PER_WRITER 300

static void *write_packets(void *argument)
{
	struct writer *writer = argument;

	while (writer->stream.next_number < PACKETS_PER_WRITER) {
		const int ret = tf_relay_write(writer->peer->relay, &writer->stream, writer->packets, 1);

		CHECK(ret == 1 || ret == -EAGAIN);
	}
	return NULL;
}

static void *serve_control(void *argument)
{
	struct peer *peer = argument;
	uint64_t next_numbers[WRITER_COUNT] = { 0 };
	int index_count = 0, ask_count = 0;

	while (index_count < WRITER_COUNT * PACKETS_PER_WRITER || ask_count < 50) {
		uint8_t header[24], body[80];

		read_whole(peer->control, header, sizeof(header));
		if (word_at(header, 16) == 13) {
			read_whole(peer->control, body, sizeof(body));
			CHECK(number_at(body, 0) < WRITER_COUNT);
			CHECK(number_at(body, 8) == next_numbers[number_at(body, 0)]++);
			index_count++;
			CHECK(write(peer->control, ok, 4) == 4);
		} else {
			ask_count++;
			CHECK(word_at(header, 16) == 99 && write(peer->control, "mine", 4) == 4);
		}
	}
	return NULL;
}

static void *serve_data(void *argument)
{
	struct peer *peer = argument;
	uint64_t next_numbers[WRITER_COUNT] = { 0 };
	uint8_t header[32], *content = malloc(CONTENT_SIZE);

	for (int i = 0; i < WRITER_COUNT * PACKETS_PER_WRITER; i++) {
		read_whole(peer->data, header, sizeof(header));
		CHECK(number_at(header, 8) < WRITER_COUNT && word_at(header, 24) == CONTENT_SIZE);
		CHECK(number_at(header, 16) == next_numbers[number_at(header, 8)]++);
		read_whole(peer->data, content, CONTENT_SIZE);
	}
	free(content);
	return NULL;
}

static void test_many_at_once(void)
{
	struct tf_packet packet;
	uint8_t *bytes = make_packets(&packet, 1), request[24] = { [19] = 99 }, reply[4];
	struct writer writers[WRITER_COUNT];
	pthread_t control, data;
	struct peer peer;

	open_peer(&peer);
	CHECK(pthread_create(&control, NULL, serve_control, &peer) == 0);
	CHECK(pthread_create(&data, NULL, serve_data, &peer) == 0);
	for (int i = 0; i < WRITER_COUNT; i++) {
		writers[i] = (struct writer){ .peer = &peer, .packets = &packet };
		writers[i].stream.handle = (uint64_t)i;
		CHECK(pthread_create(&writers[i].thread, NULL, write_packets, &writers[i]) == 0);
	}
	for (int i = 0; i < 50; i++) {
		CHECK(tf_relay_begin(peer.relay, 10000) == 0);
		CHECK(write(peer.own_control, request, sizeof(request)) == sizeof(request));
		read_whole(peer.own_control, reply, sizeof(reply));
		CHECK(memcmp(reply, "mine", 4) == 0);
		tf_relay_end(peer.relay, 0, 0);
	}
	for (int i = 0; i < WRITER_COUNT; i++)
		pthread_join(writers[i].thread, NULL);
	while (tf_relay_poll(peer.relay) == 1)
		;
	pthread_join(data, NULL);
	pthread_join(control, NULL);
	CHECK(tf_relay_begin(peer.relay, 1000) == 0);
	tf_relay_end(peer.relay, 0, 0);
	close_peer(&peer);
	free(bytes);
}

int main(void)
{
	test_a_peer_that_reads();
	test_a_peer_that_stops_reading();
	test_a_peer_that_goes_away();
	test_a_command_between_index_entries();
	test_a_packet_that_vanishes();
	test_metadata();
	test_many_at_once();
	return 0;
}
