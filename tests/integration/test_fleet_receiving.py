"""Our relay daemon takes fleet:// sessions: what it acknowledged is in the trace, once, whatever happens to it."""

from __future__ import annotations

import re
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from deadlines import DEADLINE_S, wait_until
from fleet import OURS, Fleet
from fleet_producers import (
    CORRUPT,
    GAP,
    NOTHING,
    PACKET_SIZE_BYTES,
    SYNCED,
    TRACE_PATH,
    FleetProducer,
    a_stream,
    beacon,
    data_packet,
    frame,
    metadata_packets,
    numbers_of,
)
from relays import OUR_RELAY, LiveViewer, Relay, connect_inside
from traces import read_trace, warnings_of_babeltrace2

from tracefleet_common.client.plain import Client
from tracefleet_common.codecs.fleet_stream import encode_greeting
from tracefleet_common.errors import InvalidArgument, NotFound, TracefleetError
from tracefleet_common.messages.relay_streaming import AddedStream, AddStreams, EndStreams, StreamEnd
from tracefleet_common.messages.relayd_control import DescribeRelaySession, RelaySessionDetails, RelaySessionInfo
from tracefleet_common.model.relay_output import FLEET_DATA_PORT_DEFAULT, FLEET_PORT_DEFAULT, Durability

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


def begin(producer: FleetProducer) -> tuple[int, int]:
    """Metadata and one stream, and a data connection; their handles. The metadata is sent."""
    metadata, stream = producer.add(a_stream("metadata"), a_stream())
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


def state_of(relay: Relay, producer: FleetProducer) -> RelaySessionInfo:
    """What the relay daemon tells of the session."""
    with Client(f"ipc://{relay.world.run_directory}/relayd/bus-{relay.pid}") as client:
        request = DescribeRelaySession(producer.session_id)
        return client.ask(request, RelaySessionDetails, DEADLINE_S).session


def kill(relay: Relay) -> None:
    relay.process.send_signal(signal.SIGKILL)
    relay.process.wait(DEADLINE_S)


@pytest.mark.parametrize("durability", list(Durability))
def test_killed_relay_daemon_goes_on_where_its_files_end(fleet: Fleet, durability: Durability) -> None:
    relay = Relay(fleet)
    status = SYNCED if durability is Durability.SYNCED else 0
    with FleetProducer(fleet.world, durability=durability) as producer:
        _, stream = begin(producer)
        producer.send(stream, [data_packet(number) for number in range(5)])
        producer.wait_acknowledged(stream, 4, status)
        # One more, of which only a part arrives.
        assert producer.data is not None
        producer.data.sendall(frame(stream, 5, data_packet(5))[:200])
        data = output_of(relay, producer) / TRACE_PATH / "c_0"
        wait_until(lambda: data.stat().st_size > 5 * PACKET_SIZE_BYTES, "a part of a packet")
        kill(relay)
        assert producer.is_hung_up_on()
    relay = Relay(fleet)
    with FleetProducer(fleet.world, token=producer.token, durability=durability) as again:
        assert again.is_resumed
        assert again.output == producer.output
        added = again.add(a_stream("metadata"), a_stream())
        assert [one.next_sequence for one in added] == [2, 5]
        assert added[1].handle == stream
        assert data.stat().st_size == 5 * PACKET_SIZE_BYTES
        again.connect_data()
        # The sender does not know of the last answers: it sends some again.
        again.send(stream, [data_packet(number) for number in range(3, 10)], 3)
        again.wait_acknowledged(stream, 9, status)
        again.close()
        trace = output_of(relay, again)
    assert numbers_in(trace) == list(numbers_of(range(10)))
    assert fleet.verify(trace).returncode == 0
    assert list((relay.output / ".fleet").glob("[0-9a-f]*")) == []


def test_metadata_goes_on_after_a_kill(fleet: Fleet) -> None:
    relay = Relay(fleet)
    with FleetProducer(fleet.world) as producer:
        metadata, stream = producer.add(a_stream("metadata"), a_stream())
        producer.connect_data()
        packets = metadata_packets()
        producer.send(metadata.handle, packets[:1])
        producer.wait_acknowledged(metadata.handle, 0)
        assert producer.data is not None
        producer.data.sendall(frame(metadata.handle, 1, packets[1])[:160])
        file = output_of(relay, producer) / TRACE_PATH / "metadata"
        wait_until(lambda: file.stat().st_size > len(packets[0].data), "a part of a packet")
        kill(relay)
    relay = Relay(fleet)
    with FleetProducer(fleet.world, token=producer.token) as again:
        found, _ = again.add(a_stream("metadata"), a_stream())
        assert found == AddedStream(handle=metadata.handle, next_sequence=1)
        again.connect_data()
        again.send(found.handle, packets[1:], 1)
        again.send(stream.handle, [data_packet(0)])
        again.wait_acknowledged(stream.handle, 0)
        again.close()
        assert file.read_bytes() == b"".join(packet.data for packet in packets)
        assert numbers_in(output_of(relay, again)) == list(numbers_of(range(1)))


@pytest.mark.parametrize("file_count", [0, 3])
def test_trace_files_with_limits_go_on_after_kills(fleet: Fleet, file_count: int) -> None:
    """Two packets a file. The relay daemon is killed in the middle of a file, and when one is just full."""
    size = 2 * PACKET_SIZE_BYTES + 10
    stream_request = a_stream(trace_file_size_bytes=size, trace_file_count=file_count)
    token, handle = None, 0
    for end in (1, 2, 7, 8, 11):
        relay = Relay(fleet)
        with FleetProducer(fleet.world, token=token) as producer:
            token = producer.token
            metadata, stream = producer.add(a_stream("metadata"), stream_request)
            assert handle in (0, stream.handle)
            handle = stream.handle
            producer.connect_data()
            producer.send(metadata.handle, metadata_packets()[metadata.next_sequence :], metadata.next_sequence)
            first = stream.next_sequence
            producer.send(stream.handle, [data_packet(number) for number in range(first, end)], first)
            producer.wait_acknowledged(stream.handle, end - 1)
            kill(relay)
    relay = Relay(fleet)
    with FleetProducer(fleet.world, token=token) as producer:
        assert [one.next_sequence for one in producer.add(a_stream("metadata"), stream_request)] == [2, 11]
        producer.close()
        trace = output_of(relay, producer)
    files = sorted(path.name for path in (trace / TRACE_PATH).glob("c_0*"))
    kept = range(11) if file_count == 0 else range(6, 11)  # files 3, 4 and 5, the last with one packet
    assert files == [f"c_0_{number}" for number in range(6 if file_count == 0 else 3)]
    assert numbers_in(trace) == list(numbers_of(kept))
    assert fleet.verify(trace).returncode == 0


def test_repeats_gaps_and_damage(fleet: Fleet, relay: Relay) -> None:
    with FleetProducer(fleet.world) as producer:
        _, stream = begin(producer)
        assert producer.data is not None
        producer.send(stream, [data_packet(1)], 1)
        producer.wait_acknowledged(stream, NOTHING, GAP)
        producer.send(stream, [data_packet(0), data_packet(1)])
        producer.wait_acknowledged(stream, 1)
        producer.data.sendall(frame(stream, 2, data_packet(2), crc=12345))
        producer.wait_acknowledged(stream, 1, CORRUPT)
        producer.send(stream, [data_packet(3)], 3)
        producer.wait_acknowledged(stream, 1, GAP)
        producer.send(stream, [data_packet(number) for number in range(4)])
        producer.wait_acknowledged(stream, 3)
        producer.close()
        trace = output_of(relay, producer)
    assert numbers_in(trace) == list(numbers_of(range(4)))
    assert fleet.verify(trace).returncode == 0


def test_commands_may_be_repeated(fleet: Fleet, relay: Relay) -> None:
    with FleetProducer(fleet.world) as producer:
        _, stream = begin(producer)
        producer.send(stream, [data_packet(number) for number in range(3)])
        producer.wait_acknowledged(stream, 2)
        assert producer.add(a_stream(), a_stream()) == 2 * [AddedStream(handle=stream, next_sequence=3)]
        with FleetProducer(fleet.world, token=producer.token) as other:
            assert other.is_resumed
            assert other.session_id == producer.session_id
            other.add(a_stream("c_1"))
        producer.end(**{f"h{stream}": 3})
        producer.end(**{f"h{stream}": 3, "h12345": 9})
        # Its end was not heard of: it is where it was, and ends again.
        assert producer.add(a_stream()) == [AddedStream(handle=stream, next_sequence=3)]
        producer.end(**{f"h{stream}": 3})
        producer.close()
        producer.close()
        assert numbers_in(output_of(relay, producer)) == list(numbers_of(range(3)))
        with pytest.raises(NotFound):
            producer.add(a_stream())


def test_packets_that_the_sender_has_no_more_are_counted(fleet: Fleet) -> None:
    relay = Relay(fleet)
    with FleetProducer(fleet.world) as producer:
        _, stream = begin(producer)
        producer.send(stream, [data_packet(number) for number in range(3)])
        producer.wait_acknowledged(stream, 2)
        assert producer.add(a_stream(oldest_sequence=7)) == [AddedStream(handle=stream, next_sequence=7)]
        producer.connect_data()
        producer.send(stream, [data_packet(7)], 7)
        producer.wait_acknowledged(stream, 7)
        kill(relay)
    relay = Relay(fleet)
    with FleetProducer(fleet.world, token=producer.token) as again:
        assert again.add(a_stream()) == [AddedStream(handle=stream, next_sequence=8)]
        assert again.add(a_stream(oldest_sequence=9))[0].next_sequence == 9
        again.connect_data()
        again.send(stream, [data_packet(9)], 9)
        again.wait_acknowledged(stream, 9)
        sums = state_of(relay, again).sums
        assert (sums.packet_count, sums.acknowledged_packet_count, sums.loss.missing_packet_count) == (5, 5, 5)
        again.close()
        assert numbers_in(output_of(relay, again)) == list(numbers_of([0, 1, 2, 7, 9]))


def test_trace_that_was_deleted_begins_anew(fleet: Fleet) -> None:
    relay = Relay(fleet)
    with FleetProducer(fleet.world) as producer:
        _, stream = begin(producer)
        producer.send(stream, [data_packet(number) for number in range(3)])
        producer.wait_acknowledged(stream, 2)
        kill(relay)
        shutil.rmtree(output_of(relay, producer))
    relay = Relay(fleet)
    with FleetProducer(fleet.world, token=producer.token) as again:
        added = again.add(a_stream("metadata"), a_stream(oldest_sequence=2))
        assert [one.next_sequence for one in added] == [0, 2]
        again.connect_data()
        again.send(added[0].handle, metadata_packets())
        again.send(stream, [data_packet(2), data_packet(3)], 2)
        again.wait_acknowledged(stream, 3)
        again.close()
        assert numbers_in(output_of(relay, again)) == list(numbers_of([2, 3]))


def test_session_that_nobody_continues_is_readable(fleet: Fleet) -> None:
    relay = Relay(fleet)
    with FleetProducer(fleet.world) as producer:
        _, stream = begin(producer)
        producer.send(stream, [data_packet(number) for number in range(3)])
        producer.wait_acknowledged(stream, 2)
        assert producer.data is not None
        producer.data.sendall(frame(stream, 3, data_packet(3))[:200])
        data = output_of(relay, producer) / TRACE_PATH / "c_0"
        wait_until(lambda: data.stat().st_size > 3 * PACKET_SIZE_BYTES, "a part of a packet")
        kill(relay)
    relay = Relay(fleet)
    wait_until(lambda: data.stat().st_size == 3 * PACKET_SIZE_BYTES, "the part of a packet to go")
    assert numbers_in(output_of(relay, producer)) == list(numbers_of(range(3)))
    journals = relay.output / ".fleet"
    assert journals.stat().st_mode & 0o777 == 0o700
    (journal,) = journals.glob("[0-9a-f]*")
    assert journal.stat().st_mode & 0o777 == 0o600
    assert producer.token.hex() not in journal.name
    assert producer.token not in journal.read_bytes()
    assert relay.stop() == 0
    shutil.rmtree(output_of(relay, producer))
    relay = Relay(fleet)
    wait_until(lambda: not journal.exists(), "the journal of a trace that is gone to go")


@pytest.mark.fault
def test_damaged_journal_is_refused(fleet: Fleet) -> None:
    relay = Relay(fleet)
    with FleetProducer(fleet.world) as producer:
        _, stream = begin(producer)
        producer.send(stream, [data_packet(0)])
        producer.wait_acknowledged(stream, 0)
        kill(relay)
    (journal,) = (relay.output / ".fleet").glob("[0-9a-f]*")
    content = bytearray(journal.read_bytes())
    content[40] ^= 1
    journal.write_bytes(content)
    relay = Relay(fleet)
    with pytest.raises(TracefleetError, match=f"The journal .fleet/{journal.name} cannot be used"):
        FleetProducer(fleet.world, token=producer.token)
    with FleetProducer(fleet.world, "other") as other:
        begin(other)
    assert journal.read_bytes() == content


def test_latest_data_connection_is_the_sessions(fleet: Fleet, relay: Relay) -> None:
    with FleetProducer(fleet.world) as producer:
        _, stream = begin(producer)
        producer.send(stream, [data_packet(0)])
        producer.wait_acknowledged(stream, 0)
        assert producer.data is not None
        producer.data.sendall(frame(stream, 1, data_packet(1))[:200])
        with producer.data as former:
            producer.connect_data()
            producer.send(stream, [data_packet(number) for number in range(1, 4)], 1)
            producer.wait_acknowledged(stream, 3)
            assert former.recv(1) == b""
        producer.close()
        assert numbers_in(output_of(relay, producer)) == list(numbers_of(range(4)))


@pytest.mark.fault
def test_wrong_greetings_and_foreign_streams(fleet: Fleet, relay: Relay) -> None:
    with FleetProducer(fleet.world) as producer, FleetProducer(fleet.world, "other") as other:
        _, stream = begin(producer)
        _, foreign = begin(other)
        other.wait_acknowledged(other.add(a_stream("metadata"))[0].handle, 1)
        damaged = bytearray(encode_greeting(producer.token))
        damaged[10] ^= 1
        for greeting in (encode_greeting(bytes(16)), bytes(damaged), b"GET / HTTP/1.1".ljust(32), b""):
            with connect_inside(fleet.world, FLEET_DATA_PORT_DEFAULT) as connection:
                connection.sendall(greeting)
                if not greeting:
                    connection.shutdown(1)
                assert connection.recv(1) == b""
        # Their packets and beacons end the connection that they come on, and no other.
        for hostile in (frame(foreign, 0, data_packet(0)), beacon(foreign, 0, 5000), frame(4711, 0, data_packet(0))):
            producer.connect_data().sendall(hostile)
            if hostile[24:28] == bytes(4) and hostile != beacon(foreign, 0, 5000):
                continue
            assert producer.is_hung_up_on()
        producer.connect_data()
        producer.send(stream, [data_packet(0)])
        producer.wait_acknowledged(stream, 0)
        other.send(foreign, [data_packet(0)])
        other.wait_acknowledged(foreign, 0)
        for one in (producer, other):
            one.close()
            assert numbers_in(output_of(relay, one)) == list(numbers_of(range(1)))


@pytest.mark.fault
@pytest.mark.parametrize(
    "settings",
    [
        {"token": b"short"},
        {"session": "../up"},
        {"session": ""},
        {"session": "a/b"},
        {"host_name": ".."},
        {"host_name": "h\0"},
        {"subdirectory": "../up"},
        {"subdirectory": "/etc"},
        {"subdirectory": ".fleet/x"},
        {"sessiond_uuid": b"123"},
        {"sessiond_uuid": bytes(16)},
        {"creation_time_s": 1 << 62},
        {"live_timer_period_us": -1},
        {"session_id": -1},
    ],
    ids=str,
)
def test_sessions_that_cannot_be(fleet: Fleet, relay: Relay, settings: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        FleetProducer(fleet.world, **settings)  # type: ignore[arg-type]
    assert not relay.output.exists() or list(relay.output.iterdir()) == []


@pytest.mark.fault
def test_streams_that_cannot_be(fleet: Fleet, relay: Relay) -> None:
    with FleetProducer(fleet.world) as producer:
        for stream in (
            a_stream(path="../../x"),
            a_stream(path="/x"),
            a_stream(path=""),
            a_stream(path="archives/x"),
            a_stream(path="x\0y"),
            a_stream("../c_0"),
            a_stream("a/b"),
            a_stream("x" * 250),
            a_stream(""),
            a_stream(trace_file_size_bytes=-1),
            a_stream(oldest_sequence=1 << 63),
        ):
            with pytest.raises(InvalidArgument):
                producer.add(a_stream("c_1"), stream)
        _, handle = begin(producer)
        with pytest.raises(InvalidArgument, match="packets up to"):
            producer.end(**{f"h{handle}": 7})
        for request in (
            AddStreams(token=bytes(16), streams=(a_stream(),)),
            EndStreams(token=bytes(16), ends=(StreamEnd(handle=handle, next_sequence=0),)),
        ):
            with pytest.raises(NotFound):
                producer.bus.say(request)
        assert sorted(path.name for path in (output_of(relay, producer) / TRACE_PATH).iterdir()) == [
            "c_0",
            "index",
            "metadata",
        ]


@pytest.mark.fault
def test_floods_are_bounded(fleet: Fleet, relay: Relay) -> None:
    with FleetProducer(fleet.world) as producer:
        _, stream = begin(producer)
        before = relay.memory_bytes()
        ports = (FLEET_PORT_DEFAULT, FLEET_DATA_PORT_DEFAULT)
        flood = [connect_inside(fleet.world, port) for _ in range(80) for port in ports]
        for number, connection in enumerate(flood):
            connection.setblocking(False)
            if number % 4 > 1:
                continue
            try:
                while True:
                    connection.send(bytes(1 << 16))
            except OSError:
                pass
        producer.send(stream, [data_packet(number) for number in range(100)])
        producer.wait_acknowledged(stream, 99)
        producer.connect_data()  # those that do not greet make room
        producer.send(stream, [data_packet(number) for number in range(100, 200)], 100)
        producer.wait_acknowledged(stream, 199)
        assert relay.memory_bytes() - before < 100 << 20
        for connection in flood:
            connection.close()
        producer.close()
        assert fleet.verify(output_of(relay, producer)).returncode == 0
    assert relay.stop() == 0


def test_live_viewer_sees_it_all(fleet: Fleet, relay: Relay) -> None:
    def numbers(viewer: LiveViewer) -> list[int]:
        return [int(number) for number in re.findall(r"tf:numbered:.*number = (\d+)", viewer.text)]

    with FleetProducer(fleet.world, "live", live_timer_period_us=1_000_000) as producer:
        _, stream = begin(producer)
        producer.send(stream, [data_packet(0)])
        producer.wait_acknowledged(stream, 0)
        viewer = LiveViewer(fleet.world, "live")  # begins with what comes next
        wait_until(lambda: state_of(relay, producer).viewer_count == 1, f"a viewer: {viewer.complaint}")
        # A packet is shown when nothing older can come.
        assert producer.data is not None
        producer.send(stream, [data_packet(1), data_packet(2)], 1)
        producer.data.sendall(beacon(stream, 3, 20_000))
        wait_until(lambda: numbers(viewer) == list(numbers_of([1, 2])), f"two packets: {viewer.complaint}")
        (late,) = producer.add(a_stream("c_1"))
        producer.send(stream, [data_packet(6)], 3)
        producer.send(late.handle, [data_packet(7, cpu=1)])
        producer.data.sendall(beacon(stream, 4, 60_000) + beacon(late.handle, 1, 60_000))
        expected = list(numbers_of([1, 2, 6, 7]))
        wait_until(lambda: numbers(viewer) == expected, f"all packets: {viewer.complaint}")
        producer.end(**{f"h{stream}": 4, f"h{late.handle}": 1})
        producer.close()
        assert viewer.wait() == 0, viewer.complaint
        assert numbers(viewer) == expected


def test_thousands_of_streams_with_few_descriptors(fleet: Fleet) -> None:
    relay = Relay(fleet, "--fd-pool-size=100")
    with FleetProducer(fleet.world) as producer:
        metadata, *streams = producer.add(a_stream("metadata"), *(a_stream(f"c_{cpu}") for cpu in range(1000)))
        producer.connect_data()
        producer.send(metadata.handle, metadata_packets())
        for number in range(2):
            for cpu, stream in enumerate(streams):
                producer.send(stream.handle, [data_packet(number, cpu=cpu)], number)
        for stream in streams:
            producer.wait_acknowledged(stream.handle, 1)
        assert len(list(Path(f"/proc/{relay.pid}/fd").iterdir())) <= 100
        producer.close()
        assert fleet.verify(output_of(relay, producer)).returncode == 0
    assert relay.stop() == 0
    assert "Still open" not in relay.log.read_text()


@pytest.mark.fault
def test_full_disk_holds_the_sender(fleet: Fleet) -> None:
    small = fleet.world.mount_tmpfs("1m")
    relay = Relay(fleet, f"--output={small}")
    with FleetProducer(fleet.world) as producer:
        _, stream = begin(producer)
        ballast = fleet.world.path(small) / "ballast"
        with ballast.open("wb", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1 << 12))
            except OSError:
                pass
        packets = [data_packet(number, padding_size=1 << 12) for number in range(100)]
        producer.send(stream, packets)
        wait_until(lambda: state_of(relay, producer).trouble is not None, "the daemon to say so")
        held = state_of(relay, producer).sums.acknowledged_packet_count
        assert held is not None
        assert held < 100
        ballast.unlink()
        producer.wait_acknowledged(stream, 99)
        assert state_of(relay, producer).trouble is None
        producer.close()
        assert numbers_in(fleet.world.path(small) / producer.output) == list(numbers_of(range(100)))


@pytest.mark.parametrize("is_given", [False, True])
def test_second_relay_daemon_of_a_host(fleet: Fleet, relay: Relay, is_given: bool) -> None:
    moved = ("-C", "tcp://0.0.0.0:6342", "-D", "tcp://0.0.0.0:6343", "-L", "tcp://0.0.0.0:6344")
    given = ("--fleet-port=tcp://0.0.0.0:5340",) if is_given else ()
    log = fleet.world.directory / "second.log"
    with log.open("wb") as stream:
        second = fleet.world.popen(
            [OUR_RELAY.program, "-v", *moved, *given, f"--output={relay.output}-2"], stderr=stream.fileno()
        )
    if is_given:
        assert second.wait(DEADLINE_S) == 1
        assert "Cannot listen on tcp://0.0.0.0:534" in log.read_text()
    else:
        wait_until(lambda: "Takes no fleet:// sessions" in log.read_text(), "a warning")
        second.terminate()
        assert second.wait(DEADLINE_S) == 0
