"""The monitor timer: how full the ring buffers are, as `--json` shows it while a session records."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from deadlines import wait_until
from fleet import OURS, Fleet

SUB_BUFFER_SIZE_BYTES = 64 * 1024
SUB_BUFFERS = ("--subbuf-size=64k", "--num-subbuf=4")
PERIOD = "--monitor-timer=100000"  # us


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """Our daemon: lttng shows no usage, it only sends it to triggers."""
    made = make_fleet(OURS)
    made.start_daemon()
    return made


def usage(fleet: Fleet, channel: str = "c") -> tuple[int | None, int | None]:
    """Lowest and highest unread bytes of a channel's streams, as they were sampled last."""
    for shown in fleet.json("list", "s1")["domains"][0]["channels"]:
        if shown["name"] == channel:
            return shown["buffer_usage_lowest_bytes"], shown["buffer_usage_highest_bytes"]
    raise AssertionError(f"no channel {channel}")


def wait_for_usage(fleet: Fleet, condition: Callable[[int, int], bool], what: str) -> tuple[int, int]:
    def sampled() -> tuple[int, int] | None:
        lowest, highest = usage(fleet)
        if lowest is None or highest is None:
            return None
        return (lowest, highest) if condition(lowest, highest) else None

    found = wait_until(sampled, what)
    assert found is not None
    return found


def wait_for_more(fleet: Fleet, bytes_: int, what: str) -> int:
    """The highest usage, once it is above so many bytes."""
    return wait_for_usage(fleet, lambda lowest, highest: lowest <= highest > bytes_, what)[1]


def test_the_usage_rises_with_what_is_emitted_and_falls_when_it_is_read(fleet: Fleet) -> None:
    fleet.record("tf_emit:*", channel=(PERIOD, *SUB_BUFFERS, "c"))
    assert usage(fleet) == (None, None), "no program, no buffers"
    program = fleet.program()
    program.ask("cpu 0")
    _, empty = wait_for_usage(fleet, lambda _lowest, highest: highest < 4096, "a first sample")
    program.emit(200)
    part = wait_for_more(fleet, empty + 200 * 8, "a sample of 200 records")
    assert part < SUB_BUFFER_SIZE_BYTES, "200 records do not fill a sub-buffer"
    program.emit(200)
    assert wait_for_more(fleet, part, "a sample of 400 records") < SUB_BUFFER_SIZE_BYTES
    fleet.stop()
    wait_for_usage(fleet, lambda lowest, highest: lowest == highest == 0, "empty buffers after the stop")


def test_without_a_monitor_timer_there_is_no_sample(fleet: Fleet) -> None:
    fleet.run("create", "s1")
    fleet.run("enable-channel", "-u", "--monitor-timer=0", *SUB_BUFFERS, "silent")
    fleet.run("enable-channel", "-u", PERIOD, *SUB_BUFFERS, "c")
    for channel in ("silent", "c"):
        fleet.run("enable-event", "-u", "-c", channel, "tf_emit:*")
    fleet.run("start", "s1")
    program = fleet.program()
    program.ask("cpu 0")  # on another one, the fullest buffer would not grow
    # Every sample of the one channel shows that the other had its time.
    seen = -1
    for _ in range(3):
        program.emit(50)
        seen = wait_for_more(fleet, seen, "a sample of the other channel")
        assert usage(fleet, "silent") == (None, None)
    fleet.stop()
    assert usage(fleet, "silent") == (None, None)


def test_the_list_for_people_is_as_it_was(fleet: Fleet) -> None:
    fleet.record("tf_emit:*", channel=(PERIOD, *SUB_BUFFERS, "c"))
    fleet.program().emit(10)
    wait_for_more(fleet, 0, "a sample")
    assert "usage" not in fleet.run("list", "s1").stdout.lower()
