"""destroy: stop sessions, write what is left, forget them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import current_session, exit_status
from tracefleet_cli.error_texts import text_of
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_cli.progress import Progress
from tracefleet_cli.session_books import loss_warning
from tracefleet_common.client.run_directory import home_directory
from tracefleet_common.errors import ErrorCode, InvalidArgument, TracefleetError
from tracefleet_common.options import Option, Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (
    HELP,
    Option("all", "a", None, "Destroy every session that you may see."),
    LIST_OPTIONS,
    Option("no-wait", "n", None, "Do not wait until the last data is written."),
    JSON,
)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = "[SESSION]"
DESCRIPTION = """\
Stops recording, writes what is left, and forgets the session; its trace stays. Without SESSION: the current \
session, which is then no longer set."""


def run(context: Context, parsed: Parsed) -> int:
    """Destroy one session, or all."""
    (given,) = context.at_most_operands(parsed, 1)
    is_waiting = not parsed.has("no-wait")
    if not parsed.has("all"):
        return _destroy_one(context, context.session(given), is_waiting=is_waiting)
    names = [session.name for session in reversed(context.client().list_sessions().sessions)]
    if not names:
        context.terminal.message("No session found, nothing to do.")
    statuses = [_destroy_one(context, name, is_waiting=is_waiting) for name in names]
    return exit_status.ERROR if any(statuses) else exit_status.SUCCESS


def _destroy_one(context: Context, name: str, *, is_waiting: bool) -> int:
    terminal = context.terminal
    progress = Progress(terminal, f"Destroying session {name}")
    try:
        client = context.client()
        client.link.is_waiting = progress.tick
        stopped = client.destroy_session(name, is_waiting)
    except TracefleetError as error:
        progress.end()
        if error.code == ErrorCode.SESSION_NOT_FOUND:
            terminal.error(f"Session name {name} not found", error)
        elif error.code == ErrorCode.NO_SESSIOND:
            terminal.failure(error)
            return exit_status.ERROR
        else:
            terminal.error(f'{text_of(error)} during the destruction of session "{name}"', error)
        return int(error.code)
    progress.end()
    for warning in stopped.warnings:
        terminal.warning(warning)
    terminal.message(f"Session {name} destroyed")
    if stopped.was_active:
        loss = loss_warning(stopped.channels)
        if loss is not None:
            terminal.message(loss)
    terminal.value(stopped)
    try:
        current_session.forget(home_directory(), name)
    except (OSError, InvalidArgument) as error:
        terminal.warning(f"Cannot unset the current session: {error}")
    return exit_status.SUCCESS
