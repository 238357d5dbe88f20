"""Live viewing: a genuine LTTng host streams to our relay daemon, babeltrace2 shows the events while they come."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator

import pytest
from deadlines import wait_until
from fleet import GENUINE, Fleet, has_genuine
from programs import BUILD_DIRECTORY
from relays import LiveViewer, RawViewer, Relay, create_streamed, wait_attached
from world import is_stopped

from tracefleet_common.codecs import lttng_live as live
from tracefleet_common.codecs.lttng_live_requests import encode_request
from tracefleet_common.codecs.packet import decode_packet_header

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not has_genuine(), reason="lttng-tools is not installed: no host that streams"),
]

PERIOD_US = 200_000
SESSION = "s1"


class Host:
    """A genuine LTTng host whose live sessions go to our relay daemon."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.world = fleet.world
        self.relay = Relay(fleet)
        fleet.start_daemon()
        self._viewer_count = 0

    def session(self, name: str = SESSION, *channel_options: str, is_started: bool = True) -> None:
        """A live session with all events of the test program, known to the relay daemon."""
        create_streamed(
            self.fleet, name, f"--live={PERIOD_US}", channel=(*channel_options, "ch"), is_started=is_started
        )

    def viewer(self, name: str = SESSION, *, is_patient: bool = False) -> LiveViewer:
        self._viewer_count += 1
        return LiveViewer(self.world, name, is_patient=is_patient, number=self._viewer_count)

    def raw_viewer(self) -> RawViewer:
        return RawViewer(self.world).begin()

    def wait_attached(self, name: str = SESSION, count: int = 1) -> None:
        wait_attached(self.world, name, count)

    def session_id(self, name: str = SESSION) -> int:
        with self.raw_viewer() as lister:
            return lister.sessions()[name].session_id


@pytest.fixture
def host(make_fleet: Callable[..., Fleet]) -> Iterator[Host]:
    made = Host(make_fleet(GENUINE))
    yield made
    assert made.relay.process.poll() is None, "the relay daemon has died"
    text = made.relay.log.read_text()
    assert "Traceback" not in text, text
    assert made.relay.stop() == 0, made.relay.log.read_text()


def all_indexes(viewer: RawViewer, stream_id: int) -> tuple[list[live.NextIndexReply], live.NextIndexReply]:
    """Read on to the first reply that is not an index entry; that one too."""
    found = []
    while (reply := viewer.next_index(stream_id)).status is live.NextIndexStatus.OK:
        found.append(reply)
    return found, reply


# ── When the viewer comes ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_viewer_that_came_before_the_start_sees_every_event(host: Host) -> None:
    host.session(is_started=False)
    viewer = host.viewer()
    host.wait_attached()
    host.fleet.run("start", SESSION)
    program = host.fleet.program()
    program.emit(500)
    viewer.wait_for_number(499)  # while the program runs
    program.emit(500)
    viewer.wait_for_number(999)
    host.fleet.destroy()
    assert viewer.wait() == 0, viewer.complaint
    assert viewer.numbers(program.pid) == list(range(1000))


def test_a_patient_viewer_waits_for_the_session_and_for_the_next_one(host: Host) -> None:
    viewer = host.viewer(is_patient=True)
    for _ in range(2):
        host.session(is_started=False)
        host.wait_attached()
        host.fleet.run("start", SESSION)
        program = host.fleet.program()
        program.emit(100)
        viewer.wait_for_number(99, program.pid)
        program.end()
        host.fleet.destroy()
        assert viewer.numbers(program.pid) == list(range(100))
    viewer.interrupt()


def test_a_viewer_that_comes_later_sees_what_follows(host: Host) -> None:
    host.session()
    program = host.fleet.program()
    program.emit(300)
    session_id = host.session_id()
    with host.raw_viewer() as early:
        streams = [stream for stream in early.attach(session_id).streams if not stream.is_metadata]
        assert len(streams) == os.cpu_count()
        wait_until(lambda: any(all_indexes(early, one.stream_id)[0] for one in streams), "the packet to arrive")
    viewer = host.viewer()
    host.wait_attached()
    program.emit(300)
    viewer.wait_for_number(599)
    host.fleet.destroy()
    assert viewer.wait() == 0, viewer.complaint
    seen = viewer.numbers()
    assert seen == list(range(600))[-len(seen) :]
    assert seen[0] == 300, "the packets of before are not shown"


def test_a_viewer_that_comes_after_the_stop_gets_all_from_the_beginning(host: Host) -> None:
    host.session()
    program = host.fleet.program()
    program.emit(5000)
    host.fleet.stop()
    session_id = host.session_id()
    with host.raw_viewer() as viewer:
        for stream in viewer.attach(session_id).streams:
            stored = next(host.relay.output.rglob(f"{stream.path}/{stream.channel_name}")).read_bytes()
            if stream.is_metadata:
                reply, data = viewer.ask(live.GetMetadata(stream_id=stream.stream_id))
                assert isinstance(reply, live.MetadataReply)
                assert data == stored
                continue
            entries, last = all_indexes(viewer, stream.stream_id)
            assert last.status in (live.NextIndexStatus.RETRY, live.NextIndexStatus.INACTIVE)
            data = b""
            for entry in entries:
                reply, packet = viewer.packet(stream.stream_id, entry.offset_bytes, entry.packet_size_bits // 8)
                assert reply.status is live.PacketStatus.OK
                data += packet
            assert data == stored
    late = host.viewer()
    host.wait_attached()
    host.fleet.destroy()
    assert late.wait() == 0, late.complaint


def test_a_finished_session_is_not_shown(host: Host) -> None:
    host.session()
    host.fleet.destroy()
    assert host.viewer().wait() == 0
    with host.raw_viewer() as viewer:
        assert viewer.sessions() == {}
        assert viewer.attach(1).status is live.AttachStatus.UNKNOWN


def test_the_list_of_babeltrace2(host: Host) -> None:
    host.session()
    result = host.world.run(["babeltrace2", "-i", "lttng-live", "net://localhost"])
    stream_count = (os.cpu_count() or 1) + 1
    # Streams come with the first program; the session itself is there from the beginning.
    assert re.search(rf"/host/{os.uname().nodename}/{SESSION} \(timer = {PERIOD_US}, 0 stream", result.stdout), result
    host.fleet.program()
    viewer = host.viewer()
    host.wait_attached()

    def listed() -> bool:
        shown = host.world.run(["babeltrace2", "-i", "lttng-live", "net://localhost"]).stdout
        return f"(timer = {PERIOD_US}, {stream_count} stream(s), 1 client(s) connected)" in shown

    wait_until(listed, "the streams and the viewer in the list")
    host.fleet.destroy()
    assert viewer.wait() == 0, viewer.complaint


def test_an_ordinary_session_is_listed_but_not_live(host: Host) -> None:
    host.fleet.run("create", SESSION, "--set-url=net://localhost")
    host.fleet.run("enable-event", "-u", "-s", SESSION, "tf_emit:*")
    viewer = host.viewer()
    assert viewer.wait() == 1
    with host.raw_viewer() as raw:
        session = raw.sessions()[SESSION]
        assert session.live_timer_us == 0
        assert raw.attach(session.session_id).status is live.AttachStatus.NOT_LIVE


# ── Several viewers ──────────────────────────────────────────────────────────────────────────────────────────────────


def test_many_viewers_on_one_session_and_on_different_ones(host: Host) -> None:
    host.session("s1", is_started=False)
    host.session("s2", is_started=False)
    viewers = {name: [host.viewer(name) for _ in range(4)] for name in ("s1", "s2")}
    for name in viewers:
        host.wait_attached(name, 4)
        host.fleet.run("start", name)
    program = host.fleet.program()
    program.emit(200)
    for viewer in (*viewers["s1"], *viewers["s2"]):
        viewer.wait_for_number(199)
    viewers["s1"][0].process.kill()  # hangs up in the middle
    host.wait_attached("s1", 3)
    program.emit(200)
    for name in viewers:
        host.fleet.destroy(name)
    for viewer in (*viewers["s1"][1:], *viewers["s2"]):
        assert viewer.wait() == 0, viewer.complaint
        assert viewer.numbers() == list(range(400))


def test_a_viewer_that_does_not_read_holds_up_nobody(host: Host) -> None:
    host.session("s1", "--subbuf-size=1M", is_started=False)
    viewer = host.viewer()
    host.wait_attached()
    host.fleet.run("start", SESSION)
    program = host.fleet.program()
    program.ask("bulky 40 60000")
    session_id = host.session_id()
    with host.raw_viewer() as stuck:
        streams = [stream for stream in stuck.attach(session_id).streams if not stream.is_metadata]
        found: dict[int, live.NextIndexReply] = {}

        def has_packet() -> bool:
            for stream in streams:
                for entry in all_indexes(stuck, stream.stream_id)[0]:
                    found[stream.stream_id] = entry
            return bool(found)

        wait_until(has_packet, "a packet")
        stream_id, entry = next(iter(found.items()))
        request = live.GetPacket(
            stream_id=stream_id, offset_bytes=entry.offset_bytes, size_bytes=entry.packet_size_bits // 8
        )
        stuck.connection.setblocking(False)
        asked = 0
        with pytest.raises(BlockingIOError):  # until the relay daemon reads no more requests of this viewer
            while asked < 1_000_000:
                asked += stuck.connection.send(encode_request(request) * 100) > 0
        memory_before = host.relay.memory_bytes()
        program.emit(1000)
        viewer.wait_for_number(1039)
        with host.raw_viewer() as other:
            assert other.attach(session_id).status is live.AttachStatus.OK
            assert other.sessions()[SESSION].viewer_count == 3
        assert host.relay.memory_bytes() <= memory_before + (16 << 20)
    host.wait_attached(count=1)
    host.fleet.destroy()
    assert viewer.wait() == 0, viewer.complaint
    assert viewer.numbers() == list(range(40, 1040)), "after the bulky ones"


def test_half_a_request_holds_up_nobody(host: Host) -> None:
    host.session()
    with host.raw_viewer() as half, host.raw_viewer() as other:
        half.connection.sendall(bytes(7))
        assert SESSION in other.sessions()
        half.connection.sendall(bytes(1) + (2).to_bytes(4, "big"))
        assert SESSION in other.sessions()
        half.connection.sendall(bytes(4))
        assert half.connection.recv(4) == b"\0\0\0\1", "one session"


@pytest.mark.parametrize(
    "data",
    [
        bytes(8) + (2).to_bytes(4, "big") + bytes(4),  # LIST_SESSIONS before CONNECT
        bytes(8) + (1).to_bytes(4, "big") + bytes(4) + bytes(8) + (3).to_bytes(4, "big") + bytes(4) + b"\0\0\0\1",
        b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b"\xff" * 4096,
    ],
    ids=["no-connect", "major-3", "http", "ones"],
)
def test_a_connection_that_is_no_viewer_is_hung_up_on(host: Host, data: bytes) -> None:
    with RawViewer(host.world) as viewer:
        viewer.connection.sendall(data)
        assert viewer.is_hung_up_on()


# ── Streams that come and go ─────────────────────────────────────────────────────────────────────────────────────────


def test_an_idle_channel_does_not_hold_back_the_others(host: Host) -> None:
    host.session(is_started=False)
    host.fleet.run("enable-channel", "-u", "-s", SESSION, "idle")
    host.fleet.run("enable-event", "-u", "-s", SESSION, "no_such:event", "-c", "idle")
    viewer = host.viewer()
    host.wait_attached()
    host.fleet.run("start", SESSION)
    program = host.fleet.program()
    program.emit(10)
    viewer.wait_for_number(9)
    host.fleet.destroy()
    assert viewer.wait() == 0, viewer.complaint


def test_short_lived_programs_with_buffers_of_their_own_are_not_missed(host: Host) -> None:
    host.session(SESSION, "--buffers-pid", is_started=False)
    viewer = host.viewer()
    host.wait_attached()
    host.fleet.run("start", SESSION)
    emitted = {}
    for count in (50, 60, 70):
        program = host.fleet.program()
        program.emit(count)
        assert program.end() == 0
        emitted[program.pid] = list(range(count))
        viewer.wait_for_number(count - 1, program.pid)
    host.fleet.destroy()
    assert viewer.wait() == 0, viewer.complaint
    assert {pid: viewer.numbers(pid) for pid in emitted} == emitted


def test_what_a_viewer_had_not_read_survives_the_death_of_the_producer(host: Host) -> None:
    host.session(is_started=False)
    viewer = host.viewer()
    host.wait_attached()
    host.fleet.run("start", SESSION)
    program = host.fleet.program()
    program.emit(100)
    viewer.wait_for_number(99)
    viewer.process.send_signal(signal.SIGSTOP)
    wait_until(lambda: is_stopped(viewer.process.pid), "the viewer to stand still")
    program.emit(100)
    program.ask("bulky 5 100")
    found: dict[int, list[live.NextIndexReply]] = {}
    with host.raw_viewer() as raw:
        streams = [stream for stream in raw.attach(host.session_id()).streams if not stream.is_metadata]

        def is_quiet() -> bool:
            """Each stream has told a time after the last record: all before it has arrived."""
            for stream in streams:
                entries, reply = all_indexes(raw, stream.stream_id)
                found.setdefault(stream.stream_id, []).extend(entries)
                if reply.status is not live.NextIndexStatus.INACTIVE:
                    return False
            return any(found.values())

        wait_until(is_quiet, "all packets to arrive")
        for pid in host.world.pids_of("lttng-consumerd"):
            os.kill(pid, signal.SIGKILL)
        wait_until(lambda: SESSION not in raw.sessions(), "the session to be gone")
    viewer.process.send_signal(signal.SIGCONT)
    assert viewer.wait() == 0, viewer.complaint
    assert viewer.numbers(program.pid) == list(range(200))


def test_a_clear_while_viewing(host: Host) -> None:
    host.session(is_started=False)
    viewer = host.viewer()
    host.wait_attached()
    host.fleet.run("start", SESSION)
    program = host.fleet.program()
    program.emit(100)
    viewer.wait_for_number(99)
    for _ in range(2):
        host.fleet.run("clear", SESSION)
        first = program.ask("emit 100")
        assert first == 100
    viewer.wait_for_number(299)
    host.fleet.stop()
    host.fleet.run("clear", SESSION)
    host.fleet.run("start", SESSION)
    program.emit(100)
    viewer.wait_for_number(399)
    host.fleet.destroy()
    assert viewer.wait() == 0, viewer.complaint
    seen = viewer.numbers(program.pid)
    assert seen == sorted(set(seen))
    assert set(range(100)) | set(range(300, 400)) <= set(seen)


def test_metadata_that_comes_after_a_clear(host: Host) -> None:
    """The producer repeats in full packets what it had sent in small ones; lttng-relayd 2.13 loses its place there."""
    host.session(is_started=False)
    for pattern in ("tf_plugin:*", "tf_fields:integers"):
        host.fleet.run("enable-event", "-u", "-s", SESSION, pattern, "-c", "ch")
    viewer = host.viewer()
    host.wait_attached()
    host.fleet.run("start", SESSION)
    program = host.fleet.program()
    program.emit(10)
    viewer.wait_for_number(9)
    program.ask(f"load {BUILD_DIRECTORY}/libtf_plugin.so")
    program.ask("plugin 3")
    program.emit(1)
    viewer.wait_for_number(10)
    host.fleet.run("clear", SESSION)
    host.fleet.program("allfields").emit(3)
    program.emit(10)
    viewer.wait_for_number(20)
    host.fleet.destroy()
    assert viewer.wait() == 0, viewer.complaint
    assert viewer.text.count("tf_plugin:") == 3
    assert viewer.text.count("tf_fields:integers:") == 3


def test_trace_files_in_a_ring_let_a_slow_viewer_jump(host: Host) -> None:
    host.session(SESSION, "--subbuf-size=4096", "--num-subbuf=64", "--tracefile-size=8192", "--tracefile-count=3")
    program = host.fleet.program()
    program.ask("cpu 0")
    program.emit(100)
    session_id = host.session_id()
    with host.raw_viewer() as slow:
        attached = slow.attach(session_id)
        streams = [stream for stream in attached.streams if not stream.is_metadata]

        def first_packet() -> tuple[int, live.NextIndexReply] | None:
            for stream in streams:
                reply = slow.next_index(stream.stream_id)
                if reply.status is live.NextIndexStatus.OK:
                    return stream.stream_id, reply
            return None

        found = wait_until(first_packet, "a packet")
        assert found is not None
        stream_id, first = found
        for _ in range(40):
            program.emit(100)
        host.fleet.stop()
        # The packet whose entry was sent is there, though its file was overwritten.
        reply, data = slow.packet(stream_id, first.offset_bytes, first.packet_size_bits // 8)
        assert reply.status is live.PacketStatus.OK
        assert decode_packet_header(data).timestamp_begin == first.timestamp_begin
        entries, _ = all_indexes(slow, stream_id)
        assert entries
        begins = [first.timestamp_begin, *(entry.timestamp_begin for entry in entries)]
        assert begins == sorted(begins)
        assert len(entries) <= 6, "no more than there is room for in the ring"
        reply, data = slow.packet(stream_id, entries[-1].offset_bytes, 4096)
        assert reply.status is live.PacketStatus.OK
        assert decode_packet_header(data).timestamp_begin == begins[-1]
