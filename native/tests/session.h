#ifndef TF_TESTS_SESSION_H
#define TF_TESTS_SESSION_H

/*
 * A session daemon for one channel, just enough for tests: it starts real programs, which register with it
 * through the unmodified tracer, gives them the buffers of a channel, and knows the metadata of their events.
 */

#include <tracefleet/channel.h>
#include <tracefleet/output.h>

#include <pthread.h>
#include <stdint.h>
#include <sys/types.h>

#define SESSION_APPS_MAX 16

struct session_app {
	pid_t pid;
	int command, notify;
	int handle;
	int stdin_fd; /* write end */
	pthread_t release;
};

struct session {
	char home[64];
	int listener;
	uint8_t uuid[16];
	struct tf_channel *channel;
	int32_t channel_type;
	uint8_t *channel_data;
	size_t channel_data_size;
	int fds[1 + 2 * 64];
	size_t fd_count;
	int app_count;
	struct session_app apps[SESSION_APPS_MAX];
};

/* All of these exit with 1, and a message, on any failure. */

/* The memory in which metadata is published (see output.h), empty; text is appended and published. */
int metadata_memory_create(void);
void metadata_memory_append(int fd, const char *text, size_t size);

void session_open(struct session *session);
/* Export @channel (made with session->uuid and channel id 0), and keep it for the programs to come. */
void session_use(struct session *session, struct tf_channel *channel);
/* Give @output the metadata of the events that our programs record, through a memory of its own. */
void session_write_metadata(struct session *session, struct tf_output *output);
/* Run @path with @arguments and give it the channel; returns its number when it records, before it emits. */
int session_start(struct session *session, const char *path, char *const arguments[]);
/* Wait for the end of a program; returns its wait status. */
int session_wait(struct session *session, int app);
void session_release(struct session *session); /* the descriptors of the channel */
void session_close(struct session *session);

#endif
