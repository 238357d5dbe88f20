"""Programs that stop, die inside a record, or stay inside one: everybody else goes on, and the books balance."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable

import pytest
from deadlines import DEADLINE_S, wait_until
from fleet import OURS, Fleet
from raw_peer import Pretender
from traces import packets_of
from world import Result, is_alive

pytestmark = pytest.mark.fault

# What bounds a command when a program does not answer is the daemon's time-out for programs: 5 s by default.
NEVER_TIME_OUT = {"LTTNG_APP_SOCKET_TIMEOUT": "-1"}
SMALL_BUFFERS = ("--subbuf-size=4k", "--num-subbuf=4", "c")


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """Our daemon; lttng-tools hangs in these tests."""
    made = make_fleet(OURS)
    made.start_daemon()
    return made


class Background:
    """A command that runs while the test does something else."""

    def __init__(self, fleet: Fleet, *arguments: str) -> None:
        self._result: Result | BaseException | None = None

        def run() -> None:
            try:
                self._result = fleet.run(*arguments, is_checked=False)
            except BaseException as error:
                self._result = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def is_running(self) -> bool:
        return self._thread.is_alive()

    def result(self) -> Result:
        self._thread.join(2 * DEADLINE_S)
        if isinstance(self._result, BaseException):
            raise self._result
        assert self._result is not None, "the command does not end"
        return self._result


COMMANDS = {
    "enable-event": ("enable-event", "-u", "-s", "own", "tf_emit:*"),
    "start": ("start", "own"),
    "stop": ("stop", "own"),
    "destroy": ("destroy", "own"),
    "list -u": ("list", "-u"),
    "list -u -f": ("list", "-u", "-f"),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_stopped_program_holds_up_only_its_own_command(make_fleet: Callable[..., Fleet], command: str) -> None:
    fleet = make_fleet(OURS)
    fleet.start_daemon(env=NEVER_TIME_OUT)
    output = fleet.record("tf_levels:err", session="own", is_started=command != "start")
    stopped, lively = fleet.program(), fleet.program()
    stopped.pause()
    slow = Background(fleet, *COMMANDS[command])

    # Other clients and programs, while that command waits for the program.
    fleet.run("list")
    fleet.run("create", "other", "--output", fleet.world.home / "other")
    late = fleet.program()
    late.emit(1)
    lively.emit(1)
    fleet.run("list", "other")
    assert slow.is_running(), "it ended before the others had their turn, so this proves nothing"

    stopped.resume()
    result = slow.result()
    assert result.returncode == 0, result
    if command in ("enable-event", "start"):
        if command == "start":
            fleet.run("enable-event", "-u", "-s", "own", "tf_emit:*")
        for program in (stopped, lively, late):
            program.emit(10)
        fleet.stop("own")
        reading = fleet.read(output)
        for program, first in ((stopped, 0), (lively, 1), (late, 1)):
            assert reading.numbers(pid=program.pid)[-10:] == list(range(first, first + 10))
    elif command.startswith("list"):
        for program in (stopped, lively):
            assert f"PID: {program.pid}" in result.stdout


@pytest.mark.parametrize("command", ["enable-event", "start"])
def test_a_command_names_the_program_that_does_not_answer(fleet: Fleet, command: str) -> None:
    output = fleet.record("tf_levels:err", session="own", is_started=command != "start")
    stopped, lively = fleet.program(), fleet.program()
    stopped.pause()
    result = fleet.run(*COMMANDS[command], is_checked=False)
    assert result.returncode in (0, 4), result
    assert str(stopped.pid) in result.stdout + result.stderr
    stopped.resume()
    stopped.emit(3)  # whatever the daemon thinks of it, the program itself goes on
    if command == "start":
        fleet.run("enable-event", "-u", "-s", "own", "tf_emit:*")
    lively.emit(10)
    fleet.stop("own")
    assert fleet.read(output).numbers(pid=lively.pid) == list(range(10))


def test_a_session_starts_while_a_program_is_registering(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(OURS)
    fleet.start_daemon(env=NEVER_TIME_OUT)
    output = fleet.record("tf_emit:*", is_started=False)
    with Pretender(fleet.application_socket) as pretender:
        pretender.next_request()  # not answered: its registration is not complete
        start = Background(fleet, "start", "s1")
        wait_until(lambda: fleet.json("list")["sessions"][0]["is_active"], "the session to be active")
        program = fleet.program()
        program.emit(10)
        assert start.is_running(), "it did not wait, so what it did with that program is not known"
    result = start.result()
    assert result.returncode in (0, 4), result
    fleet.stop()
    assert fleet.read(output).numbers(pid=program.pid) == list(range(10))


def test_a_stopped_program_that_goes_on_is_traced_again(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*")
    program = fleet.program()
    program.emit(5)
    program.pause()
    fleet.run("enable-event", "-u", "tf_levels:err", is_checked=False)
    program.resume()
    # A program that was dropped comes back by itself, at the latest after its 5 s of patience.
    fleet.wait_registered(program.pid)
    program.emit(5)
    fleet.stop()
    numbers = fleet.read(output).numbers(pid=program.pid)
    assert numbers[-5:] == list(range(5, 10))
    assert numbers[:5] == list(range(5))


def test_a_program_stopped_for_ever_does_not_hold_up_the_end(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*")
    program = fleet.program()
    program.emit(20)
    program.pause()
    fleet.stop()
    assert fleet.read(output).numbers() == list(range(20)), "its data needs no help from the program"
    fleet.destroy()
    assert fleet.daemon is not None
    assert fleet.daemon.stop() == 0


# ---- killed inside a record ----


class Jam:
    """A buffer (CPU 0 of channel c) in which a program died between reserve and commit."""

    def __init__(self, fleet: Fleet, *channel: str) -> None:
        self.fleet = fleet
        self.output = fleet.record("tf_emit:*", channel=channel or SMALL_BUFFERS)
        self.survivor = fleet.program()
        self.survivor.ask("cpu 0")
        self.survivor.emit(10)
        self.dead = fleet.program()
        self.dead.ask("cpu 0")
        self.dead.emit(7)
        assert self.dead.end("jam") == -signal.SIGSEGV
        fleet.wait_unregistered(self.dead.pid)
        self.emitted = 17  # committed records; the one of the dead program never was

        self.next_number = 10  # of the survivor

    def emit(self, count: int) -> None:
        """The survivor emits `count` more records."""
        self.emitted += self.survivor.emit(count)
        self.next_number += count

    def assert_the_books_balance(self) -> list[int]:
        """Every committed record is recorded or counted; the uncommitted one may be counted as well."""
        reading = self.fleet.read(self.output)
        discarded, lost = self.fleet.books("s1", "c")
        assert lost == 0
        assert len(reading.events) + discarded - self.emitted in (0, 1), (len(reading.events), discarded)
        # A reader counts from one packet to the next, so it cannot know what was lost before the first one.
        firsts = [packets_of(path)[0].events_discarded for path in self.output.rglob("c_?")]
        assert reading.discarded_event_count + sum(firsts) == discarded, "readers see the same loss"
        verified = self.fleet.verify(self.output)
        assert verified.returncode == 0, verified
        return reading.numbers(pid=self.survivor.pid)


def test_stop_ends_and_the_buffer_is_of_use_again(fleet: Fleet) -> None:
    jam = Jam(fleet)
    jam.emit(1000)  # past the hole, until the buffer is full
    fleet.stop()
    numbers = jam.assert_the_books_balance()
    assert len(numbers) < 1010

    fleet.run("start")
    for _ in range(5):
        jam.emit(20)
    fleet.stop()
    assert jam.assert_the_books_balance()[-100:] == list(range(1010, 1110))
    fleet.destroy()


def test_a_jam_is_cleared_while_tracing_goes_on(fleet: Fleet) -> None:
    jam = Jam(fleet)

    def is_cleared() -> bool:
        jam.emit(100)
        (file,) = jam.output.rglob("c_0")
        return file.stat().st_size > 64 * 1024  # many times the buffer

    wait_until(is_cleared, "records behind the hole to be written", deadline_s=2 * DEADLINE_S)
    fleet.stop()
    numbers = jam.assert_the_books_balance()
    assert numbers[-1] == jam.emitted - 7 - 1


def test_destroy_of_an_active_session_ends(fleet: Fleet) -> None:
    jam = Jam(fleet)
    jam.emit(300)
    fleet.destroy()
    assert len(fleet.read(jam.output).events) > 0
    second = fleet.record("tf_emit:*", session="s2")
    jam.survivor.emit(3)
    fleet.stop("s2")
    assert fleet.read(second).numbers() == [310, 311, 312]


def test_shutdown_with_a_jam_ends(fleet: Fleet) -> None:
    jam = Jam(fleet)
    jam.emit(300)
    assert fleet.daemon is not None
    consumers = fleet.consumer_pids()
    assert fleet.daemon.stop() == 0
    wait_until(lambda: not any(map(is_alive, consumers)), "the consumer daemon to end")
    assert len(fleet.read(jam.output).events) > 0


def test_a_jam_in_buffers_of_one_process(fleet: Fleet) -> None:
    jam = Jam(fleet, "--buffers-pid", "--subbuf-size=4k", "--num-subbuf=4", "c")
    jam.emit(50)
    fleet.stop()
    numbers = fleet.read(jam.output).numbers(pid=jam.survivor.pid)
    assert numbers == list(range(60))
    fleet.destroy()


def test_several_programs_jam_several_buffers(fleet: Fleet) -> None:
    jam = Jam(fleet)
    for cpu in (0, 1, 0):
        another = fleet.program()
        another.ask(f"cpu {cpu}")
        jam.emitted += another.emit(3)
        assert another.end("jam") == -signal.SIGSEGV
    jam.emit(200)
    fleet.stop()
    reading = fleet.read(jam.output)
    discarded, _ = fleet.books("s1", "c")
    assert len(reading.events) + discarded - jam.emitted in range(5)
    fleet.run("start")
    jam.survivor.emit(10)
    fleet.stop()
    assert fleet.read(jam.output).numbers(pid=jam.survivor.pid)[-10:] == list(range(210, 220))
    fleet.destroy()


@pytest.mark.parametrize("hole_count", [2, 3, 6])
def test_several_holes_in_one_sub_buffer(fleet: Fleet, hole_count: int) -> None:
    jam = Jam(fleet, "--subbuf-size=128k", "--num-subbuf=4", "c")
    for index in range(1, hole_count):
        another = fleet.program()
        another.ask("cpu 0")
        jam.emit(7 * index)
        jam.emitted += another.emit(50)
        jam.emitted += another.ask(f"bulky 5 {37 * index}")
        assert another.end("jam") == -signal.SIGSEGV
    jam.emit(200)
    fleet.stop()
    reading = fleet.read(jam.output)  # whatever was kept, the trace is sound
    discarded, lost = fleet.books("s1", "c")
    assert lost == 0
    assert 0 <= len(reading.events) + discarded - jam.emitted <= hole_count, (len(reading.events), discarded)
    numbers = reading.numbers(pid=jam.survivor.pid)
    assert numbers == sorted(set(numbers))
    fleet.run("start")
    jam.emit(10)
    fleet.stop()
    newest = fleet.read(jam.output).numbers(pid=jam.survivor.pid)[-10:]
    assert newest == list(range(jam.next_number - 10, jam.next_number))


def test_overwrite_buffers_jam_and_clear_too(fleet: Fleet) -> None:
    jam = Jam(fleet, "--overwrite", "--subbuf-size=4k", "--num-subbuf=4", "c")
    jam.emit(1000)
    fleet.stop()
    assert fleet.verify(jam.output).returncode in (0, 1)
    fleet.run("start")
    jam.survivor.emit(10)
    fleet.stop()
    assert fleet.read(jam.output).numbers(pid=jam.survivor.pid)[-10:] == list(range(1010, 1020))
    fleet.destroy()


# ---- alive inside a record ----


@pytest.mark.parametrize("witness_cpu", [0, 1], ids=["same buffer", "another buffer"])
def test_a_program_that_stays_inside_a_record_does_not_hold_up_a_stop(fleet: Fleet, witness_cpu: int) -> None:
    output = fleet.record("tf_emit:*", channel=SMALL_BUFFERS)
    witness, staying = fleet.program(), fleet.program()
    witness.ask(f"cpu {witness_cpu}")
    staying.ask("cpu 0")
    staying.emit(5)
    staying.send("stall")
    assert staying.reply() == "stalled"
    witness.emit(10)
    stopped = fleet.stop()
    assert str(staying.pid) in stopped.stdout + stopped.stderr, "who may still be inside a record"
    # Its buffer is left alone: it lives, and would write into whatever is made of the record.
    assert fleet.read(output).numbers(pid=witness.pid) == (list(range(10)) if witness_cpu else [])

    staying.send("go")  # its record is committed now
    assert staying.reply() == "done 1"
    fleet.run("start")
    witness.emit(10)
    fleet.stop()
    reading = fleet.read(output)
    assert reading.numbers(pid=witness.pid) == list(range(20))
    assert reading.numbers(pid=staying.pid) == list(range(5))
    assert reading.names()["tf_emit:copied"] == 1
    assert fleet.books("s1", "c") == (0, 0)
    assert fleet.verify(output).returncode == 0
    fleet.destroy()
    assert fleet.daemon is not None
    assert fleet.daemon.is_running()


def test_the_consumer_daemon_dies_and_the_session_daemon_tells(fleet: Fleet) -> None:
    fleet.record("tf_emit:*")
    program = fleet.program()
    program.emit(10)
    for pid in fleet.consumer_pids():
        fleet.world.run(["kill", "-KILL", str(pid)], uid=0)
    program.emit(10)  # the program is not hurt
    stopped = fleet.run("stop", "s1", is_checked=False)
    assert (stopped.stdout + stopped.stderr).strip()
    assert fleet.run("list").returncode == 0
    fleet.run("destroy", "s1", is_checked=False)
    assert fleet.daemon is not None
    assert fleet.daemon.is_running()
    second = fleet.record("tf_emit:*", session="s2")
    program.emit(10)
    fleet.stop("s2")
    assert fleet.read(second).numbers(pid=program.pid) == list(range(20, 30))
