"""All sessions of the relay daemon: who they are, and what happens when their connections end."""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Iterable
from typing import Final, NamedTuple

from tracefleet_common.codecs.lttng_relay import MINOR, MINOR_TRACE_CHUNKS, CreateSession
from tracefleet_common.errors import InvalidArgument
from tracefleet_relayd.application.ports import Clock
from tracefleet_relayd.application.stream_files import StreamFiles
from tracefleet_relayd.domain import names
from tracefleet_relayd.domain.relay_session import Origin, OriginKey, RelaySession, SessionSettings, check_creation
from tracefleet_relayd.domain.stream import Stream, StreamBooks
from tracefleet_relayd.domain.trace_chunk import SESSION_DIRECTORY, TraceChunk, put_aside_left_over

log = logging.getLogger("tracefleet.relayd.sessions")

INDEX_GRACE_S: Final = 2  # after the end of a data connection
SILENCE_S_MAX: Final = 60  # of a peer whose control connection is gone
NO_UUID = b""  # of sessions before minor 11: their origin is their own


class Ending(NamedTuple):
    """A session that is closed, but some of its streams wait for packets that were announced."""

    session: RelaySession
    packet_count: int  # at that time
    since_s: int


class Sessions:
    """Sessions, streams and trace ids are numbered from 1 each, and no number is used again."""

    def __init__(self, files: StreamFiles, clock: Clock, grouping: names.Grouping) -> None:
        self.grouping = grouping
        self.former_books = StreamBooks()  # of sessions that are over
        self._files = files
        self._clock = clock
        self._session_ids = itertools.count(1)
        self._stream_ids = itertools.count(1)
        self._trace_ids = itertools.count(1)
        self._sessions: dict[int, RelaySession] = {}  # open ones
        self._ending: dict[int, Ending] = {}
        self._without_data: dict[int, int] = {}  # since when, by session id
        self._outputs: Counter[str] = Counter()  # how many sessions each has
        self._origins: dict[OriginKey, Origin] = {}
        files.listen(self._stream_closed)

    # ---- what control connections ask ----

    def create(self, request: CreateSession, minor: int) -> RelaySession:
        """Raises InvalidArgument, or NotFound for a trace chunk that is not there."""
        if minor < MINOR_TRACE_CHUNKS:
            return self._create_old(request, minor)
        if request.sessiond_uuid is None or request.sessiond_session_id is None or request.creation_time_s is None:
            raise InvalidArgument("Something of the session is missing")
        output = self.output_of(request)
        key = OriginKey(request.sessiond_uuid, request.sessiond_session_id)
        origin = self._origins.get(key) or Origin(key)
        chunk = None if request.current_chunk_id is None else origin.chunk(request.current_chunk_id)
        return self._add(request, minor, origin, output, request.creation_time_s, chunk)

    def output_of(self, request: CreateSession) -> str:
        """Where the session goes. Raises InvalidArgument for names and times that cannot be."""
        check_creation(request.sessiond_uuid, request.session_name, request.host_name)
        return names.output_path(
            self.grouping,
            host_name=request.host_name,
            session_name=request.session_name,
            base_path=names.checked_path("base path", request.base_path) if request.base_path else "",
            creation_time_s=request.creation_time_s or 0,
            has_creation_time_in_name=request.has_creation_time_in_name,
        )

    def begin_acknowledged(self, request: CreateSession, output: str) -> RelaySession:
        """A session in its only trace chunk, `output`, which it shares with nobody. All is checked already."""
        creation_time_s = request.creation_time_s or 0
        origin = Origin(OriginKey(request.sessiond_uuid or NO_UUID, request.sessiond_session_id or 0))
        session = self._add(request, MINOR, origin, output, creation_time_s, None, is_acknowledged=True)
        self._files.carry_out(session.create_chunk(0, creation_time_s, None))
        return session

    def _create_old(self, request: CreateSession, minor: int) -> RelaySession:
        if request.session_name or request.host_name:
            check_creation(None, request.session_name, request.host_name)
        now_s = self._clock.now_s()
        # The paths of its streams are complete, so its only chunk is the output directory itself.
        chunk = TraceChunk(output="", chunk_id=None, creation_time_s=now_s, location=SESSION_DIRECTORY, home="")
        origin = Origin(OriginKey(NO_UUID, 0))
        return self._add(request, minor, origin, "", now_s, chunk)

    def _add(
        self,
        request: CreateSession,
        minor: int,
        origin: Origin,
        output: str,
        creation_time_s: int,
        chunk: TraceChunk | None,
        *,
        is_acknowledged: bool = False,
    ) -> RelaySession:
        settings = SessionSettings(
            session_id=next(self._session_ids),
            minor=minor,
            session_name=request.session_name,
            host_name=request.host_name,
            live_timer_us=request.live_timer_us,
            is_snapshot=request.is_snapshot,
            creation_time_s=creation_time_s,
            output=output,
            is_acknowledged=is_acknowledged,
        )
        session = RelaySession(settings, origin, chunk)
        if output and not self._outputs[output]:
            self._files.carry_out(put_aside_left_over(output, self._clock.now_s()))
        self._outputs[output] += 1
        if minor >= MINOR_TRACE_CHUNKS and not is_acknowledged:
            self._origins[origin.key] = origin
        self._sessions[session.session_id] = session
        log.info(
            "Session begins: session-id=%d, session=%s, host=%s, minor=%d",
            session.session_id,
            session.session_name,
            session.host_name,
            minor,
        )
        return session

    def next_stream_id(self) -> int:
        return next(self._stream_ids)

    def trace_id(self, session: RelaySession, path: str) -> int:
        """The same for all streams of a session with the same path."""
        if path not in session.trace_ids:
            session.trace_ids[path] = next(self._trace_ids)
        return session.trace_ids[path]

    # ---- the end ----

    def close(self, session: RelaySession, *, is_aborted: bool) -> None:
        """One of its connections is gone. Aborted: what is missing will not come; a second call may say so."""
        is_aborted = is_aborted or session.session_id in self._without_data
        if not session.is_closed:
            log.info("Session ends: session-id=%d, is-aborted=%s", session.session_id, is_aborted)
            self._sessions.pop(session.session_id, None)
            self._without_data.pop(session.session_id, None)
            self._ending[session.session_id] = Ending(session, -1, self._clock.now_s())
        self._files.carry_out(session.close())
        for stream in list(session.streams.values()):
            stream.is_close_requested = True
            self._files.close_when_complete(stream, is_aborted=is_aborted)
        self._forget_if_over(session)

    def close_soon(self, session: RelaySession) -> None:
        """No packets come any more. Index entries of those that came may be on their way, as after a sudden death."""
        if not session.is_closed:
            self._without_data.setdefault(session.session_id, self._clock.now_s())

    def take_care(self) -> None:
        """Close sessions that wait for nothing any more. To be called once in a while."""
        for session_id, since_s in list(self._without_data.items()):
            if self._clock.now_s() - since_s >= INDEX_GRACE_S:
                session = self._sessions.get(session_id)
                del self._without_data[session_id]
                if session is not None:
                    self.close(session, is_aborted=True)
        self._give_up_on_the_silent()

    def _give_up_on_the_silent(self) -> None:
        """Packets that were announced do not come any more."""
        for session_id, ending in list(self._ending.items()):
            packet_count = sum(stream.books.packet_count for stream in ending.session.streams.values())
            if packet_count != ending.packet_count:
                self._ending[session_id] = Ending(ending.session, packet_count, self._clock.now_s())
            elif self._clock.now_s() - ending.since_s > SILENCE_S_MAX:
                log.warning("Announced packets did not come: session-id=%d", session_id)
                self.close(ending.session, is_aborted=True)

    def close_all(self) -> None:
        """The relay daemon ends."""
        ending = [one.session for one in self._ending.values()]
        for session in [*self._sessions.values(), *ending]:
            self.close(session, is_aborted=True)

    def _stream_closed(self, session: RelaySession, stream: Stream) -> None:
        session.forget(stream)
        self._forget_if_over(session)

    def _forget_if_over(self, session: RelaySession) -> None:
        if session.is_closed and not session.streams:
            if self._ending.pop(session.session_id, None) is not None:
                self.former_books.add(session.books())
                self._outputs[session.settings.output] -= 1
                if not self._outputs[session.settings.output]:
                    del self._outputs[session.settings.output]
            origin = session.origin
            origin.forget_left_chunks()
            if not origin.sessions and not origin.chunks and self._origins.get(origin.key) is origin:
                del self._origins[origin.key]

    # ---- what others ask ----

    def ending_sessions(self) -> Iterable[RelaySession]:
        """Closed ones, some of whose streams wait for packets that were announced."""
        return [ending.session for ending in self._ending.values()]

    def viewable_sessions(self) -> Iterable[RelaySession]:
        return self._sessions.values()

    def viewable_session(self, session_id: int) -> RelaySession | None:
        return self._sessions.get(session_id)
