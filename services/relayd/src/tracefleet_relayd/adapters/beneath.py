"""Files below a base directory, by relative path, so that no name from the network leads out of it.

Every component is opened relative to its parent and never followed when it is a symbolic link. The base itself is
the administrator's: it may be a link, and may be removed and made again at any time.
"""

from __future__ import annotations

import contextlib
import os
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import TypeVar

from tracefleet_common.errors import InvalidArgument

T = TypeVar("T")

COMPONENT_COUNT_MAX = 64
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC


def components(path: str) -> list[str]:
    """The names that a relative path consists of. Raises InvalidArgument where one could lead elsewhere."""
    names = path.split("/")
    if len(names) > COMPONENT_COUNT_MAX:
        raise InvalidArgument(f"A path has {len(names)} components, at most {COMPONENT_COUNT_MAX} are possible")
    for name in names:
        if name in ("", ".", "..") or "\0" in name:
            raise InvalidArgument(f"Not a path below the output directory: {path!r}")
    return names


@contextlib.contextmanager
def opened_parent(base: str, path: str) -> Iterator[tuple[int, str]]:
    """The directory that `path` lies in, as a descriptor for `dir_fd`, and the last name.

    Raises InvalidArgument, OSError; a symbolic link on the way is NotADirectoryError.
    """
    *directories, name = components(path)
    parent = _walk(base, directories)
    try:
        yield parent, name
    finally:
        os.close(parent)


def _walk(base: str, names: list[str]) -> int:
    directory = os.open(base, _DIRECTORY)
    for name in names:
        try:
            deeper = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
        finally:
            os.close(directory)
        directory = deeper
    return directory


def open_beneath(base: str, path: str, flags: int, mode: int = 0o666) -> int:
    """As open(2). A symbolic link at the end is OSError(ELOOP)."""
    with opened_parent(base, path) as (parent, name):
        return os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=parent)


def stat_beneath(base: str, path: str) -> os.stat_result:
    """Of the thing itself, also when it is a symbolic link."""
    with opened_parent(base, path) as (parent, name):
        return os.stat(name, dir_fd=parent, follow_symlinks=False)


def make_directories(base: str, path: str, mode: int) -> None:
    """Make the base and every directory on the way that is not there. The mask applies to `mode`."""
    os.makedirs(base, mode, exist_ok=True)
    directory = os.open(base, _DIRECTORY)
    try:
        for name in components(path):
            with contextlib.suppress(FileExistsError):
                os.mkdir(name, mode, dir_fd=directory)
            deeper = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)
            os.close(directory)
            directory = deeper
    finally:
        os.close(directory)


def sync_directories(base: str, path: str) -> None:
    """The directories on the way to `path`, and the base: their entries outlive the machine. Raises OSError."""
    names = components(path)
    for depth in range(len(names)):
        directory = _walk(base, names[:depth])
        try:
            readable = os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        finally:
            os.close(directory)
        try:
            os.fsync(readable)
        finally:
            os.close(readable)


class KeptParents:
    """Keeps a few directories open, for files that are looked at again and again. Only for files that exist:

    a directory that somebody moved is still found here, and a new file would go to where it is now.
    """

    def __init__(self, base: str, count_max: int) -> None:
        self._base = base
        self._count_max = count_max
        self._kept: OrderedDict[str, int] = OrderedDict()  # the one used longest ago is first

    def open(self, path: str, flags: int) -> int:
        """As `open_beneath`, for a file that exists."""
        return self._try(path, lambda parent, name: os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent))

    def stat(self, path: str) -> os.stat_result:
        """As `stat_beneath`."""
        return self._try(path, lambda parent, name: os.stat(name, dir_fd=parent, follow_symlinks=False))

    def forget(self) -> None:
        """After a rename: paths mean other directories now. And at the end."""
        while self._kept:
            os.close(self._kept.popitem()[1])

    def _try(self, path: str, call: Callable[[int, str], T]) -> T:
        directory, _, name = path.rpartition("/")
        if directory in self._kept:
            self._kept.move_to_end(directory)
            try:
                return call(self._kept[directory], name)
            except FileNotFoundError:
                os.close(self._kept.pop(directory))  # it may be another directory that has the name now
        parent = _walk(self._base, components(path)[:-1])
        self._kept[directory] = parent
        if len(self._kept) > self._count_max:
            os.close(self._kept.popitem(last=False)[1])
        return call(parent, name)
