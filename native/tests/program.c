/*
 * An instrumented program for the tests.
 *
 *     program WRITER COUNT PAYLOAD_SIZE [RATE [END]]
 *
 * emits COUNT event records (RATE a second, 0: as fast as it can), then, if END is
 *     die    dies inside one more record, after its place is reserved
 *     hang   stays inside one more record until SIGCONT, then completes it
 *     wait   waits for the end of standard input
 */
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "program-events.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PAYLOAD_SIZE_MAX 65536

static uint8_t *trap;
static long page_size;

static void on_fault(int signal_number)
{
	(void)signal_number;
	/* Inside the record. The page becomes readable, so that the copy goes on after a SIGCONT. */
	raise(SIGSTOP);
	mprotect(trap, (size_t)page_size, PROT_READ | PROT_WRITE);
}

static void pace(const struct timespec *begin, uint64_t done, double rate)
{
	struct timespec now, pause;
	double ahead;

	clock_gettime(CLOCK_MONOTONIC, &now);
	ahead = (double)done / rate - (double)(now.tv_sec - begin->tv_sec) -
		(double)(now.tv_nsec - begin->tv_nsec) * 1e-9;
	if (ahead < 0.001)
		return;
	pause = (struct timespec){ .tv_sec = (time_t)ahead, .tv_nsec = (long)((ahead - (double)(time_t)ahead) * 1e9) };
	nanosleep(&pause, NULL);
}

int main(int argc, char **argv)
{
	static uint8_t payload[PAYLOAD_SIZE_MAX];
	struct timespec begin;
	uint64_t count;
	uint32_t writer, payload_size;
	double rate;
	const char *end;

	if (argc < 4)
		return 2;
	writer = (uint32_t)atoi(argv[1]);
	count = strtoull(argv[2], NULL, 10);
	payload_size = (uint32_t)atoi(argv[3]);
	rate = argc > 4 ? atof(argv[4]) : 0;
	end = argc > 5 ? argv[5] : "";
	if (payload_size > PAYLOAD_SIZE_MAX)
		return 2;
	memset(payload, 'x', sizeof(payload));
	clock_gettime(CLOCK_MONOTONIC, &begin);
	for (uint64_t i = 0; i < count; i++) {
		lttng_ust_tracepoint(tf_test, number, writer, i, payload, payload_size);
		if (rate > 0 && i % 64 == 63)
			pace(&begin, i, rate);
	}
	if (strcmp(end, "wait") == 0) {
		while (getchar() != EOF)
			;
	} else if (*end != '\0') {
		const struct rlimit no_core = { 0, 0 };

		page_size = sysconf(_SC_PAGESIZE);
		trap = mmap(NULL, (size_t)page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		setrlimit(RLIMIT_CORE, &no_core);
		if (strcmp(end, "hang") == 0)
			signal(SIGSEGV, on_fault);
		lttng_ust_tracepoint(tf_test, number, writer, count, trap, payload_size > 0 ? payload_size : 1);
	}
	return 0;
}
