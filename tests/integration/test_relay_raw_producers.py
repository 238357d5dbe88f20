"""What our relay daemon takes that no genuine producer does: too much, too little, too slowly, in the wrong order."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from deadlines import wait_until
from fleet import OURS, Fleet
from relay_producers import CONTROL_PORT, DATA_HEADER, DATA_PORT, RawProducer
from relays import Relay, connect_inside

from tracefleet_common.codecs import lttng_relay as relay_protocol
from tracefleet_common.codecs.index_file import decode_index_file
from tracefleet_common.codecs.lttng_relay_requests import encode_request

STREAM_COUNT = 5_000
FD_POOL_SIZE = 256


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    return make_fleet(OURS)


def offsets(index_file: Path) -> list[int]:
    return [entry.offset_bytes for entry in decode_index_file(index_file.read_bytes())]


def open_file_count(relay: Relay) -> int:
    return len(list(Path(f"/proc/{relay.pid}/fd").iterdir()))


def memory_bytes(relay: Relay) -> int:
    return int(Path(f"/proc/{relay.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_thousands_of_streams_with_few_descriptors(fleet: Fleet) -> None:
    relay = Relay(fleet, f"--fd-pool-size={FD_POOL_SIZE}")
    with RawProducer(fleet.world) as producer:
        handles = [producer.add(f"c_{number}") for number in range(STREAM_COUNT)]
        producer.ask(relay_protocol.StreamsSent())
        for sequence in range(2):
            for handle in handles:
                producer.send(handle, sequence, b"%015d\n" % handle)
            for start in range(0, STREAM_COUNT, 100):
                producer.ask(*(producer.index(handle, sequence, 16) for handle in handles[start : start + 100]))
        for handle in handles:
            producer.wait_arrived(handle, 1)
        assert open_file_count(relay) <= FD_POOL_SIZE
        directory = relay.output / str(producer.output) / "ust"
    for number, handle in enumerate(handles):
        assert (directory / f"c_{number}").read_bytes() == 2 * (b"%015d\n" % handle)
        assert offsets(directory / "index" / f"c_{number}.idx") == [0, 16]
    assert relay.stop() == 0
    assert "Still open" not in relay.log.read_text()


@pytest.mark.fault
def test_half_a_packet_leaves_nothing(fleet: Fleet) -> None:
    relay = Relay(fleet)
    producer = RawProducer(fleet.world)
    handle = producer.add("c_0")
    producer.send(handle, 0, b"whole")
    producer.ask(producer.index(handle, 0, 5))
    producer.wait_arrived(handle, 0)
    producer.data.sendall(DATA_HEADER.pack(0, handle, 1, 1000, 0) + b"half")
    producer.ask(producer.index(handle, 1, 1000))
    file = relay.output / str(producer.output) / "ust" / "c_0"
    with producer:
        pass
    wait_until(lambda: "Session ends" in relay.log.read_text(), "the session to end")
    wait_until(lambda: file.read_bytes() == b"whole", "half a packet to go")
    assert offsets(file.parent / "index" / "c_0.idx") == [0]


@pytest.mark.fault
def test_slow_producer_holds_up_nobody(fleet: Fleet) -> None:
    relay = Relay(fleet)
    with RawProducer(fleet.world, "slow") as slow, RawProducer(fleet.world, "quick", session_id=2) as quick:
        late, handle = slow.add("c_0"), quick.add("c_0")
        whole = DATA_HEADER.pack(0, late, 0, 1 << 20, 0) + bytes(1 << 20)
        slow.data.sendall(whole[:1000])
        slow.control.sendall(bytes(5))  # not even a header
        for sequence in range(200):
            quick.send(handle, sequence, bytes(4096))
            quick.ask(quick.index(handle, sequence, 4096))
        quick.wait_arrived(handle, 199)
        slow.data.sendall(whole[1000:])
        file = relay.output / str(slow.output) / "ust" / "c_0"
        wait_until(lambda: file.stat().st_size == 1 << 20, "the slow one's packet")


@pytest.mark.fault
def test_flood_of_connections_and_requests_is_bounded(fleet: Fleet) -> None:
    relay = Relay(fleet, "--fd-pool-size=100")
    with RawProducer(fleet.world) as producer:
        handle = producer.add("c_0")
        before = memory_bytes(relay)
        flood = [connect_inside(fleet.world, port) for _ in range(50) for port in (CONTROL_PORT, DATA_PORT)]
        requests = 1000 * encode_request(relay_protocol.StartData())
        for connection in flood[::2]:
            connection.setblocking(False)
            try:
                while True:  # replies that nobody reads
                    connection.send(requests)
            except OSError:
                pass
        producer.send(handle, 0, b"whole")
        producer.ask(producer.index(handle, 0, 5))
        producer.wait_arrived(handle, 0)
        assert open_file_count(relay) <= 100
        assert memory_bytes(relay) - before < 100 << 20
        for connection in flood:
            connection.close()
    assert relay.stop() == 0


@pytest.mark.parametrize("pool_size", [100, 1000])
def test_rotations(fleet: Fleet, pool_size: int) -> None:
    """While packets are under way, and index entries are late. With few descriptors, files are suspended meanwhile."""
    relay = Relay(fleet, f"--fd-pool-size={pool_size}")
    chance = random.Random(7)
    with RawProducer(fleet.world) as producer:
        plain = [producer.add(f"plain_{number}") for number in range(80)]
        limited = [producer.add(f"limited_{number}", trace_file_size_bytes=2048) for number in range(40)]
        handles = plain + limited
        next_numbers = dict.fromkeys(handles, 0)

        def send_some() -> None:
            """Packets of some streams, and then their entries, so that both arrive in any order."""
            chosen = chance.choices(handles, k=300)
            entries = []
            for handle in chosen:
                number = next_numbers[handle]
                next_numbers[handle] += 1
                data = (b"%d:%d " % (handle, number)).ljust(chance.randrange(20, 1024), b".")
                producer.send(handle, number, data, 1024 - len(data))
                entries.append(producer.index(handle, number, 1024))
            for start in range(0, len(entries), 50):
                producer.ask(*entries[start : start + 50])

        send_some()
        for chunk_id in range(1, 5):
            producer.rotate(chunk_id, next_numbers)
            send_some()
        for handle, number in next_numbers.items():
            producer.wait_arrived(handle, number - 1)
        assert open_file_count(relay) <= pool_size
        output = relay.output / str(producer.output)
    wait_until(lambda: "Session ends" in relay.log.read_text(), "the session to end")
    chunks = sorted((output / "archives").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    current = [path for path in output.iterdir() if path.name != "archives"]
    assert (len(chunks), len(current)) == (4, 1)
    for number, handle in enumerate(handles):
        name = f"plain_{number}" if number < 80 else f"limited_{number - 80}"
        found = [packet for chunk in (*chunks, *current) for packet in _packets(chunk / "ust", name)]
        assert found == [b"%d:%d" % (handle, sequence) for sequence in range(next_numbers[handle])]
    assert "Still open" not in relay.log.read_text()


def _packets(directory: Path, name: str) -> list[bytes]:
    """What the packets of a stream begin with, as its index files find them."""
    found = []
    files = [directory / name] if name.startswith("plain") else []
    count = 0
    while name.startswith("limited") and (file := directory / f"{name}_{count}").exists():
        files.append(file)
        count += 1
    for file in files:
        data = file.read_bytes()
        index = directory / "index" / f"{file.name}.idx"
        at = offsets(index) if index.exists() else []
        assert at == list(range(0, len(data), 1024)), file
        found += [data[offset : offset + 20].split()[0].split(b".")[0] for offset in at]
    return found
