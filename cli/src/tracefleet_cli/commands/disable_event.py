"""disable-event: let event rules record nothing until they are enabled again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import exit_status
from tracefleet_cli.domains import AGENT_DOMAINS, TRACER_DOMAINS, require_user_space
from tracefleet_cli.error_texts import text_of
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_cli.name_lists import split_names
from tracefleet_common.errors import ErrorCode, TracefleetError
from tracefleet_common.model.event_rules import Domain
from tracefleet_common.options import Option, Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (
    HELP,
    Option("session", "s", "SESSION", "Of the session SESSION, instead of the current one."),
    Option("all-events", "a", None, "All event rules of the channel."),
    Option("channel", "c", "CHANNEL", "Of the channel CHANNEL. Default: channel0."),
    *AGENT_DOMAINS,
    *TRACER_DOMAINS,
    Option("syscall", None, None, "System calls: Linux kernel domain only."),
    Option("probe", None, None, "Kernel probes: Linux kernel domain only."),
    Option("tracepoint", None, None, "Tracepoints: Linux kernel domain only."),
    Option("function", None, None, "Kernel functions: Linux kernel domain only."),
    Option("all", None, None, "Event rules of any type (default)."),
    LIST_OPTIONS,
    JSON,
)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = "(NAME[,NAME]... | --all-events)"
DESCRIPTION = """\
Disables the event rules whose name pattern is NAME, character for character: they record nothing until \
they are enabled again."""

EVENT_TYPES = ("syscall", "probe", "tracepoint", "function", "all")
DEFAULT_CHANNEL = "channel0"
UNNAMED_CHANNEL = "<default>"


def run(context: Context, parsed: Parsed) -> int:
    """Disable the rules, each for itself."""
    types = {name for name, _ in parsed.occurrences if name in EVENT_TYPES}
    if len(types) > 1:
        raise context.end("Multiple event type not supported.")
    require_user_space(context, parsed, (*TRACER_DOMAINS, *AGENT_DOMAINS))
    if types - {"all"}:
        raise context.end(
            "Disabling userspace and agent (-j | -l | -p) event(s) based on instrumentation type is not supported.\n"
        )
    names = [] if parsed.has("all-events") or not parsed.operands else split_names(parsed.operands[0])
    if not names and not parsed.has("all-events"):
        raise context.end("Missing event name(s).\n")
    context.at_most_operands(parsed, 1)
    session = context.session(parsed.value("session"))
    channel = parsed.value("channel")
    if parsed.has("all-events"):
        return _disable_all(context, session, channel)
    has_failed, last_code = False, exit_status.SUCCESS
    for name in names:
        last_code = _disable(context, session, channel, name)
        has_failed = has_failed or last_code != exit_status.SUCCESS
    # The status of the last one wins, as in `lttng`; earlier failures show as a warning.
    return last_code or (exit_status.WARNING if has_failed else exit_status.SUCCESS)


def _disable_all(context: Context, session: str, channel: str | None) -> int:
    try:
        disabled = context.client().disable_event(
            session=session, domain=Domain.USER_SPACE, pattern=None, channel=channel
        )
    except TracefleetError as error:
        context.terminal.failure(error)
        return int(error.code)
    context.terminal.message(f"All ust events of type any are disabled in channel {disabled.channel}")
    context.terminal.value(disabled)
    return exit_status.SUCCESS


def _disable(context: Context, session: str, channel: str | None, name: str) -> int:
    try:
        disabled = context.client().disable_event(
            session=session, domain=Domain.USER_SPACE, pattern=name, channel=channel
        )
    except TracefleetError as error:
        default = UNNAMED_CHANNEL if error.code == ErrorCode.NEED_CHANNEL_NAME else DEFAULT_CHANNEL
        context.terminal.error(
            f"{name} of type any : {text_of(error)} (channel {channel or default}, session {session})", error
        )
        return int(error.code)
    context.terminal.message(f"ust {name} of type any disabled in channel {disabled.channel} for session {session}")
    context.terminal.value(disabled)
    return exit_status.SUCCESS
