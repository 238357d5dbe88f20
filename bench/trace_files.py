"""Figures of a finished trace, from its index files and as babeltrace2 counts."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

_HEADER = struct.Struct(">4I")  # magic, major, minor, entry size in bytes
_ENTRY = struct.Struct(">9Q")  # offset, packet and content bits, begin, end, discarded, stream, instance, number
_MAGIC = 0xC1F1DCC1


@dataclass(frozen=True)
class TraceFigures:
    """The totals of all streams of a trace."""

    content_bytes: int
    packet_count: int
    discarded_count: int


def figures(trace: Path) -> TraceFigures:
    """Add up the index files below `trace`; raises ValueError when one is not an index file."""
    content_bits = packet_count = discarded_count = 0
    for path in trace.rglob("*.idx"):
        data = path.read_bytes()
        magic, _major, _minor, entry_size = _HEADER.unpack_from(data)
        if magic != _MAGIC or entry_size < _ENTRY.size:
            raise ValueError(f"Not an index file: {path}")
        discarded = 0
        for offset in range(_HEADER.size, len(data), entry_size):
            entry = _ENTRY.unpack_from(data, offset)
            content_bits += entry[2]
            discarded = entry[5]  # counted from the start of the stream, so the last one is the total
            packet_count += 1
        discarded_count += discarded
    return TraceFigures(content_bits // 8, packet_count, discarded_count)


def event_count(trace: Path) -> int:
    """Return how many event records babeltrace2 reads."""
    counted = subprocess.run(
        ["babeltrace2", str(trace), "--component=sink.utils.counter", "--params=step=+0"],
        check=True,
        capture_output=True,
        text=True,
    )
    for line in counted.stdout.splitlines():
        if line.endswith(("Event messages", "Event message")):
            return int(line.split()[0].replace(",", ""))
    return 0


def first_event_ns(trace: Path) -> int:
    """Return the time of the first event record, in nanoseconds of the monotonic clock."""
    reader = subprocess.Popen(
        ["babeltrace2", "--clock-cycles", str(trace)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert reader.stdout is not None, "asked for above"
    line = reader.stdout.readline()
    reader.kill()
    reader.wait()
    return clock_cycles(line.encode())


def clock_cycles(line: bytes) -> int:
    """Return the time of an event record that `babeltrace2 --clock-cycles` printed."""
    return int(line[1 : line.index(b"]")])
