"""A genuine stream of fields that the genuine metadata makes unreadable, read with our metadata."""

from __future__ import annotations

import json
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tracefleet_common.codecs import tsdl
from tracefleet_common.codecs.packet import decode_packet_header
from tracefleet_common.codecs.ust_notify import ChannelNotification, EnumNotification, NotificationParser
from tracefleet_common.model.ctf_types import EnumEntry, HeaderType
from tracefleet_common.model.event_rules import BufferOwnership

ODD = Path(__file__).resolve().parent / "odd"
# The program describes an array of floats as integers, so their bits are what can be seen.
EXPECTED = """\
odd:signed_length: { cpu_id = 0 }, { _values_length = 3, values = [ [0] = 1, [1] = -2, [2] = 3 ], length = 3 }
odd:same_name: { cpu_id = 0 }, { same = 1, same_ = 2 }
odd:arrays: { cpu_id = 0 }, { floats = [ [0] = 1069547520, [1] = -1073741824 ], none = [ ], after = 7 }
odd:enums: { cpu_id = 0 }, { empty = 4, backwards = ( "FOUR" : container = 4 ), \
line_break = ( "line\\nbreak" : container = 9 ) }
odd:quoted: { cpu_id = 0 }, { number = 42 }
"""


def dense(sparse: dict[str, Any]) -> bytes:
    data = bytearray(sparse["size"])
    for offset, run in sparse["bytes"].items():
        data[int(offset) : int(offset) + len(run) // 2] = bytes.fromhex(run)
    return bytes(data)


def our_metadata(trace_uuid: bytes) -> str:
    environment = tsdl.TraceEnvironment(
        trace_uuid=trace_uuid,
        bits_per_long=64,
        tracer_major=2,
        tracer_minor=13,
        buffer_ownership=BufferOwnership.PER_USER,
        buffer_owner_id=65534,
        trace_name="odd",
        creation_time=datetime.now(UTC),
        hostname="host",
        clock=tsdl.ClockDescription(offset=0),
    )
    text = [tsdl.trace_preamble(environment)]
    enumerations: dict[int, tuple[EnumEntry, ...]] = {}
    for case in sorted(ODD.glob("notify/*.json")):
        messages = json.loads(case.read_text())
        reply = dense(messages["reply"])
        if int.from_bytes(reply[4:8], "little"):  # lttng-sessiond refused it, so the stream does not have it
            continue
        parser = NotificationParser()
        parser.feed(dense(messages["notification"]))
        notification = parser.next()
        given_id = int.from_bytes(reply[8:12], "little")
        if isinstance(notification, EnumNotification):
            enumerations[given_id] = notification.entries
        elif isinstance(notification, ChannelNotification):
            text.append(tsdl.stream_class(given_id, HeaderType.LARGE, notification.context_fields))
        elif notification is not None:
            text.append(
                tsdl.event_class(
                    name=notification.name,
                    event_id=given_id,
                    channel_id=0,
                    log_level=notification.log_level,
                    fields=notification.fields,
                    model_emf_uri=notification.model_emf_uri,
                    enumerations=enumerations,
                )
            )
    return "".join(text)


def test_babeltrace2_reads_the_odd_trace(tmp_path: Path) -> None:
    stream = ODD / "trace/plain.stream"
    shutil.copy(stream, tmp_path / "plain_0")
    (tmp_path / "metadata").write_text(our_metadata(decode_packet_header(stream.read_bytes()).trace_uuid))
    command = ["babeltrace2", "convert", str(tmp_path), "--component=sink.text.pretty"]
    output = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert output.stderr == ""
    lines = output.stdout.splitlines(keepends=True)
    assert "".join(line[line.index("odd:") :] for line in lines) == EXPECTED
