"""The time, from the machine."""

from __future__ import annotations

import time


class MonotonicClock:
    """Seconds since some moment in the past; never goes back."""

    def now_s(self) -> float:
        return time.monotonic()
