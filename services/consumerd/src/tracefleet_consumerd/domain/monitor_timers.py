"""When which channels are to be looked at: one timer for all channels of a period."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

# A period of a microsecond is legal, but a daemon that does nothing but look at itself is of no use.
MONITOR_PERIOD_US_MIN = 10_000


@dataclass(eq=False)
class MonitorTimer:
    """Expires at `due_at_s`, in seconds of one monotonic clock."""

    period_s: float
    due_at_s: float
    channel_keys: dict[int, None] = field(default_factory=dict)  # in the order they came


class MonitorTimers:
    """Times are given from outside. A timer exists as long as it has a channel."""

    def __init__(self) -> None:
        self._timers: dict[int, MonitorTimer] = {}  # by period
        self._periods_us: dict[int, int] = {}  # by channel key

    def add(self, channel_key: int, period_us: int, now_s: float) -> None:
        """The channel takes part in the timer of its period. Period 0: it has none."""
        if period_us == 0:
            return
        period_us = max(period_us, MONITOR_PERIOD_US_MIN)
        if period_us not in self._timers:
            period_s = period_us / 1e6
            self._timers[period_us] = MonitorTimer(period_s, now_s + period_s)
        self._timers[period_us].channel_keys[channel_key] = None
        self._periods_us[channel_key] = period_us

    def remove(self, channel_key: int) -> None:
        """The channel is closed, or has no timer."""
        period_us = self._periods_us.pop(channel_key, None)
        if period_us is None:
            return
        timer = self._timers[period_us]
        del timer.channel_keys[channel_key]
        if not timer.channel_keys:
            del self._timers[period_us]

    def wait_s(self, now_s: float) -> float | None:
        """How long until a timer expires, 0 when one has; None: there is no timer."""
        due_at_s = min((timer.due_at_s for timer in self._timers.values()), default=None)
        return None if due_at_s is None else max(0.0, due_at_s - now_s)

    def expired(self, now_s: float) -> list[MonitorTimer]:
        """Those that are due. They are until `rearm`."""
        return [timer for timer in self._timers.values() if timer.due_at_s <= now_s]

    def rearm(self, timers: list[MonitorTimer], now_s: float) -> None:
        """What they were due for is done; the ticks that were missed meanwhile are dropped."""
        for timer in timers:
            tick_count = math.floor((now_s - timer.due_at_s) / timer.period_s) + 1
            timer.due_at_s += tick_count * timer.period_s
