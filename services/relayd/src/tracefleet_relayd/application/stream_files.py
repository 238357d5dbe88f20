"""Keeps the files of every open stream in step with what the stream's domain object decides."""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Callable, Iterable

from tracefleet_common.codecs.index_file import IndexEntry
from tracefleet_common.codecs.lttng_relay import MINOR_INDEX_1_1
from tracefleet_common.errors import NotFound
from tracefleet_relayd.application.ports import (
    AcknowledgedTarget,
    DataTarget,
    IndexWriter,
    Intake,
    LentIndex,
    MetadataWriter,
    NoRoom,
    Tail,
    TraceStore,
)
from tracefleet_relayd.domain.relay_session import RelaySession
from tracefleet_relayd.domain.stream import NONE_YET, Stream
from tracefleet_relayd.domain.trace_chunk import Step
from tracefleet_relayd.domain.trace_file import TraceFile

log = logging.getLogger("tracefleet.relayd.files")

NO_ROOM_ERRORS = frozenset({errno.ENOSPC, errno.EDQUOT})
# Entries that wait for room on the disk. Packets have none either, so it takes a peer that sends little else.
WAITING_ENTRIES_MAX = 4096

StreamEnd = Callable[[RelaySession, Stream], None]


class OpenStream:
    """A stream with its open files."""

    def __init__(self, session: RelaySession, stream: Stream) -> None:
        self.session = session
        self.stream = stream
        self.target: DataTarget | None = None
        self.acknowledged: AcknowledgedTarget | None = None  # instead
        self.metadata: MetadataWriter | None = None
        self.index: IndexWriter | None = None
        self.index_file: TraceFile | None = None  # that `index` writes
        self.entries: deque[tuple[TraceFile, IndexEntry]] = deque()  # to be written
        self.stop_sequence: int | None = None  # as the intake knows it
        self.lent_index: LentIndex | None = None  # the intake joins packets and index entries
        self.is_moving = False
        self.is_settling = False

    @property
    def index_minor(self) -> int:
        return 1 if self.session.settings.minor >= MINOR_INDEX_1_1 else 0


class StreamFiles:
    """Streams are known by their handles from `open` until they are closed."""

    def __init__(self, store: TraceStore, intake: Intake) -> None:
        self.store = store
        self._intake = intake
        self._streams: dict[int, OpenStream] = {}
        self._without_room: set[int] = set()
        self._on_stream_closed: StreamEnd = lambda _session, _stream: None
        self._take_reports: Callable[[], None] = lambda: None

    def listen(self, on_stream_closed: StreamEnd) -> None:
        """Tell of every stream that has closed."""
        self._on_stream_closed = on_stream_closed

    def take_reports_with(self, take_reports: Callable[[], None]) -> None:
        """How to hear of all packets that are in their files by now."""
        self._take_reports = take_reports

    def get(self, handle: int) -> OpenStream | None:
        return self._streams.get(handle)

    # ---- a stream begins and ends ----

    def open(self, session: RelaySession, stream: Stream) -> None:
        """Make its file, and let packets come. Raises OSError; nothing is open then."""
        record = OpenStream(session, stream)
        try:
            self._open_file(record)
        except OSError:
            self._close_files(record)
            raise
        self._streams[stream.stream_id] = record

    def add(self, record: OpenStream) -> None:
        """One whose files somebody else opened."""
        self._streams[record.stream.stream_id] = record

    def close_when_complete(self, stream: Stream, *, is_aborted: bool = False) -> None:
        """Close it, if that was asked for and nothing is missing that was announced."""
        if stream.is_closed or not stream.is_close_requested:
            return
        record = self._streams[stream.stream_id]
        if record.lent_index is not None:
            self.settle(record)
        if stream.is_closed or not stream.may_close(is_aborted=is_aborted):
            return
        if record.entries and not is_aborted:
            return  # until there is room for them
        del self._streams[stream.stream_id]
        self._without_room.discard(stream.stream_id)
        if record.entries:
            log.error(
                "Index entries are lost, as there is no room: stream=%d, count=%d",
                stream.stream_id,
                len(record.entries),
            )
        self._close_files(record)
        if not stream.is_metadata or stream.settings.is_acknowledged:
            self._intake.remove(stream.stream_id)  # closes a connection that is in the middle of one of its packets
        self.carry_out(stream.close())
        self._on_stream_closed(record.session, stream)

    def carry_out(self, steps: Iterable[Step]) -> bool:
        """All of them, as far as possible. Whether nothing failed."""
        is_done = True
        for step in steps:
            try:
                self.store.carry_out(step)
            except OSError as error:
                log.error("Cannot move trace files: step=%s, error=%s", step, error)
                is_done = False
        return is_done

    # ---- packets and index entries ----

    def advance(self, record: OpenStream) -> None:
        """Do what the stream decided after a packet, an index entry or a rotation. Raises OSError."""
        stream = record.stream
        if record.is_moving:
            return  # whoever moves it comes here again
        if stream.file is not None and stream.last_data >= 0 and not stream.file.has_index_file:
            self._make_index_file(record)
        while stream.is_ready_to_move:
            self._move(record)
        stop = stream.stop_sequence
        if stop is not None and stop != record.stop_sequence:
            record.stop_sequence = stop
            self._intake.set_stop(stream.stream_id, stop)
        record.entries.extend(stream.joined_entries())
        self._write_entries(record)
        self.close_when_complete(stream)

    def _make_index_file(self, record: OpenStream) -> None:
        stream = record.stream
        assert stream.file is not None
        if not stream.settings.has_indexes or stream.is_metadata or stream.file.end_bytes == 0:
            return
        self._close_index(record)
        try:
            record.index = self.store.make_index_file(stream.file.index_path, record.index_minor)
        except NoRoom:
            self._without_room.add(stream.stream_id)
            return
        record.index_file = stream.file
        stream.note_index_file()

    def _write_entries(self, record: OpenStream) -> None:
        while record.entries:
            file, entry = record.entries[0]
            if not file.is_gone:
                if not file.has_index_file:
                    return  # there was no room for it
                try:
                    self._index_of(record, file).write(file.entry_count, entry)
                except NoRoom:
                    self._without_room.add(record.stream.stream_id)
                    return
                record.stream.note_entry(file, entry)
            record.entries.popleft()
        self._without_room.discard(record.stream.stream_id)

    def _index_of(self, record: OpenStream, file: TraceFile) -> IndexWriter:
        if record.index is None or record.index_file is not file:
            self._close_index(record)
            record.index = self.store.open_index_file(file.index_path, record.index_minor)
            record.index_file = file
        return record.index

    def check_room(self, record: OpenStream) -> None:
        """Raises NoRoom while too many index entries wait for it, or for their packets."""
        if len(record.entries) >= WAITING_ENTRIES_MAX or record.stream.has_many_index_halves:
            raise NoRoom

    def lend_index(self, record: OpenStream) -> None:
        """Let the intake join packets and index entries, when nothing is in the way. Mostly nothing is."""
        stream = record.stream
        if record.lent_index is not None or record.is_settling or record.is_moving or record.entries:
            return
        file = stream.file
        if file is None or not stream.is_settled or record.index_minor == 0:
            return
        if file.has_index_file and file.entry_count > 0:
            path = file.index_path
        elif stream.last_data == NONE_YET and stream.last_entry == NONE_YET:
            path = None
        else:
            return
        record.lent_index = self.store.lend_index(
            stream.stream_id, path, entry_count=file.entry_count, data_end_bytes=file.end_bytes
        )
        if record.lent_index is not None:
            self._close_index(record)

    def settle(self, record: OpenStream) -> None:
        """Hear of everything the intake has of a stream, and join by ourselves until the next `lend_index`."""
        if record.is_settling:
            return
        record.is_settling = True  # what is heard of must not lend it again
        try:
            self.note_index_is_back(record)
            self._take_reports()
        finally:
            record.is_settling = False

    def note_index_is_back(self, record: OpenStream) -> None:
        """The intake reports halves, so it joins no more."""
        if record.lent_index is not None:
            record.lent_index.take_back()
            record.lent_index = None

    def try_again(self) -> None:
        """Perhaps there is room by now."""
        for handle in list(self._without_room):
            record = self._streams.get(handle)
            if record is not None:
                self.advance(record)

    # ---- files ----

    def next_file(self, record: OpenStream) -> None:
        """The current one is full. Raises NoRoom, after which it still is; OSError."""
        self.settle(record)
        former = record.stream.file
        record.stream.next_file()
        try:
            self._open_file(record)
        except NoRoom:
            record.stream.file = former
            raise

    def lend_again(self, record: OpenStream) -> None:
        """The descriptor was taken from the intake for want of room. Raises OSError."""
        if record.target is None:
            raise NotFound(f"Stream {record.stream.stream_id} has no file")
        record.stop_sequence = record.stream.stop_sequence
        record.target.go_on(stop_sequence=record.stop_sequence)

    def reset_metadata(self, record: OpenStream) -> None:
        """Begin an empty file of the same name. Raises OSError."""
        stream = record.stream
        if record.metadata is None or stream.file is None:
            raise NotFound(f"Stream {stream.stream_id} has no metadata file")
        record.metadata.close()
        record.metadata = self.store.make_metadata_file(stream.file.path)
        stream.metadata_size_bytes = 0

    def _open_file(self, record: OpenStream, tail: Tail | None = None) -> None:
        stream = record.stream
        assert stream.file is not None
        if stream.is_metadata:
            record.metadata = self.store.make_metadata_file(stream.file.path)
            return
        if record.target is None:
            record.target = self.store.make_data_target(
                stream.stream_id,
                session_id=record.session.session_id,
                size_bytes_max=stream.settings.file_size_bytes_max,
            )
        record.stop_sequence = stream.stop_sequence
        record.target.begin(stream.file.path, stop_sequence=record.stop_sequence, tail=tail)

    def _move(self, record: OpenStream) -> None:
        """Take the stream to its next chunk, or to none."""
        stream = record.stream
        record.is_moving = True
        try:
            if not stream.is_metadata and record.target is not None:
                # Nothing may come in between: the intake finishes its packet, and we hear of all there are.
                self._intake.set_stop(stream.stream_id, 0)
                self._take_reports()
            if not stream.is_ready_to_move:  # its session ended meanwhile
                return
            record.entries.extend(stream.joined_entries())  # of the old chunk
            self._write_entries(record)  # while it is where it was: the last stream to leave it moves it away
            tail = self._tail_for_next_chunk(stream)
            steps = stream.move()
            if record.metadata is not None:
                record.metadata.close()
                record.metadata = None
            if stream.file is not None:
                self._open_file(record, tail)
                self._make_index_file(record)
            elif record.target is not None:
                record.target.close()
                record.target = None
            self._close_index_of_former(record)
            self.carry_out(steps)
            self._write_entries(record)  # what there was no room for
        finally:
            record.is_moving = False

    def _tail_for_next_chunk(self, stream: Stream) -> Tail | None:
        """Packets in the current file that came too early."""
        surplus_at = None if stream.is_metadata or stream.file is None else stream.surplus_offset_bytes()
        if surplus_at is None:
            return None
        assert stream.file is not None
        return Tail(stream.file.path, surplus_at, stream.file.end_bytes)

    def _close_index_of_former(self, record: OpenStream) -> None:
        if record.index_file is not record.stream.file and not record.entries:
            self._close_index(record)

    def _close_index(self, record: OpenStream) -> None:
        if record.index is not None:
            record.index.close()
        record.index = record.index_file = None

    def _close_files(self, record: OpenStream) -> None:
        self._close_index(record)
        self.note_index_is_back(record)
        if record.acknowledged is not None:
            record.acknowledged.close()
            record.acknowledged = None
        if record.target is not None:
            record.target.close()
            record.target = None
        if record.metadata is not None:
            record.metadata.close()
            record.metadata = None
