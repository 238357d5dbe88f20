/* One tracepoint for each log level, and one that declares none. */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER tf_levels

#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./levels_tp.h"

#if !defined(TF_LEVELS_TP_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define TF_LEVELS_TP_H

#include <lttng/tracepoint.h>

LTTNG_UST_TRACEPOINT_EVENT_CLASS(
	tf_levels, numbered,
	LTTNG_UST_TP_ARGS(long, number_),
	LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(long, number, number_))
)

#define TF_LEVEL_EVENT(name, level)                                                        \
	LTTNG_UST_TRACEPOINT_EVENT_INSTANCE(tf_levels, numbered, tf_levels, name,          \
					    LTTNG_UST_TP_ARGS(long, number_))              \
	LTTNG_UST_TRACEPOINT_LOGLEVEL(tf_levels, name, LTTNG_UST_TRACEPOINT_LOGLEVEL_##level)

TF_LEVEL_EVENT(emerg, EMERG)
TF_LEVEL_EVENT(alert, ALERT)
TF_LEVEL_EVENT(crit, CRIT)
TF_LEVEL_EVENT(err, ERR)
TF_LEVEL_EVENT(warning, WARNING)
TF_LEVEL_EVENT(notice, NOTICE)
TF_LEVEL_EVENT(info, INFO)
TF_LEVEL_EVENT(debug_system, DEBUG_SYSTEM)
TF_LEVEL_EVENT(debug_program, DEBUG_PROGRAM)
TF_LEVEL_EVENT(debug_process, DEBUG_PROCESS)
TF_LEVEL_EVENT(debug_module, DEBUG_MODULE)
TF_LEVEL_EVENT(debug_unit, DEBUG_UNIT)
TF_LEVEL_EVENT(debug_function, DEBUG_FUNCTION)
TF_LEVEL_EVENT(debug_line, DEBUG_LINE)
TF_LEVEL_EVENT(debug, DEBUG)

LTTNG_UST_TRACEPOINT_EVENT_INSTANCE(tf_levels, numbered, tf_levels, undeclared,
				    LTTNG_UST_TP_ARGS(long, number_))

#endif /* TF_LEVELS_TP_H */

#include <lttng/tracepoint-event.h>
