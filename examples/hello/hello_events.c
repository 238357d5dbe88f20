/* The code behind the tracepoints: made by the library from hello_events.h, in one source file of the program. */
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "hello_events.h"
