#include "crc32c.h"

#include <endian.h>
#include <pthread.h>
#include <stdbool.h>
#include <string.h>

#define POLYNOMIAL 0x82f63b78u /* bits reversed */

/* tables[k][byte]: what a byte does to the checksum k bytes later. */
static uint32_t tables[8][256];
static pthread_once_t is_prepared = PTHREAD_ONCE_INIT;
static bool has_instruction;

static void prepare(void)
{
	for (uint32_t byte = 0; byte < 256; byte++) {
		uint32_t crc = byte;

		for (int bit = 0; bit < 8; bit++)
			crc = crc >> 1 ^ (crc & 1 ? POLYNOMIAL : 0);
		tables[0][byte] = crc;
	}
	for (int k = 1; k < 8; k++)
		for (int byte = 0; byte < 256; byte++)
			tables[k][byte] = tables[k - 1][byte] >> 8 ^ tables[0][tables[k - 1][byte] & 0xff];
#if defined(__x86_64__)
	__builtin_cpu_init();
	has_instruction = __builtin_cpu_supports("sse4.2");
#endif
}

static uint64_t load(const uint8_t *bytes)
{
	uint64_t value;

	memcpy(&value, bytes, sizeof(value));
	return value;
}

static uint32_t by_tables(uint32_t crc, const uint8_t *bytes, size_t size)
{
	for (; size >= 8; size -= 8, bytes += 8) {
		const uint64_t value = le64toh(load(bytes)) ^ crc;

		crc = 0;
		for (int k = 0; k < 8; k++)
			crc ^= tables[7 - k][value >> 8 * k & 0xff];
	}
	for (; size > 0; size--, bytes++)
		crc = crc >> 8 ^ tables[0][(crc ^ *bytes) & 0xff];
	return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) static uint32_t by_instruction(uint32_t crc, const uint8_t *bytes, size_t size)
{
	for (; size >= 8; size -= 8, bytes += 8)
		crc = (uint32_t)__builtin_ia32_crc32di(crc, load(bytes));
	for (; size > 0; size--, bytes++)
		crc = __builtin_ia32_crc32qi(crc, *bytes);
	return crc;
}
#else
#define by_instruction by_tables
#endif

uint32_t tf_crc32c_by_tables(uint32_t crc, const void *bytes, size_t size)
{
	pthread_once(&is_prepared, prepare);
	return ~by_tables(~crc, bytes, size);
}

uint32_t tf_crc32c(uint32_t crc, const void *bytes, size_t size)
{
	pthread_once(&is_prepared, prepare);
	return ~(has_instruction ? by_instruction(~crc, bytes, size) : by_tables(~crc, bytes, size));
}
