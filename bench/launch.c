/*
 * launch N PROGRAM: starts N copies of `PROGRAM --idle FD` together and prints, as JSON, the wall time
 * from the first start until the last has reached its main(). They end with its standard input.
 * In C, because starting 200 processes from a larger program would be most of what is measured.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

static uint64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (uint64_t) now.tv_sec * 1000000000ULL + (uint64_t) now.tv_nsec;
}

int main(int argc, char **argv)
{
	int ready[2];
	char fd_text[16], byte;
	uint64_t begin;

	if (argc != 3 || pipe(ready) != 0) {
		fprintf(stderr, "usage: launch N PROGRAM\n");
		return EXIT_FAILURE;
	}
	const int count = atoi(argv[1]);
	snprintf(fd_text, sizeof(fd_text), "%d", ready[1]);
	char *const arguments[] = {argv[2], "--idle", fd_text, NULL};

	begin = now_ns();
	for (int i = 0; i < count; i++) {
		pid_t pid;

		if (posix_spawn(&pid, argv[2], NULL, NULL, arguments, environ) != 0)
			return EXIT_FAILURE;
	}
	close(ready[1]);
	for (int i = 0; i < count; i++) {
		if (read(ready[0], &byte, 1) != 1)
			return EXIT_FAILURE;
	}
	printf("{\"ready_s\": %.6f}\n", (double) (now_ns() - begin) / 1e9);
	fflush(stdout);
	while (wait(NULL) > 0)
		;
	return EXIT_SUCCESS;
}
