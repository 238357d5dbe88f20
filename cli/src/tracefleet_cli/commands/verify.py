"""verify: do the books of a trace balance?"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracefleet_cli import exit_status, quantities
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_common.options import Option, Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context
    from tracefleet_cli.verify.event_count import EventCount, EventCounts
    from tracefleet_cli.verify.report import TraceReport
    from tracefleet_common.codecs.packet import PacketHeader

OPTIONS = (
    HELP,
    LIST_OPTIONS,
    Option("emitted", None, "COUNT", "The programs emitted COUNT events: recorded and discarded make as many."),
    Option(
        "lost-packets",
        None,
        "COUNT",
        "COUNT packets were overwritten, as the session daemon reported: so many are missing. Default: 0.",
    ),
    Option("packets-only", None, None, "Do not count event records, which takes most of the time."),
    JSON,
)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = "TRACE"
DESCRIPTION = """\
Reads every trace at TRACE or below it, and reports of each data stream: the packets present, the gaps in \
their sequence numbers and the packets lost in them, the event records, and how many were discarded.

The books balance when every packet is whole and agrees with its index entry, sequence numbers are contiguous \
(but for --lost-packets), counts of discarded event records never go down, every stream can be read to its \
end, and all that was emitted is either recorded or discarded (with --emitted). A stream whose first packet \
is not number 0 had its oldest trace files replaced by newer ones: that is shown, and is no imbalance.

Exit status: 0, the books balance; 1, they do not; 3, there is no trace that can be read."""


def run(context: Context, parsed: Parsed) -> int:
    """Verify, print, and say it with the exit status."""
    if not parsed.operands:
        raise context.end("Missing trace directory.")
    (root,) = context.at_most_operands(parsed, 1)
    emitted = _count(context, parsed, "emitted")
    lost = _count(context, parsed, "lost-packets") or 0

    from tracefleet_cli.verify.report import balance
    from tracefleet_cli.verify.text import verification_text
    from tracefleet_cli.verify.trace_directory import UnreadableTrace, find_traces

    assert root is not None, "there is an operand"
    try:
        paths = find_traces(os.path.abspath(root))
    except UnreadableTrace as error:
        raise context.end(f"Cannot read {error}", exit_status.FATAL) from None
    if not paths:
        raise context.end(f"There is no trace in {root}", exit_status.FATAL)
    traces = tuple(_verify_trace(path, is_counting=not parsed.has("packets-only")) for path in paths)
    verification = balance(traces, emitted_event_count=emitted, lost_packet_count_expected=lost)
    context.terminal.message(verification_text(verification))
    context.terminal.value(verification)
    return exit_status.SUCCESS if verification.is_balanced else exit_status.ERROR


def _verify_trace(path: str, *, is_counting: bool) -> TraceReport:
    from tracefleet_cli.verify.event_count import CannotCount, count_events
    from tracefleet_cli.verify.report import TraceReport
    from tracefleet_cli.verify.stream_books import StreamBooks
    from tracefleet_cli.verify.trace_directory import UnreadableTrace, open_trace

    try:
        trace = open_trace(path)
    except UnreadableTrace as error:
        return TraceReport(path=path, streams=(), problems=(str(error),))
    problems = list(trace.strays)
    streams = [StreamBooks(trace.trace_uuid, stream.files, stream.first) for stream in trace.streams]
    for books in streams:
        books.read()
    counts: EventCounts | None = None
    if is_counting:
        corrupt = [name for books in streams for name in books.corrupt_files]
        try:
            counts = count_events(path, corrupt)
        except CannotCount as error:
            problems.append(f"event records cannot be counted: {error}")
    reports = [
        books.report(None if counts is None or books.corrupt_files else _counted(counts, stream.first))
        for stream, books in zip(trace.streams, streams, strict=True)
    ]
    return TraceReport(path=path, streams=tuple(reports), problems=tuple(problems))


def _counted(counts: EventCounts, first: PacketHeader | None) -> EventCount:
    from tracefleet_cli.verify.event_count import EventCount

    if first is None:
        return EventCount()
    return counts.get((first.stream_class_id, first.stream_instance_id), EventCount())


def _count(context: Context, parsed: Parsed, option: str) -> int | None:
    text = parsed.value(option)
    if text is None:
        return None
    try:
        return quantities.count(text)
    except quantities.BadQuantity:
        raise context.end(f"Wrong value for --{option} parameter: {text}") from None
