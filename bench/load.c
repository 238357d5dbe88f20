/*
 * Emits events at a given rate, or as fast as it can, and says how many there were.
 *
 *   load [--threads N] [--seconds S] [--events N] [--rate R] [--payload BYTES] [--until-end-of-input]
 *
 * The rate is of all threads together, in events per second; 0: as fast as they can. It ends when the
 * time is over, all events were emitted, or its standard input ends, whichever was asked for. The one
 * line that it prints is JSON: events emitted, and wall and CPU time of the emitting.
 *
 *   load --idle READY_FD
 *
 * emits nothing: it writes one byte to READY_FD from main(), that is, when the tracer's constructor is
 * done, and ends with its standard input.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "load_events.h"

#define NS_PER_S 1000000000ULL
/* Between two bursts of a paced thread. Short against the time in which the default buffers fill. */
#define TICK_NS 1000000ULL
#define PAYLOAD_BYTES_MAX 65536

struct load {
	unsigned int threads;
	double seconds;
	uint64_t events;
	double rate;
	size_t payload_bytes;
	bool is_until_end_of_input;
	volatile bool is_over;
};

struct worker {
	pthread_t thread;
	const struct load *load;
	uint32_t number;
	uint64_t emitted;
};

static const uint8_t payload[PAYLOAD_BYTES_MAX];

static uint64_t now_ns(clockid_t clock)
{
	struct timespec now;

	clock_gettime(clock, &now);
	return (uint64_t) now.tv_sec * NS_PER_S + (uint64_t) now.tv_nsec;
}

static void emit(const struct load *load, struct worker *worker)
{
	if (load->payload_bytes == 0)
		lttng_ust_tracepoint(bench_load, small, worker->emitted, worker->number);
	else
		lttng_ust_tracepoint(bench_load, large, worker->emitted, payload, load->payload_bytes);
	worker->emitted++;
}

static void *work(void *argument)
{
	struct worker *worker = argument;
	const struct load *load = worker->load;
	const uint64_t begin = now_ns(CLOCK_MONOTONIC);
	const uint64_t end = load->seconds > 0 ? begin + (uint64_t) (load->seconds * NS_PER_S) : UINT64_MAX;
	const double rate_per_ns = load->rate / load->threads / NS_PER_S;
	uint64_t now = begin;

	while (!load->is_over && worker->emitted < load->events && now < end) {
		uint64_t due = worker->emitted + 256;

		if (load->rate > 0)
			due = (uint64_t) ((double) (now - begin) * rate_per_ns);
		if (due > load->events)
			due = load->events;
		while (worker->emitted < due)
			emit(load, worker);
		if (load->rate > 0) {
			const uint64_t next = now + TICK_NS;
			const struct timespec until = {
				.tv_sec = (time_t) (next / NS_PER_S),
				.tv_nsec = (long) (next % NS_PER_S),
			};
			clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL);
		}
		now = now_ns(CLOCK_MONOTONIC);
	}
	return NULL;
}

static void wait_for_end_of_input(void)
{
	char ignored[256];

	while (read(STDIN_FILENO, ignored, sizeof(ignored)) > 0 || errno == EINTR)
		errno = 0;
}

static int idle(int ready_fd)
{
	if (write(ready_fd, "r", 1) != 1)
		return EXIT_FAILURE;
	wait_for_end_of_input();
	return EXIT_SUCCESS;
}

static int run(struct load *load)
{
	struct worker *workers = calloc(load->threads, sizeof(*workers));
	const uint64_t wall_begin = now_ns(CLOCK_MONOTONIC), cpu_begin = now_ns(CLOCK_PROCESS_CPUTIME_ID);
	uint64_t emitted = 0;

	if (!workers)
		return EXIT_FAILURE;
	for (uint32_t i = 0; i < load->threads; i++) {
		workers[i] = (struct worker) {.load = load, .number = i};
		if (pthread_create(&workers[i].thread, NULL, work, &workers[i]) != 0)
			return EXIT_FAILURE;
	}
	if (load->is_until_end_of_input) {
		wait_for_end_of_input();
		load->is_over = true;
	}
	for (uint32_t i = 0; i < load->threads; i++) {
		pthread_join(workers[i].thread, NULL);
		emitted += workers[i].emitted;
	}
	printf("{\"emitted\": %" PRIu64 ", \"wall_s\": %.6f, \"cpu_s\": %.6f}\n", emitted,
	       (double) (now_ns(CLOCK_MONOTONIC) - wall_begin) / NS_PER_S,
	       (double) (now_ns(CLOCK_PROCESS_CPUTIME_ID) - cpu_begin) / NS_PER_S);
	free(workers);
	return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"threads", required_argument, NULL, 't'}, {"seconds", required_argument, NULL, 's'},
		{"events", required_argument, NULL, 'e'},  {"rate", required_argument, NULL, 'r'},
		{"payload", required_argument, NULL, 'p'}, {"until-end-of-input", no_argument, NULL, 'u'},
		{"idle", required_argument, NULL, 'i'},    {NULL, 0, NULL, 0},
	};
	struct load load = {.threads = 1, .events = UINT64_MAX};
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 't': load.threads = (unsigned int) strtoul(optarg, NULL, 10); break;
		case 's': load.seconds = strtod(optarg, NULL); break;
		case 'e': load.events = strtoull(optarg, NULL, 10); break;
		case 'r': load.rate = strtod(optarg, NULL); break;
		case 'p': load.payload_bytes = strtoul(optarg, NULL, 10); break;
		case 'u': load.is_until_end_of_input = true; break;
		case 'i': return idle(atoi(optarg));
		default: return EXIT_FAILURE;
		}
	}
	if (load.threads == 0 || load.payload_bytes > PAYLOAD_BYTES_MAX) {
		fprintf(stderr, "load: at least 1 thread, at most %d bytes of payload\n", PAYLOAD_BYTES_MAX);
		return EXIT_FAILURE;
	}
	return run(&load);
}
