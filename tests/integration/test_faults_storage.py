"""Outputs that cannot be written, and disks that get full in the middle."""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from deadlines import wait_until
from fleet import OURS, Fleet
from programs import Program
from traces import read_trace

pytestmark = pytest.mark.fault

RECORD_SIZE_BYTES = 4000
SUB_BUFFER_SIZE_BYTES = 65536


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    made = make_fleet(OURS)
    made.start_daemon()
    return made


def told_of_storage(text: str) -> bool:
    return re.search(r"no space|disk|full|not written|cannot write", text, re.IGNORECASE) is not None


@pytest.mark.parametrize("place", ["forbidden", "a file", "below a file", "read-only", "/proc"])
def test_an_output_that_cannot_be_written_is_refused(make_fleet: Callable[..., Fleet], place: str) -> None:
    fleet = make_fleet(OURS, is_root=False)  # root may write everywhere
    fleet.start_daemon()
    home = fleet.world.home
    file = home / "file"
    file.write_text("not a directory")
    places = {
        "forbidden": Path("/etc/tracefleet-test"),
        "a file": file,
        "below a file": file / "trace",
        "read-only": Path("/sys/kernel/trace-of-mine"),
        "/proc": Path("/proc/trace-of-mine"),
    }
    output = places[place]
    program = fleet.program()
    statuses = []
    for command in (
        ("create", "s1", "--output", output),
        ("enable-event", "-u", "-s", "s1", "tf_emit:*"),
        ("start", "s1"),
    ):
        statuses.append(fleet.run(*command, is_checked=False))
    refused = [result for result in statuses if result.returncode != 0]
    assert refused, "nobody said that nothing can be written"
    assert str(output) in refused[0].stderr or "permission" in refused[0].stderr.lower(), refused[0]
    program.emit(10)
    fleet.run("destroy", "s1", is_checked=False)
    assert file.read_text() == "not a directory"
    good = fleet.record("tf_emit:*", session="good")
    program.emit(5)
    fleet.stop("good")
    assert fleet.read(good).numbers() == list(range(10, 15))


def test_a_start_that_was_refused_can_be_repeated(fleet: Fleet) -> None:
    program = fleet.program()
    in_the_way = fleet.world.home / "place"
    in_the_way.write_text("not a directory")
    fleet.run("create", "s1", "--output", in_the_way / "trace")
    fleet.run("enable-event", "-u", "-s", "s1", "tf_emit:*")
    assert fleet.run("start", "s1", is_checked=False).returncode != 0
    program.emit(10)
    in_the_way.unlink()
    fleet.run("start", "s1")
    program.emit(5)
    fleet.stop("s1")
    assert fleet.read(in_the_way / "trace").numbers() == list(range(10, 15))


def test_a_relative_output_is_refused_or_made_absolute(fleet: Fleet) -> None:
    created = fleet.run("create", "s1", "--output", "some/where", is_checked=False)
    if created.returncode == 0:
        (session,) = fleet.json("list")["sessions"]
        assert Path(session["output_path"]).is_absolute()


class SmallDisk:
    """A recording session whose output lies on a file system with 3 MiB left, and 40 more behind a ballast."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.mount = fleet.world.mount_tmpfs("43m")
        self.ballast = fleet.world.path(self.mount / "ballast")
        self.ballast.write_bytes(bytes(40 << 20))
        self.output = self.mount / "trace"
        self.outside = fleet.world.path(self.output)
        fleet.run("create", "s1", "--output", self.output)
        fleet.run("enable-channel", "-u", "--subbuf-size=64k", "--num-subbuf=4", "c")
        fleet.run("enable-event", "-u", "-c", "c", "tf_emit:*")
        fleet.run("start")
        self.program: Program = fleet.program()
        self.program.ask("cpu 0")
        self.emitted = 0

    def emit(self, count: int) -> None:
        """Emit large records slowly enough for a consumer that can write."""
        for _ in range(count // 10):
            self.emitted += self.program.ask(f"bulky 10 {RECORD_SIZE_BYTES}")

    def fill(self) -> None:
        """Emit until a command tells that the disk is full."""

        def is_told() -> bool:
            self.emit(50)
            return told_of_storage(self.fleet.run("list", "s1").stdout)

        wait_until(is_told, "`list` to tell that the disk is full")

    def make_room(self) -> None:
        self.ballast.unlink()

    def kept_numbers(self) -> list[int]:
        """What is written, while the consumer daemon tries again and again.

        It is read while that stands still, and not when it does between a write that found no room for a whole packet
        and the cut after it: then no reader would take the file.
        """

        def read() -> list[int] | None:
            with self.fleet.paused_consumer():
                files = [path for path in self.outside.rglob("c_*") if path.suffix != ".idx"]
                if any(path.stat().st_size % SUB_BUFFER_SIZE_BYTES for path in files):
                    return None
                return read_trace(self.outside).numbers("tf_emit:bulky")

        return wait_until(read, "whole packets in the files") or []

    def recorded_numbers(self) -> list[int]:
        return self.fleet.read(self.output).numbers("tf_emit:bulky")


def test_recording_goes_on_when_a_full_disk_has_room_again(fleet: Fleet) -> None:
    disk = SmallDisk(fleet)
    disk.fill()
    kept = disk.kept_numbers()
    assert kept == sorted(set(kept))
    assert len(kept) > 100, "what was written stays readable"

    disk.make_room()

    def is_recording_again() -> bool:
        disk.emit(50)
        return not told_of_storage(fleet.run("list", "s1").stdout)

    wait_until(is_recording_again, "`list` to tell that the channel works again")
    disk.emit(200)
    fleet.stop()
    fleet.run("start")
    disk.emit(50)  # fits into empty buffers, however slow the consumer is
    fleet.stop()
    numbers = disk.recorded_numbers()
    assert numbers[: len(kept)] == kept
    assert numbers[-50:] == list(range(disk.emitted - 50, disk.emitted)), "the last records are there"
    assert numbers == sorted(set(numbers))
    discarded, lost = fleet.books("s1", "c")
    assert len(numbers) + discarded == disk.emitted
    assert lost == 0
    assert read_trace(disk.outside).discarded_event_count == discarded
    assert fleet.verify(disk.output).returncode == 0
    fleet.destroy()


def test_a_disk_that_stays_full_ends_the_session_with_its_loss_counted(fleet: Fleet) -> None:
    disk = SmallDisk(fleet)
    disk.fill()
    stopped = fleet.run("stop", "s1", is_checked=False)
    said = stopped.stdout + stopped.stderr
    assert told_of_storage(said), said
    unwritten = re.search(r"(\d+) packets? of channel c could not be written", said)
    assert unwritten, said
    numbers = disk.recorded_numbers()
    assert numbers == sorted(set(numbers))
    assert len(numbers) > 100
    discarded, _ = fleet.books("s1", "c")
    records_per_packet = SUB_BUFFER_SIZE_BYTES // RECORD_SIZE_BYTES
    missing = disk.emitted - len(numbers) - discarded
    assert 0 < missing <= int(unwritten[1]) * records_per_packet
    fleet.run("destroy", "s1", is_checked=False)
    assert "s1" not in fleet.run("list").stdout

    other = fleet.record("tf_emit:*", session="other")
    disk.program.emit(5)
    fleet.stop("other")
    assert len(fleet.read(other).events) == 5


def test_a_full_disk_does_not_hold_up_another_session(fleet: Fleet) -> None:
    other = fleet.record("tf_emit:numbered", session="other")
    disk = SmallDisk(fleet)
    disk.fill()
    first = disk.emitted
    disk.program.emit(1000)
    fleet.stop("other")
    assert fleet.read(other).numbers() == list(range(first, first + 1000))
    fleet.run("stop", "s1", is_checked=False)


def test_a_disk_that_is_full_from_the_start(fleet: Fleet) -> None:
    mount = fleet.world.mount_tmpfs("4k")
    program = fleet.program()
    results = [fleet.run("create", "s1", "--output", mount / "trace", is_checked=False)]
    results.append(fleet.run("enable-event", "-u", "-s", "s1", "tf_emit:*", is_checked=False))
    results.append(fleet.run("start", "s1", is_checked=False))
    program.emit(10)
    results.append(fleet.run("stop", "s1", is_checked=False))
    assert told_of_storage("".join(result.stdout + result.stderr for result in results)), results
    fleet.run("destroy", "s1", is_checked=False)
    good = fleet.record("tf_emit:*", session="good")
    program.emit(5)
    fleet.stop("good")
    assert fleet.read(good).numbers() == list(range(10, 15))


def test_an_output_removed_while_recording_ends_in_an_error_and_no_crash(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*", channel=("--subbuf-size=4k", "c"))
    program = fleet.program()
    program.emit(10)
    fleet.world.run(["rm", "-rf", output], uid=0)
    program.emit(500)
    fleet.run("stop", "s1", is_checked=False)
    fleet.run("destroy", "s1", is_checked=False)
    good = fleet.record("tf_emit:*", session="good")
    program.emit(5)
    fleet.stop("good")
    assert fleet.read(good).numbers() == list(range(510, 515))


# ---- verify tells what is wrong with a trace ----


def trace_directory(output: Path) -> Path:
    (metadata,) = output.rglob("metadata")
    return metadata.parent


@pytest.fixture
def finished(fleet: Fleet) -> tuple[Fleet, Path]:
    output = fleet.record("tf_emit:*", channel=("--subbuf-size=4k", "--num-subbuf=64", "c"))
    program = fleet.program()
    program.ask("cpu 0")
    program.emit(1000)
    fleet.stop()
    fleet.destroy()
    return fleet, output


def test_verify_reports_a_sound_trace(finished: tuple[Fleet, Path]) -> None:
    fleet, output = finished
    verified = fleet.verify(output)
    assert verified.returncode == 0, verified
    assert re.search(r"\b1000\b", verified.stdout), "the number of event records"


@pytest.mark.parametrize(
    "damage", ["truncated data", "packet missing", "index missing entries", "wrong index", "garbage", "no metadata"]
)
def test_verify_finds_damage(finished: tuple[Fleet, Path], damage: str) -> None:
    fleet, output = finished
    directory = trace_directory(output)
    data, index = directory / "c_0", directory / "index" / "c_0.idx"
    content, entries = data.read_bytes(), index.read_bytes()
    match damage:
        case "truncated data":
            data.write_bytes(content[: len(content) // 2 + 100])
        case "packet missing":
            data.write_bytes(content[:4096] + content[8192:])
            index.unlink()
        case "index missing entries":
            index.write_bytes(entries[: 16 + 72])
        case "wrong index":
            index.write_bytes(entries[:24] + struct.pack(">Q", 1) + entries[32:])
        case "garbage":
            data.write_bytes(content[:4096] + bytes(range(256)) * 16 + content[8192:])
        case "no metadata":
            (directory / "metadata").unlink()
    verified = fleet.verify(output)
    assert verified.returncode != 0, verified
    assert "Traceback" not in verified.stderr
    assert (verified.stdout + verified.stderr).strip()


@pytest.mark.parametrize("place", ["missing", "empty", "a file"])
def test_verify_refuses_what_is_no_trace(fleet: Fleet, place: str) -> None:
    path = fleet.world.home / "place"
    if place == "empty":
        path.mkdir()
    elif place == "a file":
        path.write_bytes(b"text")
    verified = fleet.verify(path)
    assert verified.returncode != 0
    assert "Traceback" not in verified.stderr
    assert verified.stderr.strip() or verified.stdout.strip()
