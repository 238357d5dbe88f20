"""Commands about channels: make, describe, drain, sample, repair, close."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Awaitable, Callable, Sequence

from tracefleet_common.errors import ErrorCode, InvalidArgument, NotFound, TracefleetError
from tracefleet_common.messages.consumerd_control import (
    ChannelCreated,
    ChannelsDrained,
    ChannelState,
    CloseChannels,
    CreateChannel,
    DrainChannels,
    RecordLayout,
    RepairChannels,
    ResumeChannels,
    SampleChannels,
    SetRecordLayouts,
)
from tracefleet_common.messages.envelope import Done
from tracefleet_consumerd.application.draining import Drainer
from tracefleet_consumerd.application.monitor import BufferMonitor
from tracefleet_consumerd.application.ports import (
    BufferLibrary,
    ChannelBuffers,
    DescriptorSender,
    ExportedChannel,
    Reader,
    Requester,
    Workers,
)
from tracefleet_consumerd.application.registries import Channel, Registries, Registry
from tracefleet_consumerd.domain.channel import ChannelSettings, check_channel, check_record_layout
from tracefleet_consumerd.domain.registry import check_key

log = logging.getLogger("tracefleet.consumerd.channels")

CHANNELS_PER_REQUEST_MAX = 65_536
# A write that the kernel does not give back (a network disk that is away) must not hold up the reply: it says
# so, and the write goes on. Shorter than session daemons wait.
REPLY_DEADLINE_S = 50.0
STILL_WRITING = "The disk has not taken all data yet"
# Books as they were noted last will do when the current ones would mean to wait for a write.
SAMPLE_DEADLINE_S = 1.0


class ChannelCommands:
    """One method per command."""

    def __init__(
        self,
        registries: Registries,
        library: BufferLibrary,
        reader: Reader,
        descriptors: DescriptorSender,
        drainer: Drainer,
        monitor: BufferMonitor,
        workers: Workers,
        relay_workers: Workers,
    ) -> None:
        self._registries = registries
        self._library = library
        self._reader = reader
        self._descriptors = descriptors
        self._drainer = drainer
        self._monitor = monitor
        self._workers = workers
        self._relay_workers = relay_workers
        self._background: set[asyncio.Future[ChannelState]] = set()
        # Two channels made at once could each find the room for one of them.
        self._making = asyncio.Lock()

    async def create(self, requester: Requester, request: CreateChannel) -> ChannelCreated:
        """Make the ring buffers and give them to the session daemon; they are read and sampled from now on."""
        registry = self._registries.registry(request.registry_key)
        settings = ChannelSettings(
            channel_key=request.channel_key,
            name=request.name,
            channel_id=request.channel_id,
            header_type=request.header_type,
            trace_uuid=registry.settings.trace_uuid,
            loss_mode=request.loss_mode,
            sub_buffer_size_bytes=request.sub_buffer_size_bytes,
            sub_buffer_count=request.sub_buffer_count,
            switch_timer_period_us=request.switch_timer_period_us,
            read_timer_period_us=request.read_timer_period_us,
            monitor_timer_period_us=request.monitor_timer_period_us,
            blocking_timeout_us=request.blocking_timeout_us,
            trace_file_size_bytes=request.trace_file_size_bytes,
            trace_file_count=request.trace_file_count,
            live_timer_period_us=request.live_timer_period_us,
        )
        check_channel(settings)
        check_key("ticket", request.ticket)
        self._registries.reserve_channel(registry, settings.channel_key, settings.name)
        try:
            async with self._making:
                buffers, exported = await self._workers.run(lambda: self._make(settings, registry))
            channel = Channel(settings, registry, buffers)
            try:
                await self._join_relay(channel, exported)
                created = await self._hand_over(requester, request.ticket, channel, exported)
                if registry.is_closed:  # meanwhile, because its session daemon went away
                    raise NotFound(f"Registry {registry.key} was closed", ErrorCode.UST_SESSION_FAIL)
                await self._workers.run(lambda: self._reader.add(buffers, channel.key))
            except BaseException:
                await self._workers.run(buffers.close)
                raise
        except TracefleetError as error:
            error.add_note(f"while making channel {settings.name}")
            self._registries.release_channel(registry, settings.channel_key)
            raise
        except BaseException:
            self._registries.release_channel(registry, settings.channel_key)
            raise
        self._registries.add_channel(channel)
        self._monitor.watch(channel)
        log.debug("Made channel: name=%s, channel-key=%d", settings.name, channel.key)
        return created

    def _make(self, settings: ChannelSettings, registry: Registry) -> tuple[ChannelBuffers, ExportedChannel]:
        buffers = self._library.create_channel(settings, registry.output)
        try:
            return buffers, buffers.export()
        except BaseException:
            buffers.close()
            raise

    async def _join_relay(self, channel: Channel, exported: ExportedChannel) -> None:
        if channel.registry.relay is None:
            return
        try:
            await self._relay_workers.run(channel.buffers.join_relay)
        except BaseException:
            for descriptor in exported.descriptors:
                os.close(descriptor)
            raise

    async def _hand_over(
        self, requester: Requester, ticket: int, channel: Channel, exported: ExportedChannel
    ) -> ChannelCreated:
        try:
            await self._descriptors.send_descriptors(requester, ticket, exported.descriptors)
        finally:
            for descriptor in exported.descriptors:
                os.close(descriptor)
        stream_size_bytes = self._library.stream_size_bytes(channel.settings)
        return ChannelCreated(
            channel_key=channel.key,
            channel_type=exported.channel_type,
            channel_data=exported.channel_data,
            stream_sizes_bytes=(stream_size_bytes,) * self._library.cpu_count,
        )

    async def set_record_layouts(self, request: SetRecordLayouts) -> Done:
        # Not in the turns of the channels: a drain may take long, and ends with the repair that needs these.
        known: list[tuple[ChannelBuffers, RecordLayout]] = []
        for layout in request.record_layouts:
            channel = self._registries.find_channel(layout.channel_key)
            if channel is None:
                log.debug("Ignored the record layout of a closed channel: channel-key=%d", layout.channel_key)
            else:
                known.append((channel.buffers, layout))
        if known:
            await self._workers.run(lambda: _set_record_layouts(known))
        return Done()

    async def resume(self, request: ResumeChannels) -> Done:
        for channel in self._channels(request.channel_keys):
            async with channel.turn:
                _check_open(channel)
                await self._workers.run(channel.buffers.resume)
        return Done()

    async def sample(self, request: SampleChannels) -> ChannelsDrained:
        async def look_at_one(channel: Channel) -> ChannelState:
            await self._drainer.note_books(channel)
            return channel.state()

        return await self._for_each(self._channels(request.channel_keys), look_at_one, SAMPLE_DEADLINE_S, None)

    async def drain(self, request: DrainChannels) -> ChannelsDrained:
        async def drain_one(channel: Channel) -> ChannelState:
            return await self._drainer.drain(
                channel, is_final=request.is_final_flush, is_quiescent=request.is_quiescent
            )

        return await self._for_each(self._channels(request.channel_keys), drain_one)

    async def repair(self, request: RepairChannels) -> ChannelsDrained:
        async def repair_one(channel: Channel) -> ChannelState:
            await self._drainer.repair(channel, is_tracing=True)
            await self._drainer.note_books(channel)
            return channel.state()

        return await self._for_each(self._channels(request.channel_keys), repair_one)

    async def close(self, request: CloseChannels) -> ChannelsDrained:
        return await self.close_channels(
            self._channels(request.channel_keys), is_quiescent=request.is_quiescent, deadline_s=REPLY_DEADLINE_S
        )

    async def close_channels(
        self, channels: Sequence[Channel], *, is_quiescent: bool, deadline_s: float
    ) -> ChannelsDrained:
        """Write what can be written, give the buffers up. What takes longer goes on in the background."""

        async def close_one(channel: Channel) -> ChannelState:
            self._monitor.forget(channel)
            state = await self._drainer.drain(channel, is_final=True, is_quiescent=is_quiescent)
            self._registries.remove_channel(channel)
            await self._workers.run(lambda: self._reader.remove(channel.buffers))
            await self._workers.run(channel.buffers.close)
            if channel.registry.relay is not None:
                try:
                    await self._relay_workers.run(channel.buffers.leave_relay)
                except TracefleetError as error:
                    log.warning("Cannot end the streams of a channel: name=%s, reason=%s", channel.settings.name, error)
            log.debug("Closed channel: name=%s, channel-key=%d", channel.settings.name, channel.key)
            await self._drainer.note_books(channel)  # only now are the packets counted that stay unwritten
            return channel.state(state.error)

        return await self._for_each(channels, close_one, deadline_s)

    def _channels(self, keys: tuple[int, ...]) -> list[Channel]:
        if len(keys) > CHANNELS_PER_REQUEST_MAX or len(set(keys)) != len(keys):
            raise InvalidArgument("A channel is named twice, or there are too many")
        return self._registries.channels(keys)

    async def _for_each(
        self,
        channels: Sequence[Channel],
        work: Callable[[Channel], Awaitable[ChannelState]],
        deadline_s: float = REPLY_DEADLINE_S,
        late_error: str | None = STILL_WRITING,
    ) -> ChannelsDrained:
        async def in_turn(channel: Channel) -> ChannelState:
            async with channel.turn:
                _check_open(channel)
                try:
                    return await work(channel)
                except TracefleetError as error:  # the other channels shall have their books all the same
                    log.warning("Cannot serve channel: name=%s, reason=%s", channel.settings.name, error)
                    return channel.state(str(error))

        tasks = [asyncio.ensure_future(in_turn(channel)) for channel in channels]
        if not tasks:
            return ChannelsDrained(())
        self._background.update(tasks)
        for task in tasks:
            task.add_done_callback(self._background.discard)
        await asyncio.wait(tasks, timeout=deadline_s)
        return ChannelsDrained(
            tuple(
                task.result() if task.done() else channel.state(late_error)
                for channel, task in zip(channels, tasks, strict=True)
            )
        )


def _set_record_layouts(layouts: Sequence[tuple[ChannelBuffers, RecordLayout]]) -> None:
    for buffers, layout in layouts:
        try:
            check_record_layout(layout.event_id, layout.layout)
            buffers.set_record_layout(layout.event_id, layout.layout)
        except NotFound as error:
            log.debug("Ignored the record layout of a closed channel: reason=%s", error)
        except TracefleetError as error:
            log.warning("Repairs must do without a record layout: event-id=%d, reason=%s", layout.event_id, error)


def _check_open(channel: Channel) -> None:
    if channel.is_closed:
        raise NotFound(f"Channel {channel.key} was closed", ErrorCode.UST_CHANNEL_NOT_FOUND)
