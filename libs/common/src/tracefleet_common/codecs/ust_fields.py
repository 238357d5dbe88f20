"""Field descriptions, as a program sends them with its events and channels, and enumeration entries.

A description is an array of 920-byte entries: a name (256 bytes), a type (636 bytes: a tag and a union),
padding. Types with parts (arrays, sequences, enumerations, variants) are followed by the entries of their
parts. Programs with an ABI before 9 put the parts inside instead ("legacy").

Two kinds of errors: RemoteProtocolError when the array itself is broken, UnsupportedField when it is well
made but describes something that a CTF 1.8 reader could not read back.

Source: liblttng-ust 2.13.5, `include/lttng/ust-ctl.h`, `struct lttng_ust_ctl_field` and what it contains.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from functools import lru_cache
from typing import Final

from tracefleet_common.codecs.ust_abi import decode_name
from tracefleet_common.errors import RemoteProtocolError, TracerError
from tracefleet_common.model.ctf_types import (
    ArrayType,
    Encoding,
    EnumEntry,
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

FIELD_SIZE_BYTES: Final = 920
ENUM_ENTRY_SIZE_BYTES: Final = 336
FIELD_COUNT_MAX: Final = 2048  # entries of one description; an application context takes 16
ENUM_ENTRY_COUNT_MAX: Final = 16384
NESTING_DEPTH_MAX: Final = 4  # programs nest one deep (the choices of a variant)
SIZE_BITS_MAX: Final = 1024
ELEMENT_SIZE_BITS_MAX: Final = 64
ARRAY_LENGTH_MAX: Final = 1 << 24  # readers allocate every element of an array before they read one

_INTEGER_SIZE_BYTES = 22
_INTEGER = struct.Struct("=IIIIiH")
_FLOAT = struct.Struct("=IIIH")
_UINT32 = struct.Struct("=I")
_UINT32_PAIR = struct.Struct("=II")
_UINT64 = struct.Struct("=Q")
_INT32 = struct.Struct("=i")
# value, signedness, padding; twice
_ENUM_RANGE = struct.Struct("=QB15xQB15x")
_ENUM_ENTRY_LABEL_OFFSET = 48
_ENUM_ENTRY_OPTIONS_OFFSET = 304
_ENUM_ENTRY_IS_AUTO = 1

# Offsets in an entry. A legacy basic type is a tag and a union of 312 bytes.
_TAG_OFFSET = 256
_UNION_OFFSET = 260
_LEGACY_UNION_OFFSET = 264
_LEGACY_SECOND_OFFSET = _UNION_OFFSET + 316
_ENUM_ID_OFFSET = _UNION_OFFSET + 256
_LEGACY_ENUM_CONTAINER_OFFSET = _UNION_OFFSET + 256
_LEGACY_ENUM_ID_OFFSET = _UNION_OFFSET + 304
_SEQUENCE_ALIGNMENT_OFFSET = _UNION_OFFSET + 256
_VARIANT_TAG_NAME_OFFSET = _UNION_OFFSET + 4
_VARIANT_ALIGNMENT_OFFSET = _UNION_OFFSET + 260


class _Tag(IntEnum):
    INTEGER = 0
    LEGACY_ENUM = 1
    LEGACY_ARRAY = 2
    LEGACY_SEQUENCE = 3
    STRING = 4
    FLOAT = 5
    LEGACY_VARIANT = 6
    LEGACY_STRUCT = 7
    ENUM = 8
    ARRAY = 9
    SEQUENCE = 10
    STRUCT = 11
    VARIANT = 12


class UnsupportedField(TracerError):
    """An event or a context has a field that a CTF 1.8 trace cannot describe."""


def decode_fields(data: bytes) -> tuple[Field, ...]:
    """Decode a whole description. Raises RemoteProtocolError or UnsupportedField.

    Equal descriptions may give the same object: hundreds of programs linked with one provider all send its
    events, and looking a description up takes a tenth of the time of decoding it.
    """
    return _decode_fields_cached(data) if len(data) <= _CACHED_SIZE_BYTES_MAX else _decode_fields(data)


def _decode_fields(data: bytes) -> tuple[Field, ...]:
    count, rest = divmod(len(data), FIELD_SIZE_BYTES)
    if rest or count > FIELD_COUNT_MAX:
        raise RemoteProtocolError(f"Field description has {len(data)} bytes: no array of {FIELD_SIZE_BYTES} each")
    fields = []
    offset = 0
    while offset < len(data):
        field, offset = _decode_field(data, offset, NESTING_DEPTH_MAX)
        fields.append(field)
    _check_references(fields)
    return tuple(fields)


_CACHED_SIZE_BYTES_MAX = 32 * 1024  # with the size of the cache: 16 MiB at most
_decode_fields_cached = lru_cache(maxsize=512)(_decode_fields)


def decode_enum_entries(data: bytes) -> tuple[EnumEntry, ...]:
    """Decode the entries of an enumeration. Raises RemoteProtocolError."""
    count, rest = divmod(len(data), ENUM_ENTRY_SIZE_BYTES)
    if rest or count > ENUM_ENTRY_COUNT_MAX:
        raise RemoteProtocolError(f"Enumeration has {len(data)} bytes: no array of {ENUM_ENTRY_SIZE_BYTES} each")
    return tuple(_decode_enum_entry(data, index * ENUM_ENTRY_SIZE_BYTES) for index in range(count))


def _decode_enum_entry(data: bytes, offset: int) -> EnumEntry:
    label = decode_name(data, offset + _ENUM_ENTRY_LABEL_OFFSET)
    (options,) = _UINT32.unpack_from(data, offset + _ENUM_ENTRY_OPTIONS_OFFSET)
    if options & _ENUM_ENTRY_IS_AUTO:
        return EnumEntry(label, 0, 0, True)
    begin, begin_is_signed, end, end_is_signed = _ENUM_RANGE.unpack_from(data, offset)
    return EnumEntry(label, _signed(begin) if begin_is_signed else begin, _signed(end) if end_is_signed else end)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _decode_field(data: bytes, offset: int, depth_left: int) -> tuple[Field, int]:
    """Return the field that begins at `offset`, and the offset after its last entry."""
    if offset >= len(data):
        raise RemoteProtocolError("Field description ends within a type")
    (tag,) = _UINT32.unpack_from(data, offset + _TAG_OFFSET)
    name = decode_name(data, offset)
    next_offset = offset + FIELD_SIZE_BYTES
    field_type: FieldType
    if tag == _Tag.INTEGER:
        field_type = _decode_integer(data, offset + _UNION_OFFSET)
    elif tag == _Tag.STRING:
        field_type = StringType(_encoding(_INT32.unpack_from(data, offset + _UNION_OFFSET)[0]))
    elif tag == _Tag.FLOAT:
        field_type = _decode_float(data, offset + _UNION_OFFSET)
    elif tag in _PARTED_TYPES:
        field_type, next_offset = _PARTED_TYPES[tag](data, offset, next_offset, depth_left)
    else:
        raise UnsupportedField(f"Field {name!r} has a type this version does not know ({tag})")
    return Field(name, field_type), next_offset


# ---- types without parts ----


def _decode_integer(data: bytes, offset: int) -> IntegerType:
    return _integer(data[offset : offset + _INTEGER_SIZE_BYTES])


@lru_cache(maxsize=1024)
def _integer(raw: bytes) -> IntegerType:
    """Cached because programs use the same few over and over, and keep them: the result is shared."""
    size_bits, is_signed, is_reversed, base, encoding, alignment_bits = _INTEGER.unpack(raw)
    if not 0 < size_bits <= SIZE_BITS_MAX:
        raise UnsupportedField(f"An integer of {size_bits} bits")
    if base not in (2, 8, 10, 16):
        raise UnsupportedField(f"An integer to the base {base}")
    return IntegerType(
        size_bits=size_bits,
        is_signed=bool(is_signed),
        is_reversed_byte_order=bool(is_reversed),
        base=base,
        encoding=_encoding(encoding),
        alignment_bits=_alignment_bits(alignment_bits),
    )


def _decode_float(data: bytes, offset: int) -> FloatType:
    exponent_bits, mantissa_bits, is_reversed, alignment_bits = _FLOAT.unpack_from(data, offset)
    size_bits = exponent_bits + mantissa_bits
    if not 0 < size_bits <= SIZE_BITS_MAX or size_bits % 8:
        raise UnsupportedField(f"A float with {mantissa_bits} bits of mantissa and {exponent_bits} of exponent")
    return FloatType(
        exponent_bits=exponent_bits,
        mantissa_bits=mantissa_bits,
        is_reversed_byte_order=bool(is_reversed),
        alignment_bits=_alignment_bits(alignment_bits),
    )


def _encoding(number: int) -> Encoding:
    if 0 <= number <= Encoding.ASCII:
        return Encoding(number)
    raise UnsupportedField(f"Text in an unknown encoding ({number})")


def _alignment_bits(alignment_bits: int) -> int:
    if alignment_bits < 1 or alignment_bits & (alignment_bits - 1):
        raise UnsupportedField(f"A field aligned to {alignment_bits} bits")
    return alignment_bits


def _alignment_bytes(data: bytes, offset: int) -> int:
    (alignment_bytes,) = _UINT32.unpack_from(data, offset)
    if alignment_bytes & (alignment_bytes - 1) or alignment_bytes > 4096:
        raise UnsupportedField(f"A field aligned to {alignment_bytes} bytes")
    return int(alignment_bytes)


# ---- types with parts: each returns the type and the offset after its last part ----


def _decode_element(data: bytes, offset: int, what: str) -> IntegerType:
    """Decode the nameless entry after an array, a sequence or an enumeration; it must be an integer."""
    if offset >= len(data):
        raise RemoteProtocolError("Field description ends within a type")
    (tag,) = _UINT32.unpack_from(data, offset + _TAG_OFFSET)
    if tag != _Tag.INTEGER:
        raise UnsupportedField(f"{what} of something other than integers (type {tag})")
    return _checked_element(_decode_integer(data, offset + _UNION_OFFSET), what)


def _checked_element(element: IntegerType, what: str) -> IntegerType:
    if element.size_bits > ELEMENT_SIZE_BITS_MAX:
        raise UnsupportedField(f"{what} of integers of {element.size_bits} bits")
    return element


def _array_length(data: bytes, offset: int) -> int:
    (length,) = _UINT32.unpack_from(data, offset)
    if length > ARRAY_LENGTH_MAX:
        raise UnsupportedField(f"An array of {length} elements")
    return int(length)


def _decode_legacy_integer(data: bytes, offset: int, what: str) -> IntegerType:
    """Decode a legacy basic type; it must be an integer."""
    (tag,) = _UINT32.unpack_from(data, offset)
    if tag != _Tag.INTEGER:
        raise UnsupportedField(f"{what} of something other than integers (type {tag})")
    return _checked_element(_decode_integer(data, offset + 4), what)


def _decode_array(data: bytes, offset: int, next_offset: int, depth_left: int) -> tuple[FieldType, int]:
    length = _array_length(data, offset + _UNION_OFFSET)
    element = _decode_element(data, next_offset, "An array")
    alignment_bytes = _alignment_bytes(data, offset + _UNION_OFFSET + 4)
    return (
        ArrayType(length=length, alignment_bytes=alignment_bytes, element=element),
        next_offset + FIELD_SIZE_BYTES,
    )


def _decode_sequence(data: bytes, offset: int, next_offset: int, depth_left: int) -> tuple[FieldType, int]:
    sequence = SequenceType(
        length_name=decode_name(data, offset + _UNION_OFFSET),
        alignment_bytes=_alignment_bytes(data, offset + _SEQUENCE_ALIGNMENT_OFFSET),
        element=_decode_element(data, next_offset, "A sequence"),
    )
    return sequence, next_offset + FIELD_SIZE_BYTES


def _decode_enum(data: bytes, offset: int, next_offset: int, depth_left: int) -> tuple[FieldType, int]:
    enum = EnumType(
        name=decode_name(data, offset + _UNION_OFFSET),
        enum_id=_UINT64.unpack_from(data, offset + _ENUM_ID_OFFSET)[0],
        container=_decode_element(data, next_offset, "An enumeration"),
    )
    return enum, next_offset + FIELD_SIZE_BYTES


def _decode_struct(data: bytes, offset: int, next_offset: int, depth_left: int) -> tuple[FieldType, int]:
    (field_count,) = _UINT32.unpack_from(data, offset + _UNION_OFFSET)
    if field_count:
        raise UnsupportedField(f"A structure with {field_count} fields")
    return StructType(alignment_bytes=_alignment_bytes(data, offset + _UNION_OFFSET + 4)), next_offset


def _decode_legacy_struct(data: bytes, offset: int, next_offset: int, depth_left: int) -> tuple[FieldType, int]:
    (field_count,) = _UINT32.unpack_from(data, offset + _UNION_OFFSET)
    if field_count:
        raise UnsupportedField(f"A structure with {field_count} fields")
    return StructType(), next_offset


def _decode_variant(data: bytes, offset: int, next_offset: int, depth_left: int) -> tuple[FieldType, int]:
    alignment_bytes = _alignment_bytes(data, offset + _VARIANT_ALIGNMENT_OFFSET)
    return _decode_choices(data, offset, next_offset, depth_left, alignment_bytes)


def _decode_legacy_variant(data: bytes, offset: int, next_offset: int, depth_left: int) -> tuple[FieldType, int]:
    return _decode_choices(data, offset, next_offset, depth_left, 0)


def _decode_choices(
    data: bytes, offset: int, next_offset: int, depth_left: int, alignment_bytes: int
) -> tuple[FieldType, int]:
    if not depth_left:
        raise UnsupportedField("Variants nested too deep")
    (choice_count,) = _UINT32.unpack_from(data, offset + _UNION_OFFSET)
    if not choice_count:
        raise UnsupportedField("A variant without choices")
    choices = []
    for _ in range(choice_count):  # ends with the data at the latest
        choice, next_offset = _decode_field(data, next_offset, depth_left - 1)
        choices.append(choice)
    if len({choice.name for choice in choices}) != choice_count:
        raise UnsupportedField("A variant with two choices of the same name")
    _check_references(choices)
    tag_name = decode_name(data, offset + _VARIANT_TAG_NAME_OFFSET)
    return VariantType(tag_name=tag_name, alignment_bytes=alignment_bytes, choices=tuple(choices)), next_offset


def _decode_legacy_enum(data: bytes, offset: int, next_offset: int, depth_left: int) -> tuple[FieldType, int]:
    enum = EnumType(
        name=decode_name(data, offset + _UNION_OFFSET),
        enum_id=_UINT64.unpack_from(data, offset + _LEGACY_ENUM_ID_OFFSET)[0],
        container=_checked_element(_decode_integer(data, offset + _LEGACY_ENUM_CONTAINER_OFFSET), "An enumeration"),
    )
    return enum, next_offset


def _decode_legacy_array(data: bytes, offset: int, next_offset: int, depth_left: int) -> tuple[FieldType, int]:
    length = _array_length(data, offset + _LEGACY_SECOND_OFFSET)
    element = _decode_legacy_integer(data, offset + _UNION_OFFSET, "An array")
    return ArrayType(length=length, element=element), next_offset


def _decode_legacy_sequence(data: bytes, offset: int, next_offset: int, depth_left: int) -> tuple[FieldType, int]:
    length = _decode_legacy_integer(data, offset + _UNION_OFFSET, "A sequence length")
    element = _decode_legacy_integer(data, offset + _LEGACY_SECOND_OFFSET, "A sequence")
    return LegacySequenceType(length=length, element=element), next_offset


_PARTED_TYPES: Final = {
    int(_Tag.LEGACY_ENUM): _decode_legacy_enum,
    int(_Tag.LEGACY_ARRAY): _decode_legacy_array,
    int(_Tag.LEGACY_SEQUENCE): _decode_legacy_sequence,
    int(_Tag.LEGACY_VARIANT): _decode_legacy_variant,
    int(_Tag.LEGACY_STRUCT): _decode_legacy_struct,
    int(_Tag.ENUM): _decode_enum,
    int(_Tag.ARRAY): _decode_array,
    int(_Tag.SEQUENCE): _decode_sequence,
    int(_Tag.STRUCT): _decode_struct,
    int(_Tag.VARIANT): _decode_variant,
}


def _check_references(fields: list[Field]) -> None:
    """Refuse a length or a tag that names no earlier field fit for it: it would make the trace unreadable."""
    earlier: dict[str, FieldType] = {}
    for field in fields:
        if isinstance(field.type, SequenceType):
            length = earlier.get(field.type.length_name)
            if not isinstance(length, IntegerType) or length.size_bits > ELEMENT_SIZE_BITS_MAX:
                raise UnsupportedField(f"Sequence {field.name!r}: no integer {field.type.length_name!r} before it")
        elif isinstance(field.type, VariantType) and not isinstance(earlier.get(field.type.tag_name), EnumType):
            raise UnsupportedField(f"Variant {field.name!r}: its tag {field.type.tag_name!r} is no earlier enumeration")
        earlier[field.name] = field.type
