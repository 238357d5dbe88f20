#include "relay.h"

#include "clock.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COMMAND_SEND_METADATA = 6, COMMAND_SEND_INDEX = 13 };

#define RETURN_CODE_OK 10
/*
 * A peer that reads at all makes room within this time; one that does not is left alone until the next look, so that
 * the thread can serve others. One that is merely slow has it for a little longer at a time.
 */
#define PATIENCE_MS 20
#define TURN_MS 60
/* Index entries for a few hundred packets: a peer that takes no more of them shall get no more packets. */
#define QUEUE_SIZE_MAX (64 << 10)

struct command_header { /* all of these big-endian */
	uint64_t circuit_id, data_size;
	uint32_t command, version;
};

struct data_header {
	uint64_t circuit_id, handle, number;
	uint32_t data_size, padding_size;
};

struct index {
	struct command_header header;
	uint64_t handle, number, packet_size, content_size, timestamp_begin, timestamp_end;
	uint64_t events_discarded, stream_id, stream_instance_id, packet_seq_num;
};

struct __attribute__((packed)) metadata_header {
	struct command_header header;
	uint64_t handle;
	uint32_t padding_size;
};

_Static_assert(sizeof(struct command_header) == 24, "LTTng's relay protocol");
_Static_assert(sizeof(struct data_header) == 32, "LTTng's relay protocol");
_Static_assert(sizeof(struct index) == 24 + 80, "LTTng's relay protocol, 2.8");
_Static_assert(sizeof(struct metadata_header) == 24 + 12, "LTTng's relay protocol");

struct tf_relay {
	int reference_count; /* atomic */
	int control_fd, data_fd;
	pthread_mutex_t lock; /* of everything below; taken after a stream's. Nobody waits for the peer with it */
	pthread_cond_t changed;
	int error; /* negative errno: the session is lost */

	bool is_exclusive; /* somebody has the control connection: what is queued waits */
	uint8_t *queue;	   /* for the control connection, from queue_begin to queue_end */
	size_t queue_begin, queue_end, queue_capacity;
	uint64_t queued_total, sent_total;     /* bytes that ever were in the queue, and left it */
	uint64_t requested_count, answered_count; /* index entries, and the replies to them */
	struct tf_relay_sums sums;
	uint8_t reply[4];
	size_t reply_size;
	size_t late_size; /* bytes of replies to somebody who waits for them no more; they come first */

	bool is_sending; /* somebody has the data connection, and what is below */
	int waiting_count;
	const void *latest_sender;
	int rest_fd;	  /* a memfd with the end of a packet that has begun; -1: never needed yet */
	off_t rest_begin;
	size_t rest_size; /* atomic */
	bool is_stalled;  /* it took nothing when it was last waited for */
};

int tf_relay_create(int control_fd, int data_fd, struct tf_relay **out)
{
	struct tf_relay *relay = calloc(1, sizeof(*relay));
	pthread_condattr_t attributes;
	const int one = 1;
	int ret;

	if (!relay)
		return -ENOMEM;
	relay->reference_count = 1;
	relay->rest_fd = -1;
	pthread_mutex_init(&relay->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&relay->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	relay->control_fd = fcntl(control_fd, F_DUPFD_CLOEXEC, 0);
	relay->data_fd = fcntl(data_fd, F_DUPFD_CLOEXEC, 0);
	if (relay->control_fd < 0 || relay->data_fd < 0 || fcntl(relay->control_fd, F_SETFL, O_NONBLOCK) < 0 ||
	    fcntl(relay->data_fd, F_SETFL, O_NONBLOCK) < 0) {
		ret = -errno;
		tf_relay_put(relay);
		return ret;
	}
	/* Whoever watches live waits for the last segment. Other kinds of sockets do not know it, and need not. */
	setsockopt(relay->control_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(relay->data_fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	*out = relay;
	return 0;
}

struct tf_relay *tf_relay_get(struct tf_relay *relay)
{
	__atomic_add_fetch(&relay->reference_count, 1, __ATOMIC_RELAXED);
	return relay;
}

void tf_relay_put(struct tf_relay *relay)
{
	if (!relay || __atomic_sub_fetch(&relay->reference_count, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	if (relay->control_fd >= 0)
		close(relay->control_fd);
	if (relay->data_fd >= 0)
		close(relay->data_fd);
	if (relay->rest_fd >= 0)
		close(relay->rest_fd);
	pthread_cond_destroy(&relay->changed);
	pthread_mutex_destroy(&relay->lock);
	free(relay->queue);
	free(relay);
}

/* With the lock held. The descriptors stay, so that nobody meets another's in their place. */
static int lose(struct tf_relay *relay, int error)
{
	if (relay->error == 0) {
		relay->error = error;
		shutdown(relay->control_fd, SHUT_RDWR);
		shutdown(relay->data_fd, SHUT_RDWR);
		pthread_cond_broadcast(&relay->changed);
	}
	return relay->error;
}

int tf_relay_error(struct tf_relay *relay)
{
	int error;

	pthread_mutex_lock(&relay->lock);
	error = relay->error;
	pthread_mutex_unlock(&relay->lock);
	return error;
}

void tf_relay_get_sums(struct tf_relay *relay, struct tf_relay_sums *sums)
{
	pthread_mutex_lock(&relay->lock);
	*sums = relay->sums;
	pthread_mutex_unlock(&relay->lock);
}

void tf_relay_close(struct tf_relay *relay)
{
	pthread_mutex_lock(&relay->lock);
	lose(relay, -ENOTCONN);
	pthread_mutex_unlock(&relay->lock);
}

static void set_deadline(struct timespec *end, uint32_t timeout_ms)
{
	clock_gettime(CLOCK_MONOTONIC, end);
	end->tv_sec += timeout_ms / 1000;
	end->tv_nsec += timeout_ms % 1000 * 1000000L;
	if (end->tv_nsec >= 1000000000L) {
		end->tv_sec++;
		end->tv_nsec -= 1000000000L;
	}
}

static bool is_transient(int error)
{
	return error == EAGAIN || error == EWOULDBLOCK || error == EINTR;
}

/* ---- the control connection; all of it with the lock held ---- */

static int take_replies(struct tf_relay *relay)
{
	uint8_t bytes[4096];

	while (relay->error == 0) {
		const ssize_t got = recv(relay->control_fd, bytes, sizeof(bytes), MSG_DONTWAIT);

		if (got < 0 && is_transient(errno))
			return 0;
		if (got <= 0)
			return lose(relay, got < 0 ? -errno : -ECONNRESET);
		for (ssize_t i = 0; i < got; i++) {
			uint32_t code;

			if (relay->late_size > 0) {
				relay->late_size--;
				continue;
			}
			relay->reply[relay->reply_size++] = bytes[i];
			if (relay->reply_size < sizeof(relay->reply))
				continue;
			memcpy(&code, relay->reply, sizeof(code));
			relay->reply_size = 0;
			if (be32toh(code) != RETURN_CODE_OK || ++relay->answered_count > relay->requested_count)
				return lose(relay, -EPROTO);
		}
	}
	return relay->error;
}

/* Send what is queued up to the @end'th byte ever. Returns 0, also when some of it has to wait, or a negative errno. */
static int send_queue(struct tf_relay *relay, uint64_t end)
{
	while (relay->error == 0 && relay->sent_total < end) {
		const ssize_t sent = send(relay->control_fd, relay->queue + relay->queue_begin,
					  (size_t)(end - relay->sent_total), MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && is_transient(errno))
			break;
		if (sent < 0)
			return lose(relay, -errno);
		relay->queue_begin += (size_t)sent;
		relay->sent_total += (uint64_t)sent;
	}
	if (relay->queue_begin == relay->queue_end)
		relay->queue_begin = relay->queue_end = 0;
	return relay->error;
}

static size_t queue_size(const struct tf_relay *relay)
{
	return relay->queue_end - relay->queue_begin;
}

/* Send what can be sent, take what has come, unless somebody else does. */
static int advance_control(struct tf_relay *relay)
{
	if (relay->error == 0 && !relay->is_exclusive) {
		send_queue(relay, relay->queued_total);
		take_replies(relay);
	}
	return relay->error;
}

/* Room for @size more bytes at the end of the queue, or NULL. */
static uint8_t *extend_queue(struct tf_relay *relay, size_t size)
{
	if (relay->queue_begin > 0 && relay->queue_end + size > relay->queue_capacity) {
		memmove(relay->queue, relay->queue + relay->queue_begin, queue_size(relay));
		relay->queue_end -= relay->queue_begin;
		relay->queue_begin = 0;
	}
	if (relay->queue_end + size > relay->queue_capacity) {
		const size_t capacity = 2 * relay->queue_end + size + 4096;
		uint8_t *queue = realloc(relay->queue, capacity);

		if (!queue)
			return NULL;
		relay->queue = queue;
		relay->queue_capacity = capacity;
	}
	relay->queue_end += size;
	relay->queued_total += size;
	return relay->queue + relay->queue_end - size;
}

static struct command_header header_of(uint32_t command, size_t data_size)
{
	return (struct command_header){ .data_size = htobe64(data_size), .command = htobe32(command) };
}

static int queue_index(struct tf_relay *relay, const struct index *index)
{
	uint8_t *room = extend_queue(relay, sizeof(*index));

	/* Without its index entry the packet would be there and not there. */
	if (!room)
		return lose(relay, -ENOMEM);
	memcpy(room, index, sizeof(*index));
	relay->requested_count++;
	return 0;
}

int tf_relay_send_metadata(struct tf_relay *relay, uint64_t handle, const uint8_t *packet, size_t size,
			   uint32_t padding)
{
	const struct metadata_header header = {
		.header = header_of(COMMAND_SEND_METADATA, sizeof(header) - sizeof(header.header) + size),
		.handle = htobe64(handle),
		.padding_size = htobe32(padding),
	};
	uint8_t *room;
	int ret;

	pthread_mutex_lock(&relay->lock);
	ret = advance_control(relay);
	if (ret == 0 && queue_size(relay) > QUEUE_SIZE_MAX)
		ret = -EAGAIN;
	if (ret == 0) {
		room = extend_queue(relay, sizeof(header) + size);
		if (room) {
			memcpy(room, &header, sizeof(header));
			memcpy(room + sizeof(header), packet, size);
			ret = advance_control(relay);
		} else {
			ret = -ENOMEM;
		}
	}
	pthread_mutex_unlock(&relay->lock);
	return ret;
}

void tf_relay_send_beacon(struct tf_relay *relay, const struct tf_relay_stream *stream, uint64_t timestamp)
{
	const struct index beacon = {
		.header = header_of(COMMAND_SEND_INDEX, sizeof(beacon) - sizeof(beacon.header)),
		.handle = htobe64(stream->handle),
		.number = htobe64(stream->next_number - 1), /* the latest sent; all ones before the first */
		.timestamp_end = htobe64(timestamp),
		.stream_id = htobe64(stream->stream_id),
	};

	pthread_mutex_lock(&relay->lock);
	if (advance_control(relay) == 0 && queue_size(relay) == 0 && queue_index(relay, &beacon) == 0)
		advance_control(relay);
	pthread_mutex_unlock(&relay->lock);
}

/* With the lock held, which is released while it waits. */
static int await_control(struct tf_relay *relay, uint64_t end, uint64_t answer_count, uint64_t end_ms)
{
	while (relay->error == 0) {
		struct pollfd control = { .fd = relay->control_fd, .events = POLLIN };
		const uint64_t now_ms = tf_now_ms();

		send_queue(relay, end);
		take_replies(relay);
		if (relay->error != 0 || (relay->sent_total >= end && relay->late_size == 0 &&
					  relay->answered_count >= answer_count))
			break;
		if (now_ms >= end_ms)
			return -ETIMEDOUT;
		if (relay->sent_total < end)
			control.events |= POLLOUT;
		pthread_mutex_unlock(&relay->lock);
		poll(&control, 1, (int)(end_ms - now_ms));
		pthread_mutex_lock(&relay->lock);
	}
	return relay->error;
}

int tf_relay_begin(struct tf_relay *relay, uint32_t timeout_ms)
{
	const uint64_t end_ms = tf_now_ms() + timeout_ms;
	struct timespec end;
	int ret = 0;

	set_deadline(&end, timeout_ms);
	pthread_mutex_lock(&relay->lock);
	while (relay->error == 0 && relay->is_exclusive && ret == 0)
		ret = -pthread_cond_timedwait(&relay->changed, &relay->lock, &end);
	if (relay->error != 0)
		ret = relay->error;
	if (ret == 0) {
		relay->is_exclusive = true;
		/* What streams queue from now on goes out after the command. */
		ret = await_control(relay, relay->queued_total, relay->requested_count, end_ms);
		if (ret < 0) {
			relay->is_exclusive = false;
			pthread_cond_broadcast(&relay->changed);
		}
	}
	pthread_mutex_unlock(&relay->lock);
	return ret;
}

void tf_relay_end(struct tf_relay *relay, int error, size_t late_size)
{
	pthread_mutex_lock(&relay->lock);
	relay->is_exclusive = false;
	relay->late_size = late_size;
	if (error > 0)
		lose(relay, -error);
	advance_control(relay);
	pthread_cond_broadcast(&relay->changed);
	pthread_mutex_unlock(&relay->lock);
}

/* ---- the data connection ---- */

/* Whoever sent last lets those who wait go first: on a busy connection the next one would always be quicker. */
static int enter_data(struct tf_relay *relay, const void *sender)
{
	struct timespec end;
	int ret = 0;

	set_deadline(&end, PATIENCE_MS);
	pthread_mutex_lock(&relay->lock);
	relay->waiting_count++;
	while (ret == 0 && relay->error == 0 &&
	       (relay->is_sending || (relay->latest_sender == sender && relay->waiting_count > 1)))
		ret = -pthread_cond_timedwait(&relay->changed, &relay->lock, &end);
	relay->waiting_count--;
	ret = relay->error != 0 ? relay->error : relay->is_sending ? -EAGAIN : 0;
	if (ret == 0) {
		relay->is_sending = true;
		relay->latest_sender = sender;
	}
	pthread_mutex_unlock(&relay->lock);
	return ret;
}

/* @error: a negative errno that makes the session lost, or 0. */
static void leave_data(struct tf_relay *relay, int error)
{
	pthread_mutex_lock(&relay->lock);
	relay->is_sending = false;
	if (error < 0)
		lose(relay, error);
	pthread_cond_broadcast(&relay->changed);
	pthread_mutex_unlock(&relay->lock);
}

/* Whether there may be room now. One that was waited for in vain is not waited for again before it took something. */
static bool await_room(struct tf_relay *relay, uint64_t end_ms)
{
	struct pollfd data = { .fd = relay->data_fd, .events = POLLOUT };

	if (relay->is_stalled || tf_now_ms() >= end_ms)
		return false;
	relay->is_stalled = poll(&data, 1, PATIENCE_MS) == 0;
	return !relay->is_stalled;
}

/* Send the end of the packet that has begun. 0: it is gone; -EAGAIN: not all of it; or another negative errno. */
static int send_rest(struct tf_relay *relay, uint64_t end_ms)
{
	size_t size = relay->rest_size;

	while (size > 0) {
		const ssize_t sent = sendfile(relay->data_fd, relay->rest_fd, &relay->rest_begin, size);

		if (sent < 0 && errno == EINTR)
			continue;
		if (sent < 0 && is_transient(errno)) {
			if (await_room(relay, end_ms))
				continue;
			return -EAGAIN;
		}
		if (sent <= 0)
			return sent < 0 ? -errno : -EIO;
		relay->is_stalled = false;
		size -= (size_t)sent;
		__atomic_store_n(&relay->rest_size, size, __ATOMIC_RELAXED);
	}
	return 0;
}

/*
 * Keep what is left of a packet that has begun. It comes from memory that may vanish under us, and a lock is held, so
 * that the kernel has to read it; what cannot be read is zeroes, as the peer waits for so many bytes.
 */
static int keep_rest(struct tf_relay *relay, const struct iovec *vector, int count)
{
	size_t size = 0;
	ssize_t written;

	for (int i = 0; i < count; i++)
		size += vector[i].iov_len;
	if (relay->rest_fd < 0)
		relay->rest_fd = memfd_create("tracefleet-relay", MFD_CLOEXEC);
	if (relay->rest_fd < 0 || ftruncate(relay->rest_fd, 0) < 0 || ftruncate(relay->rest_fd, (off_t)size) < 0)
		return -errno;
	do {
		written = pwritev(relay->rest_fd, vector, count, 0);
	} while (written < 0 && errno == EINTR);
	if (written < 0 && errno != EFAULT)
		return -errno;
	relay->rest_begin = 0;
	__atomic_store_n(&relay->rest_size, size, __ATOMIC_RELAXED);
	return written == (ssize_t)size ? 0 : -EFAULT;
}

struct batch {
	struct data_header headers[TF_PACKETS_PER_WRITE];
	struct iovec vector[2 * TF_PACKETS_PER_WRITE];
};

static void fill_batch(struct batch *batch, const struct tf_relay_stream *stream, const struct tf_packet *packets,
		       int count)
{
	for (int i = 0; i < count; i++) {
		const size_t size = (size_t)(packets[i].content_size_bits + 7) / 8;

		batch->headers[i] = (struct data_header){ .handle = htobe64(stream->handle),
							  .number = htobe64(stream->next_number + (uint64_t)i),
							  .data_size = htobe32((uint32_t)size),
							  .padding_size = htobe32((uint32_t)(packets[i].size - size)) };
		batch->vector[2 * i] = (struct iovec){ &batch->headers[i], sizeof(batch->headers[i]) };
		batch->vector[2 * i + 1] = (struct iovec){ (void *)(uintptr_t)packets[i].bytes, size };
	}
}

/* Cut what was sent off the vectors from @next on; the index of the first that is left. */
static int consume(struct iovec *vector, int next, int end, size_t sent)
{
	while (next < end && sent >= vector[next].iov_len)
		sent -= vector[next++].iov_len;
	if (next < end) {
		vector[next].iov_base = (uint8_t *)vector[next].iov_base + sent;
		vector[next].iov_len -= sent;
	}
	return next;
}

/*
 * Send packets until the peer takes no more, and see to it that the last one gets its bytes. How many are on their way,
 * at least one, or a negative errno: -EAGAIN when there was no room, -EFAULT when the first could not be read; others
 * concern the connection. *@is_damaged: the last one could not be read to its end.
 */
static int send_packets(struct tf_relay *relay, struct batch *batch, int count, uint64_t end_ms, bool *is_damaged)
{
	const int end = 2 * count;
	struct iovec *vector = batch->vector;
	bool is_unreadable = false;
	int next = 0, begun, ret;

	for (;;) {
		const struct msghdr message = { .msg_iov = vector + next, .msg_iovlen = (size_t)(end - next) };
		const ssize_t sent = sendmsg(relay->data_fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (sent > 0) {
			relay->is_stalled = false;
			next = consume(vector, next, end, (size_t)sent);
			if (next == end)
				return count;
		} else if (sent < 0 && is_transient(errno)) {
			if (errno != EINTR && !await_room(relay, end_ms))
				break;
		} else if (sent < 0 && errno == EFAULT) {
			is_unreadable = true;
			break;
		} else {
			return sent < 0 ? -errno : -EIO;
		}
	}
	begun = next % 2 == 1 || vector[next].iov_len < sizeof(struct data_header);
	if (begun) {
		const int packet_end = (next / 2 + 1) * 2;

		ret = keep_rest(relay, vector + next, packet_end - next);
		if (ret == -EFAULT)
			*is_damaged = true;
		else if (ret < 0)
			return ret;
	}
	if (next / 2 + begun > 0)
		return next / 2 + begun;
	return is_unreadable ? -EFAULT : -EAGAIN;
}

/* With the lock held. */
static void queue_indexes(struct tf_relay *relay, const struct tf_relay_stream *stream,
			  const struct tf_packet *packets, int count)
{
	for (int i = 0; i < count; i++) {
		const struct index index = {
			.header = header_of(COMMAND_SEND_INDEX, sizeof(index) - sizeof(index.header)),
			.handle = htobe64(stream->handle),
			.number = htobe64(stream->next_number + (uint64_t)i),
			.packet_size = htobe64(packets[i].size * 8),
			.content_size = htobe64(packets[i].content_size_bits),
			.timestamp_begin = htobe64(packets[i].timestamp_begin),
			.timestamp_end = htobe64(packets[i].timestamp_end),
			.events_discarded = htobe64(packets[i].events_discarded),
			.stream_id = htobe64(stream->stream_id),
			.stream_instance_id = htobe64(stream->cpu),
			.packet_seq_num = htobe64(packets[i].sequence_number),
		};

		if (queue_index(relay, &index) < 0)
			return;
	}
	advance_control(relay);
}

/* Whether the control connection lags so far behind that nothing more should follow. */
static int check_control(struct tf_relay *relay)
{
	int ret;

	pthread_mutex_lock(&relay->lock);
	ret = advance_control(relay);
	if (ret == 0 && queue_size(relay) > QUEUE_SIZE_MAX)
		ret = -EAGAIN;
	pthread_mutex_unlock(&relay->lock);
	return ret;
}

int tf_relay_write(struct tf_relay *relay, struct tf_relay_stream *stream, const struct tf_packet *packets, int count)
{
	const uint64_t end_ms = tf_now_ms() + TURN_MS;
	bool is_damaged = false;
	struct batch batch;
	int ret, sent = 0;

	ret = enter_data(relay, stream);
	if (ret < 0)
		return ret;
	ret = check_control(relay);
	if (ret == 0)
		ret = send_rest(relay, end_ms);
	if (ret == 0) {
		fill_batch(&batch, stream, packets, count);
		ret = send_packets(relay, &batch, count, end_ms, &is_damaged);
	}
	if (ret > 0) {
		/* A packet that could not be read to its end is at the peer, but nobody is told of it. */
		sent = ret - is_damaged;
		pthread_mutex_lock(&relay->lock);
		queue_indexes(relay, stream, packets, sent);
		relay->sums.packet_count += (uint64_t)sent;
		for (int i = 0; i < sent; i++)
			relay->sums.size += packets[i].size;
		pthread_mutex_unlock(&relay->lock);
		stream->next_number += (uint64_t)sent;
		ret = sent > 0 ? 0 : -EFAULT;
	}
	leave_data(relay, ret == -EAGAIN || ret == -EFAULT ? 0 : ret);
	return sent > 0 ? sent : ret;
}

/* ---- what is left to do when no packet comes ---- */

bool tf_relay_is_waiting(struct tf_relay *relay)
{
	bool is_waiting;

	if (__atomic_load_n(&relay->rest_size, __ATOMIC_RELAXED) > 0)
		return true;
	pthread_mutex_lock(&relay->lock);
	is_waiting = relay->error == 0 && queue_size(relay) > 0;
	pthread_mutex_unlock(&relay->lock);
	return is_waiting;
}

int tf_relay_poll(struct tf_relay *relay)
{
	int ret;

	if (__atomic_load_n(&relay->rest_size, __ATOMIC_RELAXED) > 0) {
		ret = enter_data(relay, NULL);
		if (ret == 0) {
			ret = send_rest(relay, 0);
			leave_data(relay, ret == -EAGAIN ? 0 : ret);
		}
		if (ret < 0 && ret != -EAGAIN)
			return ret;
	}
	pthread_mutex_lock(&relay->lock);
	ret = advance_control(relay);
	pthread_mutex_unlock(&relay->lock);
	return ret < 0 ? ret : tf_relay_is_waiting(relay);
}
