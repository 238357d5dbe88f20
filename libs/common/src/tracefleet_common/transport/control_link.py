"""The asking end of the bus, for asyncio programs: one DEALER socket to one daemon.

A link that is lost stays lost: the daemon that answers next may be another one, with another state. Whoever
holds the link decides whether to `connect` again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import msgspec
import tenacity
import zmq

from tracefleet_common.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    TracefleetError,
    TransportError,
)
from tracefleet_common.messages.envelope import FRAME_SIZE_BYTES_MAX, HelloReply
from tracefleet_common.transport import frames
from tracefleet_common.transport.zmq_endpoint import ConnectionEvent, Endpoint

log = logging.getLogger("tracefleet.transport.control-link")

QUEUED_MESSAGES_MAX = 4096
# While a daemon starts, its socket is looked for after 5 ms, 10 ms, …, at most every 100 ms: starting takes
# some 100 ms, and looking costs 0.2 ms.
RETRY_WAIT_S_FIRST = 0.005
RETRY_WAIT_S_MAX = 0.1
# A peer on another machine may vanish without closing its connection; these pings find out. On one machine
# the kernel tells, and a process that is only stopped for a while shall not lose its connections.
HEARTBEAT_INTERVAL_MS = 5000
HEARTBEAT_DEADLINE_MS = 30000
LAST_REQUESTS_LINGER_MS = 500

# The connection could not be made (CLOSED), or ended.
_LOSS_EVENTS = zmq.EVENT_CLOSED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL

_LOSS_REASONS: dict[int, str] = {
    zmq.EVENT_CLOSED: "nobody listens there",
    zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL: "it does not speak ZeroMQ",
}


class ControlLink:
    """A conversation with the daemon at `address`.

    `on_notice` is called with every notice, from the loop, and must not raise. Requests may be made from any
    number of tasks at once.
    """

    def __init__(
        self,
        address: str,
        reply_type: Any,
        *,
        notice_type: Any = None,
        on_notice: Callable[[Any], None] | None = None,
        software: str,
    ) -> None:
        self._address = address
        self._replies = frames.body_decoder(reply_type)
        self._notices = None if notice_type is None else frames.body_decoder(notice_type)
        self._on_notice = on_notice
        self._software = software
        self.lost = asyncio.Event()  # set when the connection that was made ends; every connect makes a new one
        self._endpoint: Endpoint | None = None
        self._is_connected = False
        self._request_id = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    @property
    def is_connected(self) -> bool:
        """True from the answered hello until the peer goes away or `close` is called."""
        return self._is_connected

    async def connect(self, deadline_s: float, *, is_persistent: bool = True) -> HelloReply:
        """Connect and say hello; until the deadline, when `is_persistent`, try again while nobody listens there.

        Raises TransportError when nobody answers in time, RemoteProtocolError when the peer speaks another
        version. A link that was lost may be connected again.
        """
        if self._is_connected:
            raise LocalProtocolError(f"The link to {self._address} is connected already")
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(_NobodyThereError),
            wait=tenacity.wait_exponential(multiplier=RETRY_WAIT_S_FIRST, max=RETRY_WAIT_S_MAX),
            stop=tenacity.stop_never,
            sleep=asyncio.sleep,
        )
        try:
            async with asyncio.timeout(deadline_s):
                reply: HelloReply = await (retrying(self._connect_once) if is_persistent else self._connect_once())
        except TimeoutError:
            raise TransportError(f"Nobody answers at {self._address} (waited {deadline_s:g} s)") from None
        return reply

    async def request(self, body: msgspec.Struct, *, deadline_s: float) -> Any:
        """Ask, and return the reply.

        Raises the error that the peer sent; TransportError when the link is down or no reply came in time:
        the command may have been carried out all the same, so it is not sent again from here.
        """
        if not self._is_connected:
            raise TransportError(f"Not connected to {self._address}")
        return await self._ask(body, deadline_s)

    async def close(self) -> None:
        """Requests that still wait get a TransportError."""
        self._drop("the link was closed", linger_ms=LAST_REQUESTS_LINGER_MS)

    # ---- connecting ----

    async def _connect_once(self) -> HelloReply:
        options: dict[int, int] = {
            zmq.RECONNECT_IVL: -1,  # a new connection needs a new hello, and is for the holder to decide
            zmq.MAXMSGSIZE: FRAME_SIZE_BYTES_MAX,
            zmq.SNDHWM: QUEUED_MESSAGES_MAX,
            zmq.RCVHWM: QUEUED_MESSAGES_MAX,
        }
        if not self._address.startswith("ipc://"):
            options |= {
                zmq.IPV6: int("[" in self._address),
                zmq.HEARTBEAT_IVL: HEARTBEAT_INTERVAL_MS,
                zmq.HEARTBEAT_TIMEOUT: HEARTBEAT_DEADLINE_MS,
            }
        self._endpoint = Endpoint(
            zmq.DEALER,
            options,
            monitored_events=_LOSS_EVENTS,
            on_connection_event=self._connection_ended,
            read_one=self._read_one,
        )
        try:
            self._endpoint.socket.connect(self._address)
            self._endpoint.start_reading()
            # Only `connect`'s own deadline ends this wait.
            reply = await self._ask(frames.hello(self._software), frames.DEADLINE_MS_MAX / 1000)
            reply = frames.check_hello_reply(reply)
        except zmq.ZMQError as error:
            self._drop("it cannot be connected to")
            raise TransportError(f"Cannot connect to {self._address}: {error}") from None
        except BaseException:
            self._drop("no hello was exchanged")
            raise
        self.lost = asyncio.Event()
        self._is_connected = True
        return reply

    def _connection_ended(self, event: ConnectionEvent) -> None:
        log.debug("Connection ended: address=%s, event=%d", self._address, event.event)
        self._drop(_LOSS_REASONS.get(event.event, "the peer went away"))

    def _drop(self, reason: str, linger_ms: int = 0) -> None:
        was_connected, self._is_connected = self._is_connected, False
        if self._endpoint is not None:
            self._endpoint.close(linger_ms)
            self._endpoint = None
        waiting, self._waiting = self._waiting, {}
        kind = TransportError if was_connected else _NobodyThereError
        for future in waiting.values():
            if not future.done():
                future.set_exception(kind(f"No reply from {self._address}: {reason}"))
        self.lost.set()

    # ---- asking ----

    async def _ask(self, body: msgspec.Struct, deadline_s: float) -> Any:
        self._request_id += 1
        request_id = self._request_id
        deadline_ms = min(max(1, int(deadline_s * 1000)), frames.DEADLINE_MS_MAX)
        encoded = frames.encode_request(request_id, deadline_ms, body)
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = future
        try:
            assert self._endpoint is not None, "a link that is connected, or connecting, has an endpoint"
            self._endpoint.send(encoded)
            async with asyncio.timeout(deadline_s):
                return await future
        except zmq.Again:
            raise TransportError(f"Too many requests wait for {self._address}") from None
        except TimeoutError:
            raise TransportError(
                f"No reply from {self._address} to {type(body).__name__} within {deadline_s:g} s"
            ) from None
        finally:
            self._waiting.pop(request_id, None)

    # ---- receiving ----

    def _read_one(self) -> bool:
        if self._endpoint is None:
            return False
        try:
            parts = self._endpoint.socket.recv_multipart(zmq.NOBLOCK)
        except zmq.Again:
            return False
        try:
            self._accept(parts)
        except RemoteProtocolError as error:
            log.warning("Dropped a message that is none: address=%s, reason=%s", self._address, error)
        return True

    def _accept(self, parts: list[bytes]) -> None:
        if len(parts) != 2:
            raise RemoteProtocolError(f"A message has 2 frames, this one has {len(parts)}")
        header = frames.decode_reply_header(parts[0])
        if header.request_id == frames.NOTICE:
            if self._notices is not None and self._on_notice is not None:
                self._on_notice(frames.decode_body(self._notices, parts[1]))
            return
        future = self._waiting.get(header.request_id)
        if future is None or future.done():
            log.debug("Dropped a reply nobody waits for: address=%s", self._address)
            return
        try:
            if header.is_error:
                raise frames.decode_error(parts[1])
            reply = frames.decode_body(self._replies, parts[1])
        except TracefleetError as error:
            future.set_exception(error)
        else:
            future.set_result(reply)


class _NobodyThereError(TransportError):
    """Nothing listens at the address (yet), or it went away before it answered hello."""
