"""The INI files that configure a daemon: /etc/lttng/lttng.conf and its like.

The rules are those of LTTng's reader (lttng-tools 2.13.9): `[section]`, `key = value` or `key: value`, lines
of comment with `#` or `;`, and `;` after a blank as a comment at the end of a line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tracefleet_common.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterator

CONFIG_SIZE_BYTES_MAX = 1024 * 1024  # a larger one is a mistake, such as a device or a trace file


class ConfigEntry(NamedTuple):
    """One property, and the line it stands on (the first line is 1)."""

    key: str
    value: str
    line_number: int


def read_section(path: str, section: str) -> list[ConfigEntry]:
    """Return the properties of one section in their order.

    Raises InvalidArgument, naming the line, where the file breaks the rules; OSError when it cannot be read.
    """
    with open(path, "rb") as file:
        content = file.read(CONFIG_SIZE_BYTES_MAX + 1)
    if len(content) > CONFIG_SIZE_BYTES_MAX:
        raise InvalidArgument(f"{path} is larger than {CONFIG_SIZE_BYTES_MAX} bytes: not a configuration file")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path} is not UTF-8 text: {error}") from None
    try:
        return list(section_entries(text, section))
    except InvalidArgument as error:
        raise InvalidArgument(f"{path}, {error}") from None


def section_entries(text: str, section: str) -> Iterator[ConfigEntry]:
    """Yield the properties of one section. Raises InvalidArgument at the first line that breaks the rules."""
    current: str | None = None
    for line_number, line in enumerate(text.splitlines(), start=1):
        content = _without_comment(line.strip())
        if not content:
            continue
        if content.startswith("["):
            current, bracket, _ = content[1:].partition("]")
            if not bracket:
                raise InvalidArgument(f"line {line_number}: a section name without `]`")
            continue
        separator = "=" if "=" in content else ":"
        key, found, value = content.partition(separator)
        if not found:
            raise InvalidArgument(f"line {line_number}: neither a section nor `key = value`")
        if current == section:
            yield ConfigEntry(key.strip(), value.strip(), line_number)


def _without_comment(line: str) -> str:
    if line.startswith(("#", ";")):
        return ""
    for position, character in enumerate(line):
        if character == ";" and line[position - 1].isspace():
            return line[:position].rstrip()
    return line


def parse_switch(value: str) -> int | None:
    """Read the value of a switch: how many times the option counts as given; None: there is no such value."""
    word = value.lower()
    if word in ("true", "yes", "on"):
        return 1
    if word in ("false", "no", "off"):
        return 0
    return int(word) if word.isascii() and word.isdigit() and len(word) < 4 else None
