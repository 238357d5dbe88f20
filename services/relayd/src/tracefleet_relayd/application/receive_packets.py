"""What happens on data connections: packets arrive, or something is in their way.

A data connection says nothing of itself. It belongs to the session of its first packet, and ends that session when it
ends.
"""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Callable
from typing import Final

from tracefleet_common.codecs.lttng_relay import SendIndex
from tracefleet_common.errors import TracefleetError
from tracefleet_relayd.application.ports import HoldReason, Intake, IntakeReport, NoRoom, ReportKind
from tracefleet_relayd.application.sessions import Sessions
from tracefleet_relayd.application.stream_files import NO_ROOM_ERRORS, OpenStream, StreamFiles
from tracefleet_relayd.domain.relay_session import RelaySession

log = logging.getLogger("tracefleet.relayd.packets")

NO_ROOM: Final = "No room on the disk"  # the trouble of a session


class ReceivePackets:
    """Connections are known by their tokens."""

    def __init__(self, intake: Intake, files: StreamFiles, sessions: Sessions) -> None:
        self._intake = intake
        self._files = files
        self._sessions = sessions
        self._reports: deque[IntakeReport] = deque()
        self._sessions_by_token: dict[int, RelaySession] = {}
        self._held: set[int] = set()  # they are resumed in a while
        self._without_room: set[int] = set()  # it was said that the disk is full
        self.acknowledged: set[int] = set()  # connections that are not ours, but whose are:
        self.take_acknowledged: Callable[[IntakeReport], None] = lambda _report: None
        files.take_reports_with(self.take_reports)

    def take_reports(self) -> None:
        """Hear of all that happened, in order. May be called while a report is dealt with."""
        self._reports.extend(self._intake.take_reports())
        while self._reports:
            self._take(self._reports.popleft())

    def try_again(self) -> None:
        """Perhaps what was in the way is gone: to be called once in a while."""
        held, self._held = self._held, set()
        for token in held:
            self._intake.resume(token)

    def close_all(self) -> None:
        """The relay daemon ends."""
        for token in list(self._sessions_by_token):
            self._close(token, is_aborted=True)

    def _take(self, report: IntakeReport) -> None:
        if report.token in self.acknowledged:
            self.take_acknowledged(report)
            return
        if report.kind is ReportKind.CLOSED:
            self._intake.close(report.token)
            if report.error:
                log.warning("Data connection broke: token=%d, error=%s", report.token, os.strerror(report.error))
            session = self._forget(report.token)
            if session is not None:
                self._sessions.close_soon(session)
            return
        record = self._files.get(report.handle)
        try:
            if report.kind is ReportKind.ENTRY:
                self._take_entry(report, record)
            elif report.kind is ReportKind.PACKET:
                self._take_packet(report, record)
            elif report.kind is ReportKind.INDEX:
                self._take_index(report, record)
            elif report.kind is ReportKind.BEACON:
                if record is not None:
                    record.stream.take_beacon(report.timestamp_end, report.stream_class_id)
            else:
                self._release(report, record)
        except (OSError, TracefleetError) as error:
            log.warning(
                "Data connection is closed: token=%d, stream=%d, packet=%d, error=%s",
                report.token,
                report.handle,
                report.sequence,
                error,
            )
            self._close(report.token, is_aborted=True)
        except Exception:  # other connections must not suffer
            log.exception("Data connection is closed: token=%d, stream=%d", report.token, report.handle)
            self._close(report.token, is_aborted=True)

    def _take_packet(self, report: IntakeReport, record: OpenStream | None) -> None:
        if record is None or record.stream.file is None:
            return  # closed or moved away in the meantime: its session was aborted
        self._sessions_by_token.setdefault(report.token, record.session)
        stream = record.stream
        self._files.note_index_is_back(record)
        stream.take_packet(report.sequence, report.offset_bytes, report.data_size_bytes + report.padding_size_bytes)
        self._note_room(report.token, record)
        if record.target is not None:
            record.target.touch()
        if stream.has_something_to_do:
            self._files.advance(record)
            self._files.lend_index(record)

    def _take_entry(self, report: IntakeReport, record: OpenStream | None) -> None:
        if record is None or record.stream.file is None:
            return
        self._sessions_by_token.setdefault(report.token, record.session)
        record.stream.take_entry(
            report.sequence,
            report.offset_bytes,
            report.data_size_bytes + report.padding_size_bytes,
            report.stream_class_id,
            report.discarded_event_count,
            report.packet_number,
        )
        self._note_room(report.token, record)
        if record.target is not None:
            record.target.touch()
        if record.lent_index is not None:
            record.lent_index.touch()

    def _take_index(self, report: IntakeReport, record: OpenStream | None) -> None:
        if record is None or record.stream.file is None:
            return
        self._files.note_index_is_back(record)
        record.stream.take_index(
            SendIndex(
                stream_handle=report.handle,
                sequence_number=report.sequence,
                packet_size_bits=report.packet_size_bits,
                content_size_bits=report.content_size_bits,
                timestamp_begin=report.timestamp_begin,
                timestamp_end=report.timestamp_end,
                discarded_event_count=report.discarded_event_count,
                stream_class_id=report.stream_class_id,
                stream_instance_id=report.stream_instance_id,
                packet_sequence_number=report.packet_number,
            )
        )
        self._files.advance(record)

    def _release(self, report: IntakeReport, record: OpenStream | None) -> None:
        """Take away what holds the connection, and let it go on. What cannot be helped is closed."""
        token = report.token
        if record is None or record.stream.is_metadata:
            log.warning("Packet for an unknown stream: token=%d, stream=%d", token, report.handle)
            self._close(token, is_aborted=False)
            return
        stream = record.stream
        self._sessions_by_token.setdefault(token, record.session)
        match report.reason:
            case HoldReason.FILE_FULL:
                try:
                    self._files.next_file(record)
                except NoRoom:
                    self._wait_for_room(token, record)
                    return
            case HoldReason.STOPPED:
                # It comes after all that was before the end of the chunk: what is missing of that never comes.
                stream.give_up_waiting()
                self._files.advance(record)
            case HoldReason.NO_FILE if record.target is not None:
                self._files.lend_again(record)
            case HoldReason.STREAM_BUSY:
                self._held.add(token)
                return
            case HoldReason.WRITE_FAILED if report.error in NO_ROOM_ERRORS:
                self._wait_for_room(token, record)
                return
            case _:
                reason = "" if report.reason is None else report.reason.value
                log.warning("Packet cannot be taken: token=%d, stream=%d, reason=%s", token, report.handle, reason)
                self._close(token, is_aborted=False)
                return
        self._intake.resume(token)

    def _wait_for_room(self, token: int, record: OpenStream) -> None:
        if token not in self._without_room:
            log.warning(
                "No room for packets, will retry: stream=%d, path=%s", record.stream.stream_id, record.stream.path
            )
            self._without_room.add(token)
            record.session.trouble = NO_ROOM
        self._held.add(token)

    def _note_room(self, token: int, record: OpenStream) -> None:
        if token in self._without_room:
            self._without_room.discard(token)
            record.session.trouble = None

    def _close(self, token: int, *, is_aborted: bool) -> None:
        self._intake.close(token)
        session = self._forget(token)
        if session is not None:
            self._sessions.close(session, is_aborted=is_aborted)

    def _forget(self, token: int) -> RelaySession | None:
        self._held.discard(token)
        self._without_room.discard(token)
        return self._sessions_by_token.pop(token, None)
