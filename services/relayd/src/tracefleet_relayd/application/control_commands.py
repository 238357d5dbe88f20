"""Carries out the commands of one control connection of LTTng's relay protocol."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, NoReturn

from tracefleet_common.codecs import lttng_relay as relay
from tracefleet_common.codecs.lttng_relay import PendingStatus, Reply, Request, ReturnCode
from tracefleet_common.errors import AlreadyExists, InvalidArgument, NotFound, TracefleetError, WrongState
from tracefleet_relayd.application.ports import NoRoom
from tracefleet_relayd.application.sessions import Sessions
from tracefleet_relayd.application.stream_files import OpenStream, StreamFiles
from tracefleet_relayd.domain import names
from tracefleet_relayd.domain.relay_session import RelaySession
from tracefleet_relayd.domain.stream import NONE_YET, Stream, StreamSettings

log = logging.getLogger("tracefleet.relayd.control")


class Refused(Exception):
    """A command failed. `reply` is sent, unless it is None; then the connection is closed if `must_close`."""

    def __init__(self, reason: str, reply: Reply | None, *, must_close: bool = True) -> None:
        super().__init__(reason)
        self.reply = reply
        self.must_close = must_close


class ControlCommands:
    """One connection, and its session. Commands raise Refused, or NoRoom: then they may be tried again as they are."""

    def __init__(
        self, sessions: Sessions, files: StreamFiles, take_reports: Callable[[], None], *, is_clear_allowed: bool
    ) -> None:
        self.minor = 0
        self.session: RelaySession | None = None
        self._sessions = sessions
        self._files = files
        self._take_reports = take_reports
        self._is_clear_allowed = is_clear_allowed
        self._handlers: dict[type[Any], Callable[[Any], Reply | None]] = {
            relay.Version: self._version,
            relay.CreateSession: self._create_session,
            relay.AddStream: self._add_stream,
            relay.StartData: lambda _request: relay.StatusReply(),
            relay.StreamsSent: self._streams_sent,
            relay.SendMetadata: self._send_metadata,
            relay.CloseStream: self._close_stream,
            relay.BeginDataPending: self._begin_data_pending,
            relay.DataPending: self._data_pending,
            relay.QuiescentControl: self._quiescent_control,
            relay.EndDataPending: self._end_data_pending,
            relay.SendIndex: self._send_index,
            relay.ResetMetadata: self._reset_metadata,
            relay.RotateStreams: self._rotate_streams,
            relay.CreateTraceChunk: self._create_trace_chunk,
            relay.CloseTraceChunk: self._close_trace_chunk,
            relay.TraceChunkExists: self._trace_chunk_exists,
            relay.GetConfiguration: self._get_configuration,
        }

    def execute(self, request: Request) -> Reply | None:
        """Returns the reply; None: the command has none."""
        return self._handlers[type(request)](request)

    def end(self, *, is_aborted: bool) -> None:
        """The connection is gone. Aborted: it broke, or one of its commands failed."""
        if self.session is not None:
            self._sessions.close(self.session, is_aborted=is_aborted)

    def _current(self) -> RelaySession:
        if self.session is None or self.session.is_closed:
            raise Refused("The connection has no session", None)
        return self.session

    # ---- the session ----

    def _version(self, request: relay.Version) -> Reply:
        reply = relay.Version()
        if request.major != relay.MAJOR:
            raise Refused(f"The peer speaks {request.major}.{request.minor}", reply)
        if self.session is not None:
            raise Refused("The peer changes the version in the middle", None)
        self.minor = relay.agreed_minor(relay.MINOR, request.minor)
        return reply

    def _get_configuration(self, request: relay.GetConfiguration) -> Reply:
        if request.query_flags:
            reply = relay.GetConfigurationReply(is_clear_allowed=False, return_code=ReturnCode.INVALID_PROTOCOL)
            raise Refused(f"Unknown query flags {request.query_flags:#x}", reply, must_close=False)
        return relay.GetConfigurationReply(is_clear_allowed=self._is_clear_allowed)

    def _create_session(self, request: relay.CreateSession) -> Reply:
        failure = relay.CreateSessionReply(session_id=0, return_code=ReturnCode.FATAL)
        if self.session is not None:
            raise Refused("The connection has a session already", failure)
        try:
            self.session = self._sessions.create(request, self.minor)
        except TracefleetError as error:
            raise Refused(str(error), failure, must_close=False) from error
        settings = self.session.settings
        return relay.CreateSessionReply(session_id=settings.session_id, output_path=settings.output)

    # ---- streams ----

    def _add_stream(self, request: relay.AddStream) -> Reply:
        session = self._current()
        if not request.path:
            reply = relay.AddStreamReply(stream_handle=None, return_code=ReturnCode.UNKNOWN)
            raise Refused("A stream has no path", reply, must_close=False)
        handle = self._sessions.next_stream_id()
        try:
            self._open_stream(session, handle, request)
        except NoRoom:
            raise
        except (OSError, TracefleetError) as error:
            reply = relay.AddStreamReply(stream_handle=handle, return_code=ReturnCode.UNKNOWN)
            raise Refused(f"Stream {handle} cannot be added: {error}", reply, must_close=False) from error
        return relay.AddStreamReply(stream_handle=handle)

    def _open_stream(self, session: RelaySession, handle: int, request: relay.AddStream) -> None:
        if session.current_chunk is None:
            raise WrongState("The session has no trace chunk")
        settings = self._stream_settings(session, handle, request)
        if session.has_stream(settings):
            raise AlreadyExists(f"There is a stream {settings.channel_name} in {settings.path}")
        stream = Stream(settings, session.current_chunk, self._files.store)
        try:
            self._files.open(session, stream)
        except (OSError, TracefleetError):
            self._files.carry_out(stream.close())
            raise
        session.add(stream)

    def _stream_settings(self, session: RelaySession, handle: int, request: relay.AddStream) -> StreamSettings:
        if session.settings.minor < relay.MINOR_TRACE_CHUNKS:
            path = names.old_stream_path(
                self._sessions.grouping,
                request.path,
                session_name=session.settings.session_name,
                creation_time_s=session.settings.creation_time_s,
            )
            _name_old_session(session, request.path)
        else:
            path = names.checked_stream_path(request.path)
        is_limited = request.channel_name != names.METADATA_NAME
        file_count = min(request.trace_file_count, names.FILE_COUNT_MAX)
        names.check_channel_name(request.channel_name)
        return StreamSettings(
            handle=handle,
            trace_id=self._sessions.trace_id(session, path),
            session_id=session.session_id,
            path=path,
            shown_path=path,
            channel_name=request.channel_name,
            file_size_bytes_max=request.trace_file_size_bytes if is_limited else 0,
            file_count=file_count if is_limited else 0,
            has_indexes=session.settings.minor >= relay.MINOR_INDEXES and not session.settings.is_snapshot,
        )

    def _record(self, handle: int, failure: Reply | None) -> OpenStream:
        """The stream of this connection's session. Refused when there is none."""
        session = self._current()
        record = self._files.get(handle)
        if record is None or record.session is not session:
            raise Refused(f"Session {session.session_id} has no stream {handle}", failure)
        return record

    def _streams_sent(self, _request: relay.StreamsSent) -> Reply:
        self._current().publish_streams()
        return relay.StatusReply()

    def _close_stream(self, request: relay.CloseStream) -> Reply:
        record = self._record(request.stream_handle, _failed())
        self._files.settle(record)
        record.stream.ask_to_close(request.last_sequence_number)
        self._take_reports()
        self._files.close_when_complete(record.stream)
        return relay.StatusReply()

    def _send_metadata(self, request: relay.SendMetadata) -> None:
        record = self._record(request.stream_handle, None)
        stream = record.stream
        if record.metadata is None:
            raise Refused(f"Stream {stream.stream_id} takes no metadata", None)
        offset = stream.metadata_size_bytes
        try:
            record.metadata.write(offset, request.content, request.padding_size_bytes)
        except NoRoom:
            raise
        except OSError as error:
            raise Refused(f"Metadata of stream {stream.stream_id} cannot be written: {error}", None) from error
        stream.take_metadata(len(request.content) + request.padding_size_bytes)

    def _reset_metadata(self, request: relay.ResetMetadata) -> Reply:
        record = self._record(request.stream_handle, _failed())
        if record.session.live_timer_us or not record.stream.is_metadata:
            raise Refused(f"The metadata of stream {record.stream.stream_id} cannot begin anew", _failed())
        try:
            self._files.reset_metadata(record)
        except (OSError, TracefleetError) as error:
            raise Refused(str(error), _failed()) from error
        return relay.StatusReply()

    def _send_index(self, request: relay.SendIndex) -> Reply:
        record = self._record(request.stream_handle, _failed())
        self._files.settle(record)  # usually the packet is there
        self._files.check_room(record)
        try:
            record.stream.take_index(request)
            self._files.advance(record)
            self._files.lend_index(record)
        except (OSError, TracefleetError) as error:
            raise Refused(str(error), _failed()) from error
        return relay.StatusReply()

    # ---- is data pending? ----

    def _begin_data_pending(self, request: relay.BeginDataPending) -> Reply:
        session = self._current()
        if request.session_id == session.session_id:
            session.begin_pending_check()
        return relay.StatusReply()

    def _data_pending(self, request: relay.DataPending) -> Reply:
        record = self._record(request.stream_handle, relay.PendingReply(status=PendingStatus.ERROR))
        self._take_reports()
        record.stream.was_asked_for_data = True
        last = NONE_YET if request.last_sequence_number is None else request.last_sequence_number
        return _pending(record.stream.is_pending(last) or bool(record.entries))

    def _quiescent_control(self, request: relay.QuiescentControl) -> Reply:
        stream = self._current().streams.get(request.stream_handle)
        if stream is not None:
            stream.was_asked_for_data = True
        return relay.StatusReply()

    def _end_data_pending(self, request: relay.EndDataPending) -> Reply:
        session = self._current()
        self._take_reports()
        return _pending(request.session_id == session.session_id and session.has_unasked_streams)

    # ---- trace chunks ----

    def _create_trace_chunk(self, request: relay.CreateTraceChunk) -> Reply:
        session = self._current()
        try:
            steps = session.create_chunk(request.chunk_id, request.creation_time_s, request.override_name)
        except TracefleetError as error:
            self._refuse(error, {WrongState: ReturnCode.INVALID_PROTOCOL, InvalidArgument: ReturnCode.INVALID})
        if not self._files.carry_out(steps):
            raise Refused("The former trace chunk cannot be moved", _failed())
        return relay.StatusReply()

    def _close_trace_chunk(self, request: relay.CloseTraceChunk) -> Reply:
        session = self._current()
        if request.close_command is relay.CloseCommand.DELETE and not self._is_clear_allowed:
            raise Refused("Clearing is not allowed", _chunk_failed(ReturnCode.INVALID_PROTOCOL))
        try:
            path, steps = session.close_chunk(request.chunk_id, request.close_time_s, request.close_command)
        except NotFound as error:
            raise Refused(str(error), _chunk_failed(ReturnCode.NO_MEMORY)) from error
        except InvalidArgument as error:
            raise Refused(str(error), _chunk_failed(ReturnCode.INVALID)) from error
        except WrongState as error:
            raise Refused(str(error), _chunk_failed(ReturnCode.INVALID_PROTOCOL)) from error
        if not self._files.carry_out(steps):
            raise Refused("The trace chunk cannot be moved", _chunk_failed(ReturnCode.UNKNOWN))
        return relay.CloseTraceChunkReply(path=path)

    def _trace_chunk_exists(self, request: relay.TraceChunkExists) -> Reply:
        session = self._current()
        self._take_reports()
        try:
            session.origin.chunk(request.chunk_id)
        except NotFound:
            return relay.TraceChunkExistsReply(is_there=False)
        return relay.TraceChunkExistsReply(is_there=True)

    def _rotate_streams(self, request: relay.RotateStreams) -> Reply:
        session = self._current()
        try:
            next_chunk = None if request.new_chunk_id is None else session.origin.chunk(request.new_chunk_id)
        except NotFound as error:
            self._refuse(error, {NotFound: ReturnCode.INVALID_PROTOCOL})
        self._take_reports()
        for position in request.positions:
            record = self._record(position.stream_handle, relay.StatusReply(return_code=ReturnCode.INVALID))
            self._files.settle(record)
            try:
                record.stream.rotate(position.packet_sequence_number, next_chunk)
                self._files.advance(record)
            except (OSError, TracefleetError) as error:
                reply = relay.StatusReply(return_code=ReturnCode.FILE_CREATION_ERROR)
                raise Refused(str(error), reply) from error
        return relay.StatusReply()

    def _refuse(self, error: TracefleetError, codes: dict[type[TracefleetError], ReturnCode]) -> NoReturn:
        code = codes.get(type(error), ReturnCode.UNKNOWN)
        raise Refused(str(error), relay.StatusReply(return_code=code)) from error


def _failed() -> Reply:
    return relay.StatusReply(return_code=ReturnCode.UNKNOWN)


def _chunk_failed(code: ReturnCode) -> Reply:
    return relay.CloseTraceChunkReply(return_code=code)


def _pending(is_pending: bool) -> Reply:
    return relay.PendingReply(status=PendingStatus.PENDING if is_pending else PendingStatus.ARRIVED)


def _name_old_session(session: RelaySession, path: str) -> None:
    """Before minor 4, the first stream's path is the only one to tell the names of the session and its host."""
    if session.host_name:
        return
    host_name, _, rest = path.strip("/").partition("/")
    directory = rest.partition("/")[0]
    timed = names.CREATION_TIME_AT_END.fullmatch(directory)
    session.host_name = host_name
    session.session_name = timed["name"] if timed else directory
