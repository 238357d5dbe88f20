"""Hosts that speak an older minor of LTTng's relay protocol: a real trace arrives as they would send it."""

from __future__ import annotations

import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from deadlines import wait_until
from fleet import OURS, Fleet
from relay_producers import CREATION_TIME, RawProducer
from relays import HOST_NAME, LiveViewer, Relay, wait_attached
from traces import packets_of, text_of, trace_directories

from tracefleet_common.codecs import lttng_relay as relay_protocol

MINORS = range(1, 12)  # 11 is what the others are compared with
RECORD_COUNT = 1000
PATH = "ust/uid/0/64-bit"
PERIOD_US = 100_000
METADATA_PACKET_SIZE_BYTES = 4096
TRACE_FILE_SIZE_BYTES = 16384
INDEX_HEADER = struct.Struct(">IIII")


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace directory that our daemons wrote."""
    kept = tmp_path_factory.mktemp("recorded")
    fleet = Fleet(OURS)
    try:
        fleet.start_daemon()
        output = fleet.record("tf_emit:*", channel=("--subbuf-size=4096", "--num-subbuf=64", "c"))
        fleet.program().emit(RECORD_COUNT)
        fleet.destroy()
        (directory,) = trace_directories(output)
        shutil.copytree(directory, kept, dirs_exist_ok=True)
    finally:
        fleet.close()
    assert text_of(kept).count("\n") == RECORD_COUNT
    return kept


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    return make_fleet(OURS)


def replay(producer: RawProducer, recorded: Path, minor: int, **settings: int) -> None:
    """Send the trace: streams, metadata, packets and their index entries, and wait until all has arrived."""
    files = sorted(recorded.glob("c_*"))
    handles = [producer.add(file.name, PATH, **settings) for file in files]
    metadata_handle = producer.add("metadata", PATH)
    if minor >= relay_protocol.MINOR_INDEXES:
        producer.ask(relay_protocol.StreamsSent())
    metadata = (recorded / "metadata").read_bytes()
    for begin in range(0, len(metadata), METADATA_PACKET_SIZE_BYTES):
        whole = metadata[begin : begin + METADATA_PACKET_SIZE_BYTES]
        (content_size_bits,) = struct.unpack_from("<I", whole, 24)
        content = whole[: content_size_bits // 8]
        padding = METADATA_PACKET_SIZE_BYTES - len(content)
        producer.tell(
            relay_protocol.SendMetadata(stream_handle=metadata_handle, padding_size_bytes=padding, content=content)
        )
    for file, handle in zip(files, handles, strict=True):
        data, packets = file.read_bytes(), packets_of(file)
        for number, packet in enumerate(packets):
            end = packet.offset_bytes + (packet.content_size_bits + 7) // 8
            content = data[packet.offset_bytes : end]
            producer.send(handle, number, content, packet.packet_size_bytes - len(content))
            if minor >= relay_protocol.MINOR_INDEXES:
                producer.ask(
                    relay_protocol.SendIndex(
                        stream_handle=handle,
                        sequence_number=number,
                        packet_size_bits=packet.packet_size_bits,
                        content_size_bits=packet.content_size_bits,
                        timestamp_begin=packet.timestamp_begin,
                        timestamp_end=packet.timestamp_end,
                        discarded_event_count=packet.events_discarded,
                        stream_class_id=packet.stream_id,
                        stream_instance_id=packet.stream_instance_id,
                        packet_sequence_number=packet.sequence_number,
                    )
                )
        producer.ask(relay_protocol.BeginDataPending(session_id=producer.session_id))
        producer.wait_arrived(handle, len(packets) - 1)
        producer.ask(relay_protocol.QuiescentControl(stream_handle=metadata_handle))
        producer.ask(relay_protocol.EndDataPending(session_id=producer.session_id))
        last = len(packets) - 1
        producer.ask(relay_protocol.CloseStream(stream_handle=handle, last_sequence_number=None if last < 0 else last))
    producer.ask(relay_protocol.CloseStream(stream_handle=metadata_handle, last_sequence_number=None))


def wait_end(relay: Relay) -> None:
    wait_until(lambda: "Session ends" in relay.log.read_text(), "the session to end")


@pytest.mark.parametrize("minor", MINORS)
def test_a_trace_is_kept(fleet: Fleet, recorded: Path, minor: int) -> None:
    relay = Relay(fleet)
    # Minor 1 has no place for the size.
    settings = {} if minor == 1 else {"trace_file_size_bytes": TRACE_FILE_SIZE_BYTES}
    with RawProducer(fleet.world, minor=minor) as producer:
        replay(producer, recorded, minor, **settings)
        directory = relay.output / str(producer.output) / PATH
    wait_end(relay)
    assert text_of(directory) == text_of(recorded)
    names = {path.name for path in directory.glob("c_*")}
    assert ("c_0" in names) == (minor == 1)
    assert ("c_0_0" in names) == (minor > 1)
    indexes = [INDEX_HEADER.unpack_from(path.read_bytes()) for path in directory.glob("index/*.idx")]
    if minor < 4:
        assert not indexes
        assert not (directory / "index").exists()
    else:
        assert {header[1:] for header in indexes} == {(1, 1, 72) if minor >= 8 else (1, 0, 56)}
        verified = fleet.verify(directory)
        assert verified.returncode == 0, verified


@pytest.mark.parametrize("minor", [3, 4, 10, 11])
def test_paths_of_sessions_that_are_grouped_by_their_names(fleet: Fleet, recorded: Path, minor: int) -> None:
    relay = Relay(fleet, "--group-output-by-session")
    with RawProducer(fleet.world, minor=minor) as producer:
        replay(producer, recorded, minor)
    wait_end(relay)
    expected = f"rawhost/raw-{CREATION_TIME}" if minor < 4 else f"raw/rawhost-{CREATION_TIME}"
    assert [path.parent.relative_to(relay.output) for path in relay.output.rglob("metadata")] == [Path(expected) / PATH]


@pytest.mark.parametrize("minor", [4, 7, 8, 10, 11])
def test_a_viewer_sees_it_live(fleet: Fleet, recorded: Path, minor: int) -> None:
    relay = Relay(fleet)
    with RawProducer(fleet.world, host=HOST_NAME, minor=minor, live_timer_us=PERIOD_US) as producer:
        viewer = LiveViewer(fleet.world, "raw")
        wait_attached(fleet.world, "raw")
        replay(producer, recorded, minor)
    assert viewer.wait() == 0, viewer.complaint
    assert viewer.text == text_of(relay.output)


@pytest.mark.parametrize("minor", [1, 3])
def test_what_the_minor_does_not_know_is_refused(fleet: Fleet, minor: int) -> None:
    Relay(fleet)
    with RawProducer(fleet.world, minor=minor) as producer:
        producer.add("c_0", PATH)
        header = struct.pack(">QQII", 0, 0, relay_protocol.Command.STREAMS_SENT, 0)
        producer.control.sendall(header)
        assert producer.control.recv(4) == b""
    with RawProducer(fleet.world, minor=minor) as producer:  # nobody else minds
        producer.add("c_0", PATH)
