#ifndef TF_TESTS_TRACE_H
#define TF_TESTS_TRACE_H

/* A strict reader of the traces that program.c leaves: anything that is not as it must be ends the test. */

#include "session.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define CHECK(condition)                                                                       \
	do {                                                                                   \
		if (!(condition)) {                                                            \
			fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #condition); \
			exit(1);                                                               \
		}                                                                              \
	} while (0)

struct trace {
	uint64_t packet_count;
	uint64_t record_count;
	uint64_t record_counts[16]; /* by writer */
	uint64_t discarded_event_count;
	uint64_t lost_packet_count;
	uint64_t file_count;
};

/*
 * Read all streams of `channel0` in @directory: packets against their index entries, records one by one.
 * @file_limit: file numbers to look for with a file size limit; 0: none.
 */
struct trace read_trace(const char *directory, int file_limit);

/* One stream's worth of set-up, used by every test. */
struct recording {
	struct session session;
	struct tf_output *output;
	struct tf_channel *channel;
	char root[64];
	char directory[96];
};

/* Make a place in /tmp, an output and a channel with @attributes (uuid and name are filled in). */
void recording_open(struct recording *recording, struct tf_channel_attributes attributes);
struct tf_stream_books recording_books(struct recording *recording); /* the sum over the streams */
void recording_close(struct recording *recording);		     /* removes the trace as well */
/* All programs started from now on stay on one CPU: they share one stream. */
void stay_on_one_cpu(void);

#endif
