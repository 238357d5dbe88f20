"""view: become a trace reader."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tracefleet_cli import exit_status
from tracefleet_cli.context import CommandEnded
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_common.errors import TracefleetError
from tracefleet_common.options import Option, Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context
    from tracefleet_common.messages.sessiond_control import SessionInfo

OPTIONS = (
    HELP,
    LIST_OPTIONS,
    Option("viewer", "e", "READER", "Command line of the reader. Default: babeltrace2, else babeltrace."),
    Option("trace-path", "t", "DIR", "Read the traces below DIR."),
    JSON,
)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = "[SESSION]"
DESCRIPTION = """\
Runs a trace reader on the trace of SESSION, which must not be active, except that a session for live reading \
(create --live) is read while it records. Without SESSION: the current one."""

LOOPBACK_ADDRESSES = ("127.0.0.1", "::1")
DEFAULT_READERS = ("babeltrace2", "babeltrace")


def run(context: Context, parsed: Parsed) -> int:
    """Replace this process by the reader."""
    (given,) = context.at_most_operands(parsed, 1)
    if context.terminal.is_json:
        context.terminal.warning("--json does not apply to view command")
    path = parsed.value("trace-path")
    if path is None:
        path = _trace_path(context, context.session(given))
    if sys.stdout.isatty():  # not in a pipe: who reads it expects event records only
        context.terminal.message(f"Trace directory: {path}\n")
    reader = parsed.value("viewer")
    commands = [[name] for name in DEFAULT_READERS] if reader is None else [reader.split()]
    for command in commands:
        if command:
            _become(context, [*command, path])
    raise context.end(
        f'Default viewer "{DEFAULT_READERS[0]}" (and fallback "{DEFAULT_READERS[1]}") not found on the system'
        if reader is None
        else f'Failed to launch "{reader}" viewer: not found'
    )


def _trace_path(context: Context, name: str) -> str:
    try:
        sessions = context.client().list_sessions().sessions
    except TracefleetError as error:
        context.terminal.error(f"Unable to list sessions. Session name {name} not found.", error)
        context.terminal.message("Is there a session daemon running?")
        raise CommandEnded(exit_status.ERROR) from None
    session = next((session for session in sessions if session.name == name), None)
    if session is None:
        context.terminal.message(f"Session name {name} not found")
        raise CommandEnded(exit_status.ERROR)
    if session.live_timer_period_us:
        return _live_url(session)
    if session.is_active:
        context.terminal.warning(f"Session {name} is running. Please stop it before reading it.")
        raise CommandEnded(exit_status.ERROR)
    if session.relay is not None:
        return session.relay.text  # no reader can open that, but it is told where the trace is, as `lttng` tells it
    if session.output_path is None:
        raise context.end(f"Session {name} has no output")
    return session.output_path


def _live_url(session: SessionInfo) -> str:
    """Where readers that understand LTTng's live protocol find the session, on the port that they know."""
    assert session.relay is not None, "live sessions are streamed"
    address = session.relay.address
    host = "localhost" if address in LOOPBACK_ADDRESSES else f"[{address}]" if ":" in address else address
    return f"net://{host}/host/{os.uname().nodename}/{session.name}"


def _become(context: Context, command: list[str]) -> None:
    """Returns only when there is no such program."""
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        return
    except OSError as error:
        raise context.end(f'Failed to launch "{command[0]}" viewer: {error.strerror}') from None
