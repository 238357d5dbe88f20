#ifndef TRACEFLEET_RELAY_H
#define TRACEFLEET_RELAY_H

/*
 * A session at a relay daemon, in LTTng's relay protocol (2.11 or later): packets go out on the data connection,
 * their index entries and the metadata on the control connection, which is shared with whoever gives commands.
 *
 * Nothing here waits for a peer for long: what it does not take now is refused with -EAGAIN and stays in its ring
 * buffer, apart from the end of a packet that has begun, which is kept here. Once a connection is lost, all of it is,
 * for good. Every function may be called from any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tf_relay;

/* Both sockets are connected; they stay the caller's, and become non-blocking. Returns 0 or a negative errno. */
int tf_relay_create(int control_fd, int data_fd, struct tf_relay **out);

/*
 * Have the control connection alone, with nothing under way on it, until tf_relay_end(): for a command and its reply.
 * Returns 0 or a negative errno: -ETIMEDOUT, or why the session is lost.
 */
int tf_relay_begin(struct tf_relay *relay, uint32_t timeout_ms);
/*
 * @error: 0, or the positive errno that makes the session lost. @late_size: so many bytes of replies have not come in
 * time; they will be dropped, and nobody has the connection before.
 */
void tf_relay_end(struct tf_relay *relay, int error, size_t late_size);

/* Send what waits here, and see whether the peer is there. 0: nothing waits; 1: something does; or a negative errno. */
int tf_relay_poll(struct tf_relay *relay);

/* 0, or the negative errno because of which the session is lost. */
int tf_relay_error(struct tf_relay *relay);

/* Data packets that were given to the connection, with their padding. Whether they arrive nobody says. */
struct tf_relay_sums {
	uint64_t packet_count, size;
};

/* Also of a session that is lost or closed. */
void tf_relay_get_sums(struct tf_relay *relay, struct tf_relay_sums *sums);

/* End both connections, if they were not lost before. */
void tf_relay_close(struct tf_relay *relay);

/* Drop a reference; outputs hold one each. */
void tf_relay_put(struct tf_relay *relay);

#endif
