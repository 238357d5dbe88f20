#ifndef TRACEFLEET_FLEET_H
#define TRACEFLEET_FLEET_H

/*
 * A session at a relay daemon of our own: numbered packets go out on one connection, and stay where they are (in their
 * ring buffer, or in the spool) until the relay daemon has acknowledged them. A thread of its own sends and receives.
 *
 * The session outlives its connections. Who makes the next one asks the relay daemon where each stream goes on, and says
 * so with tf_fleet_attach(); what was not acknowledged is sent again from there. Meanwhile ring buffers fill; with a
 * spool, packets go there, in order, and from there to the relay daemon before anything newer.
 *
 * A stream is known by its key: 0, 1, ... in the order in which they were added. Every function may be called from any
 * thread. They return 0 or a negative errno unless they say otherwise, and none waits for a peer.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tf_fleet;

/*
 * @spool_directory: NULL for none; otherwise it exists, and what frames it holds already are sent first (their streams
 * have the keys 0 ... that their frames say). *@is_damaged as of tf_spool_open().
 */
int tf_fleet_create(const char *spool_directory, uint64_t spool_size_limit, struct tf_fleet **out, bool *is_damaged);

/* A new stream. Its packets wait until it is bound, or go to the spool. Returns its key, or a negative errno. */
int tf_fleet_add_stream(struct tf_fleet *fleet);

/* Where a stream is at the relay daemon: what it calls it, and the packet that it expects. */
struct tf_fleet_binding {
	uint32_t key;
	uint64_t handle, next_sequence;
};

/*
 * Go on through the stream socket @fd, on which the greeting was sent; it is the fleet's on success. Streams that are
 * not among @bindings wait for tf_fleet_bind(), without holding up the others: who binds the streams of a trace binds
 * its metadata first. All before next_sequence counts as acknowledged.
 * -EISCONN: the former connection is not lost; -EPROTO: next_sequence is of a packet that was never sent; -EEXIST: two
 * of one handle, or of one stream; -ENOENT: no such stream; -ESHUTDOWN after the close.
 */
int tf_fleet_attach(struct tf_fleet *fleet, int fd, const struct tf_fleet_binding *bindings, size_t count);
/* As above, once for a stream and connection. -ENOTCONN: there is none. */
int tf_fleet_bind(struct tf_fleet *fleet, const struct tf_fleet_binding *binding);
/* End the connection, if there is one. */
void tf_fleet_detach(struct tf_fleet *fleet);

/* An eventfd that is readable while the fleet has no connection. It stays the fleet's. */
int tf_fleet_fd(const struct tf_fleet *fleet);

struct tf_fleet_stream_state {
	uint64_t oldest_sequence; /* that can still be sent */
	uint64_t acknowledged_sequence; /* all before it are acknowledged */
	uint64_t next_sequence;	  /* of the packet that comes next from its source; all before are sent, or spooled */
};
int tf_fleet_stream_state(struct tf_fleet *fleet, uint32_t key, struct tf_fleet_stream_state *state); /* -ENOENT */

struct tf_fleet_books { /* cumulative but for spooled_*, over all streams, metadata included; bytes with padding */
	uint64_t sent_count, sent_bytes; /* each packet once */
	uint64_t acknowledged_count, acknowledged_bytes;
	uint64_t resent_count;
	uint64_t spooled_count, spooled_bytes; /* in the spool now */
	bool is_attached;
	int error; /* negative errno because of which the latest connection was lost, or the spool failed; 0 */
};
void tf_fleet_books(struct tf_fleet *fleet, struct tf_fleet_books *books);

/* True when everything that was handed over is acknowledged, or, with @or_spooled, in the spool. */
bool tf_fleet_is_settled(struct tf_fleet *fleet, bool or_spooled);

/* Ends thread and connection; frames stay in the spool. What is not safe by then never will be. */
void tf_fleet_close(struct tf_fleet *fleet);
/* Drop a reference; outputs hold one each. */
void tf_fleet_put(struct tf_fleet *fleet);

#endif
