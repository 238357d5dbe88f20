"""Bringing to the files what the ring buffers of a channel hold, within bounded time."""

from __future__ import annotations

import asyncio
import logging

from tracefleet_common.messages.consumerd_control import ChannelState
from tracefleet_consumerd.application.ports import MonotonicClock, Workers
from tracefleet_consumerd.application.registries import Channel

log = logging.getLogger("tracefleet.consumerd.draining")

# How long to go on when nothing gets written any more. A writer that was preempted inside an event record is
# back within milliseconds; one that was killed, or a disk that is full, is not worth more.
PATIENCE_S = 1.0
# A relay daemon may be behind a slow link, which takes a while for one packet.
RELAY_PATIENCE_S = 5.0
# One call keeps one worker thread; the other channels shall get their turns.
SLICE_S = 0.25
PAUSE_S = 0.02


class Drainer:
    """Flushes, writes, and repairs. The caller holds the channel's turn."""

    def __init__(self, workers: Workers, clock: MonotonicClock) -> None:
        self._workers = workers
        self._clock = clock

    async def drain(self, channel: Channel, *, is_final: bool, is_quiescent: bool) -> ChannelState:
        """Everything that was complete before is in the files on return, or the state says what is not.

        `is_quiescent`: no living writer is inside an event record, so one that is not complete is given up.
        """
        buffers = channel.buffers
        await self._workers.run(lambda: buffers.flush(is_final=is_final))
        patience_s = PATIENCE_S if channel.registry.relay is None else RELAY_PATIENCE_S
        # Without living writers there is nobody to wait for before the repair.
        is_done = await self._write(channel, 0.0 if is_quiescent else patience_s)
        if not is_done and is_quiescent:
            await self.repair(channel, is_tracing=False)
            await self._workers.run(lambda: buffers.flush(is_final=is_final))
            is_done = await self._write(channel, patience_s)
        await self.note_books(channel)
        return channel.state(None if is_done else _why_incomplete(channel))

    async def note_books(self, channel: Channel) -> None:
        """Bring the channel's books up to date."""
        buffers = channel.buffers
        channel.streams, channel.write_trouble = await self._workers.run(lambda: (buffers.books(), buffers.trouble()))

    async def repair(self, channel: Channel, *, is_tracing: bool) -> None:
        """Make jammed buffers usable again. Raises TracefleetError when this library cannot."""
        count = await self._workers.run(lambda: channel.buffers.repair(is_tracing=is_tracing))
        if count:
            log.warning(
                "Repaired sub-buffers that a dead writer had left incomplete: channel=%s, count=%d",
                channel.settings.name,
                count,
            )

    async def _write(self, channel: Channel, patience_s: float) -> bool:
        buffers, relay = channel.buffers, channel.registry.relay
        packet_count = -1
        progress_at_s = self._clock.now_s()
        while not await self._workers.run(lambda: buffers.drain(SLICE_S)):
            await self.note_books(channel)
            now_s = self._clock.now_s()
            count = sum(stream.packet_count for stream in channel.streams)
            if count != packet_count:
                packet_count, progress_at_s = count, now_s
            elif now_s - progress_at_s >= patience_s or (relay is not None and relay.is_lost):
                return False
            await asyncio.sleep(PAUSE_S)
        return True


def _why_incomplete(channel: Channel) -> str:
    trouble = channel.troubles.text or channel.write_trouble
    if trouble is not None:
        return trouble
    return (
        f"Channel {channel.settings.name}: an event record is not complete, because its writer is stopped or dead; "
        "what was recorded after it on that CPU is not written yet"
    )
