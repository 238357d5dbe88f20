"""Files without a name that are still read: they wait in `.unlinked` below the base until nobody does.

Every process has a directory of its own there, locked while it lives, so that daemons with the same output directory
do not meet, and one that was killed leaves nothing for ever.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets

log = logging.getLogger("tracefleet.relayd.unlinked-files")

UNLINKED_DIRECTORY = ".unlinked"
DIRECTORY_MODE = 0o770
_ATTEMPTS_MAX = 100  # each lost to another daemon that tidies up at this very moment
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class UnlinkedFiles:
    """Made on demand, removed when it is empty."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._name = secrets.token_hex(8)
        self._lock: int | None = None  # the directory, open
        self._next_number = 0
        self._count = 0

    def take_in(self, parent: int, name: str) -> str:
        """Move the file `name` of the directory `parent` here. Returns its new path below the base."""
        if self._lock is None:
            self._lock = self._make()
        number = self._next_number
        self._next_number += 1
        os.rename(name, str(number), src_dir_fd=parent, dst_dir_fd=self._lock)
        self._count += 1
        return f"{UNLINKED_DIRECTORY}/{self._name}/{number}"

    def discard(self, path: str) -> None:
        """Nobody reads the file any more. `path`: as `take_in` returned it."""
        assert self._lock is not None, "it was taken in"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(os.path.basename(path), dir_fd=self._lock)
        self._count -= 1
        if self._count == 0:
            self.close()

    def close(self) -> None:
        """Remove the directory, if it is empty."""
        if self._lock is None:
            return
        parent = self._path()
        with contextlib.suppress(OSError):
            os.rmdir(f"{parent}/{self._name}")
        with contextlib.suppress(OSError):  # another daemon has its own in it
            os.rmdir(parent)
        os.close(self._lock)
        self._lock = None

    def remove_left_over(self) -> None:
        """Remove the files of processes that are gone."""
        try:
            parent = os.open(self._path(), _DIRECTORY)
        except OSError:
            return
        try:
            for name in os.listdir(parent):
                try:
                    _remove_if_abandoned(parent, name)
                except OSError as error:
                    log.info("Left in the directory of unlinked files: name=%s, error=%s", name, error.strerror)
        finally:
            os.close(parent)
        with contextlib.suppress(OSError):
            os.rmdir(self._path())

    def _path(self) -> str:
        return f"{self._base}/{UNLINKED_DIRECTORY}"

    def _make(self) -> int:
        for _ in range(_ATTEMPTS_MAX):
            with contextlib.suppress(FileExistsError):
                os.mkdir(self._path(), DIRECTORY_MODE)
            try:
                parent = os.open(self._path(), _DIRECTORY)
            except FileNotFoundError:
                continue
            try:
                os.mkdir(self._name, DIRECTORY_MODE, dir_fd=parent)
                directory = os.open(self._name, _DIRECTORY, dir_fd=parent)
                try:
                    fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    if os.path.samestat(os.fstat(directory), os.stat(self._name, dir_fd=parent)):
                        return directory
                except OSError:
                    os.close(directory)
                    raise
                os.close(directory)
            except (FileNotFoundError, FileExistsError, BlockingIOError):
                self._name = secrets.token_hex(8)
            finally:
                os.close(parent)
        raise BlockingIOError(f"Cannot make a directory in {self._path()}")


def _remove_if_abandoned(parent: int, name: str) -> None:
    directory = os.open(name, _DIRECTORY, dir_fd=parent)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for file in os.listdir(directory):
            os.unlink(file, dir_fd=directory)
        os.rmdir(name, dir_fd=parent)
    finally:
        os.close(directory)
