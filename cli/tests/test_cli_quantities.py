"""Sizes, durations, counts: what `lttng` takes, and what it refuses."""

from __future__ import annotations

import pytest

from tracefleet_cli.quantities import (
    UINT32_MAX,
    BadQuantity,
    TooLarge,
    count,
    duration_us,
    next_power_of_two,
    size_bytes,
)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("4096", 4096),
        (" 4096", 4096),
        ("+1", 1),
        ("4k", 4096),
        ("4K", 4096),
        ("2M", 2 * 1024**2),
        ("1G", 1024**3),
        ("0x1000", 4096),
        ("0x1k", 1024),
        ("010000", 4096),  # octal, as in C
        ("0", 0),
    ],
)
def test_sizes(text: str, value: int) -> None:
    assert size_bytes(text) == value


@pytest.mark.parametrize("text", ["", "k", "4096x", "4 k", "-1", "1T", "1kk", "08", "4.5k", "20000000000000000000"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(BadQuantity):
        size_bytes(text)


@pytest.mark.parametrize(
    ("text", "value_us"),
    [("100", 100), ("7us", 7), ("2ms", 2_000), ("1s", 1_000_000), ("3m", 180_000_000), ("1h", 3_600_000_000)],
)
def test_durations(text: str, value_us: int) -> None:
    assert duration_us(text) == value_us


@pytest.mark.parametrize("text", ["", "s", "1 s", "-1", "0x10", "1d", "1u", "99999999999999999999"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(BadQuantity):
        duration_us(text)


def test_a_duration_that_does_not_fit() -> None:
    assert duration_us(str(UINT32_MAX), UINT32_MAX) == UINT32_MAX
    with pytest.raises(TooLarge):
        duration_us(str(UINT32_MAX + 1), UINT32_MAX)


@pytest.mark.parametrize(("text", "value"), [("4", 4), ("0x8", 8), ("4x", 4), ("0", 0), ("017", 15)])
def test_counts_ignore_what_follows_the_digits(text: str, value: int) -> None:
    assert count(text) == value


@pytest.mark.parametrize("text", ["", "x", "-1", " 4"])
def test_what_is_no_count(text: str) -> None:
    with pytest.raises(BadQuantity):
        count(text)


@pytest.mark.parametrize(("value", "power"), [(1, 1), (2, 2), (3, 4), (4096, 4096), (5000, 8192), (2**63 + 1, 2**64)])
def test_rounding_up_to_a_power_of_two(value: int, power: int) -> None:
    assert next_power_of_two(value) == power
