"""What lttng-relayd 2.13.9 answered to viewers, and what we answer in the same situation.

Where ours differs on purpose, OURS says so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from tracefleet_common.codecs import lttng_live as live
from tracefleet_common.codecs.lttng_live_replies import encode_reply
from tracefleet_common.codecs.lttng_live_requests import RequestDecoder
from tracefleet_common.codecs.lttng_wire import RefusedCommand
from tracefleet_common.errors import RemoteProtocolError
from tracefleet_common.testing.lttng_vectors import Row, read_vectors
from tracefleet_relayd.application.serve_viewers import Viewer, Viewers

sys.path.insert(0, str(Path(__file__).parent))

from viewable_fakes import FakeSession, FakeSessions, FakeStream, payload_of

CLOSED = b""
INDEX_FLAGS = slice(60, 64)
STREAM_SIZE_BYTES = 4371

# By number of the row in live-viewer-probes.jsonl.
OURS: dict[int, Callable[[bytes], bytes]] = {
    # Any number of viewers may attach a session; this one is told of both streams.
    37: lambda _: list_head(live.AttachStatus.OK, 2),
    # LTTng says "new streams" when a stream gets its first packet, too.
    52: lambda reply: with_flags(reply, live.Flags.NEW_METADATA),
    # We say it with every status, and until the viewer asks.
    70: lambda reply: with_flags(reply, live.Flags.NEW_STREAM),
}


def list_head(status: int, count: int) -> bytes:
    return status.to_bytes(4, "big") + count.to_bytes(4, "big")


def with_flags(reply: bytes, flags: int) -> bytes:
    return reply[: INDEX_FLAGS.start] + flags.to_bytes(4, "big")


class Replay:
    """A relay daemon in the situation of the recorded one."""

    def __init__(self) -> None:
        self.sessions = FakeSessions()
        self.viewers = Viewers(self.sessions)
        self.by_connection: dict[str, Viewer] = {}

    def ask(self, row: Row) -> bytes:
        """The answer; CLOSED when there is none."""
        viewer = self.by_connection.setdefault(row.connection, self.viewers.viewer())
        decoder = RequestDecoder()
        decoder.receive(row.data)
        try:
            request = decoder.next_command()
            assert request is not None
            answer = viewer.handle(request)
        except RefusedCommand as refused:
            return refused.reply
        except RemoteProtocolError:
            return CLOSED
        return encode_reply(answer.reply, viewer.minor) + payload_of(answer)


def check_reply(row: Row, expected: bytes, given: bytes) -> None:
    if "hex cut" in row.note or (row.number in OURS and len(expected) == 8):
        given = given[: len(expected)]
    assert given.hex() == expected.hex(), f"{row.number} {row.label} {row.note}"


def test_single_requests() -> None:
    replay = Replay()
    session = FakeSession(1)
    metadata = FakeStream(1, is_metadata=True, channel_name="metadata")
    data, late = FakeStream(2), FakeStream(3, channel_name="b_0")

    def create() -> None:
        replay.sessions.sessions.append(session)
        session.add(metadata, data)

    def first_packet() -> None:
        metadata.receive_metadata(b"M" * 60 + bytes(4))
        receive(10, 20)

    def receive(begin: int, end: int) -> None:
        data.receive_packet(begin, end)
        data.segments[-1].data[-64:] = bytes(64)

    def close_data() -> None:
        data.is_closed = True

    def beacon() -> None:
        data.inactive_until = 999

    events: dict[str, Callable[[], object]] = {
        "live session 1 created, streams 1 (metadata) and 2 (a_0) added, not yet published": create,
        "STREAMS_SENT": session.publish,
        "64 bytes of metadata and packet 0 received": first_packet,
        "beacon ts=999": beacon,
        "stream 3 added and published": lambda: session.publish(late),
        "packet 1 received": lambda: receive(10, 1500),
        "stream a_0 closed": close_data,
        "producer connections closed": session.hang_up,
        "non-live session created": lambda: replay.sessions.sessions.append(FakeSession(2, live_timer_us=0)),
    }
    given = CLOSED
    compared = 0
    for row in read_vectors("live-viewer-probes.jsonl"):
        if row.direction == "-":
            events[row.note]()
        elif row.direction == "c2s":
            given = replay.ask(row)
        else:
            expected = OURS[row.number](row.data) if row.number in OURS else row.data
            check_reply(row, expected, given)
            compared += 1
    assert compared == 44


def test_the_conversation_of_babeltrace2() -> None:
    """Its requests against the stream that the recorded producer sent: bytes of the replies as LTTng's."""
    replay = Replay()
    session = FakeSession(1, "tracehost", "demolive")
    replay.sessions.sessions.append(session)
    path = "ust/uid/0/64-bit"
    streams = {
        number: FakeStream(number, path=path, channel_name=name, is_metadata=name == "metadata")
        for number, name in ((1, "ch_0"), (3, "metadata"), (2, "ch_1"))
    }
    session.publish(*streams.values())
    for number in (1, 2):  # a packet before the viewer came
        streams[number].segments[0].data += bytes(4096)
        streams[number].end_position = 1
        streams[number].segments[0].index += bytes(72)
        streams[number].segments[0].entry_count = 1
    rows = read_vectors("live-viewer-babeltrace-2.0.4.jsonl")
    compared = 0
    for row, reply in zip(rows[::2], rows[1::2], strict=True):
        prepare(session, streams, row, reply)
        given = replay.ask(row)
        expected = reply.data
        if reply.label == "GET_NEXT_INDEX reply":  # LTTng's flag for the first packet of a stream
            expected = with_flags(expected, live.Flags.NONE)
        if reply.label == "ATTACH_SESSION reply":  # streams can come in any order
            expected, given = sorted_streams(expected), sorted_streams(given)
        check_reply(reply, expected, given)
        compared += 1
    assert compared == 31


def sorted_streams(reply: bytes) -> bytes:
    starts = range(8, len(reply), STREAM_SIZE_BYTES)
    return reply[:8] + b"".join(sorted(reply[start : start + STREAM_SIZE_BYTES] for start in starts))


def prepare(session: FakeSession, streams: dict[int, FakeStream], row: Row, reply: Row) -> None:
    """Let happen what made LTTng answer as it did."""
    if reply.label == "GET_METADATA reply" and len(reply.data) > 12:
        streams[3].receive_metadata(reply.data[12:])
    elif reply.label == "GET_NEW_STREAMS reply" and reply.data[3] == live.NewStreamsStatus.HUP:
        session.hang_up()
    elif reply.label == "GET_PACKET reply":
        stream = streams[int.from_bytes(row.data[16:24], "big")]
        offset = int.from_bytes(row.data[24:32], "big")
        stream.segments[0].data[offset:] = reply.data[12:]
    elif reply.label == "GET_NEXT_INDEX reply":
        stream = streams[int.from_bytes(row.data[16:24], "big")]
        match live.NextIndexStatus(reply.data[59]):
            case live.NextIndexStatus.OK:
                stream.receive_packet()
                stream.segments[0].index[-72:] = reply.data[:56] + bytes(16)
            case live.NextIndexStatus.INACTIVE:
                stream.inactive_until = int.from_bytes(reply.data[32:40], "big")
            case live.NextIndexStatus.HUP:
                stream.is_closed = True
            case _:
                stream.inactive_until = None
