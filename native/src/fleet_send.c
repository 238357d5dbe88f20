#include "fleet_state.h"

#include "crc32c.h"

#include <endian.h>
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PACKETS_PER_SEND 64
/* By who hands packets over, before the thread goes on. */
#define SENDS_PER_TURN 4
/* A frame that comes to the other end damaged so often is damaged here. */
#define CORRUPT_COUNT_MAX 3

/* ---- the thread: sending ---- */

struct batch {
	struct fleet_packet *packets[PACKETS_PER_SEND];
	struct tf_fleet_header headers[PACKETS_PER_SEND];
	struct iovec vector[2 * PACKETS_PER_SEND];
	int count, vector_count;
};

static size_t frame_size(const struct fleet_packet *packet)
{
	return sizeof(struct tf_fleet_header) + packet->header.data_size;
}

void tf_fleet_encode(struct tf_fleet_header *out, const struct tf_fleet_header *header, uint64_t handle)
{
	*out = (struct tf_fleet_header){ .magic = htole32(TF_FLEET_HEADER_MAGIC),
					 .handle = htole64(handle),
					 .sequence = htole64(header->sequence),
					 .data_size = htole32(header->data_size),
					 .padding_size = htole32(header->padding_size),
					 .payload_crc = htole32(header->payload_crc),
					 .flags = htole32(header->flags),
					 .packet_size = htole64(header->packet_size),
					 .content_size = htole64(header->content_size),
					 .timestamp_begin = htole64(header->timestamp_begin),
					 .timestamp_end = htole64(header->timestamp_end),
					 .events_discarded = htole64(header->events_discarded),
					 .stream_class_id = htole64(header->stream_class_id),
					 .stream_instance_id = htole64(header->stream_instance_id),
					 .packet_seq_num = htole64(header->packet_seq_num) };
	out->header_crc = htole32(tf_crc32c(0, out, sizeof(*out)));
}

/* The frame of @packet, without its first @skipped bytes. */
static void add_to_batch(struct batch *batch, struct fleet_packet *packet, size_t skipped)
{
	struct tf_fleet_header *header = &batch->headers[batch->count];
	struct iovec *vector = &batch->vector[batch->vector_count];

	batch->packets[batch->count++] = packet;
	if (skipped < sizeof(*header)) {
		tf_fleet_encode(header, &packet->header, packet->stream->handle);
		*vector++ = (struct iovec){ (uint8_t *)header + skipped, sizeof(*header) - skipped };
		skipped = 0;
	} else {
		skipped -= sizeof(*header);
	}
	if (packet->header.data_size > skipped)
		*vector++ = (struct iovec){ (void *)(uintptr_t)(packet->data + skipped),
					    packet->header.data_size - skipped };
	batch->vector_count = (int)(vector - batch->vector);
}

static bool may_go(const struct fleet_packet *packet)
{
	return !packet->is_sent && packet->stream->is_bound;
}

static void fill_batch(struct tf_fleet *fleet, struct batch *batch)
{
	const int limit = fleet->is_careful ? 1 : PACKETS_PER_SEND;

	batch->count = batch->vector_count = 0;
	if (fleet->begun)
		add_to_batch(batch, fleet->begun, fleet->begun_size);
	if (fleet->spool && !fleet->is_spool_read)
		return;
	while (fleet->cursor && !may_go(fleet->cursor))
		fleet->cursor = fleet->cursor->next;
	for (struct fleet_packet *packet = fleet->cursor; packet && batch->count < limit; packet = packet->next)
		if (may_go(packet) && packet != fleet->begun)
			add_to_batch(batch, packet, 0);
}

void tf_fleet_note_sent(struct tf_fleet *fleet, struct fleet_stream *stream, const struct tf_fleet_header *header)
{
	if (header->sequence < stream->sent_sequence) {
		fleet->books.resent_count++;
	} else {
		fleet->books.sent_count++;
		fleet->books.sent_bytes += header->packet_size / 8;
		stream->sent_sequence = header->sequence + 1;
	}
	/* Not of what was refused meanwhile, as what was before it has to come again. */
	if (header->sequence == stream->connection_sequence)
		stream->connection_sequence++;
}

static void finish_packet(struct tf_fleet *fleet, struct fleet_packet *packet)
{
	if (tf_fleet_is_beacon(packet)) {
		tf_fleet_drop(fleet, packet);
		return;
	}
	packet->is_sent = true;
	tf_fleet_note_sent(fleet, packet->stream, &packet->header);
}

static void note_sent_bytes(struct tf_fleet *fleet, const struct batch *batch, size_t sent)
{
	for (int i = 0; i < batch->count; i++) {
		struct fleet_packet *packet = batch->packets[i];
		const size_t begun_size = fleet->begun == packet ? fleet->begun_size : 0;
		const size_t left = frame_size(packet) - begun_size;

		if (sent < left) {
			if (sent > 0) {
				fleet->begun = packet;
				fleet->begun_size = begun_size + sent;
			}
			return;
		}
		sent -= left;
		fleet->begun = NULL;
		finish_packet(fleet, packet);
	}
}

/* An application took its memory away: what of the stream was not sent is lost. */
void tf_fleet_give_up(struct tf_fleet *fleet, struct fleet_stream *stream)
{
	if (fleet->begun && fleet->begun->stream == stream)
		tf_fleet_lose(fleet, -ECONNABORTED);
	while (stream->first)
		tf_fleet_pop(fleet, stream);
	stream->is_unreadable = true;
	tf_fleet_poke(fleet, stream);
}

void tf_fleet_end_sending(struct tf_fleet *fleet)
{
	fleet->is_sending = false;
	if (fleet->claimant_count > 0 || fleet->is_thread_waiting)
		pthread_cond_broadcast(&fleet->changed);
}

/* With the lock held. */
static void await_sender(struct tf_fleet *fleet)
{
	fleet->is_thread_waiting = true;
	while (fleet->is_sending)
		pthread_cond_wait(&fleet->changed, &fleet->lock);
	fleet->is_thread_waiting = false;
}

/* Send what can be sent. False: nothing, for now. With the lock held, which is released meanwhile. */
static bool send_some(struct tf_fleet *fleet)
{
	const uint64_t connection = fleet->connection;
	const int fd = fleet->fd;
	struct msghdr message = { 0 };
	struct batch batch;
	ssize_t sent;
	int error;

	if (fd < 0 || fleet->is_blocked)
		return false;
	fill_batch(fleet, &batch);
	if (batch.count == 0)
		return false;
	message.msg_iov = batch.vector;
	message.msg_iovlen = (size_t)batch.vector_count;
	fleet->is_sending = true;
	pthread_mutex_unlock(&fleet->lock);
	do {
		sent = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	} while (sent < 0 && errno == EINTR);
	error = errno;
	pthread_mutex_lock(&fleet->lock);
	tf_fleet_end_sending(fleet);
	if (fleet->connection != connection)
		return true;
	if (sent > 0) {
		note_sent_bytes(fleet, &batch, (size_t)sent);
		fleet->is_careful = false;
	} else if (error == EAGAIN || error == EWOULDBLOCK) {
		fleet->is_blocked = true;
		return false;
	} else if (error == EFAULT && batch.count > 1) {
		fleet->is_careful = true; /* it says nothing of which packet it was */
	} else if (error == EFAULT) {
		fleet->is_careful = false;
		tf_fleet_give_up(fleet, batch.packets[0]->stream);
	} else {
		tf_fleet_lose(fleet, -error);
	}
	return true;
}

static bool has_more(const struct tf_fleet *fleet)
{
	const struct fleet_packet *packet = fleet->cursor;

	while (packet && !may_go(packet))
		packet = packet->next;
	return packet;
}

/* A packet that leaves from here saves the way through the thread, and the time of two threads for it. */
void tf_fleet_send_now(struct tf_fleet *fleet)
{
	const bool was_blocked = fleet->is_blocked;

	for (int i = 0; i < SENDS_PER_TURN; i++)
		if (fleet->is_sending || fleet->claimant_count > 0 || !send_some(fleet))
			break;
	if (fleet->fd < 0 ? fleet->spool != NULL : fleet->is_blocked ? !was_blocked : has_more(fleet))
		tf_fleet_wake(fleet);
	else if (fleet->is_pressed)
		tf_fleet_wake(fleet);
}

/* ---- the thread: what comes back ---- */

/* Send again what follows @next_sequence - 1. */
static int take_refusal(struct tf_fleet *fleet, struct fleet_stream *stream, uint64_t next_sequence)
{
	const uint64_t oldest = tf_fleet_oldest_sequence(stream);

	if (oldest == stream->next_sequence)
		return 0;
	/* It wants what is not here any more; who makes the next connection says what there is. */
	if (next_sequence < oldest)
		return -EPROTO;
	stream->connection_sequence = next_sequence;
	if (next_sequence < stream->spool_end) {
		while (stream->flight_first)
			tf_fleet_pop_flight(fleet, stream);
		fleet->is_spool_read = false;
		fleet->is_rewind_due = true;
	}
	for (struct fleet_packet *packet = stream->first; packet; packet = packet->next_of_stream)
		if (packet->header.sequence >= next_sequence)
			packet->is_sent = false;
	fleet->cursor = fleet->first;
	return 0;
}

static int take_ack(struct tf_fleet *fleet)
{
	struct fleet_stream *stream;
	struct tf_fleet_ack ack;
	uint64_t next_sequence;

	memcpy(&ack, fleet->ack, sizeof(ack));
	stream = tf_fleet_find_bound(fleet, le64toh(ack.handle));
	next_sequence = le64toh(ack.sequence) + 1; /* 0: nothing */
	if (le32toh(ack.magic) != TF_FLEET_ACK_MAGIC || !stream || next_sequence > stream->sent_sequence)
		return -EPROTO;
	switch (le32toh(ack.status)) {
	case TF_FLEET_WRITTEN:
	case TF_FLEET_SYNCED:
		tf_fleet_acknowledge(fleet, stream, next_sequence);
		return 0;
	case TF_FLEET_CORRUPT:
		if (stream->corrupt_sequence != next_sequence)
			stream->corrupt_count = 0;
		stream->corrupt_sequence = next_sequence;
		if (++stream->corrupt_count > CORRUPT_COUNT_MAX)
			return -EBADMSG;
		return take_refusal(fleet, stream, next_sequence);
	case TF_FLEET_GAP:
		return take_refusal(fleet, stream, next_sequence);
	default:
		return -EPROTO;
	}
}

static int take_bytes(struct tf_fleet *fleet, const uint8_t *bytes, size_t size)
{
	int ret = 0;

	while (size > 0 && ret == 0) {
		const size_t missing = sizeof(fleet->ack) - fleet->ack_size;
		const size_t taken = size < missing ? size : missing;

		memcpy(fleet->ack + fleet->ack_size, bytes, taken);
		fleet->ack_size += taken;
		bytes += taken;
		size -= taken;
		if (fleet->ack_size < sizeof(fleet->ack))
			break;
		fleet->ack_size = 0;
		ret = take_ack(fleet);
	}
	return ret;
}

/* As above. */
static void take_acks(struct tf_fleet *fleet)
{
	const uint64_t connection = fleet->connection;
	const int fd = fleet->fd;
	uint8_t bytes[128 * sizeof(struct tf_fleet_ack)];
	ssize_t got;
	int error, ret = 0;

	if (fd < 0)
		return;
	pthread_mutex_unlock(&fleet->lock);
	do {
		got = recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT);
	} while (got < 0 && errno == EINTR);
	error = errno;
	pthread_mutex_lock(&fleet->lock);
	await_sender(fleet); /* who may not know yet that it has sent what is acknowledged */
	if (fleet->connection != connection)
		return;
	if (got > 0)
		ret = take_bytes(fleet, bytes, (size_t)got);
	else if (got == 0)
		ret = -ECONNRESET;
	else if (error != EAGAIN && error != EWOULDBLOCK)
		ret = -error;
	if (ret < 0)
		tf_fleet_lose(fleet, ret);
}

/* ---- the thread ---- */

/* Sleep until there is something to do. With the lock held, which is released meanwhile. */
static void await_work(struct tf_fleet *fleet)
{
	struct pollfd events[2] = { { .fd = fleet->wake_fd, .events = POLLIN },
				    { .fd = fleet->fd,
				      .events = fleet->is_blocked ? POLLIN | POLLOUT : POLLIN } };
	const uint64_t connection = fleet->connection;
	const int timeout_ms = tf_fleet_spool_timeout_ms(fleet);
	eventfd_t value;

	fleet->is_polling = true;
	pthread_mutex_unlock(&fleet->lock);
	poll(events, 2, timeout_ms); /* a descriptor of -1 says nothing */
	if (events[0].revents)
		eventfd_read(fleet->wake_fd, &value);
	pthread_mutex_lock(&fleet->lock);
	fleet->is_polling = false;
	if (fleet->connection != connection)
		return;
	if (events[1].revents & (POLLOUT | POLLERR | POLLHUP))
		fleet->is_blocked = false;
	if (events[1].revents & (POLLIN | POLLERR | POLLHUP))
		take_acks(fleet);
}

/* Tell streams of their progress. With the lock held, which is released meanwhile. */
static void settle_streams(struct tf_fleet *fleet)
{
	struct fleet_stream *stream;

	while ((stream = fleet->unsettled) && fleet->claimant_count == 0) {
		bool is_done;

		fleet->unsettled = stream->next_unsettled;
		stream->is_unsettled = false;
		if (stream->capacity == 0)
			continue;
		fleet->is_sending = true;
		pthread_mutex_unlock(&fleet->lock);
		is_done = stream->settle(stream->source);
		pthread_mutex_lock(&fleet->lock);
		tf_fleet_end_sending(fleet);
		if (!is_done && !stream->is_poked) {
			const ssize_t ret = write(stream->wakeup_fd, "", 1);

			(void)ret; /* a full pipe wakes as well */
			stream->is_poked = true;
		}
	}
}

static void *run(void *argument)
{
	struct tf_fleet *fleet = argument;

	pthread_mutex_lock(&fleet->lock);
	while (!fleet->is_ending) {
		if (fleet->claimant_count > 0 || fleet->is_sending) {
			fleet->is_thread_waiting = true;
			pthread_cond_wait(&fleet->changed, &fleet->lock);
			fleet->is_thread_waiting = false;
			continue; /* anything may have happened */
		}
		if (fleet->former_fd >= 0) {
			close(fleet->former_fd);
			fleet->former_fd = -1;
			pthread_cond_broadcast(&fleet->changed);
		}
		if (fleet->unsettled) {
			settle_streams(fleet);
			continue;
		}
		if (fleet->spool && tf_fleet_advance_spool(fleet))
			continue;
		if (!send_some(fleet) && !tf_fleet_send_frame(fleet))
			await_work(fleet);
	}
	pthread_mutex_unlock(&fleet->lock);
	return NULL;
}

int tf_fleet_start_thread(struct tf_fleet *fleet)
{
	sigset_t all, old;
	int ret;

	/* Signals are for the program's own threads; only what a thread does to itself stays its own. */
	sigfillset(&all);
	sigdelset(&all, SIGBUS);
	sigdelset(&all, SIGSEGV);
	sigdelset(&all, SIGILL);
	sigdelset(&all, SIGFPE);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&fleet->thread, NULL, run, fleet);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret != 0)
		return -ret;
	fleet->has_thread = true;
	pthread_setname_np(fleet->thread, "tf-fleet");
	return 0;
}
