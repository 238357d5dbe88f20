/* Emits every tracepoint of the provider "odd" once. */
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_DEFINE
#include "odd_tp.h"

int main(void)
{
	static const int values[] = {1, -2, 3};
	static const float floats[] = {1.5f, -2.0f};

	lttng_ust_tracepoint(odd, wide, 1.0L, 258);
	lttng_ust_tracepoint(odd, signed_length, values, 3);
	lttng_ust_tracepoint(odd, same_name, 1, 2);
	lttng_ust_tracepoint(odd, arrays, floats, values);
	lttng_ust_tracepoint(odd, enums, 4);
	lttng_ust_tracepoint(odd, quoted, 42);
	return 0;
}
