"""The two sockets that session daemons connect to, joined to the commands; and the one of LTTng's health check."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec

import tracefleet_common
from tracefleet_common.messages.consumerd_control import ConsumerdNotice, ConsumerdRequest
from tracefleet_common.transport.control_server import ControlServer, Peer
from tracefleet_common.transport.descriptor_server import DescriptorServer
from tracefleet_common.transport.health_socket import HealthSocket
from tracefleet_consumerd.adapters.socket_files import SocketFiles
from tracefleet_consumerd.application.ports import Requester
from tracefleet_consumerd.settings import Settings

SOFTWARE = f"tracefleet-consumerd {tracefleet_common.__version__}"


class Bus:
    """Serves between `open` and `close`."""

    def __init__(self, settings: Settings, files: SocketFiles) -> None:
        self._files = files
        self._settings = settings
        self._descriptors = DescriptorServer(Path(settings.descriptor_socket))
        self._health = HealthSocket(settings.health_socket)
        self._control: ControlServer | None = None
        self._serving: asyncio.Task[None] | None = None

    async def open(
        self,
        execute: Callable[[Requester, msgspec.Struct], Awaitable[msgspec.Struct]],
        *,
        on_peer_arrived: Callable[[Requester], None],
        on_peer_left: Callable[[Requester], None],
    ) -> None:
        """Listen and answer. Raises TransportError."""

        async def handle(peer: Peer, request: Any) -> msgspec.Struct:
            return await execute(peer, request)

        self._control = ControlServer(
            [f"ipc://{self._settings.command_socket}"],
            ConsumerdRequest,
            handle,
            software=SOFTWARE,
            on_peer_arrived=on_peer_arrived,
            on_peer_lost=on_peer_left,
        )
        # Nobody may connect before the sockets have their modes; who finds the first finds the second.
        previous_mask = os.umask(0o177)
        try:
            await self._health.open()
            await self._descriptors.bind()
            await self._control.bind()
        finally:
            os.umask(previous_mask)
        self._files.restrict()
        self._serving = asyncio.create_task(self._control.serve())

    async def notify(self, notice: ConsumerdNotice) -> None:
        """To every session daemon that is connected."""
        if self._control is not None:
            await self._control.notify(notice)

    async def send_descriptors(self, requester: Requester, ticket: int, descriptors: Sequence[int]) -> None:
        """To the process that asked. Raises TransportError."""
        assert isinstance(requester, Peer), "requests come from the control server"
        await self._descriptors.send(requester, ticket, descriptors)

    async def stop_listening(self) -> None:
        """No new requests; those in work may still be answered."""
        if self._serving is not None:
            self._serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._serving
            self._serving = None

    async def close(self) -> None:
        await self.stop_listening()
        if self._control is not None:
            await self._control.close(grace_s=0.5)
        await self._descriptors.close()
        self._health.close()
