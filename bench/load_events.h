/* The tracepoints of the load program: one small, one as large as wanted. */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER bench_load

#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./load_events.h"

#if !defined(BENCH_LOAD_EVENTS_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define BENCH_LOAD_EVENTS_H

#include <lttng/tracepoint.h>
#include <stddef.h>
#include <stdint.h>

LTTNG_UST_TRACEPOINT_EVENT(
	bench_load, small,
	LTTNG_UST_TP_ARGS(uint64_t, number, uint32_t, thread),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_integer(uint64_t, number, number)
		lttng_ust_field_integer(uint32_t, thread, thread)
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	bench_load, large,
	LTTNG_UST_TP_ARGS(uint64_t, number, const uint8_t *, payload, size_t, payload_size),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_integer(uint64_t, number, number)
		lttng_ust_field_sequence(uint8_t, payload, payload, uint32_t, payload_size)
	)
)

#endif

#include <lttng/tracepoint-event.h>
