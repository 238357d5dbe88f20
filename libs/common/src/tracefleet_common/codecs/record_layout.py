"""Record layouts: as much of the field types as it takes to find the end of an event record.

A layout is a row of operations, in the order of the fields; its numbers are little-endian:

- 0x01, u32 size: that many bytes. Neighbours are one operation;
- 0x02: a null-terminated string;
- 0x03, u8 length size, u8 whether the length is big-endian, u32 element size: a sequence, which begins with its
  length, a number of elements.

All sizes are in bytes. Nothing is aligned: fields follow each other without padding.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

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
)

_FIXED: Final = struct.Struct("<BI")
_SEQUENCE: Final = struct.Struct("<BBBI")
_FIXED_CODE: Final = 0x01
_STRING: Final = b"\x02"
_SEQUENCE_CODE: Final = 0x03
_FIXED_SIZE_BYTES_MAX: Final = 2**32 - 1
_LENGTH_SIZES_BITS: Final = (8, 16, 32, 64)


def record_layout(fields: Sequence[Field]) -> bytes | None:
    """Encode the layout of `fields` one after the other; empty for none.

    None when a layout cannot say it: variants, padding, sizes that are no whole bytes, a sequence whose length
    does not stand right before it.
    """
    operations: list[bytes] = []
    fixed_size_bytes = 0  # not among the operations yet
    previous: Field | None = None
    for field in fields:
        size_bytes = _fixed_size_bytes(field.type)
        if size_bytes is not None:
            fixed_size_bytes += size_bytes
        else:
            match field.type:
                case StringType():
                    operation: bytes | None = _STRING
                case SequenceType(length_name=name, element=element) if field.type.alignment_bytes <= 1:
                    if previous is None or previous.name != name or not isinstance(previous.type, IntegerType):
                        return None
                    operation = _sequence(previous.type, element)
                    fixed_size_bytes -= previous.type.size_bits // 8  # the operation has it
                case LegacySequenceType(length=length, element=element):
                    operation = _sequence(length, element)
                case _:
                    return None
            if operation is None or fixed_size_bytes > _FIXED_SIZE_BYTES_MAX:
                return None
            operations += (_fixed(fixed_size_bytes), operation)
            fixed_size_bytes = 0
        previous = field
    if fixed_size_bytes > _FIXED_SIZE_BYTES_MAX:
        return None
    return b"".join((*operations, _fixed(fixed_size_bytes)))


def _fixed_size_bytes(field_type: FieldType) -> int | None:
    """None when the size is not always the same, or a layout cannot say it."""
    match field_type:
        case IntegerType() as integer:
            return _packed_size_bytes(integer.size_bits, integer.alignment_bits)
        case FloatType() as number:
            return _packed_size_bytes(number.exponent_bits + number.mantissa_bits, number.alignment_bits)
        case EnumType(container=container):
            return _fixed_size_bytes(container)
        case ArrayType(length=length, element=element) if field_type.alignment_bytes <= 1:
            element_size_bytes = _fixed_size_bytes(element)
            return None if element_size_bytes is None else length * element_size_bytes
        case StructType(alignment_bytes=alignment_bytes, fields=()) if alignment_bytes <= 1:
            return 0
        case _:
            return None


def _packed_size_bytes(size_bits: int, alignment_bits: int) -> int | None:
    return None if size_bits % 8 or alignment_bits > 8 else size_bits // 8


def _fixed(size_bytes: int) -> bytes:
    return _FIXED.pack(_FIXED_CODE, size_bytes) if size_bytes else b""


def _sequence(length: IntegerType, element: IntegerType) -> bytes | None:
    element_size_bytes = _fixed_size_bytes(element)
    if length.size_bits not in _LENGTH_SIZES_BITS or length.alignment_bits > 8 or element_size_bytes is None:
        return None
    is_big_endian = (NATIVE_BYTE_ORDER is ByteOrder.BIG) != length.is_reversed_byte_order
    return _SEQUENCE.pack(_SEQUENCE_CODE, length.size_bits // 8, is_big_endian, element_size_bytes)
