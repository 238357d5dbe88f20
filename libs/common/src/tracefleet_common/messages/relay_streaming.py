"""What a consumer daemon asks of a relay daemon of our own: sessions and streams. Packets go beside it.

A session is known by its token: 16 random bytes, the consumer daemon's secret. Every request may be repeated, also
after the connection broke or the relay daemon was killed: it finds the session again on its disk, and goes on where its
files end. Packets, metadata and beacons travel as frames on a data connection (include/tracefleet/fleet_frame.h), which
begins with the token; the latest one is the session's, and ends those before it.
"""

from __future__ import annotations

import msgspec

from tracefleet_common.messages.envelope import Done, Hello, HelloReply
from tracefleet_common.model.relay_output import Durability

TOKEN_SIZE_BYTES = 16
METADATA_NAME = "metadata"

# ---- requests ----


class OpenStreaming(msgspec.Struct, frozen=True, kw_only=True, tag="open-streaming"):
    """Begin a session, or go on with the one of that token. Reply: StreamingOpened."""

    token: bytes
    session_name: str
    host_name: str
    has_creation_time_in_name: bool
    creation_time_s: int  # since the Unix epoch
    sessiond_uuid: bytes  # 16 bytes; with the id they tell the relay daemon what belongs together
    session_id: int
    live_timer_period_us: int  # 0: not for live reading
    subdirectory: str  # below the relay daemon's output directory; "": it chooses
    durability: Durability


class StreamRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A stream of the trace at `path`. Called `metadata`, it takes the trace's metadata, packet by packet.

    A frame of metadata is one whole CTF metadata packet: a relay daemon that was killed counts these in its file. A
    stream that has ended may be asked for again, by a sender that did not get the answer: it is found as it ended.

    `oldest_sequence`: the first packet that the sender can still send. What the relay daemon does not have of those
    before is lost; it goes on there, and counts the gap.
    """

    path: str  # of its trace below the trace chunk, as "ust/uid/0/64-bit"
    channel_name: str  # with the CPU, as "channel0_1"
    trace_file_size_bytes: int = 0
    trace_file_count: int = 0
    oldest_sequence: int = 0


class AddStreams(msgspec.Struct, frozen=True, kw_only=True, tag="add-streams"):
    """New streams, or those of that path and name. Viewers may see them from now on. Reply: StreamsAdded."""

    token: bytes
    streams: tuple[StreamRequest, ...]


class StreamEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing follows in the stream: packets below `next_sequence` were all."""

    handle: int
    next_sequence: int


class EndStreams(msgspec.Struct, frozen=True, kw_only=True, tag="end-streams"):
    """Streams of which everything was acknowledged. Reply: Done. Those that are not known any more are ignored."""

    token: bytes
    ends: tuple[StreamEnd, ...]


class CloseStreaming(msgspec.Struct, frozen=True, kw_only=True, tag="close-streaming"):
    """The session is over; its token means nothing any more. Reply: Done, also when nobody knows the token."""

    token: bytes


RelayStreamingRequest = Hello | OpenStreaming | AddStreams | EndStreams | CloseStreaming

# ---- replies ----


class StreamingOpened(msgspec.Struct, frozen=True, kw_only=True, tag="streaming-opened"):
    """Where packets go: `data_port` of the same host."""

    relay_session_id: int
    data_port: int
    output: str  # the session's directory below the relay daemon's, for people
    is_resumed: bool  # the relay daemon knew the token


class AddedStream(msgspec.Struct, frozen=True, kw_only=True):
    """`next_sequence`: of the packet that is expected; all before it are safe, or given up by `oldest_sequence`."""

    handle: int
    next_sequence: int


class StreamsAdded(msgspec.Struct, frozen=True, kw_only=True, tag="streams-added"):
    """In the order of the request."""

    streams: tuple[AddedStream, ...]


RelayStreamingReply = HelloReply | Done | StreamingOpened | StreamsAdded
