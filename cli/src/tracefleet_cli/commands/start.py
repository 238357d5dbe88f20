"""start: let a session record."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import exit_status
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_common.errors import ErrorCode, TracefleetError
from tracefleet_common.options import Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (HELP, LIST_OPTIONS, JSON)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = "[SESSION]"
DESCRIPTION = "Starts a recording session. Without SESSION: the current one."


def run(context: Context, parsed: Parsed) -> int:
    """Start the session."""
    (given,) = context.at_most_operands(parsed, 1)
    session = context.session(given)
    try:
        started = context.client().start_session(session)
    except TracefleetError as error:
        if error.code == ErrorCode.TRACE_ALREADY_STARTED:
            context.terminal.refusal(f"Tracing already started for session {session}", error)
        else:
            context.terminal.failure(error)
        return int(error.code)
    for warning in started.warnings:
        context.terminal.warning(warning)
    context.terminal.message(f"Tracing started for session {session}")
    context.terminal.value(started)
    return exit_status.SUCCESS
