"""What a session daemon puts into its run directory and shared memory: names, owners, modes; and that it goes."""

from __future__ import annotations

import grp
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet import GENUINE, OURS, WAIT_PAGE, Fleet, has_genuine, is_real_root

# What both kinds of daemon have, relative to the run directory.
COMMON_FILES = (
    ".",
    "lttng-sessiond.lck",
    "lttng-sessiond.pid",
    "lttng-ust-sock-8",
    "ustconsumerd64",
)
# A user namespace of an ordinary user cannot know the tracing group, and the genuine daemon dies of that.
ANY_GROUP = () if is_real_root() else ("--group=no-such-group",)
both_users = pytest.mark.parametrize("is_root", [True, False], ids=["root", "ordinary"])


def facts(path: Path) -> tuple[str, int, int]:
    """Kind and mode as `ls -l` shows them, owner, group."""
    status = path.lstat()
    return stat.filemode(status.st_mode), status.st_uid, status.st_gid


def wait_page(fleet: Fleet) -> Path:
    name = WAIT_PAGE if fleet.world.uid == 0 else f"{WAIT_PAGE}-{fleet.world.uid}"
    return fleet.world.path("/dev/shm") / name


def facts_of(fleet: Fleet) -> dict[str, tuple[str, int, int]]:
    found = {name: facts(fleet.world.run_directory / name) for name in COMMON_FILES}
    return {**found, "wait page": facts(wait_page(fleet))}


@both_users
def test_files_are_those_of_the_genuine_daemon(make_fleet: Callable[..., Fleet], is_root: bool) -> None:
    if not has_genuine():
        pytest.skip("lttng-tools is not installed: nothing to compare with")
    ours, genuine = make_fleet(OURS, is_root=is_root), make_fleet(GENUINE, is_root=is_root)
    ours.start_daemon(*ANY_GROUP)
    genuine.start_daemon(*ANY_GROUP)
    assert facts_of(ours) == facts_of(genuine)
    assert wait_page(ours).stat().st_size == wait_page(genuine).stat().st_size


@pytest.mark.root
def test_the_tracing_group_may_control_a_root_daemon(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    fleet.start_daemon("--group=daemon")
    group_id = grp.getgrnam("daemon").gr_gid
    assert facts(fleet.world.run_directory / "tracefleet-sessiond") == ("srw-rw----", 0, group_id)
    assert facts(fleet.world.run_directory) == ("drwxr-xr-x", 0, group_id)
    assert facts(fleet.world.run_directory / "ustconsumerd64") == ("drwxr-x---", 0, group_id)


def test_without_the_tracing_group_only_root_controls(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    daemon = fleet.start_daemon("--group=no-such-group")
    mode, _, group_id = facts(fleet.world.run_directory / "tracefleet-sessiond")
    assert (mode, group_id) == ("srw-rw----", facts(fleet.world.run_directory / "lttng-sessiond.pid")[2])
    assert "No tracing group detected" in daemon.log.read_text()


@both_users
def test_modes_do_not_depend_on_the_mask_of_the_caller(make_fleet: Callable[..., Fleet], is_root: bool) -> None:
    fleet = make_fleet(is_root=is_root)
    result = fleet.world.run(["sh", "-c", f"umask 077; exec {OURS.session_daemon} --daemonize"])
    assert result.returncode == 0, result
    modes = {name: mode for name, (mode, _, _) in facts_of(fleet).items()}
    assert modes["lttng-ust-sock-8"] == "srw-rw-rw-"
    assert modes["."] == ("drwxr-xr-x" if is_root else "drwx------")
    assert modes["ustconsumerd64"] == "drwxr-x---"
    assert modes["wait page"] == ("-rw-rw-r--" if is_root else "-rw-rw----")
    assert facts(fleet.world.run_directory / "tracefleet-sessiond")[0] == "srw-rw----"


@both_users
def test_an_orderly_stop_leaves_nothing(make_fleet: Callable[..., Fleet], is_root: bool) -> None:
    fleet = make_fleet(is_root=is_root)
    daemon = fleet.start_daemon()
    assert daemon.stop() == 0
    assert list(fleet.world.run_directory.iterdir()) == []
    assert fleet.wait_page_word() == 0


def test_files_can_be_elsewhere(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(is_root=False)
    home = fleet.world.home
    with_paths = ["--apps-sock=apps", "--pidfile=pid", f"--ustconsumerd64-cmd-sock={home}/command"]
    result = fleet.world.run(
        ["sh", "-c", f"cd {home} && exec {OURS.session_daemon} --background {' '.join(with_paths)}"]
    )
    assert result.returncode == 0, result
    assert facts(home / "apps")[0] == "srw-rw-rw-"
    assert int((home / "pid").read_text()) in fleet.world.pids_of(OURS.session_daemon.name)
    assert not (fleet.world.run_directory / "lttng-ust-sock-8").exists()
    assert not (fleet.world.run_directory / "lttng-sessiond.pid").exists()


@pytest.mark.parametrize("name", ["lttng-sessiond.pid", "lttng-sessiond.lck"])
def test_a_symbolic_link_is_not_followed(make_fleet: Callable[..., Fleet], name: str) -> None:
    fleet = make_fleet()
    victim = fleet.world.home / "victim"
    victim.write_text("precious")
    (fleet.world.run_directory / name).symlink_to(victim)
    result = fleet.world.run([OURS.session_daemon])
    assert result.returncode == 1
    assert f"{name}: it is a symbolic link" in result.stderr
    assert victim.read_text() == "precious"


def test_a_file_in_the_place_of_a_socket_is_left_alone(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    for name in ("tracefleet-sessiond", "lttng-ust-sock-8"):
        path = fleet.world.run_directory / name
        path.write_text("precious")
        result = fleet.world.run([OURS.session_daemon])
        assert result.returncode == 1
        assert f"{name} exists and is not a socket" in result.stderr
        assert path.read_text() == "precious"
        path.unlink()
    assert list(fleet.world.run_directory.iterdir()) == []


def test_a_path_too_long_for_a_socket_is_refused_before_anything_is_made(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(is_root=False)
    home = fleet.world.home / ("deep" * 30)
    home.mkdir(mode=0o777)
    result = fleet.world.run([OURS.session_daemon], env={"LTTNG_HOME": str(home)})
    assert result.returncode == 1
    assert "a Unix socket allows 107" in result.stderr
    assert list(home.iterdir()) == []


def test_a_home_that_is_not_there_is_refused(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(is_root=False)
    result = fleet.world.run([OURS.session_daemon], env={"LTTNG_HOME": "/nonexistent"})
    assert result.returncode == 1
    assert "Cannot make the run directory /nonexistent/.lttng: No such file or directory" in result.stderr


@pytest.mark.root
def test_the_run_directory_of_somebody_else_is_refused(make_fleet: Callable[..., Fleet]) -> None:
    assert is_real_root()
    fleet = make_fleet(is_root=False)
    (fleet.world.home_of(0) / ".lttng").mkdir(mode=0o777)
    (fleet.world.home_of(0) / ".lttng").chmod(0o777)
    result = fleet.world.run([OURS.session_daemon], env={"LTTNG_HOME": str(fleet.world.home_of(0))})
    assert result.returncode == 1
    assert "belongs to another user" in result.stderr
