"""The monitor timer: how full the ring buffers are, sampled period by period and told when it changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from tracefleet_common.errors import TracefleetError
from tracefleet_common.messages.consumerd_control import BufferSample, BufferUsage
from tracefleet_consumerd.application.ports import MonotonicClock, Notices, Workers
from tracefleet_consumerd.application.registries import Channel
from tracefleet_consumerd.domain.buffer_usage import ToldUsages, Usage
from tracefleet_consumerd.domain.monitor_timers import MonitorTimers

log = logging.getLogger("tracefleet.consumerd.monitor")

# To look at a stream means to wait for a write to its file that is under way. One that takes this long is left
# alone until the kernel gives it back, and holds up the other channels no more.
PATIENCE_S = 1.0
# Each such write keeps a thread. When they all wait, the disks are away and nothing is sampled.
STUCK_CALLS_MAX = 4


class BufferMonitor:
    """Samples the channels from `watch` to `forget`, each with the period of its monitor timer."""

    def __init__(self, workers: Workers, notices: Notices, clock: MonotonicClock) -> None:
        self._workers = workers
        self._notices = notices
        self._clock = clock
        self._timers = MonitorTimers()
        self._told = ToldUsages()
        self._channels: dict[int, Channel] = {}  # by key
        self._stuck: set[Channel] = set()
        self._has_changed = asyncio.Event()

    def watch(self, channel: Channel) -> None:
        """Unless its period is 0."""
        period_us = channel.settings.monitor_timer_period_us
        if period_us == 0:
            return
        self._channels[channel.key] = channel
        self._timers.add(channel.key, period_us, self._clock.now_s())
        self._has_changed.set()

    def forget(self, channel: Channel) -> None:
        """Nothing is told of it any more."""
        if self._channels.get(channel.key) is channel:
            del self._channels[channel.key]
            self._timers.remove(channel.key)
            self._told.forget(channel.key)
            self._has_changed.set()

    def peer_arrived(self) -> None:
        """Whoever came knows nothing yet: the next ticks tell everything."""
        self._told.forget_all()

    def wait_s(self) -> float | None:
        """How long until something is to be done; None: for ever, unless a channel comes."""
        return self._timers.wait_s(self._clock.now_s())

    async def run(self) -> None:
        """Tick until cancelled."""
        while True:
            self._has_changed.clear()
            try:
                async with asyncio.timeout(self.wait_s()):
                    await self._has_changed.wait()
            except TimeoutError:
                try:
                    await self.tick()
                except Exception:  # the next tick may fare better
                    log.exception("Cannot sample the ring buffers")

    async def tick(self) -> None:
        """Sample the channels whose timers have expired, and tell of those that changed, in one notice."""
        timers = self._timers.expired(self._clock.now_s())
        try:
            usages = await self._measure([self._channels[key] for timer in timers for key in timer.channel_keys])
        finally:
            self._timers.rearm(timers, self._clock.now_s())
        samples = tuple(
            BufferSample(
                channel_key=channel.key,
                lowest_bytes=usage.lowest_bytes,
                highest_bytes=usage.highest_bytes,
                consumed_bytes=usage.consumed_bytes,
            )
            for channel, usage in usages
            # It may have been closed meanwhile.
            if self._channels.get(channel.key) is channel and self._told.is_news(channel.key, usage)
        )
        if samples:
            await self._notices.notify(BufferUsage(samples))

    async def _measure(self, channels: Sequence[Channel]) -> list[tuple[Channel, Usage]]:
        """One call of a worker thread for all of them, and one more behind each channel that is stuck."""
        usages: list[tuple[Channel, Usage]] = []
        remaining = [channel for channel in channels if channel not in self._stuck]
        while remaining and len(self._stuck) < STUCK_CALLS_MAX:
            round_ = _Round(remaining)
            task = asyncio.ensure_future(self._workers.run(round_.measure))
            seen_count = -1
            while not task.done() and round_.seen_count != seen_count:
                seen_count = round_.seen_count
                await asyncio.wait({task}, timeout=PATIENCE_S)
            seen_count = len(remaining) if task.done() else round_.abandon()
            usages += round_.usages
            if task.done():
                task.result()
            elif seen_count < len(remaining):
                self._set_aside(remaining[seen_count], task)
            remaining = remaining[seen_count + 1 :]
        return usages

    def _set_aside(self, channel: Channel, task: asyncio.Future[None]) -> None:
        log.warning("A write takes long, the buffers are not sampled: channel=%s", channel.settings.name)
        self._stuck.add(channel)
        task.add_done_callback(lambda _task: self._stuck.discard(channel))


class _Round:
    """Looks at channels one after the other, in a worker thread."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = channels
        self._is_abandoned = False
        self.usages: list[tuple[Channel, Usage]] = []
        self.seen_count = 0

    def measure(self) -> None:
        for channel in self._channels:
            if self._is_abandoned:
                return
            try:
                usage = channel.buffers.usage()
            except TracefleetError as error:  # closed meanwhile
                log.debug("Cannot sample a channel: channel=%s, reason=%s", channel.settings.name, error)
            else:
                settings = channel.settings
                usage = usage.within(settings.sub_buffer_size_bytes * settings.sub_buffer_count)
                self.usages.append((channel, usage))
            self.seen_count += 1

    def abandon(self) -> int:
        """Look at no further channel. Returns how many were seen; it is inside the next one."""
        self._is_abandoned = True
        return self.seen_count
