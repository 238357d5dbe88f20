"""A file of the descriptor tracker as serving viewers wants it."""

from __future__ import annotations

import os

from tracefleet_relayd.adapters.fd_tracker import FileHandle


class ViewedFile:
    """Takes the handle over: `close` closes it."""

    def __init__(self, handle: FileHandle) -> None:
        self._handle = handle

    def size_bytes(self) -> int:
        with self._handle as descriptor:
            return os.fstat(descriptor).st_size

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        with self._handle as descriptor:
            return os.pread(descriptor, size_bytes, offset_bytes)

    def use(self) -> FileHandle:
        """A context manager that gives the descriptor."""
        return self._handle

    def close(self) -> None:
        self._handle.close()
