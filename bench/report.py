"""The table: medians of both peers, their ratio pair by pair, and the spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from bench.plan import Case, Row

Samples = dict[str, dict[str, list[dict[str, float]]]]  # case, peer: one dictionary of figures per round


def table(cases: Iterable[Case], samples: Samples) -> str:
    """Return the Markdown table of the cases that have samples."""
    lines = [
        "| figure | unit | LTTng-tools | tracefleet | ratio | target |",
        "|---|---|---:|---:|---:|---|",
    ]
    for case in cases:
        for row in case.rows if case.name in samples else ():
            lttng, ours = (_values(row, samples[case.name].get(peer, [])) for peer in ("lttng", "tracefleet"))
            cells = (row.title, row.unit, _cell(lttng), _cell(ours), _ratio(lttng, ours), row.target)
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _values(row: Row, rounds: Iterable[dict[str, float]]) -> list[float]:
    return [figures[row.figure] * row.scale for figures in rounds]


def _number(value: float) -> str:
    if value == 0 or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cell(values: Sequence[float]) -> str:
    if not values:
        return "–"
    return f"{_number(statistics.median(values))} ({_number(min(values))} … {_number(max(values))})"


def _ratio(lttng: Sequence[float], ours: Sequence[float]) -> str:
    """Median of ours / theirs round by round: the two of a round ran next to each other."""
    if not lttng or not ours or len(lttng) != len(ours) or not all(lttng):
        return "–"
    return f"{statistics.median(b / a for a, b in zip(lttng, ours, strict=True)):.2f}"
