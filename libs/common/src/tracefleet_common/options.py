"""Command-line options, read the way that `lttng` reads them (popt), with imports that cost nothing.

A word that begins with `-` is an option wherever it stands, until a `--`. Spellings of a value are
`--name=VALUE`, `--name VALUE`, `-xVALUE`, `-x=VALUE`, `-x VALUE`; switches of one letter can be bundled
(`-vv`). An option whose value is optional takes the next word unless that begins with `-`. Names are never
abbreviated.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from tracefleet_common.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class Option(NamedTuple):
    """One option that a command knows. `argument` is the word for its value in the help; None: a switch."""

    long: str  # without the dashes; also its key in Parsed
    short: str | None
    argument: str | None
    summary: str
    is_argument_optional: bool = False
    is_repeatable: bool = False  # for the help only: of any option given twice, Parsed knows both values


class Occurrence(NamedTuple):
    """An option as given once. `value` is None for a switch, and for an optional value that was left out."""

    long: str
    value: str | None


class Parsed(NamedTuple):
    """What the words said, in their order."""

    occurrences: tuple[Occurrence, ...]
    operands: tuple[str, ...]

    def has(self, long: str) -> bool:
        """Whether the option was given at all."""
        return any(occurrence.long == long for occurrence in self.occurrences)

    def given_count(self, long: str) -> int:
        """How many times the option was given (`-vvv`: 3)."""
        return sum(occurrence.long == long for occurrence in self.occurrences)

    def value(self, long: str) -> str | None:
        """The value given last: a later one overrides. None: not given, or without a value."""
        for occurrence in reversed(self.occurrences):
            if occurrence.long == long:
                return occurrence.value
        return None

    def values(self, long: str) -> tuple[str, ...]:
        """Every value given, oldest first."""
        return tuple(
            occurrence.value
            for occurrence in self.occurrences
            if occurrence.long == long and occurrence.value is not None
        )


class OptionError(InvalidArgument):
    """A word that is no option, or an option without the value it needs. The text is popt's."""

    def __init__(self, word: str, reason: str) -> None:
        super().__init__(f"{word}: {reason}")
        self.word = word
        self.reason = reason


UNKNOWN_OPTION = "unknown option"
MISSING_ARGUMENT = "missing argument"
UNWANTED_ARGUMENT = "option does not take an argument"


def parse(options: Iterable[Option], arguments: Sequence[str], *, is_ending_at_operand: bool = False) -> Parsed:
    """Sort `arguments` (without the program's name) into options and operands.

    With `is_ending_at_operand` the first operand and all that follows it are operands: the options before the
    name of a sub-command. Raises OptionError.
    """
    known = tuple(options)
    by_long = {option.long: option for option in known}
    by_short = {option.short: option for option in known if option.short is not None}
    occurrences: list[Occurrence] = []
    operands: list[str] = []
    words = list(reversed(arguments))
    while words:
        word = words.pop()
        if word == "--":
            operands += reversed(words)
            break
        if word == "-" or not word.startswith("-"):
            operands.append(word)
            if is_ending_at_operand:
                operands += reversed(words)
                break
        elif word.startswith("--"):
            occurrences.append(_parse_long(by_long, word, words))
        else:
            occurrences += _parse_short(by_short, word, words)
    return Parsed(tuple(occurrences), tuple(operands))


def _parse_long(by_long: Mapping[str, Option], word: str, following: list[str]) -> Occurrence:
    name, equals, value = word[2:].partition("=")
    option = by_long.get(name)
    if option is None:
        raise OptionError(word, UNKNOWN_OPTION)
    if option.argument is None:
        if equals:
            raise OptionError(word, UNWANTED_ARGUMENT)
        return Occurrence(option.long, None)
    return Occurrence(option.long, value if equals else _next_value(option, word, following))


def _parse_short(by_short: Mapping[str, Option], word: str, following: list[str]) -> list[Occurrence]:
    occurrences: list[Occurrence] = []
    letters = word[1:]
    while letters:
        option = by_short.get(letters[0])
        letters = letters[1:]
        if option is None:
            raise OptionError(word, UNKNOWN_OPTION)
        if option.argument is None:
            if letters.startswith("="):
                raise OptionError(word, UNWANTED_ARGUMENT)
            occurrences.append(Occurrence(option.long, None))
            continue
        value = letters.removeprefix("=") if letters else _next_value(option, word, following)
        occurrences.append(Occurrence(option.long, value))
        break
    return occurrences


def _next_value(option: Option, word: str, following: list[str]) -> str | None:
    """Take the value of `option` from the words that follow `word` (the next one is last in the list)."""
    if option.is_argument_optional:
        return following.pop() if following and not following[-1].startswith("-") else None
    if not following:
        raise OptionError(word, MISSING_ARGUMENT)
    return following.pop()


def spellings(option: Option) -> str:
    """How the help shows an option: `-o PATH, --output=PATH`."""
    if option.argument is None:
        short, long = f"-{option.short}", f"--{option.long}"
    elif option.is_argument_optional:
        short, long = f"-{option.short}[{option.argument}]", f"--{option.long}[={option.argument}]"
    else:
        short, long = f"-{option.short} {option.argument}", f"--{option.long}={option.argument}"
    return long if option.short is None else f"{short}, {long}"


def render_help_section(title: str, options: Iterable[Option], *, width: int = 80) -> str:
    """A section of the help in the layout of a manual page, ending with a blank line."""
    import textwrap  # only when somebody asks for help

    lines = [title]
    for option in options:
        summary = option.summary + (" Can be given several times." if option.is_repeatable else "")
        body = textwrap.wrap(summary, width, initial_indent=" " * 8, subsequent_indent=" " * 8)
        lines += [f"    {spellings(option)}", *body, ""]
    return "\n".join(lines) + "\n"


def render_option_list(options: Iterable[Option]) -> str:
    """What `--list-options` prints: one spelling a line, the long one first."""
    lines: list[str] = []
    for option in options:
        lines.append(f"--{option.long}")
        if option.short is not None:
            lines.append(f"-{option.short}")
    return "".join(f"{line}\n" for line in lines)
