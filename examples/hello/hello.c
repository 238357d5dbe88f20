/*
 * hello [COUNT]: says hello COUNT times (20 by default), and prints how many events it emitted.
 *
 * An ordinary program with tracepoints. It knows nothing of who records it: without a session daemon,
 * a tracepoint costs one branch. With one, the library registers the program before main() begins.
 */
#include <stdio.h>
#include <stdlib.h>

#include "hello_events.h"

int main(int argc, char **argv)
{
	static const char *const names[] = {"Ada", "Grace", "Łukasz", "小明", "Zoë"};
	const int count = argc > 1 ? atoi(argv[1]) : 20;
	int history[4] = {0};
	int emitted = 0;

	for (int i = 0; i < count; i++) {
		lttng_ust_tracepoint(hello, greeting, i, names[i % 5], i % 5);
		emitted++;
		history[i % 4] = i;
		if (i % 5 == 4) {
			lttng_ust_tracepoint(hello, temperature, 20.0 + i / 8.0, history, 4);
			emitted++;
		}
	}
	printf("%d\n", emitted);
	return EXIT_SUCCESS;
}
