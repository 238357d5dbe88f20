"""What the relay daemon tells of its sessions, and that what is lost is counted under its cause."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tracefleet_common.codecs import lttng_relay as relay
from tracefleet_common.errors import NotFound, Unsupported
from tracefleet_common.messages.envelope import Hello
from tracefleet_common.messages.relayd_control import (
    DescribeRelay,
    DescribeRelaySession,
    DescriptorPool,
    ListRelaySessions,
    RelayInfo,
    RelayLoss,
    RelaySessionDetails,
    RelaySessionInfo,
    RelayStreamInfo,
)
from tracefleet_relayd.application.ports import HoldReason, IntakeReport, ReportKind
from tracefleet_relayd.application.status import Status, Totals

sys.path.insert(0, str(Path(__file__).parent))

from relay_fakes import Producer, Relay, an_index
from streaming_fakes import FleetRelay, FleetSender, a_stream

VIEWER_COUNTS = {2: 3}


class Asked:
    """A relay daemon in memory, and its answers."""

    def __init__(self) -> None:
        self.relay = Relay()
        self._status = Status(self.relay.sessions, lambda session_id: VIEWER_COUNTS.get(session_id, 0), _describe)

    def answer(self, request: msgspec.Struct) -> Any:
        return self._status.answer(request)

    def info(self) -> RelayInfo:
        info = self.answer(DescribeRelay())
        assert isinstance(info, RelayInfo)
        return info

    def sessions(self) -> tuple[RelaySessionInfo, ...]:
        return tuple(self.answer(ListRelaySessions()).sessions)

    def stream(self, session_id: int = 1) -> RelayStreamInfo:
        """The first one of a session."""
        details = self.answer(DescribeRelaySession(session_id))
        assert isinstance(details, RelaySessionDetails)
        return details.streams[0]


def _describe(totals: Totals) -> RelayInfo:
    return RelayInfo(
        version="1",
        pid=1,
        uid=0,
        output_directory="/o",
        control_url="",
        data_url="",
        live_url="",
        session_count=totals.session_count,
        stream_count=totals.stream_count,
        packet_count=totals.packet_count,
        bytes=totals.size_bytes,
        descriptors=DescriptorPool(
            capacity=1, reserved_count=0, active_count=0, suspended_count=0, miss_count=0, error_count=0
        ),
    )


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture
def producer(asked: Asked) -> Producer:
    """Session 1, with chunk 0 and data stream 1."""
    producer = Producer(asked.relay)
    producer.create_chunk(0)
    producer.add()
    return producer


def test_nothing_yet(asked: Asked) -> None:
    assert asked.sessions() == ()
    info = asked.info()
    assert (info.session_count, info.stream_count, info.packet_count, info.bytes) == (0, 0, 0, 0)
    with pytest.raises(NotFound, match="no session 1"):
        asked.answer(DescribeRelaySession(1))
    with pytest.raises(Unsupported):
        asked.answer(Hello(1, 0, "x"))


def test_sums_of_streams_and_sessions(asked: Asked, producer: Producer) -> None:
    producer.add("b_0")
    for sequence in range(3):
        producer.packet(1, sequence)
    producer.packet(2, 0)
    other = Producer(asked.relay, minor=11, token=2, session_name="t", live_timer_us=5, sessiond_session_id=2)
    first, second = asked.sessions()
    assert (first.session_name, first.host_name, first.protocol_minor, first.stream_count) == ("s", "h", 13, 2)
    assert (first.sums.packet_count, first.sums.bytes, first.sums.index_entry_count) == (4, 64, 4)
    assert first.output == producer.output
    assert (second.session_id, second.protocol_minor, second.live_timer_us) == (other.session_id, 11, 5)
    assert (first.viewer_count, second.viewer_count) == (0, 3)
    stream = asked.stream()
    assert (stream.stream_id, stream.path, stream.channel_name, stream.is_metadata) == (1, "ust", "a_0", False)
    assert (stream.sums.packet_count, stream.sums.bytes) == (3, 48)
    assert stream.sums.acknowledged_packet_count is None
    assert stream.sums.loss == RelayLoss()
    info = asked.info()
    assert (info.session_count, info.stream_count, info.packet_count, info.bytes) == (2, 2, 4, 64)


def test_packets_of_which_a_half_arrived_lag(asked: Asked, producer: Producer) -> None:
    producer.send(1, 0)
    producer.send(1, 1)
    assert asked.stream().sums.lagging_packet_count == 2
    producer.index(1, 0)
    assert asked.stream().sums.lagging_packet_count == 1
    producer.index(1, 2)
    assert asked.sessions()[0].sums.lagging_packet_count == 2
    assert asked.stream().sums.index_entry_count == 1


def test_entries_that_wait_for_room_on_the_disk_lag(asked: Asked, producer: Producer) -> None:
    producer.packet(1, 0)
    asked.relay.disk.is_full = True
    producer.packet(1, 1)
    assert (asked.stream().sums.packet_count, asked.stream().sums.index_entry_count) == (2, 1)
    asked.relay.disk.is_full = False
    asked.relay.files.try_again()
    assert asked.stream().sums.index_entry_count == 2


def test_what_the_tracer_discarded(asked: Asked, producer: Producer) -> None:
    for sequence, discarded in enumerate((0, 7, 9)):
        producer.send(1, sequence)
        producer.ask(msgspec.structs.replace(an_index(1, sequence, sequence), discarded_event_count=discarded))
    assert asked.stream().sums.loss == RelayLoss(discarded_event_count=9)


def test_gaps_in_the_numbers_of_the_tracer(asked: Asked, producer: Producer) -> None:
    for sequence, packet in enumerate((5, 6, 9, 10, 20)):  # before the first one nothing is known
        producer.packet(1, sequence, packet)
    assert asked.stream().sums.loss == RelayLoss(missing_packet_count=2 + 9)


def test_packets_overwritten_in_a_ring_of_trace_files(asked: Asked) -> None:
    producer = Producer(asked.relay)
    producer.create_chunk(0)
    producer.add(trace_file_size_bytes=32, trace_file_count=2)
    for sequence in range(10):  # two in each file
        producer.packet(1, sequence)
    assert asked.stream().sums.loss == RelayLoss(overwritten_packet_count=6)


def test_sums_outlive_their_streams_and_sessions(asked: Asked, producer: Producer) -> None:
    producer.packet(1, 0)
    producer.send(1, 1)
    producer.ask(relay.CloseStream(stream_handle=1, last_sequence_number=1))
    (session,) = asked.sessions()
    assert session.stream_count == 0
    assert (session.sums.packet_count, session.sums.bytes, session.sums.index_entry_count) == (2, 32, 1)
    assert session.sums.loss == RelayLoss(unmatched_packet_count=1)
    producer.commands.end(is_aborted=False)
    assert asked.sessions() == ()
    info = asked.info()
    assert (info.session_count, info.packet_count, info.bytes) == (0, 2, 32)


def test_a_session_whose_packets_are_on_their_way(asked: Asked, producer: Producer) -> None:
    producer.ask(relay.CloseStream(stream_handle=1, last_sequence_number=0))
    producer.commands.end(is_aborted=False)
    (session,) = asked.sessions()
    assert (session.is_closed, session.stream_count) == (True, 1)


def test_acknowledged_sessions_tell_what_is_safe(asked: Asked) -> None:
    fleet = FleetRelay()
    status = Status(fleet.sessions, lambda _session_id: 0, _describe)
    sender = FleetSender(fleet)
    opened = sender.open()
    metadata, data = sender.add(a_stream("metadata"), a_stream())
    sender.connect()
    sender.send(metadata.handle, 0)
    for sequence in range(3):
        sender.send(data.handle, sequence, number=sequence * ((1 << 63) - 1), discarded=(1 << 64) - 1)
    details = status.answer(DescribeRelaySession(opened.relay_session_id))
    assert isinstance(details, RelaySessionDetails)
    assert [stream.sums.acknowledged_packet_count for stream in details.streams] in ([1, 3], [3, 1])
    assert details.session.sums.acknowledged_packet_count == 4
    assert details.session.trouble is None
    # Whatever the peer claims, the answer can be sent.
    loss = details.session.sums.loss
    assert loss.discarded_event_count == loss.missing_packet_count == (1 << 63) - 1
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(details), type=RelaySessionDetails) == details


def test_a_full_disk_is_a_sessions_trouble(asked: Asked, producer: Producer) -> None:
    held = IntakeReport(ReportKind.HOLD, HoldReason.WRITE_FAILED, errno.ENOSPC, producer.token, 1, 0, 0, 8, 8)
    asked.relay.intake.reports.append(held)
    asked.relay.packets.take_reports()
    assert asked.sessions()[0].trouble == "No room on the disk"
    producer.packet(1, 0)
    assert asked.sessions()[0].trouble is None
