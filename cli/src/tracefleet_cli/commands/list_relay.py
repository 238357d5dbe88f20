"""list-relay: what the relay daemons of this host receive, with the sums of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import exit_status, relay_text
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS, RELAY_BUS
from tracefleet_common.client.run_directory import candidate_run_directories, relay_bus_sockets
from tracefleet_common.errors import NotFound, TransportError
from tracefleet_common.options import Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context
    from tracefleet_common.client.relay import RelayClient
    from tracefleet_common.messages.relayd_control import RelaySessionInfo

OPTIONS = (HELP, RELAY_BUS, LIST_OPTIONS, JSON)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = "[NAME | ID]"
DESCRIPTION = """\
Lists the relay daemons of this host that serve the caller, and the recording sessions that they receive, with their \
sums. With NAME, or ID: only the sessions of that name or number, with every stream."""

DEADLINE_S = 10.0


def run(context: Context, parsed: Parsed) -> int:
    """Ask all of them. One that does not answer is an error, but the others are shown."""
    (wanted,) = context.at_most_operands(parsed, 1)
    sockets = parsed.values("bus-sock") or [
        path
        for directory in candidate_run_directories(context.settings.tracing_group)
        for path in relay_bus_sockets(directory)
    ]
    if not sockets:
        raise context.end("No relay daemon is there")
    status, shown_count = exit_status.SUCCESS, 0
    for path in sockets:
        try:
            shown_count += _list(context, path, wanted)
        except TransportError as error:
            context.terminal.error(f"The relay daemon at {path} does not answer", error)
            status = exit_status.ERROR
    if wanted is not None and not shown_count and status == exit_status.SUCCESS:
        raise context.end(f"Session '{wanted}' not found")
    return status


def _list(context: Context, path: str, wanted: str | None) -> int:
    """How many sessions were shown. Raises TransportError."""
    from tracefleet_common.client.relay import RelayClient

    terminal = context.terminal
    with RelayClient(f"ipc://{path}", deadline_s=DEADLINE_S) as client:
        if wanted is not None:
            return _list_streams(context, client, wanted)
        daemon, sessions = client.describe_relay(), client.list_relay_sessions()
        terminal.message(relay_text.daemon_text(daemon, sessions.sessions))
        terminal.value(daemon)
        terminal.value(sessions)
        return len(sessions.sessions)


def _list_streams(context: Context, client: RelayClient, wanted: str) -> int:
    count = 0
    for session in client.list_relay_sessions().sessions:
        if not _is_wanted(session, wanted):
            continue
        try:
            details = client.describe_relay_session(session.session_id)
        except NotFound:
            continue  # it has ended since
        context.terminal.message(relay_text.details_text(details))
        context.terminal.value(details)
        count += 1
    return count


def _is_wanted(session: RelaySessionInfo, wanted: str) -> bool:
    return wanted in (session.session_name, str(session.session_id))
