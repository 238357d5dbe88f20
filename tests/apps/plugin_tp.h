/* The tracepoint of the provider that a program loads while it runs. */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER tf_plugin

#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./plugin_tp.h"

#if !defined(TF_PLUGIN_TP_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define TF_PLUGIN_TP_H

#include <lttng/tracepoint.h>

LTTNG_UST_TRACEPOINT_EVENT(
	tf_plugin, numbered,
	LTTNG_UST_TP_ARGS(long, number_),
	LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(long, number, number_))
)

#endif /* TF_PLUGIN_TP_H */

#include <lttng/tracepoint-event.h>
