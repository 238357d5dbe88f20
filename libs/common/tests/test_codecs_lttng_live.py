"""LTTng's live protocol against recorded conversations, in both directions."""

from __future__ import annotations

import re

import pytest

from tracefleet_common.codecs import lttng_live as live
from tracefleet_common.codecs.lttng_live_replies import ReplyDecoder, encode_reply
from tracefleet_common.codecs.lttng_live_requests import RequestDecoder, encode_request
from tracefleet_common.codecs.lttng_wire import RefusedCommand, TraceFormat
from tracefleet_common.errors import LocalProtocolError, RemoteProtocolError
from tracefleet_common.testing.lttng_vectors import Row, read_vectors

HEADER_SIZE = 16

ROWS = [row for row in read_vectors("live-*.jsonl") if row.data]
REQUESTS = [row for row in ROWS if row.direction == "c2s" and row.label != "42"]
# Each with the request before it on its connection: a reply has no header.
REPLIES = [
    (row, next(asked for asked in reversed(ROWS[:at]) if asked.connection == row.connection))
    for at, row in enumerate(ROWS)
    if row.direction == "s2c" and row.label != "42 reply"
]


def decode_one(data: bytes) -> live.Request:
    decoder = RequestDecoder()
    decoder.receive(data)
    request = decoder.next_command()
    assert request is not None
    assert decoder.next_command() is None
    assert decoder.buffered_size_bytes == 0
    return request


def decode_one_reply(request: live.Request, data: bytes, minor: int = live.MINOR) -> tuple[live.Reply, bytes]:
    """Feed a reply byte by byte. Returns it with the bytes of the stream after it."""
    decoder = ReplyDecoder(minor)
    decoder.expect(request)
    reply: live.Reply | None = None
    payload = b""
    for at in range(len(data)):
        decoder.receive(data[at : at + 1])
        if reply is None:
            reply = decoder.next_reply()
        else:
            payload += decoder.take_payload()
    assert reply is not None
    assert decoder.payload_size_bytes == decoder.buffered_size_bytes == 0
    return reply, payload


def noted(request: live.Request) -> str:
    """The fields of a request as the recorder noted them."""
    match request:
        case live.Connect():
            version = f"major={request.major} minor={request.minor}"
            return f"vsid={request.viewer_session_id} {version} type={request.connection_type}"
        case live.ListSessions() | live.CreateViewerSession():
            return ""
        case live.AttachSession():
            return f"sid={request.session_id} off=0 seek={request.seek}"
        case live.GetNextIndex() | live.GetMetadata():
            return f"id={request.stream_id}"
        case live.GetPacket():
            return f"stream={request.stream_id} off={request.offset_bytes} len={request.size_bytes}"
        case live.GetNewStreams() | live.DetachSession():
            return f"id={request.session_id}"


def noted_reply(reply: live.Reply) -> str:
    match reply:
        case live.Connect():
            return noted(reply)
        case live.SessionList():
            entries = [
                (one.session_id, one.live_timer_us, one.viewer_count, one.stream_count, one.host_name, one.session_name)
                for one in reply.sessions
            ]
            return f"n={len(entries)} {entries}"
        case live.AttachReply() | live.NewStreamsReply():
            streams = [
                (one.stream_id, one.trace_id, int(one.is_metadata), one.path, one.channel_name) for one in reply.streams
            ]
            return f"status={reply.status:d} n={len(streams)} {streams}"
        case live.CreateViewerSessionReply() | live.DetachReply():
            return f"status={reply.status:d}"
        case live.NextIndexReply():
            status = "ERR" if reply.status is live.NextIndexStatus.ERROR else reply.status.name
            return (
                f"status={status} flags={reply.flags:d} off={reply.offset_bytes} psz={reply.packet_size_bits}"
                f" csz={reply.content_size_bits} tb={reply.timestamp_begin} te={reply.timestamp_end}"
                f" disc={reply.discarded_event_count} sid={reply.stream_class_id}"
            )
        case live.PacketReply():
            return f"status={reply.status:d} len={reply.size_bytes} flags={reply.flags:d}"
        case live.MetadataReply():
            return f"len={reply.size_bytes} status={reply.status:d}"


def test_there_are_vectors_of_every_command() -> None:
    """Otherwise the tests below would pass because there is nothing to test."""
    labels = {"CREATE_SESSION" if one.name == "CREATE_VIEWER_SESSION" else one.name for one in live.Command}
    assert labels == {row.label for row in REQUESTS}
    assert {f"{label} reply" for label in labels} == {row.label for row, _ in REPLIES}


@pytest.mark.parametrize("row", REQUESTS, ids=str)
def test_recorded_request(row: Row) -> None:
    request = decode_one(row.data)
    assert row.note.endswith(noted(request))
    assert encode_request(request) == row.data


@pytest.mark.parametrize(("row", "asked"), REPLIES, ids=[str(row) for row, _ in REPLIES])
def test_recorded_reply(row: Row, asked: Row) -> None:
    request = decode_one(asked.data)
    note, is_cut, _ = row.note.partition(" (hex cut after byte 28")
    if is_cut:
        # The rest of the entries has to be made from the note.
        entries = re.findall(r"\((\d+), (\d+), ([01]), '([^']*)', '([^']*)'\)", note)
        streams = tuple(
            live.LiveStream(
                stream_id=int(stream), trace_id=int(trace), is_metadata=flag == "1", path=path, channel_name=name
            )
            for stream, trace, flag, path, name in entries
        )
        data = encode_reply(live.NewStreamsReply(status=live.NewStreamsStatus.OK, streams=streams))
        assert data[:28] == row.data
    else:
        data = row.data
    reply, payload = decode_one_reply(request, data)
    assert noted_reply(reply) == note
    assert encode_reply(reply) + payload == data


def test_recorded_unknown_command() -> None:
    question, answer = (row.data for row in ROWS if row.label in ("42", "42 reply"))
    decoder = RequestDecoder()
    decoder.receive(question + encode_request(live.ListSessions()))
    with pytest.raises(RefusedCommand, match="42") as refusal:
        decoder.next_command()
    assert refusal.value.reply == answer
    assert refusal.value.must_close
    with pytest.raises(RemoteProtocolError, match="42"):
        decoder.next_command()
    assert decoder.buffered_size_bytes == 0


@pytest.mark.parametrize("piece_size", [1, 7, 1000])
def test_requests_do_not_depend_on_the_pieces_they_come_in(piece_size: int) -> None:
    stream = b"".join(row.data for row in REQUESTS)
    decoder = RequestDecoder()
    received: list[live.Request] = []
    for start in range(0, len(stream), piece_size):
        decoder.receive(stream[start : start + piece_size])
        while (request := decoder.next_command()) is not None:
            received.append(request)
    assert received == [decode_one(row.data) for row in REQUESTS]


# ── What no vector shows ─────────────────────────────────────────────────────────────────────────────────────────────


def a_session(**changes: str) -> live.LiveSession:
    return live.LiveSession(
        session_id=1,
        live_timer_us=1_000_000,
        viewer_count=0,
        stream_count=3,
        host_name=changes.get("host_name", "host"),
        session_name=changes.get("session_name", "session"),
        trace_format=TraceFormat.CTF_2 if "trace_format" in changes else None,
    )


def test_body_size_that_a_viewer_gets_wrong_is_not_looked_at() -> None:
    data = b"\xff" * 8 + encode_request(live.GetNextIndex(stream_id=5))[8:]
    assert decode_one(data) == live.GetNextIndex(stream_id=5)


def test_names_too_long_for_their_fields_are_cut() -> None:
    session = a_session(host_name="h" * 62 + "ä", session_name="s" * 300)
    data = encode_reply(live.SessionList(sessions=(session,)))
    assert len(data) == 4 + 339
    reply, _ = decode_one_reply(live.ListSessions(), data)
    assert isinstance(reply, live.SessionList)
    assert reply.sessions[0].host_name == "h" * 62  # no half of a character
    assert reply.sessions[0].session_name == "s" * 254


def test_list_of_minor_15() -> None:
    sessions = live.SessionList(sessions=(a_session(trace_format="2", host_name="hä"), a_session(host_name="")))
    data = encode_reply(sessions, 15)
    assert len(data) == 4 + 2 * 32 + len("häsession".encode()) + len("session")
    reply, _ = decode_one_reply(live.ListSessions(), data, 15)
    assert isinstance(reply, live.SessionList)
    assert [one.trace_format for one in reply.sessions] == [TraceFormat.CTF_2, TraceFormat.CTF_1_8]
    assert [one.host_name for one in reply.sessions] == ["hä", ""]
    assert encode_reply(reply, 15) == data


@pytest.mark.parametrize(("at", "value"), [(4 + 20, 1), (4 + 24, 1), (4 + 31, 2), (4 + 32, 0), (4 + 32, 0xFF)])
def test_list_of_minor_15_that_lies(at: int, value: int) -> None:
    data = bytearray(encode_reply(live.SessionList(sessions=(a_session(),)), 15))
    data[at] = value
    decoder = ReplyDecoder(15)
    decoder.expect(live.ListSessions())
    decoder.receive(data)
    with pytest.raises(RemoteProtocolError):
        decoder.next_reply()


ATTACH = live.AttachSession(session_id=1, seek=live.Seek.BEGINNING)
GET_PACKET = live.GetPacket(stream_id=1, offset_bytes=0, size_bytes=100)


@pytest.mark.parametrize(
    ("request_", "data", "reason"),
    [
        (live.ListSessions(), b"\0\0\0\x0b", "11 entries"),
        (ATTACH, b"\0\0\0\1\0\0\0\x0b", "11 entries"),
        (ATTACH, b"\0\0\0\7\0\0\0\0", "AttachStatus 7"),
        (ATTACH, b"\0\0\0\1\0\0\0\1" + b"x" * 4371, "no NUL"),
        (live.GetNewStreams(session_id=1), bytes(8), "NewStreamsStatus 0"),
        (live.GetNextIndex(stream_id=1), b"\xff" * 64, "NextIndexStatus"),
        (GET_PACKET, b"\0\0\0\1\0\0\0\x65" + bytes(4), "101 bytes when asked for 100"),
        (GET_PACKET, b"\0\0\0\5" + bytes(8), "PacketStatus 5"),
        (live.GetMetadata(stream_id=1), bytes(12), "MetadataStatus 0"),
        (live.CreateViewerSession(), b"\0\0\0\x0b", "CreateViewerSessionStatus 11"),
        (live.DetachSession(session_id=1), b"\0\0\0\x0b", "DetachStatus 11"),
        (live.DetachSession(session_id=1), b"\0\0\0\1\0", "nobody asked"),
    ],
)
def test_reply_that_cannot_be(request_: live.Request, data: bytes, reason: str) -> None:
    decoder = ReplyDecoder(entry_count_max=10)
    decoder.expect(request_)
    decoder.receive(data)
    with pytest.raises(RemoteProtocolError, match=reason):
        while decoder.next_reply() is not None:
            pass
    assert decoder.buffered_size_bytes == 0


def test_size_without_ok_is_not_followed_by_bytes() -> None:
    failed = live.PacketReply(status=live.PacketStatus.ERROR, size_bytes=50)
    assert decode_one_reply(GET_PACKET, encode_reply(failed)) == (failed, b"")
    nothing = live.MetadataReply(status=live.MetadataStatus.NO_NEW, size_bytes=50)
    assert decode_one_reply(live.GetMetadata(stream_id=1), encode_reply(nothing)) == (nothing, b"")


def test_bytes_of_the_stream_are_taken_before_the_next_reply() -> None:
    decoder = ReplyDecoder()
    decoder.expect(GET_PACKET)
    decoder.receive(encode_reply(live.PacketReply(status=live.PacketStatus.OK, size_bytes=4)) + b"ab")
    assert decoder.next_reply() == live.PacketReply(status=live.PacketStatus.OK, size_bytes=4)
    assert decoder.take_payload() == b"ab"
    assert decoder.take_payload() == b""
    with pytest.raises(LocalProtocolError, match="2 bytes"):
        decoder.next_reply()
    with pytest.raises(LocalProtocolError, match="LIST_SESSIONS"):
        decoder.expect(live.ListSessions())
    decoder.receive(b"cd")
    assert decoder.take_payload() == b"cd"
    decoder.expect(live.ListSessions())
    decoder.receive(encode_reply(live.SessionList()))
    assert decoder.next_reply() == live.SessionList()


def test_long_list_is_decoded_while_it_arrives() -> None:
    stream = live.LiveStream(stream_id=1, trace_id=1, is_metadata=False, path="ust", channel_name="a_0")
    attached = live.AttachReply(status=live.AttachStatus.OK, streams=(stream,) * 2000)
    data = encode_reply(attached)
    decoder = ReplyDecoder()
    decoder.expect(ATTACH)
    reply: live.Reply | None = None
    for start in range(0, len(data), 10_000):
        assert reply is None
        decoder.receive(data[start : start + 10_000])
        reply = decoder.next_reply()
        assert decoder.buffered_size_bytes < 4371
    assert reply == attached


@pytest.mark.parametrize(
    "request_",
    [live.GetNextIndex(stream_id=-1), live.GetPacket(stream_id=1, offset_bytes=0, size_bytes=1 << 32)],
)
def test_what_cannot_be_encoded_is_our_error(request_: live.Request) -> None:
    with pytest.raises(LocalProtocolError):
        encode_request(request_)
