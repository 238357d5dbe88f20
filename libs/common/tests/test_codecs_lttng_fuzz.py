"""Whatever bytes come to the decoders of LTTng's relay and live protocols: a message or a protocol error.

Nothing else is raised, nothing is kept beyond what is needed, and what was decoded can be encoded again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import msgspec
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tracefleet_common.codecs import lttng_live as live
from tracefleet_common.codecs import lttng_live_replies, lttng_live_requests, lttng_relay_replies, lttng_relay_requests
from tracefleet_common.codecs import lttng_relay as relay
from tracefleet_common.codecs import lttng_relay_data as relay_data
from tracefleet_common.codecs.lttng_wire import RefusedCommand
from tracefleet_common.errors import RemoteProtocolError
from tracefleet_common.testing.lttng_vectors import read_vectors

# Derandomized: a failure belongs to the change that is tested. Found once, it is kept below with @example.
BOUNDED = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
METADATA_SIZE_MAX = 4096
# The largest message that a decoder may hold back: ROTATE_STREAMS. A list of live streams is not held back.
KEPT_SIZE_MAX = 24 + 20 + 16 * relay.ROTATED_STREAM_COUNT_MAX


class Driver(Protocol):
    """Feeds one connection, and returns what came out of it."""

    def __call__(self, pieces: list[bytes], /) -> list[object]: ...


def drive(receive: Callable[[bytes], None], next_one: Callable[[], object], pieces: list[bytes]) -> list[object]:
    """Until the connection would be closed."""
    decoded: list[object] = []
    for piece in pieces:
        receive(piece)
        while True:
            try:
                message = next_one()
            except RefusedCommand as error:
                assert error.reply
                decoded.append(str(error))
                if error.must_close:
                    return decoded
                continue
            except RemoteProtocolError as error:
                return [*decoded, str(error)]
            if message is None:
                break
            decoded.append(message)
    return decoded


def relay_requests(minor: int) -> Driver:
    def feed(pieces: list[bytes]) -> list[object]:
        decoder = lttng_relay_requests.RequestDecoder(minor, METADATA_SIZE_MAX)
        decoded = drive(decoder.receive, decoder.next_command, pieces)
        assert decoder.buffered_size_bytes <= KEPT_SIZE_MAX
        for request in decoded:
            if not isinstance(request, str):
                data = lttng_relay_requests.encode_request(request, minor)  # type: ignore[arg-type]
                again = lttng_relay_requests.RequestDecoder(minor, METADATA_SIZE_MAX)
                again.receive(data)
                assert again.next_command() == request
        return decoded

    return feed


def relay_replies(minor: int, commands: list[relay.Command]) -> Driver:
    def feed(pieces: list[bytes]) -> list[object]:
        decoder = lttng_relay_replies.ReplyDecoder(minor)
        for command in commands:
            decoder.expect(command)
        decoded = drive(decoder.receive, decoder.next_reply, pieces)
        for reply in decoded:
            if not isinstance(reply, str):
                lttng_relay_replies.encode_reply(reply, minor)  # type: ignore[arg-type]
        return decoded

    return feed


def data_headers(pieces: list[bytes]) -> list[object]:
    decoder = relay_data.DataHeaderDecoder()

    def receive(piece: bytes) -> None:
        decoder.receive(piece[: decoder.missing_size_bytes])

    decoded = drive(receive, decoder.next_header, pieces)
    for header in decoded:
        if isinstance(header, relay_data.DataHeader):
            assert header.packet_size_bytes <= relay_data.PACKET_SIZE_BYTES_MAX
            assert relay_data.decode_data_header(relay_data.encode_data_header(header)) == header
    # Pieces are cut short where a header ends, so what comes out does depend on them.
    return decoded[:1]


def live_requests(pieces: list[bytes]) -> list[object]:
    decoder = lttng_live_requests.RequestDecoder()
    decoded = drive(decoder.receive, decoder.next_command, pieces)
    for request in decoded:
        if not isinstance(request, str):
            lttng_live_requests.encode_request(request)  # type: ignore[arg-type]
    return decoded


def live_replies(request: live.Request, minor: int = live.MINOR) -> Driver:
    def feed(pieces: list[bytes]) -> list[object]:
        decoder = lttng_live_replies.ReplyDecoder(minor)
        decoder.expect(request)
        payload = bytearray()

        def next_one() -> object:
            if decoder.payload_size_bytes:
                taken = decoder.take_payload()
                payload.extend(taken)
                if not taken or decoder.payload_size_bytes:
                    return None
            return decoder.next_reply()

        decoded = drive(decoder.receive, next_one, pieces)
        assert len(payload) <= sum(map(len, pieces))
        for reply in decoded:
            if not isinstance(reply, str):
                lttng_live_replies.encode_reply(reply, minor)  # type: ignore[arg-type]
        return [*decoded, bytes(payload)]

    return feed


VARIABLE_REPLIES = [relay.Command.CREATE_SESSION, relay.Command.CLOSE_TRACE_CHUNK, relay.Command.ADD_STREAM]
FIXED_REPLIES = [relay.Command.DATA_PENDING, relay.Command.TRACE_CHUNK_EXISTS, relay.Command.GET_CONFIGURATION]
ATTACH = live.AttachSession(session_id=1, seek=live.Seek.LAST)
DRIVERS: dict[str, Driver] = {
    **{f"relay-requests-{minor}": relay_requests(minor) for minor in (0, 1, 4, 10, 13, 15)},
    "relay-replies-10": relay_replies(10, VARIABLE_REPLIES),
    "relay-replies-13": relay_replies(13, VARIABLE_REPLIES),
    "relay-replies-fixed": relay_replies(13, FIXED_REPLIES),
    "data-headers": data_headers,
    "live-requests": live_requests,
    "live-connect": live_replies(live.Connect()),
    "live-sessions": live_replies(live.ListSessions()),
    "live-sessions-15": live_replies(live.ListSessions(), 15),
    "live-streams": live_replies(ATTACH),
    "live-index": live_replies(live.GetNextIndex(stream_id=1)),
    "live-packet": live_replies(live.GetPacket(stream_id=1, offset_bytes=0, size_bytes=4096)),
    "live-metadata": live_replies(live.GetMetadata(stream_id=1)),
    "live-detach": live_replies(live.DetachSession(session_id=1)),
}


def samples() -> dict[str, list[bytes]]:
    """Messages to mutate: recorded ones, and a few of our own, which are there without the recordings."""
    session = relay.CreateSession(
        session_name="s", host_name="h", sessiond_uuid=bytes(16), sessiond_session_id=1, creation_time_s=2
    )
    requests: list[relay.Request] = [
        session,
        relay.AddStream(channel_name="ch_0", path="ust"),
        relay.SendMetadata(stream_handle=1, content=b"text", padding_size_bytes=4),
        relay.RotateStreams(
            new_chunk_id=1, positions=(relay.RotationPosition(stream_handle=1, packet_sequence_number=2),)
        ),
        relay.CreateTraceChunk(chunk_id=1, creation_time_s=2, override_name="snapshot-1"),
        relay.CloseTraceChunk(chunk_id=1, close_time_s=2, close_command=relay.CloseCommand.DELETE),
        relay.Version(),
    ]
    index = live.NextIndexReply(status=live.NextIndexStatus.OK, packet_size_bits=32768)
    stream = live.LiveStream(stream_id=1, trace_id=1, is_metadata=True, path="ust", channel_name="metadata")
    listed = live.LiveSession(
        session_id=1, live_timer_us=1, viewer_count=0, stream_count=1, host_name="h", session_name="s"
    )
    sessions = live.SessionList(sessions=(listed, listed))
    recorded = read_vectors("relay-*.jsonl") + read_vectors("live-*.jsonl")

    def recordings(direction: str, *labels: str) -> list[bytes]:
        return [row.data for row in recorded if row.direction == direction and row.label in labels and row.data]

    relay_recordings = [row.data for row in recorded if row.file.startswith("relay") and row.direction == "c2s"]
    live_recordings = [row.data for row in recorded if row.file.startswith("live") and row.direction == "c2s"]
    encode_live = lttng_live_replies.encode_reply
    return {
        **{
            f"relay-requests-{minor}": [lttng_relay_requests.encode_request(one, max(minor, 11)) for one in requests]
            + relay_recordings
            for minor in (0, 1, 4, 10, 13, 15)
        },
        **{
            f"relay-replies-{minor}": [
                lttng_relay_replies.encode_reply(relay.CreateSessionReply(session_id=1, output_path="h/s"), minor)
                + lttng_relay_replies.encode_reply(relay.CloseTraceChunkReply(path="h/s/archives/1"))
                + lttng_relay_replies.encode_reply(relay.AddStreamReply(stream_handle=1))
            ]
            for minor in (10, 13)
        },
        "relay-replies-fixed": [bytes(4) + b"\0\0\0\x0a\1" + b"\0\0\0\x0a" + bytes(7) + b"\1"],
        "data-headers": [
            relay_data.encode_data_header(
                relay_data.DataHeader(
                    stream_handle=1, sequence_number=0, payload_size_bytes=146, padding_size_bytes=3950
                )
            ),
            *recordings("c2s", "DATA"),
        ],
        "live-requests": [lttng_live_requests.encode_request(ATTACH), *live_recordings],
        "live-connect": [encode_live(live.Connect(viewer_session_id=1))],
        "live-sessions": [encode_live(sessions)],
        "live-sessions-15": [encode_live(sessions, 15)],
        "live-streams": [encode_live(live.AttachReply(status=live.AttachStatus.OK, streams=(stream, stream)))],
        "live-index": [encode_live(index)],
        "live-packet": [encode_live(live.PacketReply(status=live.PacketStatus.OK, size_bytes=4)) + b"abcd"],
        "live-metadata": [encode_live(live.MetadataReply(status=live.MetadataStatus.OK, size_bytes=4)) + b"abcd"],
        "live-detach": [encode_live(live.DetachReply())],
    }


SAMPLES = samples()


def check(driver: str, data: bytes, cut: int) -> None:
    """The same must come out whatever the pieces are, and it must be worth keeping in a log or a set."""
    whole = DRIVERS[driver]([data])
    assert DRIVERS[driver]([data[:cut], data[cut:]]) == whole
    for message in whole:
        hash(message)
        msgspec.msgpack.encode(message, enc_hook=repr)


@pytest.mark.parametrize("driver", sorted(DRIVERS))
@BOUNDED
@given(data=st.binary(max_size=1024), cut=st.integers(0, 64))
@example(data=b"\xff" * 64, cut=1)
@example(data=bytes(24), cut=8)
def test_arbitrary_bytes(driver: str, data: bytes, cut: int) -> None:
    check(driver, data, cut)


@pytest.mark.parametrize("driver", sorted(DRIVERS))
@BOUNDED
@given(choice=st.data())
def test_mutated_messages(driver: str, choice: st.DataObject) -> None:
    data = bytearray(choice.draw(st.sampled_from(SAMPLES[driver])))
    # Numbers near the limits, where there are numbers: at the start, and where it is not zero.
    interesting = [*range(min(len(data), 32)), *(at for at in range(32, len(data)) if data[at])][:400]
    for _ in range(choice.draw(st.integers(1, 4))):
        at = choice.draw(st.sampled_from(interesting))
        value = choice.draw(st.sampled_from([b"\0", b"\1", b"\x7f", b"\x80", b"\xff", b"\xff" * 4, bytes(4), b"../"]))
        data[at : at + len(value)] = value
    end = choice.draw(st.one_of(st.none(), st.integers(0, len(data))))
    more = choice.draw(st.sampled_from([b"", bytes(data)]))
    message = bytes(data[:end]) + more
    check(driver, message, choice.draw(st.integers(0, len(message))))


# By command and minor, with everything right but the payload: bytes that arbitrary() would hardly hit upon.
@BOUNDED
@given(
    minor=st.sampled_from([1, 2, 4, 8, 11, 13, 15]),
    command=st.sampled_from(relay.Command),
    payload=st.binary(max_size=200),
    missing=st.integers(0, 3),
)
@example(minor=13, command=relay.Command.ROTATE_STREAMS, payload=b"\xff" * 20, missing=0)
@example(minor=13, command=relay.Command.CREATE_TRACE_CHUNK, payload=bytes(19) + b"\1\0", missing=0)
@example(minor=13, command=relay.Command.SEND_METADATA, payload=bytes(8) + b"\xff" * 4, missing=0)
@example(minor=15, command=relay.Command.CREATE_SESSION, payload=bytes(62) + b"\1", missing=0)
def test_arbitrary_payloads(minor: int, command: relay.Command, payload: bytes, missing: int) -> None:
    header = bytes(8) + (len(payload) + missing).to_bytes(8, "big") + command.to_bytes(4, "big") + bytes(4)
    whole = relay_requests(minor)([header + payload, bytes(missing)])
    assert relay_requests(minor)([header, payload + bytes(missing)]) == whole
    assert len(whole) == 1


@BOUNDED
@given(name=st.text(max_size=300).filter(lambda name: "\0" not in name), size=st.integers(1, 300))
def test_cut_name_is_a_name(name: str, size: int) -> None:
    listed = live.LiveSession(
        session_id=1, live_timer_us=1, viewer_count=0, stream_count=1, host_name=name, session_name=name * 2
    )
    data = lttng_live_replies.encode_reply(live.SessionList(sessions=(listed,)))
    decoder = lttng_live_replies.ReplyDecoder()
    decoder.expect(live.ListSessions())
    for start in range(0, len(data), size):
        decoder.receive(data[start : start + size])
        reply = decoder.next_reply()
    assert isinstance(reply, live.SessionList)
    assert name.startswith(reply.sessions[0].host_name)
    assert (name * 2).startswith(reply.sessions[0].session_name)
