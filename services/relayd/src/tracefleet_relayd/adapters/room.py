"""Tells a disk that is full from what else can go wrong with it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from tracefleet_relayd.application.ports import NoRoom
from tracefleet_relayd.application.stream_files import NO_ROOM_ERRORS


@contextlib.contextmanager
def saying_no_room() -> Iterator[None]:
    """OSError becomes NoRoom where it says so."""
    try:
        yield
    except OSError as error:
        if error.errno in NO_ROOM_ERRORS:
            raise NoRoom from error
        raise
