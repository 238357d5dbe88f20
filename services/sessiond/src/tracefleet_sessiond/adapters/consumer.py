"""The consumer daemon of one bitness, as the session daemon sees it: started or found when it is needed."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tracefleet_common.errors import ErrorCode, TracefleetError, TransportError
from tracefleet_common.messages import consumerd_control as control
from tracefleet_common.transport.control_link import ControlLink
from tracefleet_common.transport.descriptors import DescriptorLink
from tracefleet_common.transport.metadata_memory import MetadataMemory
from tracefleet_sessiond.adapters.consumer_launcher import ConsumerLauncher, ConsumerProcess
from tracefleet_sessiond.settings import ConsumerSettings

log = logging.getLogger("tracefleet.sessiond.consumer")

ATTACH_DEADLINE_S = 1.0  # a consumer daemon that runs already answers at once
START_DEADLINE_S = 20.0
# Longer than the consumer daemon waits for a relay daemon.
REQUEST_DEADLINE_S = 20.0
SAMPLE_DEADLINE_S = 10.0
# Draining is bounded on the consumer's side, stream by stream; this only catches a consumer that hangs.
DRAIN_DEADLINE_S = 60.0
# Programs that start to record announce all their events at once, and somebody waits for them to be done.
RECORD_LAYOUTS_PAUSE_S = 0.05


class Consumer:
    """One consumer daemon. Requests that need it call `ensure` first, which starts it or attaches to it."""

    def __init__(self, settings: ConsumerSettings, launcher: ConsumerLauncher, *, software: str) -> None:
        self._settings = settings
        self._launcher = launcher
        self._process: ConsumerProcess | None = None
        self._software = software
        self._lock = asyncio.Lock()
        self._link: ControlLink | None = None
        self._descriptors: DescriptorLink | None = None
        self._watch: asyncio.Task[None] | None = None
        self._ticket = 0
        self._layouts: list[control.RecordLayout] = []  # not told yet
        self._telling: asyncio.Task[None] | None = None
        self._telling_turn = asyncio.Lock()
        self.info: control.ConsumerInfo | None = None
        self.on_notice: Callable[[control.ConsumerdNotice], None] = lambda _notice: None
        self.on_lost: Callable[[], None] = lambda: None

    async def ensure(self) -> control.ConsumerInfo:
        """Who consumes. Raises TransportError when no consumer daemon can be reached or started."""
        async with self._lock:
            if self._link is not None and self._link.is_connected and self.info is not None:
                return self.info
            await self._disconnect()
            try:
                if not (self._is_there() and await self._connect(ATTACH_DEADLINE_S)):
                    await self._start()
            except TracefleetError as error:
                raise TransportError(
                    f"No {self._settings.bits_per_word}-bit consumer daemon: {error}",
                    ErrorCode.UST_CONSUMER64_FAIL,
                ) from error
            assert self.info is not None
            return self.info

    async def close(self) -> None:
        """Let go of the consumer daemon, and stop it when we started it."""
        async with self._lock:
            await self._disconnect()
            if self._process is not None:
                await self._process.stop()
                self._process = None

    def describe(self) -> str:
        """One line for people."""
        if self.info is None:
            return f"ust{self._settings.bits_per_word}: not started"
        state = "connected" if self._link is not None and self._link.is_connected else "lost"
        return f"ust{self._settings.bits_per_word}: pid {self.info.pid}, {state}"

    async def request(self, body: msgspec.Struct, *, deadline_s: float = REQUEST_DEADLINE_S) -> Any:
        """The reply to `body`. Raises TransportError when the consumer daemon is gone or does not answer."""
        if self._link is None or not self._link.is_connected:
            raise TransportError("The consumer daemon is gone", ErrorCode.NO_USTCONSUMERD)
        return await self._link.request(body, deadline_s=deadline_s)

    async def open_registry(self, **attributes: Any) -> MetadataMemory:
        """Make room for a trace; the memory to publish its metadata in, the caller's to close."""
        ticket = self._new_ticket()
        await self.request(control.OpenRegistry(ticket=ticket, **attributes))
        return MetadataMemory(*await self._receive(ticket, 1))

    async def create_channel(self, *, stream_count: int, **attributes: Any) -> tuple[control.ChannelCreated, list[int]]:
        """Make a channel; its description and its descriptors (wakeup, then shm and wakeup of each stream)."""
        ticket = self._new_ticket()
        created = await self.request(control.CreateChannel(ticket=ticket, **attributes))
        return created, await self._receive(ticket, 1 + 2 * stream_count)

    def _new_ticket(self) -> int:
        self._ticket += 1
        return self._ticket

    async def _receive(self, ticket: int, count: int) -> list[int]:
        if self._descriptors is None:
            raise TransportError("The consumer daemon is gone", ErrorCode.NO_USTCONSUMERD)
        return await self._descriptors.receive(ticket, count, deadline_s=REQUEST_DEADLINE_S)

    def tell_record_layout(self, layout: control.RecordLayout) -> None:
        """For repairs to come. Nobody waits for it but these, so those of many events go together, and later."""
        self._layouts.append(layout)
        if self._telling is None:
            self._telling = asyncio.create_task(self._tell_in_a_moment())

    async def _tell_in_a_moment(self) -> None:
        await asyncio.sleep(RECORD_LAYOUTS_PAUSE_S)
        self._telling = None
        await self._tell_record_layouts()

    async def _tell_record_layouts(self) -> None:
        async with self._telling_turn:
            layouts, self._layouts = self._layouts, []
            if not layouts:
                return
            try:
                await self.request(control.SetRecordLayouts(tuple(layouts)))
            except TracefleetError as error:
                log.warning("Repairs must do without %d record layouts: reason=%s", len(layouts), error)

    async def sample(self, request: control.SampleChannels | control.SampleRelaySessions) -> Any:
        """The reply, soon: a person waits for it, and the consumer daemon for nothing. Raises as `request`."""
        return await self.request(request, deadline_s=SAMPLE_DEADLINE_S)

    async def channel_states(self, body: msgspec.Struct) -> tuple[control.ChannelState, ...]:
        """The reply to one of the requests that are answered with ChannelsDrained."""
        await self._tell_record_layouts()
        reply: control.ChannelsDrained = await self.request(body, deadline_s=DRAIN_DEADLINE_S)
        return reply.channels

    def _is_there(self) -> bool:
        """Whether somebody listens: the socket of a consumer daemon that was killed is still there."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            try:
                probe.connect(self._settings.command_socket)
            except BlockingIOError:
                return True  # its queue is full
            except OSError:
                return False
        return True

    async def _start(self) -> None:
        if self._process is not None:
            await self._process.stop()
        self._process = await self._launcher.start()
        exited = asyncio.create_task(self._process.exited())
        connected = asyncio.create_task(self._connect(START_DEADLINE_S))
        await asyncio.wait((exited, connected), return_when=asyncio.FIRST_COMPLETED)
        if connected.done() and await connected:
            exited.cancel()
            return
        connected.cancel()
        if exited.done():
            raise TransportError(f"It ended as soon as it was started, with status {exited.result()}")
        exited.cancel()
        raise TransportError(f"It was started but does not answer within {START_DEADLINE_S:g} s")

    async def _connect(self, deadline_s: float) -> bool:
        link = ControlLink(
            f"ipc://{self._settings.command_socket}",
            control.ConsumerdReply,
            notice_type=control.ConsumerdNotice,
            on_notice=lambda notice: self.on_notice(notice),
            software=self._software,
        )
        descriptors = DescriptorLink(Path(self._settings.descriptor_socket))
        try:
            await link.connect(deadline_s)
            await descriptors.connect(deadline_s)
            info = await link.request(control.DescribeConsumer(), deadline_s=REQUEST_DEADLINE_S)
        except TransportError as error:
            log.debug("No consumer daemon answers: path=%s, reason=%s", self._settings.command_socket, error)
            await link.close()
            await descriptors.close()
            return False
        self._link, self._descriptors, self.info = link, descriptors, info
        self._watch = asyncio.create_task(self._wait_until_lost(link))
        log.info("Connected to the consumer daemon: pid=%d", info.pid)
        return True

    async def _wait_until_lost(self, link: ControlLink) -> None:
        await link.lost.wait()
        log.error("The consumer daemon is gone: pid=%d", self.info.pid if self.info else 0)
        self.on_lost()

    async def _disconnect(self) -> None:
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._link is not None:
            await self._link.close()
            self._link = None
        if self._descriptors is not None:
            await self._descriptors.close()
            self._descriptors = None
