"""Trace chunks: the directory in which streams write between two rotations, and how it moves when they rotate.

Nothing is moved here: what has to be done on disk comes out as steps, in order. All steps and paths are relative to
the output directory of the relay daemon.

```
 created ──▶ "" or its name ──next chunk created──▶ .tmp_old_chunk ──closed──▶ its final place, when the last
    └───────▶ .tmp_new_chunk ──the old one closed──▶ "" or its name           stream has left: archived, deleted, back
```
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from tracefleet_common.codecs.lttng_relay import CloseCommand
from tracefleet_relayd.domain import names

SESSION_DIRECTORY: Final = ""
OLD_CHUNK: Final = ".tmp_old_chunk"
NEW_CHUNK: Final = ".tmp_new_chunk"


@dataclass(frozen=True)
class MakeDirectory:
    """Its parents too. It may be there."""

    path: str


@dataclass(frozen=True)
class Rename:
    """A file or a directory. The source need not be there: a stream may not have written anything yet."""

    source: str
    target: str


@dataclass(frozen=True)
class RemoveDirectory:
    """When it is empty."""

    path: str


@dataclass(frozen=True)
class RemoveFile:
    """Whoever has it open keeps it. It need not be there."""

    path: str


Step = MakeDirectory | Rename | RemoveDirectory | RemoveFile


def put_aside_left_over(output: str, now_s: int) -> list[Step]:
    """What a relay daemon left that was killed during a rotation: readable, and in nobody's way."""
    at = names.chunk_time(now_s)
    return [
        Rename(names.joined(output, location), names.joined(output, f"interrupted-{at}-{what}"))
        for location, what in ((OLD_CHUNK, "old"), (NEW_CHUNK, "new"))
    ]


@dataclass(eq=False)
class TraceChunk:
    """One chunk. `output`: directory of the session. `location`: below that; it changes."""

    output: str
    chunk_id: int | None  # None: the only chunk of a session before minor 11
    creation_time_s: int
    location: str
    override_name: str | None = None
    close_time_s: int | None = None
    close_command: CloseCommand | None = None
    is_removed: bool = False
    files: set[str] = field(default_factory=set)  # made in this chunk; relative to it
    directories: set[str] = field(default_factory=set)  # likewise, with their parents
    holder_count: int = 0  # streams and sessions
    home: str | None = None  # where it belongs while nobody asks for more; None: under its name

    @property
    def name(self) -> str:
        """Raises InvalidArgument when its times are none."""
        if self.override_name is not None:
            return self.override_name
        return names.chunk_name(self.chunk_id or 0, self.creation_time_s, self.close_time_s)

    @property
    def path(self) -> str:
        """Relative to the relay daemon's output directory."""
        return names.joined(self.output, self.location)

    def path_of(self, relative: str) -> str:
        return names.joined(self.path, relative)

    def note_directory(self, relative: str) -> None:
        """It was made in this chunk, as were its parents."""
        parts = relative.split("/")
        self.directories.update("/".join(parts[:count]) for count in range(1, len(parts) + 1))

    def move_to(self, location: str) -> list[Step]:
        """What it takes; nothing when it is there."""
        if location == self.location:
            return []
        source, target = self.path, names.joined(self.output, location)
        top = sorted(directory for directory in self.directories if "/" not in directory)
        inside: list[Step] = [Rename(names.joined(source, one), names.joined(target, one)) for one in top]
        steps: list[Step]
        if self.location == SESSION_DIRECTORY:
            steps = [MakeDirectory(target), *inside]
        elif location == SESSION_DIRECTORY:
            steps = [*inside, RemoveDirectory(source)]
        else:
            steps = [Rename(source, target)]
            if "/" in location:
                steps.insert(0, MakeDirectory(names.joined(self.output, location.rpartition("/")[0])))
        self.location = location
        return steps

    def hold(self) -> None:
        self.holder_count += 1

    def release(self) -> list[Step]:
        """One holder less; what has to be done after the last one."""
        self.holder_count -= 1
        return self._finish() if self.holder_count == 0 else []

    def _finish(self) -> list[Step]:
        match self.close_command:
            case CloseCommand.MOVE_TO_COMPLETED:
                return self.move_to(f"{names.ARCHIVES}/{self.name}")
            case CloseCommand.DELETE:
                return self._remove()
        if self.location in (OLD_CHUNK, NEW_CHUNK):
            # Nobody came to close it: what is in it stays readable in the place where it belongs.
            return self.move_to(self.own_place())
        return []

    def own_place(self) -> str:
        return self.name if self.home is None else self.home

    def _remove(self) -> list[Step]:
        self.is_removed = True
        path = self.path
        by_depth = sorted(self.directories, key=lambda directory: (-directory.count("/"), directory))
        steps: list[Step] = [RemoveFile(names.joined(path, file)) for file in sorted(self.files)]
        steps += [RemoveDirectory(names.joined(path, directory)) for directory in by_depth]
        if self.location != SESSION_DIRECTORY:
            steps.append(RemoveDirectory(path))
        return steps
