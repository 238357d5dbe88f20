"""Channel attributes: loss modes, sizes, timers, blocking, trace file limits, and what LTTng defaults to."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from deadlines import wait_until
from fleet import OURS, Fleet
from traces import packets_of, trace_directories

PAGE = 4096


def stream_files(output: Path, channel: str = "c") -> list[Path]:
    """The data files of a channel, over all its traces and CPUs."""
    found = []
    for directory in trace_directories(output):
        found += [path for path in directory.glob(f"{channel}_*") if path.is_file()]
    return sorted(found)


def attributes_of(fleet: Fleet, session: str, channel: str) -> dict[str, str]:
    """The attribute lines of a channel in `list`, by label."""
    text = fleet.run("list", session).stdout.partition(f"- {channel}: [")[2]
    assert text, channel
    text = text.split("\n- ", 1)[0]
    return dict(re.findall(r"^ +([A-Z][A-Za-z -]+): +(\S.*)$", text, re.MULTILINE))


def missing_packet_count(output: Path) -> int:
    """Packets that a sequence number announces and that are not in the files, from number 0 on."""
    missing = 0
    for cpu in {path.name.split("_")[1] for path in stream_files(output)}:
        files = [path for path in stream_files(output) if path.name.split("_")[1] == cpu]
        numbers = [packet.sequence_number for path in files for packet in packets_of(path)]
        missing += max(numbers) + 1 - len(numbers) if numbers else 0
    return missing


def recorded_so_far(fleet: Fleet, output: Path) -> int:
    """Records that a reader sees now; 0 while a packet is being written."""
    try:
        return len(fleet.read(output).events)
    except AssertionError:
        return 0


@pytest.fixture
def live_fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """Our daemon. lttng-tools 2.13.9 keeps the metadata to itself until a stop, so nobody can read before."""
    fleet = make_fleet(OURS)
    fleet.start_daemon()
    return fleet


@pytest.mark.parametrize(
    ("ownership", "size"), [("--buffers-uid", 524288), ("--buffers-pid", 16384)], ids=["user", "process"]
)
def test_defaults_are_those_of_lttng(both_kinds: tuple[Fleet, Fleet], ownership: str, size: int) -> None:
    shown = []
    for fleet in both_kinds:
        fleet.record(channel=(ownership, "c"), is_started=False)
        shown.append(attributes_of(fleet, "s1", "c"))
    assert shown[0] == shown[1]
    assert shown[0]["Sub-buffer size"] == f"{size} bytes"
    assert shown[0]["Sub-buffer count"] == "4"


@pytest.mark.parametrize(
    "options",
    [
        ("--subbuf-size=5000", "--num-subbuf=3"),  # both are rounded up
        ("--num-subbuf=1",),
        ("--overwrite", "--subbuf-size=0x4000", "--num-subbuf=2"),
        ("--switch-timer=1s", "--read-timer=20ms", "--monitor-timer=0"),
        ("--discard", "--blocking-timeout=1500"),
        ("--blocking-timeout=inf",),
        ("--tracefile-size=1M", "--tracefile-count=3"),
        ("--tracefile-size=100",),  # raised to the sub-buffer size
    ],
    ids=" ".join,
)
def test_attributes_are_settled_and_shown_as_lttng_does(
    both_kinds: tuple[Fleet, Fleet], options: tuple[str, ...]
) -> None:
    shown = []
    for fleet in both_kinds:
        fleet.run("create", "s1")
        enabled = fleet.run("enable-channel", "-u", *options, "c")
        shown.append((enabled.stdout, attributes_of(fleet, "s1", "c")))
    assert shown[0] == shown[1]


@pytest.mark.parametrize(
    "options",
    [
        ("--tracefile-count=3", "c"),
        ("--overwrite", "--blocking-timeout=100", "c"),
        ("--overwrite", "--discard", "c"),
        ("--num-subbuf=0", "c"),
        ("--subbuf-size=0", "c"),
        ("--subbuf-size=1", "c"),
        ("--subbuf-size=much", "c"),
        ("--output=splice", "c"),
        ("--output=paper", "c"),
        ("--switch-timer=-1", "c"),
        ("--blocking-timeout=never", "c"),
        ("--overwrite", "--num-subbuf=1", "c"),
        ("--buffers-global", "c"),
        (".hidden", ""),
        ("a/b",),
        ("x" * 256,),
    ],
    ids=lambda options: " ".join(options)[:40],
)
def test_bad_attributes_are_refused_as_lttng_does(both_kinds: tuple[Fleet, Fleet], options: tuple[str, ...]) -> None:
    statuses = []
    for fleet in both_kinds:
        fleet.run("create", "s1")
        refused = fleet.run("enable-channel", "-u", *[option for option in options if option], is_checked=False)
        statuses.append(refused.returncode)
        if refused.returncode != 0:
            assert refused.stderr.strip(), "refused without a word"
        assert fleet.daemon is not None
        assert fleet.daemon.is_running()
    assert statuses[0] == statuses[1]


def test_packets_fit_the_sub_buffers(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*", channel=("--subbuf-size=8k", "--num-subbuf=64", "c"))
    fleet.program().emit(4000)
    fleet.stop()
    assert len(fleet.read(output).events) == 4000
    sizes = [packet.packet_size_bytes for file in stream_files(output) for packet in packets_of(file)]
    assert max(sizes) == 8192
    assert all(size % PAGE == 0 for size in sizes)
    assert len(sizes) > 10


def test_discard_mode_keeps_the_oldest_records_and_counts_the_rest(fleet: Fleet) -> None:
    options = ("--discard", "--subbuf-size=4k", "--num-subbuf=2", "c")
    output = fleet.record("tf_emit:*", channel=options)
    program = fleet.program()
    program.ask("cpu 0")
    with fleet.paused_consumer():
        program.emit(1000)
    stopped = fleet.stop()
    reading = fleet.read(output)
    numbers = reading.numbers()
    discarded, lost = fleet.books("s1", "c")
    assert numbers == list(range(len(numbers))), "the first records are kept"
    assert 50 < len(numbers) < 300
    assert discarded == 1000 - len(numbers)
    assert lost == 0
    assert f"{discarded} events were discarded" in stopped.stdout + stopped.stderr


def test_overwrite_mode_keeps_the_newest_records_and_counts_lost_packets(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*", channel=("--overwrite", "--subbuf-size=4k", "--num-subbuf=2", "c"))
    program = fleet.program()
    program.ask("cpu 0")
    program.emit(150)
    # lttng-tools counts lost packets from the first one that it has read.
    wait_until(lambda: stream_files(output) and stream_files(output)[0].stat().st_size, "a first packet")
    with fleet.paused_consumer():
        program.emit(1000)
    stopped = fleet.stop()
    numbers = fleet.read(output).numbers()
    discarded, lost = fleet.books("s1", "c")
    assert numbers[-1] == 1149
    newest = [number for previous, number in pairwise([-2, *numbers]) if number != previous + 1][-1]
    assert numbers[numbers.index(newest) :] == list(range(newest, 1150)), "the last records are kept"
    assert len(numbers) < 500
    assert discarded == 0
    assert lost == missing_packet_count(output) > 0
    assert f"{lost} packets were lost" in stopped.stdout + stopped.stderr


def test_packets_lost_before_the_first_one_is_read_are_counted(make_fleet: Callable[..., Fleet]) -> None:
    """lttng-tools 2.13.9 counts none of them."""
    fleet = make_fleet(OURS)
    fleet.start_daemon()
    output = fleet.record("tf_emit:*", channel=("--overwrite", "--subbuf-size=4k", "--num-subbuf=2", "c"))
    program = fleet.program()
    program.ask("cpu 0")
    with fleet.paused_consumer():
        program.emit(1000)
    fleet.stop()
    numbers = fleet.read(output).numbers()
    assert numbers == list(range(1000 - len(numbers), 1000))
    assert fleet.books("s1", "c") == (0, missing_packet_count(output))
    assert missing_packet_count(output) > 0


def test_the_switch_timer_makes_records_readable_without_a_stop(live_fleet: Fleet) -> None:
    output = live_fleet.record("tf_emit:*", channel=("--switch-timer=100000", "c"))
    live_fleet.program().emit(10)
    wait_until(lambda: recorded_so_far(live_fleet, output) == 10, "ten records in the trace while it is active")
    live_fleet.stop()
    assert live_fleet.read(output).numbers() == list(range(10))


def test_the_read_timer_moves_full_sub_buffers_without_a_stop(live_fleet: Fleet) -> None:
    options = ("--read-timer=100000", "--subbuf-size=4k", "--num-subbuf=64", "c")
    output = live_fleet.record("tf_emit:*", channel=options)
    program = live_fleet.program()
    program.ask("cpu 0")  # on several, each would keep back a sub-buffer that is not full
    program.emit(2000)
    wait_until(lambda: recorded_so_far(live_fleet, output) > 1800, "the full sub-buffers in the trace")
    live_fleet.stop()
    assert live_fleet.read(output).numbers() == list(range(2000))


def test_a_long_read_timer_does_not_hold_up_a_stop(make_fleet: Callable[..., Fleet]) -> None:
    """With lttng-tools 2.13.9, `stop` waits until the timer expires."""
    fleet = make_fleet(OURS)
    fleet.start_daemon()
    output = fleet.record("tf_emit:*", channel=("--read-timer=1h", "--subbuf-size=4k", "--num-subbuf=64", "c"))
    fleet.program().emit(2000)
    fleet.stop()
    assert fleet.read(output).numbers() == list(range(2000))


def test_a_full_sub_buffer_is_written_at_once_without_timers(live_fleet: Fleet) -> None:
    output = live_fleet.record("tf_emit:*", channel=("--subbuf-size=4k", "--num-subbuf=64", "c"))
    program = live_fleet.program()
    program.ask("cpu 0")  # as above
    program.emit(2000)
    wait_until(lambda: recorded_so_far(live_fleet, output) > 1800, "the full sub-buffers in the trace")


def test_a_program_that_may_block_loses_nothing(fleet: Fleet) -> None:
    options = ("--blocking-timeout=inf", "--subbuf-size=4k", "--num-subbuf=2", "c")
    output = fleet.record("tf_emit:*", channel=options)
    blocking = fleet.program(env={"LTTNG_UST_ALLOW_BLOCKING": "1"})
    # One writer: with two, liblttng-ust 2.13 may drop a record at a sub-buffer's end although it may block.
    blocking.ask("emit 20000", deadline_s=120)
    fleet.stop()
    assert fleet.read(output).numbers() == list(range(20000))
    assert fleet.books("s1", "c") == (0, 0)


def test_a_program_that_may_not_block_does_not(fleet: Fleet) -> None:
    options = ("--blocking-timeout=inf", "--subbuf-size=4k", "--num-subbuf=2", "c")
    output = fleet.record("tf_emit:*", channel=options)
    program = fleet.program()
    program.ask("cpu 0")
    with fleet.paused_consumer():
        program.emit(1000)
    fleet.stop()
    discarded, _ = fleet.books("s1", "c")
    assert discarded == 1000 - len(fleet.read(output).events) > 0


def test_trace_files_stay_below_their_size(fleet: Fleet) -> None:
    options = ("--subbuf-size=4k", "--num-subbuf=64", "--tracefile-size=16k", "c")
    output = fleet.record("tf_emit:*", channel=options)
    program = fleet.program()
    program.ask("cpu 0")
    for _ in range(4):
        program.emit(1000)
    fleet.stop()
    reading = fleet.read(output)
    assert reading.numbers() == list(range(4000))
    files = [path for path in stream_files(output) if path.name.startswith("c_0_")]
    assert len(files) > 5
    assert {path.name for path in files} == {f"c_0_{number}" for number in range(len(files))}
    assert all(path.stat().st_size <= 16384 for path in files)
    for path in files:
        assert (path.parent / "index" / f"{path.name}.idx").exists()
    if fleet.kind is OURS:
        assert fleet.verify(output).returncode == 0


def test_trace_files_are_reused_when_their_count_is_limited(fleet: Fleet) -> None:
    options = ("--subbuf-size=4k", "--num-subbuf=64", "--tracefile-size=16k", "--tracefile-count=3", "c")
    output = fleet.record("tf_emit:*", channel=options)
    program = fleet.program()
    program.ask("cpu 0")
    for _ in range(4):
        program.emit(1000)
    fleet.stop()
    numbers = fleet.read(output).numbers()
    assert numbers == list(range(4000 - len(numbers), 4000)), "the newest files remain"
    assert 0 < len(numbers) < 1500
    files = {path.name for path in stream_files(output) if path.name.startswith("c_0_")}
    assert files == {"c_0_0", "c_0_1", "c_0_2"}


def test_a_channel_of_the_other_ownership_is_refused(both_kinds: tuple[Fleet, Fleet]) -> None:
    statuses = []
    for fleet in both_kinds:
        fleet.run("create", "s1")
        fleet.run("enable-channel", "-u", "--buffers-pid", "first")
        refused = fleet.run("enable-channel", "-u", "--buffers-uid", "second", is_checked=False)
        statuses.append(refused.returncode)
    assert statuses[0] == statuses[1] != 0


def test_a_channel_cannot_be_added_to_a_session_that_has_been_active(both_kinds: tuple[Fleet, Fleet]) -> None:
    statuses = []
    for fleet in both_kinds:
        fleet.record("tf_emit:*")
        while_active = fleet.run("enable-channel", "-u", "late", is_checked=False)
        fleet.stop()
        afterwards = fleet.run("enable-channel", "-u", "later", is_checked=False)
        statuses.append((while_active.returncode, afterwards.returncode))
    assert statuses[0] == statuses[1]


@pytest.mark.fault
def test_dev_shm_too_small_is_refused_at_once_with_the_numbers(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(OURS, shm_size="8m")
    daemon = fleet.start_daemon()
    program = fleet.program()
    fleet.run("create", "s1", "--output", fleet.world.home / "trace")
    refused = fleet.run("enable-channel", "-u", "--subbuf-size=8M", "--num-subbuf=4", "c", is_checked=False)
    assert refused.returncode != 0
    assert "/dev/shm" in refused.stderr
    numbers = [int(number) for number in re.findall(r"\d{5,}", refused.stderr)]
    assert max(numbers) >= 5 * 8 * 1024 * 1024, f"what is needed: {refused.stderr}"
    assert any(7 * 1024 * 1024 < number <= 8 * 1024 * 1024 for number in numbers), f"what is there: {refused.stderr}"
    assert daemon.is_running()
    fleet.run("destroy", "s1")

    smaller = fleet.record("tf_emit:*", session="s2", channel=("--subbuf-size=64k", "--num-subbuf=2", "c"))
    program.emit(5)
    fleet.stop("s2")
    assert fleet.read(smaller).numbers() == list(range(5))


@pytest.mark.fault
def test_the_program_for_which_dev_shm_has_no_room_is_told_of(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(OURS, shm_size="8m")
    daemon = fleet.start_daemon()
    # Each process needs at least 2 MiB for each CPU.
    output = fleet.record("tf_emit:*", channel=("--buffers-pid", "--subbuf-size=512k", "--num-subbuf=4", "c"))
    programs = [fleet.program() for _ in range(6)]
    for program in programs:
        program.emit(20)
    stopped = fleet.stop()
    reading = fleet.read(output)
    traced = [program for program in programs if reading.numbers(pid=program.pid)]
    assert 0 < len(traced) < len(programs), "the shared memory had room for some only"
    for program in traced:
        assert reading.numbers(pid=program.pid) == list(range(20))
    told = stopped.stdout + stopped.stderr + fleet.run("list", "s1").stdout + daemon.log.read_text()
    assert "/dev/shm" in told
    for program in set(programs) - set(traced):
        assert str(program.pid) in told
    assert all(program.emit(1) for program in programs)
    assert daemon.is_running()
