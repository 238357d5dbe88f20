"""Answers questions about the relay daemon: what it keeps, and the sums of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from tracefleet_common.errors import NotFound, Unsupported
from tracefleet_common.messages.relayd_control import (
    DescribeRelay,
    DescribeRelaySession,
    ListRelaySessions,
    RelayInfo,
    RelayLoss,
    RelaySessionDetails,
    RelaySessionInfo,
    RelaySessionList,
    RelayStreamInfo,
    RelaySums,
)
from tracefleet_relayd.application.sessions import Sessions
from tracefleet_relayd.domain.relay_session import RelaySession
from tracefleet_relayd.domain.stream import Stream, StreamBooks

# Sums of what peers claim may be larger than a message can hold.
COUNT_MAX: Final = (1 << 63) - 1


class Totals(NamedTuple):
    """Over all sessions; packets and bytes also of those that are over."""

    session_count: int
    stream_count: int
    packet_count: int
    size_bytes: int


class Status:
    """`describe_daemon` adds to the totals what only the process knows; `viewer_count` is by session id."""

    def __init__(
        self,
        sessions: Sessions,
        viewer_count: Callable[[int], int],
        describe_daemon: Callable[[Totals], RelayInfo],
    ) -> None:
        self._sessions = sessions
        self._viewer_count = viewer_count
        self._describe_daemon = describe_daemon

    def answer(self, request: Any) -> msgspec.Struct:
        """The reply to a RelaydRequest. Raises NotFound, Unsupported."""
        match request:
            case DescribeRelay():
                return self._describe_daemon(self._totals())
            case ListRelaySessions():
                sessions = sorted(self._all(), key=lambda session: session.session_id)
                return RelaySessionList(tuple(map(self._session_info, sessions)))
            case DescribeRelaySession(session_id=session_id):
                for session in self._all():
                    if session.session_id == session_id:
                        return self._details(session)
                raise NotFound(f"There is no session {session_id}")
        raise Unsupported(f"The relay daemon does not know this request: {type(request).__name__}")

    def _all(self) -> list[RelaySession]:
        return [*self._sessions.viewable_sessions(), *self._sessions.ending_sessions()]

    def _totals(self) -> Totals:
        sessions, books = self._all(), StreamBooks()
        for part in (self._sessions.former_books, *(session.books() for session in sessions)):
            books.add(part)
        stream_count = sum(session.stream_count for session in sessions)
        return Totals(len(sessions), stream_count, books.packet_count, books.size_bytes)

    def _details(self, session: RelaySession) -> RelaySessionDetails:
        streams = sorted(session.streams.values(), key=lambda stream: stream.stream_id)
        return RelaySessionDetails(self._session_info(session), tuple(map(_stream_info, streams)))

    def _session_info(self, session: RelaySession) -> RelaySessionInfo:
        settings = session.settings
        return RelaySessionInfo(
            session_id=session.session_id,
            host_name=session.host_name,
            session_name=session.session_name,
            output=settings.output,
            protocol_minor=settings.minor,
            live_timer_us=settings.live_timer_us,
            is_snapshot=settings.is_snapshot,
            is_closed=session.is_closed,
            stream_count=session.stream_count,
            viewer_count=self._viewer_count(session.session_id),
            sums=_sums(
                session.books(),
                sum(stream.lagging_packet_count for stream in session.streams.values()),
                is_acknowledged=settings.is_acknowledged,
            ),
            trouble=session.trouble,
        )


def _stream_info(stream: Stream) -> RelayStreamInfo:
    return RelayStreamInfo(
        stream_id=stream.stream_id,
        path=stream.path,
        channel_name=stream.channel_name,
        is_metadata=stream.is_metadata,
        sums=_sums(stream.books, stream.lagging_packet_count, is_acknowledged=stream.settings.is_acknowledged),
    )


def _sums(books: StreamBooks, lagging_packet_count: int, *, is_acknowledged: bool) -> RelaySums:
    return RelaySums(
        packet_count=books.packet_count,
        bytes=books.size_bytes,
        index_entry_count=books.entry_count,
        lagging_packet_count=lagging_packet_count,
        acknowledged_packet_count=books.packet_count if is_acknowledged else None,
        loss=RelayLoss(
            discarded_event_count=min(books.discarded_event_count, COUNT_MAX),
            missing_packet_count=min(books.missing_packet_count, COUNT_MAX),
            unmatched_packet_count=books.dropped_half_count,
            overwritten_packet_count=books.overwritten_packet_count,
        ),
    )
