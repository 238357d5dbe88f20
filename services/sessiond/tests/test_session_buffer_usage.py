"""How full the ring buffers are: from a notice of the consumer daemon to the books of a channel."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

from tracefleet_common.codecs.tsdl import ClockDescription
from tracefleet_common.messages import consumerd_control as control
from tracefleet_common.model.event_rules import BufferOwnership, ChannelAttributes
from tracefleet_sessiond.adapters.consumer import Consumer
from tracefleet_sessiond.adapters.ust_tracer import UstTracer, _SessionTraces
from tracefleet_sessiond.application.ports import ChannelTotals
from tracefleet_sessiond.domain.channel import Channel
from tracefleet_sessiond.domain.session import RecordingSession

CLOCK = ClockDescription(offset=0)
FOREIGN_KEY = 99


class SampledConsumer:
    """A consumer daemon; the test says what it tells. `books`: of the only stream of each channel, by key."""

    on_notice: Callable[[control.ConsumerdNotice], None]
    on_lost: Callable[[], None]

    def __init__(self) -> None:
        self.books: dict[int, control.StreamBooks] = {}

    async def sample(self, request: control.SampleChannels) -> control.ChannelsDrained:
        return control.ChannelsDrained(
            tuple(
                control.ChannelState(channel_key=key, streams=(self.books[key],) if key in self.books else ())
                for key in request.channel_keys
            )
        )


class Buffers:
    """What the tracer keeps of one channel of a registry."""

    def __init__(self, channel: Channel, channel_key: int) -> None:
        self.channel = channel
        self.channel_key = channel_key


class Registry:
    """Channels of these names, in buffers of these keys; those without buffers yet are being made."""

    def __init__(self, keys: dict[str, int], *, being_made: int | None = None, relative_path: str = "ust") -> None:
        self.relative_path = relative_path
        self.channels = {name: Buffers(Channel(name, ChannelAttributes()), key) for name, key in keys.items()}
        self.usages: dict[int, control.BufferSample | None] = dict.fromkeys(keys.values())
        if being_made is not None:
            self.usages[being_made] = None


def sample(channel_key: int, lowest: int, highest: int) -> control.BufferSample:
    return control.BufferSample(channel_key=channel_key, lowest_bytes=lowest, highest_bytes=highest, consumed_bytes=0)


class World:
    """A session with these registries."""

    def __init__(self, *registries: Any) -> None:
        self.consumer = SampledConsumer()
        self.tracer = UstTracer(cast("Consumer", self.consumer), CLOCK, app_deadline_s=None)
        self.session = RecordingSession(1, "s", 0, 0, 0, None, buffer_ownership=BufferOwnership.PER_PROCESS)
        traces = self.tracer._traces[self.session] = _SessionTraces()
        traces.registries.update({(number,): registry for number, registry in enumerate(registries)})

    def is_told(self, *samples: control.BufferSample) -> None:
        self.consumer.on_notice(control.BufferUsage(samples))

    def totals(self) -> dict[str, ChannelTotals]:
        return asyncio.run(self.tracer.totals(self.session))

    def usage(self, channel: str) -> tuple[int | None, int | None]:
        total = self.totals()[channel]
        return total.lowest_usage_bytes, total.highest_usage_bytes


def test_a_channel_shows_the_extremes_of_its_traces() -> None:
    world = World(Registry({"c": 1, "d": 2}), Registry({"c": 3}))
    world.is_told(sample(1, 10, 500), sample(3, 20, 700))
    assert world.usage("c") == (10, 700)
    assert world.usage("d") == (None, None)


def test_the_latest_sample_counts_and_the_others_stay() -> None:
    world = World(Registry({"c": 1, "d": 2}))
    world.is_told(sample(1, 10, 500), sample(2, 1, 2))
    world.is_told(sample(1, 0, 0))
    assert world.usage("c") == (0, 0)
    assert world.usage("d") == (1, 2)


def test_samples_of_other_session_daemons_and_closed_channels_are_dropped() -> None:
    registry = Registry({"c": 1})
    world = World(registry)
    world.is_told(sample(FOREIGN_KEY, 1, 2))
    assert set(registry.usages) == {1}
    assert world.usage("c") == (None, None)


def test_a_sample_that_comes_before_the_reply_that_the_channel_is_made_is_kept() -> None:
    """It is told once: what does not change is not told again."""
    registry = Registry({}, being_made=1)
    world = World(registry)
    world.is_told(sample(1, 0, 96))
    registry.channels["c"] = Buffers(Channel("c", ChannelAttributes()), 1)
    assert world.usage("c") == (0, 96)


def test_streams_are_named_by_their_traces() -> None:
    world = World(Registry({"c": 1}, relative_path="ust/pid/a-1"), Registry({"c": 2}, relative_path="ust/pid/b-2"))
    for key in (1, 2):
        world.consumer.books[key] = control.StreamBooks(
            cpu=3,
            packet_count=key,
            bytes=4096 * key,
            discarded_event_count=10 * key,
            lost_packet_count=0,
            unwritten_packet_count=0,
        )
    for _ in range(2):  # asking adds nothing
        total = world.totals()["c"]
        assert (total.packet_count, total.recorded_bytes, total.discarded_event_count) == (3, 3 * 4096, 30)
        assert [(stream.trace, stream.cpu, stream.recorded_packet_count) for stream in total.streams] == [
            ("ust/pid/a-1", 3, 1),
            ("ust/pid/b-2", 3, 2),
        ]
