"""stop: end recording, and have everything in the trace that was emitted before."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import exit_status
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_cli.progress import Progress
from tracefleet_cli.session_books import loss_warning
from tracefleet_common.errors import ErrorCode, TracefleetError
from tracefleet_common.options import Option, Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (
    HELP,
    LIST_OPTIONS,
    Option("no-wait", "n", None, "Do not wait until the last data is written."),
    JSON,
)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = "[SESSION]"
DESCRIPTION = """\
Stops a recording session, and waits until everything that was emitted before is in its trace. Without \
SESSION: the current one. Warns about discarded event records and lost packets."""


def run(context: Context, parsed: Parsed) -> int:
    """Stop the session."""
    (given,) = context.at_most_operands(parsed, 1)
    session = context.session(given)
    is_waiting = not parsed.has("no-wait")
    terminal = context.terminal
    progress = Progress(terminal, "Waiting for data availability")
    try:
        client = context.client()
        if is_waiting:
            client.link.is_waiting = progress.tick
        stopped = client.stop_session(session, is_waiting)
    except TracefleetError as error:
        progress.end()
        if error.code == ErrorCode.TRACE_ALREADY_STOPPED:
            terminal.refusal(f"Tracing already stopped for session {session}", error)
        else:
            terminal.failure(error)
        return int(error.code)
    if is_waiting:
        progress.begin()
    progress.end()
    for warning in stopped.warnings:
        terminal.warning(warning)
    loss = loss_warning(stopped.channels)
    if loss is not None:
        terminal.message(loss)
    terminal.message(f"Tracing stopped for session {session}")
    terminal.value(stopped)
    return exit_status.SUCCESS
