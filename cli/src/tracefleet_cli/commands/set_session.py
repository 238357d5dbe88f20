"""set-session: choose the current session."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracefleet_cli import exit_status
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_common.options import Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (HELP, LIST_OPTIONS, JSON)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = "SESSION"
DESCRIPTION = "Makes SESSION, which must exist, the session of the commands that name none."

NAME_SIZE_BYTES_MAX = 255


def run(context: Context, parsed: Parsed) -> int:
    """Set the current session."""
    if not parsed.operands:
        raise context.end("Missing session name")
    (name,) = context.at_most_operands(parsed, 1)
    if name is None or len(os.fsencode(name)) > NAME_SIZE_BYTES_MAX:
        raise context.end(f"Session name too long. Length must be lower or equal to {NAME_SIZE_BYTES_MAX}")
    sessions = context.client().list_sessions().sessions
    session = next((session for session in sessions if session.name == name), None)
    if session is None:
        raise context.end(f"Session '{name}' not found")
    context.set_current_session(name)
    context.terminal.message(f"Session set to {name}")
    context.terminal.value(session)
    return exit_status.SUCCESS
