"""Field types of a CTF 1.8 trace, as a tracer describes them.

All frozen and hashable: two programs that describe an event or an enumeration alike share one id in a trace,
so these values are the keys by which "alike" is decided. A name here is the one the program gave, without the
leading underscore that the metadata text adds.
"""

from __future__ import annotations

import sys
from enum import Enum, IntEnum

import msgspec


class ByteOrder(Enum):
    """Byte order of a trace; the values are TSDL's words."""

    LITTLE = "le"
    BIG = "be"


NATIVE_BYTE_ORDER = ByteOrder.LITTLE if sys.byteorder == "little" else ByteOrder.BIG


class Encoding(IntEnum):
    """What the integers of an array, or the bytes of a string, mean to a reader."""

    NONE = 0
    UTF8 = 1
    ASCII = 2


class HeaderType(IntEnum):
    """Shape of the event record headers of a channel; the values are those of the notify socket."""

    COMPACT = 1
    LARGE = 2


class Alignments(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """How a program's tracer aligns its integers, in bits. 8 everywhere: packed, as on x86."""

    uint8_bits: int = 8
    uint16_bits: int = 8
    uint32_bits: int = 8
    uint64_bits: int = 8
    long_bits: int = 8


class IntegerType(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="integer"):
    """`is_reversed_byte_order`: not the trace's order (network order on a little-endian machine)."""

    size_bits: int
    is_signed: bool
    is_reversed_byte_order: bool = False
    base: int = 10  # 2, 8, 10 or 16: how a reader shows it
    encoding: Encoding = Encoding.NONE
    alignment_bits: int = 8


class FloatType(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="float"):
    """The sign bit counts as mantissa: 8 + 24 is a C float, 11 + 53 a double.

    Programs describe a long double as 128 + 0: only the sum, its size, is right then.
    """

    exponent_bits: int
    mantissa_bits: int
    is_reversed_byte_order: bool = False
    alignment_bits: int = 8


class StringType(msgspec.Struct, frozen=True, gc=False, tag="string"):
    """NUL-terminated text."""

    encoding: Encoding = Encoding.UTF8


class EnumType(msgspec.Struct, frozen=True, kw_only=True, gc=False, tag="enum"):
    """`name` is for identity only; `enum_id` is the one the session daemon gave to its mappings."""

    name: str
    enum_id: int
    container: IntegerType


class ArrayType(msgspec.Struct, frozen=True, kw_only=True, tag="array"):
    """`alignment_bytes`: padding before the first element; 0 for none."""

    length: int
    alignment_bytes: int = 0
    element: IntegerType


class SequenceType(msgspec.Struct, frozen=True, kw_only=True, tag="sequence"):
    """An array whose length is the value of an earlier field, `length_name`."""

    length_name: str
    alignment_bytes: int = 0
    element: IntegerType


class LegacySequenceType(msgspec.Struct, frozen=True, kw_only=True, tag="legacy-sequence"):
    """A sequence that brings its length with it, as programs before liblttng-ust 2.13 describe it."""

    length: IntegerType
    element: IntegerType


class StructType(msgspec.Struct, frozen=True, kw_only=True, tag="struct"):
    """Only empty ones exist in user-space traces: the "none" of an application context."""

    alignment_bytes: int = 0
    fields: tuple[Field, ...] = ()


class VariantType(msgspec.Struct, frozen=True, kw_only=True, tag="variant"):
    """One of `choices`, the one whose name is the label of the enumeration field `tag_name`."""

    tag_name: str
    alignment_bytes: int = 0
    choices: tuple[Field, ...]


FieldType = (
    IntegerType
    | FloatType
    | StringType
    | EnumType
    | ArrayType
    | SequenceType
    | LegacySequenceType
    | StructType
    | VariantType
)


class Field(msgspec.Struct, frozen=True):
    """A named member of an event record, of its context, or of a variant."""

    name: str
    type: FieldType


class EnumEntry(msgspec.Struct, frozen=True, gc=False):
    """A label and the values it stands for, `begin` to `end` inclusive.

    `is_auto`: the value follows from the entry before (its end + 1); `begin` and `end` are then 0.
    """

    label: str
    begin: int
    end: int
    is_auto: bool = False
