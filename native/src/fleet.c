#include "fleet_state.h"

#include "clock.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

/* Bytes that no peer has taken notice of for so long: the link is gone, and nothing else would say so for minutes. */
#define SILENCE_MS 10000
#define KEEPALIVE_IDLE_S 10
#define KEEPALIVE_INTERVAL_S 5

/* ---- connections ---- */

static int check_binding(const struct tf_fleet *fleet, const struct tf_fleet_binding *binding)
{
	const struct fleet_stream *stream = tf_fleet_stream_of(fleet, binding->key);

	if (!stream)
		return -ENOENT;
	return binding->next_sequence > stream->sent_sequence && !stream->is_found ? -EPROTO : 0;
}

static int bind_stream(struct tf_fleet *fleet, const struct tf_fleet_binding *binding)
{
	struct fleet_stream *stream = tf_fleet_stream_of(fleet, binding->key);
	struct fleet_stream **place = tf_fleet_place_of(fleet, binding->handle);

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
	tf_fleet_acknowledge(fleet, stream, binding->next_sequence);
	fleet->cursor = fleet->first; /* its packets were passed over */
	return 0;
}

/* All of it with the lock held, and no connection. */
static int attach(struct tf_fleet *fleet, const struct tf_fleet_binding *bindings, size_t count)
{
	int ret = tf_fleet_size_table(fleet);

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
			fleet->waiting_since_ms = tf_now_ms();
			fleet->ack_size = 0;
			fleet->books.is_attached = true;
			fleet->books.error = 0;
			eventfd_read(fleet->lost_fd, &value);
			tf_fleet_wake(fleet);
		} else {
			for (uint32_t i = 0; i < fleet->stream_count; i++)
				fleet->streams[i]->is_bound = false;
			if (fleet->table)
				memset(fleet->table, 0, fleet->table_size * sizeof(struct fleet_stream *));
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
	ret = fleet->fd < 0 ? -ENOTCONN : tf_fleet_size_table(fleet);
	if (ret == 0)
		ret = check_binding(fleet, binding);
	if (ret == 0)
		ret = bind_stream(fleet, binding);
	unclaim(fleet);
	tf_fleet_wake(fleet);
	pthread_mutex_unlock(&fleet->lock);
	return ret;
}

void tf_fleet_detach(struct tf_fleet *fleet)
{
	pthread_mutex_lock(&fleet->lock);
	tf_fleet_lose(fleet, -ENOTCONN);
	pthread_mutex_unlock(&fleet->lock);
}

int tf_fleet_fd(const struct tf_fleet *fleet)
{
	return fleet->lost_fd;
}

/* ---- streams come, and hand over ---- */

int tf_fleet_add_stream(struct tf_fleet *fleet)
{
	struct fleet_stream *stream;
	int ret = -ESHUTDOWN;

	pthread_mutex_lock(&fleet->lock);
	if (!fleet->is_ending) {
		stream = tf_fleet_new_stream(fleet);
		ret = stream ? (int)stream->key : -ENOMEM;
	}
	pthread_mutex_unlock(&fleet->lock);
	return ret;
}

int tf_fleet_open_source(struct tf_fleet *fleet, uint32_t key, uint32_t capacity, tf_fleet_settle settle, void *source,
			 int wakeup_fd)
{
	struct fleet_stream *stream;
	int ret = 0;

	pthread_mutex_lock(&fleet->lock);
	stream = tf_fleet_stream_of(fleet, key);
	if (!stream) {
		ret = -ENOENT;
	} else if (stream->capacity > 0 || stream->next_sequence > 0) {
		ret = -EBUSY;
	} else {
		stream->capacity = capacity;
		stream->settle = settle;
		stream->source = source;
		stream->wakeup_fd = wakeup_fd;
	}
	pthread_mutex_unlock(&fleet->lock);
	return ret;
}

/* With the lock held: @packet is the stream's next. */
static void give(struct tf_fleet *fleet, struct fleet_stream *stream, struct fleet_packet *packet)
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
	if (fleet->spool && fleet->fd >= 0 && !tf_fleet_first_packet(fleet))
		fleet->waiting_since_ms = tf_now_ms();
	tf_fleet_append(fleet, packet);
}

int tf_fleet_give(struct tf_fleet *fleet, uint32_t key, uint32_t stream_class_id, uint32_t cpu,
		  const struct tf_packet *packets, int count)
{
	struct fleet_packet *made[TF_PACKETS_PER_WRITE];
	struct fleet_stream *stream;
	int ret = 0;

	pthread_mutex_lock(&fleet->lock);
	stream = tf_fleet_stream_of(fleet, key);
	if (!stream || fleet->is_ending)
		ret = stream ? -ESHUTDOWN : -ENOENT;
	for (int i = 0; i < count && ret == 0; i++) {
		made[i] = tf_fleet_new_packet(fleet);
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
	if (ret == 0)
		tf_fleet_send_now(fleet);
	pthread_mutex_unlock(&fleet->lock);
	return ret;
}

int tf_fleet_give_metadata(struct tf_fleet *fleet, uint32_t key, uint8_t *data, size_t size, uint32_t padding)
{
	struct fleet_packet *packet = NULL;
	struct fleet_stream *stream;
	int ret;

	pthread_mutex_lock(&fleet->lock);
	stream = tf_fleet_stream_of(fleet, key);
	ret = !stream ? -ENOENT : fleet->is_ending ? -ESHUTDOWN : 0;
	if (ret == 0) {
		packet = tf_fleet_new_packet(fleet);
		ret = packet ? 0 : -ENOMEM;
	}
	if (ret == 0) {
		packet->data = packet->own_data = data;
		packet->header = (struct tf_fleet_header){ .data_size = (uint32_t)size,
							   .padding_size = padding,
							   .packet_size = ((uint64_t)size + padding) * 8,
							   .content_size = (uint64_t)size * 8 };
		give(fleet, stream, packet);
		tf_fleet_send_now(fleet);
	}
	pthread_mutex_unlock(&fleet->lock);
	return ret;
}

void tf_fleet_send_beacon(struct tf_fleet *fleet, uint32_t key, uint32_t stream_class_id, uint32_t cpu,
			  uint64_t timestamp)
{
	struct fleet_packet *packet = NULL;
	struct fleet_stream *stream;

	pthread_mutex_lock(&fleet->lock);
	stream = tf_fleet_stream_of(fleet, key);
	if (stream && stream->is_bound && !stream->beacon && !fleet->is_blocked && !fleet->is_ending &&
	    stream->connection_sequence == stream->next_sequence)
		packet = tf_fleet_new_packet(fleet);
	if (packet) {
		packet->stream = stream;
		packet->header = (struct tf_fleet_header){ .sequence = stream->next_sequence,
							   .flags = TF_FLEET_BEACON,
							   .timestamp_begin = timestamp,
							   .timestamp_end = timestamp,
							   .stream_class_id = stream_class_id,
							   .stream_instance_id = cpu };
		stream->beacon = packet;
		tf_fleet_append(fleet, packet);
		tf_fleet_send_now(fleet);
	}
	pthread_mutex_unlock(&fleet->lock);
}

void tf_fleet_progress(struct tf_fleet *fleet, uint32_t key, struct tf_fleet_progress *progress)
{
	struct fleet_stream *stream;

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
	const struct fleet_stream *stream;

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
	tf_fleet_wake(fleet);
	while (fleet->is_flush_wanted && !fleet->is_ending)
		pthread_cond_wait(&fleet->changed, &fleet->lock);
}

void tf_fleet_take_back(struct tf_fleet *fleet, uint32_t key)
{
	struct fleet_stream *stream;

	pthread_mutex_lock(&fleet->lock);
	stream = fleet->streams[key];
	if (stream->first)
		await_flush(fleet);
	claim(fleet);
	/* The peer waits for the rest of a packet that has begun, and cannot have it any more. */
	if (fleet->begun && fleet->begun->stream == stream)
		tf_fleet_lose(fleet, -ECONNABORTED);
	while (stream->first)
		tf_fleet_pop(fleet, stream);
	stream->capacity = 0;
	unclaim(fleet);
	pthread_mutex_unlock(&fleet->lock);
}

/* ---- the fleet itself ---- */

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
	fleet->waiting_since_ms = tf_now_ms();
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
		ret = tf_fleet_open_spool(fleet, spool_directory, spool_size_limit, is_damaged);
	if (ret == 0)
		ret = tf_fleet_start_thread(fleet);
	if (ret < 0) {
		tf_fleet_put(fleet);
		return ret;
	}
	*out = fleet;
	return 0;
}

int tf_fleet_stream_state(struct tf_fleet *fleet, uint32_t key, struct tf_fleet_stream_state *state)
{
	const struct fleet_stream *stream;

	pthread_mutex_lock(&fleet->lock);
	stream = tf_fleet_stream_of(fleet, key);
	if (stream)
		*state = (struct tf_fleet_stream_state){
			.oldest_sequence = tf_fleet_oldest_sequence(stream),
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
	bool is_settled;

	pthread_mutex_lock(&fleet->lock);
	is_settled = !tf_fleet_first_packet(fleet) && (or_spooled || fleet->books.spooled_count == 0);
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
	tf_fleet_lose(fleet, -ESHUTDOWN);
	tf_fleet_wake(fleet);
	pthread_cond_broadcast(&fleet->changed);
	pthread_mutex_unlock(&fleet->lock);
	if (has_thread)
		pthread_join(fleet->thread, NULL);
	pthread_mutex_lock(&fleet->lock);
	claim(fleet);
	unclaim(fleet);
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

static void free_packets(struct fleet_packet *packet)
{
	while (packet) {
		struct fleet_packet *next = packet->next;

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
