"""What `verify` finds out. These structs are also its --json shape."""

from __future__ import annotations

import msgspec


class StreamReport(msgspec.Struct, frozen=True, kw_only=True):
    """The books of one data stream, which may lie in several files.

    `lost_packet_count`: packets missing between those present (`sequence_gap_count` runs of them).
    `recorded_event_count`: None when it was not counted, or could not be to the end.
    """

    name: str  # channel and CPU, as the files are named
    stream_class_id: int
    stream_instance_id: int
    packet_count: int
    first_sequence_number: int | None  # None: there is no packet
    last_sequence_number: int | None
    sequence_gap_count: int
    lost_packet_count: int
    recorded_event_count: int | None
    discarded_event_count: int
    problems: tuple[str, ...]


class TraceReport(msgspec.Struct, frozen=True, kw_only=True):
    """One CTF trace. `problems` are those of no stream in particular."""

    path: str
    streams: tuple[StreamReport, ...]
    problems: tuple[str, ...]


class Verification(msgspec.Struct, frozen=True, kw_only=True, tag="verification"):
    """Everything below one directory. Event counts are None when one of the streams has none."""

    is_balanced: bool
    traces: tuple[TraceReport, ...]
    packet_count: int
    lost_packet_count: int
    recorded_event_count: int | None
    discarded_event_count: int
    emitted_event_count: int | None  # as it was given
    problems: tuple[str, ...]  # of the totals


def balance(
    traces: tuple[TraceReport, ...],
    *,
    emitted_event_count: int | None = None,
    lost_packet_count_expected: int = 0,
) -> Verification:
    """Add everything up, and see whether it agrees with what was emitted and what is known to be lost."""
    streams = [stream for trace in traces for stream in trace.streams]
    recorded = [stream.recorded_event_count for stream in streams]
    recorded_total = None if None in recorded else sum(count for count in recorded if count is not None)
    discarded = sum(stream.discarded_event_count for stream in streams)
    lost = sum(stream.lost_packet_count for stream in streams)
    problems = []
    # Those missing before the first one may have been overwritten, or their trace files replaced.
    missing_at_begin = sum(stream.first_sequence_number or 0 for stream in streams)
    if not lost <= lost_packet_count_expected <= lost + missing_at_begin:
        problems.append(f"{lost} packets are lost, {lost_packet_count_expected} should be")
    if emitted_event_count is not None:
        problems += _compare(emitted_event_count, recorded_total, discarded, has_lost=lost_packet_count_expected > 0)
    is_balanced = not problems and not any(trace.problems for trace in traces)
    return Verification(
        is_balanced=is_balanced and not any(stream.problems for stream in streams),
        traces=traces,
        packet_count=sum(stream.packet_count for stream in streams),
        lost_packet_count=lost,
        recorded_event_count=recorded_total,
        discarded_event_count=discarded,
        emitted_event_count=emitted_event_count,
        problems=tuple(problems),
    )


def _compare(emitted: int, recorded: int | None, discarded: int, *, has_lost: bool) -> list[str]:
    if recorded is None:
        return [f"The event records could not be counted, so they cannot be compared with {emitted} emitted"]
    missing = emitted - recorded - discarded
    if missing < 0:
        return [f"{recorded} recorded and {discarded} discarded are {-missing} more than {emitted} emitted"]
    if missing > 0 and not has_lost:  # a lost packet takes its event records with it, uncounted
        return [f"{recorded} recorded and {discarded} discarded are {missing} less than {emitted} emitted"]
    return []
