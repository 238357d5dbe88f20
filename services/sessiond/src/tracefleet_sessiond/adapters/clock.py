"""The clocks of this machine, and what their user database knows."""

from __future__ import annotations

import pwd
import time
from pathlib import Path

from tracefleet_common.codecs.tsdl import ClockDescription

SAMPLE_COUNT = 10  # of the clock offset; the tightest one counts


class SystemWallClock:
    """The time of day."""

    def now_s(self) -> int:
        """Seconds since the Unix epoch."""
        return int(time.time())


class SystemUsers:
    """The user database."""

    def home_directory(self, uid: int) -> str | None:
        """The absolute home directory of `uid`; None when there is none."""
        try:
            home = pwd.getpwuid(uid).pw_dir
        except (KeyError, OverflowError):
            return None
        return home if home.startswith("/") else None


def _offset_ns() -> int:
    """Real time minus monotonic time, from the sample with the least time between its two readings."""
    best_width_ns, best_offset_ns = None, 0
    for _ in range(SAMPLE_COUNT):
        before_ns = time.monotonic_ns()
        real_ns = time.time_ns()
        after_ns = time.monotonic_ns()
        width_ns = after_ns - before_ns
        if best_width_ns is None or width_ns < best_width_ns:
            best_width_ns, best_offset_ns = width_ns, real_ns - (before_ns + after_ns) // 2
    return best_offset_ns


def tracer_clock() -> ClockDescription:
    """The clock that stamps event records: CLOCK_MONOTONIC, one offset for the daemon's whole life."""
    try:
        uuid = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        uuid = None
    return ClockDescription(
        name="monotonic",
        uuid=uuid,
        description="Monotonic Clock",
        frequency_hz=1_000_000_000,
        offset=_offset_ns(),
    )
