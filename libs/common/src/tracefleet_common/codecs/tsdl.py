"""TSDL, the text of CTF 1.8 metadata, as lttng-tools 2.13.9 writes it for user-space traces.

The text is the same to the byte, with exceptions that make a trace readable which otherwise would not be: names
from programs are escaped in strings, log levels that nobody knows are left out, and `tsdl_fields` lists what
happens to fields.

Source: CTF 1.8.3; lttng-tools 2.13.9, `src/bin/lttng-sessiond/ust-metadata.c`, for layout and order.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final
from uuid import UUID

import msgspec

from tracefleet_common.codecs.tsdl_fields import Enumerations, Scope, escape, identifier
from tracefleet_common.model.ctf_types import NATIVE_BYTE_ORDER, Alignments, ByteOrder, Field, HeaderType
from tracefleet_common.model.event_rules import UST_LOG_LEVELS, BufferOwnership

_LOG_LEVELS: Final = frozenset(UST_LOG_LEVELS.values())  # readers warn about any other
_HEADERS: Final = {
    HeaderType.COMPACT: "struct event_header_compact",
    HeaderType.LARGE: "struct event_header_large",
}


class ClockDescription(msgspec.Struct, frozen=True, kw_only=True):
    """The clock of the event records; wall time in cycles = `offset` + its value."""

    name: str = "monotonic"
    uuid: str | None = None  # the boot id; None: unknown
    description: str = "Monotonic Clock"
    frequency_hz: int = 1_000_000_000
    offset: int  # in cycles


class ProcessDescription(msgspec.Struct, frozen=True, kw_only=True):
    """The only process of a trace whose buffers are per process."""

    tracer_patch_level: int
    pid: int
    name: str
    registration_time: datetime  # aware


class TraceEnvironment(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that the preamble of a trace says. `process` goes with BufferOwnership.PER_PROCESS."""

    trace_uuid: bytes
    bits_per_long: int
    byte_order: ByteOrder = NATIVE_BYTE_ORDER
    alignments: Alignments = Alignments()
    tracer_major: int
    tracer_minor: int
    buffer_ownership: BufferOwnership
    buffer_owner_id: int  # uid or pid
    trace_name: str  # session name; "auto" when it was generated
    creation_time: datetime  # of the session, aware
    hostname: str
    process: ProcessDescription | None = None
    clock: ClockDescription


def trace_preamble(environment: TraceEnvironment) -> str:
    """Return all that comes before the first stream or event: types, trace, environment, clock, headers."""
    return "".join(
        (
            "/* CTF 1.8 */\n\n",
            _integer_aliases(environment),
            _trace_block(environment),
            _environment_block(environment),
            _clock_blocks(environment),
            _PACKET_CONTEXT,
            _event_headers(environment.alignments),
        )
    )


def stream_class(
    channel_id: int,
    header_type: HeaderType,
    context_fields: Sequence[Field],
    enumerations: Enumerations | None = None,
    *,
    byte_order: ByteOrder = NATIVE_BYTE_ORDER,
) -> str:
    """Return the block of one channel. `byte_order` is that of the trace.

    Raises UnsupportedField when a context field refers to an enumeration that is not in `enumerations`.
    """
    lines = [
        "stream {",
        f"\tid = {channel_id};",
        f"\tevent.header := {_HEADERS[header_type]};",
        "\tpacket.context := struct packet_context;",
    ]
    if context_fields:
        lines.append("\tevent.context := struct {")
        lines.extend(Scope(enumerations or {}, byte_order).members(context_fields, "\t\t"))
        lines.append("\t};")
    lines.append("};\n\n")
    return "\n".join(lines)


def event_class(
    *,
    name: str,
    event_id: int,
    channel_id: int,
    log_level: int,
    fields: Sequence[Field],
    model_emf_uri: str | None = None,
    enumerations: Enumerations | None = None,
    byte_order: ByteOrder = NATIVE_BYTE_ORDER,
) -> str:
    """Return the block of one event. `byte_order` is that of the trace. Raises as stream_class()."""
    lines = [
        "event {",
        f'\tname = "{escape(name)}";',
        f"\tid = {event_id};",
        f"\tstream_id = {channel_id};",
    ]
    if log_level in _LOG_LEVELS:
        lines.append(f"\tloglevel = {log_level};")
    if model_emf_uri:  # readers warn about an empty one
        lines.append(f'\tmodel.emf.uri = "{escape(model_emf_uri)}";')
    lines.append("\tfields := struct {")
    lines.extend(Scope(enumerations or {}, byte_order).members(fields, "\t\t"))
    lines.append("\t};\n};\n\n")
    return "\n".join(lines)


# ---- the preamble ----


def _integer_aliases(environment: TraceEnvironment) -> str:
    alignments = environment.alignments
    aliases = (
        (8, alignments.uint8_bits, "uint8_t"),
        (16, alignments.uint16_bits, "uint16_t"),
        (32, alignments.uint32_bits, "uint32_t"),
        (64, alignments.uint64_bits, "uint64_t"),
        (environment.bits_per_long, alignments.long_bits, "unsigned long"),
        (5, 1, "uint5_t"),
        (27, 1, "uint27_t"),
    )
    lines = (
        f"typealias integer {{ size = {size}; align = {align}; signed = false; }} := {name};\n"
        for size, align, name in aliases
    )
    return "".join(lines) + "\n"


def _trace_block(environment: TraceEnvironment) -> str:
    return (
        "trace {\n"
        "\tmajor = 1;\n"
        "\tminor = 8;\n"
        f'\tuuid = "{UUID(bytes=environment.trace_uuid)}";\n'
        f"\tbyte_order = {environment.byte_order.value};\n"
        "\tpacket.header := struct {\n"
        "\t\tuint32_t magic;\n"
        "\t\tuint8_t  uuid[16];\n"
        "\t\tuint32_t stream_id;\n"
        "\t\tuint64_t stream_instance_id;\n"
        "\t};\n"
        "};\n\n"
    )


def _environment_block(environment: TraceEnvironment) -> str:
    entries: list[tuple[str, str | int]] = [
        ("domain", "ust"),
        ("tracer_name", "lttng-ust"),
        ("tracer_major", environment.tracer_major),
        ("tracer_minor", environment.tracer_minor),
        ("tracer_buffering_scheme", environment.buffer_ownership.value),
        ("tracer_buffering_id", environment.buffer_owner_id),
        ("architecture_bit_width", environment.bits_per_long),
        ("trace_name", environment.trace_name),
        ("trace_creation_datetime", _iso_8601(environment.creation_time)),
        ("hostname", environment.hostname),
    ]
    if environment.process is not None:
        entries += [
            ("tracer_patchlevel", environment.process.tracer_patch_level),
            ("vpid", environment.process.pid),
            ("procname", environment.process.name),
            ("vpid_datetime", _iso_8601(environment.process.registration_time)),
        ]
    lines = (
        f'\t{key} = "{escape(value)}";\n' if isinstance(value, str) else f"\t{key} = {value};\n"
        for key, value in entries
    )
    return "env {\n" + "".join(lines) + "};\n\n"


def _clock_blocks(environment: TraceEnvironment) -> str:
    clock = environment.clock
    name = identifier(clock.name)
    uuid = f'\tuuid = "{escape(clock.uuid)}";\n' if clock.uuid else ""
    block = (
        "clock {\n"
        f'\tname = "{name}";\n'
        f"{uuid}"
        f'\tdescription = "{escape(clock.description)}";\n'
        f"\tfreq = {clock.frequency_hz}; /* Frequency, in Hz */\n"
        "\t/* clock value offset from Epoch is: offset * (1/freq) */\n"
        f"\toffset = {clock.offset};\n"
        "};\n\n"
    )
    sizes = ((27, 1), (32, environment.alignments.uint32_bits), (64, environment.alignments.uint64_bits))
    aliases = (
        "typealias integer {\n"
        f"\tsize = {size}; align = {align}; signed = false;\n"
        f"\tmap = clock.{name}.value;\n"
        f"}} := uint{size}_clock_monotonic_t;\n\n"
        for size, align in sizes
    )
    return block + "".join(aliases)


_PACKET_CONTEXT: Final = """\
struct packet_context {
	uint64_clock_monotonic_t timestamp_begin;
	uint64_clock_monotonic_t timestamp_end;
	uint64_t content_size;
	uint64_t packet_size;
	uint64_t packet_seq_num;
	unsigned long events_discarded;
	uint32_t cpu_id;
};

"""


def _event_headers(alignments: Alignments) -> str:
    headers = (
        ("compact", "uint5_t", 30, "uint27_clock_monotonic_t", alignments.uint32_bits),
        ("large", "uint16_t", 65534, "uint32_clock_monotonic_t", alignments.uint16_bits),
    )
    return "".join(
        f"struct event_header_{name} {{\n"
        f"\tenum : {id_type} {{ compact = 0 ... {last_id}, extended = {last_id + 1} }} id;\n"
        "\tvariant <id> {\n"
        "\t\tstruct {\n"
        f"\t\t\t{timestamp_type} timestamp;\n"
        "\t\t} compact;\n"
        "\t\tstruct {\n"
        "\t\t\tuint32_t id;\n"
        "\t\t\tuint64_clock_monotonic_t timestamp;\n"
        "\t\t} extended;\n"
        "\t} v;\n"
        f"}} align({align_bits});\n\n"
        for name, id_type, last_id, timestamp_type, align_bits in headers
    )


def _iso_8601(moment: datetime) -> str:
    return moment.strftime("%Y%m%dT%H%M%S%z")
