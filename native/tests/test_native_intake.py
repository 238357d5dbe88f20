"""The Python surface of the intake: reports, errors, and who owns which descriptor."""

import asyncio
import errno
import os
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracefleet_native.intake_binding import (
    PACKET_SIZE_BYTES_MAX,
    Framing,
    HoldReason,
    Intake,
    IntakeReport,
    IntakeReportKind,
)

DEADLINE_MS = 10_000


@pytest.fixture
def intake() -> Iterator[Intake]:
    intake = Intake()
    yield intake
    intake.free()


@pytest.fixture
def peer(intake: Intake) -> Iterator[socket.socket]:
    peer, ours = socket.socketpair()
    intake.add(ours.detach(), 1, Framing.LTTNG)
    with peer:
        yield peer


def a_packet(handle: int, net_seq: int, data: bytes, padding_size: int = 0) -> bytes:
    return struct.pack(">QQQII", 0, handle, net_seq, len(data), padding_size) + data


def a_file(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)


def is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError as error:
        assert error.errno == errno.EBADF
        return False
    return True


def reports(intake: Intake, count: int) -> list[IntakeReport]:
    taken: list[IntakeReport] = []
    while len(taken) < count:
        more = intake.take_reports(DEADLINE_MS)
        assert more, f"{count - len(taken)} reports are missing after {taken}"
        taken += more
    return taken


def test_packets_are_in_the_file_when_they_are_reported(intake: Intake, peer: socket.socket, tmp_path: Path) -> None:
    intake.set_target(7, a_file(tmp_path / "c_0"), offset=0)
    peer.sendall(a_packet(7, 0, b"hello", 3) + a_packet(7, 1, b"world"))
    first, second = reports(intake, 2)
    assert first == IntakeReport(IntakeReportKind.PACKET, HoldReason.NONE, 0, 1, 7, 0, 0, 5, 3)
    assert second == IntakeReport(IntakeReportKind.PACKET, HoldReason.NONE, 0, 1, 7, 1, 8, 5, 0)
    assert (tmp_path / "c_0").read_bytes() == b"hello\0\0\0world"
    books = intake.books(7)
    assert (books.packet_count, books.data_bytes, books.padding_bytes, books.offset) == (2, 10, 3, 13)
    assert (books.cut_count, books.received_bytes, books.is_under_way) == (0, 0, False)
    assert intake.take_reports() == []


def test_a_packet_without_a_place_waits_until_it_has_one(intake: Intake, peer: socket.socket, tmp_path: Path) -> None:
    peer.sendall(a_packet(7, 4, b"hello"))
    (hold,) = reports(intake, 1)
    assert hold == IntakeReport(IntakeReportKind.HOLD, HoldReason.UNKNOWN_STREAM, 0, 1, 7, 4, 0, 5, 0)
    intake.set_target(7, a_file(tmp_path / "c_0"), offset=0, stop_net_seq=4)
    intake.resume(1)
    assert reports(intake, 1)[0].reason is HoldReason.STOPPED
    assert intake.set_stop(7, 5) is False
    intake.revoke(7)
    intake.resume(1)
    assert reports(intake, 1)[0].reason is HoldReason.NO_FILE
    intake.set_target(7, a_file(tmp_path / "c_0"), size_limit=4)
    intake.resume(1)
    assert reports(intake, 1)[0].reason is HoldReason.FILE_FULL
    intake.set_target(7, a_file(tmp_path / "c_1"), offset=0, size_limit=4)
    intake.resume(1)
    assert reports(intake, 1)[0].kind is IntakeReportKind.PACKET
    assert (tmp_path / "c_0").read_bytes() == b""
    assert (tmp_path / "c_1").read_bytes() == b"hello"


def test_the_event_loop_hears_of_reports(intake: Intake, peer: socket.socket, tmp_path: Path) -> None:
    intake.set_target(7, a_file(tmp_path / "c_0"), offset=0)

    async def listen() -> list[IntakeReport]:
        loop = asyncio.get_running_loop()
        heard: asyncio.Future[list[IntakeReport]] = loop.create_future()
        loop.add_reader(intake.fileno(), lambda: heard.set_result(intake.take_reports()))
        peer.sendall(a_packet(7, 0, b"hello"))
        async with asyncio.timeout(DEADLINE_MS / 1000):
            taken = await heard
        loop.remove_reader(intake.fileno())
        return taken

    assert [report.net_seq for report in asyncio.run(listen())] == [0]


def test_the_end_of_a_connection_says_where_it_came(intake: Intake, tmp_path: Path) -> None:
    intake.set_target(7, a_file(tmp_path / "c_0"), offset=0)
    for token, (sent, error) in enumerate(
        [
            (b"", 0),
            (a_packet(7, 0, b"hello")[:-1], errno.ENODATA),
            (struct.pack(">QQQII", 0, 7, 0, PACKET_SIZE_BYTES_MAX, 1), errno.EMSGSIZE),
        ]
    ):
        peer, ours = socket.socketpair()
        fd = ours.detach()
        intake.add(fd, token, Framing.LTTNG)
        with peer:
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
            (closed,) = reports(intake, 1)
        assert (closed.kind, closed.token, closed.error) == (IntakeReportKind.CLOSED, token, error)
        assert is_open(fd)
        intake.close(token)
        assert not is_open(fd)
        intake.close(token)
        intake.resume(token)
    assert (tmp_path / "c_0").read_bytes() == b""


def test_descriptors_change_hands_on_success_only(intake: Intake, peer: socket.socket, tmp_path: Path) -> None:
    first, second = a_file(tmp_path / "c_0"), a_file(tmp_path / "c_1")
    with pytest.raises(OSError) as refused:
        intake.set_target(7, first, offset=1)
    assert refused.value.errno == errno.EINVAL
    assert is_open(first)
    intake.set_target(7, first, offset=0)
    with pytest.raises(OSError) as refused:
        intake.set_target(7, second)
    assert refused.value.errno == errno.ESTALE
    assert is_open(first)
    assert is_open(second)
    intake.set_target(7, second, offset=0)
    assert not is_open(first)
    intake.revoke(7)
    assert not is_open(second)
    third = a_file(tmp_path / "c_1")
    intake.set_target(7, third)
    intake.remove(7)
    assert not is_open(third)
    for call in (intake.remove, intake.revoke, intake.books):
        with pytest.raises(FileNotFoundError):
            call(7)
    with pytest.raises(FileNotFoundError):
        intake.set_stop(7, 0)
    with pytest.raises(OSError) as refused:
        intake.add(peer.fileno(), 1, Framing.LTTNG)
    assert refused.value.errno == errno.EEXIST


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def a_fleet_packet(handle: int, sequence: int, data: bytes) -> bytes:
    def header(checksum: int) -> bytes:
        head = struct.pack("<4sIQQIIII", b"tfp1", checksum, handle, sequence, len(data), 0, crc32c(data), 0)
        return head + struct.pack("<11Q", 8 * len(data), 8 * len(data) - 3, 10, 20, 1, 2, 3, 77, 0, 0, 0)

    return header(crc32c(header(0))) + data


@pytest.mark.parametrize(("is_synced", "status"), [(False, 0), (True, 1)])
def test_acknowledged_packets_have_index_entries(intake: Intake, tmp_path: Path, is_synced: bool, status: int) -> None:
    peer, ours = socket.socketpair()
    peer.settimeout(DEADLINE_MS / 1000)
    intake.add(ours.detach(), 2, Framing.FLEET)
    (tmp_path / "c_0").write_bytes(b"old, rest")
    data, index = a_file(tmp_path / "c_0"), a_file(tmp_path / "c_0.idx")
    intake.set_target(7, data, offset=3, index_fd=index, index_offset=0, next_sequence=5, is_synced=is_synced)
    with peer:
        for sequence, answer in [(4, (status, 4)), (6, (2, 4)), (5, (status, 5)), (5, (status, 5))]:
            peer.sendall(a_fleet_packet(7, sequence, b"hello"))
            magic, *numbers = struct.unpack("<4sIQQ", peer.recv(24, socket.MSG_WAITALL))
            assert (magic, *numbers) == (b"tfa1", answer[0], 7, answer[1])
    assert (tmp_path / "c_0").read_bytes() == b"oldhello"
    assert (tmp_path / "c_0.idx").read_bytes() == struct.pack(">9Q", 3, 40, 37, 10, 20, 1, 2, 3, 77)
    packet, closed = reports(intake, 2)
    assert packet == IntakeReport(IntakeReportKind.PACKET, HoldReason.NONE, 0, 2, 7, 5, 3, 5, 0, 20, 2, 1, 77)
    assert closed.kind is IntakeReportKind.CLOSED
    assert intake.books(7).duplicate_count == 2


def test_free_closes_everything(tmp_path: Path) -> None:
    intake = Intake(thread_count=1)
    peer, ours = socket.socketpair()
    fd, target = ours.detach(), a_file(tmp_path / "c_0")
    intake.add(fd, 1, Framing.LTTNG)
    intake.set_target(7, target, offset=0)
    intake.wake()
    assert intake.take_reports(DEADLINE_MS) == []
    intake.free()
    intake.free()
    assert not is_open(fd)
    assert not is_open(target)
    with peer:
        assert peer.recv(1) == b""
