#include "fleet_state.h"

#include "clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

/* ---- packets ---- */

struct fleet_packet *tf_fleet_new_packet(struct tf_fleet *fleet)
{
	struct fleet_packet *packet = fleet->unused;

	if (!packet)
		return calloc(1, sizeof(*packet));
	fleet->unused = packet->next;
	memset(packet, 0, sizeof(*packet));
	return packet;
}

void tf_fleet_append(struct tf_fleet *fleet, struct fleet_packet *packet)
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

void tf_fleet_drop(struct tf_fleet *fleet, struct fleet_packet *packet)
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

static uint64_t bytes_of(const struct fleet_packet *packet)
{
	return packet->header.packet_size / 8;
}

void tf_fleet_pop(struct tf_fleet *fleet, struct fleet_stream *stream)
{
	struct fleet_packet *packet = stream->first;

	stream->first = packet->next_of_stream;
	if (!stream->first)
		stream->last = NULL;
	stream->count--;
	tf_fleet_drop(fleet, packet);
}

void tf_fleet_pop_flight(struct tf_fleet *fleet, struct fleet_stream *stream)
{
	struct fleet_packet *packet = stream->flight_first;

	stream->flight_first = packet->next_of_stream;
	if (!stream->flight_first)
		stream->flight_last = NULL;
	packet->next = fleet->unused;
	fleet->unused = packet;
}

/* The oldest of its packets in the spool; spool_end: there is none. */
static uint64_t oldest_spooled(const struct fleet_stream *stream)
{
	uint64_t oldest = stream->spool_begin;

	if (oldest < stream->acknowledged_sequence)
		oldest = stream->acknowledged_sequence;
	return oldest < stream->spool_end ? oldest : stream->spool_end;
}

uint64_t tf_fleet_oldest_sequence(const struct fleet_stream *stream)
{
	const uint64_t oldest = oldest_spooled(stream);

	if (oldest < stream->spool_end)
		return oldest;
	return stream->first ? stream->first->header.sequence : stream->next_sequence;
}

struct fleet_packet *tf_fleet_first_packet(const struct tf_fleet *fleet)
{
	struct fleet_packet *packet = fleet->first;

	while (packet && tf_fleet_is_beacon(packet))
		packet = packet->next;
	return packet;
}

/* ---- streams ---- */

void tf_fleet_wake(struct tf_fleet *fleet)
{
	if (fleet->is_polling) {
		fleet->is_polling = false;
		eventfd_write(fleet->wake_fd, 1);
	}
}

void tf_fleet_poke(struct tf_fleet *fleet, struct fleet_stream *stream)
{
	if (stream->capacity > 0 && !stream->is_unsettled) {
		stream->is_unsettled = true;
		stream->next_unsettled = fleet->unsettled;
		fleet->unsettled = stream;
	}
	if (fleet->waiting_count > 0)
		pthread_cond_broadcast(&fleet->changed);
}

struct fleet_stream *tf_fleet_stream_of(const struct tf_fleet *fleet, uint32_t key)
{
	return key < fleet->stream_count ? fleet->streams[key] : NULL;
}

struct fleet_stream *tf_fleet_new_stream(struct tf_fleet *fleet)
{
	struct fleet_stream *stream = calloc(1, sizeof(*stream));

	if (stream && fleet->stream_count == fleet->stream_capacity) {
		const uint32_t capacity = 2 * fleet->stream_capacity + 16;
		struct fleet_stream **streams = NULL;

		if (capacity <= TF_SPOOL_STREAM_COUNT_MAX)
			streams = realloc(fleet->streams, capacity * sizeof(struct fleet_stream *));
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

/* ---- handles ---- */

struct fleet_stream **tf_fleet_place_of(struct tf_fleet *fleet, uint64_t handle)
{
	uint32_t at = (uint32_t)(handle * UINT64_C(0x9E3779B97F4A7C15) >> 32) & (fleet->table_size - 1);

	while (fleet->table[at] && fleet->table[at]->handle != handle)
		at = (at + 1) & (fleet->table_size - 1);
	return &fleet->table[at];
}

struct fleet_stream *tf_fleet_find_bound(struct tf_fleet *fleet, uint64_t handle)
{
	return fleet->table_size > 0 ? *tf_fleet_place_of(fleet, handle) : NULL;
}

/* With half of it free. */
int tf_fleet_size_table(struct tf_fleet *fleet)
{
	uint32_t size = 64;
	struct fleet_stream **table, **former = fleet->table;
	const uint32_t former_size = fleet->table_size;

	while (size < 2 * fleet->stream_count)
		size *= 2;
	if (size <= former_size)
		return 0;
	table = calloc(size, sizeof(struct fleet_stream *));
	if (!table)
		return -ENOMEM;
	fleet->table = table;
	fleet->table_size = size;
	for (uint32_t i = 0; i < former_size; i++)
		if (former[i])
			*tf_fleet_place_of(fleet, former[i]->handle) = former[i];
	free(former);
	return 0;
}

/* ---- what the relay daemon has ---- */

void tf_fleet_acknowledge(struct tf_fleet *fleet, struct fleet_stream *stream, uint64_t next_sequence)
{
	const uint64_t former_oldest = oldest_spooled(stream);

	while (stream->flight_first && stream->flight_first->header.sequence < next_sequence) {
		fleet->books.acknowledged_count++;
		fleet->books.acknowledged_bytes += bytes_of(stream->flight_first);
		tf_fleet_pop_flight(fleet, stream);
	}
	if (fleet->spool && stream->first && stream->first->header.sequence < next_sequence)
		fleet->waiting_since_ms = tf_now_ms();
	while (stream->first && stream->first->header.sequence < next_sequence) {
		fleet->books.acknowledged_count++;
		fleet->books.acknowledged_bytes += bytes_of(stream->first);
		tf_fleet_pop(fleet, stream);
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
		tf_fleet_poke(fleet, stream);
	}
}

/* ---- connections ---- */

void tf_fleet_lose(struct tf_fleet *fleet, int error)
{
	struct fleet_packet *next;

	if (fleet->fd < 0)
		return;
	shutdown(fleet->fd, SHUT_RDWR);
	fleet->former_fd = fleet->fd;
	fleet->fd = -1;
	fleet->connection++;
	fleet->books.is_attached = false;
	fleet->books.error = error;
	fleet->begun = NULL;
	fleet->has_frame = fleet->is_blocked = false;
	fleet->is_rewind_due = true;
	fleet->waiting_since_ms = tf_now_ms();
	for (struct fleet_packet *packet = fleet->first; packet; packet = next) {
		next = packet->next;
		packet->is_sent = false;
		if (tf_fleet_is_beacon(packet))
			tf_fleet_drop(fleet, packet);
	}
	fleet->cursor = fleet->first;
	for (uint32_t i = 0; i < fleet->stream_count; i++) {
		fleet->streams[i]->is_bound = false;
		while (fleet->streams[i]->flight_first)
			tf_fleet_pop_flight(fleet, fleet->streams[i]);
	}
	memset(fleet->table, 0, fleet->table_size * sizeof(struct fleet_stream *));
	eventfd_write(fleet->lost_fd, 1);
	tf_fleet_wake(fleet);
	pthread_cond_broadcast(&fleet->changed);
}
