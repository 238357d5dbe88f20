"""The page on which programs wait: how it is made, taken over and written."""

from __future__ import annotations

import mmap
import os
import stat
import sys
from pathlib import Path

import pytest

from tracefleet_common.errors import PermissionRefused
from tracefleet_sessiond.adapters.wait_page import ROOT_NAME, WaitPage

USER_ID = os.geteuid()
NAME = ROOT_NAME if USER_ID == 0 else f"{ROOT_NAME}-{USER_ID}"
MODE = 0o664 if USER_ID == 0 else 0o660


def open_page(directory: Path) -> WaitPage:
    return WaitPage.open(USER_ID, os.getegid(), directory=str(directory))


def word_of(path: Path) -> int:
    return int.from_bytes(path.read_bytes()[:4], sys.byteorder)


def test_a_new_page_says_that_no_daemon_listens(tmp_path: Path) -> None:
    open_page(tmp_path).close()
    status = (tmp_path / NAME).stat()
    assert status.st_size == mmap.PAGESIZE
    assert stat.S_IMODE(status.st_mode) == MODE
    assert (status.st_uid, status.st_gid) == (USER_ID, os.getegid())
    assert word_of(tmp_path / NAME) == 0


def test_the_word_tells_whether_a_daemon_listens(tmp_path: Path) -> None:
    page = open_page(tmp_path)
    page.announce()
    assert word_of(tmp_path / NAME) == 1
    page.withdraw()
    assert word_of(tmp_path / NAME) == 0
    page.close()


def test_the_page_of_a_daemon_that_died_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / NAME
    path.write_bytes(b"\1" + bytes(mmap.PAGESIZE - 1))
    path.chmod(0o600)
    open_page(tmp_path).close()
    assert word_of(path) == 0
    assert stat.S_IMODE(path.stat().st_mode) == MODE


def test_an_empty_page_that_a_program_made_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / NAME).touch()
    open_page(tmp_path).close()
    assert (tmp_path / NAME).stat().st_size == mmap.PAGESIZE


def test_a_page_that_somebody_made_short_is_still_written(tmp_path: Path) -> None:
    page = open_page(tmp_path)
    os.truncate(tmp_path / NAME, 0)
    page.announce()
    assert word_of(tmp_path / NAME) == 1
    page.close()


def test_a_symbolic_link_is_refused_and_named(tmp_path: Path) -> None:
    (tmp_path / "victim").touch(0o600)
    (tmp_path / NAME).symlink_to(tmp_path / "victim")
    with pytest.raises(PermissionRefused, match=f"{NAME}.*symbolic link, made by user {USER_ID}"):
        open_page(tmp_path)
    assert (tmp_path / "victim").stat().st_size == 0


def test_a_second_name_of_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "victim").touch(0o600)
    (tmp_path / NAME).hardlink_to(tmp_path / "victim")
    with pytest.raises(PermissionRefused, match="not a plain file"):
        open_page(tmp_path)
    assert stat.S_IMODE((tmp_path / "victim").stat().st_mode) == 0o600


def test_a_fifo_is_refused_and_nobody_waits_for_its_other_end(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / NAME)
    with pytest.raises(PermissionRefused, match="not a plain file"):
        open_page(tmp_path)


def test_a_directory_is_refused(tmp_path: Path) -> None:
    (tmp_path / NAME).mkdir()
    with pytest.raises(PermissionRefused, match="belongs to user"):
        open_page(tmp_path)
