#include "intake.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/*
 * LTTng's control connection, for as long as the peer sends index entries: each is a command that wants an answer. The
 * first command that is another, or not in good order, goes back to the caller with all that was read behind it.
 */

/* For one connection, before others have their turn. */
#define TURN_SIZE (1 << 20)
#define READ_SIZE (16 << 10)
#define SEND_INDEX 13
#define STATUS_OK 10

struct command_header { /* big-endian; the others are ignored */
	uint64_t circuit_id, size;
	uint32_t command, version;
};

struct index_request {
	struct command_header header;
	struct intake_index_command index;
};

_Static_assert(sizeof(struct command_header) == 24, "relay protocol 2.1");
_Static_assert(sizeof(struct index_request) == 104, "relay protocol 2.8");
_Static_assert(sizeof(struct index_request) <= INTAKE_HEADER_SIZE_MAX, "it is collected there");
_Static_assert(READ_SIZE + INTAKE_HEADER_SIZE_MAX + READ_SIZE / sizeof(struct index_request) * 4 + 4 <=
		       TF_INTAKE_BACK_SIZE_MAX,
	       "what goes back fits");

/* At most as many as requests fit into what is read at once, and one that began before. */
struct replies {
	uint32_t status[READ_SIZE / sizeof(struct index_request) + 2];
	size_t count;
};

static enum intake_step over(struct intake_connection *connection, int error)
{
	connection->error = error;
	return INTAKE_OVER;
}

/* Keep @data for later, or for the caller. */
static bool keep(struct intake_connection *connection, const uint8_t *data, size_t size)
{
	if (size == 0)
		return true;
	connection->kept = malloc(size);
	if (!connection->kept)
		return false;
	memcpy(connection->kept, data, size);
	connection->kept_size = size;
	return true;
}

static enum intake_step hand_over(struct intake_connection *connection)
{
	connection->reason = TF_INTAKE_COMMAND;
	connection->error = 0;
	return INTAKE_HOLD;
}

static bool is_index_request(const struct intake_connection *connection)
{
	struct command_header header;

	memcpy(&header, connection->header, sizeof(header));
	return be64toh(header.size) == sizeof(struct intake_index_command) && be32toh(header.command) == SEND_INDEX;
}

/* The request in connection->header, which is whole: INTAKE_GO when it is carried out, INTAKE_HOLD, INTAKE_PARK. */
static enum intake_step execute(struct intake_connection *connection)
{
	struct index_request request;
	struct intake_stream *stream;
	enum intake_step step;
	bool is_taken;

	memcpy(&request, connection->header, sizeof(request));
	connection->packet.handle = be64toh(request.index.handle);
	connection->packet.net_seq = be64toh(request.index.net_seq);
	step = tf_intake_find_stream(connection, &stream);
	if (step != INTAKE_GO)
		return step;
	if (!stream)
		return hand_over(connection);
	is_taken = tf_intake_join_index(stream, connection, &request.index);
	tf_intake_put_stream(connection->intake, stream);
	return is_taken ? INTAKE_GO : hand_over(connection);
}

/* Carry out what there is, until something stops it. */
static enum intake_step take(struct intake_connection *connection, const uint8_t *data, size_t size, size_t *used,
			     struct replies *replies)
{
	enum intake_step step;
	size_t wanted, part;

	*used = 0;
	for (;;) {
		wanted = connection->header_size < sizeof(struct command_header) ? sizeof(struct command_header) :
										     sizeof(struct index_request);
		part = wanted - connection->header_size;
		if (part > size - *used)
			part = size - *used;
		if (part > 0)
			memcpy(connection->header + connection->header_size, data + *used, part);
		connection->header_size += part;
		*used += part;
		if (connection->header_size < wanted)
			return INTAKE_GO;
		if (!is_index_request(connection))
			return hand_over(connection);
		if (connection->header_size < sizeof(struct index_request))
			continue;
		step = execute(connection);
		if (step != INTAKE_GO)
			return step;
		connection->header_size = 0;
		replies->status[replies->count++] = htobe32(STATUS_OK);
	}
}

/* Those that the socket does not take go back to the caller. */
static bool send_replies(struct intake_connection *connection, const struct replies *replies)
{
	const size_t size = replies->count * sizeof(replies->status[0]);
	ssize_t sent;

	if (size == 0)
		return true;
	do {
		sent = send(connection->fd, replies->status, size, MSG_NOSIGNAL | MSG_DONTWAIT);
	} while (sent < 0 && errno == EINTR);
	if (sent == (ssize_t)size)
		return true;
	connection->unsent_size = size - (sent > 0 ? (size_t)sent : 0);
	connection->unsent = malloc(connection->unsent_size);
	if (connection->unsent)
		memcpy(connection->unsent, (const uint8_t *)replies->status + size - connection->unsent_size,
		       connection->unsent_size);
	return false;
}

static enum intake_step take_and_answer(struct intake_connection *connection, const uint8_t *data, size_t size)
{
	struct replies replies = { .count = 0 };
	enum intake_step step;
	size_t used;

	step = take(connection, data, size, &used, &replies);
	if (!keep(connection, data + used, size - used))
		return over(connection, ENOMEM);
	if (send_replies(connection, &replies))
		return step;
	return connection->unsent ? hand_over(connection) : over(connection, ENOMEM);
}

static enum intake_step take_kept(struct intake_connection *connection)
{
	uint8_t *kept = connection->kept;
	const size_t size = connection->kept_size;
	enum intake_step step;

	/* Also without: a whole request may be all that waits. */
	connection->kept = NULL;
	connection->kept_size = 0;
	step = take_and_answer(connection, kept ? kept : connection->header, size);
	free(kept);
	return step;
}

enum intake_step tf_intake_control_turn(struct intake_connection *connection, struct intake_worker *worker)
{
	enum intake_step step = take_kept(connection);
	size_t received = 0;

	while (step == INTAKE_GO) {
		ssize_t count;

		if (received >= TURN_SIZE || atomic_load_explicit(&connection->is_leaving, memory_order_relaxed))
			return INTAKE_AGAIN;
		count = recv(connection->fd, worker->buffer, READ_SIZE, 0);
		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return INTAKE_DRAINED;
		if (count <= 0) /* the end, which the caller hears as well */
			return hand_over(connection);
		received += (size_t)count;
		step = take_and_answer(connection, worker->buffer, (size_t)count);
		if (step == INTAKE_GO && count < READ_SIZE)
			return INTAKE_DRAINED;
	}
	return step;
}

/* While it is held: nobody has its turn. */
size_t tf_intake_control_take_back(struct intake_connection *connection, uint8_t *bytes, size_t *reply_size)
{
	size_t size = 0;

	if (connection->unsent)
		memcpy(bytes, connection->unsent, connection->unsent_size);
	size += connection->unsent_size;
	*reply_size = size;
	memcpy(bytes + size, connection->header, connection->header_size);
	size += connection->header_size;
	if (connection->kept)
		memcpy(bytes + size, connection->kept, connection->kept_size);
	size += connection->kept_size;
	free(connection->unsent);
	free(connection->kept);
	connection->unsent = connection->kept = NULL;
	connection->unsent_size = connection->kept_size = connection->header_size = 0;
	return size;
}
