"""enable-event: create event rules, or enable those that were disabled."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import exit_status, log_levels
from tracefleet_cli.domains import AGENT_DOMAINS, TRACER_DOMAINS, require_user_space
from tracefleet_cli.error_texts import text_of
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_cli.name_lists import check_exclusions, split_exclusions, split_names
from tracefleet_common.errors import ErrorCode, InvalidArgument, TracefleetError
from tracefleet_common.model.event_rules import LOG_LEVEL_NONE, Domain, EventRule, LogLevelMatch
from tracefleet_common.options import Option, Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (
    HELP,
    Option("session", "s", "SESSION", "Of the session SESSION, instead of the current one."),
    Option("all", "a", None, "All events: the same as the name *."),
    Option("channel", "c", "CHANNEL", "Of the channel CHANNEL, which is created if need be. Default: channel0."),
    *TRACER_DOMAINS,
    *AGENT_DOMAINS,
    Option("tracepoint", None, None, "Tracepoints (default)."),
    Option("probe", None, "LOC", "A kernel probe: Linux kernel domain only."),
    Option("userspace-probe", None, "LOC", "A user space probe: Linux kernel domain only."),
    Option("function", None, "LOC", "A kernel function: Linux kernel domain only."),
    Option("syscall", None, None, "System calls: Linux kernel domain only."),
    Option("loglevel", None, "LEVEL", "Only tracepoints that are at least as severe as LEVEL."),
    Option("loglevel-only", None, "LEVEL", "Only tracepoints of LEVEL exactly."),
    LIST_OPTIONS,
    Option("filter", "f", "EXPR", "Only events that match EXPR."),
    Option("exclude", "x", "NAME[,NAME]...", "Except events of these names, which may contain *."),
    JSON,
)
UNSUPPORTED_OPTIONS = frozenset({"filter"})
OPERANDS = "(NAME[,NAME]... | --all)"
DESCRIPTION = """\
Creates event rules for the tracepoints NAME, or enables those that exist and are disabled. In a NAME, * \
stands for anything, anywhere, and \\* for a star.

LEVEL is EMERG, ALERT, CRIT, ERR, WARNING, NOTICE, INFO, DEBUG_SYSTEM, DEBUG_PROGRAM, DEBUG_PROCESS, \
DEBUG_MODULE, DEBUG_UNIT, DEBUG_FUNCTION, DEBUG_LINE, DEBUG, from the most severe to the least, in any case, \
also with the prefix TRACE_ or as a number from 0."""

EVENT_TYPES = ("tracepoint", "probe", "userspace-probe", "function", "syscall")
DEFAULT_CHANNEL = "channel0"
UNNAMED_CHANNEL = "<default>"
NEW_DOMAIN_IN_STARTED_SESSION = (
    "The command tried to enable an event in a new domain for a session that has already been started once."
)


def run(context: Context, parsed: Parsed) -> int:
    """Enable the rules, each for itself."""
    types = {name for name, _ in parsed.occurrences if name in EVENT_TYPES}
    if len(types) > 1:
        raise context.end("Multiple event type not supported.")
    require_user_space(context, parsed, (*TRACER_DOMAINS, *AGENT_DOMAINS))
    names = [] if parsed.has("all") or not parsed.operands else split_names(parsed.operands[0])
    if not names and not parsed.has("all"):
        raise context.end("Missing event name(s).")
    context.at_most_operands(parsed, 1)
    session = context.session(parsed.value("session"))
    if types - {"tracepoint"}:
        raise context.end("Event type not available for user-space tracing", exit_status.UNSUPPORTED)
    level_match, level = _log_level(context, parsed)
    exclude = parsed.value("exclude")
    exclusions = () if exclude is None else split_exclusions(exclude)
    rules = [
        EventRule(pattern=name, log_level_match=level_match, log_level=level, exclusions=exclusions)
        for name in (names or ["*"])
    ]
    status = exit_status.SUCCESS
    for rule in rules:
        if exclude is not None:
            _check_exclusions(context, rule)
        code = _enable(context, parsed, session, rule)
        if code is not None:
            status = exit_status.ERROR if parsed.has("all") else code
    return status


def _enable(context: Context, parsed: Parsed, session: str, rule: EventRule) -> int | None:
    """The error code, or None."""
    terminal, channel = context.terminal, parsed.value("channel")
    named = "Events" if parsed.has("all") else f"Event {rule.pattern}{_exclusion_words(rule)}"
    try:
        enabled = context.client().enable_event(session=session, domain=Domain.USER_SPACE, rule=rule, channel=channel)
    except TracefleetError as error:
        is_new_domain = error.code == ErrorCode.TRACE_ALREADY_STARTED
        text = NEW_DOMAIN_IN_STARTED_SESSION if is_new_domain else text_of(error)
        default = UNNAMED_CHANNEL if error.code == ErrorCode.NEED_CHANNEL_NAME else DEFAULT_CHANNEL
        terminal.error(f"{named}: {text} (channel {channel or default}, session {session})", error)
        return int(error.code)
    for warning in enabled.warnings:
        terminal.warning(warning)
    terminal.message(_success(parsed, rule, enabled.channel))
    terminal.value(enabled)
    return None


def _success(parsed: Parsed, rule: EventRule, channel: str) -> str:
    exclusions = _exclusion_words(rule)
    if not parsed.has("all"):
        return f"ust event {rule.pattern}{exclusions} created in channel {channel}"
    kind = "tracepoints" if parsed.has("tracepoint") else "events"
    level = parsed.value("loglevel-only") or parsed.value("loglevel")
    suffix = "" if level is None else f" for loglevel {level}"
    return f"All ust {kind}{exclusions} are enabled in channel {channel}{suffix}"


def _exclusion_words(rule: EventRule) -> str:
    if not rule.exclusions:
        return ""
    return " excluding " + ", ".join(f'"{exclusion}"' for exclusion in rule.exclusions)


def _check_exclusions(context: Context, rule: EventRule) -> None:
    try:
        warnings = check_exclusions(rule.pattern, rule.exclusions)
    except InvalidArgument as error:
        raise context.end(str(error)) from None
    for warning in warnings:
        context.terminal.warning(warning)


def _log_level(context: Context, parsed: Parsed) -> tuple[LogLevelMatch, int]:
    """Of the option given last."""
    for name, value in reversed(parsed.occurrences):
        if name in ("loglevel", "loglevel-only"):
            level = log_levels.value_of(value or "")
            if level is None:
                raise context.end(f"Unknown loglevel {value}", int(ErrorCode.INVALID))
            return (LogLevelMatch.RANGE if name == "loglevel" else LogLevelMatch.SINGLE), level
    return LogLevelMatch.ALL, LOG_LEVEL_NONE
