"""Nobody waits for record layouts but what may repair."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from tracefleet_common.errors import TransportError
from tracefleet_common.messages import consumerd_control as control
from tracefleet_common.messages.envelope import Done
from tracefleet_sessiond.adapters import consumer as consumer_module
from tracefleet_sessiond.adapters.consumer import Consumer
from tracefleet_sessiond.adapters.consumer_launcher import ConsumerLauncher
from tracefleet_sessiond.settings import ConsumerSettings


class SlowConsumer(Consumer):
    """Answers one request at a time, when it is let."""

    def __init__(self) -> None:
        super().__init__(cast("ConsumerSettings", None), cast("ConsumerLauncher", None), software="test")
        self.requests: list[Any] = []
        self.is_let = asyncio.Event()
        self.error: TransportError | None = None

    async def request(self, body: Any, *, deadline_s: float = 0) -> Any:
        self.requests.append(body)
        await self.is_let.wait()
        if self.error is not None:
            raise self.error
        return Done() if isinstance(body, control.SetRecordLayouts) else control.ChannelsDrained(())


def layout(event_id: int) -> control.RecordLayout:
    return control.RecordLayout(channel_key=1, event_id=event_id, layout=b"\x02")


DRAIN = control.DrainChannels(channel_keys=(), is_final_flush=True, is_quiescent=True)


def converse(conversation: Callable[[SlowConsumer], Awaitable[None]]) -> None:
    async def scenario() -> None:
        await conversation(SlowConsumer())

    asyncio.run(scenario())


def test_layouts_that_come_at_the_same_time_go_together(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(consumer_module, "RECORD_LAYOUTS_PAUSE_S", 0)

    async def conversation(consumer: SlowConsumer) -> None:
        consumer.is_let.set()
        for event_ids in ((0, 1), (2, 3)):
            for event_id in event_ids:
                consumer.tell_record_layout(layout(event_id))
            async with asyncio.timeout(5):
                while not consumer.requests:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            assert consumer.requests.pop() == control.SetRecordLayouts(tuple(layout(number) for number in event_ids))
            assert not consumer.requests

    converse(conversation)


def test_a_drain_waits_for_the_layouts_before_it() -> None:
    async def conversation(consumer: SlowConsumer) -> None:
        consumer.tell_record_layout(layout(0))
        drains = [asyncio.create_task(consumer.channel_states(DRAIN)) for _ in range(2)]
        for _ in range(10):
            await asyncio.sleep(0)
        assert consumer.requests == [control.SetRecordLayouts((layout(0),))]
        consumer.is_let.set()
        await asyncio.gather(*drains)
        assert consumer.requests[1:] == [DRAIN, DRAIN]

    converse(conversation)


def test_layouts_that_cannot_be_told_stop_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async def conversation(consumer: SlowConsumer) -> None:
        consumer.is_let.set()
        consumer.error = TransportError("gone")
        consumer.tell_record_layout(layout(0))
        with pytest.raises(TransportError):
            await consumer.channel_states(DRAIN)
        assert "without 1 record layouts: reason=gone" in caplog.text
        consumer.error = None
        consumer.tell_record_layout(layout(1))
        await consumer.channel_states(DRAIN)
        assert consumer.requests[-2:] == [control.SetRecordLayouts((layout(1),)), DRAIN]

    converse(conversation)
