"""Acknowledged sessions (fleet://): carries out their commands, and keeps their data connections going.

A session outlives its connections, and this process: what must be known to go on with it is in its journal before
anybody is told. How much a stream has is in its files.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec
from msgspec import structs

from tracefleet_common.codecs.lttng_relay import CreateSession
from tracefleet_common.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    TracefleetError,
    Unsupported,
)
from tracefleet_common.messages.envelope import Done
from tracefleet_common.messages.relay_streaming import (
    TOKEN_SIZE_BYTES,
    AddedStream,
    AddStreams,
    CloseStreaming,
    EndStreams,
    OpenStreaming,
    StreamingOpened,
    StreamRequest,
    StreamsAdded,
)
from tracefleet_common.model.relay_output import Durability
from tracefleet_relayd.application.ports import (
    AcknowledgedTarget,
    Clock,
    HoldReason,
    Intake,
    IntakeReport,
    Journals,
    NoRoom,
    ReportKind,
)
from tracefleet_relayd.application.receive_packets import NO_ROOM, ReceivePackets
from tracefleet_relayd.application.sessions import Sessions
from tracefleet_relayd.application.stream_files import NO_ROOM_ERRORS, OpenStream, StreamFiles
from tracefleet_relayd.domain import names
from tracefleet_relayd.domain.journal import Journal, SessionRecord, StreamRecord
from tracefleet_relayd.domain.relay_session import RelaySession
from tracefleet_relayd.domain.stream import ResumedFile, Stream, StreamBooks, StreamSettings
from tracefleet_relayd.domain.trace_chunk import RemoveFile

log = logging.getLogger("tracefleet.relayd.streaming")

GRACE_S: Final = 60  # of a session without any connection; then its viewers are told that it is over
SESSION_COUNT_MAX: Final = 4096
STREAM_COUNT_MAX: Final = 65_536  # of a session
NUMBER_MAX: Final = (1 << 63) - 1
LIVE_TIMER_US_MAX: Final = (1 << 32) - 1
UUID_SIZE_BYTES: Final = 16
# Handles are told by the peer in every packet. Nobody guesses those of others, nor those of LTTng's streams (1, 2, …).
HANDLE_BITS: Final = 62


@dataclass(eq=False)
class StreamingSession:
    """One that is in memory. `connection`: the token of its data connection at the intake."""

    name: str  # of its journal
    session: RelaySession
    journal: Journal
    peers: set[Hashable] = field(default_factory=set)
    connection: int | None = None
    is_held: bool = False  # the connection is to be resumed in a while
    detached_since_s: int | None = None
    closed_books: dict[int, StreamBooks] = field(default_factory=dict)  # as they are in those of the session
    next_files: set[int] = field(default_factory=set)  # streams whose next file is in the journal, but not made yet

    @property
    def is_synced(self) -> bool:
        return self.journal.session.durability is Durability.SYNCED


class ReceiveStreaming:
    """`data_port`: where data connections are taken. `journal_name`: of the journal of the session with that token."""

    def __init__(
        self,
        intake: Intake,
        files: StreamFiles,
        sessions: Sessions,
        packets: ReceivePackets,
        journals: Journals,
        clock: Clock,
        journal_name: Callable[[bytes], str],
        *,
        data_port: int,
    ) -> None:
        self._intake = intake
        self._files = files
        self._sessions = sessions
        self._packets = packets
        self._journals = journals
        self._clock = clock
        self._journal_name = journal_name
        self._data_port = data_port
        self._by_name: dict[str, StreamingSession] = {}
        self._by_connection: dict[int, StreamingSession] = {}
        self._by_session_id: dict[int, StreamingSession] = {}
        self._untidied: list[str] | None = None  # journals that a former relay daemon left; None: not looked yet
        packets.take_acknowledged = self._take

    # ---- commands ----

    def execute(self, request: Any, peer: Hashable) -> msgspec.Struct:
        """The reply to a RelayStreamingRequest. `peer`: the connection that it came on. Raises TracefleetError."""
        try:
            match request:
                case OpenStreaming():
                    return self._open(request, peer)
                case AddStreams():
                    return self._add_streams(request)
                case EndStreams():
                    return self._end_streams(request)
                case CloseStreaming():
                    return self._close_streaming(request)
        except NoRoom:
            raise ResourceExhausted(f"{NO_ROOM} of the relay daemon") from None
        except OSError as error:
            raise TracefleetError(f"The relay daemon cannot write: {error.strerror or error}") from None
        raise Unsupported(f"The relay daemon does not know this request: {type(request).__name__}")

    def _open(self, request: OpenStreaming, peer: Hashable) -> StreamingOpened:
        wanted = _session_request(request)
        output = self._sessions.output_of(wanted)
        name = self._name_of(request.token)
        found = self._find(name)
        is_resumed = found is not None
        if found is None:
            if len(self._by_name) >= SESSION_COUNT_MAX:
                raise ResourceExhausted(f"The relay daemon has {SESSION_COUNT_MAX} sessions")
            journal = Journal(_session_record(request, output))
            self._journals.save(name, journal, is_synced=request.durability is Durability.SYNCED)
            found = self._begin(name, journal)
        found.peers.add(peer)
        found.detached_since_s = None
        return StreamingOpened(
            relay_session_id=found.session.session_id,
            data_port=self._data_port,
            output=found.journal.session.output,
            is_resumed=is_resumed,
        )

    def _name_of(self, token: bytes) -> str:
        if len(token) != TOKEN_SIZE_BYTES:
            raise InvalidArgument(f"A token has {len(token)} bytes, not {TOKEN_SIZE_BYTES}")
        return self._journal_name(token)

    def _find(self, name: str) -> StreamingSession | None:
        """In memory, or in a journal."""
        found = self._by_name.get(name)
        if found is not None:
            return found
        journal = self._journals.load(name)
        if journal is None:
            return None
        found = self._begin(name, journal)
        log.info("Session goes on: session-id=%d, streams=%d", found.session.session_id, len(journal.streams))
        return found

    def _begin(self, name: str, journal: Journal) -> StreamingSession:
        session = self._sessions.begin_acknowledged(_recorded_request(journal.session), journal.session.output)
        found = StreamingSession(name, session, journal, detached_since_s=self._clock.now_s())
        self._by_name[name] = self._by_session_id[session.session_id] = found
        return found

    def _known(self, token: bytes) -> StreamingSession:
        found = self._find(self._name_of(token))
        if found is None:
            raise NotFound("There is no session with that token")
        return found

    # ---- streams ----

    def _add_streams(self, request: AddStreams) -> StreamsAdded:
        found = self._known(request.token)
        wanted = [_checked(stream) for stream in request.streams]
        new_names = {(one.path, one.channel_name) for one in wanted} - found.journal.streams.keys()
        if len(found.journal.streams) + len(new_names) > STREAM_COUNT_MAX:
            raise ResourceExhausted(f"A session cannot have more than {STREAM_COUNT_MAX} streams")
        self._packets.take_reports()
        changed: dict[tuple[str, str], StreamRecord] = {}
        for one in wanted:
            record = changed.get((one.path, one.channel_name)) or found.journal.streams.get(
                (one.path, one.channel_name)
            )
            if record is None:
                changed[one.path, one.channel_name] = self._new_record(found, one)
            elif record.is_ended:
                changed[record.name] = structs.replace(record, is_ended=False)
        self._note(found, changed)
        added = tuple(self._add_stream(found, one) for one in wanted)
        found.session.publish_streams()
        return StreamsAdded(streams=added)

    def _new_record(self, found: StreamingSession, request: StreamRequest) -> StreamRecord:
        """Nothing of that name is there from now on."""
        record = StreamRecord(
            handle=self._new_handle(),
            path=request.path,
            channel_name=request.channel_name,
            trace_file_size_bytes=request.trace_file_size_bytes,
            trace_file_count=request.trace_file_count,
        )
        settings = self._settings(found, record)
        for other in self._by_name.values():
            if other.session.settings.output == found.session.settings.output and other.session.has_stream(settings):
                raise AlreadyExists(f"There is a stream {record.channel_name} in {record.path}")
        path, index_path = _paths(found, record)
        self._files.store.carry_out(RemoveFile(path))
        if index_path is not None:
            self._files.store.carry_out(RemoveFile(index_path))
        return record

    def _new_handle(self) -> int:
        while True:
            handle = secrets.randbits(HANDLE_BITS) | 1 << HANDLE_BITS
            if self._files.get(handle) is None:
                return handle

    def _note(self, found: StreamingSession, changed: dict[tuple[str, str], StreamRecord]) -> None:
        """In the journal first: what is not there must not be in memory."""
        if not changed:
            return
        former = {name: found.journal.streams.get(name) for name in changed}
        for record in changed.values():
            found.journal.put(record)
        try:
            self._journals.append(found.name, found.journal, list(changed.values()), is_synced=found.is_synced)
        except OSError:
            for name, record_before in former.items():
                if record_before is None:
                    found.journal.streams.pop(name, None)
                else:
                    found.journal.put(record_before)
            raise

    def _note_that_file_is_made(self, found: StreamingSession, record: StreamRecord) -> None:
        if not record.is_file_made:
            self._note(found, {record.name: structs.replace(record, is_file_made=True)})

    def _add_stream(self, found: StreamingSession, request: StreamRequest) -> AddedStream:
        record = found.journal.streams[request.path, request.channel_name]
        opened = self._files.get(record.handle)
        if opened is not None and request.oldest_sequence > opened.stream.last_data + 1:
            self._close_stream(found, opened.stream)
            self._packets.take_reports()  # those of the stream as it was
            opened = None
        if opened is None:
            opened = self._open_stream(found, record, request.oldest_sequence)
        if found.is_synced and opened.acknowledged is not None:
            # The sender takes what it is told now for acknowledged; it may have been written a moment ago.
            opened.acknowledged.make_durable()
        return AddedStream(handle=record.handle, next_sequence=opened.stream.last_data + 1)

    def _settings(self, found: StreamingSession, record: StreamRecord) -> StreamSettings:
        return StreamSettings(
            handle=record.handle,
            trace_id=self._sessions.trace_id(found.session, record.path),
            session_id=found.session.session_id,
            path=record.path,
            shown_path=record.path,
            channel_name=record.channel_name,
            file_size_bytes_max=record.trace_file_size_bytes,
            file_count=record.trace_file_count,
            is_acknowledged=True,
        )

    def _open_stream(self, found: StreamingSession, record: StreamRecord, oldest_sequence: int) -> OpenStream:
        """Go on where its files end, or at `oldest_sequence`, before which the sender has nothing any more."""
        chunk = found.session.current_chunk
        assert chunk is not None
        stream = Stream(self._settings(found, record), chunk, self._files.store)
        opened = OpenStream(found.session, stream)
        try:
            self._open_files(found, record, opened, oldest_sequence)
        except (OSError, TracefleetError):
            if opened.acknowledged is not None:
                opened.acknowledged.close()
            self._files.carry_out(stream.close())
            raise
        self._files.add(opened)
        found.session.add(stream)
        closed_books = found.closed_books.pop(record.handle, None)
        if closed_books is not None:  # its files tell
            found.session.closed_books.subtract(closed_books)
        return opened

    def _open_files(
        self, found: StreamingSession, record: StreamRecord, opened: OpenStream, oldest_sequence: int
    ) -> None:
        stream = opened.stream
        path, index_path = _paths(found, record)
        there = self._files.store.find_files(path, index_path) if record.is_file_made else None
        entry_count = 0 if there is None else there.entry_count
        lost_count = oldest_sequence - record.first_sequence - entry_count
        if lost_count > 0:
            log.warning("Packets are lost: stream=%s/%s, count=%d", record.path, record.channel_name, lost_count)
            record = record.with_gap(entry_count, lost_count)
            self._note(found, {record.name: record})
        next_sequence = record.first_sequence + entry_count
        files = [
            ResumedFile(number, former.entry_count, former.end_bytes)
            for number in record.former_file_numbers()
            if (former := self._files.store.find_files(*_paths(found, record, number))) is not None
        ]
        files.append(ResumedFile(record.file_number, entry_count, 0 if there is None else there.end_bytes))
        stream.resume(files, next_sequence)
        stream.books.missing_packet_count = record.missing_packet_count
        if there is not None and entry_count and not stream.is_metadata:
            gap = record.gap_packet_count if record.gap_entry_count == entry_count else 0
            stream.resume_numbers(there.stream_class_id, there.discarded_event_count, there.packet_number + gap)
        found.next_files.discard(record.handle)
        target = opened.acknowledged = self._make_target(found, stream)
        if there is not None:
            target.resume(path, index_path, there, next_sequence=next_sequence)
            return
        target.begin(path, index_path, next_sequence=next_sequence)
        self._note_that_file_is_made(found, record)

    def _make_target(self, found: StreamingSession, stream: Stream) -> AcknowledgedTarget:
        return self._files.store.make_acknowledged_target(
            stream.stream_id,
            session_id=found.session.session_id,
            size_bytes_max=stream.settings.file_size_bytes_max,
            is_synced=found.is_synced,
        )

    def _end_streams(self, request: EndStreams) -> Done:
        found = self._known(request.token)
        by_handle = {record.handle: record for record in found.journal.streams.values()}
        self._packets.take_reports()
        ended: dict[tuple[str, str], StreamRecord] = {}
        for end in request.ends:
            record = by_handle.get(end.handle)
            opened = self._files.get(end.handle)
            if record is None or record.is_ended:
                continue
            if opened is not None and not 0 <= end.next_sequence <= opened.stream.last_data + 1:
                raise InvalidArgument(
                    f"Stream {record.channel_name} has packets up to {opened.stream.last_data} only, "
                    f"and shall end before {end.next_sequence}"
                )
            ended[record.name] = structs.replace(record, is_ended=True)
        self._note(found, ended)
        for record in ended.values():
            opened = self._files.get(record.handle)
            if opened is not None:
                self._close_stream(found, opened.stream)
        return Done()

    def _close_stream(self, found: StreamingSession, stream: Stream) -> None:
        """It may be opened again."""
        stream.is_close_requested = True
        self._files.close_when_complete(stream, is_aborted=True)
        found.closed_books[stream.stream_id] = stream.books

    def _close_streaming(self, request: CloseStreaming) -> Done:
        name = self._name_of(request.token)
        found = self._by_name.get(name)
        if found is None:
            journal = self._journals.load(name)
            if journal is not None:
                self._tidy(journal)
        else:
            self._hang_up(found)
            self._forget(found, is_aborted=False)
        self._journals.remove(name)
        return Done()

    # ---- data connections ----

    def find_for_data(self, token: bytes) -> int | None:
        """The session id of the session that a data connection with that token belongs to; None: there is none.

        The data connection that it had is closed.
        """
        found = self._by_name.get(self._name_of(token))
        if found is None:
            return None
        self._hang_up(found)
        return found.session.session_id

    def attach(self, session_id: int, connection: int) -> None:
        """The intake reads that connection now. Before it reports anything of it."""
        found = self._by_session_id[session_id]
        found.connection = connection
        found.detached_since_s = None
        self._by_connection[connection] = found
        self._packets.acknowledged.add(connection)

    def _hang_up(self, found: StreamingSession) -> None:
        """Nothing that it sent comes later."""
        if found.connection is not None:
            self._intake.close(found.connection)
            self._packets.take_reports()
            self._forget_connection(found)

    def _forget_connection(self, found: StreamingSession) -> None:
        if found.connection is not None:
            self._by_connection.pop(found.connection, None)
            self._packets.acknowledged.discard(found.connection)
            found.connection = None
        found.is_held = False
        found.session.trouble = None
        self._see_who_is_there(found)

    def peer_lost(self, peer: Hashable) -> None:
        """A connection on which commands came is gone."""
        for found in self._by_name.values():
            if peer in found.peers:
                found.peers.discard(peer)
                self._see_who_is_there(found)

    def _see_who_is_there(self, found: StreamingSession) -> None:
        if found.connection is None and not found.peers:
            found.detached_since_s = self._clock.now_s()

    # ---- reports of the intake ----

    def _take(self, report: IntakeReport) -> None:
        found = self._by_connection[report.token]
        try:
            self._take_of(found, report)
        except Exception:  # other connections must not suffer
            log.exception("Data connection is closed: token=%d, stream=%d", report.token, report.handle)
            self._intake.close(report.token)
            self._forget_connection(found)

    def _take_of(self, found: StreamingSession, report: IntakeReport) -> None:
        opened = self._files.get(report.handle)
        kind = report.kind
        if kind is ReportKind.CLOSED:
            if report.error:
                log.warning("Data connection broke: token=%d, error=%s", report.token, os.strerror(report.error))
            self._intake.close(report.token)
            self._forget_connection(found)
        elif kind is ReportKind.HOLD:
            self._release(report, found, opened)
        elif opened is None or opened.session is not found.session:
            return  # it has ended meanwhile
        elif kind is ReportKind.BEACON:
            opened.stream.take_beacon(report.timestamp_end, report.stream_class_id)
        else:
            size_bytes = report.data_size_bytes + report.padding_size_bytes
            opened.stream.take_entry(
                report.sequence,
                report.offset_bytes,
                size_bytes,
                report.stream_class_id,
                report.discarded_event_count,
                report.packet_number,
            )
            if opened.acknowledged is not None:
                opened.acknowledged.touch()
            if found.session.trouble is not None:
                found.session.trouble = None

    def _release(self, report: IntakeReport, found: StreamingSession, opened: OpenStream | None) -> None:
        try:
            if opened is None or opened.session is not found.session or opened.acknowledged is None:
                raise InvalidArgument("the stream is not the session's")
            match report.reason:
                case HoldReason.FILE_FULL:
                    self._next_file(found, opened)
                case HoldReason.NO_FILE:
                    opened.acknowledged.go_on()
                case HoldReason.STREAM_BUSY:
                    found.is_held = True
                    return
                case HoldReason.WRITE_FAILED if report.error in NO_ROOM_ERRORS:
                    raise NoRoom
                case HoldReason.WRITE_FAILED:
                    # When the sender begins again, its files tell what is there.
                    self._close_stream(found, opened.stream)
                    raise OSError(report.error, os.strerror(report.error))
                case _:
                    reason = "" if report.reason is None else report.reason.value
                    raise InvalidArgument(reason)
        except NoRoom:
            if found.session.trouble is None:
                log.warning("No room for packets, will retry: session-id=%d", found.session.session_id)
                found.session.trouble = NO_ROOM
            found.is_held = True
            return
        except (OSError, TracefleetError) as error:
            log.warning(
                "Data connection is closed: token=%d, stream=%d, packet=%d, error=%s",
                report.token,
                report.handle,
                report.sequence,
                error,
            )
            self._intake.close(report.token)
            self._forget_connection(found)
            return
        self._intake.resume(report.token)

    def _next_file(self, found: StreamingSession, opened: OpenStream) -> None:
        """The current one is full. Raises NoRoom, after which it still is; OSError."""
        stream, target = opened.stream, opened.acknowledged
        former = stream.file
        assert former is not None
        assert target is not None
        record = found.journal.streams[stream.settings.path, stream.channel_name]
        if stream.stream_id not in found.next_files:
            record = record.with_next_file(stream.last_data + 1)
            self._note(found, {record.name: record})
            found.next_files.add(stream.stream_id)
        path, index_path = _paths(found, record)
        target.begin(path, index_path, next_sequence=None)
        if found.is_synced:
            target.make_durable()
        self._note_that_file_is_made(found, record)  # nothing is written to it before its connection is resumed
        found.next_files.discard(stream.stream_id)
        stream.next_file()
        stream.note_index_file()

    # ---- care ----

    def take_care(self) -> None:
        """To be called once in a while."""
        for found in list(self._by_name.values()):
            if found.is_held and found.connection is not None:
                found.is_held = False
                self._intake.resume(found.connection)
            elif found.detached_since_s is not None and self._clock.now_s() - found.detached_since_s >= GRACE_S:
                log.info("Session is left by its peer: session-id=%d", found.session.session_id)
                self._forget(found)
                self._let_go_of_journal(found.name, found.journal)
        self._tidy_one()

    def _forget(self, found: StreamingSession, *, is_aborted: bool = True) -> None:
        del self._by_name[found.name]
        del self._by_session_id[found.session.session_id]
        self._sessions.close(found.session, is_aborted=is_aborted)

    def _let_go_of_journal(self, name: str, journal: Journal) -> None:
        """Keep it only if there is something to go on with."""
        if not journal.streams or not self._journals.is_output_there(journal.session.output):
            self._journals.remove(name)

    def _tidy_one(self) -> None:
        """Look at one journal of a former relay daemon: what it left may end in the middle of a packet."""
        try:
            if self._untidied is None:
                self._untidied = []
                self._untidied.extend(self._journals.names())
            if not self._untidied or (name := self._untidied.pop()) in self._by_name:
                return
            journal = self._journals.load(name)
            if journal is not None:
                self._tidy(journal)
                self._let_go_of_journal(name, journal)
        except (OSError, TracefleetError) as error:
            log.warning("Cannot look after a former session: error=%s", error)

    def _tidy(self, journal: Journal) -> None:
        for record in journal.streams.values():
            if not record.is_file_made:
                continue
            path, index_path = _recorded_paths(journal, record)
            self._files.store.find_files(path, index_path)

    def close_all(self) -> None:
        """The relay daemon ends. Journals stay."""
        for found in list(self._by_name.values()):
            self._hang_up(found)
            self._forget(found)

    @property
    def session_count(self) -> int:
        return len(self._by_name)


def _paths(found: StreamingSession, record: StreamRecord, number: int | None = None) -> tuple[str, str | None]:
    return _recorded_paths(found.journal, record, number)


def _recorded_paths(journal: Journal, record: StreamRecord, number: int | None = None) -> tuple[str, str | None]:
    """Data and index file of the stream, below the output directory. `number`: None for the current ones."""
    directory = names.joined(journal.session.output, record.path)
    name = names.data_file_name(record.channel_name, record.file_number if number is None else number)
    is_metadata = record.channel_name == names.METADATA_NAME
    return f"{directory}/{name}", None if is_metadata else names.index_path(directory, name)


def _session_request(request: OpenStreaming) -> CreateSession:
    """Raises InvalidArgument."""
    if len(request.sessiond_uuid) != UUID_SIZE_BYTES:
        raise InvalidArgument(f"The UUID of the session daemon has {len(request.sessiond_uuid)} bytes")
    if not 0 <= request.live_timer_period_us <= LIVE_TIMER_US_MAX:
        raise InvalidArgument(f"Not a live timer period: {request.live_timer_period_us} us")
    if not 0 <= request.session_id <= NUMBER_MAX:
        raise InvalidArgument(f"Not the number of a session: {request.session_id}")
    names.session_time(request.creation_time_s)
    return CreateSession(
        session_name=request.session_name,
        host_name=request.host_name,
        live_timer_us=request.live_timer_period_us,
        base_path=request.subdirectory,
        has_creation_time_in_name=request.has_creation_time_in_name,
        sessiond_uuid=request.sessiond_uuid,
        sessiond_session_id=request.session_id,
        creation_time_s=request.creation_time_s,
    )


def _session_record(request: OpenStreaming, output: str) -> SessionRecord:
    return SessionRecord(
        session_name=request.session_name,
        host_name=request.host_name,
        creation_time_s=request.creation_time_s,
        has_creation_time_in_name=request.has_creation_time_in_name,
        sessiond_uuid=request.sessiond_uuid,
        session_id=request.session_id,
        live_timer_period_us=request.live_timer_period_us,
        durability=request.durability,
        output=output,
    )


def _recorded_request(record: SessionRecord) -> CreateSession:
    return CreateSession(
        session_name=record.session_name,
        host_name=record.host_name,
        live_timer_us=record.live_timer_period_us,
        has_creation_time_in_name=record.has_creation_time_in_name,
        sessiond_uuid=record.sessiond_uuid,
        sessiond_session_id=record.session_id,
        creation_time_s=record.creation_time_s,
    )


def _checked(request: StreamRequest) -> StreamRequest:
    """With its path and limits as we use them. Raises InvalidArgument."""
    names.check_channel_name(request.channel_name)
    for what, number in (
        ("size of trace files", request.trace_file_size_bytes),
        ("count of trace files", request.trace_file_count),
        ("oldest packet", request.oldest_sequence),
    ):
        if not 0 <= number <= NUMBER_MAX:
            raise InvalidArgument(f"Not a {what}: {number}")
    is_limited = request.channel_name != names.METADATA_NAME and request.trace_file_size_bytes > 0
    return structs.replace(
        request,
        path=names.checked_stream_path(request.path),
        trace_file_size_bytes=request.trace_file_size_bytes if is_limited else 0,
        trace_file_count=min(request.trace_file_count, names.FILE_COUNT_MAX) if is_limited else 0,
    )
