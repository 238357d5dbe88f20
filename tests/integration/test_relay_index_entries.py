"""Index entries that the native intake takes without the interpreter, and commands that come between them."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from deadlines import wait_until
from fleet import OURS, Fleet
from relay_producers import RawProducer
from relays import Relay

from tracefleet_common.codecs import lttng_relay as relay_protocol
from tracefleet_common.codecs.index_file import decode_index_file
from tracefleet_common.codecs.lttng_relay_requests import encode_request

PACKET_SIZE_BYTES = 512
ANSWERED_COUNT = 4000


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    return make_fleet(OURS)


def wake_ups(relay: Relay) -> int:
    """How often the thread of the interpreter has waited for something."""
    status = Path(f"/proc/{relay.pid}/task/{relay.pid}/status").read_text()
    found = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", status, re.MULTILINE)
    assert found is not None
    return int(found[1])


def packet(handle: int, number: int) -> bytes:
    return (b"%d:%d " % (handle, number)).ljust(PACKET_SIZE_BYTES, b".")


def packets(directory: Path, name: str) -> list[bytes]:
    """The names of a stream's packets, as its index file finds them."""
    data = (directory / name).read_bytes()
    entries = decode_index_file((directory / "index" / f"{name}.idx").read_bytes())
    return [data[entry.offset_bytes :].split(b" ", 1)[0] for entry in entries]


def test_interpreter_does_not_run_for_every_packet(fleet: Fleet) -> None:
    relay = Relay(fleet)
    with RawProducer(fleet.world) as producer:
        handle = producer.add("c_0")
        producer.ask(relay_protocol.StreamsSent())
        for number in range(10):
            producer.send(handle, number, packet(handle, number))
            producer.ask(producer.index(handle, number, PACKET_SIZE_BYTES))
        before = wake_ups(relay)
        for number in range(10, ANSWERED_COUNT):
            producer.send(handle, number, packet(handle, number))
            producer.ask(producer.index(handle, number, PACKET_SIZE_BYTES))
        # Reports wake it every 5 ms at most; each request would, if it were read there.
        assert wake_ups(relay) - before < ANSWERED_COUNT / 2
        producer.wait_arrived(handle, ANSWERED_COUNT - 1)
        directory = relay.output / str(producer.output) / "ust"
        assert packets(directory, "c_0") == [b"%d:%d" % (handle, number) for number in range(ANSWERED_COUNT)]


@pytest.mark.parametrize("seed", range(3))
def test_commands_between_index_entries(fleet: Fleet, seed: int) -> None:
    """Either half first, many at once, metadata, questions, beacons, and streams that begin and end meanwhile."""
    relay = Relay(fleet)
    chance = random.Random(seed)
    metadata = b""
    with RawProducer(fleet.world) as producer:
        metadata_handle = producer.add("metadata")
        numbers = {producer.add(f"c_{number}"): 0 for number in range(5)}
        names = {handle: f"c_{number}" for number, handle in enumerate(numbers)}
        open_handles = list(numbers)
        for _ in range(400):
            burst: list[relay_protocol.Request] = []
            for _ in range(chance.randrange(1, 12)):
                handle = chance.choice(open_handles)
                number = numbers[handle]
                match chance.randrange(12):
                    case 0:
                        text = b"x" * chance.choice((1, 200, 40_000))
                        metadata += text
                        request = relay_protocol.SendMetadata(
                            stream_handle=metadata_handle, content=text, padding_size_bytes=0
                        )
                        producer.control.sendall(encode_request(request))
                    case 1:
                        burst.append(
                            relay_protocol.DataPending(stream_handle=handle, last_sequence_number=max(0, number - 1))
                        )
                    case 2:
                        burst.append(producer.index(handle, number, 0))
                    case _:
                        is_data_first = chance.random() < 0.7
                        if is_data_first:
                            producer.send(handle, number, packet(handle, number))
                        burst.append(producer.index(handle, number, PACKET_SIZE_BYTES))
                        if not is_data_first:
                            producer.ask(*burst)
                            burst.clear()
                            producer.send(handle, number, packet(handle, number))
                        numbers[handle] += 1
            if burst:
                producer.ask(*burst)
            if chance.random() < 0.02:
                ended = open_handles.pop(0)
                producer.ask(
                    relay_protocol.CloseStream(stream_handle=ended, last_sequence_number=max(0, numbers[ended] - 1))
                )
                begun = producer.add(f"c_{len(names)}")
                numbers[begun], names[begun] = 0, f"c_{len(names)}"
                open_handles.append(begun)
        for handle in open_handles:
            producer.wait_arrived(handle, numbers[handle] - 1)
        output = relay.output / str(producer.output)
    wait_until(lambda: "Session ends" in relay.log.read_text(), "the session to end")
    assert (output / "ust" / "metadata").read_bytes() == metadata
    for handle, name in names.items():
        if numbers[handle]:
            expected = [b"%d:%d" % (handle, number) for number in range(numbers[handle])]
            assert packets(output / "ust", name) == expected, name
    assert relay.stop() == 0
    log = relay.log.read_text()
    assert "Still open" not in log
    assert "Traceback" not in log


@pytest.mark.fault
def test_second_entry_of_a_packet_is_refused(fleet: Fleet) -> None:
    """Also when the intake has the first."""
    relay = Relay(fleet)
    with RawProducer(fleet.world) as producer:
        handle = producer.add("c_0")
        for number in range(5):
            producer.send(handle, number, packet(handle, number))
            producer.ask(producer.index(handle, number, PACKET_SIZE_BYTES))
        producer.wait_arrived(handle, 4)
        producer.ask(producer.index(handle, 7, PACKET_SIZE_BYTES))
        reply = producer.ask(producer.index(handle, 7, PACKET_SIZE_BYTES))
        assert isinstance(reply, relay_protocol.StatusReply)
        assert reply.return_code is not relay_protocol.ReturnCode.OK
        with pytest.raises((EOFError, OSError)):
            producer.ask(producer.index(handle, 8, PACKET_SIZE_BYTES))
        directory = relay.output / str(producer.output) / "ust"
    assert packets(directory, "c_0") == [b"%d:%d" % (handle, number) for number in range(5)]


@pytest.mark.fault
def test_peer_that_dies_between_two_halves(fleet: Fleet) -> None:
    """Entries without a packet, and packets without an entry, are dropped; what is whole stays."""
    relay = Relay(fleet)
    with RawProducer(fleet.world) as producer:
        handle = producer.add("c_0")
        for number in range(20):
            producer.send(handle, number, packet(handle, number))
            producer.ask(producer.index(handle, number, PACKET_SIZE_BYTES))
        producer.wait_arrived(handle, 19)
        producer.send(handle, 20, packet(handle, 20))
        producer.ask(producer.index(handle, 21, PACKET_SIZE_BYTES))
        directory = relay.output / str(producer.output) / "ust"
    wait_until(lambda: "Session ends" in relay.log.read_text(), "the session to end")
    assert packets(directory, "c_0") == [b"%d:%d" % (handle, number) for number in range(20)]
    assert relay.stop() == 0
    assert "Traceback" not in relay.log.read_text()
