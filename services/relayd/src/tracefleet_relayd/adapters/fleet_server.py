"""The two ports of fleet:// sessions: commands over the bus, and packets behind a greeting that names the session."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, Final

import msgspec

import tracefleet_common
from tracefleet_common.codecs.fleet_stream import GREETING_SIZE_BYTES, decode_greeting
from tracefleet_common.errors import RemoteProtocolError
from tracefleet_common.messages.relay_streaming import RelayStreamingRequest
from tracefleet_common.transport.control_server import ControlServer, Peer
from tracefleet_relayd.adapters.native_intake import NativeIntake
from tracefleet_relayd.application.receive_streaming import ReceiveStreaming

log = logging.getLogger("tracefleet.relayd.fleet")

SOFTWARE: Final = f"tracefleet-relayd {tracefleet_common.__version__}"
REQUEST_SIZE_BYTES_MAX: Final = 4 << 20  # some ten thousand streams at once
GREETING_DEADLINE_S: Final = 10.0
GREETING_COUNT_MAX: Final = 64  # with more, the oldest goes: who means it greets at once
ACCEPT_PAUSE_S: Final = 0.2  # when there is no descriptor left
# A sender's host that is gone says nothing: its connection ends after about two minutes.
KEEP_ALIVE: Final = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))

Reserve = Callable[[], AbstractContextManager[Any]]


class FleetCommandServer:
    """Between `open` and `close`. `address`: for ZeroMQ."""

    def __init__(self, address: str, streaming: ReceiveStreaming) -> None:
        self._streaming = streaming
        self._bus = ControlServer(
            [address],
            RelayStreamingRequest,
            self._handle,
            software=SOFTWARE,
            on_peer_lost=lambda peer: streaming.peer_lost(peer.identity),
            request_size_bytes_max=REQUEST_SIZE_BYTES_MAX,
        )
        self._serving: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Raises TransportError."""
        await self._bus.bind()

    def serve(self) -> None:
        self._serving = asyncio.create_task(self._bus.serve())

    async def close(self) -> None:
        """Also without `open`."""
        if self._serving is not None:
            self._serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._serving
        await self._bus.close(grace_s=0.5)

    async def _handle(self, peer: Peer, request: Any) -> msgspec.Struct:
        return self._streaming.execute(request, peer.identity)


class FleetDataServer:
    """Between `open` and `close`. `reserve` makes room for a descriptor; OSError: there is none."""

    def __init__(
        self, intake: NativeIntake, reserve: Reserve, streaming: ReceiveStreaming, *, connection_count_max: int
    ) -> None:
        self._intake = intake
        self._reserve = reserve
        self._streaming = streaming
        self._connection_count_max = connection_count_max
        self._listener: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._greeting: dict[asyncio.Task[None], None] = {}  # the oldest first

    def open(self, listener: socket.socket) -> None:
        """Take over `listener`."""
        listener.setblocking(False)
        self._listener = listener
        self._accepting = asyncio.create_task(self._accept(listener))

    async def close(self) -> None:
        """Connections that the intake has stay there. Also without `open`."""
        tasks = [*self._greeting, *([] if self._accepting is None else [self._accepting])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._listener is not None:
            self._listener.close()

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                connection, address = await loop.sock_accept(listener)
            except ConnectionAbortedError:
                continue
            except OSError as error:
                log.warning("Cannot accept a data connection, will retry: error=%s", error)
                await asyncio.sleep(ACCEPT_PAUSE_S)
                continue
            if len(self._greeting) >= GREETING_COUNT_MAX:
                oldest = next(iter(self._greeting))
                del self._greeting[oldest]
                oldest.cancel()
            task = asyncio.create_task(self._greet(connection, address))
            self._greeting[task] = None
            task.add_done_callback(lambda done: self._greeting.pop(done, None))

    async def _greet(self, connection: socket.socket, address: Any) -> None:
        with connection:
            try:
                with self._reserve():
                    connection.setblocking(False)
                    async with asyncio.timeout(GREETING_DEADLINE_S):
                        token = decode_greeting(await _receive(connection, GREETING_SIZE_BYTES))
                self._take(connection, token)
            except EOFError:
                log.debug("A data connection ended before it greeted: from=%s", address)  # as a health check's does
            except TimeoutError:
                log.warning("A data connection did not greet: refused=%s", address)
            except (OSError, RemoteProtocolError) as error:
                log.warning("Cannot take a data connection: refused=%s, error=%s", address, error)

    def _take(self, connection: socket.socket, token: bytes) -> None:
        session_id = self._streaming.find_for_data(token)
        if session_id is None:
            raise RemoteProtocolError("There is no session with its token")
        if self._intake.connection_count >= self._connection_count_max:
            raise RemoteProtocolError("There are too many data connections")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in KEEP_ALIVE:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
        at_intake = self._intake.add(connection.fileno(), self._reserve, session_id)
        connection.detach()
        # The loop hears of what the intake reports only after this.
        self._streaming.attach(session_id, at_intake)
        log.info("Data connection: token=%d, session-id=%d", at_intake, session_id)


async def _receive(connection: socket.socket, size_bytes: int) -> bytes:
    """What comes behind is the intake's. Raises EOFError when nothing comes at all."""
    loop = asyncio.get_running_loop()
    received = b""
    while len(received) < size_bytes:
        part = await loop.sock_recv(connection, size_bytes - len(received))
        if not part and not received:
            raise EOFError
        if not part:
            raise RemoteProtocolError("It ended before it greeted")
        received += part
    return received
