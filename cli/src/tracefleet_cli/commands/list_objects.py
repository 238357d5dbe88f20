"""list: sessions, what is in a session, or the instrumentation points of running programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import exit_status, session_text
from tracefleet_cli.domains import JUL, KERNEL, LOG4J, PYTHON, UNSUPPORTED_DOMAINS, USER_SPACE
from tracefleet_cli.error_texts import text_of
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_cli.streaming_text import streaming_text
from tracefleet_common.errors import ErrorCode, TracefleetError
from tracefleet_common.model.event_rules import Domain
from tracefleet_common.options import Option, Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context
    from tracefleet_common.messages.sessiond_control import DomainInfo, SessionDetails

OPTIONS = (
    HELP,
    KERNEL,
    JUL,
    LOG4J,
    PYTHON,
    USER_SPACE,
    Option("channel", "c", "CHANNEL", "With SESSION: only the channel CHANNEL."),
    Option("domain", "d", None, "With SESSION: only what tracing domains it has."),
    Option("fields", "f", None, "Without SESSION: also the fields of the instrumentation points."),
    Option("syscall", "S", None, "System calls: Linux kernel domain only."),
    LIST_OPTIONS,
    JSON,
)
UNSUPPORTED_OPTIONS = UNSUPPORTED_DOMAINS
OPERANDS = "[SESSION]"
DESCRIPTION = """\
Without SESSION and without a domain: lists the recording sessions. Without SESSION, with a domain: lists the \
instrumentation points of the running programs. With SESSION: lists its tracing domains, channels and event \
rules."""


def run(context: Context, parsed: Parsed) -> int:
    """List what was asked for."""
    (session,) = context.at_most_operands(parsed, 1)
    if parsed.has("syscall"):
        context.terminal.warning("--syscall will only work with the Kernel domain (-k)")
        return exit_status.ERROR
    if session is not None:
        return list_session(context, session, parsed)
    if parsed.has("userspace"):
        return _list_tracepoints(context, has_fields=parsed.has("fields"))
    sessions = context.client().list_sessions()
    context.terminal.message(session_text.sessions_text(sessions.sessions))
    context.terminal.value(sessions)
    return exit_status.SUCCESS


def list_session(context: Context, name: str, parsed: Parsed) -> int:
    """List one session in full, or what the options say of it."""
    terminal = context.terminal
    try:
        details = context.client().describe_session(name, has_streams=context.settings.is_json)
    except TracefleetError as error:
        if error.code != ErrorCode.SESSION_NOT_FOUND:
            raise
        terminal.error(f"Session '{name}' not found", error)
        return exit_status.ERROR
    terminal.message(session_text.session_heading(details.session))
    if details.streaming is not None:
        terminal.message(streaming_text(details.streaming))
    channel = parsed.value("channel")
    if parsed.has("domain"):
        terminal.message(session_text.domains_text(details.domains))
    else:
        for domain in _chosen_domains(details, parsed):
            if not parsed.has("userspace"):
                terminal.message(session_text.domain_heading(domain))
            if not _print_channels(context, domain, channel):
                terminal.error(f"Channel {channel} not found")
                return exit_status.ERROR
    terminal.value(details)
    return exit_status.SUCCESS


def _chosen_domains(details: SessionDetails, parsed: Parsed) -> list[DomainInfo]:
    if not parsed.has("userspace"):
        return list(details.domains)
    return [domain for domain in details.domains if domain.domain is Domain.USER_SPACE]


def _print_channels(context: Context, domain: DomainInfo, name: str | None) -> bool:
    """Whether there was a channel of that name, or none was asked for."""
    channels = [channel for channel in domain.channels if name in (None, channel.name)]
    context.terminal.message(session_text.channels_text(domain, channels))
    return name is None or bool(channels)


def _list_tracepoints(context: Context, *, has_fields: bool) -> int:
    from tracefleet_cli.tracepoint_text import tracepoints_text

    try:
        found = context.client().list_tracepoints(has_fields=has_fields)
    except TracefleetError as error:
        what = "UST event fields" if has_fields else "UST events"
        context.terminal.error(f"Unable to list {what}: {text_of(error)}", error)
        return exit_status.ERROR
    context.terminal.message(tracepoints_text(found))
    context.terminal.value(found)
    return exit_status.SUCCESS
