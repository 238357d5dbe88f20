#include "intake.h"

#include "crc32c.h"

#include <endian.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

/* Different ones that may wait to be sent; with more, the connection sends before it reads on. */
#define ACK_COUNT_MAX 64

struct ack {
	uint32_t status;
	uint64_t handle, sequence;
};

struct intake_fleet {
	struct tf_fleet_header header; /* of the packet, in host order */
	uint32_t crc;		       /* of the data so far */
	struct ack acks[ACK_COUNT_MAX];
	int ack_count;
	/* Encoded and on their way. */
	struct tf_fleet_ack frames[ACK_COUNT_MAX];
	size_t frame_size, sent_size; /* bytes */
};

struct intake_fleet *tf_intake_fleet_new(void)
{
	return calloc(1, sizeof(struct intake_fleet));
}

/* ---- packets ---- */

int tf_intake_fleet_parse(struct intake_connection *connection)
{
	struct tf_fleet_header *header = &connection->fleet->header;
	struct intake_packet *packet = &connection->packet;
	uint32_t crc;

	memcpy(header, connection->header, sizeof(*header));
	crc = le32toh(header->header_crc);
	header->header_crc = 0;
	if (le32toh(header->magic) != TF_FLEET_HEADER_MAGIC || tf_crc32c(0, header, sizeof(*header)) != crc ||
	    (header->flags != 0 && header->flags != htole32(TF_FLEET_BEACON)))
		return -EBADMSG;
	packet->is_beacon = header->flags != 0;
	packet->handle = le64toh(header->handle);
	packet->net_seq = le64toh(header->sequence);
	packet->data_size = le32toh(header->data_size);
	packet->padding_size = le32toh(header->padding_size);
	header->payload_crc = le32toh(header->payload_crc);
	if ((uint64_t)packet->data_size + packet->padding_size > TF_INTAKE_PACKET_SIZE_MAX)
		return -EMSGSIZE;
	if (le64toh(header->packet_size) != 8 * ((uint64_t)packet->data_size + packet->padding_size) ||
	    le64toh(header->content_size) > le64toh(header->packet_size) || packet->net_seq == TF_FLEET_NO_SEQUENCE ||
	    (packet->is_beacon && header->packet_size != 0))
		return -EBADMSG;
	connection->fleet->crc = 0;
	return 0;
}

bool tf_intake_fleet_has_crc(const struct intake_connection *connection)
{
	return connection->fleet->header.payload_crc != 0;
}

void tf_intake_fleet_check(struct intake_connection *connection, const uint8_t *data, size_t size)
{
	if (tf_intake_fleet_has_crc(connection))
		connection->fleet->crc = tf_crc32c(connection->fleet->crc, data, size);
}

bool tf_intake_fleet_is_corrupt(const struct intake_connection *connection)
{
	return tf_intake_fleet_has_crc(connection) && connection->fleet->crc != connection->fleet->header.payload_crc;
}

static uint64_t swapped(uint64_t little)
{
	return htobe64(le64toh(little));
}

void tf_intake_fleet_describe(const struct intake_connection *connection, struct tf_intake_report *report)
{
	const struct tf_fleet_header *header = &connection->fleet->header;

	report->timestamp_end = le64toh(header->timestamp_end);
	report->stream_class_id = le64toh(header->stream_class_id);
	if (connection->packet.is_beacon)
		return;
	report->events_discarded = le64toh(header->events_discarded);
	report->packet_seq_num = le64toh(header->packet_seq_num);
}

void tf_intake_fleet_index_entry(const struct intake_connection *connection, uint64_t offset,
				 uint64_t entry[INTAKE_INDEX_ENTRY_SIZE / 8])
{
	const struct tf_fleet_header *header = &connection->fleet->header;

	entry[0] = htobe64(offset);
	entry[1] = swapped(header->packet_size);
	entry[2] = swapped(header->content_size);
	entry[3] = swapped(header->timestamp_begin);
	entry[4] = swapped(header->timestamp_end);
	entry[5] = swapped(header->events_discarded);
	entry[6] = swapped(header->stream_class_id);
	entry[7] = swapped(header->stream_instance_id);
	entry[8] = swapped(header->packet_seq_num);
}

/* ---- acknowledgements ---- */

void tf_intake_fleet_note(struct intake_connection *connection, uint32_t status, uint64_t sequence)
{
	struct intake_fleet *fleet = connection->fleet;
	const uint64_t handle = connection->packet.handle;
	int i = 0;

	while (i < fleet->ack_count && (fleet->acks[i].handle != handle || fleet->acks[i].status != status))
		i++;
	/* There is room: every packet begins with a look for it. */
	fleet->acks[i] = (struct ack){ .status = status, .handle = handle, .sequence = sequence };
	if (i == fleet->ack_count)
		fleet->ack_count++;
}

static enum intake_step send_frames(struct intake_connection *connection)
{
	struct intake_fleet *fleet = connection->fleet;

	while (fleet->sent_size < fleet->frame_size) {
		const ssize_t count = send(connection->fd, (uint8_t *)fleet->frames + fleet->sent_size,
					   fleet->frame_size - fleet->sent_size, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (count < 0 && errno == EINTR)
			continue;
		if (count < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
			return INTAKE_BLOCKED;
		if (count < 0) {
			connection->error = errno;
			return INTAKE_OVER;
		}
		fleet->sent_size += (size_t)count;
	}
	fleet->frame_size = fleet->sent_size = 0;
	return INTAKE_GO;
}

/* What was written, made true to what the target promises. 0, or a negative errno: nobody may hear of it. */
static int settle(struct intake_connection *connection, struct ack *ack)
{
	struct intake_stream *stream;
	int ret;

	if (ack->status != TF_FLEET_WRITTEN || ack->sequence == TF_FLEET_NO_SEQUENCE)
		return 0;
	stream = tf_intake_get_stream(connection->intake, ack->handle);
	if (!stream)
		return -ENOENT;
	ret = tf_intake_stream_sync(stream, ack->sequence);
	tf_intake_put_stream(connection->intake, stream);
	if (ret > 0)
		ack->status = TF_FLEET_SYNCED;
	return ret < 0 ? ret : 0;
}

enum intake_step tf_intake_fleet_flush(struct intake_connection *connection)
{
	struct intake_fleet *fleet = connection->fleet;
	enum intake_step step = send_frames(connection);
	size_t count = 0;
	int error = 0;

	if (step != INTAKE_GO)
		return step;
	for (int i = 0; i < fleet->ack_count; i++) {
		struct ack *ack = &fleet->acks[i];
		const int ret = settle(connection, ack);

		if (ret < 0) {
			error = -ret;
			continue;
		}
		fleet->frames[count++] = (struct tf_fleet_ack){ .magic = htole32(TF_FLEET_ACK_MAGIC),
								.status = htole32(ack->status),
								.handle = htole64(ack->handle),
								.sequence = htole64(ack->sequence) };
	}
	fleet->ack_count = 0;
	fleet->frame_size = count * sizeof(fleet->frames[0]);
	step = send_frames(connection);
	/* A sender that hears nothing would wait for ever. */
	if (error && step != INTAKE_OVER) {
		connection->error = error;
		return INTAKE_OVER;
	}
	return step;
}

enum intake_step tf_intake_fleet_make_room(struct intake_connection *connection)
{
	return connection->fleet->ack_count < ACK_COUNT_MAX ? INTAKE_GO : tf_intake_fleet_flush(connection);
}
