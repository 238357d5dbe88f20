"""One session daemon a run directory: a second one of either kind is refused, a dead one is succeeded."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
from deadlines import wait_until
from fleet import GENUINE, OURS, Fleet, Kind, has_genuine, is_real_root

ALREADY_RUNNING = "Error: A session daemon is already running."
# A user namespace of an ordinary user cannot know the tracing group, and the genuine daemon dies of that.
ANY_GROUP = () if is_real_root() else ("--group=no-such-group",)
both_users = pytest.mark.parametrize("is_root", [True, False], ids=["root", "ordinary"])


@both_users
@pytest.mark.parametrize("options", [[], ["--daemonize"], ["--background"], ["--apps-sock=/tmp/tf-elsewhere"]])
def test_a_second_daemon_is_refused(make_fleet: Callable[..., Fleet], is_root: bool, options: list[str]) -> None:
    fleet = make_fleet(is_root=is_root)
    first = fleet.start_daemon()
    result = fleet.world.run([OURS.session_daemon, *options])
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.splitlines()[-1] == ALREADY_RUNNING
    assert first.is_running()
    assert fleet.daemon_pid() == first.pid
    assert fleet.wait_page_word() == 1
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(fleet.application_socket))


@both_users
def test_of_many_that_start_together_one_stays(make_fleet: Callable[..., Fleet], is_root: bool) -> None:
    fleet = make_fleet(is_root=is_root)
    daemons = [fleet.start_daemon(is_awaited=False) for _ in range(6)]
    wait_until(lambda: sum(daemon.is_running() for daemon in daemons) == 1, "all but one daemon to give up")
    (winner,) = (daemon for daemon in daemons if daemon.is_running())
    assert {daemon.process.returncode for daemon in daemons if daemon is not winner} == {1}
    wait_until(lambda: fleet.wait_page_word() == 1, "the daemon to be ready")
    assert fleet.daemon_pid() == winner.pid
    assert winner.stop() == 0


@pytest.mark.skipif(not has_genuine(), reason="lttng-tools is not installed")
@pytest.mark.parametrize(("first", "second"), [(OURS, GENUINE), (GENUINE, OURS)], ids=["ours first", "genuine first"])
@pytest.mark.parametrize("mode", ["--daemonize", "--background"])
def test_daemons_of_both_kinds_refuse_each_other(
    make_fleet: Callable[..., Fleet], first: Kind, second: Kind, mode: str
) -> None:
    fleet = make_fleet(first)
    result = fleet.world.run([first.session_daemon, "--no-kernel", *ANY_GROUP, mode])
    assert result.returncode == 0, result
    pid = fleet.daemon_pid()
    result = fleet.world.run([second.session_daemon, "--no-kernel", *ANY_GROUP])
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1] == ALREADY_RUNNING
    assert fleet.daemon_pid() == pid


@both_users
def test_a_daemon_that_was_killed_is_succeeded(make_fleet: Callable[..., Fleet], is_root: bool) -> None:
    fleet = make_fleet(is_root=is_root)
    fleet.start_daemon().kill()
    left = {path.name for path in fleet.world.run_directory.iterdir()}
    assert {"lttng-sessiond.pid", "lttng-sessiond.lck", "lttng-ust-sock-8", "tracefleet-sessiond"} <= left
    assert fleet.wait_page_word() == 1
    second = fleet.start_daemon()
    assert fleet.daemon_pid() == second.pid
    assert second.stop() == 0
    assert list(fleet.world.run_directory.iterdir()) == []


@pytest.mark.skipif(not has_genuine(), reason="lttng-tools is not installed")
@pytest.mark.parametrize(("first", "second"), [(OURS, GENUINE), (GENUINE, OURS)], ids=["ours first", "genuine first"])
def test_a_killed_daemon_of_the_other_kind_is_succeeded(
    make_fleet: Callable[..., Fleet], first: Kind, second: Kind
) -> None:
    fleet = make_fleet(first)
    fleet.start_daemon(*ANY_GROUP).kill()
    fleet.kind = second
    assert fleet.start_daemon(*ANY_GROUP).stop() == 0


@pytest.mark.root
def test_each_user_has_a_daemon_of_their_own(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    root_daemon = fleet.start_daemon()
    user_daemon = fleet.start_daemon(uid=65534)
    assert fleet.daemon_pid(0) == root_daemon.pid
    assert fleet.daemon_pid(65534) == user_daemon.pid
    assert user_daemon.stop() == 0
    assert (fleet.wait_page_word(0), fleet.wait_page_word(65534)) == (1, 0)
    assert root_daemon.is_running()
