"""CTF index files: a header of 16 bytes, then one entry per packet. Everything is big-endian.

Source: LTTng index format 1.1 and 1.0 (lttng-tools 2.13.9, `src/common/index/ctf-index.h`).
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from tracefleet_common.errors import RemoteProtocolError

MAGIC: Final = 0xC1F1DCC1
MAJOR: Final = 1
MINOR: Final = 1
INDEX_HEADER_SIZE_BYTES: Final = 16
INDEX_ENTRY_SIZE_BYTES: Final = 72
INDEX_ENTRY_1_0_SIZE_BYTES: Final = 56

_HEADER = struct.Struct(">4I")
_ENTRY = struct.Struct(">9Q")
_ENTRY_1_0 = struct.Struct(">7Q")


class IndexHeader(msgspec.Struct, frozen=True, kw_only=True):
    """Version of the file, and how long its entries are."""

    major: int = MAJOR
    minor: int = MINOR
    entry_size_bytes: int = INDEX_ENTRY_SIZE_BYTES


class IndexEntry(msgspec.Struct, frozen=True, kw_only=True):
    """Where one packet is and what it holds. Timestamps are clock cycles (not ns)."""

    offset_bytes: int  # of the packet in its data file
    packet_size_bits: int
    content_size_bits: int
    timestamp_begin: int
    timestamp_end: int
    discarded_event_count: int  # of the stream so far
    stream_class_id: int  # channel id
    stream_instance_id: int | None = None  # CPU; None in format 1.0
    packet_sequence_number: int | None = None  # None in format 1.0


def encode_index_header(minor: int = MINOR) -> bytes:
    """Encode the header of a file of format 1.1, or 1.0."""
    return _HEADER.pack(MAGIC, MAJOR, minor, INDEX_ENTRY_SIZE_BYTES if minor else INDEX_ENTRY_1_0_SIZE_BYTES)


def encode_index_entry(entry: IndexEntry, minor: int = MINOR) -> bytes:
    """Encode an entry of format 1.1, or 1.0, which has no place for instance and number."""
    if minor == 0:
        return _ENTRY_1_0.pack(
            entry.offset_bytes,
            entry.packet_size_bits,
            entry.content_size_bits,
            entry.timestamp_begin,
            entry.timestamp_end,
            entry.discarded_event_count,
            entry.stream_class_id,
        )
    return _ENTRY.pack(
        entry.offset_bytes,
        entry.packet_size_bits,
        entry.content_size_bits,
        entry.timestamp_begin,
        entry.timestamp_end,
        entry.discarded_event_count,
        entry.stream_class_id,
        entry.stream_instance_id or 0,
        entry.packet_sequence_number or 0,
    )


def decode_index_header(data: bytes) -> IndexHeader:
    """Decode the first 16 bytes of an index file. Raises RemoteProtocolError for an unknown format."""
    if len(data) != INDEX_HEADER_SIZE_BYTES:
        raise RemoteProtocolError(f"Index file header has {len(data)} bytes, not {INDEX_HEADER_SIZE_BYTES}")
    magic, major, minor, entry_size_bytes = _HEADER.unpack(data)
    if magic != MAGIC:
        raise RemoteProtocolError(f"Index file begins with {magic:#010x}, not {MAGIC:#010x}")
    expected = INDEX_ENTRY_1_0_SIZE_BYTES if minor == 0 else INDEX_ENTRY_SIZE_BYTES
    if major != MAJOR or entry_size_bytes != expected:
        raise RemoteProtocolError(f"Index file of format {major}.{minor} with entries of {entry_size_bytes} bytes")
    return IndexHeader(major=major, minor=minor, entry_size_bytes=entry_size_bytes)


def decode_index_entry(record: bytes) -> IndexEntry:
    """Decode one whole entry: 72 bytes of format 1.1, or 56 of 1.0.

    Raises RemoteProtocolError when the record has another length.
    """
    sequence: int | None = None
    instance: int | None = None
    if len(record) == INDEX_ENTRY_SIZE_BYTES:
        offset, packet, content, begin, end, discarded, stream, instance, sequence = _ENTRY.unpack(record)
    elif len(record) == INDEX_ENTRY_1_0_SIZE_BYTES:
        offset, packet, content, begin, end, discarded, stream = _ENTRY_1_0.unpack(record)
    else:
        raise RemoteProtocolError(f"Index entry has {len(record)} bytes")
    return IndexEntry(
        offset_bytes=offset,
        packet_size_bits=packet,
        content_size_bits=content,
        timestamp_begin=begin,
        timestamp_end=end,
        discarded_event_count=discarded,
        stream_class_id=stream,
        stream_instance_id=instance,
        packet_sequence_number=sequence,
    )


def decode_index_file(data: bytes) -> tuple[IndexEntry, ...]:
    """Decode a whole index file. Raises RemoteProtocolError; a half-written last entry is an error too."""
    header = decode_index_header(data[:INDEX_HEADER_SIZE_BYTES])
    starts = range(INDEX_HEADER_SIZE_BYTES, len(data), header.entry_size_bytes)
    return tuple(decode_index_entry(data[start : start + header.entry_size_bytes]) for start in starts)
