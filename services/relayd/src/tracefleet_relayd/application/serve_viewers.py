"""Serving viewers: each connection is one `Viewer`, which answers one request after the other.

It follows lttng-relayd 2.13.9, without its defects: any number of viewers may attach one session; a viewer reads only
streams that it attached itself; what was received stays readable when the producer closes a stream or dies; streams
that were published while a viewer is attached are not missed, however short they lived; a viewer is told that there
are new streams with any status, until it asks for them; and a viewer that asks for more of a stream too early is
answered when there is more, instead of having to ask again.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from typing import Final

from msgspec import structs

from tracefleet_common.codecs import lttng_live as live
from tracefleet_common.errors import RemoteProtocolError
from tracefleet_relayd.application.serve_viewers_streams import (
    NO_METADATA,
    NO_PACKET,
    Answer,
    DataReader,
    MetadataReader,
    Reader,
    live_stream,
)
from tracefleet_relayd.application.viewables import ViewableSession, ViewableSessions, ViewableStream
from tracefleet_relayd.domain.viewer_announcements import Announcements
from tracefleet_relayd.domain.viewer_connection import NEXT_STATE, ConnectionEvent, ConnectionState

# Streams that are published while a viewer does not ask for new ones: a viewer that is forgotten in a corner, and
# a session with per-process buffers and many short-lived processes, must not fill the memory.
UNTOLD_STREAM_COUNT_MAX: Final = 65_536

# The next packet or beacon comes with the next live timer. Nobody shall take a viewer that waits for a dead one.
PATIENCE_SLACK_S: Final = 0.1
PATIENCE_S_MAX: Final = 1.0

log = logging.getLogger("tracefleet.relayd.viewers")


class Viewers:
    """All viewers of the relay daemon. `take_reports`: what happened so far is in `sessions` when it returns."""

    def __init__(self, sessions: ViewableSessions, take_reports: Callable[[], None] = lambda: None) -> None:
        self.sessions = sessions
        self.take_reports = take_reports
        self._viewer_count_by_session: Counter[int] = Counter()
        self._last_viewer_id = 0

    def viewer(self) -> Viewer:
        """A new connection."""
        return Viewer(self)

    def new_viewer_id(self) -> int:
        self._last_viewer_id += 1
        return self._last_viewer_id

    def viewer_count(self, session_id: int) -> int:
        """How many have attached the session."""
        return self._viewer_count_by_session[session_id]

    def attached(self, session_id: int) -> None:
        self._viewer_count_by_session[session_id] += 1

    def detached(self, session_id: int) -> None:
        self._viewer_count_by_session[session_id] -= 1
        if not self._viewer_count_by_session[session_id]:
            del self._viewer_count_by_session[session_id]


class Attachment:
    """One session as one viewer sees it."""

    def __init__(self, session: ViewableSession, seek: live.Seek) -> None:
        self.session = session
        self._untold: Announcements[Reader] = Announcements()
        self._has_dropped = False
        self._unfinished: set[int] = set()  # data streams that the viewer knows
        self._metadata_by_trace: dict[int, MetadataReader] = {}
        for stream in session.published_streams():
            at = stream.end_position if seek is live.Seek.LAST else stream.first_position
            self._untold.add(self._reader(stream, at))
        session.watch(self)

    def _reader(self, stream: ViewableStream, position: int) -> Reader:
        return MetadataReader(stream) if stream.is_metadata else DataReader(self.session, stream, position)

    def stream_published(self, stream: ViewableStream) -> None:
        """Late streams are read from their beginning, whatever the viewer attached with: it came before them."""
        if len(self._untold) < UNTOLD_STREAM_COUNT_MAX:
            self._untold.add(self._reader(stream, 0 if stream.is_metadata else stream.first_position))
        elif not self._has_dropped:
            self._has_dropped = True
            log.warning("A viewer does not ask for new streams: session=%d", self.session.session_id)

    @property
    def is_rotating(self) -> bool:
        return self.session.is_rotating and not self.session.is_closed

    @property
    def has_new_streams(self) -> bool:
        return self._untold.has_some

    @property
    def is_finished(self) -> bool:
        """The producer is gone and the viewer was told all that there was."""
        return self.session.is_closed and not self._unfinished and not self._untold.has_some

    def take_new(self) -> list[Reader]:
        """The streams to tell the viewer of."""
        readers = self._untold.take()
        for reader in readers:
            if isinstance(reader, MetadataReader):
                self._metadata_by_trace[reader.trace_id] = reader
            else:
                self._unfinished.add(reader.stream.stream_id)
        return readers

    def flags(self, reader: Reader) -> live.Flags:
        """What the viewer should fetch before it goes on with this stream."""
        flags = live.Flags.NEW_STREAM if self.has_new_streams else live.Flags.NONE
        metadata = self._metadata_by_trace.get(reader.trace_id)
        return flags | live.Flags.NEW_METADATA if metadata is not None and metadata.is_worth_asking() else flags

    def finished(self, stream_id: int) -> None:
        """The viewer was told that a data stream has ended."""
        self._unfinished.discard(stream_id)

    def close(self) -> None:
        self.session.unwatch(self)
        for reader in self._untold.clear():
            reader.close()


class Viewer:
    """One connection. Whatever it asks, it sees only what it attached itself."""

    def __init__(self, viewers: Viewers) -> None:
        self._viewers = viewers
        self._state = ConnectionState.NEW
        self._viewer_id = 0
        self._minor = live.MINOR
        self._attachments: dict[int, Attachment] = {}
        self._readers: dict[int, tuple[Attachment, Reader]] = {}

    @property
    def is_connected(self) -> bool:
        """It has said which version it speaks."""
        return self._state is not ConnectionState.NEW

    @property
    def minor(self) -> int:
        """That both sides speak."""
        return self._minor

    def handle(self, request: live.Request) -> Answer:
        """Answer one request. Raises RemoteProtocolError: close the connection without an answer."""
        if isinstance(request, live.Connect):
            return Answer(self._connect(request))
        if self._state is ConnectionState.NEW:
            raise RemoteProtocolError(f"Viewer begins with {request.command.name}, not with CONNECT")
        self._viewers.take_reports()
        match request:
            case live.ListSessions():
                return Answer(self._list_sessions())
            case live.CreateViewerSession():
                self._move(ConnectionEvent.CREATE_VIEWER_SESSION)
                return Answer(live.CreateViewerSessionReply())
            case live.AttachSession():
                return Answer(self._attach(request))
            case live.DetachSession():
                return Answer(live.DetachReply(status=self._detach(request.session_id)))
            case live.GetNewStreams():
                return Answer(self._new_streams(request.session_id))
            case live.GetNextIndex():
                return Answer(self._next_index(request.stream_id))
            case live.GetMetadata():
                _, reader = self._readers.get(request.stream_id, (None, None))
                return reader.next_metadata() if isinstance(reader, MetadataReader) else NO_METADATA
            case live.GetPacket():
                _, reader = self._readers.get(request.stream_id, (None, None))
                if not isinstance(reader, DataReader):
                    return NO_PACKET
                return reader.packet(request.offset_bytes, request.size_bytes)

    def patience_s(self, request: live.Request) -> float:
        """How long the answer to `request`, just made, may wait for something to tell; 0: it tells something."""
        if not isinstance(request, live.GetNextIndex) or self.has_news(request):
            return 0.0
        attachment, _ = self._readers[request.stream_id]
        return min(attachment.session.live_timer_us / 1e6 + PATIENCE_SLACK_S, PATIENCE_S_MAX)

    def has_news(self, request: live.GetNextIndex) -> bool:
        """Whether an answer would say now what the latest one to the same request did not. Costs little."""
        attachment, reader = self._readers.get(request.stream_id, (None, None))
        if attachment is None or not isinstance(reader, DataReader):
            return True
        if any(one.has_new_streams for one in self._attachments.values()):
            return True
        return reader.has_news() or bool(attachment.flags(reader))

    def close(self) -> None:
        """The connection is gone: let go of everything."""
        for session_id in list(self._attachments):
            self._detach(session_id)

    def _move(self, event: ConnectionEvent) -> None:
        self._state = NEXT_STATE[self._state, event]

    def _connect(self, request: live.Connect) -> live.Connect:
        if request.major != live.MAJOR:
            raise RemoteProtocolError(f"Viewer speaks version {request.major}.{request.minor}, not {live.MAJOR}")
        if request.connection_type not in (live.ConnectionType.COMMAND, live.ConnectionType.NOTIFICATION):
            raise RemoteProtocolError(f"Viewer asks for a connection of type {request.connection_type}")
        self._move(ConnectionEvent.CONNECT)
        self._minor = min(request.minor, live.MINOR)
        if request.connection_type == live.ConnectionType.COMMAND and not self._viewer_id:
            self._viewer_id = self._viewers.new_viewer_id()
        return live.Connect(viewer_session_id=self._viewer_id, connection_type=live.ConnectionType.UNSET)

    def _list_sessions(self) -> live.SessionList:
        return live.SessionList(
            sessions=tuple(
                live.LiveSession(
                    session_id=session.session_id,
                    live_timer_us=session.live_timer_us,
                    viewer_count=self._viewers.viewer_count(session.session_id),
                    stream_count=session.stream_count,
                    host_name=session.host_name,
                    session_name=session.session_name,
                )
                for session in self._viewers.sessions.viewable_sessions()
            )
        )

    def _attach(self, request: live.AttachSession) -> live.AttachReply:
        if self._state is not ConnectionState.VIEWING:
            return live.AttachReply(status=live.AttachStatus.NO_SESSION)
        session = self._viewers.sessions.viewable_session(request.session_id)
        if session is None or session.is_closed:
            return live.AttachReply(status=live.AttachStatus.UNKNOWN)
        if not session.live_timer_us:
            return live.AttachReply(status=live.AttachStatus.NOT_LIVE)
        if request.session_id in self._attachments:
            return live.AttachReply(status=live.AttachStatus.ALREADY)
        try:
            seek = live.Seek(request.seek)
        except ValueError:
            return live.AttachReply(status=live.AttachStatus.SEEK_ERROR)
        attachment = self._attachments[request.session_id] = Attachment(session, seek)
        self._viewers.attached(request.session_id)
        log.info("Viewer attached a session: viewer=%d, session=%d", self._viewer_id, request.session_id)
        # During a rotation it is told of no stream; those that are there wait for its GET_NEW_STREAMS.
        streams = () if attachment.is_rotating else self._tell(attachment)
        return live.AttachReply(status=live.AttachStatus.OK, streams=streams)

    def _detach(self, session_id: int) -> live.DetachStatus:
        attachment = self._attachments.pop(session_id, None)
        if attachment is None:
            is_known = self._viewers.sessions.viewable_session(session_id) is not None
            is_error = is_known or self._state is not ConnectionState.VIEWING
            return live.DetachStatus.ERROR if is_error else live.DetachStatus.UNKNOWN
        attachment.close()
        for stream_id, (owner, reader) in list(self._readers.items()):
            if owner is attachment:
                del self._readers[stream_id]
                reader.close()
        self._viewers.detached(session_id)
        return live.DetachStatus.OK

    def _new_streams(self, session_id: int) -> live.NewStreamsReply:
        attachment = self._attachments.get(session_id)
        if attachment is None:
            return live.NewStreamsReply(status=live.NewStreamsStatus.ERROR)
        if attachment.is_rotating:
            return live.NewStreamsReply(status=live.NewStreamsStatus.NO_NEW)
        if attachment.is_finished:
            return live.NewStreamsReply(status=live.NewStreamsStatus.HUP)
        return live.NewStreamsReply(status=live.NewStreamsStatus.OK, streams=self._tell(attachment))

    def _tell(self, attachment: Attachment) -> tuple[live.LiveStream, ...]:
        readers = attachment.take_new()
        for reader in readers:
            self._readers[reader.stream.stream_id] = (attachment, reader)
        return tuple(map(live_stream, readers))

    def _next_index(self, stream_id: int) -> live.NextIndexReply:
        attachment, reader = self._readers.get(stream_id, (None, None))
        if attachment is None or reader is None:
            return live.NextIndexReply(status=live.NextIndexStatus.ERROR)
        if isinstance(reader, MetadataReader):
            return live.NextIndexReply(status=live.NextIndexStatus.HUP, flags=attachment.flags(reader))
        # A viewer that goes on to the end of a promise, and then hears of a stream that began before, has a problem:
        # babeltrace2 2.0.4 ends. It hears of new streams with its next index entry, and shows nothing before anyway.
        are_promises_held = any(one.has_new_streams for one in self._attachments.values())
        reply = reader.next_index(are_promises_held=are_promises_held)
        if reply.status is live.NextIndexStatus.HUP:  # a further request is answered with ERROR
            reader.close()
            del self._readers[stream_id]
            attachment.finished(stream_id)
        flags = attachment.flags(reader)
        return structs.replace(reply, flags=flags) if flags else reply
