"""Sessions as their producers' consumer daemons see them, and what several of them have in common: the origin.

A recording session of one host appears once per consumer daemon. All of these share the trace chunks, which are
known by (session daemon, its session id, chunk id).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from tracefleet_common.codecs.lttng_relay import CloseCommand
from tracefleet_common.errors import InvalidArgument, NotFound, WrongState
from tracefleet_relayd.domain import names
from tracefleet_relayd.domain.stream import Stream, StreamBooks, StreamSettings
from tracefleet_relayd.domain.trace_chunk import NEW_CHUNK, OLD_CHUNK, SESSION_DIRECTORY, Step, TraceChunk


@dataclass(frozen=True)
class OriginKey:
    """`session_id`: the session daemon's number; our own before minor 11."""

    sessiond_uuid: bytes
    session_id: int


@dataclass(eq=False)
class Origin:
    """One recording session of one session daemon."""

    key: OriginKey
    sessions: set[RelaySession] = field(default_factory=set)
    chunks: dict[int, TraceChunk] = field(default_factory=dict)

    def chunk(self, chunk_id: int) -> TraceChunk:
        """Raises NotFound for one that never was, or that everybody has left."""
        chunk = self.chunks.get(chunk_id)
        if chunk is None or chunk.holder_count == 0:
            raise NotFound(f"There is no trace chunk {chunk_id}")
        return chunk

    def forget_left_chunks(self) -> None:
        """Those that nobody holds any more."""
        self.chunks = {number: chunk for number, chunk in self.chunks.items() if chunk.holder_count > 0}


class StreamWatcher(Protocol):
    """Wants to know of the streams of a session."""

    def stream_published(self, stream: Stream) -> None: ...


@dataclass(frozen=True)
class SessionSettings:
    """Names are checked already. `output`: its directory, empty before minor 11."""

    session_id: int
    minor: int
    session_name: str
    host_name: str
    live_timer_us: int
    is_snapshot: bool
    creation_time_s: int
    output: str
    is_acknowledged: bool = False  # fleet://: its producer hears of every packet that is safe


class RelaySession:
    """One connection's session. Methods that return steps have done their part; the disk has to follow."""

    def __init__(self, settings: SessionSettings, origin: Origin, current_chunk: TraceChunk | None = None) -> None:
        self.settings = settings
        self.origin = origin
        self.host_name = settings.host_name
        self.session_name = settings.session_name
        self.current_chunk = current_chunk
        self.old_chunk: TraceChunk | None = None  # waits for its close
        self.has_rotated = False
        self.is_between_chunks = False
        self.is_closed = False
        self.is_aborted = False
        self.streams: dict[int, Stream] = {}  # those that are not closed
        self.closed_books = StreamBooks()  # of those that are
        self.trouble: str | None = None  # why packets wait; None when all is well
        self.trace_ids: dict[str, int] = {}  # by path
        self._names_by_path: dict[str, set[str]] = {}  # of open streams
        self._watchers: list[StreamWatcher] = []
        origin.sessions.add(self)
        if current_chunk is not None:
            current_chunk.hold()

    # ---- trace chunks ----

    def create_chunk(self, chunk_id: int, creation_time_s: int, override_name: str | None) -> list[Step]:
        """Make it the current one. Raises WrongState when two are there, InvalidArgument for a bad name or time."""
        if self.old_chunk is not None:
            raise WrongState(f"Trace chunk {self.old_chunk.chunk_id} is not closed yet, and chunk {chunk_id} begins")
        if override_name is not None:
            names.check_override_name(override_name)
        names.chunk_time(creation_time_s)
        old = self.current_chunk
        steps: list[Step] = []
        if old is not None and old.override_name is None:
            steps += old.move_to(OLD_CHUNK)
        chunk = self.origin.chunks.get(chunk_id)
        if chunk is None or chunk.holder_count == 0:
            chunk = TraceChunk(
                output=self.settings.output,
                chunk_id=chunk_id,
                creation_time_s=creation_time_s,
                location="",
                override_name=override_name,
            )
            if override_name is not None:
                chunk.location = chunk.home = override_name
            elif old is not None:
                chunk.location = NEW_CHUNK
            else:
                chunk.location = chunk.home = chunk.name if self.has_rotated else SESSION_DIRECTORY
            self.origin.chunks[chunk_id] = chunk
        chunk.hold()
        self.current_chunk = chunk
        self.old_chunk = old
        self.is_between_chunks = old is not None
        return steps

    def close_chunk(self, chunk_id: int, close_time_s: int, command: CloseCommand | None) -> tuple[str, list[Step]]:
        """No stream goes to it any more. Returns where it is or will be, and the steps.

        Raises NotFound for an unknown chunk, WrongState for another one than is to be closed, InvalidArgument.
        """
        chunk = self.origin.chunk(chunk_id)
        if self.old_chunk is not None and self.old_chunk is not chunk:
            raise WrongState(f"Trace chunk {self.old_chunk.chunk_id} is to be closed, not {chunk_id}")
        names.chunk_time(close_time_s)
        steps: list[Step] = []
        current = self.current_chunk
        if current is not None and current is not chunk:
            if current.location == NEW_CHUNK:
                is_session_directory_free = command is CloseCommand.DELETE and not self.has_rotated
                current.home = SESSION_DIRECTORY if is_session_directory_free else current.name
                steps += current.move_to(current.home)
            self.is_between_chunks = False
        if command in (None, CloseCommand.NO_OPERATION) and chunk.location == OLD_CHUNK:
            steps += chunk.move_to(chunk.own_place())
        chunk.close_time_s = close_time_s
        if command is not None:
            chunk.close_command = command
        path = self._path_of_closed(chunk, command)
        if command is CloseCommand.MOVE_TO_COMPLETED:
            self.has_rotated = True
        if chunk is current:
            self.current_chunk = None
            self.is_between_chunks = False
            steps += chunk.release()
        if chunk is self.old_chunk:
            self.old_chunk = None
            steps += chunk.release()
        self.origin.forget_left_chunks()
        return path, steps

    def _path_of_closed(self, chunk: TraceChunk, command: CloseCommand | None) -> str:
        output = self.settings.output
        if self.settings.is_snapshot:
            return names.joined(output, chunk.name)
        if command is CloseCommand.MOVE_TO_COMPLETED or self.has_rotated:
            return names.joined(output, names.ARCHIVES, chunk.name)
        return output

    # ---- streams ----

    def has_stream(self, settings: StreamSettings) -> bool:
        """Whether one that is open has the same name and path."""
        return settings.channel_name in self._names_by_path.get(settings.path, ())

    def add(self, stream: Stream) -> None:
        self.streams[stream.stream_id] = stream
        self._names_by_path.setdefault(stream.settings.path, set()).add(stream.channel_name)

    def stream(self, handle: int) -> Stream:
        """Raises NotFound for one that is closed, unknown, or another session's."""
        stream = self.streams.get(handle)
        if stream is None:
            raise NotFound(f"Session {self.session_id} has no stream {handle}")
        return stream

    def publish_streams(self) -> None:
        """Viewers may see all that were added so far."""
        for stream in self.streams.values():
            if not stream.is_published:
                stream.is_published = True
                for watcher in tuple(self._watchers):
                    watcher.stream_published(stream)

    def forget(self, stream: Stream) -> None:
        """It is closed."""
        if self.streams.pop(stream.stream_id, None) is not None:
            self._forget_name(stream.settings)
            self.closed_books.add(stream.books)

    def _forget_name(self, settings: StreamSettings) -> None:
        names_there = self._names_by_path[settings.path]
        names_there.discard(settings.channel_name)
        if not names_there:
            del self._names_by_path[settings.path]
            self.trace_ids.pop(settings.path, None)

    def books(self) -> StreamBooks:
        """Of all its streams, closed ones included."""
        books = StreamBooks()
        for part in (self.closed_books, *(stream.books for stream in self.streams.values())):
            books.add(part)
        return books

    # ---- data pending ----

    def begin_pending_check(self) -> None:
        for stream in self.streams.values():
            stream.was_asked_for_data = False

    @property
    def has_unasked_streams(self) -> bool:
        """Whether a stream is open that its consumer daemon does not know any more: something is on its way."""
        return any(not stream.was_asked_for_data for stream in self.streams.values())

    # ---- the end ----

    def close(self) -> list[Step]:
        """A connection is gone: no more commands. Streams may still wait for packets that were announced."""
        if self.is_closed:
            return []
        self.is_closed = True
        self.is_between_chunks = False
        steps: list[Step] = []
        for chunk in (self.old_chunk, self.current_chunk):
            if chunk is not None:
                steps += chunk.release()
        self.old_chunk = self.current_chunk = None
        self.origin.sessions.discard(self)
        return steps

    # ---- what viewers ask ----

    @property
    def session_id(self) -> int:
        return self.settings.session_id

    @property
    def live_timer_us(self) -> int:
        return self.settings.live_timer_us

    @property
    def stream_count(self) -> int:
        return len(self.streams)

    @property
    def is_rotating(self) -> bool:
        return any(session.is_between_chunks for session in (self, *self.origin.sessions))

    def published_streams(self) -> Iterable[Stream]:
        return [stream for stream in self.streams.values() if stream.is_published]

    def watch(self, watcher: StreamWatcher) -> None:
        self._watchers.append(watcher)

    def unwatch(self, watcher: StreamWatcher) -> None:
        if watcher in self._watchers:
            self._watchers.remove(watcher)


def check_creation(uuid: bytes | None, session_name: str, host_name: str) -> None:
    """Raises InvalidArgument for a session that no session daemon would create."""
    if uuid is not None and not any(uuid):
        raise InvalidArgument("The UUID of the session daemon is nil")
    names.check_name("session name", session_name)
    names.check_name("host name", host_name)
