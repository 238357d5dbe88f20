"""Which names people may give. Names become parts of paths and of metadata, so they are checked at the door."""

from __future__ import annotations

import re

from tracefleet_common.errors import ErrorCode, InvalidArgument
from tracefleet_common.model.event_rules import NAME_SIZE_BYTES_MAX

SESSION_NAME_SIZE_BYTES_MAX = 254
# A stream's index file is called <channel>_<cpu>_<n>.idx, and a file name has at most 255 bytes.
CHANNEL_NAME_SIZE_BYTES_MAX = 255 - len("_4095_4294967295.idx")
# These providers belong to the agents, which enable them themselves.
RESERVED_EVENT_PREFIXES = ("lttng_jul", "lttng_log4j", "lttng_python")

_CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_STARS = re.compile(r"(?<!\\)((?:\\\\)*)\*\*+")


def _check(kind: str, name: str, size_bytes_max: int, code: ErrorCode) -> None:
    if not name:
        raise InvalidArgument(f"The {kind} name is empty", code)
    if _CONTROL_CHARACTERS.search(name):
        raise InvalidArgument(f"The {kind} name {name!a} contains a control character", code)
    size_bytes = len(name.encode())
    if size_bytes > size_bytes_max:
        raise InvalidArgument(f"The {kind} name has {size_bytes} bytes; {size_bytes_max} is the most", code)


def check_session_name(name: str) -> None:
    """Raises InvalidArgument unless `name` can name a session and a directory."""
    _check("session", name, SESSION_NAME_SIZE_BYTES_MAX, ErrorCode.SESSION_INVALID_CHAR)
    if "/" in name or name in (".", ".."):
        raise InvalidArgument(
            f"The session name {name!r} cannot be the name of a directory", ErrorCode.SESSION_INVALID_CHAR
        )


def check_channel_name(name: str) -> None:
    """Raises InvalidArgument unless `name` can name a channel and its stream files."""
    _check("channel", name, CHANNEL_NAME_SIZE_BYTES_MAX, ErrorCode.INVALID_CHANNEL_NAME)
    if "/" in name or name.startswith("."):
        raise InvalidArgument(
            f"The channel name {name!r} contains '/' or starts with '.'", ErrorCode.INVALID_CHANNEL_NAME
        )


def normalised_pattern(pattern: str) -> str:
    """`pattern` with runs of unescaped `*` folded to one, as the tracer's matcher expects."""
    return _STARS.sub(r"\1*", pattern)


def is_pattern(pattern: str) -> bool:
    """Whether `pattern` can match more than one name."""
    return re.search(r"(?<!\\)(?:\\\\)*\*", pattern) is not None


def check_event_pattern(pattern: str) -> None:
    """Raises InvalidArgument unless `pattern` may name recording event rules."""
    _check("event", pattern, NAME_SIZE_BYTES_MAX, ErrorCode.INVALID_EVENT_NAME)
    if pattern.startswith(RESERVED_EVENT_PREFIXES):
        raise InvalidArgument(
            f"Event names that begin with {', '.join(RESERVED_EVENT_PREFIXES)} are reserved to the agents",
            ErrorCode.INVALID_EVENT_NAME,
        )


def check_exclusion(name: str) -> None:
    """Raises InvalidArgument unless `name` can be an exclusion of an event rule."""
    _check("exclusion", name, NAME_SIZE_BYTES_MAX, ErrorCode.EXCLUSION_INVALID)
