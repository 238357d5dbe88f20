"""The genuine daemons of LTTng 2.13 stream to our relay daemon: what it keeps is what was emitted."""

from __future__ import annotations

import os
import re
import signal
import socket
import struct
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from deadlines import wait_until
from fleet import GENUINE, Fleet, has_genuine
from relays import GENUINE_RELAY, HOST_NAME, OUR_RELAY, Relay, RelayKind, connect_inside, create_streamed

pytestmark = pytest.mark.skipif(not has_genuine(), reason="lttng-tools is not installed: nobody would stream")
CONTROL_PORT, DATA_PORT = 5342, 5343
RULE = "tf_emit:numbered"
ARCHIVE = re.compile(r"\d{8}T\d{6}[+-]\d{4}-\d{8}T\d{6}[+-]\d{4}-\d+")


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    made = make_fleet(GENUINE)
    made.start_daemon()
    return made


@pytest.fixture
def relay(fleet: Fleet) -> Relay:
    return Relay(fleet)


def check(fleet: Fleet, directory: Path, numbers: list[int], pid: int | None = None) -> None:
    """The trace holds these numbers, in this order, and its books balance."""
    assert fleet.read(directory).numbers(pid=pid) == numbers
    result = fleet.verify(directory)
    assert result.returncode == 0, result


# ---- rotation, clear ----


def archives_of(directory: Path) -> list[Path]:
    """Archived trace chunks, the oldest first."""
    found = list((directory / "archives").iterdir())
    assert all(ARCHIVE.fullmatch(path.name) for path in found), found
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]))


def test_rotations_cut_the_trace_into_archives(fleet: Fleet, relay: Relay) -> None:
    program = fleet.program()
    create_streamed(fleet)
    for _ in range(3):
        program.emit(500)
        said = fleet.run("rotate", "s1").stdout
        assert f"{HOST_NAME}/s1-" in said, said
    directory = relay.session_directory()
    assert len(archives_of(directory)) == 3
    program.emit(500)
    fleet.stop()
    fleet.run("rotate", "s1")  # of a stopped session: nothing goes on in a new chunk
    assert sorted(path.name for path in directory.iterdir()) == ["archives"]
    fleet.run("start", "s1")
    program.emit(500)
    fleet.destroy()
    archives = archives_of(directory)
    assert [fleet.read(archive).numbers() for archive in archives] == [
        list(range(start, start + 500)) for start in range(0, 2_500, 500)
    ]
    for archive in archives:
        assert fleet.verify(archive).returncode == 0
    assert sorted(path.name for path in directory.iterdir()) == ["archives"]


def test_rotations_while_the_program_emits(fleet: Fleet, relay: Relay) -> None:
    program = fleet.program()
    create_streamed(fleet, channel=("--subbuf-size=16384", "--num-subbuf=512", "c1"))
    has_rotated = threading.Event()

    def emit() -> int:
        count = 0
        while not has_rotated.wait(0.002):  # a pace that babeltrace2's bindings can follow when they read it
            count += program.emit(20)
        return count

    with ThreadPoolExecutor(1) as threads:
        emitting = threads.submit(emit)
        try:
            for _ in range(3):
                fleet.run("rotate", "s1")
        finally:
            has_rotated.set()
        count = emitting.result()
    fleet.destroy()
    directory = relay.session_directory()
    numbers = [number for archive in archives_of(directory) for number in fleet.read(archive).numbers()]
    assert numbers == list(range(count))


@pytest.mark.parametrize("is_stopped", [False, True])
def test_clear_forgets_what_was_recorded(fleet: Fleet, relay: Relay, is_stopped: bool) -> None:
    program = fleet.program()
    create_streamed(fleet)
    program.emit(1_000)
    if is_stopped:
        fleet.stop()
    fleet.run("clear", "s1")
    if is_stopped:
        directory = relay.session_directory()
        assert not list(directory.rglob("*ch*_0*")), list(directory.rglob("*"))
        fleet.run("start", "s1")
    program.emit(100)
    fleet.destroy()
    directory = relay.session_directory()
    check(fleet, directory, list(range(1_000, 1_100)))
    assert [path.name for path in directory.iterdir()] == ["ust"]


def test_clear_after_a_rotation(fleet: Fleet, relay: Relay) -> None:
    program = fleet.program()
    create_streamed(fleet)
    program.emit(10)
    fleet.run("rotate", "s1")
    program.emit(10)
    fleet.run("clear", "s1")
    program.emit(10)
    fleet.destroy()
    archives = archives_of(relay.session_directory())
    assert [fleet.read(archive).numbers() for archive in archives] == [list(range(10)), list(range(20, 30))]


def test_clear_that_is_not_allowed(fleet: Fleet) -> None:
    Relay(fleet, "--disallow-clear")
    create_streamed(fleet)
    result = fleet.run("clear", "s1", is_checked=False)
    assert result.returncode != 0


def test_metadata_that_is_regenerated(fleet: Fleet, relay: Relay) -> None:
    program = fleet.program()
    create_streamed(fleet)
    program.emit(10)
    fleet.run("metadata", "regenerate", "-s", "s1")
    program.emit(10)
    fleet.destroy()
    check(fleet, relay.session_directory(), list(range(20)))


# ---- snapshots ----


def test_snapshots(fleet: Fleet, relay: Relay) -> None:
    program = fleet.program()
    fleet.run("create", "s1", "--snapshot", "--set-url=net://localhost")
    fleet.run("enable-event", "-u", RULE)
    fleet.run("start")
    program.emit(100)
    fleet.run("snapshot", "record")
    program.emit(50)
    fleet.run("snapshot", "record")
    fleet.destroy()
    directory = relay.session_directory()
    snapshots = sorted(directory.iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    assert [re.sub(r"\d{8}-\d{6}", "TIME", path.name) for path in snapshots] == [
        "snapshot-1-TIME-0",
        "snapshot-1-TIME-1",
    ]
    assert fleet.read(snapshots[0]).numbers() == list(range(100))
    assert fleet.read(snapshots[1]).numbers() == list(range(150))
    assert not list(directory.rglob("*.idx"))


# ---- trace files with limits ----


@pytest.mark.parametrize("count", [None, 1])
def test_trace_files_with_limits(fleet: Fleet, relay: Relay, count: int | None) -> None:
    program = fleet.program()
    limits = ["--tracefile-size=16384"] + ([] if count is None else [f"--tracefile-count={count}"])
    create_streamed(fleet, channel=("--subbuf-size=4096", "--num-subbuf=256", *limits, "c1"))
    program.ask("cpu 0")
    program.emit(10_000)
    fleet.destroy()
    directory = relay.session_directory()
    numbers = fleet.read(directory).numbers()
    assert numbers == list(range(10_000 - len(numbers), 10_000))
    files = sorted(int(path.name.rpartition("_")[2]) for path in directory.rglob("c1_0_*") if path.suffix != ".idx")
    indexes = sorted(int(path.stem.rpartition("_")[2]) for path in directory.rglob("c1_0_*.idx"))
    assert files == indexes == list(range(len(files)))
    if count is None:
        assert len(numbers) == 10_000
        assert len(files) > 3
    else:
        assert 0 < len(numbers) < 10_000
        assert len(files) == count
    assert max(path.stat().st_size for path in directory.rglob("c1_0_*")) <= 16384
    assert fleet.verify(directory).returncode == 0


# ---- names ----


def test_directories_are_those_of_lttng_relayd(make_fleet: Callable[..., Fleet]) -> None:
    trees = [_tree_of_many_sessions(make_fleet(GENUINE), kind) for kind in (OUR_RELAY, GENUINE_RELAY)]
    assert trees[0] == trees[1]


def test_directories_grouped_by_session_are_those_of_lttng_relayd(make_fleet: Callable[..., Fleet]) -> None:
    option = "--group-output-by-session"
    trees = [_tree_of_many_sessions(make_fleet(GENUINE), kind, option) for kind in (OUR_RELAY, GENUINE_RELAY)]
    assert trees[0] == trees[1]


def _tree_of_many_sessions(fleet: Fleet, kind: RelayKind, *options: str) -> list[tuple[str, str]]:
    """Paths without times, and modes."""
    fleet.start_daemon()
    relay = Relay(fleet, *options, kind=kind)
    program = fleet.program()
    program.ask("cpu 0")
    # First: with several sessions, lttng-relayd says of a chunk of another one that it is still there.
    create_streamed(fleet, "rotated")
    program.emit(10)
    fleet.run("rotate", "rotated")
    program.emit(10)
    fleet.destroy("rotated")
    for session, arguments in (
        ("plain", ["--set-url=net://localhost"]),
        ("based", ["--set-url=net://localhost/some/base"]),
        ("limited", ["--set-url=net://localhost"]),
        ("", ["--set-url=net://localhost"]),  # gets a name with its time
    ):
        fleet.run("create", *([session] if session else []), *arguments)
        if session == "limited":
            limits = ("--tracefile-size=16384", "--tracefile-count=2", "--subbuf-size=4096", "--num-subbuf=64")
            fleet.run("enable-channel", "-u", "--buffers-pid", *limits, "c1")
            fleet.run("enable-event", "-u", "-c", "c1", RULE)
        else:
            fleet.run("enable-event", "-u", RULE)
        fleet.run("start")
    program.emit(1_000)
    fleet.run("destroy", "--all")
    found = []
    for path in relay.output.rglob("*"):
        name = re.sub(r"\d{8}([T-])\d{6}", r"DATE\1TIME", str(path.relative_to(relay.output)))
        name = re.sub(r"emit-\d+-", "emit-PID-", name)
        found.append((name, oct(path.stat().st_mode)))
    return sorted(found)


# ---- the peer dies ----


@pytest.mark.parametrize("victim", ["consumer", "session daemon"])
@pytest.mark.fault
def test_peer_that_is_killed(fleet: Fleet, relay: Relay, victim: str) -> None:
    program = fleet.program()
    create_streamed(fleet, channel=("--subbuf-size=4096", "--num-subbuf=64", "c1"))
    program.emit(100)
    fleet.stop()  # unless a session is live, its metadata comes no earlier
    fleet.run("start", "s1")
    program.emit(1_000)
    directory = relay.session_directory()
    wait_until(lambda: sum(path.stat().st_size for path in directory.rglob("c1_*")) > 25_000, "packets")
    with fleet.paused_consumer():
        for pid in fleet.consumer_pids() if victim == "consumer" else [fleet.daemon_pid()]:
            assert pid is not None
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "Session ends" in relay.log.read_text(), "the session to end")
    reading = fleet.read(directory)
    numbers = reading.numbers()
    assert len(numbers) > 100
    assert numbers == list(range(len(numbers)))
    assert fleet.verify(directory).returncode == 0
    assert relay.stop() == 0
    assert "Still open" not in relay.log.read_text()


@pytest.mark.fault
def test_peer_that_is_killed_during_a_rotation_leaves_a_tidy_directory(fleet: Fleet, relay: Relay) -> None:
    program = fleet.program()
    create_streamed(fleet, channel=("--subbuf-size=4096", "--num-subbuf=64", "c1"))
    program.emit(1_000)
    directory = relay.session_directory()
    fleet.run("rotate", "--no-wait", "s1")
    for pid in fleet.consumer_pids():
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: "Session ends" in relay.log.read_text(), "the session to end")
    assert not [path for path in directory.rglob("*") if path.name.startswith(".")]


def test_end_of_the_relay_daemon(fleet: Fleet, relay: Relay) -> None:
    program = fleet.program()
    create_streamed(fleet)
    program.emit(1_000)
    fleet.stop()
    directory = relay.session_directory()
    assert relay.stop() == 0
    assert "Still open" not in relay.log.read_text()
    check(fleet, directory, list(range(1_000)))


# ---- little room ----


def test_few_descriptors_for_many_streams(fleet: Fleet) -> None:
    relay = Relay(fleet, "--fd-pool-size=100")
    fleet.run("create", "s1", "--set-url=net://localhost")
    fleet.run("enable-channel", "-u", "--buffers-pid", "--subbuf-size=4096", "--num-subbuf=32", "c1")
    fleet.run("enable-event", "-u", "-c", "c1", RULE)
    fleet.run("start")
    programs = [fleet.program() for _ in range(40)]  # three files for each of two processors or more
    for _ in range(3):
        for program in programs:
            program.emit(200)
    assert open_file_count(relay) <= 100
    fleet.destroy()
    assert open_file_count(relay) <= 100
    reading = fleet.read(relay.session_directory())
    for program in programs:
        assert reading.numbers(pid=program.pid) == list(range(600))


def open_file_count(relay: Relay) -> int:
    return len(list(Path(f"/proc/{relay.pid}/fd").iterdir()))


@pytest.mark.root
@pytest.mark.fault
def test_full_disk_holds_the_producer_until_there_is_room(fleet: Fleet) -> None:
    small = fleet.world.mount_tmpfs("3m")
    outside = fleet.world.path(small)
    relay = Relay(fleet, f"--output={small}")
    ballast = outside / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    program = fleet.program()
    create_streamed(fleet, channel=("--subbuf-size=16384", "--num-subbuf=256", "c1"))
    program.ask("cpu 0")
    program.emit(60_000)  # about 2 MB
    wait_until(lambda: "No room" in relay.log.read_text(), "the disk to be full")
    ballast.unlink()
    fleet.destroy()
    directory = next((outside / HOST_NAME).glob("s1-*"))
    assert fleet.read(directory).numbers() == list(range(60_000))
    assert fleet.verify(directory).returncode == 0


# ---- others on the ports ----


@pytest.mark.fault
def test_nonsense_on_the_ports_disturbs_nobody(fleet: Fleet, relay: Relay) -> None:
    program = fleet.program()
    create_streamed(fleet)
    silent = [connect_inside(fleet.world, port) for port in (CONTROL_PORT, DATA_PORT) for _ in range(20)]
    half = connect_inside(fleet.world, CONTROL_PORT)
    half.sendall(bytes(10))
    foreign = connect_inside(fleet.world, DATA_PORT)
    foreign.sendall(struct.pack(">QQQII", 0, 12345, 0, 100, 0) + bytes(100))
    large = connect_inside(fleet.world, DATA_PORT)
    large.sendall(struct.pack(">QQQII", 0, 1, 0, 0xFFFFFFFF, 0xFFFFFFFF))
    nonsense = connect_inside(fleet.world, CONTROL_PORT)
    nonsense.sendall(bytes(range(256)) * 16)
    for connection in (foreign, large, nonsense):
        wait_until(lambda connection=connection: _has_ended(connection), "a bad connection to end")  # type: ignore[misc]
    program.emit(1_000)
    fleet.destroy()
    check(fleet, relay.session_directory(), list(range(1_000)))
    for connection in (*silent, half, foreign, large, nonsense):
        connection.close()


def _has_ended(connection: socket.socket) -> bool:
    connection.settimeout(0.01)
    try:
        return connection.recv(4096) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True
