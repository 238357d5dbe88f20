#ifndef TF_SRC_SHARED_MEMORY_H
#define TF_SRC_SHARED_MEMORY_H

#include <stddef.h>
#include <stdint.h>

/*
 * A nameless file in /dev/shm, mode 0600. It has its memory already, @size bytes, in large pages as far as these are at
 * hand: to fill it is three times as quick then. Returns a descriptor or a negative errno.
 */
int tf_shared_memory_open(size_t size);

/* Bytes that /dev/shm can still take. Returns 0 or a negative errno. */
int tf_shared_memory_available(uint64_t *available);

/*
 * Put the memory of @fd into large pages, as far as it fills them: writing it out then costs about a quarter less
 * processor time. Where the kernel does not, it stays as it is. Takes milliseconds, and may wait for every CPU.
 */
void tf_shared_memory_join_pages(int fd, size_t size);

#endif
