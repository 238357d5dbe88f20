"""A CTF trace as LTTng lays it out: `metadata`, data files beside it, `index/NAME.idx`."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import NamedTuple

from tracefleet_cli.verify.data_file import CorruptFile, DataFile, packets
from tracefleet_common.codecs.packet import (
    METADATA_HEADER_SIZE_BYTES,
    PacketHeader,
    decode_metadata_packet_header,
    metadata_text,
)
from tracefleet_common.errors import RemoteProtocolError

METADATA_FILE_NAME = "metadata"
INDEX_DIRECTORY_NAME = "index"
METADATA_SIZE_BYTES_MAX = 1024**3

_BIT_WIDTH = re.compile(r"^\s*architecture_bit_width = (\d+);", re.MULTILINE)


class UnreadableTrace(Exception):
    """There is no telling what the data files hold."""


class StreamFiles(NamedTuple):
    """The files of one data stream, in the order of their packets.

    `first` is the header of the first packet; None: there is no packet that can be read.
    """

    files: tuple[DataFile, ...]
    first: PacketHeader | None


class TraceDirectory(NamedTuple):
    """One trace. `strays`: what is wrong with files that belong to no stream."""

    path: str
    trace_uuid: bytes
    streams: tuple[StreamFiles, ...]
    strays: tuple[str, ...]


def find_traces(root: str) -> list[str]:
    """Every directory at `root` or below it that holds a trace, sorted. Raises UnreadableTrace."""
    found: list[str] = []

    def fail(error: OSError) -> None:
        raise UnreadableTrace(f"{error.filename}: {error.strerror}")

    for directory, _, names in os.walk(root, onerror=fail):
        if METADATA_FILE_NAME in names:
            found.append(directory)
    return sorted(found)


def open_trace(path: str) -> TraceDirectory:
    """Read the metadata, and sort the data files into streams. Raises UnreadableTrace."""
    metadata = _read_metadata(f"{path}/{METADATA_FILE_NAME}")
    uuid, bits_per_long = _describe(metadata)
    by_stream: dict[tuple[int, int], list[tuple[int, DataFile, PacketHeader]]] = {}
    streams: list[StreamFiles] = []
    for file in _data_files(path, bits_per_long):
        try:
            first = next((header for _, header in packets(file)), None)
        except CorruptFile:  # reading it as a stream of its own will tell why
            first = None
        if first is None:
            streams.append(StreamFiles((file,), None))
            continue
        key = first.stream_class_id, first.stream_instance_id
        by_stream.setdefault(key, []).append((first.sequence_number, file, first))
    for parts in by_stream.values():
        # Trace files of a limited count are written in turns: their names do not tell which one is older.
        parts.sort(key=lambda part: (part[0], part[1].path))
        streams.append(StreamFiles(tuple(file for _, file, _ in parts), parts[0][2]))
    streams.sort(key=lambda stream: stream.files[0].path)
    return TraceDirectory(path, uuid, tuple(streams), tuple(_stray_indexes(path)))


def _read_metadata(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            metadata = file.read(METADATA_SIZE_BYTES_MAX + 1)
    except OSError as error:
        raise UnreadableTrace(f"metadata: {error.strerror}") from None
    if len(metadata) > METADATA_SIZE_BYTES_MAX:
        raise UnreadableTrace("metadata: too large to be true")
    return metadata


def _describe(metadata: bytes) -> tuple[bytes, int]:
    """Trace UUID, and the width of a word of the tracer in bits."""
    try:
        header = decode_metadata_packet_header(metadata[:METADATA_HEADER_SIZE_BYTES])
        text = metadata_text(metadata)
    except RemoteProtocolError as error:
        raise UnreadableTrace(f"metadata: {error}") from None
    width = _BIT_WIDTH.search(text)
    if width is None or width[1] not in ("32", "64"):
        raise UnreadableTrace("metadata: does not tell the width of a word (not a trace of LTTng)")
    return header.trace_uuid, int(width[1])


def _data_files(path: str, bits_per_long: int) -> Iterator[DataFile]:
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError as error:
        raise UnreadableTrace(f"{error.strerror}") from None
    for entry in entries:
        if entry.name == METADATA_FILE_NAME or entry.name.startswith(".") or not entry.is_file():
            continue
        index_path = f"{path}/{INDEX_DIRECTORY_NAME}/{entry.name}.idx"
        has_index = os.path.isfile(index_path)
        yield DataFile(entry.path, index_path if has_index else None, bits_per_long)


def _stray_indexes(path: str) -> list[str]:
    try:
        names = sorted(os.listdir(f"{path}/{INDEX_DIRECTORY_NAME}"))
    except OSError:
        return []
    return [
        f"{INDEX_DIRECTORY_NAME}/{name}: has no data file"
        for name in names
        if not os.path.isfile(f"{path}/{name.removesuffix('.idx')}")
    ]
