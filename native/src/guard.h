#ifndef TF_SRC_GUARD_H
#define TF_SRC_GUARD_H

#include <stddef.h>

/*
 * An application owns the descriptors of the buffers it writes to, so it can truncate them under us; touching
 * what is gone raises SIGBUS. Whatever reads or writes shared memory, through the library or not, therefore
 * runs as a function under this guard.
 *
 * Returns what @function returns, or TF_GUARD_TRIPPED when it touched missing memory within
 * [@begin, @begin + @size), or the library did in its own mapping: then it was left where it stood, so it must
 * not hold a lock of its own.
 */
#define TF_GUARD_TRIPPED (-100000)

int tf_guarded(int (*function)(void *argument), void *argument, const void *begin, size_t size);

/* Install the handler of SIGBUS. Once per process, before the first guard. Returns 0 or a negative errno. */
int tf_guard_install(void);

#endif
