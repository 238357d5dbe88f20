"""What a relay daemon calls sessions, chunks and files on disk; names from the network are judged here.

Paths are relative to the output directory of the relay daemon, with `/` between their parts and none around them.

Source: lttng-tools 2.13.9, `src/bin/lttng-relayd/session.c`, `backward-compatibility-group-by.c`,
`src/common/trace-chunk.c`.
"""

from __future__ import annotations

import re
import time
from enum import Enum

from tracefleet_common.errors import InvalidArgument

NAME_SIZE_BYTES_MAX = 255  # NAME_MAX of Linux
PATH_SIZE_BYTES_MAX = 3000  # leaves room for names of session, host and chunk below PATH_MAX
PATH_DEPTH_MAX = 64
FILE_COUNT_MAX = 1 << 32  # of a stream
ARCHIVES = "archives"
METADATA_NAME = "metadata"
INDEX_DIRECTORY = "index"
CREATION_TIME_AT_END = re.compile(r"(?P<name>.*)-(?P<time>\d{8}-\d{6})")


class Grouping(Enum):
    """Which of the two names comes first in the output directory."""

    BY_HOST = "by-host"
    BY_SESSION = "by-session"


def check_name(what: str, name: str) -> None:
    """Raises InvalidArgument for a session or host name that is no plain, visible directory name."""
    if not name or name.startswith(".") or "/" in name:
        raise InvalidArgument(f"Not a {what}: {name[:64]!r}")
    _check_part(what, name)


def checked_path(what: str, path: str) -> str:
    """Return a path from the network without superfluous slashes.

    Raises InvalidArgument when it is empty, absolute, too long, leads upwards, or begins with a name of ours.
    """
    if path.startswith("/"):
        raise InvalidArgument(f"The {what} is absolute: {path[:64]!r}")
    parts = [part for part in path.split("/") if part]
    if not parts or len(parts) > PATH_DEPTH_MAX or len(path.encode(errors="replace")) > PATH_SIZE_BYTES_MAX:
        raise InvalidArgument(f"The {what} is empty or too long: {path[:64]!r}")
    for part in parts:
        _check_part(what, part)
    if parts[0].startswith("."):  # among them .tmp_old_chunk, .unlinked
        raise InvalidArgument(f"The {what} begins with a hidden name: {path[:64]!r}")
    return "/".join(parts)


def _check_part(what: str, part: str) -> None:
    if part in (".", "..") or "\0" in part:
        raise InvalidArgument(f"The {what} leads astray: {part!r}")
    try:
        size_bytes = len(part.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"The {what} cannot be written: {part[:64]!r}") from None
    if size_bytes > NAME_SIZE_BYTES_MAX:
        raise InvalidArgument(f"The {what} has a part of {size_bytes} bytes: {part[:64]!r}")


def checked_stream_path(path: str) -> str:
    """Of the trace that a stream belongs to, below the trace chunk. Raises InvalidArgument."""
    path = checked_path("path of a stream", path)
    if path.split("/")[0] == ARCHIVES:
        raise InvalidArgument(f"A stream must not be in {ARCHIVES}")
    return path


def check_channel_name(name: str) -> None:
    """The longest file names that it leads to are possible, too. Raises InvalidArgument."""
    check_name("channel name", name)
    check_name("file name", f"{data_file_name(name, FILE_COUNT_MAX)}.idx")


def session_time(time_s: int) -> str:
    """`20261120-145309`, local time. Raises InvalidArgument for a time that no calendar has."""
    return _format_time("%Y%m%d-%H%M%S", time_s)


def chunk_time(time_s: int) -> str:
    """`20261120T145317+0000`, local time. Raises InvalidArgument for a time that no calendar has."""
    return _format_time("%Y%m%dT%H%M%S%z", time_s)


def _format_time(layout: str, time_s: int) -> str:
    try:
        return time.strftime(layout, time.localtime(time_s))
    except (OverflowError, ValueError, OSError):
        raise InvalidArgument(f"Not a time: {time_s} s since the epoch") from None


def output_path(
    grouping: Grouping,
    *,
    host_name: str,
    session_name: str,
    base_path: str,
    creation_time_s: int,
    has_creation_time_in_name: bool,
) -> str:
    """The directory of a session of minor 11 or later. Names and base path are checked already."""
    if grouping is Grouping.BY_HOST:
        if base_path:
            return f"{host_name}/{base_path}"
        if has_creation_time_in_name:
            return f"{host_name}/{session_name}"
        return f"{host_name}/{session_name}-{session_time(creation_time_s)}"
    path = f"{session_name}/{host_name}-{session_time(creation_time_s)}"
    return f"{path}/{base_path}" if base_path else path


def old_stream_path(grouping: Grouping, path: str, *, session_name: str, creation_time_s: int) -> str:
    """Where a stream of a session before minor 11 goes, by the complete path that its peer sent.

    `session_name`: empty before minor 4. Raises InvalidArgument.
    """
    path = checked_path("path of a stream", path.removeprefix("/"))
    if grouping is Grouping.BY_HOST or not session_name:
        return path
    host_name, _, rest = path.partition("/")
    if not rest:
        raise InvalidArgument(f"The path of a stream has a host name only: {path!r}")
    directory, _, below = rest.partition("/")
    if directory == session_name:
        # The name may hold the time of its creation already, as automatic names do.
        named = CREATION_TIME_AT_END.fullmatch(session_name)
        created = named["time"] if named else session_time(creation_time_s)
        parts = [session_name, f"{host_name}-{created}", below]
    elif directory.startswith(f"{session_name}-") and (timed := CREATION_TIME_AT_END.fullmatch(directory)):
        parts = [session_name, f"{host_name}-{timed['time']}", below]
    elif directory.startswith(session_name):
        parts = [session_name, host_name, rest]
    else:
        parts = [session_name, f"{host_name}-{session_time(creation_time_s)}", rest]
    return "/".join(part for part in parts if part)


def chunk_name(chunk_id: int, creation_time_s: int, close_time_s: int | None) -> str:
    """`CREATION[-CLOSE]-ID`. Raises InvalidArgument."""
    times = [chunk_time(creation_time_s)] + ([] if close_time_s is None else [chunk_time(close_time_s)])
    return "-".join((*times, str(chunk_id)))


def check_override_name(name: str) -> None:
    """Raises InvalidArgument for what lttng-relayd does not take as the name of a chunk."""
    if not name or "/" in name or "." in name:
        raise InvalidArgument(f"Not the name of a trace chunk: {name[:64]!r}")
    _check_part("name of a trace chunk", name)


def data_file_name(channel_name: str, number: int | None) -> str:
    """`ch_0`, or `ch_0_3` for file 3 of a stream whose files have a size limit."""
    return channel_name if number is None else f"{channel_name}_{number}"


def index_path(directory: str, name: str) -> str:
    """Where the index of a data file is."""
    return f"{directory}/{INDEX_DIRECTORY}/{name}.idx"


def joined(*parts: str) -> str:
    """A path of those that are not empty."""
    return "/".join(part for part in parts if part)
