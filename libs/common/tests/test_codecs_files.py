"""Packets, metadata files and index files, against those of a genuine trace."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from tracefleet_common.codecs import index_file, packet
from tracefleet_common.codecs.index_file import IndexEntry
from tracefleet_common.errors import RemoteProtocolError
from tracefleet_common.model.ctf_types import ByteOrder

GOLDEN = Path(__file__).resolve().parents[3] / "tests/golden/ust"
INDEXES = sorted((*GOLDEN.glob("trace-*/*.idx"), *GOLDEN.glob("odd/trace/*.idx")))
UUID = bytes(range(16))


@pytest.mark.parametrize("case", INDEXES, ids=lambda case: f"{case.parts[-2]}-{case.stem}")
def test_genuine_index_file_and_its_packets(case: Path) -> None:
    data = case.read_bytes()
    stream = case.with_suffix(".stream").read_bytes()
    entries = index_file.decode_index_file(data)
    assert entries
    assert index_file.encode_index_header() + b"".join(map(index_file.encode_index_entry, entries)) == data
    position = 0
    for number, entry in enumerate(entries):
        header = packet.decode_packet_header(stream[entry.offset_bytes :])
        assert entry.offset_bytes == position
        assert entry == IndexEntry(
            offset_bytes=position,
            packet_size_bits=header.packet_size_bits,
            content_size_bits=header.content_size_bits,
            timestamp_begin=header.timestamp_begin,
            timestamp_end=header.timestamp_end,
            discarded_event_count=header.discarded_event_count,
            stream_class_id=header.stream_class_id,
            stream_instance_id=header.cpu,
            packet_sequence_number=number,
        )
        assert header.stream_instance_id == header.cpu
        position += header.packet_size_bits // 8
    assert position == len(stream)


def test_index_file_of_format_1_0() -> None:
    header = struct.pack(">4I", index_file.MAGIC, 1, 0, 56)
    (entry,) = index_file.decode_index_file(header + struct.pack(">7Q", *range(7)))
    assert entry.stream_class_id == 6
    assert entry.stream_instance_id is None
    assert entry.packet_sequence_number is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(16),
        index_file.encode_index_header()[:-1],
        index_file.encode_index_header() + bytes(71),
        struct.pack(">4I", index_file.MAGIC, 2, 0, 56),
        struct.pack(">4I", index_file.MAGIC, 1, 1, 0),
        struct.pack(">4I", index_file.MAGIC, 1, 0, 72),
        struct.pack("<4I", index_file.MAGIC, 1, 1, 72),
    ],
)
def test_broken_index_file(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        index_file.decode_index_file(data)


def data_packet(order: str = "<", word: str = "Q", content: int = 800, size: int = 4096 * 8) -> bytes:
    values = (packet.DATA_MAGIC, UUID, 3, 1, 10, 20, content, size, 7, 5, 1)
    return struct.pack(f"{order}I16sI6Q{word}I", *values)


@pytest.mark.parametrize(("order", "byte_order"), [("<", ByteOrder.LITTLE), (">", ByteOrder.BIG)])
@pytest.mark.parametrize(("word", "bits_per_long", "size"), [("Q", 64, 84), ("I", 32, 80)])
def test_packet_of_each_word_and_byte_order(
    order: str, byte_order: ByteOrder, word: str, bits_per_long: int, size: int
) -> None:
    data = data_packet(order, word)
    assert len(data) == size == packet.PACKET_HEADER_SIZE_BYTES[bits_per_long]
    assert packet.decode_packet_header(data, bits_per_long=bits_per_long) == packet.PacketHeader(
        byte_order=byte_order,
        trace_uuid=UUID,
        stream_class_id=3,
        stream_instance_id=1,
        timestamp_begin=10,
        timestamp_end=20,
        content_size_bits=800,
        packet_size_bits=4096 * 8,
        sequence_number=7,
        discarded_event_count=5,
        cpu=1,
    )


@pytest.mark.parametrize(
    "data",
    [
        b"",
        data_packet()[:-1],
        b"\0" + data_packet()[1:],
        data_packet(content=8),
        data_packet(content=4096 * 8 + 1),
        data_packet(size=4096 * 8 + 1),
    ],
)
def test_broken_packet(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        packet.decode_packet_header(data)


def metadata_packet(
    text: bytes, order: str = "<", size: int = 4096, schemes: tuple[int, int, int] = (0, 0, 0)
) -> bytes:
    content = packet.METADATA_HEADER_SIZE_BYTES + len(text)
    header = struct.pack(f"{order}I16sIII5B", packet.METADATA_MAGIC, UUID, 0, content * 8, size * 8, *schemes, 1, 8)
    return (header + text).ljust(size, b"\0")


def test_genuine_metadata_header() -> None:
    data = (GOLDEN / "trace-uid/metadata").read_bytes()
    header = packet.decode_metadata_packet_header(data)
    assert (header.byte_order, header.major, header.minor) == (ByteOrder.LITTLE, 1, 8)
    assert header.packet_size_bits == 4096 * 8
    stream = (GOLDEN / "trace-uid/plain.stream").read_bytes()
    assert header.trace_uuid == packet.decode_packet_header(stream).trace_uuid


@pytest.mark.parametrize("order", ["<", ">"])
def test_metadata_text_may_be_cut_anywhere(order: str) -> None:
    text = 'name = "größe";'.encode()
    cut = text.index("ö".encode()) + 1
    data = metadata_packet(text[:cut], order) + metadata_packet(text[cut:], order, 64)
    assert packet.metadata_text(data) == text.decode()
    assert packet.metadata_text(b"") == ""


@pytest.mark.parametrize(
    "data",
    [
        metadata_packet(b"x")[:-1],
        metadata_packet(b"x") + b"/* CTF",
        metadata_packet(b"x", schemes=(1, 0, 0)),
        metadata_packet(b"x", schemes=(0, 0, 1)),
        metadata_packet(b"", size=0) + metadata_packet(b"x"),
        b"/* CTF 1.8 */ event {};".ljust(64),
    ],
)
def test_broken_metadata_file(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        packet.metadata_text(data)
