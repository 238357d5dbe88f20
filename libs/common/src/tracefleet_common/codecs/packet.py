"""Headers of the packets in data and metadata files, as the user-space ring buffers make them.

Source: liblttng-ust 2.13.5, `src/common/ringbuffer-clients/template.h` and `metadata-template.h`.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from tracefleet_common.errors import RemoteProtocolError
from tracefleet_common.model.ctf_types import ByteOrder

DATA_MAGIC: Final = 0xC1FC1FC1
METADATA_MAGIC: Final = 0x75D11D57
PACKET_HEADER_SIZE_BYTES: Final = {64: 84, 32: 80}  # by the width of a word
METADATA_HEADER_SIZE_BYTES: Final = 37

_SIGNS = {ByteOrder.LITTLE: "<", ByteOrder.BIG: ">"}
_DATA_64 = {order: struct.Struct(f"{sign}I16sI7QI") for order, sign in _SIGNS.items()}
_DATA_32 = {order: struct.Struct(f"{sign}I16sI6QII") for order, sign in _SIGNS.items()}
_METADATA = {order: struct.Struct(f"{sign}I16sIII5B") for order, sign in _SIGNS.items()}


class PacketHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Header and context of a data packet. Timestamps are clock cycles."""

    byte_order: ByteOrder
    trace_uuid: bytes
    stream_class_id: int  # channel id
    stream_instance_id: int  # CPU
    timestamp_begin: int
    timestamp_end: int
    content_size_bits: int  # header and padding after the last event record: with, without
    packet_size_bits: int
    sequence_number: int
    discarded_event_count: int  # of the stream so far; wraps at the width of a word
    cpu: int


class MetadataPacketHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Header of a metadata packet; sizes count the header."""

    byte_order: ByteOrder
    trace_uuid: bytes
    content_size_bits: int
    packet_size_bits: int
    major: int
    minor: int


def decode_packet_header(data: bytes, *, bits_per_long: int = 64) -> PacketHeader:
    """Decode what a data packet begins with: 84 bytes, or 80 of a tracer with 32-bit words; more is ignored.

    Raises RemoteProtocolError when it is short, of another kind, or its sizes contradict each other.
    """
    header_size_bytes = PACKET_HEADER_SIZE_BYTES[bits_per_long]
    order = _byte_order(data, header_size_bytes, DATA_MAGIC, "Data packet")
    layout = (_DATA_64 if bits_per_long == 64 else _DATA_32)[order]
    _, uuid, stream, instance, begin, end, content, packet, sequence, discarded, cpu = layout.unpack_from(data)
    _check_sizes("Data packet", header_size_bytes, content, packet)
    return PacketHeader(
        byte_order=order,
        trace_uuid=uuid,
        stream_class_id=stream,
        stream_instance_id=instance,
        timestamp_begin=begin,
        timestamp_end=end,
        content_size_bits=content,
        packet_size_bits=packet,
        sequence_number=sequence,
        discarded_event_count=discarded,
        cpu=cpu,
    )


def decode_metadata_packet_header(data: bytes) -> MetadataPacketHeader:
    """Decode the 37 bytes that a metadata packet begins with; more is ignored.

    Raises RemoteProtocolError when they are short, of another kind, compressed, encrypted or with a checksum.
    """
    order = _byte_order(data, METADATA_HEADER_SIZE_BYTES, METADATA_MAGIC, "Metadata packet")
    _, uuid, _, content, packet, compression, encryption, checksum, major, minor = _METADATA[order].unpack_from(data)
    if compression or encryption or checksum:
        raise RemoteProtocolError("Metadata packet is compressed, encrypted or has a checksum")
    _check_sizes("Metadata packet", METADATA_HEADER_SIZE_BYTES, content, packet)
    return MetadataPacketHeader(
        byte_order=order,
        trace_uuid=uuid,
        content_size_bits=content,
        packet_size_bits=packet,
        major=major,
        minor=minor,
    )


def encode_metadata_packet(header: MetadataPacketHeader, text: bytes) -> bytes:
    """Make a packet of `text` and no padding, for the same trace as the packet that `header` is of."""
    size_bits = 8 * (METADATA_HEADER_SIZE_BYTES + len(text))
    numbers = (METADATA_MAGIC, header.trace_uuid, 0, size_bits, size_bits, 0, 0, 0, header.major, header.minor)
    return _METADATA[header.byte_order].pack(*numbers) + text


def metadata_text(file_bytes: bytes) -> str:
    """Return the TSDL text in a metadata file of packets. Text may be cut anywhere between two packets.

    Raises RemoteProtocolError when the file is no sequence of whole packets.
    """
    pieces = []
    offset = 0
    while offset < len(file_bytes):
        header = decode_metadata_packet_header(file_bytes[offset : offset + METADATA_HEADER_SIZE_BYTES])
        content_end = offset + header.content_size_bits // 8
        pieces.append(file_bytes[offset + METADATA_HEADER_SIZE_BYTES : content_end])
        offset += header.packet_size_bits // 8
        if offset > len(file_bytes):
            raise RemoteProtocolError("Metadata file ends within a packet")
    return b"".join(pieces).decode("utf-8", "backslashreplace")


def _byte_order(data: bytes, header_size_bytes: int, magic: int, what: str) -> ByteOrder:
    if len(data) < header_size_bytes:
        raise RemoteProtocolError(f"{what} has {len(data)} bytes, less than its header ({header_size_bytes})")
    if data[:4] == magic.to_bytes(4, "little"):
        return ByteOrder.LITTLE
    if data[:4] == magic.to_bytes(4, "big"):
        return ByteOrder.BIG
    raise RemoteProtocolError(f"{what} begins with {data[:4].hex()}, not with the magic number {magic:#010x}")


def _check_sizes(what: str, header_size_bytes: int, content_size_bits: int, packet_size_bits: int) -> None:
    if not 8 * header_size_bytes <= content_size_bits <= packet_size_bits or packet_size_bits % 8:
        raise RemoteProtocolError(f"{what} claims {content_size_bits} of {packet_size_bits} bits of content")
