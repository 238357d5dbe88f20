"""disable-channel: let channels record nothing until they are enabled again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import exit_status
from tracefleet_cli.domains import TRACER_DOMAINS, require_user_space
from tracefleet_cli.error_texts import text_of
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_cli.name_lists import split_names
from tracefleet_common.errors import TracefleetError
from tracefleet_common.model.event_rules import Domain
from tracefleet_common.options import Option, Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (
    HELP,
    Option("session", "s", "SESSION", "Of the session SESSION, instead of the current one."),
    *TRACER_DOMAINS,
    LIST_OPTIONS,
    JSON,
)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = "CHANNEL[,CHANNEL]..."
DESCRIPTION = "Disables the channels CHANNEL: they record nothing until they are enabled again."


def run(context: Context, parsed: Parsed) -> int:
    """Disable the channels, each for itself."""
    require_user_space(context, parsed, TRACER_DOMAINS)
    names = split_names(parsed.operands[0]) if parsed.operands else []
    if not names:
        raise context.end("Missing channel name(s).")
    context.at_most_operands(parsed, 1)
    session = context.session(parsed.value("session"))
    status = exit_status.SUCCESS
    for name in names:
        try:
            done = context.client().disable_channel(session, Domain.USER_SPACE, name)
        except TracefleetError as error:
            context.terminal.error(f"Channel {name}: {text_of(error)} (session {session})", error)
            status = exit_status.WARNING
        else:
            context.terminal.message(f"ust channel {name} disabled for session {session}")
            context.terminal.value(done)
    return status
