"""What the relay daemon asks of the world around it. Paths are relative to its output directory."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NamedTuple, Protocol

from tracefleet_common.codecs.index_file import IndexEntry
from tracefleet_relayd.domain.journal import Journal, JournalRecord
from tracefleet_relayd.domain.trace_chunk import Step
from tracefleet_relayd.domain.trace_file import FileOpener


class NoRoom(OSError):
    """The disk is full: nothing has changed, and the same may work in a while."""


class Tail(NamedTuple):
    """What the file at `path` holds from `begin_bytes` to `end_bytes`."""

    path: str
    begin_bytes: int
    end_bytes: int


class FoundFile(NamedTuple):
    """What a data file and its index file hold, or a metadata file (whose packets are the entries)."""

    entry_count: int
    end_bytes: int  # of the last whole packet
    stream_class_id: int = 0  # this and the others: as the last entry says
    discarded_event_count: int = 0
    packet_number: int = 0


class LentFiles(Protocol):
    """What the intake writes to. Methods raise OSError."""

    def touch(self) -> None:
        """Packets arrived."""

    def close(self) -> None:
        """The intake writes no more to it."""


class DataTarget(LentFiles, Protocol):
    """Where the intake writes the packets of one stream. `begin` also raises NoRoom."""

    def begin(self, path: str, *, stop_sequence: int | None, tail: Tail | None = None) -> None:
        """Make a data file, and go on at its start, or behind `tail`, which moves there.

        A packet that is under way goes along. Packets from `stop_sequence` on are held.
        """

    def go_on(self, *, stop_sequence: int | None) -> None:
        """With the same file, as its descriptor was taken away."""


class AcknowledgedTarget(LentFiles, Protocol):
    """Where the intake writes the packets and index entries of one stream whose sender hears of it.

    `index_path`: None for metadata. `next_sequence`: the number of the next packet; None: as it was.
    """

    def prepare(self, path: str, index_path: str | None) -> None:
        """Make way: what bears these names is theirs no more. Raises NoRoom too."""

    def begin(self, path: str, index_path: str | None, *, next_sequence: int | None) -> None:
        """Make the files, and go on in them. Raises NoRoom too; then, nothing has changed for the intake."""

    def resume(self, path: str, index_path: str | None, found: FoundFile, *, next_sequence: int) -> None:
        """Go on behind what is in the files. Only before, or after a `close`, of a stream the intake does not know."""

    def go_on(self) -> None:
        """With the same files, as their descriptors were taken away."""

    def make_durable(self) -> None:
        """See that what is in the files now, and their names, outlive the machine."""


class IndexWriter(Protocol):
    """An index file."""

    def write(self, number: int, entry: IndexEntry) -> None:
        """Write entry `number`, from 0. Raises NoRoom, OSError."""

    def close(self) -> None: ...


class LentIndex(Protocol):
    """An index file that the intake writes: it joins data and index entries of its stream by itself."""

    def touch(self) -> None:
        """Entries were written."""

    def take_back(self) -> None:
        """The intake writes no more to it, and reports what waits for its other half. It may have done so already."""


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

    def lend_index(self, handle: int, path: str | None, *, entry_count: int, data_end_bytes: int) -> LentIndex | None:
        """Let the intake join packets behind `data_end_bytes`; None: not now, with nothing changed.

        `path`: of an index file of format 1.1; None: the stream has no packets yet, and the intake takes beacons only.
        """

    def make_metadata_file(self, path: str) -> MetadataWriter: ...

    def make_acknowledged_target(
        self, handle: int, *, session_id: int, size_bytes_max: int, is_synced: bool
    ) -> AcknowledgedTarget:
        """For a stream; as `make_data_target`. `is_synced`: acknowledge what the device has."""

    def find_files(self, path: str, index_path: str | None) -> FoundFile | None:
        """Cut off what is no whole packet, and tell what is there. None: a file is missing, or has no header yet.

        Raises TracefleetError for an index file that is none.
        """


class ReportKind(Enum):
    PACKET = "packet"
    HOLD = "hold"
    CLOSED = "closed"
    BEACON = "beacon"
    ENTRY = "entry"  # as PACKET, and its index entry is in its file: the intake joined them
    INDEX = "index"  # an index entry that the intake gives back without its packet


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

    The last eight are what the index entry says: all of them of ENTRY and INDEX, the first four of packets that come
    with their index entries, the first two of a beacon.
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
    packet_size_bits: int = 0
    content_size_bits: int = 0
    timestamp_begin: int = 0
    stream_instance_id: int = 0


class Journals(Protocol):
    """What is remembered of acknowledged sessions, by the names of their journals.

    All raise OSError, and TracefleetError for a journal that cannot be understood or is another daemon's.
    """

    def names(self) -> Sequence[str]: ...

    def load(self, name: str) -> Journal | None:
        """None: there is none."""

    def save(self, name: str, journal: Journal, *, is_synced: bool) -> None:
        """All of it, in place of what was there. Raises NoRoom too. `is_synced`: it outlives the machine."""

    def append(self, name: str, journal: Journal, records: Sequence[JournalRecord], *, is_synced: bool) -> None:
        """`journal` has the records already. Raises NoRoom too."""

    def remove(self, name: str) -> None:
        """It need not be there."""

    def is_output_there(self, path: str) -> bool:
        """Whether there is that directory, relative to the output directory."""


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
