"""Whatever bytes come from outside: a result or a TracefleetError, soon, and nothing else."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tracefleet_common.codecs import index_file, packet, tsdl, ust_commands
from tracefleet_common.codecs.ust_notify import (
    ChannelNotification,
    EventNotification,
    NotificationParser,
    RefusedNotification,
)
from tracefleet_common.codecs.ust_registration import decode_registration
from tracefleet_common.errors import TracefleetError
from tracefleet_common.model.ctf_types import HeaderType

GOLDEN = Path(__file__).resolve().parents[3] / "tests/golden/ust"
EXAMPLES = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def dense(sparse: dict[str, Any]) -> bytes:
    data = bytearray(sparse["size"])
    for offset, run in sparse["bytes"].items():
        data[int(offset) : int(offset) + len(run) // 2] = bytes.fromhex(run)
    return bytes(data)


def parse_notifications(data: bytes) -> None:
    parser = NotificationParser()
    parser.feed(data)
    while True:
        try:
            notification = parser.next()
        except RefusedNotification:
            continue
        if notification is None:
            return
        msgspec.msgpack.encode(notification)
        hash(notification)
        with contextlib.suppress(TracefleetError):
            if isinstance(notification, ChannelNotification):
                tsdl.stream_class(0, HeaderType.LARGE, notification.context_fields)
            elif isinstance(notification, EventNotification):
                tsdl.event_class(
                    name=notification.name,
                    event_id=0,
                    channel_id=0,
                    log_level=notification.log_level,
                    fields=notification.fields,
                    model_emf_uri=notification.model_emf_uri,
                )


def parse_reply(data: bytes) -> None:
    request = ust_commands.tracepoint_list_get(int.from_bytes(data[:4], "little"))
    reply = ust_commands.check(ust_commands.decode_reply(request, data))
    ust_commands.decode_tracepoint(reply.payload)
    ust_commands.decode_tracer_version(reply.payload)


def parse_registration(data: bytes) -> None:
    registration = decode_registration(data)
    assert "/" not in registration.safe_name
    assert registration.safe_name
    msgspec.msgpack.encode(registration)


DECODERS: dict[str, Callable[[bytes], object]] = {
    "registration": parse_registration,
    "notification": parse_notifications,
    "reply": parse_reply,
    "field-list-entry": ust_commands.decode_field_list_entry,
    "index": index_file.decode_index_file,
    "index-entry": index_file.decode_index_entry,
    "packet-64": packet.decode_packet_header,
    "packet-32": lambda data: packet.decode_packet_header(data, bits_per_long=32),
    "metadata": packet.metadata_text,
}


def samples() -> dict[str, list[bytes]]:
    conversation = [json.loads(line) for line in (GOLDEN / "command/commands.jsonl").read_text().splitlines()]
    replies = [dense(line) for line in conversation if line["from"] == "program"]
    streams = [path.read_bytes()[:84] for path in GOLDEN.glob("trace-*/*.stream")]
    return {
        "registration": [path.read_bytes() for path in GOLDEN.glob("registration/*.bin")],
        "notification": [
            dense(json.loads(path.read_text())["notification"]) for path in sorted(GOLDEN.glob("notify/*.json"))
        ],
        "reply": [reply[:324] for reply in replies],
        "field-list-entry": [reply[324:] for reply in replies if len(reply) > 324],
        "index": [path.read_bytes() for path in GOLDEN.glob("trace-*/*.idx")],
        "index-entry": [path.read_bytes()[16:88] for path in GOLDEN.glob("trace-*/*.idx")],
        "packet-64": streams,
        "packet-32": streams,
        "metadata": [path.read_bytes() for path in GOLDEN.glob("trace-*/metadata")],
    }


SAMPLES = samples()


@pytest.mark.parametrize("decoder", sorted(DECODERS))
@EXAMPLES
@given(data=st.binary(max_size=2048))
def test_arbitrary_bytes(decoder: str, data: bytes) -> None:
    with contextlib.suppress(TracefleetError):
        DECODERS[decoder](data)


@pytest.mark.parametrize("decoder", sorted(DECODERS))
@EXAMPLES
@given(choice=st.data())
def test_mutated_and_cut_messages(decoder: str, choice: st.DataObject) -> None:
    data = bytearray(choice.draw(st.sampled_from(SAMPLES[decoder])))
    # Numbers near the limits, at the places where there are numbers: those that are not zero.
    interesting = [at for at in range(len(data)) if data[at]][:400] or [0]
    for _ in range(choice.draw(st.integers(1, 4))):
        at = choice.draw(st.sampled_from(interesting))
        value = choice.draw(st.sampled_from([b"\0", b"\1", b"\x7f", b"\xff", b"\xff\xff\xff\xff", b"\0\0\0\x80", b'"']))
        data[at : at + len(value)] = value
    cut = choice.draw(st.one_of(st.none(), st.integers(0, len(data))))
    with contextlib.suppress(TracefleetError):
        DECODERS[decoder](bytes(data[:cut]))


@EXAMPLES
@given(name=st.text(max_size=300))
def test_any_name_is_refused_or_sent_whole(name: str) -> None:
    with contextlib.suppress(TracefleetError):
        message = ust_commands.set_exclusion(1, [name]).message
        assert message[612:].rstrip(b"\0").decode() == name
