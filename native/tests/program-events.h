#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER tf_test

#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./program-events.h"

#if !defined(TF_PROGRAM_EVENTS_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define TF_PROGRAM_EVENTS_H

#include <lttng/tracepoint.h>

/* The payload is copied into the record after its place in the ring buffer is reserved. */
LTTNG_UST_TRACEPOINT_EVENT(
	tf_test, number,
	LTTNG_UST_TP_ARGS(uint32_t, writer, uint64_t, number, const uint8_t *, payload, uint32_t, payload_size),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_integer(uint32_t, writer, writer)
		lttng_ust_field_integer(uint64_t, number, number)
		lttng_ust_field_sequence(uint8_t, payload, payload, uint32_t, payload_size)
	)
)

#endif

#include <lttng/tracepoint-event.h>
