"""Programs that wait for a session daemon are woken when one comes, whoever made the page they wait on."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

import pytest
from deadlines import wait_until
from fleet import OURS, WAIT_PAGE, Fleet, Kind

both_users = pytest.mark.parametrize("is_root", [True, False], ids=["root", "ordinary"])


@both_users
def test_a_program_that_waits_is_woken(make_fleet: Callable[..., Fleet], is_root: bool) -> None:
    fleet = make_fleet(is_root=is_root)
    # It made the page itself, and sleeps on it: nothing but a wake-up lets it register.
    program = fleet.program()
    wait_until(lambda: fleet.wait_page_word() == 0, "the program to make the page")
    fleet.start_daemon()
    fleet.wait_registered(program.pid)


@both_users
def test_a_program_outlives_daemons_and_finds_the_next(
    make_fleet: Callable[..., Fleet], kind_under_test: Kind, is_root: bool
) -> None:
    fleet = make_fleet(kind_under_test, is_root=is_root)
    daemon = fleet.start_daemon()
    program = fleet.program()
    fleet.wait_registered(program.pid)
    assert daemon.stop() == 0
    assert fleet.wait_page_word() == 0, "programs would poll instead of sleep"
    daemon = fleet.start_daemon()
    fleet.wait_registered(program.pid)
    daemon.kill()
    assert fleet.wait_page_word() == 1
    fleet.start_daemon()
    fleet.wait_registered(program.pid)


@pytest.mark.root
def test_root_takes_over_the_page_that_a_users_program_made(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    program = fleet.program(uid=65534)
    page = fleet.world.path("/dev/shm") / WAIT_PAGE
    wait_until(page.exists, "the program to make the page")
    assert page.stat().st_uid == 65534
    fleet.start_daemon()
    assert (page.stat().st_uid, page.stat().st_gid, stat.S_IMODE(page.stat().st_mode)) == (0, 0, 0o664)
    fleet.wait_registered(program.pid)


@pytest.mark.root
def test_a_page_that_somebody_else_made_for_a_user_is_refused(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(is_root=False)
    page = fleet.world.path("/dev/shm") / f"{WAIT_PAGE}-{fleet.world.uid}"
    page.touch()
    os.chown(page, 1234, 1234)
    for mode in (0o666, 0o600):
        page.chmod(mode)
        result = fleet.world.run([OURS.session_daemon])
        assert result.returncode == 1
        assert f"{page.name}" in result.stderr
        assert "belongs to user 1234" in result.stderr
        assert list(fleet.world.run_directory.iterdir()) == []
