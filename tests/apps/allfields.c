/*
 * Emits every tracepoint of tf_fields. `emit N` emits records for the seeds
 * 0 … N-1; the values follow from the seed alone, so that a test can compute
 * them. `odd N` emits N records of a tracepoint whose model URI holds
 * characters that TSDL must escape. `exit` returns from main.
 */
#include <arpa/inet.h>
#include <endian.h>
#include <string.h>

#include "command_line.h"

#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "allfields_tp.h"
#include "odd_tp.h"

/* Element i of seed s is base + 1000003 * s + 257 * i, cut to the size of the type. */
static void fill_values(struct tf_values *v, uint64_t seed)
{
	memset(v, 0, sizeof(*v));
	for (uint64_t i = 0; i < 4; i++) {
		uint64_t value = UINT64_C(0xF1E2D3C4B5A69788) + 1000003 * seed + 257 * i;

		v->s8[i] = (int8_t)value;
		v->u8[i] = (uint8_t)value;
		v->s16[i] = (int16_t)value;
		v->u16[i] = (uint16_t)value;
		v->s32[i] = (int32_t)value;
		v->u32[i] = (uint32_t)value;
		v->s64[i] = (int64_t)value;
		v->u64[i] = value;
		v->net16[i] = htons((uint16_t)value);
		v->net32[i] = htonl((uint32_t)value);
		v->net64[i] = htobe64(value);
	}
	v->f32 = 1.5f + (float)seed;
	v->f64 = -0.1 * (double)(seed + 1);
	snprintf(v->text, sizeof(v->text), "seed %u", (unsigned)seed);
	v->length = (unsigned)strlen(v->text);
}

static void emit_all(uint64_t seed)
{
	static const int signed_values[] = {-5, -4, 0, 1, 13, 16, 19, 20, 30, 99};
	static const unsigned long unsigned_values[] = {0, 1, 100, 200, 4000000000UL, UINT64_MAX, 77};
	struct tf_values v;

	fill_values(&v, seed);
	lttng_ust_tracepoint(tf_fields, integers, &v);
	lttng_ust_tracepoint(tf_fields, bases, &v);
	lttng_ust_tracepoint(tf_fields, network, &v);
	lttng_ust_tracepoint(tf_fields, floats, &v);
	lttng_ust_tracepoint(tf_fields, strings, &v, "", "gr\xc3\xbc\xc3\x9f dich");
	lttng_ust_tracepoint(tf_fields, arrays, &v);
	lttng_ust_tracepoint(tf_fields, sequences, &v);
	lttng_ust_tracepoint(tf_fields, enums, signed_values[seed % 10], unsigned_values[seed % 7]);
	lttng_ust_tracepoint(tf_fields, fieldless);
	lttng_ust_tracepoint(tf_fields, modelled, &v);
}

int main(void)
{
	char line[128];
	unsigned long count;

	reply("ready %d", (int)getpid());
	while (read_command(line, sizeof(line))) {
		if (sscanf(line, "emit %lu", &count) == 1) {
			for (unsigned long seed = 0; seed < count; seed++)
				emit_all(seed);
			reply("done %lu", 10 * count);
		} else if (sscanf(line, "odd %lu", &count) == 1) {
			for (unsigned long i = 0; i < count; i++)
				lttng_ust_tracepoint(tf_odd, quoted, (int)i);
			reply("done %lu", count);
		} else if (strcmp(line, "exit") == 0) {
			return 0;
		} else {
			reply("error: unknown command");
		}
	}
	return 0;
}
