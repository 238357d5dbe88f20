"""The giving end of descriptors that go beside the bus; `descriptors` has their format and the other end."""

from __future__ import annotations

import array
import asyncio
import logging
import os
import socket
import struct
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from tracefleet_common.errors import TransportError
from tracefleet_common.transport.control_server import Peer
from tracefleet_common.transport.descriptors import DESCRIPTORS_PER_MESSAGE_MAX, DescriptorBatch

log = logging.getLogger("tracefleet.transport.descriptor-server")

PEERS_MAX = 64
ACCEPT_PAUSE_S = 0.1  # when no descriptor is free, so that the waiting connection costs no busy loop

_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid


class DescriptorServer:
    """The giving side, at a socket file. Only root and the user that this process runs as may connect."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._listener: socket.socket | None = None
        self._connections: dict[int, _Connection] = {}  # by process id; the last one of a process counts
        self._arrived = asyncio.Event()

    async def bind(self) -> None:
        """Listen. Raises TransportError. The mode of the socket file is left to the caller."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            listener.bind(os.fspath(self._path))
            listener.listen(PEERS_MAX)
        except OSError as error:
            listener.close()
            raise TransportError(f"Cannot listen on {self._path}: {error.strerror}") from None
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._accept)

    async def send(self, peer: Peer, ticket: int, descriptors: Sequence[int], *, deadline_s: float = 5.0) -> None:
        """Send to the connection of the process that the peer of the control socket is.

        The descriptors stay the caller's. Raises TransportError when that process is not connected, goes away
        or does not read in time.
        """
        try:
            async with asyncio.timeout(deadline_s):
                while (connection := self._connections.get(peer.pid)) is None:
                    self._arrived.clear()
                    await self._arrived.wait()
                await connection.send(ticket, descriptors)
        except TimeoutError:
            raise TransportError(
                f"Process {peer.pid} did not take the descriptors of ticket {ticket} within {deadline_s:g} s"
            ) from None

    async def close(self) -> None:
        """Hang up on everybody. The socket file is left to the caller."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None
        for connection in list(self._connections.values()):
            connection.close()
        self._connections.clear()

    def _accept(self) -> None:
        assert self._listener is not None, "the reader is removed before the listener is closed"
        try:
            accepted, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:  # the peer left already, or no descriptor is free: then it stays in the queue
            log.warning("Cannot accept a descriptor connection: reason=%s", error.strerror)
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener)
            loop.call_later(ACCEPT_PAUSE_S, self._accept_again)
            return
        accepted.setblocking(False)
        pid, uid, _gid = _CREDENTIALS.unpack(
            accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        )
        if uid not in (0, os.geteuid()):
            log.warning("Refused a descriptor connection of another user: uid=%d, pid=%d", uid, pid)
            accepted.close()
            return
        if len(self._connections) >= PEERS_MAX and pid not in self._connections:
            log.warning("Refused a descriptor connection, there are too many: pid=%d", pid)
            accepted.close()
            return
        if (previous := self._connections.pop(pid, None)) is not None:
            previous.close()
        self._connections[pid] = _Connection(accepted, lambda ended: self._forget(pid, ended))
        self._arrived.set()

    def _accept_again(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().add_reader(self._listener, self._accept)

    def _forget(self, pid: int, ended: _Connection) -> None:
        if self._connections.get(pid) is ended:
            del self._connections[pid]


class _Connection:
    """The giving end of one connection. Nothing is expected from the other end but its hang-up."""

    def __init__(self, connected: socket.socket, on_end: Callable[[_Connection], None]) -> None:
        self._socket = connected
        self._on_end = on_end
        self._turn = asyncio.Lock()
        self._writable: asyncio.Future[None] | None = None
        asyncio.get_running_loop().add_reader(connected, self._peer_spoke)

    async def send(self, ticket: int, descriptors: Sequence[int]) -> None:
        async with self._turn:  # sets of descriptors do not overtake each other
            for first in range(0, len(descriptors), DESCRIPTORS_PER_MESSAGE_MAX):
                batch = DescriptorBatch(ticket, first, len(descriptors))
                part = array.array("i", descriptors[first : first + DESCRIPTORS_PER_MESSAGE_MAX])
                await self._send_message(msgspec.msgpack.encode(batch), part)

    async def _send_message(self, message: bytes, descriptors: array.array[int]) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)]
        while True:
            if self._socket.fileno() < 0:
                raise TransportError("The descriptor connection was closed")
            try:
                self._socket.sendmsg([message], ancillary)
                return
            except BlockingIOError:
                await self._wait_writable()
            except OSError as error:
                self.close()
                raise TransportError(f"Cannot send descriptors: {error.strerror}") from None

    async def _wait_writable(self) -> None:
        loop = asyncio.get_running_loop()
        self._writable = loop.create_future()
        loop.add_writer(self._socket, self._became_writable)
        try:
            await self._writable
        finally:
            self._writable = None
            if self._socket.fileno() >= 0:
                loop.remove_writer(self._socket)

    def _became_writable(self) -> None:
        if self._writable is not None and not self._writable.done():
            self._writable.set_result(None)

    def _peer_spoke(self) -> None:
        try:
            unexpected = self._socket.recv(1)  # descriptors sent to us are closed by the kernel
        except BlockingIOError:
            return
        except OSError:
            unexpected = b""
        if unexpected:
            log.warning("Hung up on a descriptor connection that sends")
        self.close()

    def close(self) -> None:
        if self._socket.fileno() < 0:
            return
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._socket)
        loop.remove_writer(self._socket)
        self._socket.close()
        self._became_writable()  # a sender that waits finds the socket closed
        self._on_end(self)
