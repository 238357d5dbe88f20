"""Our session and consumer daemons stream to our relay daemon in our own protocol: packets are acknowledged."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from deadlines import wait_until
from fleet import OURS, Fleet
from relays import HOST_NAME, LIVE_PORT, LiveViewer, Relay
from traces import packets_of
from world import is_stopped

RULE = "tf_emit:*"
URL = "fleet://localhost"
FLEET_PORT = 5340
ROTATION_FAILED, NOT_CONNECTED = 141, 104
CPU_COUNT = os.cpu_count() or 1
PERIOD_US = 200_000
BULK_SIZE_BYTES = 8000


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    made = make_fleet()
    made.start_daemon()
    return made


@pytest.fixture
def relay(fleet: Fleet) -> Relay:
    return start_relay(fleet)


def start_relay(fleet: Fleet, *options: str) -> Relay:
    relay = Relay(fleet, *options)
    wait_until(
        lambda: fleet.run("health", "relayd", is_checked=False).returncode == 0,
        "the relay daemon to take fleet sessions",
    )
    return relay


def kill(relay: Relay) -> None:
    relay.process.kill()
    relay.process.wait()


def create(fleet: Fleet, session: str = "s1", *options: str, channel: tuple[str, ...] = ()) -> None:
    """A session that streams to the relay daemon of this world, started."""
    fleet.run("create", session, f"--set-url={URL}", *options)
    if channel:
        fleet.run("enable-channel", "-u", "-s", session, *channel)
    into = ("-c", channel[-1]) if channel else ()
    fleet.run("enable-event", "-u", "-s", session, RULE, *into)
    fleet.run("start", session)


def directory_of(relay: Relay, session: str = "s1") -> Path:
    """The only directory of a session below the relay daemon's output."""
    found = list((relay.output / HOST_NAME).glob(f"{session}-*"))
    assert len(found) == 1, found
    return found[0]


def streams_of(relay: Relay, session: str = "s1", channel: str = "channel0") -> list[Path]:
    """The data files of a channel, one per CPU."""
    found = [path for path in directory_of(relay, session).rglob(f"{channel}_*") if path.suffix == ""]
    assert found
    return found


def verify(fleet: Fleet, directory: Path, *options: str) -> None:
    result = fleet.world.run([OURS.command, "verify", directory, *options])
    assert result.returncode == 0, result


def spools(fleet: Fleet) -> list[Path]:
    """Sessions that are in the spool."""
    directory = fleet.world.spool_directory()
    return list(directory.iterdir()) if directory.exists() else []


# ---- what is kept ----


@pytest.mark.parametrize("options", [(), ("--durability=synced",), ("--spool=16M",)])
def test_trace_holds_what_was_emitted(fleet: Fleet, relay: Relay, options: tuple[str, ...]) -> None:
    program = fleet.program()
    create(fleet, "s1", *options)
    program.emit(10_000)
    stopped = fleet.stop()
    assert "Warning" not in stopped.stderr, stopped
    assert fleet.read(directory_of(relay)).numbers() == list(range(10_000))
    fleet.run("start", "s1")
    program.emit(10)
    fleet.destroy()
    assert fleet.read(directory_of(relay)).numbers() == list(range(10_010))
    verify(fleet, directory_of(relay))
    assert not spools(fleet)


@pytest.mark.parametrize("mode", ["--discard", "--overwrite"])
@pytest.mark.parametrize("buffers", ["--buffers-uid", "--buffers-pid"])
def test_several_programs_and_channels(fleet: Fleet, relay: Relay, buffers: str, mode: str) -> None:
    first = fleet.program()
    fleet.run("create", "s1", f"--set-url={URL}/sub/dir")
    fleet.run("enable-channel", "-u", buffers, mode, "--subbuf-size=4096", "--num-subbuf=64", "small")
    fleet.run("enable-channel", "-u", buffers, mode, "big")
    for channel in ("small", "big"):
        fleet.run("enable-event", "-u", RULE, "-c", channel)
    fleet.run("start")
    second = fleet.program()
    pids = (first.pid, second.pid)
    for program in (first, second):
        program.emit(500)
    assert second.end() == 0
    first.emit(500)
    fleet.stop()
    fleet.destroy()
    directory = relay.output / HOST_NAME / "sub" / "dir"
    reading = fleet.read(directory)
    for pid, count in zip(pids, (1000, 500), strict=True):
        for channel in ("small", "big"):
            numbers = [event["number"] for event in reading.events if event.channel == channel and event["pid"] == pid]
            assert sorted(numbers) == list(range(count))
    verify(fleet, directory)


def test_files_are_those_that_a_local_session_writes(fleet: Fleet, relay: Relay) -> None:
    local = fleet.record(RULE, session="here", is_started=False)
    create(fleet, "there")
    fleet.run("start", "here")
    program = fleet.program()
    for cpu in range(CPU_COUNT):
        program.ask(f"cpu {cpu}")
        program.emit(100)
    fleet.run("destroy", "-a")
    remote = directory_of(relay, "there")
    kept = {path.relative_to(remote) for path in remote.rglob("*") if path.is_file()}
    assert kept == {path.relative_to(local) for path in local.rglob("*") if path.is_file()}
    for path in kept:
        if path.parent.name != "index" and path.name != "metadata":
            here, there = packets_of(local / path), packets_of(remote / path)
            assert [packet.sequence_number for packet in here] == [packet.sequence_number for packet in there]
    assert fleet.read(remote).numbers() == fleet.read(local).numbers()


@pytest.mark.parametrize("count", [0, 2])
def test_trace_files_are_limited(fleet: Fleet, relay: Relay, count: int) -> None:
    program = fleet.program()
    limits = ("--tracefile-size=8192", f"--tracefile-count={count}")
    create(fleet, channel=("--subbuf-size=4096", "--num-subbuf=64", *limits, "ch"))
    program.ask("cpu 0")
    program.emit(2000)
    fleet.destroy()
    numbers = fleet.read(directory_of(relay)).numbers()
    files = [path for path in streams_of(relay, channel="ch") if path.name.startswith("ch_0_")]
    assert all(path.stat().st_size <= 8192 for path in files)
    assert numbers[-1] == 1999
    if count:
        assert len(files) == count
        assert len(numbers) < 2000
    else:
        assert len(files) > 2
        assert numbers == list(range(2000))


def test_sessions_do_not_meet(fleet: Fleet, relay: Relay) -> None:
    program = fleet.program()
    create(fleet, "s1")
    create(fleet, "s2", "--durability=synced")
    program.emit(100)
    fleet.stop("s1")
    program.emit(100)
    fleet.destroy("s2")
    fleet.destroy("s1")
    for session, count in (("s1", 100), ("s2", 200)):
        assert fleet.read(directory_of(relay, session)).numbers() == list(range(count))
        verify(fleet, directory_of(relay, session))


@pytest.mark.parametrize("mode", ["--discard", "--overwrite"])
def test_under_load_nothing_is_lost_in_silence(fleet: Fleet, relay: Relay, mode: str) -> None:
    create(fleet, channel=(mode, "--subbuf-size=16384", "--num-subbuf=4", "ch"))
    emitted = fleet.program().ask("threads 4 100000")
    fleet.stop()
    discarded, lost = fleet.books("s1", "ch")
    fleet.destroy()
    if mode == "--discard":
        verify(fleet, directory_of(relay), f"--emitted={emitted}")
        assert len(fleet.read(directory_of(relay)).events) == emitted - discarded
    else:
        verify(fleet, directory_of(relay), f"--lost-packets={lost}")


# ---- live ----


def test_events_are_seen_while_they_come(fleet: Fleet, relay: Relay) -> None:
    created = fleet.run("create", "s1", f"--live={PERIOD_US}", f"--set-url={URL}")
    assert f"Live timer interval set to {PERIOD_US} us" in created.stdout
    assert f"Traces will be output to fleet://127.0.0.1:{FLEET_PORT}/" in created.stdout
    fleet.run("enable-event", "-u", RULE)
    viewer = LiveViewer(fleet.world, "s1", is_patient=True)
    program = fleet.program()
    fleet.run("start", "s1")
    assert fleet.run("view", "s1", "--viewer=echo").stdout.strip() == f"net://localhost/host/{HOST_NAME}/s1"
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
    assert fleet.read(directory_of(relay)).numbers() == list(range(10 * CPU_COUNT + 6))


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
    fleet.run("create", "s1", f"--set-url={URL}", "--spool=1M")
    refused = fleet.run("enable-event", "-u", RULE, is_checked=False)
    assert refused.returncode == NOT_CONNECTED
    assert "Unable to connect to lttng-relayd (channel channel0, session s1)" in refused.stderr
    assert not spools(fleet)
    relay = start_relay(fleet)
    fleet.run("enable-event", "-u", RULE)
    fleet.run("start", "s1")
    fleet.program().emit(3)
    fleet.destroy()
    assert fleet.read(directory_of(relay)).numbers() == [0, 1, 2]
    assert not spools(fleet)


def test_something_else_at_that_port(fleet: Fleet, relay: Relay) -> None:
    """Viewers are served there; it is of another protocol, and does not even say so."""
    fleet.run("create", "s1", f"--set-url=fleet://localhost:{LIVE_PORT}")
    refused = fleet.run("enable-event", "-u", RULE, is_checked=False)
    assert refused.returncode == NOT_CONNECTED, refused


def test_a_directory_that_another_session_fills(fleet: Fleet, relay: Relay) -> None:
    program = fleet.program()
    for session in ("s1", "s2"):
        fleet.run("create", session, f"--set-url={URL}/same")
        fleet.run("enable-event", "-u", RULE)
    fleet.run("start", "s1")
    refused = fleet.run("start", "s2")
    assert "There is a stream metadata in ust/uid/0/64-bit" in refused.stderr, refused
    program.emit(100)
    fleet.destroy("s2")
    fleet.destroy("s1")
    assert fleet.read(relay.output / HOST_NAME / "same").numbers() == list(range(100))


def test_an_ordinary_user(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(is_root=False)
    fleet.start_daemon()
    output = fleet.world.home / "kept"
    relay = start_relay(fleet, f"--output={output}")
    relay.output = output
    program = fleet.program()
    create(fleet, "s1", "--spool=1M")
    program.emit(100)
    fleet.destroy()
    assert fleet.read(directory_of(relay)).numbers() == list(range(100))
    verify(fleet, directory_of(relay), "--emitted=100")


def test_over_ipv6(fleet: Fleet) -> None:
    relay = start_relay(fleet, "--fleet-port=tcp6://[::1]:5340", "--fleet-data-port=tcp6://[::1]:5341")
    program = fleet.program()
    created = fleet.run("create", "s1", "--set-url=fleet6://[::1]")
    assert "Traces will be output to fleet://[::1]:5340/" in created.stdout
    fleet.run("enable-event", "-u", RULE)
    fleet.run("start")
    program.emit(100)
    fleet.destroy()
    assert fleet.read(directory_of(relay)).numbers() == list(range(100))


@pytest.mark.parametrize("count", [1, 3])
def test_a_relay_daemon_that_is_killed_and_started_again(fleet: Fleet, relay: Relay, count: int) -> None:
    program = fleet.program()
    create(fleet, channel=("--subbuf-size=65536", "--num-subbuf=16", "ch"))
    program.emit(1000)
    for _ in range(count):
        kill(relay)
        program.emit(1000)
        relay = start_relay(fleet)
        program.emit(1000)
    stopped = fleet.stop()
    assert "Warning" not in stopped.stderr, stopped
    fleet.destroy()
    emitted = 1000 * (1 + 2 * count)
    assert fleet.read(directory_of(relay)).numbers() == list(range(emitted))
    verify(fleet, directory_of(relay), f"--emitted={emitted}")


def test_a_relay_daemon_that_stays_away(fleet: Fleet, relay: Relay) -> None:
    local = fleet.record(RULE, session="here")
    create(fleet)
    program = fleet.program()
    program.emit(1000)
    fleet.stop()
    fleet.run("start", "s1")
    kill(relay)
    program.emit(1000)
    stopped = fleet.stop()
    assert "Warning" in stopped.stderr, stopped
    destroyed = fleet.run("destroy", "s1", is_checked=False)
    assert destroyed.returncode == ROTATION_FAILED
    assert 'Error: Rotation failure on consumer during the destruction of session "s1"' in destroyed.stderr
    assert "s1" not in fleet.run("list").stdout
    fleet.destroy("here")
    assert fleet.read(local).numbers() == list(range(2000))
    again = start_relay(fleet)
    create(fleet, "s2")
    program.emit(5)
    fleet.destroy("s2")
    assert fleet.read(directory_of(again, "s2")).numbers() == list(range(2000, 2005))
    assert fleet.read(directory_of(again, "s1")).numbers() == list(range(1000))


@pytest.mark.parametrize("mode", ["--discard", "--overwrite"])
def test_a_relay_daemon_that_stops_reading_stalls_nobody(fleet: Fleet, relay: Relay, mode: str) -> None:
    """Its packets stay in the buffers, what finds no room is counted, and all goes on when it reads again."""
    local = fleet.record(RULE, session="here")
    create(fleet, channel=(mode, "--subbuf-size=65536", "--num-subbuf=4", "ch"))
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
    os.kill(relay.pid, signal.SIGCONT)
    fleet.stop()
    fleet.run("start", "s1")
    emitted += program.emit(10)
    fleet.stop()
    discarded, lost = fleet.books("s1", "ch")
    assert discarded + lost > 0
    directory = directory_of(relay)
    assert fleet.read(directory).numbers()[-10:] == list(range(2010, 2020))
    fleet.destroy()
    verify(fleet, directory, f"--lost-packets={lost}", *([f"--emitted={emitted}"] if mode == "--discard" else []))


def test_a_consumer_daemon_that_is_told_to_end_sends_what_it_has(fleet: Fleet, relay: Relay) -> None:
    create(fleet)
    program = fleet.program()
    program.emit(1000)
    assert fleet.daemon is not None
    assert fleet.daemon.stop() == 0
    assert fleet.read(directory_of(relay)).numbers() == list(range(1000))


# ---- the spool ----

SMALL_BUFFERS = ("--subbuf-size=65536", "--num-subbuf=2", "ch")


def test_what_waits_in_the_spool_is_sent_when_the_relay_daemon_is_back(fleet: Fleet, relay: Relay) -> None:
    """Much more than the ring buffers hold; the session is destroyed meanwhile."""
    program = fleet.program()
    create(fleet, "s1", "--spool=64M", channel=SMALL_BUFFERS)
    program.emit(1000)
    kill(relay)
    emitted = 1000
    for _ in range(10):
        emitted += program.ask(f"bulky 20 {BULK_SIZE_BYTES}")
        fleet.run("list", "s1")
    stopped = fleet.stop()
    assert "Warning" not in stopped.stderr, stopped
    discarded, _ = fleet.books("s1", "ch")
    fleet.destroy()
    assert len(spools(fleet)) == 1
    relay = start_relay(fleet)
    wait_until(lambda: not spools(fleet), "the spool to be empty")
    verify(fleet, directory_of(relay), f"--emitted={emitted}", "--lost-packets=0")
    reading = fleet.read(directory_of(relay))
    assert reading.numbers()[:1000] == list(range(1000))
    assert len(reading.events) == emitted - discarded


def test_the_next_consumer_daemon_sends_what_one_left_in_the_spool(fleet: Fleet, relay: Relay) -> None:
    program = fleet.program()
    create(fleet, "s1", "--spool=64M", channel=SMALL_BUFFERS)
    program.emit(1000)
    kill(relay)
    program.emit(1000)
    stopped = fleet.stop()
    assert "Warning" not in stopped.stderr, stopped
    for pid in fleet.consumer_pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not fleet.consumer_pids(), "the consumer daemon to end")
    assert len(spools(fleet)) == 1
    relay = start_relay(fleet)
    fleet.run("destroy", "s1", is_checked=False)
    fleet.run("create", "s2")  # starts a consumer daemon
    wait_until(lambda: not spools(fleet), "the spool to be empty")
    assert fleet.read(directory_of(relay)).numbers() == list(range(2000))
    verify(fleet, directory_of(relay), "--emitted=2000", "--lost-packets=0")


@pytest.mark.parametrize("buffers", ["--buffers-uid", "--buffers-pid"])
def test_daemons_that_are_told_to_end_bring_everything_to_the_spool(fleet: Fleet, relay: Relay, buffers: str) -> None:
    program = fleet.program()
    create(fleet, "s1", "--spool=64M", channel=(buffers, *SMALL_BUFFERS))
    kill(relay)
    emitted = program.emit(1000)
    for _ in range(5):
        emitted += program.ask(f"bulky 20 {BULK_SIZE_BYTES}")
        fleet.run("list", "s1")
    assert fleet.daemon is not None
    assert fleet.daemon.stop() == 0
    assert len(spools(fleet)) == 1
    relay = start_relay(fleet)
    fleet.start_daemon()
    fleet.run("create", "s2")
    wait_until(lambda: not spools(fleet), "the spool to be empty")
    assert fleet.read(directory_of(relay)).numbers()[:1000] == list(range(1000))
    verify(fleet, directory_of(relay), f"--emitted={emitted}", "--lost-packets=0")


def test_a_damaged_spool_is_left_alone(fleet: Fleet, relay: Relay) -> None:
    directory = fleet.world.spool_directory() / ("0" * 32)
    directory.mkdir(parents=True)
    (directory / "session.msgpack").write_bytes(b"\xc1")
    program = fleet.program()
    create(fleet, "s1", "--spool=1M")
    program.emit(10)
    fleet.destroy()
    assert fleet.read(directory_of(relay)).numbers() == list(range(10))
    assert spools(fleet) == [directory]
    assert "A spool is left alone" in fleet.logs()
