"""What real readers say about a trace directory: babeltrace2, through its bindings and its command."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

READER = Path(__file__).with_name("ctf_reader.py")
SYSTEM_PYTHON = "/usr/bin/python3"
PACKET_MAGIC = 0xC1FC1FC1
# magic, uuid, stream id, stream instance id, begin, end, content, packet, sequence number, discarded, cpu
PACKET_HEADER = struct.Struct("<I16sIQQQQQQQI")
STREAM_FILE = re.compile(r"^(?P<channel>.+?)_(?P<cpu>\d+)(?:_(?P<number>\d+))?$")
LOSS_WARNING = re.compile(r"Tracer (discarded|lost|may have)|WARNING: Tracer", re.IGNORECASE)


@dataclass(frozen=True)
class EventClass:
    """One event description of the metadata. `payload`: nested description of its fields' types."""

    trace: int
    stream_class: int
    id: int
    name: str
    log_level: int | None
    emf_uri: str | None
    payload: Any


@dataclass(frozen=True)
class Event:
    """One event record."""

    name: str
    fields: dict[str, Any]
    context: dict[str, Any]
    cpu: int
    timestamp_ns: int
    channel: str
    trace: int
    event_class: EventClass

    def __getitem__(self, field_name: str) -> Any:
        return self.fields[field_name]


@dataclass(frozen=True)
class Packet:
    """One packet of a stream."""

    trace: int
    channel: str
    cpu: int
    timestamp_ns: int
    context: dict[str, Any]


@dataclass
class Reading:
    """Everything babeltrace2 reads below one directory, in its order."""

    traces: list[dict[str, Any]] = field(default_factory=list)  # name, uuid, environment
    classes: list[EventClass] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    packets: list[Packet] = field(default_factory=list)
    discarded_event_count: int = 0
    discarded_events_by_channel: Counter[str] = field(default_factory=Counter)
    discarded_packet_count: int = 0
    has_unknown_loss: bool = False  # babeltrace2 knows of a loss, but not of how much

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]

    def names(self) -> Counter[str]:
        return Counter(event.name for event in self.events)

    def numbers(self, name: str = "tf_emit:numbered", pid: int | None = None, thread: int = 0) -> list[int]:
        """Field `number` of the records of one program (all programs: None), in reading order."""
        return [
            event["number"]
            for event in self.named(name)
            if (pid is None or event.fields.get("pid") == pid) and event.fields.get("thread", 0) == thread
        ]

    def environments(self) -> list[dict[str, Any]]:
        return [trace["environment"] for trace in self.traces]


@dataclass(frozen=True)
class RawPacket:
    """Header and context of one packet, as they are in the data file (which readers do not show in full)."""

    offset_bytes: int
    uuid: bytes
    stream_id: int
    stream_instance_id: int
    timestamp_begin: int
    timestamp_end: int
    content_size_bits: int
    packet_size_bits: int
    sequence_number: int
    events_discarded: int  # since the stream began
    cpu: int

    @property
    def packet_size_bytes(self) -> int:
        return self.packet_size_bits // 8


def packets_of(data_file: Path) -> list[RawPacket]:
    """The packets of a data file; AssertionError where it is not a row of whole packets."""
    data = data_file.read_bytes()
    found = []
    offset = 0
    while offset < len(data):
        magic, uuid, *fields = PACKET_HEADER.unpack_from(data, offset)
        assert magic == PACKET_MAGIC, f"no packet at {offset} of {data_file}"
        found.append(RawPacket(offset, uuid, *fields))
        assert found[-1].packet_size_bytes > 0
        offset += found[-1].packet_size_bytes
    assert offset == len(data), f"{data_file} ends inside a packet"
    return found


def channel_of(stream_name: str | None) -> str:
    match = STREAM_FILE.match(Path(stream_name or "").name)
    return match["channel"] if match else ""


def read_trace(directory: Path) -> Reading:
    """Read every trace below `directory`; AssertionError with the reader's words when it refuses."""
    reader = subprocess.run([SYSTEM_PYTHON, str(READER), str(directory)], capture_output=True, text=True, timeout=120)
    assert reader.returncode == 0, f"babeltrace2 cannot read {directory}:\n{reader.stderr}"
    reading = Reading()
    for line in reader.stdout.splitlines():
        said = json.loads(line)
        match said.pop("message"):
            case "trace":
                reading.traces.append(said)
            case "class":
                reading.classes.append(EventClass(**said))
            case "event":
                reading.events.append(
                    Event(
                        name=said["name"],
                        fields=said["fields"],
                        context=said["context"],
                        cpu=said["cpu"],
                        timestamp_ns=said["ns"],
                        channel=channel_of(said["stream"]),
                        trace=said["trace"],
                        event_class=reading.classes[said["event_class"]],
                    )
                )
            case "packet":
                reading.packets.append(
                    Packet(
                        trace=said["trace"],
                        channel=channel_of(said["stream"]),
                        cpu=said["context"]["cpu_id"],
                        timestamp_ns=said["ns"],
                        context=said["context"],
                    )
                )
            case "discarded-events":
                reading.discarded_event_count += said["count"] or 0
                reading.discarded_events_by_channel[channel_of(said["stream"])] += said["count"] or 0
                reading.has_unknown_loss |= said["count"] is None
            case "discarded-packets":
                reading.discarded_packet_count += said["count"] or 0
                reading.has_unknown_loss |= said["count"] is None
    return reading


def read_events(directory: Path) -> list[Event]:
    return read_trace(directory).events


def text_of(directory: Path) -> str:
    """The event records below `directory` as babeltrace2 shows them, a line each, with absolute times only."""
    reader = subprocess.run(["babeltrace2", "--no-delta", str(directory)], capture_output=True, text=True, timeout=120)
    assert reader.returncode == 0, reader.stderr
    return reader.stdout


def warnings_of_babeltrace2(directory: Path) -> list[str]:
    """Lines that `babeltrace2 DIRECTORY` writes to standard error; announced losses excepted."""
    reader = subprocess.run(["babeltrace2", str(directory)], capture_output=True, text=True, timeout=120)
    lines = [line for line in reader.stderr.splitlines() if line.strip()]
    if reader.returncode != 0:
        lines.append(f"exit status {reader.returncode}")
    return [line for line in lines if not LOSS_WARNING.search(line)]


def metadata_text(trace_directory: Path) -> str:
    """The TSDL text of one trace (the directory that holds `metadata`)."""
    reader = subprocess.run(
        ["babeltrace2", "--output-format=ctf-metadata", str(trace_directory)],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert reader.returncode == 0, reader.stderr
    return reader.stdout


def trace_directories(output: Path) -> list[Path]:
    """Directories below `output` that hold a trace of their own."""
    return sorted(metadata.parent for metadata in output.rglob("metadata"))
