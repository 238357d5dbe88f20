"""status: the current session, in full."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import exit_status
from tracefleet_cli.commands.list_objects import list_session
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_common.options import Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (HELP, LIST_OPTIONS, JSON)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = ""
DESCRIPTION = "Lists the current recording session: the same as `list` with its name."


def run(context: Context, parsed: Parsed) -> int:
    """List the current session."""
    if parsed.operands:
        context.terminal.error("This command does not accept positional arguments.\n")
        raise context.end("Unrecognized argument used with 'status' command", exit_status.UNDEFINED_COMMAND)
    return list_session(context, context.session(None), parsed)
