"""What the relay daemon asks of the world around it. Paths are relative to its output directory."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from tracefleet_common.codecs.index_file import IndexEntry
from tracefleet_relayd.domain.trace_chunk import Step
from tracefleet_relayd.domain.trace_file import FileOpener


class NoRoom(OSError):
    """The disk is full: nothing has changed, and the same may work in a while."""


class Tail(NamedTuple):
    """What the file at `path` holds from `begin_bytes` to `end_bytes`."""

    path: str
    begin_bytes: int
    end_bytes: int


class DataTarget(Protocol):
    """Where the intake writes the packets of one stream. Methods raise OSError, `begin` also NoRoom."""

    def begin(self, path: str, *, stop_sequence: int | None, tail: Tail | None = None) -> None:
        """Make a data file, and go on at its start, or behind `tail`, which moves there.

        A packet that is under way goes along. Packets from `stop_sequence` on are held.
        """

    def go_on(self, *, stop_sequence: int | None) -> None:
        """With the same file, as its descriptor was taken away."""

    def touch(self) -> None:
        """Packets arrived."""

    def close(self) -> None:
        """The intake writes no more to it."""


class IndexWriter(Protocol):
    """An index file."""

    def write(self, number: int, entry: IndexEntry) -> None:
        """Write entry `number`, from 0. Raises NoRoom, OSError."""

    def close(self) -> None: ...


class MetadataWriter(Protocol):
    """A metadata file."""

    def write(self, offset_bytes: int, content: bytes, padding_size_bytes: int) -> None:
        """All of it is in the file on return. Raises NoRoom, OSError."""

    def close(self) -> None: ...


class TraceStore(FileOpener, Protocol):
    """The output directory. Directories are made as they are needed; a file takes the place of one of its name,

    which whoever has it open goes on with. Methods raise OSError.
    """

    def carry_out(self, step: Step) -> None: ...

    def make_data_target(self, handle: int, *, session_id: int, size_bytes_max: int) -> DataTarget:
        """For a stream. A packet that makes a file larger than `size_bytes_max` is held; 0: none is."""

    def make_index_file(self, path: str, minor: int) -> IndexWriter:
        """`minor`: of the format, 1 or 0. Raises NoRoom too."""

    def open_index_file(self, path: str, minor: int) -> IndexWriter:
        """One that is there."""

    def make_metadata_file(self, path: str) -> MetadataWriter: ...


class ReportKind(Enum):
    PACKET = "packet"
    HOLD = "hold"
    CLOSED = "closed"
    BEACON = "beacon"


class HoldReason(Enum):
    """Why the intake cannot write a packet. Its connection waits for `resume` or `close`."""

    UNKNOWN_STREAM = "unknown-stream"
    NO_FILE = "no-file"
    FILE_FULL = "file-full"
    STOPPED = "stopped"
    STREAM_BUSY = "stream-busy"
    FOREIGN_STREAM = "foreign-stream"
    WRITE_FAILED = "write-failed"


class IntakeReport(NamedTuple):
    """What happened on a data connection, known by its token. See the native library's intake.

    The last four are of packets that come with their index entries; of a beacon, the first two.
    """

    kind: ReportKind
    reason: HoldReason | None
    error: int
    token: int
    handle: int
    sequence: int
    offset_bytes: int
    data_size_bytes: int
    padding_size_bytes: int
    timestamp_end: int = 0
    stream_class_id: int = 0
    discarded_event_count: int = 0
    packet_number: int = 0


class Intake(Protocol):
    """Threads that write packets from data connections into files. Never waits for a peer."""

    def take_reports(self) -> Sequence[IntakeReport]: ...
    def resume(self, token: int) -> None: ...
    def close(self, token: int) -> None: ...
    def set_stop(self, handle: int, stop_sequence: int) -> None: ...
    def remove(self, handle: int) -> None: ...


class Clock(Protocol):
    def now_s(self) -> int:
        """Since the epoch."""
