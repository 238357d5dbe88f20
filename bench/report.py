"""The tables: medians of the peers, their ratios round by round, and the spread."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence

from bench.plan import Case, Row

Samples = dict[str, dict[str, list[dict[str, float]]]]  # case, peer: one dictionary of figures per round


_COLUMNS = {"lttng": "LTTng-tools", "tracefleet": "tracefleet"}
_RELAY_COLUMNS = {  # who sends, and which relay daemon keeps it
    "lttng": "LTTng → LTTng",
    "lttng-tracefleet": "LTTng → tracefleet",
    "tracefleet": "tracefleet → tracefleet",
    "fleet": "the same, acknowledged",
}


def tables(cases: Sequence[Case], samples: Samples) -> str:
    """Return the Markdown tables, with and without relay daemons, of the cases that have samples."""
    found = [case for case in cases if case.name in samples]
    groups = (
        (_COLUMNS, [case for case in found if not case.has_relay]),
        (_RELAY_COLUMNS, [case for case in found if case.has_relay]),
    )
    return "\n\n".join(_table(columns, group, samples) for columns, group in groups if group)


def _table(columns: dict[str, str], cases: Iterable[Case], samples: Samples) -> str:
    """Return a table with a column for each peer; the ratio after it is to the first one."""
    first, *others = columns.values()
    titles = ["figure", "unit", first, *(title for other in others for title in (other, "ratio")), "target"]
    lines = [
        f"| {' | '.join(titles)} |",
        f"|---|---|---:|{'---:|---:|' * len(others)}---|",
    ]
    for case in cases:
        for row in case.rows:
            lttng, *ours = (_values(row, samples[case.name].get(peer, [])) for peer in columns)
            cells = [row.title, row.unit, _cell(lttng)]
            for values in ours:
                cells += [_cell(values), _ratio(lttng, values)]
            lines.append(f"| {' | '.join([*cells, row.target])} |")
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
