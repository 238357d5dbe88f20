#ifndef TF_SRC_INTAKE_H
#define TF_SRC_INTAKE_H

/*
 * The inside of an intake. intake.c has the threads, tables and reports, intake_connection.c reads a connection,
 * intake_stream.c writes a stream's file, intake_fleet.c knows the headers and acknowledgements of our own protocol.
 * intake_control.c reads a control connection of LTTng's protocol, intake_join.c writes its index entries.
 *
 * Locks: a stream's is taken before that of its join, and both before the intake's. What a connection does belongs to the one thread that has its
 * turn; only its flags are under the intake's lock.
 */

#include "intake_table.h"

#include <tracefleet/fleet_frame.h>
#include <tracefleet/intake.h>

#include <pthread.h>
#include <stdatomic.h>
#include <sys/types.h>

#define INTAKE_LTTNG_HEADER_SIZE 32
#define INTAKE_HEADER_SIZE_MAX sizeof(struct tf_fleet_header)
#define INTAKE_INDEX_ENTRY_SIZE 72

struct intake_packet { /* what a header says, in host order */
	uint64_t handle, net_seq;
	uint32_t data_size, padding_size;
	bool is_beacon; /* FLEET: no packet, but says that the stream was idle */
};

struct intake_fleet;

struct intake_connection {
	struct intake_node node; /* by token */
	struct tf_intake *intake;
	int fd;
	struct intake_fleet *fleet; /* FLEET framing; else NULL */
	/* of whoever has the turn */
	uint64_t group; /* as given, or that of the stream of the first packet; 0: none yet */
	uint8_t header[INTAKE_HEADER_SIZE_MAX];
	size_t header_size; /* received of it */
	struct intake_packet packet;
	struct intake_stream *stream; /* of the packet under way; a reference. NULL: none is */
	uint64_t unwanted_size;	      /* of the packet's data, to be thrown away as it comes */
	bool is_unwanted;	      /* the packet has its answer already */
	uint64_t full_target_number;  /* the target that was too full for this packet; 0: none */
	bool is_large;		      /* the latest packet was: only its header is read ahead */
	bool has_no_splice;
	bool is_control; /* CONTROL framing; the descriptor is the caller's */
	uint8_t *unsent; /* replies */
	size_t unsent_size;
	uint8_t *kept; /* received, and waiting with the packet that holds */
	size_t kept_size;
	int reason; /* of the hold */
	int error;
	/* of the intake's lock */
	uint32_t unread_report_count;
	bool has_turn, is_held, is_parked, is_over;
	_Atomic bool is_leaving; /* read without the lock to end a turn early */
};

struct intake_index_command { /* payload of SEND_INDEX, big-endian */
	uint64_t handle, net_seq;
	uint64_t packet_size, content_size, timestamp_begin, timestamp_end;
	uint64_t events_discarded, stream_class_id, stream_instance_id, packet_seq_num;
};

struct intake_halves;

struct intake_join { /* of data and index entries of LTTng's protocol */
	pthread_mutex_t lock; /* of everything below */
	bool is_on;
	struct tf_intake *intake;
	int fd; /* of the index file; -1: none */
	uint64_t offset, group;
	struct intake_halves *halves; /* while it is on */
};

struct intake_stream {
	struct intake_node node; /* by handle */
	int reference_count;	 /* under the intake's lock */
	pthread_mutex_t lock;	 /* of everything below */
	bool is_removed;
	_Atomic bool has_no_splice;
	uint64_t target_number; /* how many files it was given */
	struct tf_intake_target target; /* fd -1: revoked. offset moves on */
	dev_t device;
	ino_t inode;
	const struct intake_connection *writer; /* has a packet under way; NULL: none */
	uint64_t received;   /* of the packet under way, padding included; all in the file */
	uint64_t synced_sequence; /* is_synced: up to here, exclusive, the device has all packets */
	int sync_error;	     /* positive errno: nobody knows what the device has, and nothing more is taken */
	bool has_rest;	     /* of a packet that was given up, in the file that is revoked */
	struct tf_intake_books books;
	struct intake_join join; /* with a lock of its own: nobody waits there for a write of data */
};

struct intake_worker {
	struct tf_intake *intake;
	pthread_t thread;
	uint8_t *buffer;
	int pipe_fds[2];
};

enum intake_step {
	INTAKE_GO,	/* the packet needs more bytes, or the next header does */
	INTAKE_DRAINED, /* the socket has no more for now */
	INTAKE_AGAIN,	/* the turn is over, and more is there */
	INTAKE_PARK,	/* too many reports that nobody took */
	INTAKE_BLOCKED, /* acknowledgements wait for a peer that does not read them */
	INTAKE_UNWANTED, /* the packet is not the next one, or a beacon: it was dealt with, its data is to be thrown away */
	INTAKE_HOLD,	/* connection->reason, connection->error */
	INTAKE_OVER,	/* connection->error */
};

/* ---- intake.c ---- */

/*
 * The stream with that handle, a reference, in *@stream (NULL: unknown). INTAKE_PARK when the connection has to wait
 * for its reports to be taken; otherwise there is room for the next one.
 */
enum intake_step tf_intake_find_stream(struct intake_connection *connection, struct intake_stream **stream);
/* A reference, NULL: unknown. */
struct intake_stream *tf_intake_get_stream(struct tf_intake *intake, uint64_t handle);
void tf_intake_put_stream(struct tf_intake *intake, struct intake_stream *stream);

/*
 * Reports that come of a half: one is promised when it is kept, so that there is always room for it. With the lock of the
 * join held.
 */
void tf_intake_promise_report(struct tf_intake *intake);
void tf_intake_push_promised(struct tf_intake *intake, const struct tf_intake_report *report);
/* Of a connection that has its turn, after tf_intake_find_stream(). */
void tf_intake_push_own(struct intake_connection *connection, const struct tf_intake_report *report);

/* The packet of @connection is in the file at @offset, or it is a beacon. With the stream's lock held. */
void tf_intake_report_packet(struct intake_connection *connection, uint64_t offset);

/* ---- intake_connection.c ---- */

/* Read for one turn: at most about a MiB. */
enum intake_step tf_intake_turn(struct intake_connection *connection, struct intake_worker *worker);

int tf_intake_worker_init(struct intake_worker *worker);
void tf_intake_worker_destroy(struct intake_worker *worker);

/* ---- intake_stream.c ---- */

struct intake_stream *tf_intake_stream_new(uint64_t handle);
void tf_intake_stream_free(struct intake_stream *stream);

/* These take the stream's lock. */
int tf_intake_stream_set_target(struct intake_stream *stream, const struct tf_intake_target *target);
void tf_intake_stream_revoke(struct intake_stream *stream);
void tf_intake_stream_remove(struct intake_stream *stream);

/* Begin the packet of @connection: INTAKE_GO, INTAKE_UNWANTED, or INTAKE_HOLD with the connection's reason. */
enum intake_step tf_intake_stream_begin(struct intake_stream *stream, struct intake_connection *connection);

/*
 * Write up to @size bytes of the packet under way; *@used tells how many were taken. Ends the packet (NULL in
 * connection->stream, the reference is given back) with its last byte. INTAKE_GO, INTAKE_HOLD or INTAKE_OVER.
 */
enum intake_step tf_intake_stream_write(struct intake_connection *connection, const uint8_t *data, size_t size,
					size_t *used);

/*
 * Move up to @size bytes of the packet from @pipe_fd into the file, without its padding and end. Returns how many; fewer
 * when something is in the way that tf_intake_stream_write() will tell about.
 */
size_t tf_intake_stream_splice(struct intake_connection *connection, int pipe_fd, size_t size);

/*
 * See that the device has all packets up to @sequence if the target is_synced: 1 then, 0 when it is not, or a negative
 * errno. Waits for the device without a lock.
 */
int tf_intake_stream_sync(struct intake_stream *stream, uint64_t sequence);

/* Bytes of data of the packet under way that are still to come. */
size_t tf_intake_stream_missing(const struct intake_connection *connection);

/* Give up the packet under way, if there is one, and cut what is in the file. */
void tf_intake_stream_abort(struct intake_connection *connection);

/* ---- intake_control.c; connections with CONTROL framing only ---- */

enum intake_step tf_intake_control_turn(struct intake_connection *connection, struct intake_worker *worker);
/* See tf_intake_take_back(). */
size_t tf_intake_control_take_back(struct intake_connection *connection, uint8_t *bytes, size_t *reply_size);

/* ---- intake_join.c; these take the join's lock ---- */

void tf_intake_join_init(struct intake_join *join);
void tf_intake_join_destroy(struct intake_join *join);
/* See tf_intake_join(). Takes the stream's lock too. */
int tf_intake_join_start(struct tf_intake *intake, struct intake_stream *stream, const struct tf_intake_index *index);
void tf_intake_join_stop(struct intake_stream *stream);
/* The data of connection->packet is in the file at @offset. False: report it. With the stream's lock held. */
bool tf_intake_join_data(struct intake_stream *stream, const struct intake_connection *connection, uint64_t offset);
/* False: it is the caller's to carry out. */
bool tf_intake_join_index(struct intake_stream *stream, struct intake_connection *connection,
			  const struct intake_index_command *command);

/* ---- intake_fleet.c; connections with FLEET framing only ---- */

struct intake_fleet *tf_intake_fleet_new(void); /* free() is enough */

/* Make connection->packet of connection->header. 0, -EBADMSG or -EMSGSIZE. */
int tf_intake_fleet_parse(struct intake_connection *connection);
bool tf_intake_fleet_has_crc(const struct intake_connection *connection);
/* @size more bytes of the data are in the file. */
void tf_intake_fleet_check(struct intake_connection *connection, const uint8_t *data, size_t size);
bool tf_intake_fleet_is_corrupt(const struct intake_connection *connection);
/* What the index entry, or the beacon, says. */
void tf_intake_fleet_describe(const struct intake_connection *connection, struct tf_intake_report *report);
/* The entry of the packet at @offset, as it is in the file. */
void tf_intake_fleet_index_entry(const struct intake_connection *connection, uint64_t offset,
				 uint64_t entry[INTAKE_INDEX_ENTRY_SIZE / 8]);

/* Answer the packet: status of enum tf_fleet_status. Takes the place of one for the same stream that was not sent yet. */
void tf_intake_fleet_note(struct intake_connection *connection, uint32_t status, uint64_t sequence);
/* Send what was noted: INTAKE_GO, INTAKE_BLOCKED or INTAKE_OVER. */
enum intake_step tf_intake_fleet_flush(struct intake_connection *connection);
/* The same if another one would have no room. */
enum intake_step tf_intake_fleet_make_room(struct intake_connection *connection);

#endif
