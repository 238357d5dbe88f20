#ifndef TF_SRC_STREAM_H
#define TF_SRC_STREAM_H

/*
 * One stream: the ring buffer of one channel on one CPU, read by us, and its files.
 *
 * A sub-buffer goes back to the tracer when its packet and its index entry are written. In discard mode all
 * complete sub-buffers stay put until the consumed position moves, so many of them go out in one write; in
 * overwrite mode a writer may take any but the one that the reader holds, so they go one by one. Those that were given
 * to a fleet stay until it says that they are safe.
 */

#include "fleet.h"
#include "layout.h"
#include "relay.h"
#include "trace_file.h"

#include <tracefleet/channel.h>

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

struct lttng_ust_ctl_consumer_stream;

#define TF_REPAIRS_PENDING_MAX 64
#define TF_TURN_SIZE (4 << 20)

/* Event records that a repair gave up; the packets from @position on count them as discarded. */
struct tf_repair {
	uint64_t position;
	uint64_t lost_record_count;
};

struct tf_record_layouts;

struct tf_stream {
	pthread_mutex_t lock; /* of everything below */
	uint32_t cpu;
	uint32_t stream_id; /* the channel's id, and the uuid below, in every packet header */
	uint8_t trace_uuid[16];
	int shm_fd;
	int wait_fd, wakeup_fd; /* the library's; it would look them up in shared memory each time */
	struct lttng_ust_ctl_consumer_stream *ust; /* NULL after the close */
	uint8_t *map;				   /* all of the shared memory; NULL: unknown layout */
	size_t map_size;
	uint8_t *library_data; /* the sub-buffers in the library's mapping */
	size_t library_data_size;
	struct tf_layout layout;
	int header_type;
	struct tf_record_layouts *layouts; /* the channel's */
	bool has_sink;		  /* its packets go somewhere: into the file, or to a relay daemon */
	struct tf_output *output; /* the channel's */
	struct tf_trace_file file;
	struct tf_relay *relay; /* the output's; NULL: the file */
	struct tf_relay_stream relayed;
	uint64_t refused_since_ms; /* 0: the relay daemon took what it was last given */
	struct tf_fleet *fleet;	   /* the output's */
	uint32_t fleet_key;
	uint64_t settled_sequence; /* of the first packet that was given and is not in the books; the ones behind it: */
	struct tf_packet *given;   /* a ring of sub_buffer_count, from given_begin on */
	uint32_t given_begin, given_count;
	bool is_holding; /* the reader holds the sub-buffer of the one packet that was given, at held_position */
	uint64_t held_position;
	uint64_t given_since_ms; /* nothing became safe since, and something waits; 0: nothing waits */

	uint64_t packet_count, byte_count, discarded_event_count, lost_packet_count;
	uint64_t discarded_ahead; /* of the packets that are written, when last looked */
	uint64_t unwritten_packet_count; /* set by the close */
	uint64_t next_sequence_number;
	uint64_t timestamp_end; /* of the packet that was written last */
	uint64_t events_discarded;     /* cumulative, as in the latest packet written */
	uint64_t raw_events_discarded; /* the same by the tracer's count alone, in the latest packet seen */
	uint64_t repaired_event_count; /* what repairs added up to there */
	struct tf_repair repairs[TF_REPAIRS_PENDING_MAX];
	int repair_count;
	uint64_t counted_position; /* packets before it have the right count in their header already */

	uint64_t position; /* consumed, as far as we know */
	bool is_broken;	   /* the shared memory holds what no tracer writes there: never read again */
	bool is_quiescent; /* had its final flush */
	int error;	   /* negative errno of the latest write; 0 when it worked */
	uint64_t retry_at_ms;
	uint32_t retry_delay_ms;
	uint64_t hole_since_ms; /* 0: the next sub-buffer is not waiting for a record */
	uint64_t hole_position;
	bool is_jam_reported;
	uint64_t jam_limit; /* produced position when the jam was reported */
	uint32_t reports;   /* bits 1 << enum tf_report_kind, not yet delivered */
};

/* A relay daemon that takes nothing for so long is reported. */
#define TF_REFUSAL_MS 3000

enum tf_turn_result {
	TF_TURN_EMPTY, /* nothing is complete */
	TF_TURN_WROTE, /* there may be more */
	TF_TURN_GAVE,  /* all that is complete was given to the fleet, which has not said that it is safe */
	TF_TURN_HOLE,  /* the next sub-buffer waits for a record */
	TF_TURN_FAILED /* see error or is_broken */
};

/* All with the lock held. */

/* Write what is complete, at most one write's worth. @is_forced: do not wait for the time of the next retry. */
enum tf_turn_result tf_stream_turn(struct tf_stream *stream, bool is_forced);
void tf_stream_flush(struct tf_stream *stream, bool is_final);
/*
 * Close the first packet of the stream, even when it is empty. It begins with the buffers, not with its first record as
 * those after it, so nothing may be said of the time since then before it is out.
 */
void tf_stream_open_packet(struct tf_stream *stream);
/* True when all that was switched away from is on its way, and nothing keeps what comes from going there. */
bool tf_stream_is_idle(struct tf_stream *stream);
/* Packets that were written, or given to the fleet. */
uint64_t tf_stream_count_passed(const struct tf_stream *stream);
/* A tf_fleet_settle(), hence without the lock. */
bool tf_stream_settle(void *stream);
/* The end of a stream that goes through a fleet: what is not safe is unwritten, of which it counts what is consumed. */
void tf_stream_take_back(struct tf_stream *stream);
/* The trace clock now, in cycles. 0 or -EIO. */
int tf_stream_timestamp(struct tf_stream *stream, uint64_t *timestamp);
/* True when records were lost that no packet tells of, and a last packet that does is under way now. */
bool tf_stream_tell_losses(struct tf_stream *stream);
/* True when a sub-buffer was switched away from, complete or not. */
bool tf_stream_has_unread(struct tf_stream *stream);
uint64_t tf_stream_count_complete(struct tf_stream *stream);
/* Event records lost so far, also those that no written packet tells of yet. */
uint64_t tf_stream_count_discarded(struct tf_stream *stream);
/* 0 or -EIO. */
int tf_stream_positions(struct tf_stream *stream, uint64_t *consumed, uint64_t *produced);
void tf_stream_break(struct tf_stream *stream);

/*
 * Complete every sub-buffer that has been switched away from and has a hole, of those below @limit. Returns how
 * many, or a negative errno.
 */
int tf_stream_repair(struct tf_stream *stream, uint64_t limit);
/* repair.c: its part on shared memory, under the guard. */
int tf_stream_repair_guarded(struct tf_stream *stream, uint64_t limit);

#endif
