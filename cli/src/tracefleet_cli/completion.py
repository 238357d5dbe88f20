"""What the word at the end of a command line can become: the shells ask, the option tables answer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from tracefleet_cli.command_table import COMMANDS, CommandModule, find, load
from tracefleet_cli.general_options import GENERAL_OPTIONS
from tracefleet_common.model.event_rules import UST_LOG_LEVELS

if TYPE_CHECKING:
    from tracefleet_common.options import Option

DIRECTORIES = ":directories"  # the shell itself knows these best
FILES = ":files"
SHELLS = ("bash", "zsh", "fish")
DURABILITIES = ("written", "synced")
SERVICES = ("sessiond", "consumerd", "relayd")


class Candidate(NamedTuple):
    """A word, and what it means. FILES and DIRECTORIES stand for the shell's own completion."""

    word: str
    summary: str = ""


class DaemonNames(NamedTuple):
    """Names that only a daemon knows; empty lists when there is none. `channels`: of a session, or the current."""

    sessions: Callable[[], Iterable[str]]
    channels: Callable[[str | None], Iterable[str]]


def candidates(words: Sequence[str], names: DaemonNames) -> list[Candidate]:
    """Completions of `words[-1]`, which follows the program's name and the other words."""
    words, is_split = _joined_at_equals(words)
    *before, current = words or [""]
    name, arguments = _split_at_command(before)
    if name is None:
        found = _complete(GENERAL_OPTIONS, before, current, lambda: _commands(), names)
    else:
        command = find(name)
        if command is None or command.module is None:
            return []
        module = load(command.module)
        found = _complete(module.OPTIONS, arguments, current, lambda: _operands(module, arguments, names), names)
    prefix = current.rpartition("=")[0] + "=" if is_split else ""
    matching = [
        candidate for candidate in found if candidate.word.startswith(current) or candidate.word.startswith(":")
    ]
    return [candidate._replace(word=candidate.word.removeprefix(prefix)) for candidate in matching]


def _joined_at_equals(words: Sequence[str]) -> tuple[list[str], bool]:
    """bash cuts words at `=`: join `--name`, `=`, `VALUE`. Whether the last word was cut so."""
    joined: list[str] = []
    is_split = False
    for word in words:
        is_after_equals = bool(joined) and joined[-1].startswith("--") and joined[-1].endswith("=")
        is_equals = word == "=" and bool(joined) and joined[-1].startswith("--")
        is_split = is_after_equals or is_equals
        if is_split:
            joined[-1] += word
        else:
            joined.append(word)
    return joined, is_split


def _split_at_command(words: Sequence[str]) -> tuple[str | None, list[str]]:
    """The name of the command, if it is there already, and what follows it."""
    rest = iter(words)
    for word in rest:
        if not word.startswith("-"):
            return word, list(rest)
        if _wanting_value(GENERAL_OPTIONS, word) is not None:
            next(rest, None)
    return None, []


def _complete(
    options: Iterable[Option],
    before: Sequence[str],
    current: str,
    operands: Callable[[], Iterable[Candidate]],
    names: DaemonNames,
) -> list[Candidate]:
    options = tuple(options)
    option = _wanting_value(options, before[-1]) if before else None
    if option is not None:
        return list(_values(option, current, before, names))
    if current.startswith("--") and "=" in current:
        spelling, _, value = current.partition("=")
        return [
            candidate._replace(word=f"{spelling}={candidate.word}") if not candidate.word.startswith(":") else candidate
            for option in options
            if f"--{option.long}" == spelling and option.argument is not None
            for candidate in _values(option, value, before, names)
        ]
    if current.startswith("-"):
        return list(_option_words(options))
    return list(operands())


def _wanting_value(options: Iterable[Option], word: str) -> Option | None:
    """The option that takes the word after `word` for its value."""
    for option in options:
        if option.argument is None or option.is_argument_optional:
            continue
        if word == f"--{option.long}" or (
            option.short is not None and word.startswith("-") and word[1:2] != "-" and word.endswith(option.short)
        ):
            return option
    return None


def _option_words(options: Iterable[Option]) -> Iterator[Candidate]:
    for option in options:
        needs_value = option.argument is not None and not option.is_argument_optional
        yield Candidate(f"--{option.long}" + ("=" if needs_value else ""), option.summary)
        if option.short is not None:
            yield Candidate(f"-{option.short}", option.summary)


def _values(option: Option, current: str, before: Sequence[str], names: DaemonNames) -> Iterable[Candidate]:
    match option.argument:
        case "SESSION":
            return map(Candidate, names.sessions())
        case "CHANNEL":
            return map(Candidate, names.channels(_session_among(before)))
        case "LEVEL":
            return map(Candidate, UST_LOG_LEVELS)
        case "DURABILITY":
            return map(Candidate, DURABILITIES)
        case "DIR":
            return [Candidate(DIRECTORIES)]
        case "PATH" | "READER":
            return [Candidate(FILES)]
    return []


def _commands() -> Iterator[Candidate]:
    return (Candidate(command.name, command.summary) for command in COMMANDS if command.module is not None)


def _operands(module: CommandModule, before: Sequence[str], names: DaemonNames) -> Iterable[Candidate]:
    if "CHANNEL" in module.OPERANDS:
        return map(Candidate, names.channels(_session_among(before)))
    if "SESSION" in module.OPERANDS:
        return map(Candidate, names.sessions())
    if "COMMAND" in module.OPERANDS:
        return _commands()
    if "TRACE" in module.OPERANDS:
        return [Candidate(DIRECTORIES)]
    if "SHELL" in module.OPERANDS:
        return map(Candidate, SHELLS)
    if "SERVICE" in module.OPERANDS:
        return map(Candidate, SERVICES)
    return []


def _session_among(words: Sequence[str]) -> str | None:
    """The value of --session among the words of a command."""
    for index, word in enumerate(words):
        if word.startswith("--session="):
            return word.partition("=")[2]
        if word in ("-s", "--session") and index + 1 < len(words):
            return words[index + 1]
    return None
