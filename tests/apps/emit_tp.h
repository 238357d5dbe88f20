/* Tracepoints of the `emit` program: numbered event records that a test can count one by one. */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER tf_emit

#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./emit_tp.h"

#if !defined(TF_EMIT_TP_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define TF_EMIT_TP_H

#include <lttng/tracepoint.h>

LTTNG_UST_TRACEPOINT_EVENT(
	tf_emit, numbered,
	LTTNG_UST_TP_ARGS(int, pid_, int, thread_, long, number_, const char *, text_),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_integer(int, pid, pid_)
		lttng_ust_field_integer(int, thread, thread_)
		lttng_ust_field_integer(long, number, number_)
		lttng_ust_field_string(text, text_)
	)
)

/* A payload of any size, to fill sub-buffers and disks with few event records. */
LTTNG_UST_TRACEPOINT_EVENT(
	tf_emit, bulky,
	LTTNG_UST_TP_ARGS(long, number_, const char *, text_, size_t, size_),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_integer(long, number, number_)
		lttng_ust_field_sequence_text(char, text, text_, unsigned int, size_)
	)
)

/*
 * The payload is copied from bytes_ after the ring buffer has reserved the
 * record, and its size is not computed from the bytes: when they cannot be
 * read, the writer faults between reserve and commit.
 */
LTTNG_UST_TRACEPOINT_EVENT(
	tf_emit, copied,
	LTTNG_UST_TP_ARGS(long, number_, const unsigned char *, bytes_),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_integer(long, number, number_)
		lttng_ust_field_array(unsigned char, bytes, bytes_, 64)
	)
)

#endif /* TF_EMIT_TP_H */

#include <lttng/tracepoint-event.h>
