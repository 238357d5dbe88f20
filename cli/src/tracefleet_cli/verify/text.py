"""A verification for people."""

from __future__ import annotations

from tracefleet_cli.verify.report import StreamReport, TraceReport, Verification


def verification_text(verification: Verification) -> str:
    """Trace by trace, stream by stream, then the totals and the verdict."""
    lines: list[str] = []
    for trace in verification.traces:
        lines += _trace_lines(trace)
    lines += [
        f"Total: {_many(verification.packet_count, 'packet')}, {verification.lost_packet_count} lost; "
        + _events(verification.recorded_event_count, verification.discarded_event_count)
        + _emitted(verification.emitted_event_count),
        *(f"Problem: {problem}" for problem in verification.problems),
        "The books balance." if verification.is_balanced else "The books do not balance.",
    ]
    return "\n".join(lines)


def _trace_lines(trace: TraceReport) -> list[str]:
    lines = [f"Trace {trace.path}"]
    for stream in trace.streams:
        lines.append(f"  {stream.name}: {_packets(stream)}; {_stream_events(stream)}")
        lines += [f"    Problem: {problem}" for problem in stream.problems]
    lines += [f"  Problem: {problem}" for problem in trace.problems]
    lines.append("")
    return lines


def _packets(stream: StreamReport) -> str:
    if stream.packet_count == 0:
        return "no packet"
    gaps = (
        f"{_many(stream.sequence_gap_count, 'gap')}, {_many(stream.lost_packet_count, 'packet')} lost"
        if stream.sequence_gap_count
        else "no gap"
    )
    return (
        f"{_many(stream.packet_count, 'packet')}, sequence {stream.first_sequence_number} "
        f"to {stream.last_sequence_number}, {gaps}"
    )


def _stream_events(stream: StreamReport) -> str:
    return _events(stream.recorded_event_count, stream.discarded_event_count)


def _events(recorded: int | None, discarded: int) -> str:
    counted = "event records not counted" if recorded is None else _many(recorded, "event record")
    return f"{counted}, {discarded} discarded"


def _emitted(emitted: int | None) -> str:
    return "" if emitted is None else f"; {emitted} emitted"


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
