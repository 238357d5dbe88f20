"""Metadata goes out whole and in order, whoever waits for it."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from tracefleet_common.errors import TransportError
from tracefleet_common.messages.consumerd_control import AppendMetadata, RecordLayout
from tracefleet_sessiond.adapters.consumer import Consumer
from tracefleet_sessiond.adapters.metadata_stream import MetadataStream


class SlowConsumer:
    """Takes one append at a time, when it is let."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.layouts: list[tuple[RecordLayout, ...]] = []
        self.is_let = asyncio.Event()
        self.error: TransportError | None = None

    async def request(self, body: Any) -> None:
        assert isinstance(body, AppendMetadata)
        await self.is_let.wait()
        if self.error is not None:
            raise self.error
        self.texts.append(body.text)
        self.layouts.append(body.record_layouts)


async def turns() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def test_what_comes_during_a_write_goes_together() -> None:
    async def scenario() -> None:
        consumer = SlowConsumer()
        stream = MetadataStream(cast("Consumer", consumer), 1)
        appends = [asyncio.create_task(stream.append(text)) for text in "abc"]
        await turns()
        assert not any(append.done() for append in appends)
        consumer.is_let.set()
        await asyncio.gather(*appends)
        assert "".join(consumer.texts) == "abc"
        assert len(consumer.texts) <= 2

    asyncio.run(scenario())


def test_layouts_go_with_the_text_that_announces_them() -> None:
    async def scenario() -> None:
        consumer = SlowConsumer()
        stream = MetadataStream(cast("Consumer", consumer), 1)
        layouts = [RecordLayout(channel_key=1, event_id=event_id, layout=b"\x02") for event_id in range(2)]
        first = asyncio.create_task(stream.append("a"))
        await turns()
        others = [
            asyncio.create_task(stream.append(text, layout))
            for text, layout in zip("bcd", (layouts[0], None, layouts[1]), strict=True)
        ]
        await turns()
        consumer.is_let.set()
        await asyncio.gather(first, *others)
        assert consumer.texts == ["a", "bcd"]
        assert consumer.layouts == [(), tuple(layouts)]

    asyncio.run(scenario())


def test_a_program_that_goes_away_takes_no_text_with_it() -> None:
    async def scenario() -> None:
        consumer = SlowConsumer()
        stream = MetadataStream(cast("Consumer", consumer), 1)
        first, second = (asyncio.create_task(stream.append(text)) for text in "ab")
        await turns()
        first.cancel()
        second.cancel()
        await turns()
        third = asyncio.create_task(stream.append("c"))
        consumer.is_let.set()
        await third
        assert "".join(consumer.texts) == "abc"

    asyncio.run(scenario())


def test_after_a_failure_nothing_is_said_to_be_written() -> None:
    async def scenario() -> None:
        consumer = SlowConsumer()
        consumer.is_let.set()
        stream = MetadataStream(cast("Consumer", consumer), 1)
        await stream.append("a")
        consumer.error = TransportError("gone")
        for _ in range(2):
            with pytest.raises(TransportError):
                await stream.append("b")
        await stream.written(1)
        with pytest.raises(TransportError):
            await stream.written(2)

    asyncio.run(scenario())
