"""How the session daemon starts, tells that it is ready, stops, and what its exit statuses say."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from deadlines import DEADLINE_S, wait_until
from fleet import OURS, Fleet, is_real_root
from world import VENV_BIN, Result, is_alive

RELAY_DAEMON = VENV_BIN / "tracefleet-relayd"


def start(fleet: Fleet, *options: str | Path) -> Result:
    return fleet.world.run([OURS.session_daemon, *options])


def is_a_daemon(pid: int) -> bool:
    """Leads a session without a terminal, in the root directory."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    session, terminal = int(fields[3]), int(fields[4])
    return session == pid and terminal == 0 and Path(f"/proc/{pid}/cwd").readlink() == Path("/")


def console_of(pid: int) -> list[str]:
    return [str(Path(f"/proc/{pid}/fd/{descriptor}").readlink()) for descriptor in (0, 1, 2)]


@pytest.mark.parametrize("is_root", [True, False], ids=["root", "ordinary"])
@pytest.mark.parametrize("mode", ["--daemonize", "--background"])
def test_a_unix_daemon_is_ready_when_its_parent_returns(
    make_fleet: Callable[..., Fleet], is_root: bool, mode: str
) -> None:
    fleet = make_fleet(is_root=is_root)
    result = start(fleet, mode)
    assert result.returncode == 0, result
    pid = fleet.daemon_pid()
    assert pid is not None
    assert fleet.wait_page_word() == 1
    assert is_a_daemon(pid)
    if mode == "--daemonize":
        assert console_of(pid) == ["/dev/null"] * 3
    else:
        assert "/dev/null" not in console_of(pid)[1:]
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_alive(pid), "the daemon to stop")
    assert list(fleet.world.run_directory.iterdir()) == []


def test_a_unix_daemon_holds_no_pipe_of_its_caller(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    process = fleet.world.popen(
        ["sh", "-c", f"exec 9>&1; exec {OURS.session_daemon} --daemonize"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    # Ends only when nobody holds the pipes any more.
    process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0
    assert fleet.daemon_pid() is not None


@pytest.mark.parametrize("mode", ["--daemonize", "--background"])
def test_a_caller_without_a_console(make_fleet: Callable[..., Fleet], mode: str) -> None:
    fleet = make_fleet()
    result = fleet.world.run(["sh", "-c", f"exec {OURS.session_daemon} {mode} <&- >&- 2>&-"])
    assert result.returncode == 0
    pid = fleet.daemon_pid()
    assert pid is not None
    assert console_of(pid) == ["/dev/null"] * 3


@pytest.mark.parametrize("mode", ["--daemonize", "--background"])
def test_a_unix_daemon_that_cannot_start_says_why(make_fleet: Callable[..., Fleet], mode: str) -> None:
    fleet = make_fleet()
    result = start(fleet, mode, "--apps-sock=/nonexistent/socket")
    assert result.returncode == 1
    assert "Error: Cannot listen on the application socket /nonexistent/socket" in result.stderr
    assert list(fleet.world.run_directory.iterdir()) == []
    assert fleet.world.pids_of(OURS.session_daemon.name) == []


def test_the_parent_is_signalled_when_the_daemon_is_ready(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    seen = fleet.world.home / "seen"
    script = f"""
        trap 'cp /run/lttng/lttng-sessiond.pid {seen}' USR1
        {OURS.session_daemon} --sig-parent &
        while ! [ -e {seen} ]; do wait $! || [ $? -gt 128 ] || exit 99; done
        kill $!
        wait $!
    """
    result = fleet.world.run(["sh", "-c", script])
    assert result.returncode == 0, result
    assert seen.read_text().strip().isdigit()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_that_stop_in_order(make_fleet: Callable[..., Fleet], number: signal.Signals) -> None:
    fleet = make_fleet()
    daemon = fleet.start_daemon()
    daemon.process.send_signal(number)
    assert daemon.process.wait(DEADLINE_S) == 0
    assert list(fleet.world.run_directory.iterdir()) == []


def test_a_signal_before_it_is_ready_stops_in_order(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    daemon = fleet.start_daemon(is_awaited=False)
    wait_until(lambda: (fleet.world.run_directory / "lttng-sessiond.lck").exists(), "the daemon to begin")
    assert daemon.stop() == 0
    assert list(fleet.world.run_directory.iterdir()) == []


def test_a_broken_pipe_does_not_kill(fleet: Fleet) -> None:
    assert fleet.daemon is not None
    ignored = next(
        int(line.split()[1], 16)
        for line in Path(f"/proc/{fleet.daemon.pid}/status").read_text().splitlines()
        if line.startswith("SigIgn:")
    )
    assert ignored & (1 << (signal.SIGPIPE - 1))


def test_a_user_gets_as_many_open_files_as_the_limit_allows(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(is_root=False)
    result = fleet.world.run(["prlimit", "--nofile=256:2048", OURS.session_daemon, "--daemonize"])
    assert result.returncode == 0, result
    limits = Path(f"/proc/{fleet.daemon_pid()}/limits").read_text()
    line = next(line for line in limits.splitlines() if line.startswith("Max open files"))
    assert line.split()[3:5] == ["2048", "2048"]


# ---- configuration files ----


def test_a_configuration_file_is_as_good_as_options(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(is_root=False)
    home = fleet.world.home
    run_directory = home / ".lttng"
    run_directory.mkdir(mode=0o700)
    if is_real_root():
        os.chown(run_directory, fleet.world.uid, fleet.world.uid)
    (run_directory / "lttng.conf").write_text(f"[sessiond]\napps-sock={home}/from-home\npidfile={home}/pid\n")
    (home / "extra.conf").write_text(f"[sessiond]\napps-sock={home}/from-extra\ndaemonize=yes\nbogus=1\n")
    result = start(fleet, "--config", home / "extra.conf")
    assert result.returncode == 0, result
    assert "Unrecognized option in configuration file: option=bogus" in result.stderr
    assert (home / "from-extra").is_socket()
    assert not (home / "from-home").exists()
    assert is_a_daemon(int((home / "pid").read_text()))


def test_a_configuration_file_that_is_broken_or_missing(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    result = start(fleet, "--config=/nonexistent")
    assert result.returncode == 1
    assert "Error: Failed to open daemon configuration file at /nonexistent" in result.stderr
    broken = fleet.world.home / "broken.conf"
    broken.write_text("[sessiond\n")
    result = start(fleet, f"--config={broken}")
    assert result.returncode == 1
    assert f"Error: {broken}, line 1: a section name without `]`" in result.stderr


# ---- information and refusals ----


@pytest.mark.parametrize("program", [OURS.session_daemon, RELAY_DAEMON], ids=["sessiond", "relayd"])
def test_information(make_fleet: Callable[..., Fleet], program: Path) -> None:
    world = make_fleet().world
    version = world.run([program, "-V"])
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout.strip().replace(".", "").isdigit()
    help_text = world.run([program, "--help"])
    assert help_text.returncode == 0
    assert "-V, --version" in help_text.stdout
    options = world.run([program, "--list-options"])
    assert options.returncode == 0
    assert {"--help", "-h", "--version", "-V", "--list-options"} <= set(options.stdout.split())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--bogus"], "--bogus: unknown option"),
        (["--group"], "--group: missing argument"),
        (["--daemonize=yes"], "--daemonize=yes: option does not take an argument"),
        (["start"], "start: unexpected argument"),
        (["--load=/x"], "--load: recording session configurations cannot be loaded in this release"),
        (["-c", "/x"], "--client-sock: the LTTng client socket is not available in this release"),
        (["--kmod-probes=x"], "--kmod-probes: the kernel tracing domain is not available in this release"),
    ],
)
def test_words_that_are_refused(make_fleet: Callable[..., Fleet], options: list[str], message: str) -> None:
    fleet = make_fleet()
    result = start(fleet, *options)
    assert (result.returncode, result.stdout, result.stderr) == (1, "", f"Error: {message}\n")
    assert list(fleet.world.run_directory.iterdir()) == []


def test_quiet_says_nothing_even_of_errors(make_fleet: Callable[..., Fleet]) -> None:
    result = start(make_fleet(), "--quiet", "--group=no-such-group", "--apps-sock=/nonexistent/socket")
    assert (result.returncode, result.stdout, result.stderr) == (1, "", "")
