"""How the session daemon starts the consumer daemon, as a process, and how it ends it."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from deadlines import DEADLINE_S, wait_until
from fleet import OURS, Fleet
from world import VENV_BIN, is_alive, is_stopped

CONSUMER_DAEMON = VENV_BIN / OURS.consumer_daemon
both_users = pytest.mark.parametrize("is_root", [True, False], ids=["root", "ordinary"])


def record_something(fleet: Fleet) -> int:
    """Make the session daemon need its consumer daemon. Returns the consumer daemon's pid."""
    program = fleet.program()
    fleet.wait_registered(program.pid)
    fleet.record("tf_emit:*")
    assert program.emit(10) == 10
    (pid,) = fleet.consumer_pids()
    return pid


@both_users
def test_it_has_a_session_of_its_own_and_ends_with_the_session_daemon(
    make_fleet: Callable[..., Fleet], is_root: bool
) -> None:
    fleet = make_fleet(is_root=is_root)
    daemon = fleet.start_daemon()
    pid = record_something(fleet)
    assert os.getsid(pid) == pid
    assert {"command", "descriptors"} <= {
        path.name for path in (fleet.world.run_directory / "ustconsumerd64").iterdir()
    }
    assert daemon.stop() == 0
    assert not is_alive(pid)
    assert list(fleet.world.run_directory.iterdir()) == []


def test_a_stop_key_at_the_console_reaches_the_session_daemon_only(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    daemon = fleet.start_daemon()
    output = fleet.record("tf_emit:*")
    program = fleet.program()
    program.emit(10)
    os.killpg(os.getpgid(daemon.pid), signal.SIGINT)
    assert daemon.process.wait(DEADLINE_S) == 0
    assert fleet.consumer_pids() == []
    assert fleet.read(output).numbers(pid=program.pid) == list(range(10))


def test_a_consumer_daemon_that_does_not_stop_is_killed(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    daemon = fleet.start_daemon()
    pid = record_something(fleet)
    fleet.destroy()
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: is_stopped(pid), "the consumer daemon to stand still")
    assert daemon.stop() == 0
    assert not is_alive(pid)
    assert "Consumer daemon does not stop, killed" in daemon.log.read_text()


def test_without_a_console_it_holds_none(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    process = fleet.world.popen([OURS.session_daemon, "--daemonize"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    pid = record_something(fleet)
    assert [str(Path(f"/proc/{pid}/fd/{descriptor}").readlink()) for descriptor in (0, 1, 2)] == ["/dev/null"] * 3


@pytest.mark.parametrize("way", ["option", "environment"])
def test_another_program_can_be_set(make_fleet: Callable[..., Fleet], way: str) -> None:
    fleet = make_fleet()
    other = fleet.world.home / "my-consumerd"
    other.write_text(f'#!/bin/sh\nenv > {fleet.world.home}/environment\nexec {CONSUMER_DAEMON} "$@"\n')
    other.chmod(0o755)
    if way == "option":
        fleet.start_daemon(f"--consumerd64-path={other}", "--consumerd64-libdir=/opt/lib")
    else:
        fleet.start_daemon(env={"LTTNG_CONSUMERD64_BIN": str(other), "LTTNG_CONSUMERD64_LIBDIR": "/opt/lib"})
    record_something(fleet)
    variables = (fleet.world.home / "environment").read_text().splitlines()
    (path,) = (variable for variable in variables if variable.startswith("LD_LIBRARY_PATH="))
    assert path.removeprefix("LD_LIBRARY_PATH=").split(":")[0] == "/opt/lib"


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("/nonexistent/consumerd", "Cannot execute the consumer daemon /nonexistent/consumerd"),
        ("/bin/false", "ended as soon as it was started"),
    ],
)
def test_a_program_that_does_not_work_is_named(make_fleet: Callable[..., Fleet], program: str, reason: str) -> None:
    fleet = make_fleet()
    daemon = fleet.start_daemon(f"--consumerd64-path={program}")
    traced = fleet.program()
    fleet.wait_registered(traced.pid)
    fleet.run("create", "s1", "--no-output")
    result = fleet.run("enable-event", "-u", "tf_emit:*", is_checked=False)
    assert result.returncode == 68
    assert reason in result.stderr
    assert daemon.is_running()


def test_its_sockets_can_be_elsewhere(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    home = fleet.world.home
    daemon = fleet.start_daemon(
        f"--ustconsumerd64-cmd-sock={home}/command", f"--ustconsumerd64-descriptor-sock={home}/descriptors"
    )
    record_something(fleet)
    assert (home / "command").is_socket()
    assert (home / "descriptors").is_socket()
    assert daemon.stop() == 0


def test_one_that_runs_already_is_used_and_left_alone(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    sockets = fleet.world.home / "sockets"
    sockets.mkdir()
    options = {"command": sockets / "command", "descriptors": sockets / "descriptors"}
    consumer = fleet.world.popen(
        [
            CONSUMER_DAEMON,
            f"--consumerd-cmd-sock={options['command']}",
            f"--descriptor-sock={options['descriptors']}",
        ]
    )
    wait_until(lambda: all(path.is_socket() for path in options.values()), "the consumer daemon to listen")
    daemon = fleet.start_daemon(
        f"--ustconsumerd64-cmd-sock={options['command']}",
        f"--ustconsumerd64-descriptor-sock={options['descriptors']}",
    )
    assert record_something(fleet) == consumer.pid
    assert daemon.stop() == 0
    assert consumer.poll() is None


def test_the_first_error_can_leave_a_core_dump(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    daemon = fleet.start_daemon(env={"LTTNG_ABORT_ON_ERROR": "1"})
    os.kill(record_something(fleet), signal.SIGKILL)
    assert daemon.process.wait(DEADLINE_S) == -signal.SIGABRT
