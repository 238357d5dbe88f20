"""A disk and an intake in memory: what the real ones do, without threads and system calls."""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext

from tracefleet_common.codecs import lttng_relay as relay
from tracefleet_common.codecs.index_file import (
    INDEX_HEADER_SIZE_BYTES,
    IndexEntry,
    decode_index_file,
    encode_index_entry,
    encode_index_header,
)
from tracefleet_common.codecs.lttng_relay import Reply, Request
from tracefleet_relayd.application.control_commands import ControlCommands
from tracefleet_relayd.application.ports import FoundFile, HoldReason, IntakeReport, NoRoom, ReportKind, Tail
from tracefleet_relayd.application.receive_packets import ReceivePackets
from tracefleet_relayd.application.sessions import Sessions
from tracefleet_relayd.application.stream_files import StreamFiles
from tracefleet_relayd.domain.names import Grouping
from tracefleet_relayd.domain.trace_chunk import MakeDirectory, RemoveDirectory, RemoveFile, Rename, Step

CREATION_TIME_S = 1_700_000_000
UUID = bytes([0x11]) * 16


class FakeFile:
    def __init__(self) -> None:
        self.data = bytearray()

    def size_bytes(self) -> int:
        return len(self.data)

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        return bytes(self.data[offset_bytes : offset_bytes + size_bytes])

    def use(self) -> AbstractContextManager[int]:
        return nullcontext(-1)

    def close(self) -> None:
        pass


class FakeDisk:
    """Files by path. `is_full`: nothing can be written."""

    def __init__(self) -> None:
        self.files: dict[str, FakeFile] = {}
        self.steps: list[Step] = []
        self.is_full = False
        self.intake: FakeIntake | None = None

    def carry_out(self, step: Step) -> None:
        self.steps.append(step)
        match step:
            case Rename():
                if any(path == step.target or path.startswith(f"{step.target}/") for path in self.files):
                    raise FileExistsError(step.target)
                for path in list(self.files):
                    if path == step.source or path.startswith(f"{step.source}/"):
                        self.files[step.target + path[len(step.source) :]] = self.files.pop(path)
            case RemoveFile():
                self.files.pop(step.path, None)
            case MakeDirectory() | RemoveDirectory():
                pass

    def open_for_reading(self, path: str) -> FakeFile:
        if path not in self.files:
            raise FileNotFoundError(path)
        return self.files[path]

    def make(self, path: str) -> FakeFile:
        self.files[path] = FakeFile()
        return self.files[path]

    def make_data_target(self, handle: int, *, session_id: int, size_bytes_max: int) -> FakeTarget:
        assert self.intake is not None
        target = FakeTarget(self, session_id, size_bytes_max)
        self.intake.targets[handle] = target
        return target

    def make_acknowledged_target(
        self, handle: int, *, session_id: int, size_bytes_max: int, is_synced: bool
    ) -> FakeAcknowledgedTarget:
        assert self.intake is not None
        return FakeAcknowledgedTarget(self, self.intake, handle, size_bytes_max, is_synced=is_synced)

    def find_files(self, path: str, index_path: str | None) -> FoundFile | None:
        data = self.files.get(path)
        if data is None:
            return None
        if index_path is None:  # packets of 16 bytes
            del data.data[len(data.data) // 16 * 16 :]
            return FoundFile(len(data.data) // 16, len(data.data))
        if index_path not in self.files or not self.files[index_path].data:
            return None
        entries = self.index(index_path)
        if not entries:
            data.data.clear()
            return FoundFile(0, 0)
        last = entries[-1]
        end = last.offset_bytes + last.packet_size_bits // 8
        assert len(data.data) >= end
        del data.data[end:]
        number = last.packet_sequence_number or 0
        return FoundFile(len(entries), end, last.stream_class_id, last.discarded_event_count, number)

    def make_index_file(self, path: str, minor: int) -> FakeIndex:
        file = self.make(path)
        file.data += encode_index_header(minor)
        return FakeIndex(self, file, minor)

    def open_index_file(self, path: str, minor: int) -> FakeIndex:
        return FakeIndex(self, self.open_for_reading(path), minor)

    def lend_index(self, handle: int, path: str | None, *, entry_count: int, data_end_bytes: int) -> None:
        """This intake does not join."""

    def make_metadata_file(self, path: str) -> FakeMetadata:
        return FakeMetadata(self, self.make(path))

    def index(self, path: str) -> tuple[IndexEntry, ...]:
        """What an index file holds."""
        return decode_index_file(bytes(self.files[path].data))


class FakeTarget:
    def __init__(self, disk: FakeDisk, session_id: int, size_bytes_max: int) -> None:
        self.disk = disk
        self.session_id = session_id
        self.size_bytes_max = size_bytes_max
        self.file: FakeFile | None = None
        self.stop_sequence: int | None = None
        self.is_fresh = True

    def begin(self, path: str, *, stop_sequence: int | None, tail: Tail | None = None) -> None:
        file = self.disk.make(path)
        if tail is not None:
            former = self.disk.files[tail.path]
            assert len(former.data) == tail.end_bytes
            file.data += former.data[tail.begin_bytes :]
            del former.data[tail.begin_bytes :]
        self.file, self.stop_sequence, self.is_fresh = file, stop_sequence, True

    def go_on(self, *, stop_sequence: int | None) -> None:
        self.stop_sequence = stop_sequence

    def touch(self) -> None:
        pass

    def close(self) -> None:
        self.file = None


class FakeAcknowledgedTarget:
    """Tells the intake at once; `is_lent`: its descriptors were not taken away."""

    def __init__(
        self, disk: FakeDisk, intake: FakeIntake, handle: int, size_bytes_max: int, *, is_synced: bool
    ) -> None:
        self.disk, self.intake, self.handle = disk, intake, handle
        self.size_bytes_max, self.is_synced = size_bytes_max, is_synced
        self.data: FakeFile | None = None
        self.index: FakeFile | None = None
        self.next_sequence = 0
        self.is_lent = self.is_fresh = False
        self.durable_count = 0

    def prepare(self, path: str, index_path: str | None) -> None:
        for one in (path, index_path):
            if one is not None:
                self.disk.files.pop(one, None)

    def begin(self, path: str, index_path: str | None, *, next_sequence: int | None) -> None:
        self.prepare(path, index_path)
        if self.disk.is_full:
            raise NoRoom
        self.data, self.index = self.disk.make(path), None
        if index_path is not None:
            self.index = self.disk.make(index_path)
            self.index.data += encode_index_header()
        self._lend(next_sequence)
        self.is_fresh = True

    def resume(self, path: str, index_path: str | None, found: FoundFile, *, next_sequence: int) -> None:
        assert self.handle not in self.intake.acknowledged, "the intake does not know it"
        self.data = self.disk.open_for_reading(path)
        self.index = None if index_path is None else self.disk.open_for_reading(index_path)
        assert len(self.data.data) == found.end_bytes
        self._lend(next_sequence)

    def _lend(self, next_sequence: int | None) -> None:
        if next_sequence is not None:
            self.next_sequence = next_sequence
        self.is_lent = True
        self.intake.acknowledged[self.handle] = self

    def go_on(self) -> None:
        self.is_lent = True

    def make_durable(self) -> None:
        self.durable_count += 1

    def touch(self) -> None:
        pass

    def close(self) -> None:
        self.is_lent = False


class FakeIndex:
    def __init__(self, disk: FakeDisk, file: FakeFile, minor: int) -> None:
        self.disk, self.file, self.minor = disk, file, minor

    def write(self, number: int, entry: IndexEntry) -> None:
        if self.disk.is_full:
            raise NoRoom
        data = encode_index_entry(entry, self.minor)
        at = INDEX_HEADER_SIZE_BYTES + number * len(data)
        assert at == len(self.file.data), "entries follow each other"
        self.file.data += data

    def close(self) -> None:
        pass


class FakeMetadata:
    def __init__(self, disk: FakeDisk, file: FakeFile) -> None:
        self.disk, self.file = disk, file

    def write(self, offset_bytes: int, content: bytes, padding_size_bytes: int) -> None:
        if self.disk.is_full:
            raise NoRoom
        assert offset_bytes == len(self.file.data)
        self.file.data += content + bytes(padding_size_bytes)

    def close(self) -> None:
        pass


class FakeIntake:
    """`send` is a packet that arrives on a connection; those that are held wait for resume."""

    def __init__(self) -> None:
        self.targets: dict[int, FakeTarget] = {}
        self.reports: list[IntakeReport] = []
        self.waiting: dict[int, deque[tuple[int, int, bytes, int]]] = {}  # by token
        self.held: set[int] = set()
        self.closed: list[int] = []
        self.acknowledged: dict[int, FakeAcknowledgedTarget] = {}  # by handle
        self.numbered: dict[int, deque[tuple[int, int, int, int]]] = {}  # that are held, by token
        self.acks: list[tuple[int, int]] = []  # handle and sequence, as they go out

    def take_reports(self) -> Sequence[IntakeReport]:
        reports, self.reports = self.reports, []
        return reports

    def send(self, handle: int, sequence: int, data: bytes = b"12345678", padding: int = 8, *, token: int = 1) -> None:
        self.waiting.setdefault(token, deque()).append((handle, sequence, data, padding))
        self._go_on(token)

    def end(self, token: int = 1, error: int = 0) -> None:
        """The peer closes the connection."""
        self.reports.append(IntakeReport(ReportKind.CLOSED, None, error, token, 0, 0, 0, 0, 0))

    def _go_on(self, token: int) -> None:
        packets = self.waiting.get(token, deque())
        while packets and token not in self.held and token not in self.closed:
            handle, sequence, data, padding = packets[0]
            reason = self._obstacle(handle, sequence, len(data))
            offset = 0
            kind = ReportKind.PACKET if reason is None else ReportKind.HOLD
            if reason is None:
                file = self.targets[handle].file
                assert file is not None
                offset = len(file.data)
                file.data += data + bytes(padding)
                self.targets[handle].is_fresh = False
                packets.popleft()
            else:
                self.held.add(token)
            self.reports.append(IntakeReport(kind, reason, 0, token, handle, sequence, offset, len(data), padding))

    def send_numbered(
        self, handle: int, sequence: int, *, token: int, number: int | None = None, discarded: int = 0
    ) -> None:
        """A packet of 16 bytes with its index entry; the tracer's `number`: None: the same as its sequence."""
        if token in self.held or token in self.closed:
            return
        target = self.acknowledged.get(handle)
        number = sequence if number is None else number
        reason, offset, kind = None, 0, ReportKind.PACKET
        if target is None:
            reason = HoldReason.UNKNOWN_STREAM
        elif sequence != target.next_sequence:
            self.acks.append((handle, target.next_sequence - 1))
            return
        elif not target.is_lent or target.data is None:
            reason = HoldReason.NO_FILE
        elif target.size_bytes_max and not target.is_fresh and len(target.data.data) + 8 > target.size_bytes_max:
            reason = HoldReason.FILE_FULL
        elif target.disk.is_full:
            reason = HoldReason.WRITE_FAILED
        else:
            offset = len(target.data.data)
            target.data.data += f"packet{sequence % 100:02}".encode() + bytes(8)
            if target.index is not None:
                target.index.data += encode_index_entry(an_entry(offset, number, discarded))
            target.is_fresh = False
            target.next_sequence += 1
            self.acks.append((handle, sequence))
        if reason is not None:
            kind = ReportKind.HOLD
            self.held.add(token)
            self.numbered.setdefault(token, deque()).append((handle, sequence, number, discarded))
        error = errno.ENOSPC if reason is HoldReason.WRITE_FAILED else 0
        self.reports.append(
            IntakeReport(kind, reason, error, token, handle, sequence, offset, 8, 8, 200, 7, discarded, number)
        )

    def send_beacon(self, handle: int, timestamp_end: int, *, token: int) -> None:
        self.reports.append(IntakeReport(ReportKind.BEACON, None, 0, token, handle, 0, 0, 0, 0, timestamp_end, 7))

    def _obstacle(self, handle: int, sequence: int, size: int) -> HoldReason | None:
        target = self.targets.get(handle)
        if target is None:
            return HoldReason.UNKNOWN_STREAM
        if target.file is None:
            return HoldReason.NO_FILE
        if target.stop_sequence is not None and sequence >= target.stop_sequence:
            return HoldReason.STOPPED
        limit = target.size_bytes_max
        if limit and not target.is_fresh and len(target.file.data) + size > limit:
            return HoldReason.FILE_FULL
        return None

    def resume(self, token: int) -> None:
        self.held.discard(token)
        self._go_on(token)
        for handle, sequence, number, discarded in self.numbered.pop(token, ()):
            self.send_numbered(handle, sequence, token=token, number=number, discarded=discarded)

    def close(self, token: int) -> None:
        self.closed.append(token)

    def set_stop(self, handle: int, stop_sequence: int) -> None:
        self.targets[handle].stop_sequence = stop_sequence

    def remove(self, handle: int) -> None:
        if self.acknowledged.pop(handle, None) is None:
            del self.targets[handle]


def an_entry(offset: int, number: int, discarded: int) -> IndexEntry:
    return IndexEntry(
        offset_bytes=offset,
        packet_size_bits=128,
        content_size_bits=64,
        timestamp_begin=100,
        timestamp_end=200,
        discarded_event_count=discarded,
        stream_class_id=7,
        stream_instance_id=0,
        packet_sequence_number=number,
    )


class FakeClock:
    def __init__(self) -> None:
        self.time_s = CREATION_TIME_S

    def now_s(self) -> int:
        return self.time_s


class Relay:
    """A relay daemon in memory."""

    def __init__(self, grouping: Grouping = Grouping.BY_HOST, *, is_clear_allowed: bool = True) -> None:
        self.disk = FakeDisk()
        self.intake = self.disk.intake = FakeIntake()
        self.clock = FakeClock()
        self.files = StreamFiles(self.disk, self.intake)
        self.sessions = Sessions(self.files, self.clock, grouping)
        self.packets = ReceivePackets(self.intake, self.files, self.sessions)
        self.is_clear_allowed = is_clear_allowed

    def connect(self) -> ControlCommands:
        return ControlCommands(
            self.sessions, self.files, self.packets.take_reports, is_clear_allowed=self.is_clear_allowed
        )


class Producer:
    """A session and consumer daemon, on one pair of connections. `token` is its data connection's."""

    def __init__(self, relay_daemon: Relay, *, minor: int = 13, token: int = 1, **session: object) -> None:
        self.relay = relay_daemon
        self.token = token
        self.commands = relay_daemon.connect()
        self.ask(relay.Version(minor=minor))
        settings: dict[str, object] = {
            "session_name": "s",
            "host_name": "h",
            "sessiond_uuid": UUID,
            "sessiond_session_id": 1,
            "creation_time_s": CREATION_TIME_S,
        }
        reply = self.ask(relay.CreateSession(**{**settings, **session}))  # type: ignore[arg-type]
        assert isinstance(reply, relay.CreateSessionReply)
        self.session_id, self.output = reply.session_id, reply.output_path or ""

    def ask(self, request: Request) -> Reply | None:
        """The reply, once the relay daemon has heard of all packets so far."""
        self.relay.packets.take_reports()
        reply = self.commands.execute(request)
        self.relay.packets.take_reports()
        return reply

    def add(self, channel: str = "a_0", path: str = "ust", **settings: int) -> int:
        request = relay.AddStream(channel_name=channel, path=path, **settings)
        reply = self.ask(request)
        assert isinstance(reply, relay.AddStreamReply)
        assert reply.stream_handle is not None
        return reply.stream_handle

    def send(self, handle: int, sequence: int, data: bytes = b"12345678") -> None:
        """A packet of 16 bytes, padding included."""
        self.relay.intake.send(handle, sequence, data, 16 - len(data), token=self.token)
        self.relay.packets.take_reports()

    def index(self, handle: int, sequence: int, packet: int | None = None) -> None:
        self.ask(an_index(handle, sequence, sequence if packet is None else packet))

    def packet(self, handle: int, sequence: int, packet: int | None = None) -> None:
        """Data and index entry."""
        self.send(handle, sequence, f"packet{sequence % 100:02}".encode())
        self.index(handle, sequence, packet)

    def create_chunk(self, chunk_id: int) -> None:
        self.ask(relay.CreateTraceChunk(chunk_id=chunk_id, creation_time_s=CREATION_TIME_S + chunk_id))

    def close_chunk(self, chunk_id: int, command: relay.CloseCommand | None = None) -> str:
        request = relay.CloseTraceChunk(
            chunk_id=chunk_id, close_time_s=CREATION_TIME_S + 1 + chunk_id, close_command=command
        )
        reply = self.ask(request)
        assert isinstance(reply, relay.CloseTraceChunkReply)
        return reply.path

    def rotate(self, new_chunk_id: int | None, **positions: int) -> None:
        """`s1=4`: stream 1 at packet 4."""
        found = [
            relay.RotationPosition(stream_handle=int(name[1:]), packet_sequence_number=position)
            for name, position in positions.items()
        ]
        self.ask(relay.RotateStreams(new_chunk_id=new_chunk_id, positions=tuple(found)))

    def exists(self, chunk_id: int) -> bool:
        reply = self.ask(relay.TraceChunkExists(chunk_id=chunk_id))
        assert isinstance(reply, relay.TraceChunkExistsReply)
        return reply.is_there

    def is_pending(self, handle: int, last: int | None) -> bool:
        reply = self.ask(relay.DataPending(stream_handle=handle, last_sequence_number=last))
        assert isinstance(reply, relay.PendingReply)
        return reply.status is relay.PendingStatus.PENDING


def an_index(handle: int, sequence: int | None, packet: int, *, size_bits: int = 128) -> relay.SendIndex:
    return relay.SendIndex(
        stream_handle=handle,
        sequence_number=sequence,
        packet_size_bits=size_bits,
        content_size_bits=64,
        timestamp_begin=100,
        timestamp_end=200,
        discarded_event_count=0,
        stream_class_id=7,
        stream_instance_id=0,
        packet_sequence_number=packet,
    )


MakeRelay = Callable[..., Relay]
