"""Members of structures and variants, in TSDL.

The text is the one of lttng-tools 2.13.9 to the byte, but where readers would refuse it, or crash: names are
reduced to letters, digits and `_`; two fields of one name in one structure are told apart; a sequence length is
unsigned; a range of an enumeration that ends before it begins is left out, and an enumeration without a range is
its container; numbers that readers do not know (a C long double, integers of more than 64 bits) are arrays of
bytes.

Source: CTF 1.8.3; lttng-tools 2.13.9, `src/bin/lttng-sessiond/ust-metadata.c`, for the layout.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Final

import msgspec

from tracefleet_common.codecs.ust_fields import UnsupportedField
from tracefleet_common.model.ctf_types import (
    ArrayType,
    ByteOrder,
    Encoding,
    EnumEntry,
    EnumType,
    Field,
    FloatType,
    IntegerType,
    LegacySequenceType,
    SequenceType,
    StringType,
    StructType,
    VariantType,
)

Enumerations = Mapping[int, tuple[EnumEntry, ...]]  # by the id in EnumType

_ENCODINGS: Final = {Encoding.NONE: "none", Encoding.UTF8: "UTF8", Encoding.ASCII: "ASCII"}
_READABLE_FLOATS: Final = {(8, 24), (11, 53)}
_READABLE_INTEGER_BITS_MAX: Final = 64
_NOT_IDENTIFIER = re.compile(r"[^A-Za-z0-9_]")
_ESCAPES: Final = str.maketrans({'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def escape(text: str) -> str:
    """Return `text` fit to stand between double quotes."""
    return _CONTROL.sub(lambda match: f"\\{ord(match[0]):03o}", text.translate(_ESCAPES))


def identifier(name: str) -> str:
    """Return `name` with `_` for everything that an identifier cannot hold."""
    return name if name.isascii() and name.isidentifier() else _NOT_IDENTIFIER.sub("_", name)


@lru_cache(maxsize=1024)
def _integer(integer: IntegerType, byte_order: ByteOrder) -> str:
    return f"integer {{ {_integer_attributes(integer)}{_order(integer, byte_order)} }}"


def _integer_attributes(integer: IntegerType) -> str:
    return (
        f"size = {integer.size_bits}; align = {integer.alignment_bits}; signed = {int(integer.is_signed)};"
        f" encoding = {_ENCODINGS[integer.encoding]}; base = {integer.base};"
    )


def _order(number: IntegerType | FloatType, byte_order: ByteOrder) -> str:
    if not number.is_reversed_byte_order:
        return ""
    return " byte_order = le;" if byte_order is ByteOrder.BIG else " byte_order = be;"


class Scope:
    """The members of one structure or variant, and the identifiers that they took."""

    def __init__(self, enumerations: Enumerations, byte_order: ByteOrder) -> None:
        self._enumerations = enumerations
        self._byte_order = byte_order
        self._taken: set[str] = set()
        self._identifiers: dict[str, str] = {}  # by field name: the latest of that name
        self._labels: dict[str, set[str]] = {}  # by name of an enumeration field

    def members(self, fields: Sequence[Field], indent: str) -> Iterator[str]:
        """Yield the lines of `fields`, each with `indent` in front."""
        lengths = {field.type.length_name for field in fields if isinstance(field.type, SequenceType)}
        for field in fields:
            # Readers refuse a signed length, but C programs have some; a negative one would be a defect anyway.
            if isinstance(field.type, IntegerType) and field.type.is_signed and field.name in lengths:
                field = msgspec.structs.replace(field, type=_unsigned(field.type))
            for line in self._member(field):
                yield indent + line

    def _claim(self, name: str) -> str:
        """Return an identifier for a member called `name` that no other member of this scope has."""
        claimed = "_" + (identifier(name) or "_")
        while claimed in self._taken:
            claimed += "_"
        # babeltrace2 drops one leading underscore, and then takes a later member of that name for a duplicate:
        # the fields "v_length" after the sequence "v", whose length is "_v_length".
        self._taken |= {claimed, claimed[1:]}
        self._identifiers[name] = claimed
        return claimed

    def _reference(self, name: str) -> str:
        return self._identifiers.get(name, "_" + identifier(name))

    def _padding(self, name: str, alignment_bytes: int) -> Iterator[str]:
        if alignment_bytes:
            yield f"struct {{ }} align({alignment_bytes * 8}) {self._claim(name + '_padding')};"

    def _member(self, field: Field) -> Iterator[str]:
        order = self._byte_order
        match field.type:
            case IntegerType(size_bits=size_bits) as integer if size_bits > _READABLE_INTEGER_BITS_MAX:
                yield self._bytes(field.name, size_bits, integer.alignment_bits)
            case IntegerType() as integer:
                yield f"{_integer(integer, order)} {self._claim(field.name)};"
            case StringType(encoding=encoding):
                ascii_only = " { encoding = ASCII; }" if encoding is Encoding.ASCII else ""
                yield f"string{ascii_only} {self._claim(field.name)};"
            case FloatType() as number:
                yield self._float(field.name, number)
            case ArrayType(length=length, alignment_bytes=alignment_bytes, element=element):
                yield from self._padding(field.name, alignment_bytes)
                yield f"{_integer(element, order)} {self._claim(field.name)}[{length}];"
            case SequenceType(length_name=length_name, alignment_bytes=alignment_bytes, element=element):
                length_identifier = self._reference(length_name)
                yield from self._padding(field.name, alignment_bytes)
                yield f"{_integer(element, order)} {self._claim(field.name)}[ {length_identifier} ];"
            case LegacySequenceType(length=length_type, element=element):
                length_identifier = self._claim(f"_{field.name}_length")
                yield f"{_integer(_unsigned(length_type), order)} {length_identifier};"
                yield f"{_integer(element, order)} {self._claim(field.name)}[ {length_identifier} ];"
            case EnumType() as enum:
                yield from self._enum(field.name, enum)
            case StructType(alignment_bytes=alignment_bytes):
                align = f" align({alignment_bytes * 8})" if alignment_bytes else ""
                yield f"struct {{}}{align} {self._claim(field.name)};"
            case VariantType() as variant:
                yield from self._variant(field.name, variant)

    def _bytes(self, name: str, size_bits: int, alignment_bits: int) -> str:
        octet = IntegerType(size_bits=8, is_signed=False, base=16, alignment_bits=alignment_bits)
        return f"{_integer(octet, self._byte_order)} {self._claim(name)}[{(size_bits + 7) // 8}];"

    def _float(self, name: str, number: FloatType) -> str:
        if (number.exponent_bits, number.mantissa_bits) not in _READABLE_FLOATS:
            return self._bytes(name, number.exponent_bits + number.mantissa_bits, number.alignment_bits)
        return (
            f"floating_point {{ exp_dig = {number.exponent_bits}; mant_dig = {number.mantissa_bits};"
            f" align = {number.alignment_bits};{_order(number, self._byte_order)} }} {self._claim(name)};"
        )

    def _enum(self, name: str, enum: EnumType) -> Iterator[str]:
        entries = self._enumerations.get(enum.enum_id)
        if entries is None:
            raise UnsupportedField(f"Field {name!r} is of an enumeration ({enum.name!r}) that was not registered")
        usable = list(_enum_entries(entries, enum.container))
        if not usable:  # a reader needs at least one
            yield from self._member(Field(name, enum.container))
            return
        yield f"enum : integer {{ {_integer_attributes(enum.container)} }} {{"
        yield from (f"\t{line}" for _, line in usable)
        yield f"}} {self._claim(name)};"
        self._labels[name] = {label for label, _ in usable}

    def _variant(self, name: str, variant: VariantType) -> Iterator[str]:
        tag_identifier = self._reference(variant.tag_name)
        yield from self._padding(name, variant.alignment_bytes)
        yield f"variant <{tag_identifier}> {{"
        scope = Scope(self._enumerations, self._byte_order)
        yield from scope.members(variant.choices, "\t")
        yield f"}} {self._claim(name)};"
        labels = self._labels.get(variant.tag_name, set())
        if not labels.issuperset(scope._reference(choice.name) for choice in variant.choices):  # readers crash
            raise UnsupportedField(f"Variant {name!r} has a choice that its tag {variant.tag_name!r} cannot select")


def _unsigned(integer: IntegerType) -> IntegerType:
    return msgspec.structs.replace(integer, is_signed=False)


def _enum_entries(entries: Sequence[EnumEntry], container: IntegerType) -> Iterator[tuple[str, str]]:
    """Yield label and line of each entry, without the ranges that end before they begin: readers crash on them."""
    following = 0  # the value of an automatic entry
    is_known_to_reader = True  # False after an entry was left out
    for entry in entries:
        label = escape(entry.label)
        if entry.is_auto:
            yield entry.label, f'"{label}",' if is_known_to_reader else f'"{label}" = {following},'
            following += 1
            is_known_to_reader = True
            continue
        following = _as_read(entry.end + 1, container)
        is_known_to_reader = _as_read(entry.begin, container) <= _as_read(entry.end, container)
        if is_known_to_reader:
            value = f"{entry.begin}" if entry.begin == entry.end else f"{entry.begin} ... {entry.end}"
            yield entry.label, f'"{label}" = {value},'


def _as_read(value: int, container: IntegerType) -> int:
    """Return `value` as readers take it: 64 bits with the signedness of the container."""
    value &= (1 << 64) - 1
    return value - (1 << 64) if container.is_signed and value >> 63 else value
