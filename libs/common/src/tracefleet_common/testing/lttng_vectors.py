"""Recorded conversations of genuine LTTng daemons and viewers, for tests: JSON lines below tests/golden/lttng."""

from __future__ import annotations

from pathlib import Path

import msgspec

VECTORS = Path(__file__).resolve().parents[5] / "tests/golden/lttng"


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One message, or an event in between. `data` is the whole message, empty for an event."""

    file: str
    number: int
    connection: str
    direction: str  # c2s, s2c, or - for an event
    label: str
    note: str  # the fields, as the recorder decoded them
    data: bytes

    def __str__(self) -> str:
        return f"{self.file}-{self.number}-{self.label.replace(' ', '-')}"


class _Line(msgspec.Struct):
    i: int
    conn: str
    dir: str
    label: str
    note: str
    hex: str


def read_vectors(pattern: str) -> list[Row]:
    """Return the rows of the files whose names match, in order."""
    rows: list[Row] = []
    for path in sorted(VECTORS.glob(pattern)):
        for text in path.read_text().splitlines():
            line = msgspec.json.decode(text, type=_Line)
            rows.append(
                Row(
                    file=path.stem,
                    number=line.i,
                    connection=line.conn,
                    direction=line.dir,
                    label=line.label,
                    note=line.note,
                    data=bytes.fromhex(line.hex),
                )
            )
    return rows
