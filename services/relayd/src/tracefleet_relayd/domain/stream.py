"""A stream of a session: which of its packets arrived, in which files they are, and when it moves on or ends.

Data and index entries come over different connections, in any order; an entry is written once both are there.
Nothing is read or written here. Numbers of packets are -1 for "none yet"; `sequence` numbers count what was sent to
this relay daemon, `packet` numbers are the tracer's.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from tracefleet_common.codecs.index_file import IndexEntry
from tracefleet_common.codecs.lttng_relay import SendIndex
from tracefleet_common.errors import AlreadyExists, NotFound, RemoteProtocolError, WrongState
from tracefleet_relayd.domain import names
from tracefleet_relayd.domain.trace_chunk import Step, TraceChunk
from tracefleet_relayd.domain.trace_file import FileOpener, OpenedFile, TraceFile

# Halves of index entries that wait for the other one. A genuine consumer daemon has about one on its way.
WAITING_HALVES_MAX: Final = 65_536
NONE_YET: Final = -1


@dataclass(frozen=True)
class StreamSettings:
    """As its producer asked for it; names and path are checked. `path` is below the chunk, and names the trace."""

    handle: int
    trace_id: int
    session_id: int
    path: str
    channel_name: str
    shown_path: str  # to viewers
    file_size_bytes_max: int = 0  # 0: no limit
    file_count: int = 0  # 0: no limit
    has_indexes: bool = True
    is_acknowledged: bool = False  # a fleet:// stream: packets come with their index entries, metadata too

    @property
    def is_metadata(self) -> bool:
        return self.channel_name == names.METADATA_NAME


class DataHalf(NamedTuple):
    """Where a packet is whose index entry did not come yet."""

    file: TraceFile
    offset_bytes: int


@dataclass
class Rotation:
    """A move to another chunk that was asked for. `last`: the last packet that stays; None: not known yet."""

    position: int
    next_chunk: TraceChunk | None
    last: int | None = None


@dataclass
class StreamBooks:
    """What arrived, and what is known to be missing."""

    packet_count: int = 0
    size_bytes: int = 0  # with padding
    entry_count: int = 0
    dropped_half_count: int = 0  # index entries or packets whose other half never came
    discarded_event_count: int = 0  # by the tracer, as it says
    missing_packet_count: int = 0  # gaps in the tracer's numbers
    overwritten_packet_count: int = 0  # by later trace files

    def add(self, other: StreamBooks) -> None:
        """Sum up."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) + count)

    def subtract(self, other: StreamBooks) -> None:
        """Undo an `add`."""
        for name, count in vars(other).items():
            setattr(self, name, getattr(self, name) - count)


class ResumedFile(NamedTuple):
    """One of the files that a stream left."""

    number: int | None  # None: it has one file only
    entry_count: int
    end_bytes: int


class Stream:
    """`opener` is how viewers get at its files."""

    def __init__(self, settings: StreamSettings, chunk: TraceChunk, opener: FileOpener) -> None:
        self.settings = settings
        self.books = StreamBooks()
        self.chunk: TraceChunk | None = chunk
        self.rotation: Rotation | None = None
        self.is_published = False
        self.is_closed = False
        self.is_close_requested = False
        self.was_asked_for_data = False  # since BEGIN_DATA_PENDING
        self.inactive_until: int | None = None
        self.stream_class_id = 0
        self.metadata_size_bytes = 0
        self.last_data = NONE_YET
        self.last_entry = NONE_YET
        self.last_announced = NONE_YET
        self.end_position = 0
        self._opener = opener
        self._data_halves: dict[int, DataHalf] = {}
        self._index_halves: dict[int, SendIndex] = {}
        self._joined: deque[int] = deque()  # both halves are there
        self._last_index = NONE_YET  # received, by sequence number
        self._last_packet: int | None = None  # likewise, by the tracer's number
        self._segments: list[TraceFile] = []
        self._segment_chunks: list[TraceChunk] = []  # of the segments
        self._has_overwritten = False  # one of the segments
        self._readers: dict[object, int] = {}
        chunk.hold()
        self.file: TraceFile | None = self._new_file(chunk, 0)
        self._metadata_file = self.file  # of the last chunk it was in

    # ---- files ----

    def _new_file(self, chunk: TraceChunk, number: int) -> TraceFile:
        settings = self.settings
        has_number = settings.file_size_bytes_max > 0
        file = TraceFile(chunk, settings.path, settings.channel_name, number if has_number else None, self._opener)
        chunk.note_directory(settings.path)
        chunk.files.add(file.relative_path)
        return file

    def next_file(self) -> TraceFile:
        """Go on in the next file of this chunk, because the current one is full; it replaces one of its name."""
        assert self.file is not None and self.file.number is not None, "it has a limit"
        number = self.file.number + 1
        if self.settings.file_count and number >= self.settings.file_count:
            number = 0
        file = self._new_file(self.file.chunk, number)
        for older in (*self._segments, self.file):
            if older.chunk is file.chunk and older.number == number and not older.is_removed:
                older.is_removed = self._has_overwritten = True
                self.books.overwritten_packet_count += older.entry_count
        self.file = file
        return file

    def note_index_file(self) -> None:
        """The index file of the current file is made."""
        assert self.file is not None
        self.file.has_index_file = True
        self.file.chunk.note_directory(f"{self.settings.path}/{names.INDEX_DIRECTORY}")
        self.file.chunk.files.add(self.file.relative_index_path)

    def resume(self, files: Sequence[ResumedFile], next_sequence: int) -> None:
        """Take over what is there already: the files in their order; packets go to the last one, or behind it.

        Only for an acknowledged stream that is new here.
        """
        assert self.file is not None and self.settings.is_acknowledged
        chunk = self.file.chunk
        for number, entry_count, end_bytes in files:
            self.file = self._metadata_file = self._new_file(chunk, number or 0)
            self.file.end_bytes = end_bytes
            self.books.packet_count += entry_count
            self.books.size_bytes += end_bytes
            if self.settings.is_metadata:
                self.metadata_size_bytes = end_bytes
                continue
            self.note_index_file()
            self.books.entry_count += entry_count
            self.file.entry_count = entry_count
            if entry_count:
                self.file.first_position = self.end_position
                self.end_position += entry_count
                self._segments.append(self.file)
        self.last_data = self.last_entry = next_sequence - 1

    def resume_numbers(self, stream_class_id: int, discarded_event_count: int, packet_number: int) -> None:
        """As the last index entry says."""
        self.stream_class_id = stream_class_id
        self.books.discarded_event_count = discarded_event_count
        self._last_packet = packet_number

    # ---- packets and index entries ----

    def take_packet(self, sequence: int, offset_bytes: int, size_bytes: int) -> None:
        """It is in the current file, whole. Raises RemoteProtocolError for one that came before."""
        assert self.file is not None
        if self.settings.has_indexes:
            if sequence in self._data_halves:
                raise RemoteProtocolError(f"Packet {sequence} of stream {self.stream_id} comes twice")
            if len(self._data_halves) >= WAITING_HALVES_MAX:
                raise RemoteProtocolError(f"Stream {self.stream_id} has {WAITING_HALVES_MAX} packets without index")
            self._data_halves[sequence] = DataHalf(self.file, offset_bytes)
            if sequence in self._index_halves:
                self._joined.append(sequence)
        self.last_data = sequence
        self.file.end_bytes = offset_bytes + size_bytes
        self.books.packet_count += 1
        self.books.size_bytes += size_bytes

    def take_entry(
        self,
        sequence: int,
        offset_bytes: int,
        size_bytes: int,
        stream_class_id: int,
        discarded_event_count: int,
        packet_number: int,
    ) -> None:
        """A packet is in the current file, and so is its index entry, if the stream has them: metadata has none."""
        file, books = self.file, self.books
        assert file is not None
        self.last_data = self.last_entry = self._last_index = sequence
        file.end_bytes = offset_bytes + size_bytes
        books.packet_count += 1
        books.size_bytes += size_bytes
        if self.settings.is_metadata:
            self.metadata_size_bytes += size_bytes
            return
        file.entry_count += 1
        books.entry_count += 1
        if discarded_event_count > books.discarded_event_count:
            books.discarded_event_count = discarded_event_count
        if self._last_packet is not None and packet_number > self._last_packet + 1:
            books.missing_packet_count += packet_number - self._last_packet - 1
        self._last_packet = packet_number
        if file.first_position < 0:
            self._begin_segment(file)
        self.end_position += 1
        self.inactive_until = None
        self.stream_class_id = stream_class_id

    def take_beacon(self, timestamp_end: int, stream_class_id: int) -> None:
        """No later packet begins before that time, in clock cycles. All packets before the beacon are here."""
        self.inactive_until = timestamp_end
        self.stream_class_id = stream_class_id

    def take_index(self, index: SendIndex) -> None:
        """Raises AlreadyExists when its packet's entry waits already, RemoteProtocolError for other nonsense."""
        if index.is_beacon:
            self._take_beacon(index)
            return
        sequence = index.sequence_number
        if sequence is None or self.settings.is_metadata:
            raise RemoteProtocolError(f"An index entry of stream {self.stream_id} belongs to no packet")
        if sequence in self._index_halves:
            raise AlreadyExists(f"The index entry of packet {sequence} of stream {self.stream_id} comes twice")
        self._index_halves[sequence] = index
        self._find_end_of_chunk(index, sequence)
        self._last_index = sequence
        self.books.discarded_event_count = max(self.books.discarded_event_count, index.discarded_event_count)
        if index.packet_sequence_number is not None:
            if self._last_packet is not None:
                self.books.missing_packet_count += max(0, index.packet_sequence_number - self._last_packet - 1)
            self._last_packet = index.packet_sequence_number
        if sequence in self._data_halves:
            self._joined.append(sequence)

    @property
    def has_many_index_halves(self) -> bool:
        """More entries than that have to wait until packets come."""
        return len(self._index_halves) >= WAITING_HALVES_MAX

    def _take_beacon(self, index: SendIndex) -> None:
        # While a half waits, a packet older than the beacon is on its way.
        if not self._index_halves and not self._data_halves:
            self.take_beacon(index.timestamp_end, index.stream_class_id)

    def take_metadata(self, size_bytes: int) -> None:
        """A whole packet of the metadata is in its file, padding included."""
        self.metadata_size_bytes += size_bytes
        self.books.packet_count += 1
        self.books.size_bytes += size_bytes

    @property
    def has_something_to_do(self) -> bool:
        """Not when a packet is one more that waits for its index entry, which is the usual case."""
        return (
            bool(self._joined)
            or self.rotation is not None
            or self.is_close_requested
            or (self.file is not None and not self.file.has_index_file)
        )

    def joined_entries(self) -> Iterator[tuple[TraceFile, IndexEntry]]:
        """Entries to be written now, in order. Each counts for viewers after `note_entry`."""
        while self._joined:
            last = NONE_YET if self.rotation is None else self.rotation.last
            sequence = self._joined[0]
            if self.rotation is not None and last is not None and sequence > last:
                return  # it belongs to the next chunk
            self._joined.popleft()
            index = self._index_halves.pop(sequence)
            half = self._data_halves.pop(sequence)
            self.last_entry = sequence
            yield half.file, _entry(index, half.offset_bytes)

    def note_entry(self, file: TraceFile, entry: IndexEntry) -> None:
        """It is in the index file."""
        file.entry_count += 1
        self.books.entry_count += 1
        self.inactive_until = None
        self.stream_class_id = entry.stream_class_id
        if file.first_position < 0:
            self._begin_segment(file)
        if self._segments and self._segments[-1] is file:
            self.end_position += 1
        # else: it came so late that a newer file has entries already. Readers of the trace see it, viewers do not.

    def _begin_segment(self, file: TraceFile) -> None:
        file.first_position = self.end_position
        self._segments.append(file)
        if not self._segment_chunks or self._segment_chunks[-1] is not file.chunk:
            self._segment_chunks.append(file.chunk)

    @property
    def is_settled(self) -> bool:
        """Packets and index entries come, and none waits for its other half: somebody else may join the next ones."""
        settings = self.settings
        return (
            settings.has_indexes
            and not settings.is_metadata
            and not settings.is_acknowledged
            and self.file is not None
            and not self.file.is_gone
            and not (self._data_halves or self._index_halves or self._joined)
            and self.rotation is None
            and not self.is_close_requested
        )

    # ---- moving to another chunk ----

    def rotate(self, position: int, next_chunk: TraceChunk | None) -> None:
        """Move to `next_chunk` before packet `position`. Raises WrongState when a move is under way already."""
        if self.rotation is not None:
            raise WrongState(f"Stream {self.stream_id} is being rotated already")
        rotation = Rotation(position, next_chunk)
        if self.settings.is_metadata or (position == 0 and self._has_nothing()):
            rotation.last = NONE_YET
        elif self._last_packet is not None and self._last_packet + 1 >= position:
            rotation.last = self._last_before(position)
            if next_chunk is None and (self.last_data > rotation.last or self._last_index > rotation.last):
                raise WrongState(f"Stream {self.stream_id} went beyond packet {position}, and has no next chunk")
        self.rotation = rotation
        if next_chunk is not None:
            next_chunk.hold()

    def _has_nothing(self) -> bool:
        return self.last_data == NONE_YET and not self._index_halves

    def _last_before(self, position: int) -> int:
        """The last packet of the old chunk; entries that are written already stay there in any case."""
        beyond = [
            sequence
            for sequence, index in self._index_halves.items()
            if index.packet_sequence_number is not None and index.packet_sequence_number >= position
        ]
        return max(self.last_entry, min(beyond) - 1 if beyond else self._last_index)

    def _find_end_of_chunk(self, index: SendIndex, sequence: int) -> None:
        rotation, number = self.rotation, index.packet_sequence_number
        if rotation is None or rotation.last is not None or number is None:
            return
        if number >= rotation.position:  # numbers may jump over the position
            rotation.last = sequence - 1
        elif number + 1 >= rotation.position:
            rotation.last = sequence

    @property
    def stop_sequence(self) -> int | None:
        """Packets from this number on belong to another chunk than the current one. None: not known, or no end."""
        if self.rotation is None or self.rotation.last is None:
            return None
        return self.rotation.last + 1

    @property
    def is_ready_to_move(self) -> bool:
        """The old chunk has all its packets."""
        rotation = self.rotation
        return rotation is not None and rotation.last is not None and self.last_data >= rotation.last

    def give_up_waiting(self) -> None:
        """Packets beyond the end of the chunk arrive: those missing before it never will."""
        if self.rotation is not None and self.rotation.last is not None:
            self.rotation.last = min(self.rotation.last, self.last_data)

    def surplus_offset_bytes(self) -> int | None:
        """Where in the current file the packets begin that belong to the next chunk; None: there are none.

        When some of them are in older files, all stay where they are.
        """
        assert self.rotation is not None and self.rotation.last is not None
        surplus = [half for sequence, half in self._data_halves.items() if sequence > self.rotation.last]
        if not surplus or any(half.file is not self.file for half in surplus):
            return None
        return min(half.offset_bytes for half in surplus)

    def move(self) -> list[Step]:
        """Leave the old chunk; what has to be done as it may be the last to do so. Then `file` is the new one."""
        rotation = self.rotation
        assert rotation is not None and rotation.last is not None
        surplus_at = None if self.settings.is_metadata else self.surplus_offset_bytes()
        old_file, old_chunk = self.file, self.chunk
        self.rotation = None
        self.chunk = rotation.next_chunk
        self.file = None
        if self.chunk is not None:
            self.file = self._new_file(self.chunk, 0)
            self._metadata_file = self.file
            self.metadata_size_bytes = 0
            self._forget_segments()
        for sequence, half in self._data_halves.items():
            if sequence > rotation.last and surplus_at is not None and self.file is not None:
                assert old_file is not None
                self._data_halves[sequence] = DataHalf(self.file, half.offset_bytes - surplus_at)
                self.file.end_bytes = old_file.end_bytes - surplus_at
        if surplus_at is not None and old_file is not None:
            old_file.end_bytes = surplus_at
        return old_chunk.release() if old_chunk is not None else []

    # ---- the end ----

    def is_pending(self, last: int) -> bool:
        """Whether something up to packet `last` did not arrive."""
        arrived = min(self.last_data, self.last_entry) if self.settings.has_indexes else self.last_data
        return arrived < last

    def ask_to_close(self, last: int | None) -> None:
        """Nothing follows packet `last`; None: whoever asks does not know."""
        self.is_close_requested = True
        if last is not None:
            self.last_announced = last

    def may_close(self, *, is_aborted: bool = False) -> bool:
        """Whether all that was announced is there."""
        if self.last_announced == NONE_YET:
            self._drop_halves(self._data_halves, set(self._index_halves))
            self.last_announced = max(self._index_halves, default=NONE_YET)
        return is_aborted or self.last_data >= self.last_announced

    def close(self) -> list[Step]:
        """It gets nothing more. Viewers read on. What has to be done as it leaves its chunk."""
        self.is_closed = True
        self._drop_halves(self._data_halves, set())
        self._drop_halves(self._index_halves, set())
        self._joined.clear()
        steps: list[Step] = []
        if self.rotation is not None and self.rotation.next_chunk is not None:
            steps += self.rotation.next_chunk.release()
        self.rotation = None
        if self.chunk is not None:
            steps += self.chunk.release()
        self.chunk = self.file = None
        return steps

    def _drop_halves(self, halves: dict[int, DataHalf] | dict[int, SendIndex], wanted: set[int]) -> None:
        for sequence in [sequence for sequence in halves if sequence not in wanted]:
            del halves[sequence]
            self.books.dropped_half_count += 1

    # ---- what others ask ----

    @property
    def lagging_packet_count(self) -> int:
        """Packets that are not readable yet: a half is missing, or waits for room on the disk."""
        return len(self._data_halves.keys() | self._index_halves.keys())

    @property
    def stream_id(self) -> int:
        return self.settings.handle

    @property
    def trace_id(self) -> int:
        return self.settings.trace_id

    @property
    def is_metadata(self) -> bool:
        return self.settings.is_metadata

    @property
    def path(self) -> str:
        return self.settings.shown_path

    @property
    def channel_name(self) -> str:
        return self.settings.channel_name

    @property
    def is_rotating(self) -> bool:
        return self.rotation is not None

    @property
    def first_position(self) -> int:
        self._forget_gone_segments()
        return self._segments[0].first_position if self._segments else self.end_position

    def segment_at(self, position: int) -> TraceFile | None:
        self._forget_gone_segments()
        if not 0 <= position < self.end_position:
            return None
        at = bisect_right(self._segments, position, key=lambda file: file.first_position) - 1
        return self._segments[at] if at >= 0 else None

    def keep(self, reader: object, position: int) -> None:
        self._readers[reader] = position

    def release(self, reader: object) -> None:
        self._readers.pop(reader, None)

    @property
    def metadata_file(self) -> object:
        return self._metadata_file

    def open_metadata(self) -> OpenedFile:
        if self._metadata_file is None:
            raise NotFound(f"Stream {self.stream_id} has no file")
        return self._metadata_file.open_data()

    def _forget_gone_segments(self) -> None:
        # Viewers ask often, and there may be thousands of files.
        if self._has_overwritten or any(chunk.is_removed for chunk in self._segment_chunks):
            self._has_overwritten = False
            self._segments = [file for file in self._segments if not file.is_gone]
            self._segment_chunks = list(dict.fromkeys(file.chunk for file in self._segments))

    def _forget_segments(self) -> None:
        """Those of former chunks that no viewer is going to read."""
        needed_from = min(self._readers.values(), default=self.end_position)
        while self._segments:
            end = self._segments[1].first_position if len(self._segments) > 1 else self.end_position
            if end > needed_from:
                return
            del self._segments[0]


def _entry(index: SendIndex, offset_bytes: int) -> IndexEntry:
    return IndexEntry(
        offset_bytes=offset_bytes,
        packet_size_bits=index.packet_size_bits,
        content_size_bits=index.content_size_bits,
        timestamp_begin=index.timestamp_begin,
        timestamp_end=index.timestamp_end,
        discarded_event_count=index.discarded_event_count,
        stream_class_id=index.stream_class_id,
        stream_instance_id=index.stream_instance_id,
        packet_sequence_number=index.packet_sequence_number,
    )
