#ifndef TF_SRC_FLEET_STATE_H
#define TF_SRC_FLEET_STATE_H

/*
 * A fleet, as its parts share it: fleet.c is what others call, fleet_send.c the thread, fleet_spool.c its work with the
 * spool, fleet_state.c what they have in common.
 *
 * All functions are called with the lock held; those that release it meanwhile say so.
 */

#include "fleet.h"

#include <tracefleet/fleet_frame.h>
#include <tracefleet/spool.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct fleet_stream;

/* One packet on its way, or a beacon. */
struct fleet_packet {
	struct fleet_packet *previous, *next; /* in the order in which they were handed over */
	struct fleet_packet *next_of_stream;
	struct fleet_stream *stream;
	/* In host order, without magic, checksum and handle. */
	struct tf_fleet_header header;
	const uint8_t *data;
	uint8_t *own_data; /* what of it is to be freed; NULL: it is a ring buffer's */
	bool is_sent; /* all of it, on this connection */
};

struct fleet_stream {
	uint32_t key;
	bool is_bound;
	uint64_t handle;
	/* All before the first are acknowledged, safe, sent on some connection, handed over. */
	uint64_t acknowledged_sequence, safe_sequence, sent_sequence, next_sequence;
	uint64_t connection_sequence; /* all before it are sent on this connection, or were there */
	struct fleet_packet *first, *last; /* those that are not safe */
	uint32_t count; /* of them */
	/* In the spool, but for those that are acknowledged. */
	uint64_t spool_begin, spool_end;
	struct fleet_packet *flight_first, *flight_last; /* of these, what was sent on this connection: headers only */
	struct fleet_stream *next_due; /* and in the fleet's list of those with something to release */
	bool is_due;
	bool is_found; /* in the spool, of a former life: the relay daemon may know more of it than we do */
	uint64_t corrupt_sequence;
	uint32_t corrupt_count;
	struct fleet_packet *beacon; /* that is not sent yet */
	uint32_t capacity; /* of its ring buffer; 0: it has none */
	tf_fleet_settle settle;
	void *source; /* its argument */
	struct fleet_stream *next_unsettled;
	bool is_unsettled; /* in the fleet's list of those that have to be told of their progress */
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

	struct fleet_stream **streams; /* by key */
	uint32_t stream_count, stream_capacity;
	struct fleet_stream **table; /* by handle: open addressing, a power of two; NULL: free */
	uint32_t table_size;
	struct fleet_stream *unsettled;
	struct tf_fleet_books books;

	/* Packets that are not safe, and beacons. Before the cursor all are sent, or wait for a handle. */
	struct fleet_packet *first, *last, *cursor;
	struct fleet_packet *unused;
	struct fleet_packet *begun; /* its first begun_size bytes are sent, header included */
	size_t begun_size;

	int fd; /* -1: no connection */
	/* When the connection was lost; with one: since when packets wait, and none of them was acknowledged. */
	uint64_t waiting_since_ms;
	int former_fd; /* lost, and the thread's to close; -1: none */
	uint64_t connection; /* its number, so that the thread sees when it was lost meanwhile */
	uint8_t ack[sizeof(struct tf_fleet_ack)]; /* as far as it has come */
	size_t ack_size;
	bool is_blocked; /* it took not all that it was last given */
	bool is_careful; /* something could not be read: one packet at a time, to know which */
	/*
	 * Somebody, the thread or who hands packets over, reads packets without the lock, or a stream settles. Nothing is
	 * dropped meanwhile, and whoever does it looks again when it is done.
	 */
	bool is_sending;
	bool is_thread_waiting; /* for the end of that */
	int claimant_count; /* those who want nobody to do so */
	int waiting_count; /* for anything else */

	struct tf_spool *spool; /* NULL: none. The thread's, without the lock */
	struct tf_spool_frame frame; /* that is being sent: its first frame_sent bytes are, header included */
	bool has_frame;
	size_t frame_sent;
	bool is_spool_read; /* nothing in it is left to be sent; packets that are not in it may follow */
	bool is_rewind_due;
	bool is_pressed; /* a ring buffer gets full */
	bool is_flush_wanted; /* somebody waits for packets to be in the spool */
	uint64_t spool_retry_at_ms;
	int spool_error;
	struct fleet_stream *due;
};

/* ---- fleet_state.c ---- */

struct fleet_packet *tf_fleet_new_packet(struct tf_fleet *fleet); /* NULL: no memory */
/* It comes after all others. */
void tf_fleet_append(struct tf_fleet *fleet, struct fleet_packet *packet);
/* It is no more. */
void tf_fleet_drop(struct tf_fleet *fleet, struct fleet_packet *packet);
/* The first of the stream is no more, of those that are not safe, and of those in flight. */
void tf_fleet_pop(struct tf_fleet *fleet, struct fleet_stream *stream);
void tf_fleet_pop_flight(struct tf_fleet *fleet, struct fleet_stream *stream);
/* The oldest that can still be sent; next_sequence: there is none. */
uint64_t tf_fleet_oldest_sequence(const struct fleet_stream *stream);
/* The first that is no beacon, or NULL. */
struct fleet_packet *tf_fleet_first_packet(const struct tf_fleet *fleet);

/* The thread has something to do. */
void tf_fleet_wake(struct tf_fleet *fleet);
/* The stream has made progress; the thread will tell it. */
void tf_fleet_poke(struct tf_fleet *fleet, struct fleet_stream *stream);

struct fleet_stream *tf_fleet_stream_of(const struct tf_fleet *fleet, uint32_t key); /* NULL: none */
struct fleet_stream *tf_fleet_new_stream(struct tf_fleet *fleet); /* NULL: no memory, or too many */
/* The stream of that handle on this connection, or NULL. */
struct fleet_stream *tf_fleet_find_bound(struct tf_fleet *fleet, uint64_t handle);
/* Where in the table a handle is, or belongs. */
struct fleet_stream **tf_fleet_place_of(struct tf_fleet *fleet, uint64_t handle);
/* Make the table large enough for all streams. 0 or -ENOMEM. */
int tf_fleet_size_table(struct tf_fleet *fleet);

/* The relay daemon has all of the stream before @next_sequence. */
void tf_fleet_acknowledge(struct tf_fleet *fleet, struct fleet_stream *stream, uint64_t next_sequence);
/* The connection is over. What the thread may be using of it stays open until it sees this. */
void tf_fleet_lose(struct tf_fleet *fleet, int error);

static inline bool tf_fleet_is_beacon(const struct fleet_packet *packet)
{
	return packet->header.flags & TF_FLEET_BEACON;
}

/* ---- fleet_send.c ---- */

/* Send what can be sent, here or in the thread. Releases the lock meanwhile. */
void tf_fleet_send_now(struct tf_fleet *fleet);
void tf_fleet_end_sending(struct tf_fleet *fleet);
int tf_fleet_start_thread(struct tf_fleet *fleet); /* without the lock; 0 or a negative errno */
/* As it travels. */
void tf_fleet_encode(struct tf_fleet_header *out, const struct tf_fleet_header *header, uint64_t handle);
/* All of that packet is sent. */
void tf_fleet_note_sent(struct tf_fleet *fleet, struct fleet_stream *stream, const struct tf_fleet_header *header);
/* An application took its memory away: what of the stream was not sent is lost. */
void tf_fleet_give_up(struct tf_fleet *fleet, struct fleet_stream *stream);

/* ---- fleet_spool.c: the thread's ---- */

/* What is in the spool of @directory is as if it had been given, and spooled. Before there is a thread. */
int tf_fleet_open_spool(struct tf_fleet *fleet, const char *directory, uint64_t size_limit, bool *is_damaged);
/*
 * Do what comes before anything is sent. True: something was done, and all may be different now. Releases the lock
 * meanwhile, as the next one.
 */
bool tf_fleet_advance_spool(struct tf_fleet *fleet);
/* Send of the spool what can be sent. False: nothing, for now. */
bool tf_fleet_send_frame(struct tf_fleet *fleet);
/* How long until the first has something to do by itself; -1: for ever. */
int tf_fleet_spool_timeout_ms(const struct tf_fleet *fleet);

#endif
