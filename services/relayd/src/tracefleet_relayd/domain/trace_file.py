"""One data file of a stream, with its index file: for the stream where packets go, for viewers a segment."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Protocol

from tracefleet_relayd.domain import names
from tracefleet_relayd.domain.trace_chunk import TraceChunk


class OpenedFile(Protocol):
    """A file that is open for reading. It stays the same file when its name is moved, unlinked or given to another."""

    def size_bytes(self) -> int: ...
    def read(self, offset_bytes: int, size_bytes: int) -> bytes: ...
    def use(self) -> AbstractContextManager[int]: ...
    def close(self) -> None: ...


class FileOpener(Protocol):
    """Opens files for reading."""

    def open_for_reading(self, path: str) -> OpenedFile:
        """`path`: relative to the output directory of the relay daemon. Raises OSError."""


@dataclass(eq=False)
class TraceFile:
    """`directory`: of the stream in its chunk. `number`: None when the stream has one file per chunk only."""

    chunk: TraceChunk
    directory: str
    channel_name: str
    number: int | None
    opener: FileOpener = field(repr=False)
    end_bytes: int = 0  # behind the last whole packet
    has_index_file: bool = False
    entry_count: int = 0
    first_position: int = -1  # of its first index entry, in the count of the stream; -1: has none yet
    is_removed: bool = False

    @property
    def name(self) -> str:
        return names.data_file_name(self.channel_name, self.number)

    @property
    def is_gone(self) -> bool:
        """Nobody can open it any more."""
        return self.is_removed or self.chunk.is_removed

    @property
    def relative_path(self) -> str:
        """In its chunk, whose place may change."""
        return f"{self.directory}/{self.name}"

    @property
    def relative_index_path(self) -> str:
        return names.index_path(self.directory, self.name)

    @property
    def path(self) -> str:
        return self.chunk.path_of(self.relative_path)

    @property
    def index_path(self) -> str:
        return self.chunk.path_of(self.relative_index_path)

    def open_data(self) -> OpenedFile:
        """Raises OSError."""
        return self.opener.open_for_reading(self.path)

    def open_index(self) -> OpenedFile:
        """Raises OSError."""
        return self.opener.open_for_reading(self.index_path)
