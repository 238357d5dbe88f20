"""The monitor timer: who is sampled when, and what is told of it."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from tracefleet_common.messages import consumerd_control as control
from tracefleet_consumerd.application import monitor as monitor_module
from tracefleet_consumerd.domain.buffer_usage import ToldUsages, Usage
from tracefleet_consumerd.domain.monitor_timers import MONITOR_PERIOD_US_MIN, MonitorTimers

sys.path.insert(0, str(Path(__file__).parent))

from consumerd_fakes import FakeBuffers, FakeBus, FakeConsumer, create_channel, open_registry

T = TypeVar("T")
SECOND_US = 1_000_000


class StoppedClock:
    def __init__(self) -> None:
        self.time_s = 100.0

    def now_s(self) -> float:
        return self.time_s


class SlowWorkers:
    """Calls of buffers that are held return when they are let go, each in a thread of its own."""

    def __init__(self) -> None:
        self.call_count = 0
        self._has_ended = asyncio.Event()

    async def run(self, work: Callable[[], T]) -> T:
        self.call_count += 1
        try:
            return await asyncio.to_thread(work)
        finally:
            self._has_ended.set()

    async def a_call_has_ended(self) -> None:
        """Once since the last time."""
        await self._has_ended.wait()
        self._has_ended.clear()


class WaitingBus(FakeBus):
    """Somebody waits for its first notice."""

    def __init__(self) -> None:
        super().__init__()
        self.has_told = asyncio.Event()

    async def notify(self, notice: control.ConsumerdNotice) -> None:
        await super().notify(notice)
        self.has_told.set()


class MonitoredConsumer(FakeConsumer):
    """A consumer whose monitor sees a clock that the test moves."""

    def __init__(self) -> None:
        super().__init__()
        self.time = StoppedClock()
        self.monitor._clock = self.time

    async def with_periods(self, **periods_us: int) -> dict[str, FakeBuffers]:
        """Registry 1 with a channel of each name; keys are 1, 2, …"""
        await self.ask(open_registry())
        for key, (name, period_us) in enumerate(periods_us.items(), 1):
            await self.ask(create_channel(channel_key=key, ticket=key, name=name, monitor_timer_period_us=period_us))
        return dict(zip(periods_us, self.library.buffers, strict=True))

    async def after(self, seconds: float) -> list[dict[int, tuple[int, int, int]]]:
        """What a tick at that time tells: each notice as samples by channel key."""
        self.time.time_s += seconds
        self.bus.notices.clear()
        await self.monitor.tick()
        told = []
        for notice in self.bus.notices:
            assert isinstance(notice, control.BufferUsage)
            told.append(
                {
                    sample.channel_key: (sample.lowest_bytes, sample.highest_bytes, sample.consumed_bytes)
                    for sample in notice.samples
                }
            )
        return told


def converse(conversation: Callable[[MonitoredConsumer], Awaitable[None]]) -> None:
    async def scenario() -> None:
        await conversation(MonitoredConsumer())

    asyncio.run(scenario())


# ---- timers ----


def test_channels_of_one_period_share_a_timer() -> None:
    timers = MonitorTimers()
    timers.add(1, SECOND_US, 0.0)
    timers.add(2, SECOND_US, 0.7)
    timers.add(3, 2 * SECOND_US, 0.7)
    assert timers.wait_s(0.7) == pytest.approx(0.3)
    (timer,) = timers.expired(1.0)
    assert list(timer.channel_keys) == [1, 2]
    timers.rearm([timer], 1.0)
    assert timers.expired(1.0) == []
    assert timers.wait_s(1.0) == pytest.approx(1.0)


def test_a_timer_lives_as_long_as_it_has_a_channel() -> None:
    timers = MonitorTimers()
    assert timers.wait_s(0.0) is None
    timers.add(1, 0, 0.0)
    assert timers.wait_s(0.0) is None
    timers.add(2, SECOND_US, 0.0)
    timers.add(3, SECOND_US, 0.0)
    timers.remove(2)
    assert timers.wait_s(0.0) == 1.0
    timers.remove(3)
    timers.remove(1)
    assert timers.wait_s(0.0) is None
    assert timers.expired(10.0) == []


def test_missed_ticks_are_dropped() -> None:
    timers = MonitorTimers()
    timers.add(1, SECOND_US, 0.0)
    expired = timers.expired(1.0)
    timers.rearm(expired, 4.25)
    assert timers.expired(4.25) == []
    assert timers.wait_s(4.25) == pytest.approx(0.75)


def test_a_tiny_period_does_not_become_a_busy_loop() -> None:
    timers = MonitorTimers()
    timers.add(1, 1, 0.0)
    assert timers.wait_s(0.0) == MONITOR_PERIOD_US_MIN / 1e6


# ---- what is news ----


def test_only_changes_are_news() -> None:
    told = ToldUsages()
    assert told.is_news(1, Usage(0, 0, 0))
    assert not told.is_news(1, Usage(0, 0, 0))
    assert told.is_news(1, Usage(0, 0, 4096))
    told.forget(1)
    assert told.is_news(1, Usage(0, 0, 4096))
    told.forget_all()
    assert told.is_news(1, Usage(0, 0, 4096))


def test_a_usage_fits_the_buffer_whatever_a_program_wrote_into_it() -> None:
    assert Usage(5, 2**64 - 1, 7).within(4096) == Usage(5, 4096, 7)


# ---- the monitor ----


def test_one_notice_tells_all_samples_of_a_tick() -> None:
    async def conversation(consumer: MonitoredConsumer) -> None:
        buffers = await consumer.with_periods(a=SECOND_US, b=SECOND_US, c=2 * SECOND_US)
        buffers["a"].current_usage = Usage(0, 500, 0)
        assert await consumer.after(0.5) == []
        assert await consumer.after(0.5) == [{1: (0, 500, 0), 2: (0, 0, 0)}]
        buffers["b"].current_usage = Usage(100, 200, 4096)
        assert await consumer.after(1.0) == [{2: (100, 200, 4096), 3: (0, 0, 0)}]

    converse(conversation)


def test_what_has_not_changed_is_not_told_again() -> None:
    async def conversation(consumer: MonitoredConsumer) -> None:
        buffers = await consumer.with_periods(a=SECOND_US)
        assert await consumer.after(1.0) == [{1: (0, 0, 0)}]
        assert await consumer.after(1.0) == []
        buffers["a"].current_usage = Usage(1, 1, 0)
        assert await consumer.after(1.0) == [{1: (1, 1, 0)}]
        assert await consumer.after(1.0) == []
        assert buffers["a"].calls.count("usage") == 4

    converse(conversation)


def test_a_session_daemon_that_comes_is_told_everything() -> None:
    async def conversation(consumer: MonitoredConsumer) -> None:
        await consumer.with_periods(a=SECOND_US)
        await consumer.after(1.0)
        consumer.monitor.peer_arrived()
        assert await consumer.after(1.0) == [{1: (0, 0, 0)}]

    converse(conversation)


def test_without_a_monitor_timer_nothing_is_sampled_and_nobody_wakes_up() -> None:
    async def conversation(consumer: MonitoredConsumer) -> None:
        buffers = await consumer.with_periods(a=0)
        assert consumer.monitor.wait_s() is None
        assert await consumer.after(3600.0) == []
        assert "usage" not in buffers["a"].calls

    converse(conversation)


def test_a_closed_channel_is_not_sampled_any_more() -> None:
    async def conversation(consumer: MonitoredConsumer) -> None:
        buffers = await consumer.with_periods(a=SECOND_US, b=SECOND_US)
        await consumer.after(1.0)
        await consumer.ask(control.CloseChannels(channel_keys=(1,), is_quiescent=True))
        buffers["a"].current_usage = buffers["b"].current_usage = Usage(7, 7, 0)
        assert await consumer.after(1.0) == [{2: (7, 7, 0)}]
        await consumer.ask(control.CloseChannels(channel_keys=(2,), is_quiescent=True))
        assert consumer.monitor.wait_s() is None

    converse(conversation)


def test_a_channel_that_is_closed_while_it_is_sampled_is_skipped() -> None:
    async def conversation(consumer: MonitoredConsumer) -> None:
        buffers = await consumer.with_periods(a=SECOND_US, b=SECOND_US)
        buffers["a"].close()  # the buffers are gone, the table does not know yet
        assert await consumer.after(1.0) == [{2: (0, 0, 0)}]

    converse(conversation)


def test_the_monitor_runs_by_itself_and_wakes_up_for_a_new_channel() -> None:
    async def conversation(consumer: MonitoredConsumer) -> None:
        bus = WaitingBus()
        consumer.monitor._notices = bus
        running = asyncio.create_task(consumer.monitor.run())
        await asyncio.sleep(0)  # it waits for ever now
        await consumer.with_periods(a=SECOND_US)
        consumer.time.time_s += 1.0
        async with asyncio.timeout(30):
            await bus.has_told.wait()
        running.cancel()

    converse(conversation)


def test_a_channel_whose_disk_is_stuck_holds_up_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor_module, "PATIENCE_S", 0.02)

    async def conversation(consumer: MonitoredConsumer) -> None:
        workers = SlowWorkers()
        consumer.monitor._workers = workers
        buffers = await consumer.with_periods(a=SECOND_US, b=SECOND_US, c=SECOND_US)
        disk_is_back = threading.Event()

        class StuckBuffers(FakeBuffers):
            def usage(self) -> Usage:
                assert disk_is_back.wait(30)
                return super().usage()

        buffers["b"].__class__ = StuckBuffers
        assert await consumer.after(1.0) == [{1: (0, 0, 0), 3: (0, 0, 0)}]
        assert workers.call_count == 2
        buffers["c"].current_usage = Usage(1, 1, 0)
        assert await consumer.after(1.0) == [{3: (1, 1, 0)}]
        assert workers.call_count == 3
        disk_is_back.set()
        async with asyncio.timeout(30):
            while not (told := await consumer.after(1.0)):
                await workers.a_call_has_ended()
        assert told == [{2: (0, 0, 0)}]

    converse(conversation)
