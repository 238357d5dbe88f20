/* Every type of field that the macros of liblttng-ust can describe. */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER tf_fields

#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "./allfields_tp.h"

#if !defined(TF_ALLFIELDS_TP_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define TF_ALLFIELDS_TP_H

#include <stdint.h>
#include <lttng/tracepoint.h>

/* Values of every size; seed makes each record different. */
#ifndef TF_FIELDS_VALUES
#define TF_FIELDS_VALUES
struct tf_values {
	int8_t s8[4];
	uint8_t u8[4];
	int16_t s16[4];
	uint16_t u16[4];
	int32_t s32[4];
	uint32_t u32[4];
	int64_t s64[4];
	uint64_t u64[4];
	uint16_t net16[4];
	uint32_t net32[4];
	uint64_t net64[4];
	float f32;
	double f64;
	char text[16];
	unsigned int length;
};
#endif

LTTNG_UST_TRACEPOINT_EVENT(
	tf_fields, integers,
	LTTNG_UST_TP_ARGS(const struct tf_values *, v),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_integer(int8_t, s8, v->s8[0])
		lttng_ust_field_integer(uint8_t, u8, v->u8[0])
		lttng_ust_field_integer(int16_t, s16, v->s16[0])
		lttng_ust_field_integer(uint16_t, u16, v->u16[0])
		lttng_ust_field_integer(int32_t, s32, v->s32[0])
		lttng_ust_field_integer(uint32_t, u32, v->u32[0])
		lttng_ust_field_integer(int64_t, s64, v->s64[0])
		lttng_ust_field_integer(uint64_t, u64, v->u64[0])
		lttng_ust_field_integer(char, plain_char, v->text[0])
		lttng_ust_field_integer(_Bool, boolean, v->u8[0] & 1)
		lttng_ust_field_integer(long, slong, v->s64[1])
		lttng_ust_field_integer(unsigned long, ulong_, v->u64[1])
		lttng_ust_field_integer_nowrite(int, unseen, v->s32[0])
		lttng_ust_field_unused(v->u8[0])
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	tf_fields, bases,
	LTTNG_UST_TP_ARGS(const struct tf_values *, v),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_integer_hex(int8_t, s8_hex, v->s8[0])
		lttng_ust_field_integer_hex(uint8_t, u8_hex, v->u8[0])
		lttng_ust_field_integer_hex(int16_t, s16_hex, v->s16[0])
		lttng_ust_field_integer_hex(uint32_t, u32_hex, v->u32[0])
		lttng_ust_field_integer_hex(uint64_t, u64_hex, v->u64[0])
		lttng_ust__field_integer_ext(uint32_t, u32_octal, v->u32[0], LTTNG_UST_BYTE_ORDER, 8, 0)
		lttng_ust__field_integer_ext(uint8_t, u8_binary, v->u8[0], LTTNG_UST_BYTE_ORDER, 2, 0)
		lttng_ust_field_integer_hex(void *, pointer, (void *) (uintptr_t) v->u64[0])
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	tf_fields, network,
	LTTNG_UST_TP_ARGS(const struct tf_values *, v),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_integer_network(uint16_t, net16, v->net16[0])
		lttng_ust_field_integer_network(int32_t, snet32, (int32_t) v->net32[0])
		lttng_ust_field_integer_network(uint32_t, net32, v->net32[0])
		lttng_ust_field_integer_network(uint64_t, net64, v->net64[0])
		lttng_ust_field_integer_network_hex(uint16_t, net16_hex, v->net16[0])
		lttng_ust_field_integer_network_hex(uint32_t, net32_hex, v->net32[0])
		lttng_ust_field_integer_network_hex(uint64_t, net64_hex, v->net64[0])
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	tf_fields, floats,
	LTTNG_UST_TP_ARGS(const struct tf_values *, v),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_float(float, f32, v->f32)
		lttng_ust_field_float(double, f64, v->f64)
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	tf_fields, strings,
	LTTNG_UST_TP_ARGS(const struct tf_values *, v, const char *, empty_, const char *, utf8_),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_string(text, v->text)
		lttng_ust_field_string(empty, empty_)
		lttng_ust_field_string(utf8, utf8_)
		lttng_ust_field_array_text(char, array_text, v->text, 16)
		lttng_ust_field_sequence_text(char, sequence_text, v->text, unsigned int, v->length)
		lttng_ust_field_sequence_text(char, sequence_text_empty, v->text, uint8_t, 0)
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	tf_fields, arrays,
	LTTNG_UST_TP_ARGS(const struct tf_values *, v),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_array(int8_t, a_s8, v->s8, 4)
		lttng_ust_field_array(uint8_t, a_u8, v->u8, 4)
		lttng_ust_field_array(int16_t, a_s16, v->s16, 3)
		lttng_ust_field_array(uint16_t, a_u16, v->u16, 4)
		lttng_ust_field_array(int32_t, a_s32, v->s32, 4)
		lttng_ust_field_array(uint32_t, a_u32, v->u32, 1)
		lttng_ust_field_array(int64_t, a_s64, v->s64, 4)
		lttng_ust_field_array(uint64_t, a_u64, v->u64, 4)
		lttng_ust_field_array_hex(uint32_t, a_hex, v->u32, 4)
		lttng_ust_field_array_network(uint16_t, a_net16, v->net16, 4)
		lttng_ust_field_array_network(uint32_t, a_net32, v->net32, 4)
		lttng_ust_field_array_network_hex(uint64_t, a_net64_hex, v->net64, 4)
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	tf_fields, sequences,
	LTTNG_UST_TP_ARGS(const struct tf_values *, v),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_sequence(int8_t, q_s8, v->s8, uint8_t, v->length % 5)
		lttng_ust_field_sequence(uint8_t, q_u8, v->u8, uint16_t, v->length % 5)
		lttng_ust_field_sequence(int16_t, q_s16, v->s16, uint32_t, v->length % 5)
		lttng_ust_field_sequence(uint16_t, q_u16, v->u16, uint64_t, v->length % 5)
		lttng_ust_field_sequence(int32_t, q_s32, v->s32, size_t, v->length % 5)
		lttng_ust_field_sequence(uint32_t, q_u32, v->u32, unsigned int, v->length % 5)
		lttng_ust_field_sequence(int64_t, q_s64, v->s64, unsigned int, v->length % 5)
		lttng_ust_field_sequence(uint64_t, q_u64, v->u64, unsigned int, v->length % 5)
		lttng_ust_field_sequence_hex(uint32_t, q_hex, v->u32, unsigned int, v->length % 5)
		lttng_ust_field_sequence_network(uint16_t, q_net16, v->net16, unsigned int, v->length % 5)
		lttng_ust_field_sequence_network(uint32_t, q_net32, v->net32, unsigned int, v->length % 5)
		lttng_ust_field_sequence_network_hex(uint64_t, q_net64_hex, v->net64, unsigned int, v->length % 5)
	)
)

LTTNG_UST_TRACEPOINT_ENUM(
	tf_fields, signed_enum,
	LTTNG_UST_TP_ENUM_VALUES(
		lttng_ust_field_enum_value("NEGATIVE", -5)
		lttng_ust_field_enum_auto("AFTER_NEGATIVE")
		lttng_ust_field_enum_value("ZERO", 0)
		lttng_ust_field_enum_auto("ONE")
		lttng_ust_field_enum_range("TEENS", 13, 19)
		lttng_ust_field_enum_auto("TWENTY")
		lttng_ust_field_enum_value("quote \" and back\\slash", 30)
	)
)

LTTNG_UST_TRACEPOINT_ENUM(
	tf_fields, unsigned_enum,
	LTTNG_UST_TP_ENUM_VALUES(
		lttng_ust_field_enum_auto("FIRST")
		lttng_ust_field_enum_auto("SECOND")
		lttng_ust_field_enum_range("LOTS", 100U, 4000000000U)
		lttng_ust_field_enum_value("ALL", 18446744073709551615ULL)
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	tf_fields, enums,
	LTTNG_UST_TP_ARGS(int, value_, unsigned long, unsigned_value_),
	LTTNG_UST_TP_FIELDS(
		lttng_ust_field_enum(tf_fields, signed_enum, int, e_int, value_)
		lttng_ust_field_enum(tf_fields, signed_enum, int8_t, e_s8, (int8_t) value_)
		lttng_ust_field_enum(tf_fields, unsigned_enum, uint8_t, e_u8, (uint8_t) unsigned_value_)
		lttng_ust_field_enum(tf_fields, unsigned_enum, uint64_t, e_u64, unsigned_value_)
	)
)

LTTNG_UST_TRACEPOINT_EVENT(
	tf_fields, fieldless,
	LTTNG_UST_TP_ARGS(),
	LTTNG_UST_TP_FIELDS()
)

LTTNG_UST_TRACEPOINT_EVENT(
	tf_fields, modelled,
	LTTNG_UST_TP_ARGS(const struct tf_values *, v),
	LTTNG_UST_TP_FIELDS(lttng_ust_field_integer(uint32_t, u32, v->u32[0]))
)
LTTNG_UST_TRACEPOINT_LOGLEVEL(tf_fields, modelled, LTTNG_UST_TRACEPOINT_LOGLEVEL_WARNING)
LTTNG_UST_TRACEPOINT_MODEL_EMF_URI(tf_fields, modelled, "http://example.com/model?id=7")

#endif /* TF_ALLFIELDS_TP_H */

#include <lttng/tracepoint-event.h>
