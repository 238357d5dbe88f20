"""Notifications: recorded ones of a real program, made ones of older programs, and broken ones."""

from __future__ import annotations

import errno
import json
import struct
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tracefleet_common.codecs.ust_fields import UnsupportedField, decode_fields
from tracefleet_common.codecs.ust_notify import (
    ChannelNotification,
    EnumNotification,
    EventNotification,
    NotificationKind,
    NotificationParser,
    RefusedNotification,
    encode_channel_reply,
    encode_enum_reply,
    encode_event_reply,
)
from tracefleet_common.errors import LocalProtocolError, RemoteProtocolError
from tracefleet_common.model.ctf_types import (
    ArrayType,
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

GOLDEN = Path(__file__).resolve().parents[3] / "tests/golden/ust"
CASES = sorted((*GOLDEN.glob("notify/*.json"), *GOLDEN.glob("odd/notify/*.json")))
U32 = IntegerType(size_bits=32, is_signed=False)
U8 = IntegerType(size_bits=8, is_signed=False)


def dense(sparse: dict[str, Any]) -> bytes:
    data = bytearray(sparse["size"])
    for offset, run in sparse["bytes"].items():
        data[int(offset) : int(offset) + len(run) // 2] = bytes.fromhex(run)
    return bytes(data)


def golden_notifications() -> list[bytes]:
    return [dense(json.loads(case.read_text())["notification"]) for case in CASES]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.parts[-3]}-{case.stem}")
def test_recorded_notification(case: Path) -> None:
    messages = json.loads(case.read_text())
    parser = NotificationParser()
    parser.feed(dense(messages["notification"]))
    notification = parser.next()
    assert json.loads(msgspec.json.encode(notification)) == json.loads(case.with_suffix(".expect").read_text())
    assert parser.next() is None
    assert notification is not None
    hash(notification)  # a key of registries
    reply = dense(messages["reply"])
    (return_code,) = struct.unpack_from("=i", reply, 4)
    if isinstance(notification, EnumNotification):
        assert encode_enum_reply(struct.unpack_from("=Q", reply, 8)[0], return_code) == reply
    elif isinstance(notification, ChannelNotification):
        channel_id, header_type = struct.unpack_from("=II", reply, 8)
        assert encode_channel_reply(channel_id, HeaderType(header_type), return_code) == reply
    elif return_code == 0:
        assert encode_event_reply(struct.unpack_from("=I", reply, 8)[0], return_code) == reply


@pytest.mark.parametrize("piece_size", [1, 7, 4096])
def test_notifications_arrive_in_pieces_of_any_size(piece_size: int) -> None:
    wanted = golden_notifications()[:4]
    stream = b"".join(wanted)
    parser = NotificationParser()
    notifications = []
    for start in range(0, len(stream), piece_size):
        parser.feed(stream[start : start + piece_size])
        while (notification := parser.next()) is not None:
            notifications.append(notification)
    assert len(notifications) == len(wanted)


# ---- made descriptions ----


def text(value: str, size: int = 256) -> bytes:
    return value.encode().ljust(size, b"\0")


def integer(
    size: int = 32, signed: int = 0, reverse: int = 0, base: int = 10, encoding: int = 0, align: int = 8
) -> bytes:
    return struct.pack("=IIIIiH24x", size, signed, reverse, base, encoding, align)


def entry(name: str, tag: int, body: bytes = b"") -> bytes:
    return text(name) + struct.pack("=I", tag) + body.ljust(660, b"\0")


def basic(tag: int, body: bytes) -> bytes:
    return struct.pack("=I", tag) + body.ljust(312, b"\0")


def event(*entries: bytes, name: bytes = b"p:e") -> bytes:
    fields = b"".join(entries)
    header = struct.pack("=III256siIII32x", 0, 1, 2, name, 13, 4, len(fields), 0)
    return header + b"int\0" + fields


VARIANT_CHOICES = entry("none", 11, struct.pack("=II", 0, 0)) + entry("s", 4)
TAG = entry("t", 8, text("tag") + struct.pack("=Q", 5)) + entry("", 0, integer(8))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (entry("x", 0, integer(64, 1, 1, 16, 1, 64)), (
            Field("x", IntegerType(size_bits=64, is_signed=True, is_reversed_byte_order=True, base=16,
                                   encoding=Encoding.UTF8, alignment_bits=64)),
        )),
        (entry("x", 4, struct.pack("=i", 2)), (Field("x", StringType(Encoding.ASCII)),)),
        (entry("x", 5, struct.pack("=IIIH", 11, 53, 1, 32)), (
            Field("x", FloatType(exponent_bits=11, mantissa_bits=53, is_reversed_byte_order=True, alignment_bits=32)),
        )),
        (entry("x", 9, struct.pack("=II", 3, 4)) + entry("", 0, integer(8)), (
            Field("x", ArrayType(length=3, alignment_bytes=4, element=U8)),
        )),
        (entry("n", 0, integer()) + entry("x", 10, text("n") + struct.pack("=I", 1)) + entry("", 0, integer(8)), (
            Field("n", U32), Field("x", SequenceType(length_name="n", alignment_bytes=1, element=U8)),
        )),
        (entry("x", 11, struct.pack("=II", 0, 2)), (Field("x", StructType(alignment_bytes=2)),)),
        (TAG, (Field("t", EnumType(name="tag", enum_id=5, container=U8)),)),
        (TAG + entry("v", 12, struct.pack("=I256sI", 2, b"t", 8)) + VARIANT_CHOICES, (
            Field("t", EnumType(name="tag", enum_id=5, container=U8)),
            Field("v", VariantType(tag_name="t", alignment_bytes=8,
                                   choices=(Field("none", StructType()), Field("s", StringType(Encoding.NONE))))),
        )),
        # An ABI before 9 keeps the parts inside.
        (entry("x", 1, text("e") + integer(8) + b"\0\0" + struct.pack("=Q", 9)), (
            Field("x", EnumType(name="e", enum_id=9, container=U8)),
        )),
        (entry("x", 2, basic(0, integer(8)) + struct.pack("=I", 5)), (Field("x", ArrayType(length=5, element=U8)),)),
        (entry("x", 3, basic(0, integer()) + basic(0, integer(8))), (
            Field("x", LegacySequenceType(length=U32, element=U8)),
        )),
        (TAG + entry("v", 6, struct.pack("=I256s", 1, b"t")) + entry("none", 7), (
            Field("t", EnumType(name="tag", enum_id=5, container=U8)),
            Field("v", VariantType(tag_name="t", choices=(Field("none", StructType()),))),
        )),
        (b"", ()),
    ],
)  # fmt: skip
def test_description(entries: bytes, expected: tuple[Field, ...]) -> None:
    assert decode_fields(entries) == expected


@pytest.mark.parametrize(
    "entries",
    [
        entry("x", 13),
        entry("x", 0xFFFFFFFF),
        entry("x", 0, integer(0)),
        entry("x", 0, integer(4096)),
        entry("x", 0, integer(base=7)),
        entry("x", 0, integer(encoding=3)),
        entry("x", 0, integer(encoding=-1)),
        entry("x", 0, integer(align=0)),
        entry("x", 0, integer(align=24)),
        entry("x", 4, struct.pack("=i", 9)),
        entry("x", 5, struct.pack("=IIIH", 0, 0, 0, 8)),
        entry("x", 9, struct.pack("=II", 3, 0)) + entry("", 5, struct.pack("=IIIH", 8, 24, 0, 8)),
        entry("x", 9, struct.pack("=II", 3, 3)) + entry("", 0, integer()),
        entry("x", 9, struct.pack("=II", 1 << 25, 0)) + entry("", 0, integer()),
        entry("x", 9, struct.pack("=II", 3, 0)) + entry("", 0, integer(128)),
        entry("x", 10, text("n")) + entry("", 0, integer()),
        entry("n", 4) + entry("x", 10, text("n")) + entry("", 0, integer()),
        entry("x", 11, struct.pack("=II", 1, 0)) + entry("y", 0, integer()),
        entry("x", 7, struct.pack("=I", 1)) + entry("y", 0, integer()),
        entry("x", 2, basic(5, struct.pack("=IIIH", 8, 24, 0, 8)) + struct.pack("=I", 5)),
        entry("v", 12, struct.pack("=I256sI", 2, b"t", 0)) + VARIANT_CHOICES,
        TAG + entry("v", 12, struct.pack("=I256sI", 0, b"t", 0)),
        TAG + entry("v", 12, struct.pack("=I256sI", 2, b"t", 0)) + entry("s", 4) * 2,
        TAG + entry("v", 6, struct.pack("=I256s", 1, b"t")) * 9 + entry("none", 7),
    ],
)
def test_what_a_trace_cannot_describe_is_refused_and_the_connection_lives(entries: bytes) -> None:
    parser = NotificationParser()
    parser.feed(event(entries))
    parser.feed(event())
    with pytest.raises(UnsupportedField, match="p:e") as refusal:
        parser.next()
    assert isinstance(refusal.value, RefusedNotification)
    assert refusal.value.kind is NotificationKind.EVENT
    assert refusal.value.reply == encode_event_reply(0, -errno.EINVAL)
    assert isinstance(parser.next(), EventNotification)


def test_context_that_a_trace_cannot_describe() -> None:
    parser = NotificationParser()
    parser.feed(struct.pack("=IIII32x", 1, 1, 2, 920) + entry("x", 13))
    with pytest.raises(RefusedNotification) as refusal:
        parser.next()
    assert refusal.value.reply == encode_channel_reply(0, HeaderType.LARGE, -errno.EINVAL)


@pytest.mark.parametrize(
    "data",
    [
        struct.pack("=I", 3),
        struct.pack("=III256siIII32x", 0, 1, 2, b"e", 13, 1 << 20, 0, 0),
        struct.pack("=III256siIII32x", 0, 1, 2, b"e", 13, 1, 0xFFFFFFFF, 0),
        struct.pack("=III256siIII32x", 0, 1, 2, b"e", 13, 1, 0, 0xFFFFFFFF),
        struct.pack("=III256siIII32x", 0, 1, 2, b"e", 13, 0, 919, 0) + bytes(919),
        struct.pack("=II256sI32x", 2, 1, b"e", 0xFFFFFFFF),
        struct.pack("=II256sI32x", 2, 1, b"e", 335) + bytes(335),
        struct.pack("=IIII32x", 1, 1, 2, 0xFFFFFFFF),
        event(entry("x", 9, struct.pack("=II", 3, 0))),
        event(entry("x", 8)),
        event(TAG + entry("v", 12, struct.pack("=I256sI", 0xFFFFFFFF, b"t", 0)) + VARIANT_CHOICES),
    ],
)
def test_broken_notification(data: bytes) -> None:
    parser = NotificationParser()
    parser.feed(data)
    with pytest.raises(RemoteProtocolError):
        parser.next()


def test_enum_entries_keep_their_sign() -> None:
    def enum_entry(begin: int, end: int, label: bytes, options: int = 0, signed: int = 0) -> bytes:
        return struct.pack("=QB15xQB15x256sI28x", begin, signed, end, signed, label, options)

    top = (1 << 64) - 1
    entries = (
        enum_entry(top - 4, top - 4, b"NEGATIVE", signed=1)
        + enum_entry(top - 4, top, b"LARGE")
        + enum_entry(top, top, b"AUTO", 1, signed=1)
    )
    parser = NotificationParser()
    parser.feed(struct.pack("=II256sI32x", 2, 1, b"p_e", len(entries)) + entries)
    assert parser.next() == EnumNotification(
        session_handle=1,
        name="p_e",
        entries=(EnumEntry("NEGATIVE", -5, -5), EnumEntry("LARGE", top - 4, top), EnumEntry("AUTO", 0, 0, True)),
    )


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (b"p:e", "p:e"),
        (b"x" * 256, "x" * 255),
        (b"caf\xc3\xa9", "café"),
        (b"caf\xe9", "caf\\xe9"),
        (b"\xed\xa0\x80", "\\xed\\xa0\\x80"),  # a surrogate
    ],
)
def test_names_are_bounded_and_valid_text(raw: bytes, expected: str) -> None:
    parser = NotificationParser()
    parser.feed(event(name=raw))
    notification = parser.next()
    assert isinstance(notification, EventNotification)
    assert notification.name == expected
    msgspec.msgpack.encode(notification)


def test_programs_accept_no_positive_return_code() -> None:
    with pytest.raises(LocalProtocolError):
        encode_event_reply(1, 1)
