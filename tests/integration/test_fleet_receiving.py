"""Our relay daemon takes fleet:// sessions: what it acknowledged is in the trace, once, whatever happens to it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fleet import OURS, Fleet
from fleet_producers import (
    PACKET_SIZE_BYTES,
    TRACE_PATH,
    FleetProducer,
    a_stream,
    data_packet,
    metadata_packets,
    numbers_of,
)
from relays import Relay
from traces import read_trace, warnings_of_babeltrace2

EVENT = "tf:numbered"


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    return make_fleet(OURS)


@pytest.fixture
def relay(fleet: Fleet) -> Relay:
    return Relay(fleet)


def output_of(relay: Relay, producer: FleetProducer) -> Path:
    return relay.output / producer.output


def numbers_in(trace: Path) -> list[int]:
    assert warnings_of_babeltrace2(trace) == []
    return [int(event["number"]) for event in read_trace(trace).named(EVENT)]


def begin(producer: FleetProducer, **settings: int) -> tuple[int, int]:
    """Metadata and one stream, and a data connection; their handles. The metadata is sent."""
    metadata, stream = producer.add(a_stream("metadata"), a_stream(**settings))
    producer.connect_data()
    producer.send(metadata.handle, metadata_packets()[metadata.next_sequence :], metadata.next_sequence)
    return metadata.handle, stream.handle


def test_trace_is_stored(fleet: Fleet, relay: Relay) -> None:
    with FleetProducer(fleet.world) as producer:
        assert not producer.is_resumed
        _, stream = begin(producer)
        producer.send(stream, [data_packet(number) for number in range(10)])
        producer.wait_acknowledged(stream, 9)
        producer.end(**{f"h{stream}": 10})
        producer.close()
        trace = output_of(relay, producer)
        assert numbers_in(trace) == list(numbers_of(range(10)))
        assert (trace / TRACE_PATH / "c_0").stat().st_size == 10 * PACKET_SIZE_BYTES
        assert fleet.verify(trace).returncode == 0
