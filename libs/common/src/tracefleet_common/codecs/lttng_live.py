"""LTTng's live protocol, the words: a viewer asks (port 5344), a relay daemon answers, one request at a time.

Requests are encoded and decoded by `lttng_live_requests`, replies by `lttng_live_replies`. The layouts are the same
for all minors up to 14; from 15 on the list of sessions has another one.

Source: lttng-tools 2.13.9, `src/bin/lttng-relayd/lttng-viewer-abi.h`.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import ClassVar, Final

import msgspec

from tracefleet_common.codecs.lttng_wire import TraceFormat

MAJOR: Final = 2
MINOR: Final = 13
MINOR_TRACE_FORMAT: Final = 15
VIEWER_SESSION_ID_UNSET: Final = 0xFFFFFFFFFFFFFFFF  # what viewers put into Connect

HOST_NAME_SIZE_BYTES: Final = 64  # all of them with the NUL
SESSION_NAME_SIZE_BYTES: Final = 255
PATH_SIZE_BYTES: Final = 4096
CHANNEL_NAME_SIZE_BYTES: Final = 255


class Command(IntEnum):
    """Second number of a request."""

    CONNECT = 1
    LIST_SESSIONS = 2
    ATTACH_SESSION = 3
    GET_NEXT_INDEX = 4
    GET_PACKET = 5
    GET_METADATA = 6
    GET_NEW_STREAMS = 7
    CREATE_VIEWER_SESSION = 8
    DETACH_SESSION = 9


class ConnectionType(IntEnum):
    """What a viewer connects for. lttng-relayd closes the connection on any other."""

    UNSET = 0  # in the reply
    COMMAND = 1
    NOTIFICATION = 2


class Seek(IntEnum):
    """Where a viewer starts to read. Metadata always starts at its beginning."""

    BEGINNING = 1
    LAST = 2


class CreateViewerSessionStatus(IntEnum):
    OK = 1
    ERROR = 2


class AttachStatus(IntEnum):
    OK = 1
    ALREADY = 2
    UNKNOWN = 3
    NOT_LIVE = 4
    SEEK_ERROR = 5
    NO_SESSION = 6


class NextIndexStatus(IntEnum):
    OK = 1
    RETRY = 2
    HUP = 3
    ERROR = 4
    INACTIVE = 5
    EOF = 6  # never sent by lttng-relayd; babeltrace2 takes it for an error


class PacketStatus(IntEnum):
    OK = 1
    RETRY = 2
    ERROR = 3
    EOF = 4


class MetadataStatus(IntEnum):
    OK = 1
    NO_NEW = 2
    ERROR = 3


class NewStreamsStatus(IntEnum):
    OK = 1
    NO_NEW = 2
    ERROR = 3
    HUP = 4


class DetachStatus(IntEnum):
    OK = 1
    UNKNOWN = 2
    ERROR = 3


class Flags(IntFlag):
    """What else the viewer should fetch before it goes on."""

    NONE = 0
    NEW_METADATA = 1
    NEW_STREAM = 2


# ── Requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Connect(msgspec.Struct, frozen=True, kw_only=True):
    """First request of a connection, and its reply. Each side uses the lower minor; majors must be equal."""

    command: ClassVar[Command] = Command.CONNECT
    viewer_session_id: int = VIEWER_SESSION_ID_UNSET
    major: int = MAJOR
    minor: int = MINOR
    connection_type: int = ConnectionType.COMMAND  # whatever number came; the reply's is UNSET


class ListSessions(msgspec.Struct, frozen=True):
    command: ClassVar[Command] = Command.LIST_SESSIONS


class CreateViewerSession(msgspec.Struct, frozen=True):
    """Once per connection, before AttachSession."""

    command: ClassVar[Command] = Command.CREATE_VIEWER_SESSION


class AttachSession(msgspec.Struct, frozen=True, kw_only=True):
    command: ClassVar[Command] = Command.ATTACH_SESSION
    session_id: int
    seek: int  # a Seek; any other number is answered with SEEK_ERROR


class GetNextIndex(msgspec.Struct, frozen=True, kw_only=True):
    """The index entry after the last one of this data stream; it is consumed when the status is OK."""

    command: ClassVar[Command] = Command.GET_NEXT_INDEX
    stream_id: int


class GetPacket(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes of a data stream, at an offset that an index entry gave."""

    command: ClassVar[Command] = Command.GET_PACKET
    stream_id: int
    offset_bytes: int
    size_bytes: int


class GetMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """What is new in a metadata stream."""

    command: ClassVar[Command] = Command.GET_METADATA
    stream_id: int


class GetNewStreams(msgspec.Struct, frozen=True, kw_only=True):
    """Streams of an attached session that the viewer was not told of yet."""

    command: ClassVar[Command] = Command.GET_NEW_STREAMS
    session_id: int


class DetachSession(msgspec.Struct, frozen=True, kw_only=True):
    command: ClassVar[Command] = Command.DETACH_SESSION
    session_id: int


Request = (
    Connect
    | ListSessions
    | CreateViewerSession
    | AttachSession
    | GetNextIndex
    | GetPacket
    | GetMetadata
    | GetNewStreams
    | DetachSession
)


# ── Replies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class LiveSession(msgspec.Struct, frozen=True, kw_only=True):
    """One session of a list. Several may have the same names: one per consumer daemon."""

    session_id: int
    live_timer_us: int  # 0: not live
    viewer_count: int
    stream_count: int
    host_name: str
    session_name: str
    trace_format: TraceFormat | None = None  # since minor 15


class SessionList(msgspec.Struct, frozen=True, kw_only=True):
    """To ListSessions."""

    sessions: tuple[LiveSession, ...] = ()


class LiveStream(msgspec.Struct, frozen=True, kw_only=True):
    """A stream that the viewer may read. Those of one trace share one metadata stream."""

    stream_id: int
    trace_id: int
    is_metadata: bool
    path: str
    channel_name: str


class CreateViewerSessionReply(msgspec.Struct, frozen=True, kw_only=True):
    status: CreateViewerSessionStatus = CreateViewerSessionStatus.OK


class AttachReply(msgspec.Struct, frozen=True, kw_only=True):
    """To AttachSession."""

    status: AttachStatus
    streams: tuple[LiveStream, ...] = ()


class NewStreamsReply(msgspec.Struct, frozen=True, kw_only=True):
    """To GetNewStreams."""

    status: NewStreamsStatus
    streams: tuple[LiveStream, ...] = ()


class NextIndexReply(msgspec.Struct, frozen=True, kw_only=True):
    """To GetNextIndex. All numbers are 0 except with OK, and with INACTIVE `timestamp_end` and the class id."""

    status: NextIndexStatus
    flags: int = Flags.NONE
    offset_bytes: int = 0  # to be given back in GetPacket
    packet_size_bits: int = 0
    content_size_bits: int = 0
    timestamp_begin: int = 0  # clock cycles (not ns)
    timestamp_end: int = 0  # INACTIVE: nothing will come before it
    discarded_event_count: int = 0
    stream_class_id: int = 0


class PacketReply(msgspec.Struct, frozen=True, kw_only=True):
    """To GetPacket. With OK, `size_bytes` bytes of the stream follow it."""

    status: PacketStatus
    size_bytes: int = 0
    flags: int = Flags.NONE


class MetadataReply(msgspec.Struct, frozen=True, kw_only=True):
    """To GetMetadata. With OK, `size_bytes` bytes of the stream follow it: whole packets."""

    status: MetadataStatus
    size_bytes: int = 0


class DetachReply(msgspec.Struct, frozen=True, kw_only=True):
    """To DetachSession."""

    status: DetachStatus = DetachStatus.OK


Reply = (
    Connect
    | SessionList
    | CreateViewerSessionReply
    | AttachReply
    | NewStreamsReply
    | NextIndexReply
    | PacketReply
    | MetadataReply
    | DetachReply
)
