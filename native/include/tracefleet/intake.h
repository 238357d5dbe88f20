#ifndef TRACEFLEET_INTAKE_H
#define TRACEFLEET_INTAKE_H

/*
 * Where packets of other hosts come in: a few threads of its own read connections and write the packets to the
 * files they are told, without the interpreter. Who owns a connection or a file, and what comes next when one
 * cannot go on, is the caller's decision; it hears of everything as reports.
 *
 * A connection is known by its token, a stream by its handle, both the caller's numbers; a token is never used
 * again. The target of a stream is the file its next packet goes to, and where in it. A packet that cannot be
 * written *holds* its connection: nothing more is read from it until tf_intake_resume(), while others go on.
 *
 * Every function may be called from any thread. They return 0 or a negative errno unless they say otherwise.
 * None waits for a peer; those that say "synchronously" wait at most for one write of 256 KiB, or with
 * tf_intake_target.is_synced for one sync.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct tf_intake;

/* Data and padding of one packet. Without a limit, 32 bytes could make a file of 4 GiB. */
#define TF_INTAKE_PACKET_SIZE_MAX (1u << 30)
/* Connections with so many reports that nobody took wait until somebody does. */
#define TF_INTAKE_REPORTS_PER_CONNECTION 256

enum tf_intake_framing {
	TF_INTAKE_LTTNG = 1, /* lttng-relayd's data connection: 32-byte headers, no answers */
	TF_INTAKE_FLEET = 2, /* acknowledged: 128-byte headers with the index entry, see fleet_frame.h */
	/*
	 * lttng-relayd's control connection, of minor 8 or later, which the caller lends: index entries of streams of
	 * @group (see tf_intake_join()) are answered here, everything else goes back to the caller, with the connection.
	 * Its descriptor stays the caller's, who calls tf_intake_close() before it closes it.
	 */
	TF_INTAKE_CONTROL = 3,
};

enum tf_intake_report_kind {
	TF_INTAKE_PACKET = 1, /* it is in the file, padding included; reported in order of a connection */
	TF_INTAKE_HOLD = 2,   /* the packet of that header waits, for the reason given */
	TF_INTAKE_CLOSED = 3, /* nothing more will be read; tf_intake_close() gives the descriptor back */
	TF_INTAKE_BEACON = 4, /* FLEET: nothing happened in the stream up to timestamp_end; all before net_seq is there */
	TF_INTAKE_ENTRY = 5,  /* as PACKET, and its index entry is in the index file: see tf_intake_join() */
	TF_INTAKE_INDEX = 6,  /* an index entry whose packet did not come; whoever hears of it joins them */
};

enum tf_intake_hold_reason {
	TF_INTAKE_UNKNOWN_STREAM = 1, /* never given a target, or removed */
	TF_INTAKE_NO_FILE = 2,	      /* revoked; set the file again, also in the middle of a packet */
	TF_INTAKE_FILE_FULL = 3,      /* size_limit; the next target takes this packet whatever its size */
	TF_INTAKE_STOPPED = 4,	      /* net_seq >= stop_net_seq */
	TF_INTAKE_STREAM_BUSY = 5,    /* another connection is in the middle of a packet of this stream */
	TF_INTAKE_FOREIGN_STREAM = 6, /* its group is not that of the connection's first packet */
	TF_INTAKE_WRITE_FAILED = 7,   /* error says why; what arrived is kept, and tf_intake_resume() tries again */
	TF_INTAKE_COMMAND = 8,	      /* CONTROL: it is the caller's turn, see tf_intake_take_back() */
};

struct tf_intake_report {
	int32_t kind;
	int32_t reason; /* HOLD */
	int32_t error;	/* positive errno. CLOSED: 0 for the end between two packets, ENODATA for one within a
			   packet, EMSGSIZE or EBADMSG for a bad header, ENOENT when the stream was removed within
			   a packet, otherwise what the socket said */
	int32_t reserved;
	uint64_t token;
	uint64_t handle, net_seq; /* PACKET, HOLD, BEACON, ENTRY, INDEX */
	uint64_t offset;	  /* PACKET, ENTRY: of the packet in its file, bytes */
	uint32_t data_size, padding_size;
	/* PACKET with FLEET framing, ENTRY, INDEX: what the index entry says; BEACON: the first two. Otherwise 0. */
	uint64_t timestamp_end, stream_class_id;
	uint64_t events_discarded, packet_seq_num;
	/* ENTRY, INDEX: the rest of it */
	uint64_t packet_size, content_size, timestamp_begin, stream_instance_id;
};

/* A report of what needs no attention at once may wait so long until tf_intake_fd() is readable. */
#define TF_INTAKE_REPORT_DELAY_MS 5

#define TF_INTAKE_KEEP_OFFSET UINT64_MAX
#define TF_INTAKE_NO_STOP UINT64_MAX

struct tf_intake_target {
	int fd;		       /* regular file, readable and writable */
	uint64_t offset;       /* of the next packet, or of the one under way; bytes behind it are cut.
				  TF_INTAKE_KEEP_OFFSET: the same file as before (revoked or not), where it was */
	uint64_t size_limit;   /* offset + data_size beyond it: FILE_FULL; 0: none */
	uint64_t stop_net_seq; /* packets from that number on are STOPPED; TF_INTAKE_NO_STOP */
	uint64_t group;	       /* a connection serves streams of one group (session); 0: any connection may */
	/* FLEET framing only */
	int index_fd;		/* readable and writable; -1: none */
	bool is_synced;		/* acknowledge what is on the device, not what is written */
	uint64_t index_offset;	/* of the next entry; as offset above */
	uint64_t next_sequence; /* of a new stream; TF_INTAKE_KEEP_OFFSET: as before, or 0. What is below it was synced */
};

struct tf_intake_books { /* of one stream, from its first target on */
	uint64_t packet_count;
	uint64_t data_bytes, padding_bytes;
	uint64_t cut_count;	  /* packets whose connection ended in the middle, or corrupt; nothing is left of them */
	uint64_t duplicate_count; /* FLEET: acknowledged again, and thrown away */
	uint64_t offset;	  /* of the next packet in the current file */
	uint64_t received_bytes;  /* of the packet under way */
	bool is_under_way;
};

/* @thread_count 0: as many as the machine has processors, 2 to 4. */
int tf_intake_create(int thread_count, struct tf_intake **out);

/* Ends the threads, then closes all connections and files. Packets under way are cut. */
void tf_intake_free(struct tf_intake *intake);

/* Readable when reports should be taken, or after a wake. It stays the intake's. */
int tf_intake_fd(const struct tf_intake *intake);

/*
 * Take reports: wait until tf_intake_fd() is readable, tf_intake_wake() was called, or @timeout_ms (negative: for ever) is
 * over. Returns how many it put into @reports.
 */
int tf_intake_wait(struct tf_intake *intake, int timeout_ms, struct tf_intake_report *reports, size_t capacity);
void tf_intake_wake(struct tf_intake *intake);

/*
 * Read the stream socket @fd from now on; it is the intake's on success. @group: of its streams; 0: that of the first
 * packet's. -EEXIST: a token in use.
 */
int tf_intake_add(struct tf_intake *intake, int fd, uint64_t token, int framing, uint64_t group);

/*
 * Close the connection, also one that was reported CLOSED, and cut its packet under way from the file;
 * synchronously: then no thread touches it. Reports that are queued stay. -ENOENT: no such token.
 */
int tf_intake_close(struct tf_intake *intake, uint64_t token);

/* Try the packet again that held the connection. Does nothing to a connection that is not held. */
int tf_intake_resume(struct tf_intake *intake, uint64_t token);

/*
 * Give the stream (new or known) its file; synchronously. The descriptors are the intake's on success, the
 * former ones are closed. Held connections wait for their resume.
 *
 * A packet under way goes along: in the same file it goes on (@offset is where it began); into another file
 * what has arrived of it is moved, and cut from the former.
 *
 * To move on without a race: tf_intake_set_stop(), take all reports, set the target. -ESTALE: another file than
 * the one whose offset is to be kept, or another offset in the same file; -EINVAL: an offset behind the end of
 * the file, or a file that is not regular; -EBADF: a packet is under way in a former file that is revoked: set
 * that first; -EIO: a sync failed, so nobody knows what the device has: the stream is held with WRITE_FAILED until
 * it is removed, and can begin anew with what its files are found to hold; or what copying gave.
 */
int tf_intake_set_target(struct tf_intake *intake, uint64_t handle, const struct tf_intake_target *target);

struct tf_intake_index {
	int fd;		      /* for reading and writing, or -1: the stream has no packets yet, so only beacons are answered */
	uint64_t offset;      /* of the next entry, in format 1.1 */
	uint64_t data_offset; /* behind the last packet that the caller heard of */
};

/*
 * For a stream of LTTng's protocol, from now on: write the index entry of a packet as soon as its data and its SEND_INDEX
 * are both here, and report ENTRY instead of PACKET. The caller has no half that waits for its other one.
 *
 * Whenever something is out of order (a half that comes twice, too many halves, a write that fails), and with
 * tf_intake_set_stop(), tf_intake_unjoin(), or another file, that ends: halves are reported as PACKET and INDEX in the order
 * in which they came, packets and index entries are the caller's again, and the descriptor is closed.
 * The descriptor is the intake's on success. -ESTALE: packets arrived meanwhile, it is joined already, or there is a stop
 * number; -ENOENT
 */
int tf_intake_join(struct tf_intake *intake, uint64_t handle, const struct tf_intake_index *index);
int tf_intake_unjoin(struct tf_intake *intake, uint64_t handle); /* synchronously. -ENOENT */

/* More than a connection with CONTROL framing gives back. */
#define TF_INTAKE_BACK_SIZE_MAX (32 << 10)

/*
 * Of a connection that holds with COMMAND: *@reply_size bytes that the peer has to get before any other, then what came from
 * it and was not dealt with. Returns how many into @bytes, all in all. -EBUSY: it does not hold so; -ENOENT
 */
int tf_intake_take_back(struct tf_intake *intake, uint64_t token, uint8_t bytes[TF_INTAKE_BACK_SIZE_MAX], size_t *reply_size);

/* Packets from that number on hold; synchronously. 1: a packet is under way, which will be finished. -ENOENT */
int tf_intake_set_stop(struct tf_intake *intake, uint64_t handle, uint64_t stop_net_seq);

/* Close the descriptors of the target synchronously; what comes next for it holds with NO_FILE. -ENOENT */
int tf_intake_revoke(struct tf_intake *intake, uint64_t handle);

/* Forget the stream; synchronously. A connection that is in the middle of a packet of it closes. -ENOENT */
int tf_intake_remove(struct tf_intake *intake, uint64_t handle);

/* -ENOENT: no such stream. */
int tf_intake_books(struct tf_intake *intake, uint64_t handle, struct tf_intake_books *books);

#endif
