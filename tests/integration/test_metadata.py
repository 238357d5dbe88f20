"""Metadata is in its file before the data that needs it, and nobody waits for the disk to announce something."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from deadlines import wait_until
from fleet import OURS, Fleet
from programs import BUILD_DIRECTORY
from traces import read_trace

NUMBERED = "tf_plugin:numbered"
LOAD = f"load {BUILD_DIRECTORY / 'libtf_plugin.so'}"


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    made = make_fleet(OURS)
    made.start_daemon()
    return made


def test_programs_announce_while_the_consumer_daemon_stands_still(fleet: Fleet) -> None:
    output = fleet.record("tf_plugin:*")
    programs = [fleet.program() for _ in range(2)]
    with fleet.paused_consumer():
        for program in programs:
            program.ask(LOAD)
            program.ask("plugin 25")
    fleet.stop()
    assert sorted(fleet.read(output).numbers(NUMBERED)) == sorted(2 * list(range(25)))


@pytest.mark.fault
def test_a_session_daemon_killed_after_its_answer_leaves_data_that_can_be_read(fleet: Fleet) -> None:
    assert fleet.daemon is not None
    output = fleet.record("tf_plugin:*")
    program = fleet.program()
    with fleet.paused_consumer():
        program.ask(LOAD)
        program.ask("plugin 25")
        fleet.daemon.kill()
        for pid in fleet.consumer_pids():
            os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not fleet.consumer_pids(), "the consumer daemon to write everything and end")
    assert fleet.read(output).numbers(NUMBERED) == list(range(25))


@pytest.mark.fault
def test_metadata_that_finds_no_room_holds_the_data_back(fleet: Fleet) -> None:
    mount = fleet.world.mount_tmpfs("8m")
    ballast = fleet.world.path(mount / "ballast")
    output = mount / "trace"
    fleet.run("create", "s1", "--output", output)
    fleet.run("enable-channel", "-u", "--subbuf-size=4k", "--num-subbuf=16", "c")
    fleet.run("enable-event", "-u", "-c", "c", "tf_plugin:*")
    fleet.run("start")
    program = fleet.program()
    fill(ballast)
    program.ask(LOAD)
    program.ask("plugin 25")
    stopped = fleet.run("stop", "s1", is_checked=False)
    assert "No space left" in stopped.stdout + stopped.stderr, stopped
    directory = next(fleet.world.path(output).rglob("c_0")).parent
    assert sum(file.stat().st_size for file in directory.glob("c_*")) == 0, "nothing that nobody could read"
    ballast.unlink()
    fleet.run("start")
    fleet.stop()
    assert read_trace(fleet.world.path(output)).numbers(NUMBERED) == list(range(25))
    assert fleet.verify(output).returncode == 0


def fill(ballast: Path) -> None:
    """Let the file take all the room there is."""
    with ballast.open("wb", buffering=0) as file:
        for size_bytes in (1 << 16, 1 << 12):
            while True:
                try:
                    file.write(bytes(size_bytes))
                except OSError:
                    break
