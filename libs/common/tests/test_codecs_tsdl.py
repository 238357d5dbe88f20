"""TSDL against the metadata that the genuine lttng-sessiond wrote for the same program."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from tracefleet_common.codecs import tsdl
from tracefleet_common.codecs.packet import metadata_text
from tracefleet_common.codecs.ust_fields import UnsupportedField
from tracefleet_common.codecs.ust_notify import ChannelNotification, EnumNotification, NotificationParser
from tracefleet_common.codecs.ust_registration import decode_registration
from tracefleet_common.model.ctf_types import (
    Alignments,
    ArrayType,
    ByteOrder,
    Encoding,
    EnumEntry,
    EnumType,
    Field,
    FloatType,
    HeaderType,
    IntegerType,
    LegacySequenceType,
    SequenceType,
    StringType,
    StructType,
    VariantType,
)
from tracefleet_common.model.event_rules import BufferOwnership

GOLDEN = Path(__file__).resolve().parents[3] / "tests/golden/ust"
S8 = IntegerType(size_bits=8, is_signed=True)
U8 = IntegerType(size_bits=8, is_signed=False)
U32 = IntegerType(size_bits=32, is_signed=False)


def dense(sparse: dict[str, Any]) -> bytes:
    data = bytearray(sparse["size"])
    for offset, run in sparse["bytes"].items():
        data[int(offset) : int(offset) + len(run) // 2] = bytes.fromhex(run)
    return bytes(data)


def environment_of(text: str, scheme: str) -> tsdl.TraceEnvironment:
    """The preamble's parameters: what depends on machine and moment comes from the golden text itself."""

    def value(key: str) -> str:
        match = re.search(rf"^\t{key} = (.*?);", text, re.MULTILINE)
        assert match, key
        return match[1].strip('"')

    def moment(key: str) -> datetime:
        return datetime.strptime(value(key), "%Y%m%dT%H%M%S%z")

    registration = decode_registration((GOLDEN / "registration/command.bin").read_bytes())
    process = None
    if scheme == "pid":
        process = tsdl.ProcessDescription(
            tracer_patch_level=5,
            pid=int(value("vpid")),
            name=registration.name,
            registration_time=moment("vpid_datetime"),
        )
    return tsdl.TraceEnvironment(
        trace_uuid=UUID(value("uuid")).bytes,
        bits_per_long=registration.bits_per_long,
        byte_order=registration.byte_order,
        alignments=registration.alignments,
        tracer_major=2,
        tracer_minor=13,
        buffer_ownership=BufferOwnership(scheme),
        buffer_owner_id=int(value("tracer_buffering_id")),
        trace_name="per-user" if scheme == "uid" else 'per-"process"\\quoted',
        creation_time=moment("trace_creation_datetime"),
        hostname=value("hostname"),
        process=process,
        clock=tsdl.ClockDescription(
            uuid=re.findall(r'uuid = "(.*)"', text)[1],
            offset=int(value("offset")),
        ),
    )


def described_by_the_program(session_handle: int) -> str:
    """All streams and events that the program announced for one session, with the ids that the daemon gave."""
    enumerations: dict[int, tuple[EnumEntry, ...]] = {}
    channel_ids = {}
    notifications = []
    for case in sorted(GOLDEN.glob("notify/*.json")):
        messages = json.loads(case.read_text())
        parser = NotificationParser()
        parser.feed(dense(messages["notification"]))
        notification = parser.next()
        assert notification is not None
        reply = dense(messages["reply"])
        given_id = int.from_bytes(reply[8:16] if isinstance(notification, EnumNotification) else reply[8:12], "little")
        if notification.session_handle != session_handle:
            continue
        if isinstance(notification, EnumNotification):
            enumerations[given_id] = notification.entries
            continue
        if isinstance(notification, ChannelNotification):
            channel_ids[notification.channel_handle] = given_id
        notifications.append((notification, given_id))
    blocks = []
    for notification, given_id in notifications:
        if isinstance(notification, ChannelNotification):
            fields = notification.context_fields
            blocks.append(tsdl.stream_class(given_id, HeaderType.LARGE, fields, enumerations))
        else:
            blocks.append(
                tsdl.event_class(
                    name=notification.name,
                    event_id=given_id,
                    channel_id=channel_ids[notification.channel_handle],
                    log_level=notification.log_level,
                    fields=notification.fields,
                    model_emf_uri=notification.model_emf_uri,
                    enumerations=enumerations,
                )
            )
    return "".join(blocks)


def session_handles() -> list[int]:
    handles = []
    for case in sorted(GOLDEN.glob("notify/*.json")):
        handle = int.from_bytes(dense(json.loads(case.read_text())["notification"])[4:8], "little")
        if handle not in handles:
            handles.append(handle)
    return handles


@pytest.mark.parametrize("scheme", ["uid", "pid"])
def test_whole_metadata_is_the_genuine_one(scheme: str) -> None:
    golden = metadata_text((GOLDEN / f"trace-{scheme}/metadata").read_bytes())
    preamble = tsdl.trace_preamble(environment_of(golden, scheme))
    assert golden.startswith(preamble)
    candidates = [preamble + described_by_the_program(handle) for handle in session_handles()]
    assert golden in candidates


def member(field_type: Any, enumerations: Any = None, **options: Any) -> list[str]:
    text = tsdl.stream_class(0, HeaderType.COMPACT, [Field("x", field_type)], enumerations, **options)
    lines = text.splitlines()
    return [line.removeprefix("\t\t") for line in lines[lines.index("\tevent.context := struct {") + 1 : -3]]


@pytest.mark.parametrize(
    ("field_type", "expected"),
    [
        (S8, "integer { size = 8; align = 8; signed = 1; encoding = none; base = 10; } _x;"),
        (
            IntegerType(
                size_bits=32,
                is_signed=False,
                is_reversed_byte_order=True,
                base=16,
                encoding=Encoding.ASCII,
                alignment_bits=32,
            ),
            "integer { size = 32; align = 32; signed = 0; encoding = ASCII; base = 16; byte_order = be; } _x;",
        ),
        (
            IntegerType(size_bits=128, is_signed=True),
            "integer { size = 8; align = 8; signed = 0; encoding = none; base = 16; } _x[16];",
        ),
        (FloatType(exponent_bits=8, mantissa_bits=24), "floating_point { exp_dig = 8; mant_dig = 24; align = 8; } _x;"),
        (
            FloatType(exponent_bits=11, mantissa_bits=53, is_reversed_byte_order=True),
            "floating_point { exp_dig = 11; mant_dig = 53; align = 8; byte_order = be; } _x;",
        ),
        (
            FloatType(exponent_bits=64, mantissa_bits=64),
            "integer { size = 8; align = 8; signed = 0; encoding = none; base = 16; } _x[16];",
        ),
        (StringType(), "string _x;"),
        (StringType(Encoding.NONE), "string _x;"),
        (StringType(Encoding.ASCII), "string { encoding = ASCII; } _x;"),
        (
            ArrayType(length=3, element=S8),
            "integer { size = 8; align = 8; signed = 1; encoding = none; base = 10; } _x[3];",
        ),
        (StructType(), "struct {} _x;"),
        (StructType(alignment_bytes=2), "struct {} align(16) _x;"),
    ],
)
def test_field_of_one_line(field_type: Any, expected: str) -> None:
    assert member(field_type) == [expected]


def test_padding_comes_before_what_it_aligns() -> None:
    assert member(ArrayType(length=3, alignment_bytes=4, element=S8)) == [
        "struct { } align(32) _x_padding;",
        "integer { size = 8; align = 8; signed = 1; encoding = none; base = 10; } _x[3];",
    ]
    assert member(SequenceType(length_name="n", alignment_bytes=1, element=S8)) == [
        "struct { } align(8) _x_padding;",
        "integer { size = 8; align = 8; signed = 1; encoding = none; base = 10; } _x[ _n ];",
    ]


def test_legacy_sequence_brings_its_length() -> None:
    assert member(LegacySequenceType(length=U32, element=U8)) == [
        "integer { size = 32; align = 8; signed = 0; encoding = none; base = 10; } __x_length;",
        "integer { size = 8; align = 8; signed = 0; encoding = none; base = 10; } _x[ __x_length ];",
    ]


def test_byte_order_of_a_big_endian_trace() -> None:
    reversed_integer = IntegerType(size_bits=16, is_signed=False, is_reversed_byte_order=True)
    assert "byte_order = le;" in member(reversed_integer, byte_order=ByteOrder.BIG)[0]


def test_alignments_of_a_tracer_that_is_not_packed() -> None:
    environment = tsdl.TraceEnvironment(
        trace_uuid=bytes(16),
        bits_per_long=32,
        byte_order=ByteOrder.BIG,
        alignments=Alignments(uint8_bits=8, uint16_bits=16, uint32_bits=32, uint64_bits=64, long_bits=32),
        tracer_major=2,
        tracer_minor=13,
        buffer_ownership=BufferOwnership.PER_USER,
        buffer_owner_id=0,
        trace_name='a"b',
        creation_time=datetime.fromisoformat("2026-11-20T14:28:01+00:00"),
        hostname="h",
        clock=tsdl.ClockDescription(offset=-1),
    )
    text = tsdl.trace_preamble(environment)
    assert "size = 32; align = 32; signed = false; } := unsigned long;" in text
    assert "\tsize = 64; align = 64; signed = false;\n\tmap = clock.monotonic.value;" in text
    assert text.count("} align(32);") == 1
    assert text.count("} align(16);") == 1
    assert "byte_order = be;" in text
    assert 'trace_name = "a\\"b";' in text
    assert "offset = -1;" in text
    assert text.count("uuid = ") == 1  # none of the clock


def test_enum_that_was_never_registered_is_refused() -> None:
    with pytest.raises(UnsupportedField, match="not registered"):
        member(EnumType(name="colour", enum_id=7, container=S8), {})


def test_enum_entry_that_would_crash_readers_is_left_out() -> None:
    top = (1 << 64) - 1
    entries = (EnumEntry("BACKWARDS", 5, 3), EnumEntry("FOUR", 0, 0, True), EnumEntry("FIVE", 0, 0, True))
    wrapping = (EnumEntry("NEGATIVE", -5, top), EnumEntry("LAST", 9, top), EnumEntry("FIRST", 0, 0, True))
    enumerations = {0: entries, 1: (), 2: entries[:1], 3: wrapping}
    head = "enum : integer { size = 8; align = 8; signed = %d; encoding = none; base = 10; } {"
    plain = ["integer { size = 8; align = 8; signed = 1; encoding = none; base = 10; } _x;"]

    def enum(enum_id: int, container: IntegerType) -> list[str]:
        return member(EnumType(name="e", enum_id=enum_id, container=container), enumerations)

    assert enum(0, S8) == [head % 1, '\t"FOUR" = 4,', '\t"FIVE",', "} _x;"]
    assert enum(1, S8) == plain
    assert enum(2, S8) == plain
    assert enum(3, U8) == [
        head % 0,
        f'\t"NEGATIVE" = -5 ... {top},',
        f'\t"LAST" = 9 ... {top},',
        '\t"FIRST",',
        "} _x;",
    ]
    assert enum(3, S8) == [head % 1, f'\t"NEGATIVE" = -5 ... {top},', '\t"FIRST" = 0,', "} _x;"]


def test_variant_that_its_tag_cannot_select_is_refused() -> None:
    tag = EnumType(name="tag", enum_id=0, container=S8)
    fields = [Field("t", tag), Field("v", VariantType(tag_name="t", choices=(Field("other", S8),)))]
    with pytest.raises(UnsupportedField, match="cannot select"):
        tsdl.stream_class(0, HeaderType.LARGE, fields, {0: (EnumEntry("_none", 0, 0),)})


def test_variant_refers_to_the_tag_before_it() -> None:
    fields = [
        Field("$app.p:c_tag", EnumType(name="tag", enum_id=0, container=S8)),
        Field("$app.p:c", VariantType(tag_name="$app.p:c_tag", choices=(Field("none", StructType()), Field("s8", S8)))),
    ]
    text = tsdl.stream_class(0, HeaderType.LARGE, fields, {0: (EnumEntry("_none", 0, 0), EnumEntry("_s8", 1, 1))})
    assert "} __app_p_c_tag;\n\t\tvariant <__app_p_c_tag> {\n\t\t\tstruct {} _none;\n" in text
    assert "\n\t\t} __app_p_c;\n" in text


@pytest.mark.parametrize("name", ['";}; evil {', "line\nbreak", "back\\slash", "tab\t\r\x01", "\\"])
def test_no_name_breaks_out_of_its_string(name: str) -> None:
    text = tsdl.event_class(
        name=name, event_id=0, channel_id=0, log_level=13, fields=[Field(name, S8)], model_emf_uri=name
    )
    lines = text.splitlines()
    assert len(lines) == 11  # with the empty one after the block
    for key, line in (("name", lines[1]), ("model.emf.uri", lines[5])):
        assert re.fullmatch(rf'\t{re.escape(key)} = "([^"\\]|\\["\\nrt]|\\[0-7]{{3}})*";', line), line
    assert re.fullmatch(r"\t\tinteger \{ [^}]* \} _[A-Za-z0-9_]*;", lines[7]), lines[7]


def test_fields_of_one_name_are_told_apart() -> None:
    fields = [Field("n", U8), Field("n", U8), Field("q", SequenceType(length_name="n", element=S8)), Field("a.b", U8)]
    fields.append(Field("a$b", U8))
    text = tsdl.event_class(name="e", event_id=0, channel_id=0, log_level=13, fields=fields)
    identifiers = re.findall(r"\} (_\w*)", text)
    assert identifiers == ["_n", "_n_", "_q", "_a_b", "_a_b_"]
    assert "_q[ _n_ ];" in text


def test_field_called_like_the_length_of_a_sequence() -> None:
    fields = [Field("_v_length", U8), Field("v", SequenceType(length_name="_v_length", element=S8))]
    fields.append(Field("v_length", U8))
    text = tsdl.event_class(name="e", event_id=0, channel_id=0, log_level=13, fields=fields)
    assert re.findall(r"\} (_\w*)", text) == ["__v_length", "_v", "_v_length_"]


@pytest.mark.parametrize(("log_level", "is_written"), [(0, True), (14, True), (15, False), (-1, False)])
def test_only_known_log_levels_are_written(log_level: int, is_written: bool) -> None:
    text = tsdl.event_class(name="e", event_id=0, channel_id=0, log_level=log_level, fields=())
    assert (f"\tloglevel = {log_level};\n" in text) == is_written
