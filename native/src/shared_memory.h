#ifndef TF_SRC_SHARED_MEMORY_H
#define TF_SRC_SHARED_MEMORY_H

#include <stdint.h>

/* An empty nameless file in /dev/shm, mode 0600. Returns a descriptor or a negative errno. */
int tf_shared_memory_open(void);

/* Bytes that /dev/shm can still take. Returns 0 or a negative errno. */
int tf_shared_memory_available(uint64_t *available);

#endif
