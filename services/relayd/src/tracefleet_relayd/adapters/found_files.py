"""What files of a former relay daemon hold: whole packets are counted, and the rest behind them is cut off.

Data is written before its index entry, and acknowledged after both. So what has an entry is there, and what has none
was not acknowledged. Without `synced`, a crash of the machine may have taken any part: then entries of packets that are
not there go too.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Final

from tracefleet_common.codecs.index_file import (
    INDEX_ENTRY_SIZE_BYTES,
    INDEX_HEADER_SIZE_BYTES,
    IndexEntry,
    decode_index_entry,
    decode_index_header,
)
from tracefleet_common.codecs.packet import METADATA_HEADER_SIZE_BYTES, decode_metadata_packet_header
from tracefleet_common.errors import RemoteProtocolError, TracefleetError
from tracefleet_relayd.adapters.beneath import open_beneath
from tracefleet_relayd.application.ports import FoundFile

_FLAGS: Final = os.O_RDWR | os.O_NONBLOCK


def find_data(base: str, path: str, index_path: str) -> FoundFile | None:
    """A data file and its index file; as `TraceStore.find_files`."""
    try:
        with _opened(base, path) as data, _opened(base, index_path) as index:
            return _find_data(data, index, index_path)
    except FileNotFoundError:
        return None


def _find_data(data: int, index: int, index_path: str) -> FoundFile | None:
    header = os.pread(index, INDEX_HEADER_SIZE_BYTES, 0)
    if len(header) < INDEX_HEADER_SIZE_BYTES or not any(header):
        return None
    try:
        decode_index_header(header)
    except RemoteProtocolError as error:
        raise TracefleetError(f"Cannot go on with {index_path}: {error}") from None
    count = (os.fstat(index).st_size - INDEX_HEADER_SIZE_BYTES) // INDEX_ENTRY_SIZE_BYTES
    data_size = os.fstat(data).st_size
    last: IndexEntry | None = None
    while count > 0 and last is None:
        record = os.pread(index, INDEX_ENTRY_SIZE_BYTES, _entry_offset(count - 1))
        last = decode_index_entry(record)
        if not any(record) or _end_of(last) > data_size:
            last = None
            count -= 1
    end = 0 if last is None else _end_of(last)
    _cut(index, _entry_offset(count))
    _cut(data, end)
    if last is None:
        return FoundFile(0, 0)
    number = last.packet_sequence_number or 0
    return FoundFile(count, end, last.stream_class_id, last.discarded_event_count, number)


def find_metadata(base: str, path: str) -> FoundFile | None:
    """A metadata file."""
    try:
        with _opened(base, path) as metadata:
            count = end = 0
            size = os.fstat(metadata).st_size
            while end < size:
                try:
                    header = decode_metadata_packet_header(os.pread(metadata, METADATA_HEADER_SIZE_BYTES, end))
                except RemoteProtocolError:
                    break
                if end + header.packet_size_bits // 8 > size:
                    break
                end += header.packet_size_bits // 8
                count += 1
            _cut(metadata, end)
            return FoundFile(count, end)
    except FileNotFoundError:
        return None


def _entry_offset(number: int) -> int:
    return INDEX_HEADER_SIZE_BYTES + number * INDEX_ENTRY_SIZE_BYTES


def _end_of(entry: IndexEntry) -> int:
    return entry.offset_bytes + entry.packet_size_bits // 8


def _cut(descriptor: int, end: int) -> None:
    if os.fstat(descriptor).st_size > end:
        os.ftruncate(descriptor, end)


@contextlib.contextmanager
def _opened(base: str, path: str) -> Iterator[int]:
    descriptor = open_beneath(base, path, _FLAGS)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
