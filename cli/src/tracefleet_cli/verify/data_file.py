"""The packets of one data file, walked from header to header, and compared with the file's index."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from tracefleet_common.codecs.index_file import (
    INDEX_HEADER_SIZE_BYTES,
    IndexEntry,
    decode_index_entry,
    decode_index_header,
)
from tracefleet_common.codecs.packet import (
    PACKET_HEADER_SIZE_BYTES,
    PacketHeader,
    decode_packet_header,
)
from tracefleet_common.errors import RemoteProtocolError

INDEX_READ_ENTRY_COUNT = 1024


class DataFile(NamedTuple):
    """One file of a data stream; `index_path` is None when it has no index."""

    path: str
    index_path: str | None
    bits_per_long: int

    @property
    def name(self) -> str:
        """Its name without directories."""
        return os.path.basename(self.path)


class CorruptFile(Exception):
    """From here on the file says nothing that can be trusted."""


def packets(file: DataFile) -> Iterator[tuple[int, PacketHeader]]:
    """Offset in bytes and header of each packet. Raises CorruptFile, after the packets that are whole."""
    header_size_bytes = PACKET_HEADER_SIZE_BYTES[file.bits_per_long]
    try:
        descriptor = os.open(file.path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise CorruptFile(f"{file.name}: cannot be opened: {error.strerror}") from None
    try:
        size_bytes = os.fstat(descriptor).st_size
        offset = 0
        while offset < size_bytes:
            try:
                data = os.pread(descriptor, header_size_bytes, offset)
                header = decode_packet_header(data, bits_per_long=file.bits_per_long)
            except RemoteProtocolError as error:
                raise CorruptFile(f"{file.name}: at byte {offset}: {error}") from None
            except OSError as error:
                raise CorruptFile(f"{file.name}: cannot be read: {error.strerror}") from None
            end = offset + header.packet_size_bits // 8
            if end > size_bytes:
                raise CorruptFile(
                    f"{file.name}: the packet at byte {offset} is cut, {end - size_bytes} bytes are missing"
                )
            yield offset, header
            offset = end
    finally:
        os.close(descriptor)


def index_entries(path: str) -> Iterator[IndexEntry]:
    """The entries of an index file. Raises CorruptFile, after the entries that are whole."""
    name = os.path.basename(path)
    try:
        with open(path, "rb") as file:
            header = decode_index_header(file.read(INDEX_HEADER_SIZE_BYTES))
            entry_size_bytes = header.entry_size_bytes
            while records := file.read(INDEX_READ_ENTRY_COUNT * entry_size_bytes):
                for start in range(0, len(records), entry_size_bytes):
                    yield decode_index_entry(records[start : start + entry_size_bytes])
    except OSError as error:
        raise CorruptFile(f"index of {name}: cannot be read: {error.strerror}") from None
    except RemoteProtocolError as error:
        raise CorruptFile(f"index of {name}: {error}") from None


def differences(offset_bytes: int, header: PacketHeader, entry: IndexEntry) -> list[str]:
    """In what an index entry and its packet differ: words for people."""
    pairs = (
        ("offset", offset_bytes, entry.offset_bytes),
        ("packet size", header.packet_size_bits, entry.packet_size_bits),
        ("content size", header.content_size_bits, entry.content_size_bits),
        ("begin", header.timestamp_begin, entry.timestamp_begin),
        ("end", header.timestamp_end, entry.timestamp_end),
        ("discarded event records", header.discarded_event_count, entry.discarded_event_count),
        ("stream class", header.stream_class_id, entry.stream_class_id),
        ("stream instance", header.stream_instance_id, entry.stream_instance_id),
        ("sequence number", header.sequence_number, entry.packet_sequence_number),
    )
    return [
        f"{what} {in_index} in the index, {in_packet} in the packet"
        for what, in_packet, in_index in pairs
        if in_index is not None and in_index != in_packet
    ]
