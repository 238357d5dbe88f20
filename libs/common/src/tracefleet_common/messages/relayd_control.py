"""What anybody may ask a relay daemon about itself: whether it is well, and the sums of what it keeps.

Counts are cumulative, sizes are in bytes, as they arrived (with padding). A *lagging* packet is one of which a part
arrived: its data or its index entry is still on its way, or waits for room on the disk.
"""

from __future__ import annotations

import msgspec

from tracefleet_common.messages.envelope import Hello, HelloReply

# ---- requests ----


class DescribeRelay(msgspec.Struct, frozen=True, tag="describe-relay"):
    """Reply: RelayInfo. Also the health check: a relay daemon that answers serves all its ports."""


class ListRelaySessions(msgspec.Struct, frozen=True, tag="list-relay-sessions"):
    """Reply: RelaySessionList."""


class DescribeRelaySession(msgspec.Struct, frozen=True, tag="describe-relay-session"):
    """Reply: RelaySessionDetails. NotFound when the session is over."""

    session_id: int


RelaydRequest = Hello | DescribeRelay | ListRelaySessions | DescribeRelaySession

# ---- replies ----


class RelayLoss(msgspec.Struct, frozen=True, kw_only=True):
    """What is not there, by cause."""

    discarded_event_count: int = 0  # by the tracer: its buffers were full. As the index entries say
    missing_packet_count: int = 0  # gaps in the tracer's packet numbers: overwritten there, or lost on the way
    unmatched_packet_count: int = 0  # data without index entry, or the reverse, when the stream was closed
    overwritten_packet_count: int = 0  # trace files have a limit: the oldest one was used again


class RelaySums(msgspec.Struct, frozen=True, kw_only=True):
    """Of one stream, or of all streams of a session."""

    packet_count: int
    bytes: int
    index_entry_count: int
    lagging_packet_count: int
    # How many packets the producer was told are safe. None: its protocol (LTTng's) knows no acknowledgements.
    acknowledged_packet_count: int | None = None
    loss: RelayLoss = RelayLoss()


class RelayStreamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One stream that may still get packets. `path`: of its trace below the trace chunk, as `ust/uid/0/64-bit`."""

    stream_id: int
    path: str
    channel_name: str
    is_metadata: bool
    sums: RelaySums


class RelaySessionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A session as one consumer daemon sends it: a recording session can have several, with the same names."""

    session_id: int
    host_name: str
    session_name: str
    output: str  # below the output directory; empty for the oldest producers, who say it with each stream
    protocol_minor: int
    live_timer_us: int  # 0: not live
    is_snapshot: bool
    is_closed: bool  # the producer is gone, and some of what it announced has not arrived
    stream_count: int  # open ones
    viewer_count: int
    sums: RelaySums  # closed streams included
    trouble: str | None = None  # why its packets wait; None: all is well


class RelaySessionList(msgspec.Struct, frozen=True, tag="relay-session-list"):
    """Those that are not over, by session id."""

    sessions: tuple[RelaySessionInfo, ...]


class RelaySessionDetails(msgspec.Struct, frozen=True, tag="relay-session-details"):
    """A session and its open streams, by stream id."""

    session: RelaySessionInfo
    streams: tuple[RelayStreamInfo, ...]


class DescriptorPool(msgspec.Struct, frozen=True, kw_only=True):
    """`miss_count`: how often a file had to be opened again because others had needed its descriptor."""

    capacity: int
    reserved_count: int
    active_count: int
    suspended_count: int
    miss_count: int
    error_count: int


class RelayInfo(msgspec.Struct, frozen=True, kw_only=True, tag="relay"):
    """Who answers. URLs are where it listens."""

    version: str
    pid: int
    uid: int
    output_directory: str
    control_url: str
    data_url: str
    live_url: str
    fleet_url: str = ""  # of fleet:// sessions, and of their data; empty: it takes none
    fleet_data_url: str = ""
    session_count: int
    stream_count: int
    packet_count: int  # since the start, of sessions that are over, too
    bytes: int
    descriptors: DescriptorPool


RelaydReply = HelloReply | RelayInfo | RelaySessionList | RelaySessionDetails
