/*
 * An instrumented program that a test leads by the hand.
 *
 *   emit N           N numbered records from this thread
 *   threads T N      N numbered records from each of T new threads
 *   bulky N SIZE     N records with SIZE bytes each
 *   levels N         N records of every log level
 *   cpu C            stay on this CPU
 *   load PATH        dlopen a provider; then `plugin N`: N records of it
 *   fork N           a child emits N numbered records and exits
 *   exec             start this program afresh, same pid
 *   stall            enter a record and stay inside until the line `go`
 *   jam              die inside a record
 *   crash            die by SIGKILL
 *   doomed US T N    as threads, but die by SIGKILL after so many microseconds, wherever that is
 *   exit             return from main
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "command_line.h"

#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "emit_tp.h"
#include "levels_tp.h"

static long next_number;
static unsigned char *guarded_page;
static char bulk[65536];

static void emit_numbered(int thread, long first, long count)
{
	char text[32];

	for (long number = first; number < first + count; number++) {
		snprintf(text, sizeof(text), "record %ld", number);
		lttng_ust_tracepoint(tf_emit, numbered, getpid(), thread, number, text);
	}
}

struct thread_task {
	int thread;
	long count;
};

static void *thread_main(void *argument)
{
	const struct thread_task *task = argument;

	emit_numbered(task->thread, 0, task->count);
	return NULL;
}

static void emit_from_threads(int thread_count, long count)
{
	pthread_t threads[64];
	struct thread_task tasks[64];

	if (thread_count > 64)
		thread_count = 64;
	for (int i = 0; i < thread_count; i++) {
		tasks[i] = (struct thread_task){.thread = i + 1, .count = count};
		if (pthread_create(&threads[i], NULL, thread_main, &tasks[i]) != 0)
			abort();
	}
	for (int i = 0; i < thread_count; i++)
		pthread_join(threads[i], NULL);
	reply("done %ld", thread_count * count);
}

/* By a timer of its own, so that a test that is slow to kill does not get millions of records. */
static void be_killed_after(long us)
{
	struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGKILL};
	const struct itimerspec left = {.it_value = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000}};
	timer_t timer;

	if (timer_create(CLOCK_MONOTONIC, &event, &timer) != 0 || timer_settime(timer, 0, &left, NULL) != 0)
		abort();
}

static void emit_levels(long count)
{
	for (long i = 0; i < count; i++) {
		lttng_ust_tracepoint(tf_levels, emerg, i);
		lttng_ust_tracepoint(tf_levels, alert, i);
		lttng_ust_tracepoint(tf_levels, crit, i);
		lttng_ust_tracepoint(tf_levels, err, i);
		lttng_ust_tracepoint(tf_levels, warning, i);
		lttng_ust_tracepoint(tf_levels, notice, i);
		lttng_ust_tracepoint(tf_levels, info, i);
		lttng_ust_tracepoint(tf_levels, debug_system, i);
		lttng_ust_tracepoint(tf_levels, debug_program, i);
		lttng_ust_tracepoint(tf_levels, debug_process, i);
		lttng_ust_tracepoint(tf_levels, debug_module, i);
		lttng_ust_tracepoint(tf_levels, debug_unit, i);
		lttng_ust_tracepoint(tf_levels, debug_function, i);
		lttng_ust_tracepoint(tf_levels, debug_line, i);
		lttng_ust_tracepoint(tf_levels, debug, i);
		lttng_ust_tracepoint(tf_levels, undeclared, i);
	}
	reply("done %ld", 16 * count);
}

/* Runs inside the record that `stall` began; the copy goes on when it returns. */
static void wait_for_go(int signal_number)
{
	char line[64];

	(void)signal_number;
	reply("stalled");
	if (!read_command(line, sizeof(line)))
		_exit(3);
	mprotect(guarded_page, 4096, PROT_READ);
}

static void emit_from_guarded_page(int is_fatal)
{
	struct sigaction action = {.sa_handler = is_fatal ? SIG_DFL : wait_for_go};

	mprotect(guarded_page, 4096, PROT_NONE);
	sigaction(SIGSEGV, &action, NULL);
	lttng_ust_tracepoint(tf_emit, copied, next_number, guarded_page);
	reply("done 1");
}

static void emit_in_child(long count)
{
	pid_t child = fork();

	if (child == 0) {
		emit_numbered(0, 0, count);
		_exit(0);
	}
	waitpid(child, NULL, 0);
	reply("done %d", (int)child);
}

static void set_cpu(int cpu)
{
	cpu_set_t cpus;

	CPU_ZERO(&cpus);
	CPU_SET(cpu, &cpus);
	if (sched_setaffinity(0, sizeof(cpus), &cpus) != 0)
		reply("error: no such CPU");
	else
		reply("done %d", cpu);
}

int main(int argc, char **argv)
{
	char line[512], path[400];
	void (*plugin_emit)(long count) = NULL;
	long count, size, us;

	(void)argc;
	for (size_t i = 0; i < sizeof(bulk); i++)
		bulk[i] = (char)('a' + i % 26);
	guarded_page = mmap(NULL, 4096, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (guarded_page == MAP_FAILED)
		return 1;
	reply("ready %d", (int)getpid());
	while (read_command(line, sizeof(line))) {
		if (sscanf(line, "emit %ld", &count) == 1) {
			emit_numbered(0, next_number, count);
			next_number += count;
			reply("done %ld", count);
		} else if (sscanf(line, "threads %ld %ld", &size, &count) == 2) {
			emit_from_threads((int)size, count);
		} else if (sscanf(line, "doomed %ld %ld %ld", &us, &size, &count) == 3) {
			be_killed_after(us);
			emit_from_threads((int)size, count);
		} else if (sscanf(line, "bulky %ld %ld", &count, &size) == 2 && size <= (long)sizeof(bulk)) {
			for (long i = 0; i < count; i++)
				lttng_ust_tracepoint(tf_emit, bulky, next_number++, bulk, (size_t)size);
			reply("done %ld", count);
		} else if (sscanf(line, "levels %ld", &count) == 1) {
			emit_levels(count);
		} else if (sscanf(line, "cpu %ld", &count) == 1) {
			set_cpu((int)count);
		} else if (sscanf(line, "load %399s", path) == 1) {
			void *library = dlopen(path, RTLD_NOW);

			*(void **)&plugin_emit = library ? dlsym(library, "tf_plugin_emit") : NULL;
			reply(plugin_emit ? "done 0" : "error: %s", dlerror());
		} else if (sscanf(line, "plugin %ld", &count) == 1 && plugin_emit) {
			plugin_emit(count);
			reply("done %ld", count);
		} else if (sscanf(line, "fork %ld", &count) == 1) {
			emit_in_child(count);
		} else if (strcmp(line, "exec") == 0) {
			execv("/proc/self/exe", argv);
			reply("error: exec failed");
		} else if (strcmp(line, "stall") == 0) {
			emit_from_guarded_page(0);
		} else if (strcmp(line, "jam") == 0) {
			emit_from_guarded_page(1);
		} else if (strcmp(line, "crash") == 0) {
			kill(getpid(), SIGKILL);
		} else if (strcmp(line, "exit") == 0) {
			return 0;
		} else {
			reply("error: unknown command");
		}
	}
	return 0;
}
