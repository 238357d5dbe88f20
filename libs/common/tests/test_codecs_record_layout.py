"""Every kind of field in a record layout, and what no layout can say."""

from __future__ import annotations

import struct

import msgspec
import pytest

from tracefleet_common.codecs.record_layout import record_layout
from tracefleet_common.model.ctf_types import (
    NATIVE_BYTE_ORDER,
    ArrayType,
    ByteOrder,
    EnumType,
    Field,
    FieldType,
    FloatType,
    IntegerType,
    LegacySequenceType,
    SequenceType,
    StringType,
    StructType,
    VariantType,
)

U8 = IntegerType(size_bits=8, is_signed=False)
U12 = IntegerType(size_bits=12, is_signed=False)
U24 = IntegerType(size_bits=24, is_signed=False)
U32 = IntegerType(size_bits=32, is_signed=False)
S64 = IntegerType(size_bits=64, is_signed=True)
NETWORK_U16 = IntegerType(size_bits=16, is_signed=False, is_reversed_byte_order=True)
ALIGNED_U32 = IntegerType(size_bits=32, is_signed=False, alignment_bits=32)
DOUBLE = FloatType(exponent_bits=11, mantissa_bits=53)
IS_BIG_ENDIAN = NATIVE_BYTE_ORDER is ByteOrder.BIG


def fixed(size_bytes: int) -> bytes:
    return struct.pack("<BI", 1, size_bytes)


def sequence(length_size_bytes: int, is_big_endian: bool, element_size_bytes: int) -> bytes:
    return struct.pack("<BBBI", 3, length_size_bytes, is_big_endian, element_size_bytes)


def layout(*types: FieldType) -> bytes | None:
    """Of fields called f0, f1, …"""
    return record_layout([Field(f"f{index}", field_type) for index, field_type in enumerate(types)])


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ((), b""),
        ((U32,), fixed(4)),
        ((NETWORK_U16,), fixed(2)),
        ((DOUBLE,), fixed(8)),
        ((FloatType(exponent_bits=128, mantissa_bits=0),), fixed(16)),
        ((EnumType(name="e", enum_id=1, container=U8),), fixed(1)),
        ((ArrayType(length=5, element=U32),), fixed(20)),
        ((ArrayType(length=0, element=U32),), b""),
        ((ArrayType(length=3, alignment_bytes=1, element=U8),), fixed(3)),
        ((StructType(),), b""),
        ((StringType(),), b"\x02"),
        ((StringType(), StringType()), b"\x02\x02"),
        ((U8, U32, DOUBLE, StructType(), S64), fixed(21)),
        ((U8, U32, StringType(), S64, U8), fixed(5) + b"\x02" + fixed(9)),
        ((U32, SequenceType(length_name="f0", element=S64)), sequence(4, IS_BIG_ENDIAN, 8)),
        ((NETWORK_U16, SequenceType(length_name="f0", element=U8)), sequence(2, not IS_BIG_ENDIAN, 1)),
        (
            (U8, S64, SequenceType(length_name="f1", alignment_bytes=1, element=U8), U32),
            fixed(1) + sequence(8, IS_BIG_ENDIAN, 1) + fixed(4),
        ),
        ((U8, LegacySequenceType(length=U32, element=U8)), fixed(1) + sequence(4, IS_BIG_ENDIAN, 1)),
    ],
)
def test_fields_that_a_layout_can_say(types: tuple[FieldType, ...], expected: bytes) -> None:
    assert layout(*types) == expected


@pytest.mark.parametrize(
    "types",
    [
        (VariantType(tag_name="f", choices=(Field("a", U8),)),),
        (StructType(fields=(Field("a", U8),)),),
        (StructType(alignment_bytes=4),),
        (U12,),
        (FloatType(exponent_bits=8, mantissa_bits=23),),
        (EnumType(name="e", enum_id=1, container=U12),),
        (ArrayType(length=2, element=U12),),
        (U32, SequenceType(length_name="f0", element=U12)),
        (LegacySequenceType(length=U32, element=U12),),
        (LegacySequenceType(length=U24, element=U8),),
        (ALIGNED_U32,),
        (msgspec.structs.replace(DOUBLE, alignment_bits=64),),
        (ArrayType(length=2, element=ALIGNED_U32),),
        (ArrayType(length=2, alignment_bytes=4, element=U8),),
        (U32, SequenceType(length_name="f0", alignment_bytes=4, element=U8)),
        (LegacySequenceType(length=ALIGNED_U32, element=U8),),
        (SequenceType(length_name="f0", element=U8),),
        (U32, U32, SequenceType(length_name="f0", element=U8)),
        (DOUBLE, SequenceType(length_name="f0", element=U8)),
        (U32, SequenceType(length_name="f0", element=U8), SequenceType(length_name="f0", element=U8)),
        (*(ArrayType(length=1 << 24, element=S64) for _ in range(33)),),
        (*(ArrayType(length=1 << 24, element=S64) for _ in range(33)), StringType()),
    ],
)
def test_fields_that_no_layout_can_say(types: tuple[FieldType, ...]) -> None:
    assert layout(*types) is None
