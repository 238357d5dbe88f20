#include "fleet_state.h"

#include "clock.h"

#include <errno.h>
#include <sys/socket.h>

/*
 * What waits for so long goes to the spool: for a connection, of which to make another one takes less; for a peer that
 * says nothing; or for frames that are in the spool already.
 */
#define SPOOL_DELAY_MS 1000
/* A spool that is full, or fails, is tried again after that. */
#define SPOOL_RETRY_MS 200

/* ---- the thread: the spool ---- */

/* The spool is full, or fails: what is not in it stays in the ring buffers. */
static void note_spool_failure(struct tf_fleet *fleet, int error)
{
	fleet->spool_retry_at_ms = tf_now_ms() + SPOOL_RETRY_MS;
	fleet->spool_error = error;
}

/* What the books say of it. */
static void note_spool(struct tf_fleet *fleet)
{
	struct tf_spool_books books;

	tf_spool_books(fleet->spool, &books);
	fleet->books.spooled_bytes = books.byte_count;
}

/* When packets go to the spool, if they still wait then. */
static uint64_t spool_at_ms(const struct tf_fleet *fleet)
{
	const uint64_t at_ms = fleet->is_pressed ? 0 : fleet->waiting_since_ms + SPOOL_DELAY_MS;

	return at_ms > fleet->spool_retry_at_ms ? at_ms : fleet->spool_retry_at_ms;
}

static bool should_spool(const struct tf_fleet *fleet)
{
	return fleet->is_flush_wanted || (tf_fleet_first_packet(fleet) && tf_now_ms() >= spool_at_ms(fleet));
}

int tf_fleet_spool_timeout_ms(const struct tf_fleet *fleet)
{
	uint64_t now_ms, at_ms;

	if (!fleet->spool)
		return -1;
	/* Who hands packets over sends them, and wakes the thread as seldom as it can. */
	if (!tf_fleet_first_packet(fleet))
		return SPOOL_DELAY_MS;
	now_ms = tf_now_ms();
	at_ms = spool_at_ms(fleet);
	return at_ms > now_ms ? (int)(at_ms - now_ms) : 0;
}

/* A packet that is in the spool was sent; its acknowledgement belongs into the books. */
static void note_in_flight(struct tf_fleet *fleet, struct fleet_stream *stream, const struct tf_fleet_header *header)
{
	struct fleet_packet *packet = tf_fleet_new_packet(fleet);

	if (!packet)
		return; /* then it is missing there */
	packet->header = *header;
	packet->stream = stream;
	if (stream->flight_last)
		stream->flight_last->next_of_stream = packet;
	else
		stream->flight_first = packet;
	stream->flight_last = packet;
}

static void note_spooled(struct tf_fleet *fleet, struct fleet_packet *packet)
{
	struct fleet_stream *stream = packet->stream;
	const uint64_t sequence = packet->header.sequence;

	if (stream->spool_end != sequence)
		stream->spool_begin = sequence;
	stream->spool_end = sequence + 1;
	fleet->books.spooled_count++;
	if (stream->safe_sequence <= sequence)
		stream->safe_sequence = sequence + 1;
	fleet->is_spool_read = false;
	if (packet->is_sent)
		note_in_flight(fleet, stream, &packet->header);
	tf_fleet_pop(fleet, stream);
	tf_fleet_poke(fleet, stream);
}

/* The packet of which a part is sent is in the spool now: the rest comes from there, before anything else. */
static int go_on_from_spool(struct tf_fleet *fleet, uint32_t key, uint64_t sequence, size_t begun_size)
{
	int ret;

	tf_spool_rewind(fleet->spool);
	do {
		ret = tf_spool_next(fleet->spool, &fleet->frame);
	} while (ret == 1 && (fleet->frame.header.handle != key || fleet->frame.header.sequence != sequence));
	if (ret != 1)
		return ret < 0 ? ret : -EBADMSG;
	fleet->has_frame = true;
	fleet->frame_sent = begun_size;
	fleet->is_rewind_due = true; /* those before it were passed over */
	return 0;
}

static int spool_packet(struct tf_fleet *fleet, struct fleet_packet *packet)
{
	struct tf_fleet_header header = packet->header;
	struct fleet_stream *stream = packet->stream;
	int ret;

	header.handle = stream->key;
	fleet->is_sending = true;
	pthread_mutex_unlock(&fleet->lock);
	ret = tf_spool_append(fleet->spool, &header, packet->data);
	pthread_mutex_lock(&fleet->lock);
	tf_fleet_end_sending(fleet);
	if (ret == -EFAULT) {
		tf_fleet_give_up(fleet, stream);
		return 0;
	}
	if (ret < 0)
		return ret;
	if (fleet->begun == packet) {
		ret = go_on_from_spool(fleet, stream->key, header.sequence, fleet->begun_size);
		fleet->begun = NULL;
		if (ret < 0)
			tf_fleet_lose(fleet, ret);
	}
	note_spooled(fleet, packet);
	return 0;
}

/* Bring all packets into the spool, in their order. With the lock held, which is released meanwhile. */
static void spool_packets(struct tf_fleet *fleet)
{
	struct fleet_packet *packet;
	int ret = 0;

	while (ret == 0 && (packet = tf_fleet_first_packet(fleet))) {
		ret = spool_packet(fleet, packet);
		if (fleet->claimant_count > 0 && ret == 0)
			return; /* and again, when they are done */
	}
	if (ret < 0) {
		note_spool_failure(fleet, ret);
	} else {
		fleet->spool_error = 0;
		fleet->is_pressed = false;
	}
	fleet->is_flush_wanted = false;
	pthread_cond_broadcast(&fleet->changed);
	note_spool(fleet);
}

/* Give back what was acknowledged. With the lock held, which is released meanwhile. */
static void release_frames(struct tf_fleet *fleet)
{
	struct fleet_stream *stream;
	int ret = 0;

	while ((stream = fleet->due)) {
		const uint64_t sequence = stream->acknowledged_sequence - 1;

		fleet->due = stream->next_due;
		stream->is_due = false;
		pthread_mutex_unlock(&fleet->lock);
		ret = tf_spool_release(fleet->spool, stream->key, sequence);
		pthread_mutex_lock(&fleet->lock);
		if (ret < 0)
			note_spool_failure(fleet, ret);
	}
	fleet->spool_retry_at_ms = 0; /* there may be room now */
	note_spool(fleet);
}

/* What has to be done before anything is sent. True: something was, and all may be different now. */
bool tf_fleet_advance_spool(struct tf_fleet *fleet)
{
	if (fleet->due) {
		release_frames(fleet);
		return true;
	}
	if (should_spool(fleet)) {
		spool_packets(fleet);
		return true;
	}
	if (fleet->is_rewind_due && !fleet->has_frame) {
		tf_spool_rewind(fleet->spool);
		fleet->is_rewind_due = false;
		fleet->is_spool_read = false;
	}
	return false;
}

/* The next frame that is to be sent, in fleet->frame. False: none, or it has to wait. */
static bool next_frame(struct tf_fleet *fleet)
{
	const struct tf_fleet_header *header = &fleet->frame.header;

	for (;;) {
		int ret;

		if (fleet->has_frame) {
			const struct fleet_stream *stream = fleet->streams[header->handle];

			if (!stream->is_bound)
				return false;
			if (fleet->frame_sent > 0 || (header->sequence >= stream->connection_sequence &&
						      header->sequence >= stream->acknowledged_sequence))
				return true;
		}
		ret = tf_spool_next(fleet->spool, &fleet->frame);
		fleet->has_frame = ret == 1;
		fleet->frame_sent = 0;
		if (ret < 0) {
			note_spool_failure(fleet, ret);
			tf_fleet_lose(fleet, ret);
		}
		fleet->is_spool_read = ret == 0;
		if (ret != 1)
			return false;
	}
}

/* All of fleet->frame is sent. */
static void finish_frame(struct tf_fleet *fleet)
{
	const struct tf_fleet_header *header = &fleet->frame.header;
	struct fleet_stream *stream = fleet->streams[header->handle];

	fleet->has_frame = false;
	tf_fleet_note_sent(fleet, stream, header);
	note_in_flight(fleet, stream, header);
}

/* As send_some(), from the spool. */
bool tf_fleet_send_frame(struct tf_fleet *fleet)
{
	const uint64_t connection = fleet->connection;
	const int fd = fleet->fd;
	struct tf_fleet_header header;
	uint32_t data_size;
	ssize_t sent;

	if (!fleet->spool || fd < 0 || fleet->is_blocked || fleet->is_spool_read)
		return false;
	if (!next_frame(fleet))
		return fleet->is_spool_read; /* then others may go */
	data_size = fleet->frame.header.data_size;
	tf_fleet_encode(&header, &fleet->frame.header, fleet->streams[fleet->frame.header.handle]->handle);
	pthread_mutex_unlock(&fleet->lock);
	if (fleet->frame_sent < sizeof(header)) {
		sent = send(fd, (uint8_t *)&header + fleet->frame_sent, sizeof(header) - fleet->frame_sent,
			    MSG_DONTWAIT | MSG_NOSIGNAL | (data_size > 0 ? MSG_MORE : 0));
		if (sent < 0)
			sent = -errno;
	} else {
		const uint32_t begin = (uint32_t)(fleet->frame_sent - sizeof(header));

		sent = tf_spool_send(fleet->spool, fd, &fleet->frame, begin, data_size - begin);
	}
	pthread_mutex_lock(&fleet->lock);
	if (fleet->connection != connection)
		return true;
	if (sent > 0) {
		fleet->frame_sent += (size_t)sent;
		if (fleet->frame_sent == sizeof(header) + data_size)
			finish_frame(fleet);
	} else if (sent == -EAGAIN || sent == -EWOULDBLOCK) {
		fleet->is_blocked = true;
		return false;
	} else if (sent != -EINTR) {
		tf_fleet_lose(fleet, sent < 0 ? (int)sent : -EIO);
	}
	return true;
}

/* What is there already is as if it had been given, and spooled. */
int tf_fleet_open_spool(struct tf_fleet *fleet, const char *directory, uint64_t size_limit, bool *is_damaged)
{
	int ret = tf_spool_open(directory, size_limit, &fleet->spool, is_damaged);
	size_t count;

	if (ret < 0)
		return ret;
	count = tf_spool_stream_count(fleet->spool);
	for (size_t key = 0; key < count; key++) {
		struct fleet_stream *stream = tf_fleet_new_stream(fleet);
		uint64_t oldest, next;

		if (!stream)
			return -ENOMEM;
		stream->is_found = true;
		if (!tf_spool_range(fleet->spool, key, &oldest, &next))
			continue;
		stream->acknowledged_sequence = stream->sent_sequence = stream->spool_begin = oldest;
		stream->safe_sequence = stream->next_sequence = stream->spool_end = next;
		fleet->books.spooled_count += next - oldest;
	}
	note_spool(fleet);
	return 0;
}
