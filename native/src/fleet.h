#ifndef TF_SRC_FLEET_H
#define TF_SRC_FLEET_H

#include "trace_file.h"

#include <tracefleet/fleet.h>

struct tf_fleet *tf_fleet_get(struct tf_fleet *fleet);

/*
 * Called by the fleet's thread when tf_fleet_progress() has something new to say. It takes no lock that anybody may wait
 * for the fleet with. False: it could not do what there is to do; then a byte is written to the stream's wakeup_fd.
 */
typedef bool (*tf_fleet_settle)(void *source);

/*
 * Packets of the stream @key will come from a ring buffer of @capacity sub-buffers, that of @source. Returns 0 or a
 * negative errno: -ENOENT for no such stream, -EBUSY when it has a ring buffer.
 */
int tf_fleet_open_source(struct tf_fleet *fleet, uint32_t key, uint32_t capacity, tf_fleet_settle settle, void *source,
			 int wakeup_fd);

/*
 * Hand over @count packets of a ring buffer, which stay where they are until they are safe, or taken back. Their
 * numbers go on from those before. Returns 0 or a negative errno: -ESHUTDOWN after the close.
 */
int tf_fleet_give(struct tf_fleet *fleet, uint32_t key, uint32_t stream_class_id, uint32_t cpu,
		  const struct tf_packet *packets, int count);

/* Hand over one packet of metadata: @size bytes (malloc'ed, the fleet's on success) and @padding zero bytes. */
int tf_fleet_give_metadata(struct tf_fleet *fleet, uint32_t key, uint8_t *packet, size_t size, uint32_t padding);

/* Nothing happened in the stream until @timestamp. Left out when the peer is slow, or away: the next one says more. */
void tf_fleet_send_beacon(struct tf_fleet *fleet, uint32_t key, uint32_t stream_class_id, uint32_t cpu,
			  uint64_t timestamp);

struct tf_fleet_progress {
	uint64_t safe_sequence; /* all packets before it are acknowledged, or spooled */
	bool is_unreadable;	/* the memory of a packet has vanished */
};
void tf_fleet_progress(struct tf_fleet *fleet, uint32_t key, struct tf_fleet_progress *progress);

/* Wait until tf_fleet_progress() says more than @safe_sequence, or the time @end_ms. Without a stream's lock. */
void tf_fleet_await_progress(struct tf_fleet *fleet, uint32_t key, uint64_t safe_sequence, uint64_t end_ms);

/*
 * The ring buffer goes away: what of its packets is not safe, nor can be put into the spool, is not sent any more. After
 * it nothing of the ring buffer is touched, and tf_fleet_progress() has said all. Waits for the thread, and for no peer.
 */
void tf_fleet_take_back(struct tf_fleet *fleet, uint32_t key);

#endif
