"""Frames that are damaged, cut and repeated in any way: files hold what was acknowledged, and nothing else.

Derandomized: a failure belongs to the change that is tested.
"""

from __future__ import annotations

import os
import socket
import struct
import tempfile
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import given, settings

from tracefleet_native.intake_binding import Framing, Intake, IntakeReport, IntakeReportKind

DEADLINE_MS = 10_000
GROUP = 5
HANDLE, FOREIGN = 7, 8
ENTRY_SIZE = 72
HEADER = struct.Struct("<4sIQQIIII8Q24x")
ACK = struct.Struct("<4sIQQ")
POLYNOMIAL = 0x82F63B78


def crc32c(data: bytes) -> int:
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def frame(
    handle: int, sequence: int, data: bytes, padding: int, *, flags: int = 0, packet_size: int | None = None
) -> bytes:
    bits = 8 * (len(data) + padding) if packet_size is None else packet_size
    entry = (bits, min(bits, 8 * len(data)), 10, 20, 1, 2, 3, sequence)
    bare = HEADER.pack(b"tfp1", 0, handle, sequence, len(data), padding, crc32c(data), flags, *entry)
    return bare[:4] + crc32c(bare).to_bytes(4, "little") + bare[8:] + data


SIZES = st.integers(0, 300)
NUMBERS = st.one_of(st.integers(0, 6), st.sampled_from((1 << 63, (1 << 64) - 1)))
HANDLES = st.sampled_from((HANDLE, HANDLE, HANDLE, HANDLE, FOREIGN, 99, (1 << 64) - 1))
# Well made, though perhaps not what the receiver can use; and bytes of which the checksum knows.
FRAMES = st.builds(
    lambda handle, sequence, data, padding, flags, packet_size: frame(
        handle, sequence, data, padding, flags=flags, packet_size=packet_size
    ),
    HANDLES,
    NUMBERS,
    st.binary(max_size=300),
    st.one_of(SIZES, st.just((1 << 32) - 1)),
    st.sampled_from((0, 0, 0, 1, 2)),
    st.sampled_from((None, None, None, 0, 1, 1 << 63)),
)
NEXT = st.tuples(st.just("next"), st.binary(max_size=300), SIZES)
PIECES = st.lists(st.one_of(NEXT, NEXT, NEXT, FRAMES, st.binary(max_size=40)), max_size=12)
DAMAGE = st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=2)


def written(pieces: list[bytes | tuple[str, bytes, int]], damage: list[tuple[float, int]]) -> bytes:
    sequence, stream = 0, b""
    for piece in pieces:
        if isinstance(piece, bytes):
            stream += piece
        else:
            stream += frame(HANDLE, sequence, piece[1], piece[2])
            sequence += 1
    changed = bytearray(stream)
    for place, bits in damage:
        if changed:
            changed[int(place * len(changed))] ^= bits
    return bytes(changed)


def target(directory: Path, name: str) -> tuple[int, int]:
    flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
    return os.open(directory / name, flags), os.open(directory / f"{name}.idx", flags)


def converse(intake: Intake, peer: socket.socket, stream: bytes, chunk_size: int) -> list[IntakeReport]:
    """Send all that is taken; the reports until the connection is held or over."""
    found: list[IntakeReport] = []
    try:
        for at in range(0, len(stream), chunk_size):
            peer.sendall(stream[at : at + chunk_size])
        peer.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # it is over
    while not found or found[-1].kind not in (IntakeReportKind.CLOSED, IntakeReportKind.HOLD):
        more = intake.take_reports(DEADLINE_MS)
        assert more, "the connection neither ends nor is held"
        found += more
    return found


@settings(derandomize=True, max_examples=150, deadline=None)
@given(PIECES, DAMAGE, st.sampled_from((29, 130, 100_000)))
def test_files_hold_what_was_acknowledged(
    pieces: list[bytes | tuple[str, bytes, int]], damage: list[tuple[float, int]], chunk_size: int
) -> None:
    stream = written(pieces, damage)
    intake = Intake(thread_count=2)
    with tempfile.TemporaryDirectory(prefix="tf-native-fuzz-") as name:
        directory = Path(name)
        for handle, group in ((HANDLE, GROUP), (FOREIGN, GROUP + 1)):
            data, index = target(directory, str(handle))
            intake.set_target(handle, data, offset=0, index_fd=index, index_offset=0, next_sequence=0, group=group)
        peer, ours = socket.socketpair()
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)  # all of it fits, also when nobody reads
        peer.settimeout(DEADLINE_MS / 1000)
        intake.add(ours.detach(), 1, Framing.FLEET, GROUP)
        with peer:
            found = converse(intake, peer, stream, chunk_size)
            intake.close(1)
            answers = b""
            try:
                while part := peer.recv(1 << 16):
                    answers += part
            except ConnectionError:
                pass  # what it did not read was thrown away with the connection
        intake.free()
        packets = [report for report in found if report.kind is IntakeReportKind.PACKET]
        assert [report.net_seq for report in packets] == list(range(len(packets)))
        assert all(report.handle == HANDLE for report in packets)
        content, entries = (directory / "7").read_bytes(), (directory / "7.idx").read_bytes()
        assert (directory / "8").stat().st_size == (directory / "8.idx").stat().st_size == 0
        assert len(entries) == ENTRY_SIZE * len(packets)
        at = 0
        for number, report in enumerate(packets):
            offset, bits, *_ = struct.unpack_from(">9Q", entries, number * ENTRY_SIZE)
            assert offset == report.offset == at
            assert bits == 8 * (report.data_size + report.padding_size)
            at += bits // 8
        assert len(content) == at
        assert len(answers) % ACK.size == 0
        for magic, status, handle, sequence in ACK.iter_unpack(answers):
            assert magic == b"tfa1"
            if status < 2 and handle == HANDLE:
                assert sequence < len(packets)
