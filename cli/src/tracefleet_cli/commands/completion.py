"""completion: the completion script of a shell, and the answers to what that script asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import current_session, exit_status
from tracefleet_cli.general_options import HELP, LIST_OPTIONS
from tracefleet_common.client.run_directory import home_directory
from tracefleet_common.errors import InvalidArgument, TracefleetError
from tracefleet_common.options import Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (HELP, LIST_OPTIONS)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = "SHELL"
DESCRIPTION = """\
Prints the completion script of SHELL (bash, zsh, fish). It completes commands, options, and the names of \
sessions and channels, which it learns from the session daemon."""

CANDIDATES = "candidates"  # what the scripts ask: all words after the program's name follow a `--`


def run(context: Context, parsed: Parsed) -> int:
    """Print a script, or candidates."""
    from tracefleet_cli.shell_scripts import SCRIPTS

    if not parsed.operands:
        raise context.end("Missing shell name.")
    what, *words = parsed.operands
    if what == CANDIDATES:
        _print_candidates(context, words)
        return exit_status.SUCCESS
    context.at_most_operands(parsed, 1)
    if what not in SCRIPTS:
        raise context.end(f"Unknown shell {what}. Possible values are: {', '.join(SCRIPTS)}")
    context.terminal.output(SCRIPTS[what])
    return exit_status.SUCCESS


def _print_candidates(context: Context, words: list[str]) -> None:
    from tracefleet_cli.completion import DaemonNames, candidates

    names = DaemonNames(lambda: _sessions(context), lambda session: _channels(context, session))
    lines = [f"{word}\t{summary}\n" for word, summary in candidates(words, names)]
    context.terminal.output("".join(lines))


def _sessions(context: Context) -> list[str]:
    try:
        return [session.name for session in context.client().list_sessions().sessions]
    except TracefleetError:
        return []


def _channels(context: Context, session: str | None) -> list[str]:
    try:
        name = session or current_session.read(home_directory())
        domains = context.client().describe_session(name).domains
    except (TracefleetError, InvalidArgument, current_session.NoCurrentSession):
        return []
    return [channel.name for domain in domains for channel in domain.channels]
