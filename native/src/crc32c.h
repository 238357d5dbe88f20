#ifndef TF_SRC_CRC32C_H
#define TF_SRC_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* The CRC-32C (Castagnoli) of what @crc is of (0: nothing) and @size more bytes. */
uint32_t tf_crc32c(uint32_t crc, const void *bytes, size_t size);

/* The same, as on processors without an instruction for it. */
uint32_t tf_crc32c_by_tables(uint32_t crc, const void *bytes, size_t size);

#endif
