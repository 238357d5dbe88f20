"""Recording sessions as `lttng list` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tracefleet_cli import log_levels
from tracefleet_common.model.event_rules import (
    BufferOwnership,
    Domain,
    EventRule,
    LogLevelMatch,
    LossMode,
)

if TYPE_CHECKING:
    from tracefleet_common.messages.sessiond_control import (
        ChannelInfo,
        DomainInfo,
        EventRuleInfo,
        SessionInfo,
    )

RULE = "-------------"
DOMAIN_TITLES = {
    Domain.KERNEL: "Linux kernel",
    Domain.USER_SPACE: "User space",
    Domain.JUL: "java.util.logging (JUL)",
    Domain.LOG4J: "log4j",
    Domain.PYTHON: "Python logging",
}
DOMAIN_NAMES = {
    Domain.KERNEL: "Kernel",
    Domain.USER_SPACE: "UST global",
    Domain.JUL: "JUL (Java Util Logging)",
    Domain.LOG4J: "LOG4j (Logging for Java)",
    Domain.PYTHON: "Python (logging)",
}
BUFFERING_SCHEMES = {BufferOwnership.PER_USER: "per-user", BufferOwnership.PER_PROCESS: "per-process"}
LOG_LEVEL_RELATIONS = {LogLevelMatch.RANGE: "<=", LogLevelMatch.SINGLE: "=="}
# Inclusion sets of process attributes are still to come: every process is tracked.
TRACKED_PROCESS_ATTRIBUTES = """\
Tracked process attributes
  Virtual process IDs:  all
  Virtual user IDs:     all
  Virtual group IDs:    all
"""
BLOCKING_FOR_EVER = -1


def sessions_text(sessions: Sequence[SessionInfo]) -> str:
    """All sessions, the newest first."""
    if not sessions:
        return "Currently no available recording session"
    lines = ["Available recording sessions:"]
    for number, session in enumerate(reversed(sessions), 1):
        lines.append(f"  {number}) {session.name} [{_activity(session)}]")
        output = output_of(session)
        if output is not None:
            lines.append(f"    Trace output: {output}")
        if session.live_timer_period_us:
            lines.append(f"    Live timer interval: {session.live_timer_period_us} us")
        lines.append("")
    lines.append("\nUse tracefleet list <session_name> for more details")
    return "\n".join(lines)


def session_heading(session: SessionInfo) -> str:
    """What comes before the domains."""
    heading = f"Recording session {session.name}: [{_activity(session)}]"
    output = output_of(session)
    return heading if output is None else f"{heading}\n    Trace output: {output}\n"


def output_of(session: SessionInfo) -> str | None:
    """Where its trace goes; None: nowhere."""
    return session.output_path if session.relay is None else session.relay.text


def domains_text(domains: Sequence[DomainInfo]) -> str:
    """Only what domains there are."""
    names = [f"  - {DOMAIN_NAMES[domain.domain]}" for domain in domains] or ["  None"]
    return "\n".join(("Domains:", RULE, *names))


def domain_heading(domain: DomainInfo) -> str:
    """What comes before its channels."""
    heading = f"=== Domain: {DOMAIN_TITLES[domain.domain]} ===\n"
    if domain.domain is Domain.USER_SPACE:
        heading += f"\nBuffering scheme: {BUFFERING_SCHEMES[domain.buffer_ownership]}\n"
    return heading


def channels_text(domain: DomainInfo, channels: Sequence[ChannelInfo]) -> str:
    """What comes after the heading of a domain: some of its channels, or all."""
    blocks = [TRACKED_PROCESS_ATTRIBUTES]
    if domain.channels:
        blocks.append(f"Channels:\n{RULE}")
    blocks += map(channel_text, channels)
    return "\n".join(blocks)


def channel_text(channel: ChannelInfo) -> str:
    """One channel with its attributes, statistics and event rules."""
    attributes = channel.attributes
    is_discarding = attributes.loss_mode is not LossMode.OVERWRITE
    lines = [
        f"- {channel.name}:{_state(channel.is_enabled)}",
        "",
        "    Attributes:",
        f"      Event-loss mode:  {'discard' if is_discarding else 'overwrite'}",
        f"      Sub-buffer size:  {attributes.sub_buffer_size_bytes} bytes",
        f"      Sub-buffer count: {attributes.sub_buffer_count}",
        f"      Switch timer:     {_period(attributes.switch_timer_period_us)}",
        f"      Read timer:       {_period(attributes.read_timer_period_us)}",
        f"      Monitor timer:    {_period(attributes.monitor_timer_period_us)}",
    ]
    if is_discarding:
        timeout_us = attributes.blocking_timeout_us
        timeout = "infinite" if timeout_us == BLOCKING_FOR_EVER else f"{timeout_us} us"
        lines.append(f"      Blocking timeout: {timeout}")
    size_bytes = attributes.trace_file_size_bytes
    lines += [
        f"      Trace file count: {attributes.trace_file_count or 1} per stream",
        f"      Trace file size:  {f'{size_bytes} bytes' if size_bytes else 'unlimited'}",
        f"      Output mode:      {attributes.output}",
        "",
        "    Statistics:",
        f"      Discarded events: {channel.discarded_event_count}"
        if is_discarding
        else f"      Lost packets:     {channel.lost_packet_count}",
    ]
    if channel.error is not None:
        lines.append(f"      Error:            {channel.error}")
    lines += ["", "    Recording event rules:"]
    lines += [_rule_line(rule) for rule in channel.event_rules] or ["      None"]
    lines.append("")
    return "\n".join(lines)


def _rule_line(info: EventRuleInfo) -> str:
    rule = info.rule
    exclusions = f" [exclusions: {','.join(rule.exclusions)}]" if rule.exclusions else ""
    return f"      {rule.pattern}{_log_level(rule)} (type: tracepoint){_state(info.is_enabled)}{exclusions}"


def _log_level(rule: EventRule) -> str:
    relation = LOG_LEVEL_RELATIONS.get(rule.log_level_match)
    if relation is None:
        return ""
    return f" (loglevel {relation} {log_levels.name_of(rule.log_level)} ({rule.log_level}))"


def _activity(session: SessionInfo) -> str:
    return "active" if session.is_active else "inactive"


def _state(is_enabled: bool) -> str:
    return " [enabled]" if is_enabled else " [disabled]"


def _period(period_us: int) -> str:
    return f"{period_us} us" if period_us else "inactive"
