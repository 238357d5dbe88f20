"""Names, exclusions and log levels on the command line."""

from __future__ import annotations

import pytest

from tracefleet_cli import log_levels
from tracefleet_cli.name_lists import check_exclusions, split_exclusions, split_names
from tracefleet_common.errors import InvalidArgument


def test_empty_names_are_skipped() -> None:
    assert split_names("a,,b,") == ["a", "b"]
    assert split_names(",") == []


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("a,b", ("a", "b")),
        (r"a\,b,c", ("a,b", "c")),
        (r"a\*b", (r"a\*b",)),
        ("a,,b", ("a", "", "b")),
        ("", ("",)),
        ("a\\", ("a\\",)),
    ],
)
def test_exclusions_are_split_at_commas_that_are_not_escaped(text: str, names: tuple[str, ...]) -> None:
    assert split_exclusions(text) == names


@pytest.mark.parametrize(
    ("pattern", "exclusion"), [("d*", "demo:x"), ("d*", "dd*"), ("*", "a"), ("d*x", "e*f"), ("a*", "*b")]
)
def test_exclusions_that_can_exclude_something(pattern: str, exclusion: str) -> None:
    assert check_exclusions(pattern, (exclusion,)) == []


@pytest.mark.parametrize(("pattern", "exclusion"), [("d*", "e"), ("d*", ""), ("dem*", "d")])
def test_exclusions_that_exclude_nothing_are_warned_about(pattern: str, exclusion: str) -> None:
    assert check_exclusions(pattern, (exclusion,)) == [
        f"Event {pattern}: {exclusion} does not exclude any events from {pattern}"
    ]


@pytest.mark.parametrize(("pattern", "exclusion"), [("d*", "d*"), ("demo:*", "d*"), ("*", "*")])
def test_exclusions_that_exclude_everything_are_refused(pattern: str, exclusion: str) -> None:
    with pytest.raises(InvalidArgument, match="excludes all events"):
        check_exclusions(pattern, (exclusion,))


@pytest.mark.parametrize("pattern", ["d", r"d\*"])
def test_only_patterns_can_have_exclusions(pattern: str) -> None:
    with pytest.raises(InvalidArgument, match="globbing pattern"):
        check_exclusions(pattern, ("d",))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("EMERG", 0),
        ("info", 6),
        ("TRACE_INFO", 6),
        ("trace_debug", 14),
        ("DEBUG_UNIT", 11),
        ("TRACE_DEBUG_UNIT", 11),
        ("unit", 11),
        ("13", 13),
    ],
)
def test_log_levels_have_several_names(text: str, value: int) -> None:
    assert log_levels.value_of(text) == value


@pytest.mark.parametrize("text", ["", "NOPE", "15", "-1", "TRACE_UNIT", "TRACE_", "INFOO", "٣"])
def test_what_is_no_log_level(text: str) -> None:
    assert log_levels.value_of(text) is None


def test_log_levels_are_printed_by_their_long_name() -> None:
    assert log_levels.name_of(6) == "TRACE_INFO"
    assert log_levels.name_of(99) == "<<UNKNOWN>>"
