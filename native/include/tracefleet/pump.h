#ifndef TRACEFLEET_PUMP_H
#define TRACEFLEET_PUMP_H

/*
 * Reads any number of channels: a few threads of its own wait for sub-buffers to become ready and write them,
 * run the channels' switch and read timers, and retry writes that failed. What somebody should know about
 * comes out as reports.
 */

#include <stddef.h>
#include <stdint.h>

struct tf_channel;
struct tf_pump;

/* A complete sub-buffer that stays unreadable for so long is reported. */
#define TF_JAM_MS 200

enum tf_report_kind {
	TF_REPORT_JAMMED = 1,	      /* a sub-buffer waits for a record whose writer is dead, or stopped */
	TF_REPORT_WRITE_FAILED = 2,   /* its packets stay in the buffer, and are tried again and again */
	TF_REPORT_WRITE_RECOVERED = 3,
	TF_REPORT_HUNG_UP = 4,	      /* nobody else holds the channel any more; cpu is -1 */
	TF_REPORT_BROKEN = 5,	      /* an application damaged the shared memory; the stream is given up */
};

struct tf_report {
	int32_t kind;
	int32_t cpu;
	uint64_t token;
	int32_t error; /* positive errno, or 0 */
};

int tf_pump_create(struct tf_pump **out);

/* @token is the caller's, and returns in reports. The pump and the channel know each other until the remove. */
int tf_pump_add(struct tf_pump *pump, struct tf_channel *channel, uint64_t token);

/* After it no thread of the pump touches the channel. -ENOENT when it was not there. */
int tf_pump_remove(struct tf_pump *pump, struct tf_channel *channel);

/*
 * Wait for reports: until there is one, tf_pump_wake() was called, or @timeout_ms (negative: for ever) is over.
 * Returns how many it put into @reports.
 */
int tf_pump_wait(struct tf_pump *pump, int timeout_ms, struct tf_report *reports, size_t capacity);
void tf_pump_wake(struct tf_pump *pump);

/* Ends the threads. The channels are the caller's to remove first. */
void tf_pump_free(struct tf_pump *pump);

#endif
