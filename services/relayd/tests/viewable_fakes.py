"""Sessions and streams for viewers to see, without producers and files."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from dataclasses import dataclass, field

from tracefleet_common.codecs import lttng_live as live
from tracefleet_common.codecs.index_file import IndexEntry, encode_index_entry, encode_index_header
from tracefleet_relayd.application.serve_viewers import Viewer
from tracefleet_relayd.application.serve_viewers_streams import Answer
from tracefleet_relayd.application.viewables import StreamWatcher, ViewableSession, ViewableStream

PACKET_SIZE_BYTES = 64
SECOND = 1_000_000_000


class FakeFile:
    """Reads what the bytes are at that moment, as an open file does."""

    def __init__(self, content: bytearray) -> None:
        self.content = content
        self.is_closed = False

    def size_bytes(self) -> int:
        self._check()
        return len(self.content)

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        self._check()
        return bytes(self.content[offset_bytes : offset_bytes + size_bytes])

    def use(self) -> contextlib.AbstractContextManager[int]:
        raise AssertionError("nothing is sent here")

    def close(self) -> None:
        self._check()
        self.is_closed = True

    def _check(self) -> None:
        if self.is_closed:
            raise OSError(errno.EBADF, "closed")


@dataclass(eq=False)
class FakeSegment:
    """`is_there`: its names exist; readers that opened them keep the bytes anyway."""

    first_position: int
    data: bytearray = field(default_factory=bytearray)
    index: bytearray = field(default_factory=lambda: bytearray(encode_index_header()))
    entry_count: int = 0
    is_there: bool = True
    opened: list[FakeFile] = field(default_factory=list)

    def open_data(self) -> FakeFile:
        return self._open(self.data)

    def open_index(self) -> FakeFile:
        return self._open(self.index)

    def _open(self, content: bytearray) -> FakeFile:
        if not self.is_there:
            raise FileNotFoundError(errno.ENOENT, "gone")
        self.opened.append(FakeFile(content))
        return self.opened[-1]


@dataclass(eq=False)
class FakeStream:
    stream_id: int
    trace_id: int = 1
    is_metadata: bool = False
    path: str = "ust"
    channel_name: str = "a_0"
    is_closed: bool = False
    is_rotating: bool = False
    end_position: int = 0
    inactive_until: int | None = None
    stream_class_id: int = 0
    metadata: bytearray = field(default_factory=bytearray)
    metadata_size_bytes: int = 0
    segments: list[FakeSegment] = field(default_factory=lambda: [FakeSegment(0)])
    kept: dict[object, int] = field(default_factory=dict)
    metadata_files: list[FakeFile] = field(default_factory=list)

    @property
    def first_position(self) -> int:
        return self.segments[0].first_position if self.segments else self.end_position

    def segment_at(self, position: int) -> FakeSegment | None:
        for segment in self.segments:
            if segment.first_position <= position < segment.first_position + segment.entry_count:
                return segment
        return None

    def keep(self, reader: object, position: int) -> None:
        self.kept[reader] = position

    def release(self, reader: object) -> None:
        self.kept.pop(reader, None)

    @property
    def metadata_file(self) -> object:
        return self.metadata

    def open_metadata(self) -> FakeFile:
        self.metadata_files.append(FakeFile(self.metadata))
        return self.metadata_files[-1]

    # What a producer does

    def receive_packet(self, begin: int = 10, end: int = 20) -> bytes:
        """A packet with its index entry. Returns its bytes."""
        segment = self.segments[-1]
        packet = bytes([self.end_position % 256]) * PACKET_SIZE_BYTES
        entry = IndexEntry(
            offset_bytes=len(segment.data),
            packet_size_bits=PACKET_SIZE_BYTES * 8,
            content_size_bits=PACKET_SIZE_BYTES * 8,
            timestamp_begin=begin,
            timestamp_end=end,
            discarded_event_count=0,
            stream_class_id=self.stream_class_id,
            stream_instance_id=0,
            packet_sequence_number=self.end_position,
        )
        segment.data += packet
        segment.index += encode_index_entry(entry)
        segment.entry_count += 1
        self.end_position += 1
        self.inactive_until = None
        return packet

    def receive_metadata(self, data: bytes) -> None:
        self.metadata += data
        self.metadata_size_bytes = len(self.metadata)

    def next_segment(self) -> FakeSegment:
        """The next trace file, or the first one of the next trace chunk."""
        self.segments.append(FakeSegment(self.end_position))
        return self.segments[-1]

    def drop_segment(self) -> None:
        """The oldest one is overwritten or cleared."""
        self.segments.pop(0).is_there = False

    def clear(self) -> None:
        """All that was received is deleted; what follows goes to a new trace chunk."""
        for segment in self.segments:
            segment.is_there = False
        self.segments = [FakeSegment(self.end_position)]
        self.metadata = bytearray()
        self.metadata_size_bytes = 0

    @property
    def open_files(self) -> list[FakeFile]:
        files = [file for segment in self.segments for file in segment.opened] + self.metadata_files
        return [file for file in files if not file.is_closed]


@dataclass(eq=False)
class FakeSession:
    session_id: int = 1
    host_name: str = "h"
    session_name: str = "lv"
    live_timer_us: int = 500_000
    is_closed: bool = False
    is_rotating: bool = False
    streams: list[FakeStream] = field(default_factory=list)
    unpublished: list[FakeStream] = field(default_factory=list)
    watchers: list[StreamWatcher] = field(default_factory=list)

    @property
    def stream_count(self) -> int:
        return len(self.streams) + len(self.unpublished)

    def published_streams(self) -> list[ViewableStream]:
        return [stream for stream in self.streams if not stream.is_closed]

    def watch(self, watcher: StreamWatcher) -> None:
        self.watchers.append(watcher)

    def unwatch(self, watcher: StreamWatcher) -> None:
        self.watchers.remove(watcher)

    # What a producer does

    def add(self, *streams: FakeStream) -> None:
        self.unpublished += streams

    def publish(self, *streams: FakeStream) -> None:
        streams = (*self.unpublished, *streams)
        self.unpublished = []
        for stream in streams:
            self.streams.append(stream)
            for watcher in self.watchers:
                watcher.stream_published(stream)

    def hang_up(self) -> None:
        self.is_closed = True
        for stream in self.streams:
            stream.is_closed = True


@dataclass
class FakeSessions:
    sessions: list[FakeSession] = field(default_factory=list)

    def viewable_sessions(self) -> Iterator[ViewableSession]:
        return (session for session in self.sessions if not session.is_closed)

    def viewable_session(self, session_id: int) -> ViewableSession | None:
        return next((one for one in self.viewable_sessions() if one.session_id == session_id), None)


def payload_of(answer: Answer) -> bytes:
    """Take the bytes after a reply, as the connection does."""
    payload = answer.payload
    if isinstance(payload, bytes):
        return payload
    data = payload.file.read(payload.offset_bytes, payload.size_bytes)
    assert len(data) == payload.size_bytes, "a reply promised more than there is"
    if payload.is_to_be_closed:
        payload.file.close()
    return data


class Asking:
    """One viewer, and what it asks."""

    def __init__(self, viewer: Viewer) -> None:
        self.viewer = viewer
        viewer.handle(live.Connect())
        viewer.handle(live.CreateViewerSession())

    def attach(self, session_id: int = 1, seek: int = live.Seek.BEGINNING) -> live.AttachReply:
        reply = self.viewer.handle(live.AttachSession(session_id=session_id, seek=seek)).reply
        assert isinstance(reply, live.AttachReply)
        return reply

    def detach(self, session_id: int = 1) -> live.DetachStatus:
        reply = self.viewer.handle(live.DetachSession(session_id=session_id)).reply
        assert isinstance(reply, live.DetachReply)
        return reply.status

    def new_streams(self, session_id: int = 1) -> live.NewStreamsReply:
        reply = self.viewer.handle(live.GetNewStreams(session_id=session_id)).reply
        assert isinstance(reply, live.NewStreamsReply)
        return reply

    def new_stream_ids(self, session_id: int = 1) -> list[int]:
        return [stream.stream_id for stream in self.new_streams(session_id).streams]

    def index(self, stream: FakeStream) -> live.NextIndexReply:
        reply = self.viewer.handle(live.GetNextIndex(stream_id=stream.stream_id)).reply
        assert isinstance(reply, live.NextIndexReply)
        return reply

    def index_status(self, stream: FakeStream) -> live.NextIndexStatus:
        return self.index(stream).status

    def packet(
        self, stream: FakeStream, offset_bytes: int = 0, size_bytes: int = PACKET_SIZE_BYTES
    ) -> tuple[live.PacketStatus, bytes]:
        request = live.GetPacket(stream_id=stream.stream_id, offset_bytes=offset_bytes, size_bytes=size_bytes)
        answer = self.viewer.handle(request)
        assert isinstance(answer.reply, live.PacketReply)
        data = payload_of(answer)
        assert len(data) == answer.reply.size_bytes
        return answer.reply.status, data

    def metadata(self, stream: FakeStream) -> tuple[live.MetadataStatus, bytes]:
        answer = self.viewer.handle(live.GetMetadata(stream_id=stream.stream_id))
        assert isinstance(answer.reply, live.MetadataReply)
        data = payload_of(answer)
        assert len(data) == answer.reply.size_bytes
        return answer.reply.status, data

    def all_packets(self, stream: FakeStream) -> list[bytes]:
        """Read on until there is no index entry."""
        packets = []
        while (reply := self.index(stream)).status is live.NextIndexStatus.OK:
            status, data = self.packet(stream, reply.offset_bytes, reply.packet_size_bits // 8)
            assert status is live.PacketStatus.OK
            packets.append(data)
        return packets
