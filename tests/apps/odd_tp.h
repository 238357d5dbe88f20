/* A tracepoint that lttng-tools 2.13 cannot describe: it writes the model URI without escapes. */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER tf_odd

#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./odd_tp.h"

#if !defined(TF_ODD_TP_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define TF_ODD_TP_H

#include <lttng/tracepoint.h>

LTTNG_UST_TRACEPOINT_EVENT(
	tf_odd, quoted,
	LTTNG_UST_TP_ARGS(int, number_),
	LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(int, number, number_))
)
LTTNG_UST_TRACEPOINT_MODEL_EMF_URI(tf_odd, quoted, "http://example.com/a\"b\\c")

#endif /* TF_ODD_TP_H */

#include <lttng/tracepoint-event.h>
