"""LTTng's relay protocol, the words: what a session or consumer daemon and a relay daemon say on the control port.

Every request has one reply, in order, except SendMetadata, which has none. Requests are encoded and decoded by
`lttng_relay_requests`, replies by `lttng_relay_replies`; `lttng_relay_data` has the header on the data port.

The layouts depend on the *minor* that both sides agreed on (`agreed_minor`), 0 before that. A field that a minor
does not know is None after decoding, and left out when encoding. `handle` is what the relay daemon calls a stream.

Source: lttng-tools 2.13.9, `src/common/sessiond-comm/relayd.h`, and older versions of it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import ClassVar, Final

import msgspec

from tracefleet_common.codecs.lttng_wire import TraceFormat

MAJOR: Final = 2
MINOR: Final = 13  # what lttng-tools 2.13 speaks, and all that we need of a newer peer
MINOR_INDEXES: Final = 4  # SendIndex, StreamsSent; sessions have names
MINOR_INDEX_1_1: Final = 8  # indexes carry the stream instance and the packet's number
MINOR_TRACE_CHUNKS: Final = 11
MINOR_CONFIGURATION: Final = 12
MINOR_TRACE_FORMAT: Final = 15

SESSION_NAME_SIZE_BYTES: Final = 255  # all of them with the NUL
HOST_NAME_SIZE_BYTES_MAX: Final = 256
BASE_PATH_SIZE_BYTES_MAX: Final = 4096
CHANNEL_NAME_SIZE_BYTES: Final = 264
STREAM_PATH_SIZE_BYTES_MAX: Final = 255
CHUNK_NAME_SIZE_BYTES_MAX: Final = 254
OUTPUT_PATH_SIZE_BYTES_MAX: Final = 4095  # lttng-tools refuses 4096
SESSIOND_UUID_SIZE_BYTES: Final = 16
ROTATED_STREAM_COUNT_MAX: Final = 65_536


class Command(IntEnum):
    """Third number of a request. The gaps were never used; a relay daemon does not know them."""

    ADD_STREAM = 1
    CREATE_SESSION = 2
    START_DATA = 3
    VERSION = 5
    SEND_METADATA = 6
    CLOSE_STREAM = 7
    DATA_PENDING = 8
    QUIESCENT_CONTROL = 9
    BEGIN_DATA_PENDING = 10
    END_DATA_PENDING = 11
    SEND_INDEX = 13
    STREAMS_SENT = 16
    RESET_METADATA = 17
    ROTATE_STREAMS = 18
    CREATE_TRACE_CHUNK = 19
    CLOSE_TRACE_CHUNK = 20
    TRACE_CHUNK_EXISTS = 21
    GET_CONFIGURATION = 22


class ReturnCode(IntEnum):
    """Return codes that lttng-relayd uses. Others may arrive: everything but OK is a failure."""

    OK = 10
    UNKNOWN = 11
    FATAL = 25
    NO_MEMORY = 26
    INVALID = 97
    INVALID_PROTOCOL = 152
    FILE_CREATION_ERROR = 153


class CloseCommand(IntEnum):
    """What becomes of a trace chunk when the last stream has left it. None of them: it stays where it is."""

    MOVE_TO_COMPLETED = 0
    NO_OPERATION = 1
    DELETE = 2


class PendingStatus(IntEnum):
    """Whether a relay daemon still waits for data that was announced to it."""

    ARRIVED = 0
    PENDING = 1
    ERROR = 0xFFFFFFFF


def agreed_minor(own_minor: int, peer_minor: int) -> int:
    """Return the minor that both sides use from now on. Each announces its own; majors must be equal."""
    return min(own_minor, peer_minor)


# ── Requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────


class Version(msgspec.Struct, frozen=True, kw_only=True):
    """First request of a connection, and its reply: what the sender speaks, not what was agreed on."""

    command: ClassVar[Command] = Command.VERSION
    major: int = MAJOR
    minor: int = MINOR


class CreateSession(msgspec.Struct, frozen=True, kw_only=True):
    """One per connection. Before minor 4 it is empty: names are then in the paths of the streams.

    Names are decoded, not judged: whether they may become file names is the receiver's question.
    """

    command: ClassVar[Command] = Command.CREATE_SESSION
    session_name: str = ""
    host_name: str = ""
    live_timer_us: int = 0  # 0: not live
    is_snapshot: bool = False
    # Since minor 11.
    base_path: str = ""
    has_creation_time_in_name: bool = False
    sessiond_uuid: bytes | None = None
    sessiond_session_id: int | None = None
    creation_time_s: int | None = None  # since the epoch
    current_chunk_id: int | None = None  # None also when there is none yet
    # Since minor 15.
    trace_format: TraceFormat | None = None


class AddStream(msgspec.Struct, frozen=True, kw_only=True):
    """A data stream, or the metadata stream of its path when the channel is called `metadata`."""

    command: ClassVar[Command] = Command.ADD_STREAM
    channel_name: str  # with the CPU: ch_0
    path: str  # before minor 11 with host and session in front, and a slash at its start
    trace_file_size_bytes: int = 0  # 0: unlimited. Since minor 2
    trace_file_count: int = 0  # 0: unlimited. Since minor 2
    trace_chunk_id: int | None = None  # since minor 11; lttng-relayd ignores it


class StartData(msgspec.Struct, frozen=True):
    """Never sent by lttng-tools; does nothing."""

    command: ClassVar[Command] = Command.START_DATA


class StreamsSent(msgspec.Struct, frozen=True):
    """Viewers may see all streams that were added so far. Since minor 4."""

    command: ClassVar[Command] = Command.STREAMS_SENT


class SendMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """One whole metadata packet, to be followed by `padding_size_bytes` zero bytes in the file. No reply."""

    command: ClassVar[Command] = Command.SEND_METADATA
    stream_handle: int
    content: bytes
    padding_size_bytes: int = 0


class CloseStream(msgspec.Struct, frozen=True, kw_only=True):
    """Nothing follows the packet `last_sequence_number` (None: nothing was sent, or it is a metadata stream)."""

    command: ClassVar[Command] = Command.CLOSE_STREAM
    stream_handle: int
    last_sequence_number: int | None


class BeginDataPending(msgspec.Struct, frozen=True, kw_only=True):
    """Starts a round of DataPending and QuiescentControl, one per stream, that EndDataPending concludes."""

    command: ClassVar[Command] = Command.BEGIN_DATA_PENDING
    session_id: int


class DataPending(msgspec.Struct, frozen=True, kw_only=True):
    """Asks whether everything up to the packet `last_sequence_number` (None: nothing was sent) has arrived."""

    command: ClassVar[Command] = Command.DATA_PENDING
    stream_handle: int
    last_sequence_number: int | None


class QuiescentControl(msgspec.Struct, frozen=True, kw_only=True):
    """DataPending for a metadata stream: nothing can be under way, as it uses this very connection."""

    command: ClassVar[Command] = Command.QUIESCENT_CONTROL
    stream_handle: int


class EndDataPending(msgspec.Struct, frozen=True, kw_only=True):
    """Asks whether a stream that was not asked for since BeginDataPending still waits for data."""

    command: ClassVar[Command] = Command.END_DATA_PENDING
    session_id: int


class SendIndex(msgspec.Struct, frozen=True, kw_only=True):
    """Index entry of one packet, or a beacon of a live stream. Since minor 4. Timestamps are clock cycles (not ns)."""

    command: ClassVar[Command] = Command.SEND_INDEX
    stream_handle: int
    sequence_number: int | None  # of the packet on the data connection; beacon: the last one sent, None if none was
    packet_size_bits: int  # 0: a beacon
    content_size_bits: int
    timestamp_begin: int
    timestamp_end: int
    discarded_event_count: int  # of the stream so far
    stream_class_id: int
    stream_instance_id: int | None = None  # since minor 8: CPU
    packet_sequence_number: int | None = None  # since minor 8: the tracer's count

    @property
    def is_beacon(self) -> bool:
        """Nothing happened in the stream until `timestamp_end`; only that and the class id mean something."""
        return self.packet_size_bits == 0


class ResetMetadata(msgspec.Struct, frozen=True, kw_only=True):
    """Empties a metadata stream: its text follows anew. Since minor 8."""

    command: ClassVar[Command] = Command.RESET_METADATA
    stream_handle: int
    version: int


class RotationPosition(msgspec.Struct, frozen=True, kw_only=True):
    """First packet of a stream in its next chunk, by the tracer's count; ignored for metadata streams."""

    stream_handle: int
    packet_sequence_number: int


class RotateStreams(msgspec.Struct, frozen=True, kw_only=True):
    """Streams go on in another chunk, or in none. Since minor 11."""

    command: ClassVar[Command] = Command.ROTATE_STREAMS
    new_chunk_id: int | None
    positions: tuple[RotationPosition, ...]


class CreateTraceChunk(msgspec.Struct, frozen=True, kw_only=True):
    """The session's current chunk from now on. Since minor 11."""

    command: ClassVar[Command] = Command.CREATE_TRACE_CHUNK
    chunk_id: int
    creation_time_s: int  # since the epoch
    override_name: str | None = None  # a snapshot's


class CloseTraceChunk(msgspec.Struct, frozen=True, kw_only=True):
    """No stream goes to this chunk any more. Since minor 11."""

    command: ClassVar[Command] = Command.CLOSE_TRACE_CHUNK
    chunk_id: int
    close_time_s: int  # since the epoch
    close_command: CloseCommand | None = None


class TraceChunkExists(msgspec.Struct, frozen=True, kw_only=True):
    """Asks whether a stream still is in the chunk. Since minor 11."""

    command: ClassVar[Command] = Command.TRACE_CHUNK_EXISTS
    chunk_id: int


class GetConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """Asks what the relay daemon allows. Since minor 12."""

    command: ClassVar[Command] = Command.GET_CONFIGURATION
    query_flags: int = 0  # none is defined


Request = (
    Version
    | CreateSession
    | AddStream
    | StartData
    | StreamsSent
    | SendMetadata
    | CloseStream
    | BeginDataPending
    | DataPending
    | QuiescentControl
    | EndDataPending
    | SendIndex
    | ResetMetadata
    | RotateStreams
    | CreateTraceChunk
    | CloseTraceChunk
    | TraceChunkExists
    | GetConfiguration
)


# ── Replies ──────────────────────────────────────────────────────────────────────────────────────────────────────────


class StatusReply(msgspec.Struct, frozen=True, kw_only=True):
    """To everything that has no reply of its own, and to unknown commands."""

    return_code: int = ReturnCode.OK


class CreateSessionReply(msgspec.Struct, frozen=True, kw_only=True):
    """To CreateSession. `output_path`: below the relay daemon's directory; since minor 11."""

    session_id: int
    return_code: int = ReturnCode.OK
    output_path: str | None = None


class AddStreamReply(msgspec.Struct, frozen=True, kw_only=True):
    """To AddStream. Handles are unique in the relay daemon, and never 0."""

    stream_handle: int | None  # None: refused before it had one
    return_code: int = ReturnCode.OK


class PendingReply(msgspec.Struct, frozen=True, kw_only=True):
    """To DataPending and EndDataPending."""

    status: PendingStatus


class CloseTraceChunkReply(msgspec.Struct, frozen=True, kw_only=True):
    """To CloseTraceChunk: where the chunk is or will be, below the relay daemon's directory."""

    path: str = ""
    return_code: int = ReturnCode.OK


class TraceChunkExistsReply(msgspec.Struct, frozen=True, kw_only=True):
    """To TraceChunkExists."""

    is_there: bool
    return_code: int = ReturnCode.OK


class GetConfigurationReply(msgspec.Struct, frozen=True, kw_only=True):
    """To GetConfiguration."""

    is_clear_allowed: bool
    return_code: int = ReturnCode.OK


Reply = (
    Version
    | StatusReply
    | CreateSessionReply
    | AddStreamReply
    | PendingReply
    | CloseTraceChunkReply
    | TraceChunkExistsReply
    | GetConfigurationReply
)
