"""Sizes, durations and counts as `lttng` reads them (strtoull with suffixes)."""

from __future__ import annotations

import re

UINT32_MAX = 2**32 - 1
UINT64_MAX = 2**64 - 1

_BINARY_SUFFIXES = {"": 1, "k": 2**10, "K": 2**10, "M": 2**20, "G": 2**30}
_MICROSECONDS = {"": 1, "us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000}
_NUMBER = r"\s*\+?(0[xX][0-9a-fA-F]+|[0-9]+)"
_SIZE = re.compile(_NUMBER + r"([kKMG]?)")
_DURATION = re.compile(r"\s*\+?([0-9]+)(us|ms|s|m|h|)")
_COUNT = re.compile(r"(0[xX][0-9a-fA-F]+|[0-9]+)")


class BadQuantity(ValueError):
    """Not a number of that kind."""


class TooLarge(BadQuantity):
    """A number that does not fit."""


def size_bytes(text: str) -> int:
    """`4096`, `0x1000`, `4k`, `1M`, `2G`. Raises BadQuantity."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise BadQuantity(text)
    return _checked(_integer(match[1]) * _BINARY_SUFFIXES[match[2]], UINT64_MAX)


def duration_us(text: str, maximum_us: int = UINT64_MAX) -> int:
    """`100`, `100us`, `20ms`, `3s`, `2m`, `1h`. Raises BadQuantity; TooLarge beyond `maximum_us`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise BadQuantity(text)
    value_us = int(match[1]) * _MICROSECONDS[match[2]]
    if value_us > UINT64_MAX:
        raise BadQuantity(text)
    return _checked(value_us, maximum_us)


def count(text: str, maximum: int = UINT64_MAX) -> int:
    """A number, of which what follows the digits is ignored. Raises BadQuantity; TooLarge beyond `maximum`."""
    match = _COUNT.match(text)
    if match is None:
        raise BadQuantity(text)
    value = _integer(match[1])
    if value > UINT64_MAX:
        raise BadQuantity(text)
    return _checked(value, maximum)


def next_power_of_two(value: int) -> int:
    """The smallest power of two that is not less than `value`, at least 1."""
    return 1 << max(value - 1, 0).bit_length()


def _checked(value: int, maximum: int) -> int:
    if value > maximum:
        raise TooLarge(str(value))
    return value


def _integer(digits: str) -> int:
    """As C reads it: 0x1f, and 017 is octal. Raises BadQuantity."""
    if digits[:2] in ("0x", "0X"):
        return int(digits, 16)
    try:
        return int(digits, 8 if digits.startswith("0") else 10)
    except ValueError:
        raise BadQuantity(digits) from None
