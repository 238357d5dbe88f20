"""One stream as one viewer reads it: its position, and the files that are open for it."""

from __future__ import annotations

import contextlib
import logging
from typing import NamedTuple

from tracefleet_common.codecs.index_file import (
    INDEX_HEADER_SIZE_BYTES,
    IndexEntry,
    decode_index_entry,
    decode_index_header,
)
from tracefleet_common.codecs.lttng_live import (
    LiveStream,
    MetadataReply,
    MetadataStatus,
    NextIndexReply,
    NextIndexStatus,
    PacketReply,
    PacketStatus,
    Reply,
)
from tracefleet_common.errors import RemoteProtocolError
from tracefleet_relayd.application.viewables import ViewableFile, ViewableSegment, ViewableSession, ViewableStream
from tracefleet_relayd.domain.viewer_metadata import FilePart, MetadataPosition
from tracefleet_relayd.domain.viewer_stream import DataPosition, DataStreamState, NextStep

log = logging.getLogger("tracefleet.relayd.viewers")


class FileRange(NamedTuple):
    """Bytes of a file that follow a reply. The file is to be closed after them unless it is the stream's."""

    file: ViewableFile
    offset_bytes: int
    size_bytes: int
    is_to_be_closed: bool


class Answer(NamedTuple):
    """A reply, and the bytes of the stream that follow it."""

    reply: Reply
    payload: FileRange | bytes = b""


NO_PACKET = Answer(PacketReply(status=PacketStatus.ERROR))
NO_METADATA = Answer(MetadataReply(status=MetadataStatus.ERROR))
_NO_NEW_METADATA = Answer(MetadataReply(status=MetadataStatus.NO_NEW))


class MetadataReader:
    """One viewer in one metadata stream."""

    is_metadata = True

    def __init__(self, stream: ViewableStream) -> None:
        self.stream = stream
        self.trace_id = stream.trace_id
        self._position = MetadataPosition()
        self._file = stream.metadata_file

    def is_worth_asking(self) -> bool:
        self._follow()
        return self._position.is_worth_asking(self.stream.metadata_size_bytes)

    def _follow(self) -> None:
        if self.stream.metadata_file is not self._file:
            self._file = self.stream.metadata_file
            self._position.begin_file()

    def next_metadata(self) -> Answer:
        """What is new; there may be more. Whole packets, whatever happens."""
        self._follow()
        size_bytes = self.stream.metadata_size_bytes
        if not self._position.is_worth_asking(size_bytes) or not size_bytes:
            return _NO_NEW_METADATA
        with contextlib.ExitStack() as stack:
            try:
                file = self.stream.open_metadata()
                stack.callback(file.close)
                if not _holds(file, 0, size_bytes):
                    return _NO_NEW_METADATA
                part = self._position.next_part(size_bytes, file.read, is_last=self.stream.is_closed)
            except OSError as error:
                log.warning("Cannot read metadata for a viewer: stream=%d, reason=%s", self.stream.stream_id, error)
                return _NO_NEW_METADATA
            match part:
                case None:
                    return _NO_NEW_METADATA
                case FilePart():
                    stack.pop_all()
                    reply = MetadataReply(status=MetadataStatus.OK, size_bytes=part.size_bytes)
                    return Answer(reply, FileRange(file, part.offset_bytes, part.size_bytes, is_to_be_closed=True))
                case bytes():
                    return Answer(MetadataReply(status=MetadataStatus.OK, size_bytes=len(part)), part)

    def close(self) -> None:
        """There is nothing to close: each reply opens the file."""


class DataReader:
    """One viewer in one data stream.

    What it has not read yet stays readable when the producer closes the stream. The data file of the last entry
    stays open, so that its packet can be read whatever happens to the file's name.
    """

    is_metadata = False

    def __init__(self, session: ViewableSession, stream: ViewableStream, position: int) -> None:
        self.stream = stream
        self.trace_id = stream.trace_id
        self._session = session
        self._position = DataPosition(position)
        self._segment: ViewableSegment | None = None
        self._index: ViewableFile | None = None
        self._index_entry_size_bytes = 0
        self._data: ViewableFile | None = None
        self._without_news: DataStreamState | None = None
        stream.keep(self, position)

    def _state(self) -> DataStreamState:
        stream = self.stream
        return DataStreamState(
            first_position=stream.first_position,
            end_position=stream.end_position,
            inactive_until=stream.inactive_until,
            is_closed=stream.is_closed,
            is_rotating=stream.is_rotating or (self._session.is_rotating and not self._session.is_closed),
        )

    def has_news(self) -> bool:
        """Whether the latest index reply told something, or something has changed since."""
        return self._without_news != self._state()

    def next_index(self, *, are_promises_held: bool) -> NextIndexReply:
        """The next index entry, or why there is none. Flags are the caller's."""
        stream, state = self.stream, self._state()
        told_until = self._position.promised_until
        self._without_news = None
        match self._position.next_step(state, are_promises_held=are_promises_held):
            case NextStep.RETRY:
                self._without_news = state
                return NextIndexReply(status=NextIndexStatus.RETRY)
            case NextStep.FINISHED:
                return NextIndexReply(status=NextIndexStatus.HUP)
            case NextStep.INACTIVE:
                if self._position.promised_until == told_until:
                    self._without_news = state
                return NextIndexReply(
                    status=NextIndexStatus.INACTIVE,
                    timestamp_end=self._position.promised_until,
                    stream_class_id=stream.stream_class_id,
                )
            case NextStep.READ:
                return self._read_entry(state)

    def _read_entry(self, state: DataStreamState) -> NextIndexReply:
        try:
            entry = self._entry_at(self._position.position)
        except OSError as error:
            log.warning("Cannot read an index entry for a viewer: stream=%d, reason=%s", self.stream.stream_id, error)
            self._close_files()
            return NextIndexReply(status=NextIndexStatus.HUP if state.is_closed else NextIndexStatus.RETRY)
        except RemoteProtocolError as error:
            log.warning("Index file is damaged: stream=%d, reason=%s", self.stream.stream_id, error)
            return NextIndexReply(status=NextIndexStatus.ERROR)
        self._position.advance(entry.timestamp_end)
        return NextIndexReply(
            status=NextIndexStatus.OK,
            offset_bytes=entry.offset_bytes,
            packet_size_bits=entry.packet_size_bits,
            content_size_bits=entry.content_size_bits,
            timestamp_begin=entry.timestamp_begin,
            timestamp_end=entry.timestamp_end,
            discarded_event_count=entry.discarded_event_count,
            stream_class_id=entry.stream_class_id,
        )

    def _entry_at(self, position: int) -> IndexEntry:
        segment = self.stream.segment_at(position)
        if segment is None:
            raise FileNotFoundError(f"no segment holds the position {position}")
        if segment is not self._segment or self._index is None:
            self._open_files(segment)
            self.stream.keep(self, position)
        index = self._index
        assert index is not None, "just opened"
        size_bytes = self._index_entry_size_bytes
        offset_bytes = INDEX_HEADER_SIZE_BYTES + (position - segment.first_position) * size_bytes
        return decode_index_entry(index.read(offset_bytes, size_bytes))

    def _open_files(self, segment: ViewableSegment) -> None:
        self._close_files()
        self._index = segment.open_index()
        header = decode_index_header(self._index.read(0, INDEX_HEADER_SIZE_BYTES))
        self._index_entry_size_bytes = header.entry_size_bytes
        self._data = segment.open_data()
        self._segment = segment

    def packet(self, offset_bytes: int, size_bytes: int) -> Answer:
        """Bytes of the data file of the last index entry: all that were asked for, or an error."""
        if self._data is None or not _holds(self._data, offset_bytes, size_bytes):
            return NO_PACKET
        reply = PacketReply(status=PacketStatus.OK, size_bytes=size_bytes)
        return Answer(reply, FileRange(self._data, offset_bytes, size_bytes, is_to_be_closed=False))

    def close(self) -> None:
        """The viewer needs nothing of the stream any more. Again: no error."""
        self._close_files()
        self.stream.release(self)

    def _close_files(self) -> None:
        self._segment = None
        for file in (self._index, self._data):
            if file is not None:
                file.close()
        self._index = self._data = None


Reader = MetadataReader | DataReader


def live_stream(reader: Reader) -> LiveStream:
    """How a viewer is told of a stream."""
    stream = reader.stream
    return LiveStream(
        stream_id=stream.stream_id,
        trace_id=stream.trace_id,
        is_metadata=stream.is_metadata,
        path=stream.path,
        channel_name=stream.channel_name,
    )


def _holds(file: ViewableFile, offset_bytes: int, size_bytes: int) -> bool:
    try:
        return offset_bytes + size_bytes <= file.size_bytes()
    except OSError as error:
        log.warning("Cannot read a file for a viewer: reason=%s", error)
        return False
