/* A tracepoint provider in a library of its own, for dlopen. */
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "plugin_tp.h"

void tf_plugin_emit(long count)
{
	for (long i = 0; i < count; i++)
		lttng_ust_tracepoint(tf_plugin, numbered, i);
}
