"""File descriptors that belong to a command of the bus: a Unix SOCK_SEQPACKET socket beside it.

The asking side puts a *ticket*, a number it uses once, into its command, and receives the descriptors under
that ticket here; reply and descriptors may arrive in either order. One message of the socket is a
`DescriptorBatch` with 1 to 253 descriptors (SCM_RIGHTS) attached; a larger set comes in several, in order.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import logging
import os
import socket
from collections.abc import Iterable
from pathlib import Path

import msgspec
import tenacity

from tracefleet_common.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    TracefleetError,
    TransportError,
)

log = logging.getLogger("tracefleet.transport.descriptors")

DESCRIPTORS_PER_MESSAGE_MAX = 253  # SCM_MAX_FD of Linux
# One wakeup descriptor per channel and two per CPU; 8192 CPUs is the largest machine Linux is built for.
DESCRIPTORS_PER_TICKET_MAX = 1 + 2 * 8192
BATCH_SIZE_BYTES_MAX = 64
# Descriptors may come before anybody receives them, but the reply to their command is never far behind.
UNCLAIMED_TICKETS_MAX = 64
UNCLAIMED_S = 10.0
CONNECT_PAUSE_S = 0.02

_ANCILLARY_SIZE_BYTES = socket.CMSG_SPACE(DESCRIPTORS_PER_MESSAGE_MAX * array.array("i").itemsize)


class DescriptorBatch(msgspec.Struct, frozen=True):
    """What every message says about the descriptors attached to it.

    `first_index`: the position of the first of them among the `total_count` of this ticket.
    """

    ticket: int
    first_index: int
    total_count: int


_batches = msgspec.msgpack.Decoder(DescriptorBatch)


class DescriptorLink:
    """The asking side. Descriptors that nobody receives in time are closed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket: socket.socket | None = None
        self._claimed: dict[int, _Delivery] = {}
        self._unclaimed: dict[int, _Delivery] = {}  # oldest first

    @property
    def is_connected(self) -> bool:
        """False before `connect`, and again once the other side hung up."""
        return self._socket is not None

    async def connect(self, deadline_s: float) -> None:
        """Connect, trying again until the deadline. Raises TransportError when nobody listens there."""
        if self._socket is not None:
            raise LocalProtocolError(f"The link to {self._path} is connected already")
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(TransportError),
            wait=tenacity.wait_fixed(CONNECT_PAUSE_S),
            stop=tenacity.stop_after_delay(deadline_s),
            sleep=asyncio.sleep,
            reraise=True,
        )
        await retrying(self._connect_once)

    async def _connect_once(self) -> None:
        connecting = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
        try:
            connecting.connect(os.fspath(self._path))  # to a Unix socket: done, refused, or queue full, at once
        except OSError as error:
            connecting.close()
            raise TransportError(f"Cannot connect to {self._path}: {error.strerror}") from None
        self._socket = connecting
        asyncio.get_running_loop().add_reader(connecting, self._read)

    async def receive(self, ticket: int, count: int, deadline_s: float) -> list[int]:
        """The `count` descriptors of the ticket, now the caller's; the ticket is used up, however this ends.

        Raises TransportError when they do not come in time, RemoteProtocolError when they are another number.
        """
        if ticket in self._claimed:
            raise LocalProtocolError(f"Ticket {ticket} is waited for already")
        delivery = self._unclaimed.pop(ticket, None) or _Delivery()
        self._claimed[ticket] = delivery
        try:
            if self._socket is None and not delivery.is_over:
                raise TransportError(f"Not connected to {self._path}")
            async with asyncio.timeout(deadline_s):
                await delivery.wait_over()
            if delivery.error is not None:
                raise delivery.error
            if len(delivery.descriptors) != count:
                raise RemoteProtocolError(
                    f"{len(delivery.descriptors)} descriptors came for ticket {ticket}, not {count}"
                )
            return delivery.take()
        except TimeoutError:
            raise TransportError(f"The descriptors of ticket {ticket} did not come within {deadline_s:g} s") from None
        finally:
            del self._claimed[ticket]
            delivery.discard()

    async def close(self) -> None:
        """Hang up; descriptors that nobody received yet are closed."""
        self._hang_up(TransportError("The descriptor link was closed"))
        for delivery in self._unclaimed.values():
            delivery.discard()
        self._unclaimed.clear()

    def _hang_up(self, reason: TracefleetError) -> None:
        if self._socket is None:
            return
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        self._socket = None
        for delivery in self._claimed.values():
            if not delivery.is_over:
                delivery.fail(reason)

    def _read(self) -> None:
        assert self._socket is not None, "the reader is removed before the socket is closed"
        try:
            message, ancillary, flags, _ = self._socket.recvmsg(
                BATCH_SIZE_BYTES_MAX, _ANCILLARY_SIZE_BYTES, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return
        except OSError as error:
            self._hang_up(TransportError(f"Cannot receive descriptors: {error.strerror}"))
            return
        descriptors = _attached_descriptors(ancillary)
        if not message and not descriptors:
            self._hang_up(TransportError(f"{self._path} hung up"))
            return
        try:
            self._deliver(message, descriptors, flags)
        except TracefleetError as error:
            _close_all(descriptors)
            log.warning("Closed descriptors that came wrongly: count=%d, reason=%s", len(descriptors), error)

    def _deliver(self, message: bytes, descriptors: list[int], flags: int) -> None:
        """Takes the descriptors over, or raises and leaves them to the caller."""
        try:
            batch = _batches.decode(message)
        except msgspec.DecodeError as error:
            raise RemoteProtocolError(f"Malformed descriptor batch: {error}") from None
        delivery = self._claimed.get(batch.ticket) or self._unclaimed.get(batch.ticket)
        if delivery is None:
            delivery = self._hold(batch.ticket)
        if delivery.is_over:
            raise RemoteProtocolError(f"All descriptors of ticket {batch.ticket} came already")
        try:
            if flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC):
                raise TransportError("Descriptors were lost on the way: too many files are open, or in one batch")
            delivery.add(batch, descriptors)
        except TracefleetError as error:
            delivery.fail(error)
            raise

    def _hold(self, ticket: int) -> _Delivery:
        if len(self._unclaimed) >= UNCLAIMED_TICKETS_MAX:
            self._expire(next(iter(self._unclaimed)), None)
        delivery = self._unclaimed[ticket] = _Delivery()
        asyncio.get_running_loop().call_later(UNCLAIMED_S, self._expire, ticket, delivery)
        return delivery

    def _expire(self, ticket: int, expected: _Delivery | None) -> None:
        delivery = self._unclaimed.get(ticket)
        if delivery is not None and expected in (None, delivery):
            del self._unclaimed[ticket]
            delivery.discard()
            log.warning("Closed descriptors that nobody received: ticket=%d", ticket)


class _Delivery:
    """What came for one ticket so far. Owns its descriptors."""

    def __init__(self) -> None:
        self.descriptors: list[int] = []
        self.error: TracefleetError | None = None
        self._over = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """All came, or something went wrong."""
        return self._over.is_set()

    async def wait_over(self) -> None:
        await self._over.wait()

    def add(self, batch: DescriptorBatch, descriptors: list[int]) -> None:
        """Raises RemoteProtocolError, and takes nothing, when this is not the next batch."""
        if not 0 < batch.total_count <= DESCRIPTORS_PER_TICKET_MAX:
            raise RemoteProtocolError(f"{batch.total_count} descriptors are announced for one ticket")
        if batch.first_index != len(self.descriptors) or not descriptors:
            raise RemoteProtocolError(
                f"{len(descriptors)} descriptors came for place {batch.first_index}, "
                f"when {len(self.descriptors)} were there"
            )
        if len(self.descriptors) + len(descriptors) > batch.total_count:
            raise RemoteProtocolError(f"More than the announced {batch.total_count} descriptors came")
        self.descriptors += descriptors
        if len(self.descriptors) == batch.total_count:
            self._over.set()

    def take(self) -> list[int]:
        taken, self.descriptors = self.descriptors, []
        return taken

    def fail(self, error: TracefleetError) -> None:
        self.error = error
        self.discard()
        self._over.set()

    def discard(self) -> None:
        _close_all(self.take())


def _attached_descriptors(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    return list(descriptors)


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
