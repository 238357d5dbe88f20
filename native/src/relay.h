#ifndef TF_SRC_RELAY_H
#define TF_SRC_RELAY_H

#include "trace_file.h"

#include <tracefleet/relay.h>

#define TF_RELAY_NOTHING_SENT UINT64_MAX

/* One data stream at the relay daemon. */
struct tf_relay_stream {
	uint64_t handle;
	uint64_t next_number; /* of its next packet on the data connection */
	uint32_t stream_id, cpu;
};

struct tf_relay *tf_relay_get(struct tf_relay *relay);

/*
 * Send the first of @count (1 … TF_PACKETS_PER_WRITE) packets, as many as the peer takes, with their index entries.
 * Returns how many, at least one, or a negative errno: -EAGAIN when it takes none now.
 */
int tf_relay_write(struct tf_relay *relay, struct tf_relay_stream *stream, const struct tf_packet *packets, int count);

/* Nothing happened in the stream until @timestamp. Left out when the peer is slow: the next one says more. */
void tf_relay_send_beacon(struct tf_relay *relay, const struct tf_relay_stream *stream, uint64_t timestamp);

/*
 * Queue one metadata packet of @size bytes, to be followed by @padding zero bytes at the relay daemon, before any index
 * entry to come. Returns 0 or a negative errno.
 */
int tf_relay_send_metadata(struct tf_relay *relay, uint64_t handle, const uint8_t *packet, size_t size,
			   uint32_t padding);

/* True when something waits here that nobody but us will send. Cheap. */
bool tf_relay_is_waiting(struct tf_relay *relay);

#endif
