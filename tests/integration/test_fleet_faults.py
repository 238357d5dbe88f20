"""What a bad network, a relay daemon that dies, and full disks do to sessions of our own protocol: nothing in silence.

Programs and their session on one side of a link, the relay daemon on the other. Every test ends with the books: each
record that was emitted is in the trace, once and in order, or was counted as discarded.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from deadlines import wait_until
from fleet import OURS, Fleet
from networks import FAR_ADDRESS, Link, has_tun
from programs import Program
from relays import HOST_NAME, RawViewer, Relay
from traces import warnings_of_babeltrace2
from world import is_stopped

pytestmark = [
    pytest.mark.fault,
    pytest.mark.root,
    pytest.mark.skipif(not has_tun(), reason="no /dev/net/tun: no network to disturb"),
]

CHANNEL = "ch"
RULE = "tf_emit:*"
CPU_COUNT = min(2, os.cpu_count() or 1)
BATCH_COUNT = 10
PAYLOAD_SIZE_BYTES = 400
# Little: a burst of records finds no room in it. Much: what is emitted while a daemon starts does. Between these: half
# of it holds what is emitted while a thread waits for a processor.
SMALL = ("--subbuf-size=16384", "--num-subbuf=16", "--switch-timer=100000")
SMALL_SIZE_BYTES = 16 * 16384
MIDDLE = ("--subbuf-size=16384", "--num-subbuf=32", "--switch-timer=100000")
MIDDLE_SIZE_BYTES = 32 * 16384
LARGE = ("--subbuf-size=4096", "--num-subbuf=1024", "--switch-timer=100000")
BURST_COUNT = 3 * SMALL_SIZE_BYTES // 2 // PAYLOAD_SIZE_BYTES  # half as much again as it holds
ROTATION_FAILED = 141


class Scene:
    """A program on each of two CPUs, their session, the link, and the relay daemon behind it."""

    def __init__(self, near: Fleet, far: Fleet, link: Link, relay_options: tuple[str, ...] = ()) -> None:
        self.near = near
        self.far = far
        self.link = link
        self._relay_options = relay_options
        self.relay = Relay(far, *relay_options)
        near.start_daemon()
        self.programs: list[Program] = []
        self.emitted_counts = [0] * CPU_COUNT  # of each program, by its CPU

    def record(self, *channel: str, options: tuple[str, ...] = ()) -> None:
        self.near.run("create", "s1", f"--set-url=fleet://{FAR_ADDRESS}", *options)
        self.near.run("enable-channel", "-u", *channel, CHANNEL)
        self.near.run("enable-event", "-u", RULE, "-c", CHANNEL)
        self.near.run("start", "s1")
        for cpu in range(CPU_COUNT):
            program = self.near.program()
            program.ask(f"cpu {cpu}")
            self.programs.append(program)

    # ---- what happens ----

    def emit(self, count: int = BATCH_COUNT) -> bool:
        for cpu, program in enumerate(self.programs):
            self.emitted_counts[cpu] += program.ask(f"bulky {count} {PAYLOAD_SIZE_BYTES}")
        return True

    def emit_until(self, condition: Callable[[], object], what: str) -> None:
        wait_until(lambda: self.emit() and condition(), what)

    def emit_until_more_arrives(self, size_bytes: int = 1) -> None:
        before = self.arrived_bytes()
        self.emit_until(lambda: self.arrived_bytes() >= before + size_bytes, "more packets at the relay daemon")

    def kill_relay(self) -> None:
        self.relay.process.kill()
        self.relay.process.wait()

    def restart_relay(self) -> None:
        self.relay = Relay(self.far, *self._relay_options)

    def finish(self) -> int:
        """Stop and destroy the session. Returns how many records were discarded."""
        stopped = self.near.stop()
        assert "Warning" not in stopped.stderr.replace("events were discarded", ""), stopped
        discarded, lost = self.near.books("s1", CHANNEL)
        assert lost == 0
        self.near.destroy()
        return discarded

    # ---- what is there ----

    @property
    def directory(self) -> Path:
        """The session's, at the relay daemon."""
        found = list(self.far.world.path(self.relay.output / HOST_NAME).glob("s1-*"))
        assert len(found) == 1, found
        return found[0]

    def arrived_bytes(self) -> int:
        """Size of the data files at the relay daemon."""
        output = self.far.world.path(self.relay.output)
        return sum(path.stat().st_size for path in output.rglob(f"{CHANNEL}_*") if path.suffix == "")

    def streaming(self) -> dict[str, Any]:
        """How the session daemon says that it goes."""
        streaming = self.near.json("list", "s1")["streaming"]
        assert isinstance(streaming, dict)
        return streaming

    def trouble_of_relay(self) -> str | None:
        """Why packets of the session wait at the relay daemon; None: they do not."""
        trouble = self.far.json("list-relay", "s1")["session"]["trouble"]
        assert trouble is None or isinstance(trouble, str)
        return trouble

    def numbers(self) -> list[list[int]]:
        """Of the records in the trace, by program, in reading order."""
        reading = self.far.read(self.relay_side())
        found: list[list[int]] = [[] for _ in self.programs]
        for event in reading.named("tf_emit:bulky"):
            found[event.cpu].append(event["number"])
        return found

    def check(self, discarded_count: int = 0, other_count: int = 0) -> None:
        """Everything that was emitted is there, but for so many records that were discarded.

        `other_count`: of records of other programs.
        """
        numbers = self.numbers()
        for of_program in numbers:
            assert all(left < right for left, right in itertools.pairwise(of_program))
        emitted_count = sum(self.emitted_counts)
        assert sum(map(len, numbers)) == emitted_count - discarded_count
        self.verify(f"--emitted={emitted_count + other_count}")

    def verify(self, *options: str) -> None:
        verified = self.far.world.run([OURS.command, "verify", self.relay_side(), *options])
        assert verified.returncode == 0, verified

    def relay_side(self) -> Path:
        """The session's directory as processes of the relay daemon's world see it."""
        return self.relay.output / HOST_NAME / self.directory.name

    # ---- the spool ----

    def spool_files(self) -> list[Path]:
        return list(self.near.world.spool_directory().glob("*/frames"))

    def spooled_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.spool_files())

    def emit_into_spool(self, size_bytes: int) -> None:
        """At a rate for which the ring buffers are large enough, whenever packets go from there to the spool."""
        self.emit_until(lambda: self.spooled_bytes() >= size_bytes, "packets in the spool")

    def is_concluded(self) -> bool:
        """Whether the relay daemon knows that the session is over, and no spool is left."""
        if list(self.near.world.spool_directory().glob("*")):
            return False
        with RawViewer(self.far.world).begin() as viewer:
            return "s1" not in viewer.sessions()

    def wait_concluded(self) -> None:
        wait_until(self.is_concluded, "the rest of the session at the relay daemon")


@pytest.fixture
def make_scene(make_fleet: Callable[..., Fleet], make_link: Callable[..., Link]) -> Callable[..., Scene]:
    def make(*relay_options: str, output_size: str | None = None) -> Scene:
        near, far = make_fleet(OURS), make_fleet(OURS)
        if output_size is not None:
            far.world.mount_tmpfs(output_size, "relay-output")
        return Scene(near, far, make_link(near.world, far.world), relay_options)

    return make


@pytest.fixture
def scene(make_scene: Callable[..., Scene]) -> Iterator[Scene]:
    made = make_scene()
    yield made
    made.link.mend()


# ---- the network ----


@pytest.mark.parametrize(
    ("delay_ms", "loss", "rate_bytes_per_s"),
    [(50, 0, 500_000), (0, 0.05, None), (20, 0.02, 300_000)],
    ids=["slow", "lossy", "slow and lossy"],
)
def test_a_bad_link(scene: Scene, delay_ms: float, loss: float, rate_bytes_per_s: float | None) -> None:
    scene.record(*SMALL)
    scene.link.shape(delay_ms=delay_ms, loss=loss, rate_bytes_per_s=rate_bytes_per_s)
    scene.emit_until_more_arrives(500_000)
    if rate_bytes_per_s is not None:
        scene.emit(BURST_COUNT)
    scene.emit_until_more_arrives(50_000)
    discarded = scene.finish()
    assert discarded > 0 or rate_bytes_per_s is None
    scene.check(discarded)


def test_overwritten_packets_are_counted(scene: Scene) -> None:
    scene.record("--overwrite", *SMALL)
    scene.emit_until_more_arrives()
    scene.link.cut()
    scene.emit(2 * BURST_COUNT)
    scene.link.mend()
    scene.emit_until_more_arrives(SMALL_SIZE_BYTES)
    scene.kill_relay()
    scene.emit(2 * BURST_COUNT)
    scene.restart_relay()
    scene.emit_until_more_arrives(SMALL_SIZE_BYTES)
    scene.near.stop()
    discarded, lost = scene.near.books("s1", CHANNEL)
    assert discarded == 0
    assert lost > 0
    scene.near.destroy()
    for numbers, emitted_count in zip(scene.numbers(), scene.emitted_counts, strict=True):
        assert all(left < right for left, right in itertools.pairwise(numbers))
        assert numbers[-1] == emitted_count - 1
    scene.verify(f"--lost-packets={lost}")


@pytest.mark.parametrize("is_noticed", [False, True], ids=["for a moment", "until it is noticed"])
def test_a_cable_is_pulled(scene: Scene, is_noticed: bool) -> None:
    scene.record(*SMALL)
    scene.emit_until_more_arrives()
    scene.link.cut()
    scene.emit(BURST_COUNT)
    if is_noticed:
        scene.emit_until(lambda: not scene.streaming()["is_connected"], "the loss of the connection to be noticed")
    scene.link.mend()
    # Behind everything that was under way when the link broke.
    scene.emit_until_more_arrives(4 * SMALL_SIZE_BYTES)
    state = scene.streaming()
    assert state["is_connected"]
    assert (state["reconnect_count"] > 0) >= is_noticed
    discarded = scene.finish()
    assert discarded > 0
    scene.check(discarded)


def test_a_cable_that_carries_one_way_only(scene: Scene) -> None:
    """The relay daemon acknowledges, and nothing new arrives; then acknowledgements for what was there before."""
    scene.record(*SMALL)
    scene.emit_until_more_arrives()
    for _ in range(3):
        scene.link.cut(is_both_ways=False)
        scene.emit(BURST_COUNT)
        scene.link.mend()
        scene.emit_until_more_arrives()
    scene.check(scene.finish())


# ---- the relay daemon ----


@pytest.mark.parametrize(
    ("durability", "channel"),
    [("written", LARGE), ("synced", LARGE), ("written", ("--tracefile-size=65536", *LARGE))],
    ids=["written", "synced", "many trace files"],
)
def test_a_relay_daemon_is_killed_again_and_again(scene: Scene, durability: str, channel: tuple[str, ...]) -> None:
    scene.record(*channel, options=(f"--durability={durability}",))
    for _ in range(4):
        scene.emit_until_more_arrives(20_000)
        scene.kill_relay()
        scene.emit(1000)
        scene.restart_relay()
    scene.emit_until_more_arrives(20_000)
    assert scene.streaming()["reconnect_count"] >= 4
    assert scene.finish() == 0
    scene.check()


def test_a_relay_daemon_is_killed_while_it_takes_all_it_can(scene: Scene) -> None:
    scene.record(*SMALL)
    for _ in range(4):
        scene.emit_until_more_arrives()
        scene.emit(BURST_COUNT)
        scene.kill_relay()
        scene.emit(BURST_COUNT)
        scene.restart_relay()
    scene.emit_until_more_arrives()
    discarded = scene.finish()
    assert discarded > 0
    scene.check(discarded)


def test_programs_come_and_go_while_the_relay_daemon_is_away(scene: Scene) -> None:
    scene.record("--buffers-pid", *LARGE)
    emitted_counts = {}
    for _ in range(2):
        scene.emit_until_more_arrives()
        before = scene.near.program()
        before.emit(100)
        scene.kill_relay()
        meanwhile = scene.near.program()
        for program, count in ((before, 200), (meanwhile, 50)):
            emitted_counts[program.pid] = count
            program.emit(100 if program is before else 50)
            assert program.end() == 0
        scene.restart_relay()
    scene.emit_until_more_arrives()
    assert scene.finish() == 0
    reading = scene.far.read(scene.relay_side())
    for pid, count in emitted_counts.items():
        assert reading.numbers(pid=pid) == list(range(count))
    scene.check(other_count=sum(emitted_counts.values()))


def test_a_relay_daemon_is_stopped(scene: Scene) -> None:
    scene.record(*SMALL)
    scene.emit_until_more_arrives()
    os.kill(scene.relay.pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(scene.relay.pid), "the relay daemon to stand still")
    for _ in range(10):  # more than the sockets and the ring buffers hold
        scene.emit(BURST_COUNT)
    os.kill(scene.relay.pid, signal.SIGCONT)
    scene.emit_until_more_arrives(4 * SMALL_SIZE_BYTES)
    discarded = scene.finish()
    assert discarded > 0
    scene.check(discarded)


@pytest.mark.parametrize("is_killed", [False, True], ids=["and it goes on", "and it is killed"])
def test_the_disk_of_the_relay_daemon_is_full(make_scene: Callable[..., Scene], is_killed: bool) -> None:
    scene = make_scene(output_size="16m")
    scene.record(*SMALL)
    scene.emit_until_more_arrives()
    filler = scene.far.world.path(scene.relay.output) / "filler"
    room = os.statvfs(filler.parent)
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, room.f_bavail * room.f_bsize - SMALL_SIZE_BYTES)
    scene.emit_until(lambda: scene.trouble_of_relay() is not None, "the relay daemon to say that there is no room")
    scene.emit(BURST_COUNT)
    state = scene.streaming()
    assert state["acknowledged_packet_count"] < state["sent_packet_count"]
    if is_killed:
        scene.kill_relay()
        scene.restart_relay()
        scene.emit_until(
            lambda: scene.streaming()["reconnect_count"] > 0, "the session to be at the relay daemon again"
        )
    filler.unlink()
    scene.emit_until_more_arrives(4 * SMALL_SIZE_BYTES)
    assert scene.trouble_of_relay() is None
    discarded = scene.finish()
    assert discarded > 0
    scene.check(discarded)


# ---- the spool ----


@pytest.mark.parametrize("fault", ["cable", "killed"])
def test_what_finds_no_link_goes_to_the_spool(scene: Scene, fault: str) -> None:
    scene.record(*MIDDLE, options=("--spool=64M",))
    scene.emit_until_more_arrives()
    if fault == "cable":
        scene.link.cut()
    else:
        scene.kill_relay()
    scene.emit_into_spool(3 * CPU_COUNT * MIDDLE_SIZE_BYTES)
    assert scene.streaming()["spooled_bytes"] > 0
    if fault == "cable":
        scene.link.mend()
    else:
        scene.restart_relay()
    # Slowly, and twice, while more comes.
    scene.link.shape(delay_ms=5, rate_bytes_per_s=1_000_000)
    scene.emit_until_more_arrives()
    scene.kill_relay()
    scene.restart_relay()
    scene.emit_until(lambda: scene.streaming()["spooled_bytes"] == 0, "the spool to be empty")
    assert scene.spooled_bytes() == 0
    scene.link.shape()
    scene.emit_until_more_arrives()
    assert scene.finish() == 0
    scene.check()
    scene.wait_concluded()


def test_a_full_spool(scene: Scene) -> None:
    scene.record(*SMALL, options=("--spool=1M",))
    scene.emit_until_more_arrives()
    scene.link.cut()
    scene.emit_into_spool(SMALL_SIZE_BYTES)
    for _ in range(20):
        scene.emit(BURST_COUNT)
    assert all(path.stat().st_blocks * 512 <= 1 << 20 for path in scene.spool_files())
    scene.link.mend()
    scene.emit_until(lambda: scene.streaming()["spooled_bytes"] == 0, "the spool to be empty")
    scene.emit_until_more_arrives()
    discarded = scene.finish()
    assert discarded > 0
    scene.check(discarded)
    scene.wait_concluded()


def test_a_session_is_destroyed_while_the_link_is_down(scene: Scene) -> None:
    scene.record(*MIDDLE, options=("--spool=64M",))
    scene.emit_until_more_arrives()
    scene.link.cut()
    scene.emit_into_spool(2 * CPU_COUNT * MIDDLE_SIZE_BYTES)
    discarded = scene.finish()
    assert discarded == 0
    assert "s1" not in scene.near.run("list").stdout
    assert not scene.is_concluded()
    scene.link.mend()
    scene.wait_concluded()
    scene.check()


def test_without_a_spool_a_destroyed_session_says_what_is_lost(scene: Scene) -> None:
    scene.record(*LARGE)
    scene.emit_until_more_arrives()
    scene.kill_relay()
    scene.emit(1000)
    scene.near.run("stop", "s1", is_checked=False)
    destroyed = scene.near.run("destroy", "s1", is_checked=False)
    assert destroyed.returncode == ROTATION_FAILED, destroyed
    assert "s1" not in scene.near.run("list").stdout
    scene.restart_relay()  # a part of a packet was left: it makes a whole trace of what had arrived
    wait_until(lambda: not warnings_of_babeltrace2(scene.directory), "a trace that can be read")
    for numbers in scene.numbers():
        assert numbers == list(range(len(numbers)))


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
def test_another_consumer_daemon_sends_what_is_in_the_spool(scene: Scene, signal_number: int) -> None:
    scene.record(*MIDDLE, options=("--spool=64M",))
    scene.emit_until_more_arrives()
    scene.link.cut()
    scene.emit_into_spool(2 * CPU_COUNT * MIDDLE_SIZE_BYTES)
    scene.near.stop()  # all of it is safe
    (pid,) = scene.near.consumer_pids()
    os.kill(pid, signal_number)
    wait_until(lambda: pid not in scene.near.consumer_pids(), "the consumer daemon to end")
    scene.near.run("destroy", "s1", is_checked=False)
    scene.link.mend()
    # The session daemon starts another one when it needs it.
    scene.near.record(RULE, session="here")
    scene.wait_concluded()
    scene.check()
