#include "intake.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

/* For one connection, before others have their turn. */
#define TURN_SIZE (1 << 20)
/* Read and written through the thread's buffer, which should stay in the processor's cache. */
#define COPY_SIZE (256 << 10)
/* Read behind a small packet: the next ones, together. Also what a connection that holds keeps at most, usually. */
#define AHEAD_SIZE (64 << 10)
/* The data of so large packets goes through a pipe, but for what is left of it then: see README.md. */
#ifndef LARGE_SIZE
#define LARGE_SIZE (512 << 10)
#endif
#define SPLICE_SIZE_MIN (64 << 10)
#define PIPE_SIZE (1 << 20)
/* A pipe that took less than that emptied the socket, most likely: its pages are 32 KiB. */
#define SPLICE_SIZE_SHORT (32 << 10)

struct lttng_header { /* big-endian */
	uint64_t circuit_id, handle, net_seq;
	uint32_t data_size, padding_size;
};

_Static_assert(sizeof(struct lttng_header) == INTAKE_LTTNG_HEADER_SIZE, "relay protocol 2.1");

int tf_intake_worker_init(struct intake_worker *worker)
{
	worker->pipe_fds[0] = worker->pipe_fds[1] = -1;
	worker->buffer = malloc(PIPE_SIZE);
	if (!worker->buffer)
		return -ENOMEM;
	if (pipe2(worker->pipe_fds, O_CLOEXEC | O_NONBLOCK) < 0)
		return -errno;
	/* Users have a limit for these: then it stays small, and serves as well. */
	fcntl(worker->pipe_fds[1], F_SETPIPE_SZ, PIPE_SIZE);
	return 0;
}

void tf_intake_worker_destroy(struct intake_worker *worker)
{
	for (int i = 0; i < 2; i++)
		if (worker->pipe_fds[i] >= 0)
			close(worker->pipe_fds[i]);
	free(worker->buffer);
}

static enum intake_step over(struct intake_connection *connection, int error)
{
	connection->error = error;
	return INTAKE_OVER;
}

static size_t header_size_of(const struct intake_connection *connection)
{
	return connection->fleet ? sizeof(struct tf_fleet_header) : INTAKE_LTTNG_HEADER_SIZE;
}

static int parse_lttng_header(struct intake_connection *connection)
{
	struct intake_packet *packet = &connection->packet;
	struct lttng_header header;

	memcpy(&header, connection->header, sizeof(header));
	packet->handle = be64toh(header.handle);
	packet->net_seq = be64toh(header.net_seq);
	packet->data_size = be32toh(header.data_size);
	packet->padding_size = be32toh(header.padding_size);
	return (uint64_t)packet->data_size + packet->padding_size > TF_INTAKE_PACKET_SIZE_MAX ? -EMSGSIZE : 0;
}

static enum intake_step parse_header(struct intake_connection *connection)
{
	const int ret = connection->fleet ? tf_intake_fleet_parse(connection) : parse_lttng_header(connection);

	if (ret < 0)
		return over(connection, -ret);
	connection->is_large = connection->packet.data_size >= LARGE_SIZE;
	return INTAKE_GO;
}

static enum intake_step begin_packet(struct intake_connection *connection)
{
	struct intake_stream *stream;
	enum intake_step step = connection->fleet ? tf_intake_fleet_make_room(connection) : INTAKE_GO;

	if (step == INTAKE_GO)
		step = tf_intake_find_stream(connection, &stream);
	if (step != INTAKE_GO)
		return step;
	/* A stream may have ended while a beacon was on its way. */
	step = stream ? tf_intake_stream_begin(stream, connection) : INTAKE_UNWANTED;
	if (!stream && !connection->packet.is_beacon) {
		connection->reason = TF_INTAKE_UNKNOWN_STREAM;
		connection->error = 0;
		return INTAKE_HOLD;
	}
	if (stream && step != INTAKE_GO)
		tf_intake_put_stream(connection->intake, stream);
	if (step != INTAKE_UNWANTED)
		return step;
	connection->is_unwanted = true;
	connection->unwanted_size = connection->packet.data_size;
	return INTAKE_GO;
}

/* Data of a packet that is not the next one. Returns how much of @size that is. */
static size_t throw_away(struct intake_connection *connection, size_t size)
{
	const size_t part = size < connection->unwanted_size ? size : (size_t)connection->unwanted_size;

	connection->unwanted_size -= part;
	if (connection->unwanted_size == 0) {
		connection->is_unwanted = false;
		connection->header_size = 0;
	}
	return part;
}

/* Take @size bytes that were read, headers and data, until something holds; *@used tells how many were taken. */
static enum intake_step take(struct intake_connection *connection, const uint8_t *data, size_t size, size_t *used)
{
	const size_t header_size = header_size_of(connection);
	enum intake_step step;
	size_t part;

	*used = 0;
	for (;;) {
		if (!connection->stream && !connection->is_unwanted) {
			if (connection->header_size < header_size) {
				part = header_size - connection->header_size;
				if (part > size - *used)
					part = size - *used;
				if (part == 0)
					return INTAKE_GO;
				memcpy(connection->header + connection->header_size, data + *used, part);
				connection->header_size += part;
				*used += part;
				if (connection->header_size < header_size)
					return INTAKE_GO;
				step = parse_header(connection);
				if (step != INTAKE_GO)
					return step;
			}
			step = begin_packet(connection);
			if (step != INTAKE_GO)
				return step;
		}
		if (connection->is_unwanted) {
			*used += throw_away(connection, size - *used);
			if (connection->is_unwanted)
				return INTAKE_GO;
			continue;
		}
		step = tf_intake_stream_write(connection, data ? data + *used : NULL, size - *used, &part);
		*used += part;
		if (step != INTAKE_GO || connection->stream)
			return step;
	}
}

/* As take(); what was not taken is kept for the next turn. */
static enum intake_step take_or_keep(struct intake_connection *connection, const uint8_t *data, size_t size)
{
	enum intake_step step;
	size_t used;

	step = take(connection, data, size, &used);
	if (used == size || step == INTAKE_OVER)
		return step;
	connection->kept = malloc(size - used);
	if (!connection->kept)
		return over(connection, ENOMEM);
	connection->kept_size = size - used;
	memcpy(connection->kept, data + used, size - used);
	return step;
}

static enum intake_step take_kept(struct intake_connection *connection)
{
	uint8_t *kept = connection->kept;
	const size_t size = connection->kept_size;
	enum intake_step step;

	connection->kept = NULL;
	connection->kept_size = 0;
	step = take_or_keep(connection, kept, size);
	free(kept);
	return step;
}

/* What it means that recv or splice gave @count. */
static enum intake_step judge(struct intake_connection *connection, ssize_t count)
{
	if (count > 0)
		return INTAKE_GO;
	if (count == 0)
		return over(connection, connection->stream || connection->header_size > 0 ? ENODATA : 0);
	if (errno == EAGAIN || errno == EWOULDBLOCK)
		return INTAKE_DRAINED;
	return errno == EINTR ? INTAKE_GO : over(connection, errno);
}

static enum intake_step splice_data(struct intake_connection *connection, struct intake_worker *worker, size_t missing,
				    size_t *received)
{
	enum intake_step step;
	size_t rest, got = 0;
	ssize_t count;

	count = splice(connection->fd, NULL, worker->pipe_fds[1], NULL, missing < PIPE_SIZE ? missing : PIPE_SIZE,
		       SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
	if (count < 0 && errno == EINVAL) {
		connection->has_no_splice = true; /* this kind of socket */
		return INTAKE_GO;
	}
	if (count <= 0)
		return judge(connection, count);
	*received += (size_t)count;
	/* What could not be written goes the way that says why. */
	rest = (size_t)count - tf_intake_stream_splice(connection, worker->pipe_fds[0], (size_t)count);
	while (got < rest) {
		const ssize_t ret = read(worker->pipe_fds[0], worker->buffer + got, rest - got);

		if (ret <= 0) /* cannot be: they are there, and no signal comes to these threads */
			return over(connection, EIO);
		got += (size_t)ret;
	}
	/* Also without a rest: with the last byte of a packet come its padding and its end. */
	step = take_or_keep(connection, worker->buffer, rest);
	return step == INTAKE_GO && count < SPLICE_SIZE_SHORT ? INTAKE_DRAINED : step;
}

static enum intake_step copy_data(struct intake_connection *connection, struct intake_worker *worker, size_t missing,
				  size_t *received)
{
	const size_t ahead = connection->is_large ? header_size_of(connection) : AHEAD_SIZE;
	const size_t asked = missing + ahead < COPY_SIZE ? missing + ahead : COPY_SIZE;
	const ssize_t count = recv(connection->fd, worker->buffer, asked, 0);
	enum intake_step step = judge(connection, count);

	if (count <= 0)
		return step;
	*received += (size_t)count;
	step = take_or_keep(connection, worker->buffer, (size_t)count);
	/* Less than there was room for: the next call would only hear that there is no more. */
	return step == INTAKE_GO && (size_t)count < asked ? INTAKE_DRAINED : step;
}

static bool has_splice(const struct intake_connection *connection)
{
	return connection->stream && connection->is_large && !connection->has_no_splice &&
	       !atomic_load_explicit(&connection->stream->has_no_splice, memory_order_relaxed) &&
	       !(connection->fleet && tf_intake_fleet_has_crc(connection));
}

/* How much of the packet, or of the header, is still to come. */
static size_t missing_size(const struct intake_connection *connection)
{
	if (connection->stream)
		return tf_intake_stream_missing(connection);
	if (connection->is_unwanted)
		return (size_t)connection->unwanted_size;
	return connection->is_large ? 0 : header_size_of(connection) - connection->header_size;
}

static enum intake_step read_turn(struct intake_connection *connection, struct intake_worker *worker)
{
	enum intake_step step;
	size_t received = 0;

	/* What was held: bytes that are here, or a header or an end that needs no more of them. */
	step = take_kept(connection);
	while (step == INTAKE_GO) {
		const size_t missing = missing_size(connection);

		if (received >= TURN_SIZE || atomic_load_explicit(&connection->is_leaving, memory_order_relaxed))
			return INTAKE_AGAIN;
		if (missing >= SPLICE_SIZE_MIN && has_splice(connection))
			step = splice_data(connection, worker, missing, &received);
		else
			step = copy_data(connection, worker, missing, &received);
	}
	return step;
}

enum intake_step tf_intake_turn(struct intake_connection *connection, struct intake_worker *worker)
{
	enum intake_step step, flushed;
	int error;

	if (connection->is_control)
		return tf_intake_control_turn(connection, worker);
	if (!connection->fleet)
		return read_turn(connection, worker);
	step = tf_intake_fleet_flush(connection);
	if (step != INTAKE_GO)
		return step;
	step = read_turn(connection, worker);
	error = connection->error;
	/* Whatever the turn ended with: what was written before is acknowledged. */
	flushed = tf_intake_fleet_flush(connection);
	if (flushed == INTAKE_OVER && step != INTAKE_OVER)
		return INTAKE_OVER;
	connection->error = error;
	return flushed == INTAKE_BLOCKED && (step == INTAKE_DRAINED || step == INTAKE_AGAIN) ? INTAKE_BLOCKED : step;
}
