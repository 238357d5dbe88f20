"""Configuration files, as LTTng's reader understands them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracefleet_common.errors import InvalidArgument
from tracefleet_common.runtime.config_file import (
    CONFIG_SIZE_BYTES_MAX,
    parse_switch,
    read_section,
    section_entries,
)

TEXT = """\
# a comment
before=any section

[relayd]
output=/elsewhere
[sessiond]
  daemonize = yes ; a comment after a blank
group: tracers
path=/with;semicolon/and=equals
url = tcp://host:1
empty=
; another comment
"""


def test_only_the_asked_section_is_read() -> None:
    assert [(entry.key, entry.value) for entry in section_entries(TEXT, "sessiond")] == [
        ("daemonize", "yes"),
        ("group", "tracers"),
        ("path", "/with;semicolon/and=equals"),
        ("url", "tcp://host:1"),
        ("empty", ""),
    ]


def test_entries_know_their_line() -> None:
    assert [entry.line_number for entry in section_entries(TEXT, "sessiond")] == [7, 8, 9, 10, 11]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[sessiond\n", "line 1: a section name without `]`"),
        ("[sessiond]\n\ndaemonize\n", "line 3: neither a section nor `key = value`"),
    ],
)
def test_a_broken_line_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "lttng.conf"
    path.write_text(text)
    with pytest.raises(InvalidArgument) as refusal:
        read_section(str(path), "sessiond")
    assert str(refusal.value) == f"{path}, {message}"


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "lttng.conf"
    path.write_bytes(b"\xef\xbb\xbf[sessiond]\r\ngroup=a\r\n")
    assert [entry.value for entry in read_section(str(path), "sessiond")] == ["a"]


@pytest.mark.parametrize("content", [b"[sessiond]\ngroup=\xff\n", b"#" * (CONFIG_SIZE_BYTES_MAX + 1)])
def test_what_is_no_text_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "lttng.conf"
    path.write_bytes(content)
    with pytest.raises(InvalidArgument):
        read_section(str(path), "sessiond")


@pytest.mark.parametrize(
    ("value", "count"),
    [
        *((word, 1) for word in ("true", "yes", "on", "TRUE", "On", "1")),
        *((word, 0) for word in ("false", "no", "off", "OFF", "0")),
        ("3", 3),
        *((word, None) for word in ("", "maybe", "-1", "yes please", "9999999999", "٣")),
    ],
)
def test_switch_values(value: str, count: int | None) -> None:
    assert parse_switch(value) == count
