"""Files below a base directory, by relative path, so that no name from the network leads out of it.

Every component is opened relative to its parent and never followed when it is a symbolic link. The base itself is
the administrator's: it may be a link, and may be removed and made again at any time.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

from tracefleet_common.errors import InvalidArgument

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
