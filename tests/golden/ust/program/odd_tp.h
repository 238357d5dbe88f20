/* Fields that the macros of liblttng-ust take, but whose genuine metadata no reader accepts. */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER odd

#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./odd_tp.h"

#if !defined(ODD_TP_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define ODD_TP_H

#include <stdint.h>
#include <lttng/tracepoint.h>

LTTNG_UST_TRACEPOINT_EVENT(
	odd, wide,
	LTTNG_UST_TP_ARGS(long double, number_, __int128, integer_),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_float(long double, number, number_)
		lttng_ust_field_integer(__int128, integer, integer_)
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	odd, signed_length,
	LTTNG_UST_TP_ARGS(const int *, values_, int, length_),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_sequence(int, values, values_, int, length_)
		lttng_ust_field_integer(int, length, length_)
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	odd, same_name,
	LTTNG_UST_TP_ARGS(int, a_, int, b_),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_integer(int, same, a_)
		lttng_ust_field_integer(int, same, b_)
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	odd, arrays,
	LTTNG_UST_TP_ARGS(const float *, floats_, const int *, none_),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_array(float, floats, floats_, 2)
		lttng_ust_field_array(int, none, none_, 0)
		lttng_ust_field_integer(int, after, 7)
	)
)

LTTNG_UST_TRACEPOINT_ENUM(odd, empty, LTTNG_UST_TP_ENUM_VALUES())

LTTNG_UST_TRACEPOINT_ENUM(
	odd, backwards,
	LTTNG_UST_TP_ENUM_VALUES(
		lttng_ust_field_enum_range("BACKWARDS", 5, 3)
		lttng_ust_field_enum_auto("FOUR")
		lttng_ust_field_enum_auto("FIVE")
		lttng_ust_field_enum_value("line\nbreak", 9)
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	odd, enums,
	LTTNG_UST_TP_ARGS(int, value_),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_enum(odd, empty, int, empty, value_)
		lttng_ust_field_enum(odd, backwards, uint8_t, backwards, value_)
		lttng_ust_field_enum(odd, backwards, int, line_break, 9)
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	odd, quoted,
	LTTNG_UST_TP_ARGS(int, number_),
	LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(int, number, number_))
)
LTTNG_UST_TRACEPOINT_MODEL_EMF_URI(odd, quoted, "http://example.com/a\"b\\c")

#endif /* ODD_TP_H */

#include <lttng/tracepoint-event.h>
