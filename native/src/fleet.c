#include "fleet.h"

#include "clock.h"
#include "crc32c.h"

#include <tracefleet/fleet_frame.h>
#include <tracefleet/spool.h>

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define PACKETS_PER_SEND 64
/* Bytes that no peer has taken notice of for so long: the link is gone, and nothing else would say so for minutes. */
#define SILENCE_MS 10000
#define KEEPALIVE_IDLE_S 10
#define KEEPALIVE_INTERVAL_S 5
/* Without a connection for so long, packets go to the spool: to make another one takes less. */
#define SPOOL_DELAY_MS 1000
/* A spool that is full, or fails, is tried again after that. */
#define SPOOL_RETRY_MS 200
/* A frame that comes to the other end damaged so often is damaged here. */
#define CORRUPT_COUNT_MAX 3

struct stream;

/* One packet on its way, or a beacon. */
struct packet {
	struct packet *previous, *next; /* in the order in which they were handed over */
	struct packet *next_of_stream;
	struct stream *stream;
	/* In host order, without magic, checksum and handle. */
	struct tf_fleet_header header;
	const uint8_t *data;
	uint8_t *own_data; /* what of it is to be freed; NULL: it is a ring buffer's */
	bool is_sent;	   /* all of it, on this connection */
};

struct stream {
	uint32_t key;
	bool is_bound;
	uint64_t handle;
	/* All before the first are acknowledged, safe, sent on some connection, handed over. */
	uint64_t acknowledged_sequence, safe_sequence, sent_sequence, next_sequence;
	uint64_t connection_sequence; /* all before it are sent on this connection, or were there */
	struct packet *first, *last;  /* those that are not safe */
	uint32_t count;		      /* of them */
	/* In the spool, but for those that are acknowledged. */
	uint64_t spool_begin, spool_end;
	struct packet *flight_first, *flight_last; /* of these, what was sent on this connection: headers only */
	struct stream *next_due;		   /* and in the fleet's list of those with something to release */
	bool is_due;
	bool is_found; /* in the spool, of a former life: the relay daemon may know more of it than we do */
	uint64_t corrupt_sequence;
	uint32_t corrupt_count;
	struct packet *beacon;	     /* that is not sent yet */
	uint32_t capacity;	     /* of its ring buffer; 0: it has none */
	int wakeup_fd;
	bool is_poked; /* and has not asked since */
	bool is_unreadable;
};

struct tf_fleet {
	int reference_count; /* atomic */
	pthread_t thread;
	bool has_thread;
	int wake_fd; /* an eventfd: the thread has something to do */
	int lost_fd; /* an eventfd: there is no connection */
	pthread_mutex_t lock; /* of everything below; taken after a stream's. Nobody waits for a peer with it */
	pthread_cond_t changed;
	bool is_ending;
	bool is_polling; /* the thread may sleep */

	struct stream **streams; /* by key */
	uint32_t stream_count, stream_capacity;
	struct stream **table; /* by handle: open addressing, a power of two; NULL: free */
	uint32_t table_size, bound_count;

	/* Packets that are not safe, and beacons. Before the cursor all are sent, or wait for a handle. */
	struct packet *first, *last, *cursor;
	struct packet *unused;
	uint64_t lost_since_ms;

	struct tf_spool *spool; /* NULL: none. The thread's, without the lock */
	struct tf_spool_frame frame; /* that is being sent: its first frame_sent bytes are, header included */
	bool has_frame;
	size_t frame_sent;
	bool is_spool_read;  /* nothing in it is left to be sent; packets that are not in it may follow */
	bool is_rewind_due;
	bool is_pressed;     /* a ring buffer gets full */
	bool is_flush_wanted; /* somebody waits for packets to be in the spool */
	uint64_t spool_retry_at_ms;
	int spool_error;
	struct stream *due;
	struct packet *begun; /* its first begun_size bytes are sent, header included */
	size_t begun_size;

	int fd; /* -1: no connection */
	int former_fd; /* lost, and the thread's to close; -1: none */
	uint64_t connection; /* its number, so that the thread sees when it was lost meanwhile */
	bool is_blocked; /* it took not all that it was last given */
	bool is_careful; /* something could not be read: one packet at a time, to know which */
	bool is_sending; /* the thread reads packets without the lock */
	int claimant_count; /* those who want it to do so no more */
	int waiting_count;  /* for anything else */
	uint8_t ack[sizeof(struct tf_fleet_ack)]; /* as far as it has come */
	size_t ack_size;
	struct tf_fleet_books books;
};

/* ---- packets; all with the lock held ---- */

static struct packet *new_packet(struct tf_fleet *fleet)
{
	struct packet *packet = fleet->unused;

	if (!packet)
		return calloc(1, sizeof(*packet));
	fleet->unused = packet->next;
	memset(packet, 0, sizeof(*packet));
	return packet;
}

static void append(struct tf_fleet *fleet, struct packet *packet)
{
	packet->previous = fleet->last;
	packet->next = NULL;
	if (fleet->last)
		fleet->last->next = packet;
	else
		fleet->first = packet;
	fleet->last = packet;
	if (!fleet->cursor)
		fleet->cursor = packet;
}

/* The packet is no more. */
static void drop(struct tf_fleet *fleet, struct packet *packet)
{
	if (packet->previous)
		packet->previous->next = packet->next;
	else
		fleet->first = packet->next;
	if (packet->next)
		packet->next->previous = packet->previous;
	else
		fleet->last = packet->previous;
	if (fleet->cursor == packet)
		fleet->cursor = packet->next;
	if (fleet->begun == packet)
		fleet->begun = NULL;
	if (packet->stream->beacon == packet)
		packet->stream->beacon = NULL;
	free(packet->own_data);
	packet->own_data = NULL;
	packet->next = fleet->unused;
	fleet->unused = packet;
}

static bool is_beacon(const struct packet *packet)
{
	return packet->header.flags & TF_FLEET_BEACON;
}

static uint64_t bytes_of(const struct packet *packet)
{
	return packet->header.packet_size / 8;
}

static void pop(struct tf_fleet *fleet, struct stream *stream)
{
	struct packet *packet = stream->first;

	stream->first = packet->next_of_stream;
	if (!stream->first)
		stream->last = NULL;
	stream->count--;
	drop(fleet, packet);
}

static void pop_flight(struct tf_fleet *fleet, struct stream *stream)
{
	struct packet *packet = stream->flight_first;

	stream->flight_first = packet->next_of_stream;
	if (!stream->flight_first)
		stream->flight_last = NULL;
	packet->next = fleet->unused;
	fleet->unused = packet;
}

/* The oldest of its packets in the spool; spool_end: there is none. */
static uint64_t oldest_spooled(const struct stream *stream)
{
	uint64_t oldest = stream->spool_begin;

	if (oldest < stream->acknowledged_sequence)
		oldest = stream->acknowledged_sequence;
	return oldest < stream->spool_end ? oldest : stream->spool_end;
}

/* The oldest that can still be sent; next_sequence: there is none. */
static uint64_t oldest_sequence(const struct stream *stream)
{
	const uint64_t oldest = oldest_spooled(stream);

	if (oldest < stream->spool_end)
		return oldest;
	return stream->first ? stream->first->header.sequence : stream->next_sequence;
}

/* ---- those who wait ---- */

static void wake(struct tf_fleet *fleet)
{
	if (fleet->is_polling) {
		fleet->is_polling = false;
		eventfd_write(fleet->wake_fd, 1);
	}
}

/* Have the stream ask for its progress. */
static void poke(struct tf_fleet *fleet, struct stream *stream)
{
	if (stream->capacity > 0 && !stream->is_poked) {
		const ssize_t ret = write(stream->wakeup_fd, "", 1);

		(void)ret; /* a full pipe wakes as well */
		stream->is_poked = true;
	}
	if (fleet->waiting_count > 0)
		pthread_cond_broadcast(&fleet->changed);
}

static struct stream *stream_of(const struct tf_fleet *fleet, uint32_t key)
{
	return key < fleet->stream_count ? fleet->streams[key] : NULL;
}

/* ---- handles ---- */

static struct stream **place_of(struct tf_fleet *fleet, uint64_t handle)
{
	uint32_t at = (uint32_t)(handle * UINT64_C(0x9E3779B97F4A7C15) >> 32) & (fleet->table_size - 1);

	while (fleet->table[at] && fleet->table[at]->handle != handle)
		at = (at + 1) & (fleet->table_size - 1);
	return &fleet->table[at];
}

static struct stream *find_bound(struct tf_fleet *fleet, uint64_t handle)
{
	return fleet->table_size > 0 ? *place_of(fleet, handle) : NULL;
}

/* Room for all streams, with half of the table free. What is in it stays only when it is large enough. */
static int size_table(struct tf_fleet *fleet)
{
	uint32_t size = 64;
	struct stream **table, **former = fleet->table;
	const uint32_t former_size = fleet->table_size;

	while (size < 2 * fleet->stream_count)
		size *= 2;
	if (size <= former_size)
		return 0;
	table = calloc(size, sizeof(struct stream *));
	if (!table)
		return -ENOMEM;
	fleet->table = table;
	fleet->table_size = size;
	for (uint32_t i = 0; i < former_size; i++)
		if (former[i])
			*place_of(fleet, former[i]->handle) = former[i];
	free(former);
	return 0;
}

/* ---- what the relay daemon has ---- */

static void acknowledge(struct tf_fleet *fleet, struct stream *stream, uint64_t next_sequence)
{
	const uint64_t former_oldest = oldest_spooled(stream);

	while (stream->flight_first && stream->flight_first->header.sequence < next_sequence) {
		fleet->books.acknowledged_count++;
		fleet->books.acknowledged_bytes += bytes_of(stream->flight_first);
		pop_flight(fleet, stream);
	}
	while (stream->first && stream->first->header.sequence < next_sequence) {
		fleet->books.acknowledged_count++;
		fleet->books.acknowledged_bytes += bytes_of(stream->first);
		pop(fleet, stream);
	}
	if (!fleet->first)
		fleet->is_pressed = false;
	if (stream->acknowledged_sequence < next_sequence)
		stream->acknowledged_sequence = next_sequence;
	fleet->books.spooled_count -= oldest_spooled(stream) - former_oldest;
	if (oldest_spooled(stream) > former_oldest && !stream->is_due) {
		stream->is_due = true;
		stream->next_due = fleet->due;
		fleet->due = stream;
	}
	if (stream->safe_sequence < next_sequence) {
		stream->safe_sequence = next_sequence;
		poke(fleet, stream);
	}
}

/* ---- connections ---- */

/* With the lock held. What the thread may use stays open until it sees this. */
static void lose(struct tf_fleet *fleet, int error)
{
	struct packet *next;

	if (fleet->fd < 0)
		return;
	shutdown(fleet->fd, SHUT_RDWR);
	fleet->former_fd = fleet->fd;
	fleet->fd = -1;
	fleet->connection++;
	fleet->books.is_attached = false;
	fleet->books.error = error;
	fleet->begun = NULL;
	fleet->has_frame = false;
	fleet->is_rewind_due = true;
	fleet->lost_since_ms = tf_now_ms();
	for (struct packet *packet = fleet->first; packet; packet = next) {
		next = packet->next;
		packet->is_sent = false;
		if (is_beacon(packet))
			drop(fleet, packet);
	}
	fleet->cursor = fleet->first;
	for (uint32_t i = 0; i < fleet->stream_count; i++) {
		fleet->streams[i]->is_bound = false;
		while (fleet->streams[i]->flight_first)
			pop_flight(fleet, fleet->streams[i]);
	}
	memset(fleet->table, 0, fleet->table_size * sizeof(struct stream *));
	eventfd_write(fleet->lost_fd, 1);
	wake(fleet);
	pthread_cond_broadcast(&fleet->changed);
}

static int check_binding(const struct tf_fleet *fleet, const struct tf_fleet_binding *binding)
{
	const struct stream *stream = stream_of(fleet, binding->key);

	if (!stream)
		return -ENOENT;
	return binding->next_sequence > stream->sent_sequence && !stream->is_found ? -EPROTO : 0;
}

static int bind_stream(struct tf_fleet *fleet, const struct tf_fleet_binding *binding)
{
	struct stream *stream = stream_of(fleet, binding->key), **place = place_of(fleet, binding->handle);

	if (*place || stream->is_bound)
		return -EEXIST;
	*place = stream;
	stream->handle = binding->handle;
	stream->is_bound = true;
	stream->connection_sequence = binding->next_sequence;
	if (stream->sent_sequence < binding->next_sequence)
		stream->sent_sequence = binding->next_sequence;
	if (stream->next_sequence < binding->next_sequence)
		stream->next_sequence = binding->next_sequence;
	acknowledge(fleet, stream, binding->next_sequence);
	fleet->cursor = fleet->first; /* its packets were passed over */
	return 0;
}

/* All of it with the lock held, and no connection. */
static int attach(struct tf_fleet *fleet, const struct tf_fleet_binding *bindings, size_t count)
{
	int ret = size_table(fleet);

	for (size_t i = 0; i < count && ret == 0; i++)
		ret = check_binding(fleet, &bindings[i]);
	for (size_t i = 0; i < count && ret == 0; i++)
		ret = bind_stream(fleet, &bindings[i]);
	return ret;
}

static int prepare_socket(int fd)
{
	const int one = 1, silence = SILENCE_MS, idle = KEEPALIVE_IDLE_S, interval = KEEPALIVE_INTERVAL_S;
	const int flags = fcntl(fd, F_GETFL);

	if (flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) < 0 || fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
		return -errno;
	/* Other kinds of sockets do not know these, and need not. */
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &silence, sizeof(silence));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &interval, sizeof(interval));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
	return 0;
}

/* The thread does not read packets until the release. With the lock held, which is released meanwhile. */
static void claim(struct tf_fleet *fleet)
{
	fleet->claimant_count++;
	while (fleet->is_sending)
		pthread_cond_wait(&fleet->changed, &fleet->lock);
}

static void unclaim(struct tf_fleet *fleet)
{
	fleet->claimant_count--;
	pthread_cond_broadcast(&fleet->changed);
}

int tf_fleet_attach(struct tf_fleet *fleet, int fd, const struct tf_fleet_binding *bindings, size_t count)
{
	eventfd_t value;
	int ret;

	ret = prepare_socket(fd);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&fleet->lock);
	while (fleet->former_fd >= 0 && !fleet->is_ending)
		pthread_cond_wait(&fleet->changed, &fleet->lock);
	claim(fleet);
	ret = fleet->is_ending ? -ESHUTDOWN : fleet->fd >= 0 ? -EISCONN : 0;
	if (ret == 0) {
		ret = attach(fleet, bindings, count);
		if (ret == 0) {
			fleet->fd = fd;
			fleet->is_blocked = fleet->is_careful = false;
			fleet->ack_size = 0;
			fleet->books.is_attached = true;
			fleet->books.error = 0;
			eventfd_read(fleet->lost_fd, &value);
			wake(fleet);
		} else {
			for (uint32_t i = 0; i < fleet->stream_count; i++)
				fleet->streams[i]->is_bound = false;
			if (fleet->table)
				memset(fleet->table, 0, fleet->table_size * sizeof(struct stream *));
		}
	}
	unclaim(fleet);
	pthread_mutex_unlock(&fleet->lock);
	return ret;
}

int tf_fleet_bind(struct tf_fleet *fleet, const struct tf_fleet_binding *binding)
{
	int ret;

	pthread_mutex_lock(&fleet->lock);
	claim(fleet);
	ret = fleet->fd < 0 ? -ENOTCONN : size_table(fleet);
	if (ret == 0)
		ret = check_binding(fleet, binding);
	if (ret == 0)
		ret = bind_stream(fleet, binding);
	unclaim(fleet);
	wake(fleet);
	pthread_mutex_unlock(&fleet->lock);
	return ret;
}

void tf_fleet_detach(struct tf_fleet *fleet)
{
	pthread_mutex_lock(&fleet->lock);
	lose(fleet, -ENOTCONN);
	pthread_mutex_unlock(&fleet->lock);
}

int tf_fleet_fd(const struct tf_fleet *fleet)
{
	return fleet->lost_fd;
}

/* ---- streams come, and hand over ---- */

static struct stream *new_stream(struct tf_fleet *fleet)
{
	struct stream *stream = calloc(1, sizeof(*stream));

	if (stream && fleet->stream_count == fleet->stream_capacity) {
		const uint32_t capacity = 2 * fleet->stream_capacity + 16;
		struct stream **streams = NULL;

		if (capacity <= TF_SPOOL_STREAM_COUNT_MAX)
			streams = realloc(fleet->streams, capacity * sizeof(struct stream *));
		if (!streams) {
			free(stream);
			return NULL;
		}
		fleet->streams = streams;
		fleet->stream_capacity = capacity;
	}
	if (stream) {
		stream->key = fleet->stream_count;
		fleet->streams[fleet->stream_count++] = stream;
	}
	return stream;
}

int tf_fleet_add_stream(struct tf_fleet *fleet)
{
	struct stream *stream;
	int ret = -ESHUTDOWN;

	pthread_mutex_lock(&fleet->lock);
	if (!fleet->is_ending) {
		stream = new_stream(fleet);
		ret = stream ? (int)stream->key : -ENOMEM;
	}
	pthread_mutex_unlock(&fleet->lock);
	return ret;
}

int tf_fleet_open_source(struct tf_fleet *fleet, uint32_t key, uint32_t capacity, int wakeup_fd)
{
	struct stream *stream;
	int ret = 0;

	pthread_mutex_lock(&fleet->lock);
	stream = stream_of(fleet, key);
	if (!stream) {
		ret = -ENOENT;
	} else if (stream->capacity > 0 || stream->next_sequence > 0) {
		ret = -EBUSY;
	} else {
		stream->capacity = capacity;
		stream->wakeup_fd = wakeup_fd;
	}
	pthread_mutex_unlock(&fleet->lock);
	return ret;
}

/* With the lock held: @packet is the stream's next. */
static void give(struct tf_fleet *fleet, struct stream *stream, struct packet *packet)
{
	packet->stream = stream;
	packet->header.sequence = stream->next_sequence++;
	if (stream->last)
		stream->last->next_of_stream = packet;
	else
		stream->first = packet;
	stream->last = packet;
	if (++stream->count > stream->capacity / 2 && stream->capacity > 0 && fleet->spool)
		fleet->is_pressed = true;
	append(fleet, packet);
}

int tf_fleet_give(struct tf_fleet *fleet, uint32_t key, uint32_t stream_class_id, uint32_t cpu,
		  const struct tf_packet *packets, int count)
{
	struct packet *made[TF_PACKETS_PER_WRITE];
	struct stream *stream;
	int ret = 0;

	pthread_mutex_lock(&fleet->lock);
	stream = stream_of(fleet, key);
	if (!stream || fleet->is_ending)
		ret = stream ? -ESHUTDOWN : -ENOENT;
	for (int i = 0; i < count && ret == 0; i++) {
		made[i] = new_packet(fleet);
		if (made[i])
			continue;
		ret = -ENOMEM;
		while (i > 0)
			free(made[--i]);
	}
	for (int i = 0; i < count && ret == 0; i++) {
		const uint32_t size = (uint32_t)((packets[i].content_size_bits + 7) / 8);

		made[i]->data = packets[i].bytes;
		made[i]->header = (struct tf_fleet_header){ .data_size = size,
							    .padding_size = (uint32_t)(packets[i].size - size),
							    .packet_size = packets[i].size * 8,
							    .content_size = packets[i].content_size_bits,
							    .timestamp_begin = packets[i].timestamp_begin,
							    .timestamp_end = packets[i].timestamp_end,
							    .events_discarded = packets[i].events_discarded,
							    .stream_class_id = stream_class_id,
							    .stream_instance_id = cpu,
							    .packet_seq_num = packets[i].sequence_number };
		give(fleet, stream, made[i]);
	}
	if (ret == 0 && (!fleet->is_blocked || fleet->is_pressed))
		wake(fleet);
	pthread_mutex_unlock(&fleet->lock);
	return ret;
}

int tf_fleet_give_metadata(struct tf_fleet *fleet, uint32_t key, uint8_t *data, size_t size, uint32_t padding)
{
	struct packet *packet = NULL;
	struct stream *stream;
	int ret;

	pthread_mutex_lock(&fleet->lock);
	stream = stream_of(fleet, key);
	ret = !stream ? -ENOENT : fleet->is_ending ? -ESHUTDOWN : 0;
	if (ret == 0) {
		packet = new_packet(fleet);
		ret = packet ? 0 : -ENOMEM;
	}
	if (ret == 0) {
		packet->data = packet->own_data = data;
		packet->header = (struct tf_fleet_header){ .data_size = (uint32_t)size,
							   .padding_size = padding,
							   .packet_size = ((uint64_t)size + padding) * 8,
							   .content_size = (uint64_t)size * 8 };
		give(fleet, stream, packet);
		if (!fleet->is_blocked)
			wake(fleet);
	}
	pthread_mutex_unlock(&fleet->lock);
	return ret;
}

void tf_fleet_send_beacon(struct tf_fleet *fleet, uint32_t key, uint32_t stream_class_id, uint32_t cpu,
			  uint64_t timestamp)
{
	struct packet *packet = NULL;
	struct stream *stream;

	pthread_mutex_lock(&fleet->lock);
	stream = stream_of(fleet, key);
	if (stream && stream->is_bound && !stream->beacon && !fleet->is_blocked && !fleet->is_ending &&
	    stream->connection_sequence == stream->next_sequence)
		packet = new_packet(fleet);
	if (packet) {
		packet->stream = stream;
		packet->header = (struct tf_fleet_header){ .sequence = stream->next_sequence,
							   .flags = TF_FLEET_BEACON,
							   .timestamp_begin = timestamp,
							   .timestamp_end = timestamp,
							   .stream_class_id = stream_class_id,
							   .stream_instance_id = cpu };
		stream->beacon = packet;
		append(fleet, packet);
		wake(fleet);
	}
	pthread_mutex_unlock(&fleet->lock);
}

void tf_fleet_progress(struct tf_fleet *fleet, uint32_t key, struct tf_fleet_progress *progress)
{
	struct stream *stream;

	pthread_mutex_lock(&fleet->lock);
	stream = fleet->streams[key];
	stream->is_poked = false;
	*progress = (struct tf_fleet_progress){ .safe_sequence = stream->safe_sequence,
						.is_unreadable = stream->is_unreadable };
	pthread_mutex_unlock(&fleet->lock);
}

void tf_fleet_await_progress(struct tf_fleet *fleet, uint32_t key, uint64_t safe_sequence, uint64_t end_ms)
{
	const struct timespec end = { .tv_sec = (time_t)(end_ms / 1000), .tv_nsec = (long)(end_ms % 1000 * 1000000) };
	const struct stream *stream;

	pthread_mutex_lock(&fleet->lock);
	stream = fleet->streams[key];
	fleet->waiting_count++;
	while (stream->safe_sequence <= safe_sequence && !stream->is_unreadable && !fleet->is_ending)
		if (pthread_cond_timedwait(&fleet->changed, &fleet->lock, &end) != 0)
			break;
	fleet->waiting_count--;
	pthread_mutex_unlock(&fleet->lock);
}

/* Have all packets in the spool, as far as it takes them. */
static void await_flush(struct tf_fleet *fleet)
{
	if (!fleet->spool || !fleet->has_thread)
		return;
	fleet->is_flush_wanted = true;
	wake(fleet);
	while (fleet->is_flush_wanted && !fleet->is_ending)
		pthread_cond_wait(&fleet->changed, &fleet->lock);
}

void tf_fleet_take_back(struct tf_fleet *fleet, uint32_t key)
{
	struct stream *stream;

	pthread_mutex_lock(&fleet->lock);
	stream = fleet->streams[key];
	if (stream->first)
		await_flush(fleet);
	claim(fleet);
	/* The peer waits for the rest of a packet that has begun, and cannot have it any more. */
	if (fleet->begun && fleet->begun->stream == stream)
		lose(fleet, -ECONNABORTED);
	while (stream->first)
		pop(fleet, stream);
	stream->capacity = 0;
	unclaim(fleet);
	pthread_mutex_unlock(&fleet->lock);
}

/* ---- the thread: sending ---- */

struct batch {
	struct packet *packets[PACKETS_PER_SEND];
	struct tf_fleet_header headers[PACKETS_PER_SEND];
	struct iovec vector[2 * PACKETS_PER_SEND];
	int count, vector_count;
};

static size_t frame_size(const struct packet *packet)
{
	return sizeof(struct tf_fleet_header) + packet->header.data_size;
}

static void encode(struct tf_fleet_header *out, const struct tf_fleet_header *header, uint64_t handle)
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
static void add_to_batch(struct batch *batch, struct packet *packet, size_t skipped)
{
	struct tf_fleet_header *header = &batch->headers[batch->count];
	struct iovec *vector = &batch->vector[batch->vector_count];

	batch->packets[batch->count++] = packet;
	if (skipped < sizeof(*header)) {
		encode(header, &packet->header, packet->stream->handle);
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

static bool may_go(const struct packet *packet)
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
	for (struct packet *packet = fleet->cursor; packet && batch->count < limit; packet = packet->next)
		if (may_go(packet) && packet != fleet->begun)
			add_to_batch(batch, packet, 0);
}

static void note_sent_packet(struct tf_fleet *fleet, struct stream *stream, const struct tf_fleet_header *header)
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

static void finish_packet(struct tf_fleet *fleet, struct packet *packet)
{
	if (is_beacon(packet)) {
		drop(fleet, packet);
		return;
	}
	packet->is_sent = true;
	note_sent_packet(fleet, packet->stream, &packet->header);
}

static void note_sent(struct tf_fleet *fleet, const struct batch *batch, size_t sent)
{
	for (int i = 0; i < batch->count; i++) {
		struct packet *packet = batch->packets[i];
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
static void give_up(struct tf_fleet *fleet, struct stream *stream)
{
	if (fleet->begun && fleet->begun->stream == stream)
		lose(fleet, -ECONNABORTED);
	while (stream->first)
		pop(fleet, stream);
	stream->is_unreadable = true;
	poke(fleet, stream);
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
	fleet->is_sending = false;
	if (fleet->claimant_count > 0)
		pthread_cond_broadcast(&fleet->changed);
	if (fleet->connection != connection)
		return true;
	if (sent > 0) {
		note_sent(fleet, &batch, (size_t)sent);
		fleet->is_careful = false;
	} else if (error == EAGAIN || error == EWOULDBLOCK) {
		fleet->is_blocked = true;
		return false;
	} else if (error == EFAULT && batch.count > 1) {
		fleet->is_careful = true; /* it says nothing of which packet it was */
	} else if (error == EFAULT) {
		fleet->is_careful = false;
		give_up(fleet, batch.packets[0]->stream);
	} else {
		lose(fleet, -error);
	}
	return true;
}

/* ---- the thread: what comes back ---- */

/* Send again what follows @next_sequence - 1. */
static int take_refusal(struct tf_fleet *fleet, struct stream *stream, uint64_t next_sequence)
{
	const uint64_t oldest = oldest_sequence(stream);

	if (oldest == stream->next_sequence)
		return 0;
	/* It wants what is not here any more; who makes the next connection says what there is. */
	if (next_sequence < oldest)
		return -EPROTO;
	stream->connection_sequence = next_sequence;
	if (next_sequence < stream->spool_end) {
		while (stream->flight_first)
			pop_flight(fleet, stream);
		fleet->is_spool_read = false;
		fleet->is_rewind_due = true;
	}
	for (struct packet *packet = stream->first; packet; packet = packet->next_of_stream)
		if (packet->header.sequence >= next_sequence)
			packet->is_sent = false;
	fleet->cursor = fleet->first;
	return 0;
}

static int take_ack(struct tf_fleet *fleet)
{
	struct stream *stream;
	struct tf_fleet_ack ack;
	uint64_t next_sequence;

	memcpy(&ack, fleet->ack, sizeof(ack));
	stream = find_bound(fleet, le64toh(ack.handle));
	next_sequence = le64toh(ack.sequence) + 1; /* 0: nothing */
	if (le32toh(ack.magic) != TF_FLEET_ACK_MAGIC || !stream || next_sequence > stream->sent_sequence)
		return -EPROTO;
	switch (le32toh(ack.status)) {
	case TF_FLEET_WRITTEN:
	case TF_FLEET_SYNCED:
		acknowledge(fleet, stream, next_sequence);
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
	if (fleet->connection != connection)
		return;
	if (got > 0)
		ret = take_bytes(fleet, bytes, (size_t)got);
	else if (got == 0)
		ret = -ECONNRESET;
	else if (error != EAGAIN && error != EWOULDBLOCK)
		ret = -error;
	if (ret < 0)
		lose(fleet, ret);
}

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

static struct packet *first_packet(const struct tf_fleet *fleet)
{
	struct packet *packet = fleet->first;

	while (packet && is_beacon(packet))
		packet = packet->next;
	return packet;
}

static bool should_spool(const struct tf_fleet *fleet)
{
	const uint64_t now_ms = tf_now_ms();

	if (fleet->is_flush_wanted)
		return true;
	if (!first_packet(fleet) || now_ms < fleet->spool_retry_at_ms)
		return false;
	return fleet->is_pressed || (fleet->fd < 0 && now_ms >= fleet->lost_since_ms + SPOOL_DELAY_MS);
}

/* How long until that may change by itself. */
static int spool_timeout_ms(const struct tf_fleet *fleet)
{
	const uint64_t now_ms = tf_now_ms();
	uint64_t at_ms = fleet->spool_retry_at_ms;

	if (!fleet->spool || !first_packet(fleet) || (fleet->fd >= 0 && !fleet->is_pressed))
		return -1;
	if (!fleet->is_pressed && at_ms < fleet->lost_since_ms + SPOOL_DELAY_MS)
		at_ms = fleet->lost_since_ms + SPOOL_DELAY_MS;
	return at_ms > now_ms ? (int)(at_ms - now_ms) : 0;
}

/* A packet that is in the spool was sent; its acknowledgement belongs into the books. */
static void note_in_flight(struct tf_fleet *fleet, struct stream *stream, const struct tf_fleet_header *header)
{
	struct packet *packet = new_packet(fleet);

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

static void note_spooled(struct tf_fleet *fleet, struct packet *packet)
{
	struct stream *stream = packet->stream;
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
	pop(fleet, stream);
	poke(fleet, stream);
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

static int spool_packet(struct tf_fleet *fleet, struct packet *packet)
{
	struct tf_fleet_header header = packet->header;
	struct stream *stream = packet->stream;
	int ret;

	header.handle = stream->key;
	fleet->is_sending = true;
	pthread_mutex_unlock(&fleet->lock);
	ret = tf_spool_append(fleet->spool, &header, packet->data);
	pthread_mutex_lock(&fleet->lock);
	fleet->is_sending = false;
	if (fleet->claimant_count > 0)
		pthread_cond_broadcast(&fleet->changed);
	if (ret == -EFAULT) {
		give_up(fleet, stream);
		return 0;
	}
	if (ret < 0)
		return ret;
	if (fleet->begun == packet) {
		ret = go_on_from_spool(fleet, stream->key, header.sequence, fleet->begun_size);
		fleet->begun = NULL;
		if (ret < 0)
			lose(fleet, ret);
	}
	note_spooled(fleet, packet);
	return 0;
}

/* Bring all packets into the spool, in their order. With the lock held, which is released meanwhile. */
static void spool_packets(struct tf_fleet *fleet)
{
	struct packet *packet;
	int ret = 0;

	while (ret == 0 && (packet = first_packet(fleet))) {
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
	struct stream *stream;
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
static bool advance_spool(struct tf_fleet *fleet)
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
			const struct stream *stream = fleet->streams[header->handle];

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
			lose(fleet, ret);
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
	struct stream *stream = fleet->streams[header->handle];

	fleet->has_frame = false;
	note_sent_packet(fleet, stream, header);
	note_in_flight(fleet, stream, header);
}

/* As send_some(), from the spool. */
static bool send_frame(struct tf_fleet *fleet)
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
	encode(&header, &fleet->frame.header, fleet->streams[fleet->frame.header.handle]->handle);
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
		lose(fleet, sent < 0 ? (int)sent : -EIO);
	}
	return true;
}

/* ---- the thread ---- */

/* Sleep until there is something to do. With the lock held, which is released meanwhile. */
static void await_work(struct tf_fleet *fleet)
{
	struct pollfd events[2] = { { .fd = fleet->wake_fd, .events = POLLIN },
				    { .fd = fleet->fd,
				      .events = fleet->is_blocked ? POLLIN | POLLOUT : POLLIN } };
	const uint64_t connection = fleet->connection;
	const int timeout_ms = spool_timeout_ms(fleet);
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

static void *run(void *argument)
{
	struct tf_fleet *fleet = argument;

	pthread_mutex_lock(&fleet->lock);
	while (!fleet->is_ending) {
		if (fleet->claimant_count > 0) {
			pthread_cond_wait(&fleet->changed, &fleet->lock);
			continue; /* anything may have happened */
		}
		if (fleet->former_fd >= 0) {
			close(fleet->former_fd);
			fleet->former_fd = -1;
			pthread_cond_broadcast(&fleet->changed);
		}
		if (fleet->spool && advance_spool(fleet))
			continue;
		if (!send_some(fleet) && !send_frame(fleet))
			await_work(fleet);
	}
	pthread_mutex_unlock(&fleet->lock);
	return NULL;
}

/* ---- the fleet itself ---- */

static int start_thread(struct tf_fleet *fleet)
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

/* What is there already is as if it had been given, and spooled. */
static int open_spool(struct tf_fleet *fleet, const char *directory, uint64_t size_limit, bool *is_damaged)
{
	int ret = tf_spool_open(directory, size_limit, &fleet->spool, is_damaged);
	size_t count;

	if (ret < 0)
		return ret;
	count = tf_spool_stream_count(fleet->spool);
	for (size_t key = 0; key < count; key++) {
		struct stream *stream = new_stream(fleet);
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

int tf_fleet_create(const char *spool_directory, uint64_t spool_size_limit, struct tf_fleet **out, bool *is_damaged)
{
	struct tf_fleet *fleet;
	pthread_condattr_t attributes;
	int ret = 0;

	*is_damaged = false;
	fleet = calloc(1, sizeof(*fleet));
	if (!fleet)
		return -ENOMEM;
	fleet->reference_count = 1;
	fleet->fd = fleet->former_fd = -1;
	fleet->lost_since_ms = tf_now_ms();
	pthread_mutex_init(&fleet->lock, NULL);
	pthread_condattr_init(&attributes);
	pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
	pthread_cond_init(&fleet->changed, &attributes);
	pthread_condattr_destroy(&attributes);
	fleet->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	fleet->lost_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
	if (fleet->wake_fd < 0 || fleet->lost_fd < 0)
		ret = -errno;
	if (ret == 0 && spool_directory)
		ret = open_spool(fleet, spool_directory, spool_size_limit, is_damaged);
	if (ret == 0)
		ret = start_thread(fleet);
	if (ret < 0) {
		tf_fleet_put(fleet);
		return ret;
	}
	*out = fleet;
	return 0;
}

int tf_fleet_stream_state(struct tf_fleet *fleet, uint32_t key, struct tf_fleet_stream_state *state)
{
	const struct stream *stream;

	pthread_mutex_lock(&fleet->lock);
	stream = stream_of(fleet, key);
	if (stream)
		*state = (struct tf_fleet_stream_state){
			.oldest_sequence = oldest_sequence(stream),
			.acknowledged_sequence = stream->acknowledged_sequence,
			.next_sequence = stream->next_sequence,
		};
	pthread_mutex_unlock(&fleet->lock);
	return stream ? 0 : -ENOENT;
}

void tf_fleet_books(struct tf_fleet *fleet, struct tf_fleet_books *books)
{
	pthread_mutex_lock(&fleet->lock);
	*books = fleet->books;
	if (books->error == 0)
		books->error = fleet->spool_error;
	pthread_mutex_unlock(&fleet->lock);
}

bool tf_fleet_is_settled(struct tf_fleet *fleet, bool or_spooled)
{
	const struct packet *packet;
	bool is_settled;

	pthread_mutex_lock(&fleet->lock);
	packet = fleet->first;
	while (packet && is_beacon(packet))
		packet = packet->next;
	is_settled = !packet && (or_spooled || fleet->books.spooled_count == 0);
	pthread_mutex_unlock(&fleet->lock);
	return is_settled;
}

struct tf_fleet *tf_fleet_get(struct tf_fleet *fleet)
{
	__atomic_add_fetch(&fleet->reference_count, 1, __ATOMIC_RELAXED);
	return fleet;
}

void tf_fleet_close(struct tf_fleet *fleet)
{
	bool has_thread;

	pthread_mutex_lock(&fleet->lock);
	await_flush(fleet);
	has_thread = fleet->has_thread;
	fleet->has_thread = false;
	fleet->is_ending = true;
	lose(fleet, -ESHUTDOWN);
	wake(fleet);
	pthread_cond_broadcast(&fleet->changed);
	pthread_mutex_unlock(&fleet->lock);
	if (has_thread)
		pthread_join(fleet->thread, NULL);
	pthread_mutex_lock(&fleet->lock);
	if (has_thread && fleet->former_fd >= 0) {
		close(fleet->former_fd);
		fleet->former_fd = -1;
	}
	if (has_thread && fleet->spool) {
		tf_spool_close(fleet->spool);
		fleet->spool = NULL;
	}
	pthread_mutex_unlock(&fleet->lock);
}

static void free_packets(struct packet *packet)
{
	while (packet) {
		struct packet *next = packet->next;

		free(packet->own_data);
		free(packet);
		packet = next;
	}
}

void tf_fleet_put(struct tf_fleet *fleet)
{
	if (!fleet || __atomic_sub_fetch(&fleet->reference_count, 1, __ATOMIC_ACQ_REL) > 0)
		return;
	tf_fleet_close(fleet);
	free_packets(fleet->first);
	free_packets(fleet->unused);
	if (fleet->spool) /* it never had a thread */
		tf_spool_close(fleet->spool);
	for (uint32_t i = 0; i < fleet->stream_count; i++)
		free(fleet->streams[i]);
	free(fleet->streams);
	free(fleet->table);
	if (fleet->wake_fd >= 0)
		close(fleet->wake_fd);
	if (fleet->lost_fd >= 0)
		close(fleet->lost_fd);
	pthread_cond_destroy(&fleet->changed);
	pthread_mutex_destroy(&fleet->lock);
	free(fleet);
}
