/*
 * The tracepoints of the example: what can be recorded, and which fields each event record has.
 * The library reads this file several times, each time with other macros: hence the unusual guards.
 */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER hello

#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./hello_events.h"

#if !defined(HELLO_EVENTS_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define HELLO_EVENTS_H

#include <lttng/tracepoint.h>

/* An enumeration: recorded as a number, read as a name. */
LTTNG_UST_TRACEPOINT_ENUM(
	hello, politeness,
	LTTNG_UST_TP_ENUM_VALUES(
		lttng_ust_field_enum_value("CURT", 0)
		lttng_ust_field_enum_range("CIVIL", 1, 3)
		lttng_ust_field_enum_value("FLOWERY", 4)
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	hello, greeting,
	LTTNG_UST_TP_ARGS(int, number, const char *, name, int, politeness),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_integer(int, number, number)
		lttng_ust_field_string(name, name)
		lttng_ust_field_enum(hello, politeness, int, politeness, politeness)
	)
)
LTTNG_UST_TRACEPOINT_LOGLEVEL(hello, greeting, LTTNG_UST_TRACEPOINT_LOGLEVEL_INFO)

LTTNG_UST_TRACEPOINT_EVENT(
	hello, temperature,
	LTTNG_UST_TP_ARGS(double, celsius, const int *, history, unsigned int, history_length),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_float(double, celsius, celsius)
		lttng_ust_field_sequence(int, history, history, unsigned int, history_length)
	)
)

#endif

#include <lttng/tracepoint-event.h>
