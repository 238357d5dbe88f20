"""Relay daemons and what they receive, as `list-relay` shows them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tracefleet_cli.streaming_text import amount

if TYPE_CHECKING:
    from tracefleet_common.messages.relayd_control import (
        RelayInfo,
        RelaySessionDetails,
        RelaySessionInfo,
        RelayStreamInfo,
        RelaySums,
    )


def daemon_text(daemon: RelayInfo, sessions: Sequence[RelaySessionInfo]) -> str:
    """A relay daemon and its sessions, by id."""
    lines = [
        f"Relay daemon {daemon.pid}:",
        f"    Trace output: {daemon.output_directory}",
        f"    Received:     {amount(daemon.packet_count, daemon.bytes)}",
        "",
    ]
    for session in sessions:
        lines += [*_session_lines(session), ""]
    if not sessions:
        lines.append("    No session is received")
    return "\n".join(lines)


def details_text(details: RelaySessionDetails) -> str:
    """A session and its open streams."""
    lines = _session_lines(details.session)
    for stream in details.streams:
        lines += ["", f"      - {_stream_name(stream)}", *_sums_lines(stream.sums, "        ")]
    return "\n".join((*lines, ""))


def _session_lines(session: RelaySessionInfo) -> list[str]:
    kind = "closed" if session.is_closed else "live" if session.live_timer_us else "open"
    return [
        f"  {session.session_id}) {session.session_name} [{kind}] from {session.host_name}",
        *([f"    Trace output: {session.output}"] if session.output else []),
        *([f"    Error:        {session.trouble}"] if session.trouble is not None else []),
        f"    Streams:      {session.stream_count}, viewers: {session.viewer_count}",
        *_sums_lines(session.sums, "    "),
    ]


def _stream_name(stream: RelayStreamInfo) -> str:
    return f"{stream.path.rstrip('/')}/{stream.channel_name}"


def _sums_lines(sums: RelaySums, indent: str) -> list[str]:
    lines = [f"{indent}Received:     {amount(sums.packet_count, sums.bytes)}"]
    if sums.acknowledged_packet_count is not None:
        lines.append(f"{indent}Acknowledged: {sums.acknowledged_packet_count} packets")
    if sums.lagging_packet_count:
        lines.append(f"{indent}Incomplete:   {sums.lagging_packet_count} packets")
    loss = sums.loss
    losses = [
        f"{count} {what}"
        for count, what in (
            (loss.discarded_event_count, "events discarded by the tracer"),
            (loss.missing_packet_count, "packets missing"),
            (loss.unmatched_packet_count, "packets without their other half"),
            (loss.overwritten_packet_count, "packets replaced by newer trace files"),
        )
        if count
    ]
    if losses:
        lines.append(f"{indent}Lost:         {', '.join(losses)}")
    return lines
