"""Lists of names on the command line, and the exclusions that an event name admits."""

from __future__ import annotations

from tracefleet_common.errors import InvalidArgument


def split_names(text: str) -> list[str]:
    """Names between commas; empty ones are skipped."""
    return [name for name in text.split(",") if name]


def split_exclusions(text: str) -> tuple[str, ...]:
    r"""Names between commas; `\,` is a comma, any other backslash stays."""
    names: list[str] = [""]
    rest = iter(text)
    for character in rest:
        if character == "\\":
            escaped = next(rest, "")
            names[-1] += escaped if escaped == "," else character + escaped
        elif character == ",":
            names.append("")
        else:
            names[-1] += character
    return tuple(names)


def check_exclusions(pattern: str, exclusions: tuple[str, ...]) -> list[str]:
    """Whether `pattern` can have `exclusions` at all. Returns warnings; raises InvalidArgument."""
    stars = _star_positions(pattern)
    if not stars:
        raise InvalidArgument(f"Event {pattern}: Exclusions can only be used with a globbing pattern")
    warnings: list[str] = []
    if stars != [len(pattern) - 1]:
        return warnings  # only for a single star, at the end, can be told what an exclusion does
    for exclusion in exclusions:
        exclusion_stars = _star_positions(exclusion)
        if exclusion_stars and exclusion_stars != [len(exclusion) - 1]:
            continue
        prefix, excluded = pattern[:-1], exclusion.removesuffix("*") if exclusion_stars else exclusion
        if exclusion_stars and prefix.startswith(excluded):
            raise InvalidArgument(f"Event {pattern}: {exclusion} excludes all events from {pattern}")
        if not excluded.startswith(prefix):
            warnings.append(f"Event {pattern}: {exclusion} does not exclude any events from {pattern}")
    return warnings


def _star_positions(pattern: str) -> list[int]:
    """Where the stars are that stand for anything (not `\\*`)."""
    positions: list[int] = []
    index = 0
    while index < len(pattern):
        if pattern[index] == "\\":
            index += 1
        elif pattern[index] == "*":
            positions.append(index)
        index += 1
    return positions
