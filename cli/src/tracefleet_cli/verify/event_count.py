"""Event records per data stream, counted by tracefleet-count (cli/native_verify): Python touches none of them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Collection
from typing import NamedTuple

from tracefleet_cli.verify.trace_directory import INDEX_DIRECTORY_NAME

PROGRAM = "tracefleet-count"


class EventCount(NamedTuple):
    """Of one stream. `problem`: why the reading ended early; None: it did not."""

    event_count: int = 0
    packet_count: int = 0
    problem: str | None = None


EventCounts = dict[tuple[int, int], EventCount]  # by stream class and stream instance


class CannotCount(Exception):
    """The counting program is missing, or cannot read the trace at all."""


def count_events(trace_path: str, skipped: Collection[str] = ()) -> EventCounts:
    """Read the whole trace but the data files named in `skipped`. Raises CannotCount.

    One file that cannot be indexed makes a reader give up the trace: so it is shown a directory of links to
    the others.
    """
    if not skipped:
        return _count(trace_path)
    with tempfile.TemporaryDirectory(prefix="tracefleet-verify-") as view:
        os.mkdir(f"{view}/{INDEX_DIRECTORY_NAME}")
        for entry in os.scandir(trace_path):
            if entry.is_file() and entry.name not in skipped:
                os.symlink(entry.path, f"{view}/{entry.name}")
                index = f"{INDEX_DIRECTORY_NAME}/{entry.name}.idx"
                if os.path.isfile(f"{trace_path}/{index}"):
                    os.symlink(f"{trace_path}/{index}", f"{view}/{index}")
        return _count(view)


def _count(trace_path: str) -> EventCounts:
    """As many streams at a time as there are processors."""
    program = _program()
    parts = max(1, len(os.sched_getaffinity(0)))
    processes = [
        subprocess.Popen(
            [program, trace_path, str(part), str(parts)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        for part in range(parts)
    ]
    outcomes = [(*process.communicate(), process.returncode) for process in processes]
    counts: EventCounts = {}
    for output, complaint, status in outcomes:
        if status not in (0, 1):
            reason = complaint.strip() if status == 2 else f"{PROGRAM} ended with status {status}"
            raise CannotCount(reason or "unknown reason")
        counts.update(parse_counts(output))
    return counts


def parse_counts(output: str) -> EventCounts:
    """What tracefleet-count prints. Raises CannotCount for anything else."""
    counts: EventCounts = {}
    for line in output.splitlines():
        try:
            _, class_id, instance_id, events, packets, state, *reason = line.split("\t", 6)
            outcome = None if state == "ok" else " ".join(reason) or "unknown reason"
            counts[int(class_id), int(instance_id)] = EventCount(int(events), int(packets), outcome)
        except ValueError:
            raise CannotCount(f"{PROGRAM} says: {line}") from None
    return counts


def _program() -> str:
    beside = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), PROGRAM)
    found = beside if os.access(beside, os.X_OK) else shutil.which(PROGRAM)
    if found is None:
        raise CannotCount(f"{PROGRAM} is not installed")
    return found
