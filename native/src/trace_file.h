#ifndef TF_SRC_TRACE_FILE_H
#define TF_SRC_TRACE_FILE_H

/*
 * The data and index files of one stream: `<channel>_<cpu>` and `index/<channel>_<cpu>.idx`, or with a size
 * limit `<channel>_<cpu>_<n>`, n from 0. An index entry is written after its packet, so whoever reads the
 * index finds the packet. After a failed write the files hold whole packets only.
 *
 * Packets go straight from where they are to the device (direct I/O). The page cache takes them when the file
 * system has no direct I/O; when a write is too small for the device to be worth the trip; and when the ring
 * buffer is about to overflow and the device was found to be slow: memory is faster then, for as long as there
 * is some. What the page cache holds of one stream is bounded.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct tf_output;

#define TF_INDEX_ENTRY_SIZE 72
#define TF_PACKETS_PER_WRITE 64

struct tf_packet {
	const uint8_t *bytes;
	size_t size;
	uint64_t content_size_bits;
	uint64_t timestamp_begin, timestamp_end;
	uint64_t events_discarded;
	uint64_t sequence_number;
};

struct tf_trace_file {
	struct tf_output *output; /* borrowed */
	const char *channel_name; /* borrowed */
	uint32_t cpu;
	uint32_t stream_id;
	uint64_t size_limit;  /* 0: none */
	uint64_t count_limit; /* 0: none; otherwise the oldest file makes room */
	uint64_t number;
	int data_fd;
	int index_fd;
	off_t data_size;
	off_t index_size;
	bool has_direct;     /* the file system can */
	bool is_direct;	     /* the descriptor is set so now */
	uint64_t direct_us_per_mib; /* what direct writes took lately; 0: not known */
	off_t cached_begin;  /* from here on the page cache may hold what the device does not */
	off_t started_end;   /* up to here it was told to write to the device */
	size_t cached_size;  /* how much of that went through the page cache */
	uint64_t cached_at_ms; /* when the latest of it did */
};

/* Make the first pair of files. Returns 0 or a negative errno; on an error there is nothing to close. */
int tf_trace_file_open(struct tf_trace_file *file, struct tf_output *output, const char *channel_name, uint32_t cpu,
		       uint32_t stream_id, uint64_t size_limit, uint64_t count_limit);
void tf_trace_file_close(struct tf_trace_file *file);

/*
 * Write the first of @count (1 … TF_PACKETS_PER_WRITE) packets, as many as belong in one file and arrive whole.
 * @is_urgent: rather quickly than cheaply. Returns how many are in the file with their index entries, at least
 * one, or a negative errno.
 */
int tf_trace_file_write(struct tf_trace_file *file, const struct tf_packet *packets, int count, bool is_urgent);

#endif
