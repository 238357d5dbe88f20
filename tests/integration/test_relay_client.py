"""Our session and consumer daemons stream to relay daemons, the genuine one and ours, in LTTng's protocol."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from deadlines import wait_until
from fleet import OURS, Fleet, has_genuine
from relays import GENUINE_RELAY, HOST_NAME, OUR_RELAY, URL, LiveViewer, Relay, RelayKind, create_streamed
from traces import packets_of
from world import is_stopped

RULE = "tf_emit:*"
ROTATION_FAILED, NOT_CONNECTED = 141, 104
CPU_COUNT = os.cpu_count() or 1
PERIOD_US = 200_000
BULK_SIZE_BYTES = 8000
KINDS = [
    pytest.param(
        GENUINE_RELAY,
        id="genuine",
        marks=pytest.mark.skipif(not has_genuine(), reason="lttng-tools is not installed: no genuine relay daemon"),
    ),
    pytest.param(OUR_RELAY, id="ours"),
]


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    made = make_fleet()
    made.start_daemon()
    return made


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> RelayKind:
    chosen = request.param
    assert isinstance(chosen, RelayKind)
    return chosen


@pytest.fixture
def relay(fleet: Fleet, kind: RelayKind) -> Relay:
    return Relay(fleet, kind=kind)


def streams_of(relay: Relay, session: str = "s1", channel: str = "channel0") -> list[Path]:
    """The data files of a channel, one per CPU."""
    found = [path for path in relay.session_directory(session).rglob(f"{channel}_*") if path.suffix == ""]
    assert found
    return found


def verify(fleet: Fleet, directory: Path, *options: str) -> None:
    result = fleet.world.run([OURS.command, "verify", directory, *options])
    assert result.returncode == 0, result


# ---- what is kept ----


def test_files_are_those_that_a_local_session_writes(fleet: Fleet, relay: Relay) -> None:
    local = fleet.record(RULE, session="here", is_started=False)
    create_streamed(fleet, "there", url=f"{URL}/sub/dir")
    fleet.run("start", "here")
    program = fleet.program()
    for cpu in range(CPU_COUNT):
        program.ask(f"cpu {cpu}")
        program.emit(100)
    fleet.run("destroy", "-a")
    remote = relay.output / HOST_NAME / "sub" / "dir"
    kept = {path.relative_to(remote) for path in remote.rglob("*") if path.is_file()}
    assert kept == {path.relative_to(local) for path in local.rglob("*") if path.is_file()}
    for path in kept:
        if path.parent.name != "index" and path.name != "metadata":
            here, there = packets_of(local / path), packets_of(remote / path)
            assert [packet.sequence_number for packet in here] == [packet.sequence_number for packet in there]
    assert fleet.read(remote).numbers() == fleet.read(local).numbers()


def test_trace_files_are_limited_where_the_relay_daemon_can(fleet: Fleet, relay: Relay) -> None:
    """lttng-relayd 2.13 dies of a size without a count, so it is not told of one."""
    program = fleet.program()
    create_streamed(fleet, channel=("--subbuf-size=4096", "--num-subbuf=64", "--tracefile-size=8192", "ch"))
    program.ask("cpu 0")
    program.emit(2000)
    fleet.destroy()
    assert relay.process.poll() is None
    assert fleet.read(relay.session_directory()).numbers() == list(range(2000))


# ---- live ----


def test_events_are_seen_while_they_come(fleet: Fleet, relay: Relay) -> None:
    fleet.run("create", "s1", f"--live={PERIOD_US}", f"--set-url={URL}")
    fleet.run("enable-event", "-u", RULE)
    viewer = LiveViewer(fleet.world, "s1", is_patient=True)
    program = fleet.program()
    fleet.run("start", "s1")
    # A viewer waits for every stream, so those of the other CPUs have to say that nothing happens there.
    wait_until(lambda: all(path.stat().st_size for path in streams_of(relay)), "every stream to say something")
    program.ask("cpu 0")
    for number in range(5):
        program.emit(1)
        viewer.wait_for_number(number)
    for cpu in range(CPU_COUNT):  # after many beacons
        program.ask(f"cpu {cpu}")
        program.emit(10)
    fleet.stop()
    viewer.wait_for_number(10 * CPU_COUNT + 4)
    fleet.run("start", "s1")
    program.emit(1)
    viewer.wait_for_number(10 * CPU_COUNT + 5)
    fleet.destroy()
    assert viewer.numbers() == list(range(10 * CPU_COUNT + 6))
    viewer.interrupt()
    assert fleet.read(relay.session_directory()).numbers() == list(range(10 * CPU_COUNT + 6))


def test_new_events_and_programs_are_described_before_they_are_seen(fleet: Fleet, relay: Relay) -> None:
    fleet.run("create", "s1", f"--live={PERIOD_US}", f"--set-url={URL}")
    fleet.run("enable-event", "-u", "tf_emit:numbered")
    fleet.run("start", "s1")
    program = fleet.program()
    for cpu in range(CPU_COUNT):
        program.ask(f"cpu {cpu}")
        program.emit(1)
    viewer = LiveViewer(fleet.world, "s1", is_patient=True)
    wait_until(lambda: program.emit(1) and viewer.numbers(), "a first record")
    fleet.run("enable-event", "-u", "tf_levels:*")
    program.ask("levels 1")
    wait_until(lambda: "tf_levels:" in viewer.text or viewer.process.poll() is not None, "an event of another kind")
    second = fleet.program()
    second.emit(10)
    viewer.wait_for_number(9, second.pid)
    fleet.destroy()
    viewer.interrupt()


# ---- faults ----


def test_no_relay_daemon(fleet: Fleet) -> None:
    fleet.run("create", "s1", f"--set-url={URL}")
    refused = fleet.run("enable-event", "-u", RULE, is_checked=False)
    assert refused.returncode == NOT_CONNECTED
    assert "Unable to connect to lttng-relayd (channel channel0, session s1)" in refused.stderr
    relay = Relay(fleet)
    fleet.run("enable-event", "-u", RULE)
    fleet.run("start", "s1")
    fleet.program().emit(3)
    fleet.destroy()
    assert fleet.read(relay.session_directory()).numbers() == [0, 1, 2]


def test_a_relay_daemon_that_is_killed(fleet: Fleet, relay: Relay, kind: RelayKind) -> None:
    local = fleet.record(RULE, session="here")
    create_streamed(fleet)
    program = fleet.program()
    program.emit(1000)
    relay.process.kill()
    relay.process.wait()
    program.emit(1000)
    stopped = fleet.stop()
    assert "is lost" in stopped.stderr, stopped
    fleet.run("start", "s1")
    fleet.stop()
    destroyed = fleet.run("destroy", "s1", is_checked=False)
    assert destroyed.returncode == ROTATION_FAILED
    assert 'Error: Rotation failure on consumer during the destruction of session "s1"' in destroyed.stderr
    assert "s1" not in fleet.run("list").stdout
    fleet.destroy("here")
    assert fleet.read(local).numbers() == list(range(2000))
    again = Relay(fleet, kind=kind)
    create_streamed(fleet, "s2")
    program.emit(5)
    fleet.destroy("s2")
    assert fleet.read(again.session_directory("s2")).numbers() == list(range(2000, 2005))


@pytest.mark.parametrize("mode", ["--discard", "--overwrite"])
def test_a_relay_daemon_that_stops_reading_stalls_nobody(fleet: Fleet, relay: Relay, mode: str) -> None:
    """Its packets stay in the buffers, what finds no room is counted, and all goes on when it reads again."""
    local = fleet.record(RULE, session="here")
    create_streamed(fleet, channel=(mode, "--subbuf-size=65536", "--num-subbuf=4", "ch"))
    program = fleet.program()
    program.emit(10)
    os.kill(relay.pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(relay.pid), "the relay daemon to stand still")
    emitted = 10
    for _ in range(20):  # more than the sockets and the ring buffers hold; the local session has time in between
        emitted += program.ask(f"bulky 100 {BULK_SIZE_BYTES}")
        fleet.run("list", "here")
    fleet.destroy("here")
    verify(fleet, local, f"--emitted={emitted}", "--lost-packets=0")
    stopped = fleet.stop()
    assert re.search("does not answer|timed out", stopped.stderr), stopped
    os.kill(relay.pid, signal.SIGCONT)
    wait_until(lambda: "Error:" not in fleet.run("list", "s1").stdout, "the channel to record again")
    fleet.run("start", "s1")
    emitted += program.emit(10)
    fleet.stop()
    discarded, lost = fleet.books("s1", "ch")
    assert discarded + lost > 0
    directory = relay.session_directory()
    assert fleet.read(directory).numbers()[-10:] == list(range(2010, 2020))
    fleet.destroy()
    verify(fleet, directory, f"--lost-packets={lost}", *([f"--emitted={emitted}"] if mode == "--discard" else []))


def test_a_consumer_daemon_that_is_told_to_end_sends_what_it_has(fleet: Fleet, relay: Relay) -> None:
    create_streamed(fleet)
    program = fleet.program()
    program.emit(1000)
    assert fleet.daemon is not None
    assert fleet.daemon.stop() == 0
    assert fleet.read(relay.session_directory()).numbers() == list(range(1000))


OTHER_MAJOR = """
import socket
listener = socket.create_server(("127.0.0.1", 5342))
data = socket.create_server(("127.0.0.1", 5343))
print("ready", flush=True)
connection, _ = listener.accept()
connection.recv(32, socket.MSG_WAITALL)
connection.sendall(bytes([0, 0, 0, 3, 0, 0, 0, 0]))
connection.recv(1)
"""


def test_a_relay_daemon_of_another_time(fleet: Fleet) -> None:
    """There is no real one to try it with."""
    other = fleet.world.popen(["/usr/bin/python3", "-c", OTHER_MAJOR], stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"ready\n"
    fleet.run("create", "s1", f"--set-url={URL}")
    refused = fleet.run("enable-channel", "-u", "ch", is_checked=False)
    assert refused.returncode == 1
    assert "Error: Channel ch: Relay daemon not compatible (session s1)" in refused.stderr


def test_a_live_session_brings_its_relay_daemon(fleet: Fleet) -> None:
    created = fleet.run("create", "s1", "--live")
    assert "Spawning a relayd daemon" in created.stdout
    assert "Live timer interval set to 1000000 us" in created.stdout
    assert "Spawning" not in fleet.run("create", "s2", "--live=50ms").stdout
    fleet.run("enable-event", "-u", "-s", "s2", RULE)
    fleet.run("start", "s2")
    program = fleet.program()
    program.emit(10)
    url = fleet.run("view", "s2", "--viewer=echo").stdout.strip()
    assert url == f"net://localhost/host/{HOST_NAME}/s2"
    program.emit(10)
    fleet.run("destroy", "-a")
    kept = fleet.world.home_of(0) / "lttng-traces" / HOST_NAME
    assert fleet.read(kept).numbers() == list(range(20))


def test_a_killed_session_daemon_leaves_a_whole_trace(fleet: Fleet, relay: Relay) -> None:
    create_streamed(fleet)
    program = fleet.program()
    program.emit(1000)
    assert fleet.daemon is not None
    fleet.daemon.kill()
    for pid in fleet.consumer_pids():
        os.kill(pid, signal.SIGTERM)  # else it would wait for a session daemon to come back
    wait_until(lambda: not fleet.consumer_pids(), "the consumer daemon to send everything and end")
    assert fleet.read(relay.session_directory()).numbers() == list(range(1000))
    verify(fleet, relay.session_directory())
