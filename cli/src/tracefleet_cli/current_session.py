"""The current session: one line `session=NAME` in `$LTTNG_HOME/.lttngrc`, as `lttng` writes it."""

from __future__ import annotations

import os

FILE_NAME = ".lttngrc"
FILE_SIZE_BYTES_MAX = 4096


class NoCurrentSession(Exception):
    """`path` names no session; `is_missing`: there is no such file at all."""

    def __init__(self, path: str, *, is_missing: bool) -> None:
        super().__init__(path)
        self.path = path
        self.is_missing = is_missing


def read(home: str) -> str:
    """The name of the current session. Raises NoCurrentSession."""
    path = f"{home}/{FILE_NAME}"
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            lines = file.read(FILE_SIZE_BYTES_MAX).splitlines()
    except OSError:
        raise NoCurrentSession(path, is_missing=True) from None
    for line in lines:
        key, _, name = line.partition("=")
        if key == "session" and name:
            return name
    raise NoCurrentSession(path, is_missing=False)


def write(home: str, name: str) -> None:
    """Make `name` the current session. Raises OSError."""
    with open(f"{home}/{FILE_NAME}", "w", encoding="utf-8") as file:
        file.write(f"session={name}\n")


def forget(home: str, name: str) -> None:
    """There is no current session any more, if it was `name`. Raises OSError."""
    try:
        if read(home) == name:
            os.unlink(f"{home}/{FILE_NAME}")
    except NoCurrentSession:
        pass
