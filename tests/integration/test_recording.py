"""What programs emit is what readers find: programs that come, fork, change and die, and one session."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from deadlines import wait_until
from fleet import OURS, Fleet
from programs import BUILD_DIRECTORY, FORK_LIBRARY, Program

NUMBERED = "tf_emit:numbered"


def assert_the_books_balance(fleet: Fleet, output: Path) -> None:
    if fleet.kind is OURS:
        verified = fleet.verify(output)
        assert verified.returncode == 0, verified


def test_everything_emitted_before_stop_is_in_the_trace_when_stop_returns(any_fleet: Fleet) -> None:
    output = any_fleet.record("tf_emit:*")
    program = any_fleet.program()
    program.emit(5000)
    stopped = any_fleet.stop()
    assert "Tracing stopped for session s1" in stopped.stdout

    reading = any_fleet.read(output)
    assert reading.numbers(pid=program.pid) == list(range(5000))
    assert {event["text"] for event in reading.named(NUMBERED)} == {f"record {i}" for i in range(5000)}
    assert all(event["pid"] == program.pid for event in reading.events)
    assert reading.discarded_event_count == 0
    assert_the_books_balance(any_fleet, output)
    any_fleet.destroy()
    assert any_fleet.read(output).numbers() == list(range(5000))


def test_records_of_all_threads_are_recorded_in_order(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*", channel=("--subbuf-size=1M", "c"))
    program = fleet.program()
    assert program.ask("threads 8 2000") == 16000
    fleet.stop()
    reading = fleet.read(output)
    for thread in range(1, 9):
        assert reading.numbers(thread=thread) == list(range(2000))
    timestamps = [event.timestamp_ns for event in reading.events]
    assert timestamps == sorted(timestamps)


@pytest.mark.parametrize("order", ["session first", "program first", "program before the rule", "daemon last"])
def test_a_program_is_traced_whenever_it_starts(
    make_fleet: Callable[..., Fleet], request: pytest.FixtureRequest, order: str
) -> None:
    if order == "daemon last":
        fleet = make_fleet(request.getfixturevalue("kind_under_test"))
        program = fleet.program()
        program.emit(3)  # nobody listens
        fleet.start_daemon()
        fleet.wait_registered(program.pid)
        output = fleet.record("tf_emit:*")
    elif order == "program first":
        fleet = request.getfixturevalue("fleet")
        program = fleet.program()
        output = fleet.record("tf_emit:*")
    elif order == "program before the rule":
        fleet = request.getfixturevalue("fleet")
        output = fleet.record("tf_levels:emerg")
        program = fleet.program()
        fleet.run("enable-event", "-u", "tf_emit:*")
    else:
        fleet = request.getfixturevalue("fleet")
        output = fleet.record("tf_emit:*")
        program = fleet.program()
    program.emit(100)
    fleet.stop()
    numbers = fleet.read(output).numbers(pid=program.pid)
    assert numbers == list(range(3, 103) if order == "daemon last" else range(100))


def test_several_programs_share_a_session(fleet: Fleet) -> None:
    before = [fleet.program() for _ in range(3)]
    output = fleet.record("tf_emit:*")
    after = [fleet.program() for _ in range(3)]
    for program in before + after:
        program.emit(200)
    fleet.stop()
    reading = fleet.read(output)
    for program in before + after:
        assert reading.numbers(pid=program.pid) == list(range(200))
    assert len(reading.events) == 6 * 200
    assert len(reading.classes) == 1, "the same tracepoint of several programs is described once"


@pytest.mark.root
def test_each_user_has_buffers_and_a_trace_of_its_own(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*")
    programs = {uid: fleet.program(uid=uid) for uid in (0, 1001, 1002)}
    for program in programs.values():
        program.emit(50)
    fleet.stop()
    for uid, program in programs.items():
        reading = fleet.read(output / "ust" / "uid" / str(uid) / "64-bit")
        assert reading.numbers() == list(range(50))
        assert {event["pid"] for event in reading.events} == {program.pid}
        assert [env["tracer_buffering_id"] for env in reading.environments()] == [uid]
        assert reading.environments()[0]["tracer_buffering_scheme"] == "uid"


def test_an_ordinary_program_reaches_both_its_own_and_the_root_daemon(
    make_fleet: Callable[..., Fleet], kind_under_test: object
) -> None:
    fleet = make_fleet(kind_under_test, is_root=False)
    fleet.start_daemon()
    output = fleet.record("tf_emit:*")
    with_root = fleet.program()
    with_root.emit(10)
    assert fleet.registered_pids() == {with_root.pid}
    fleet.stop()
    assert fleet.read(output).numbers() == list(range(10))


def test_each_process_has_buffers_and_a_trace_of_its_own(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*", channel=("--buffers-pid", "c"))
    first, second = fleet.program(), fleet.program()
    for program in (first, second):
        program.emit(300)
    assert first.end() == 0  # its trace must be whole although the session goes on
    second.emit(300)
    fleet.stop()

    directories = {path.name: path for path in (output / "ust" / "pid").iterdir()}
    assert len(directories) == 2
    for program, count in ((first, 300), (second, 600)):
        (name,) = [name for name in directories if name.startswith(f"emit-{program.pid}-")]
        reading = fleet.read(directories[name])
        assert reading.numbers() == list(range(count))
        environment = reading.environments()[0]
        assert environment["tracer_buffering_scheme"] == "pid"
        assert environment["tracer_buffering_id"] == program.pid
        assert environment["vpid"] == program.pid
        assert environment["procname"] == "emit"
        assert_the_books_balance(fleet, directories[name])


def test_a_program_that_ends_before_stop_is_in_the_trace(any_fleet: Fleet) -> None:
    output = any_fleet.record("tf_emit:*")
    pids = []
    for _ in range(5):
        program = any_fleet.program()
        program.emit(10)
        assert program.end() == 0
        pids.append(program.pid)
    any_fleet.wait_unregistered(*pids)
    any_fleet.stop()
    reading = any_fleet.read(output)
    for pid in pids:
        assert reading.numbers(pid=pid) == list(range(10))


def test_a_forked_child_is_a_program_of_its_own_with_the_fork_library(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*", channel=("--buffers-pid", "c"))
    plain, helped = fleet.program(), fleet.program(env={"LD_PRELOAD": FORK_LIBRARY})
    sharing_child, separate_child = plain.ask("fork 20"), helped.ask("fork 20")
    plain.emit(5)
    helped.emit(5)
    fleet.stop()

    directories = {int(path.name.split("-")[1]): path for path in (output / "ust" / "pid").iterdir()}
    assert set(directories) == {plain.pid, helped.pid, separate_child}
    assert fleet.read(directories[separate_child]).numbers(pid=separate_child) == list(range(20))
    assert fleet.read(directories[helped.pid]).numbers() == list(range(5))
    # Without the library, the child goes on writing into the buffers of its parent.
    assert fleet.read(directories[plain.pid]).numbers(pid=sharing_child) == list(range(20))
    assert fleet.read(directories[plain.pid]).numbers(pid=plain.pid) == list(range(5))


def test_a_program_that_execs_registers_again_under_its_pid(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*")
    program = fleet.program()
    program.emit(10)
    program.send("exec")
    assert program.reply() == f"ready {program.pid}"
    program.emit(7)
    assert fleet.registered_pids() == {program.pid}
    fleet.stop()
    assert fleet.read(output).numbers(pid=program.pid) == [*range(10), *range(7)]


@pytest.mark.parametrize("ownership", ["--buffers-uid", "--buffers-pid"])
def test_the_last_data_of_a_killed_program_is_flushed(fleet: Fleet, ownership: str) -> None:
    output = fleet.record("tf_emit:*", channel=(ownership, "c"))
    killed, survivor = fleet.program(), fleet.program()
    killed.emit(123)
    assert killed.end("crash") == -signal.SIGKILL
    fleet.wait_unregistered(killed.pid)
    survivor.emit(45)
    fleet.stop()
    reading = fleet.read(output)
    assert reading.numbers(pid=killed.pid) == list(range(123))
    assert reading.numbers(pid=survivor.pid) == list(range(45))
    assert_the_books_balance(fleet, output)


@pytest.mark.fault
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("buffers", [("1M", "8"), ("4k", "256")], ids=["large", "small"])
def test_programs_killed_at_any_moment_lose_nothing_silently(fleet: Fleet, buffers: tuple[str, str], seed: int) -> None:
    """In small sub-buffers, they die between two of them as well: neither the end nor the next begin is noted."""
    chance = random.Random(seed)
    sizes = (f"--subbuf-size={buffers[0]}", f"--num-subbuf={buffers[1]}")
    output = fleet.record("tf_emit:*", channel=(*sizes, "c"))
    acknowledged: dict[int, int] = {}
    for _ in range(6):
        program = fleet.program()
        acknowledged[program.pid] = program.emit(chance.randrange(1, 2000))
        doom_us = chance.randrange(1, 5_000)
        assert program.end(f"doomed {doom_us} 4 1000000") == -signal.SIGKILL
    witness = fleet.program()
    witness.ask("threads 4 500")
    fleet.stop()

    reading = fleet.read(output)
    discarded, _ = fleet.books("s1", "c")
    for pid, count in acknowledged.items():
        numbers = reading.numbers(pid=pid)
        assert numbers == sorted(set(numbers))
        missing = count - len(numbers)
        assert 0 <= missing <= discarded, f"seed={seed}: {missing} of {count} lost, {discarded} counted"
    assert_the_books_balance(fleet, output)
    fleet.destroy()


def test_a_provider_that_is_loaded_later_is_traced(fleet: Fleet) -> None:
    output = fleet.record("tf_plugin:*")
    program = fleet.program()
    program.ask(f"load {BUILD_DIRECTORY / 'libtf_plugin.so'}")
    program.ask("plugin 25")
    fleet.stop()
    assert fleet.read(output).numbers("tf_plugin:numbered") == list(range(25))


def test_the_state_dump_is_recorded_at_each_start(fleet: Fleet) -> None:
    program = fleet.program()
    output = fleet.record("lttng_ust_statedump:*")
    wait_until(lambda: "statedump" in fleet.run("list", "-u").stdout, "the program's tracepoints")
    later = fleet.program()  # its constructor waits for its own state dump
    later.emit(1)
    fleet.stop()
    fleet.run("start")
    fleet.program().emit(1)
    fleet.stop()
    reading = fleet.read(output)
    paths = {event["path"] for event in reading.named("lttng_ust_statedump:bin_info")}
    assert str(program.path) in paths
    assert any(Path(path).name.startswith("liblttng-ust.so") for path in paths)
    assert reading.names()["lttng_ust_statedump:start"] >= 3
    assert reading.names()["lttng_ust_statedump:end"] == reading.names()["lttng_ust_statedump:start"]


def test_a_session_records_again_after_each_start(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*")
    program = fleet.program()
    expected: list[int] = []
    first = 0
    for round_number in range(4):
        if round_number:
            fleet.run("start")
        program.emit(10)
        expected += range(first, first + 10)
        fleet.stop()
        program.emit(5)  # while stopped
        first += 15
        assert fleet.read(output).numbers() == expected
    assert_the_books_balance(fleet, output)


def test_sessions_record_the_same_program_independently(fleet: Fleet) -> None:
    program = fleet.program()
    whole = fleet.record("tf_emit:*", session="whole")
    program.emit(10)
    late = fleet.record("tf_emit:numbered", session="late")
    program.emit(10)
    fleet.stop("whole")
    program.emit(10)
    fleet.stop("late")
    assert fleet.read(whole).numbers() == list(range(20))
    assert fleet.read(late).numbers() == list(range(10, 30))
    fleet.destroy("whole")
    fleet.run("start", "late")
    program.emit(10)
    fleet.stop("late")
    assert fleet.read(late).numbers() == list(range(10, 40))


def test_channels_of_a_session_record_by_their_own_rules(fleet: Fleet) -> None:
    output = fleet.record(is_started=False)
    for channel, rule in (("all", "*"), ("numbered", "tf_emit:numbered"), ("levels", "tf_levels:err")):
        fleet.run("enable-channel", "-u", channel)
        fleet.run("enable-event", "-u", "-c", channel, rule)
    fleet.run("start")
    program = fleet.program()
    program.emit(10)
    program.ask("levels 3")
    fleet.stop()
    events = [event for event in fleet.read(output).events if event.name.startswith("tf_")]
    by_channel = {name: [event for event in events if event.channel == name] for name in ("all", "numbered", "levels")}
    assert {name: len(found) for name, found in by_channel.items()} == {
        "all": 10 + 48,
        "numbered": 10,
        "levels": 3,
    }


def test_rules_change_while_tracing(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:numbered")
    program = fleet.program()
    program.emit(5)  # 0 … 4
    fleet.run("disable-event", "-u", "tf_emit:numbered")
    program.emit(5)  # 5 … 9: not recorded
    fleet.run("enable-event", "-u", "tf_emit:numbered")
    program.emit(5)  # 10 … 14
    program.ask("levels 1")  # not recorded
    fleet.run("enable-event", "-u", "tf_levels:err")
    program.ask("levels 1")
    fleet.run("disable-channel", "-u", "channel0")
    program.emit(5)  # 15 … 19: not recorded
    fleet.run("enable-channel", "-u", "channel0")
    program.emit(5)  # 20 … 24
    fleet.stop()
    reading = fleet.read(output)
    assert reading.numbers(NUMBERED) == [*range(5), *range(10, 15), *range(20, 25)]
    assert reading.names()["tf_levels:err"] == 1


def test_a_program_that_starts_after_a_change_follows_it(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:numbered", "tf_levels:err")
    fleet.run("disable-event", "-u", "tf_emit:numbered")
    program = fleet.program()
    program.emit(5)
    program.ask("levels 2")
    fleet.stop()
    assert fleet.read(output).names() == {"tf_levels:err": 2}


def test_emitted_is_recorded_plus_discarded_when_the_program_is_faster(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*", channel=("--subbuf-size=4096", "--num-subbuf=2", "c"))
    program = fleet.program()
    emitted = program.ask("threads 4 10000")
    fleet.stop()
    reading = fleet.read(output)
    discarded, lost = fleet.books("s1", "c")
    assert discarded > 0, "the buffers were too large for this test"
    assert lost == 0
    assert len(reading.events) + discarded == emitted
    assert reading.discarded_event_count == discarded
    assert_the_books_balance(fleet, output)


def test_programs_that_start_at_the_same_moment(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*")
    starting = [Program(fleet.world) for _ in range(40)]
    for program in starting:
        program.started()
        program.emit(10)
    assert fleet.registered_pids() == {program.pid for program in starting}
    fleet.stop()
    reading = fleet.read(output)
    for program in starting:
        assert reading.numbers(pid=program.pid) == list(range(10))
    assert len(reading.events) == 400


def test_an_orderly_end_of_the_daemon_completes_active_sessions(any_fleet: Fleet) -> None:
    first = any_fleet.record("tf_emit:*")
    second = any_fleet.record("tf_emit:*", session="s2", channel=("--buffers-pid", "c"))
    program = any_fleet.program()
    program.emit(100)
    assert any_fleet.daemon is not None
    assert any_fleet.daemon.stop() == 0
    wait_until(lambda: not any_fleet.consumer_pids(), "the consumer daemon to end")
    assert any_fleet.read(first).numbers() == list(range(100))
    assert any_fleet.read(second).numbers() == list(range(100))
    program.emit(1)  # it outlives its daemon


def test_timestamps_and_cpus_are_those_of_the_machine(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*")
    program = fleet.program()
    program.ask("cpu 1" if len(os.sched_getaffinity(0)) > 1 else "cpu 0")
    before = time.time_ns()
    program.emit(50)
    after = time.time_ns()
    fleet.stop()
    events = fleet.read(output).events
    # The trace's clock is placed in wall-clock time once; the two drift apart by far less than this.
    tolerance_ns = 50_000_000
    assert before - tolerance_ns < events[0].timestamp_ns <= events[-1].timestamp_ns < after + tolerance_ns
    assert {event.cpu for event in events} == {1 if len(os.sched_getaffinity(0)) > 1 else 0}


def test_data_arrives_although_nobody_waits_for_it(fleet: Fleet) -> None:
    outputs = []
    program = fleet.program()
    for command in ("stop", "destroy"):
        output = fleet.record("tf_emit:*", session=command)
        outputs.append(output)
        program.emit(100)
        fleet.run(command, "--no-wait", command)
    program.emit(100)

    def is_whole(output: Path) -> bool:
        try:
            return len(fleet.read(output).events) == 100
        except AssertionError:
            return False

    for output in outputs:
        wait_until(lambda: is_whole(output), "the data to arrive")  # noqa: B023


def test_sessions_leave_nothing_behind_in_the_daemons(fleet: Fleet) -> None:
    assert fleet.daemon is not None
    program = fleet.program()

    def record_once(index: int) -> None:
        options = ("--buffers-pid", "c") if index % 2 else ("c",)
        fleet.record("tf_emit:*", session=f"s{index}", channel=options)
        program.emit(10)
        passing = fleet.program()
        passing.emit(10)
        passing.end()
        fleet.wait_unregistered(passing.pid)
        fleet.destroy(f"s{index}")

    def held() -> list[int]:
        """Descriptors and mappings of ring buffers of each daemon."""
        counts = []
        for pid in (fleet.daemon_pid(), *fleet.consumer_pids()):
            counts.append(len(list(Path(f"/proc/{pid}/fd").iterdir())))
            maps = Path(f"/proc/{pid}/maps").read_text()
            counts.append(maps.count(" /dev/shm/"))
        return counts

    for index in range(2):
        record_once(index)
    before = held()
    fleet.record("tf_emit:*", session="probe")
    assert all(during > idle for during, idle in zip(held()[2:], before[2:], strict=True)), "nothing is measured"
    fleet.destroy("probe")
    for index in range(2, 10):
        record_once(index)
    wait_until(lambda: held() <= before, f"the daemons to hold no more than before: {before}")


def test_programs_that_come_and_go_while_tracing(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*")
    emitted: dict[int, int] = {}
    running: list[Program] = []
    for index in range(12):
        program = fleet.program()
        emitted[program.pid] = program.emit(10 + index)
        running.append(program)
        if index % 3 == 2:
            with contextlib.suppress(EOFError):
                running.pop(0).end("crash" if index % 2 else "exit")
    fleet.stop()
    reading = fleet.read(output)
    for pid, count in emitted.items():
        assert reading.numbers(pid=pid) == list(range(count))
    assert len(reading.classes) == 1
