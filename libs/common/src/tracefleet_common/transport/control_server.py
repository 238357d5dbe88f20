"""The serving end of the bus: one ROUTER socket, many peers, every request a task of its own.

A peer that floods, stalls, or sends rubbish costs bounded memory and disturbs nobody: what is wrong gets an
error reply when a request id can be read from it, and is dropped when not.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
import zmq

from tracefleet_common.errors import (
    LocalProtocolError,
    RemoteProtocolError,
    ResourceExhausted,
    TracefleetError,
    TransportError,
)
from tracefleet_common.messages.envelope import FRAME_SIZE_BYTES_MAX, Hello, RequestHeader
from tracefleet_common.transport import frames
from tracefleet_common.transport.zmq_endpoint import ConnectionEvent, Endpoint

log = logging.getLogger("tracefleet.transport.control-server")

REQUESTS_IN_WORK_MAX = 64  # per peer; a client that waits for its replies has one
QUEUED_MESSAGES_MAX = 256  # per peer and direction; a peer that does not read loses what is beyond
# A host that is gone says nothing: its connections over TCP end after about two minutes.
KEEP_ALIVE_IDLE_S = 60
KEEP_ALIVE_INTERVAL_S = 10
KEEP_ALIVE_COUNT = 6
HANDSHAKE_DEADLINE_MS = 5000  # a connection that does not even speak ZeroMQ is closed after that
LISTEN_BACKLOG = 1024  # connecting to a full queue of a Unix socket fails at once
LAST_REPLIES_LINGER_MS = 500
FRAME_COUNT = 2

# libzmq writes the credentials of an ipc peer behind its (meaningless) host name. A numeric IPv6 address
# cannot look like this: it has seven colons or an empty group.
_PEER_ADDRESS = re.compile(r"[^:]*:(\d+):(\d+):(\d+)")


class Peer(NamedTuple):
    """One connection. The credentials are the kernel's (SO_PEERCRED); -1 when the connection is not local."""

    identity: bytes
    uid: int
    gid: int
    pid: int


RequestHandler = Callable[[Peer, Any], Awaitable[msgspec.Struct]]


class _KnownPeer:
    """A peer that said hello."""

    def __init__(self, peer: Peer, descriptor: int) -> None:
        self.peer = peer
        self.descriptor = descriptor
        self.requests_in_work = 0
        self.is_notified = True


class ControlServer:
    """Answers the requests of any number of peers.

    `handler` gets every request but Hello, and returns the reply or raises. Requests of one peer start in the
    order they came, but may end in any. A handler is never cancelled because its client lost patience: a
    command must not be left half made.
    `on_peer_arrived` is called when a peer said hello, before any of its requests; `on_peer_lost` once for each
    of these, when its connection ended.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        request_type: Any,
        handler: RequestHandler,
        *,
        software: str,
        on_peer_arrived: Callable[[Peer], None] | None = None,
        on_peer_lost: Callable[[Peer], None] | None = None,
        request_size_bytes_max: int = FRAME_SIZE_BYTES_MAX,
    ) -> None:
        self._addresses = tuple(addresses)
        self._bodies = frames.body_decoder(request_type)
        self._handler = handler
        self._software = software
        self._on_peer_arrived = on_peer_arrived
        self._on_peer_lost = on_peer_lost
        self._request_size_bytes_max = request_size_bytes_max
        self._endpoint: Endpoint | None = None
        self._peers: dict[bytes, _KnownPeer] = {}
        self._identities_by_descriptor: dict[int, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def bind(self) -> None:
        """Listen. Raises TransportError. File modes of ipc sockets are left to the caller."""
        endpoint = Endpoint(
            zmq.ROUTER,
            {
                zmq.ROUTER_MANDATORY: 1,  # so that sending to a peer that left fails, instead of vanishing
                zmq.MAXMSGSIZE: self._request_size_bytes_max,
                zmq.SNDHWM: QUEUED_MESSAGES_MAX,
                zmq.RCVHWM: QUEUED_MESSAGES_MAX,
                zmq.HANDSHAKE_IVL: HANDSHAKE_DEADLINE_MS,
                zmq.BACKLOG: LISTEN_BACKLOG,
                zmq.TCP_KEEPALIVE: 1,
                zmq.TCP_KEEPALIVE_IDLE: KEEP_ALIVE_IDLE_S,
                zmq.TCP_KEEPALIVE_INTVL: KEEP_ALIVE_INTERVAL_S,
                zmq.TCP_KEEPALIVE_CNT: KEEP_ALIVE_COUNT,
                zmq.IPV6: int(any(address.startswith("tcp://[") for address in self._addresses)),
            },
            monitored_events=zmq.EVENT_DISCONNECTED,
            on_connection_event=self._forget_connection,
            read_one=self._read_one,
        )
        try:
            for address in self._addresses:
                endpoint.socket.bind(address)
        except zmq.ZMQError as error:
            endpoint.close(0)
            raise TransportError(f"Cannot listen on {address}: {error}") from None
        self._endpoint = endpoint

    async def serve(self) -> None:
        """Answer requests until cancelled. Requests in work go on; `close` waits for them."""
        endpoint = self._bound()
        endpoint.start_reading()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            endpoint.stop_reading()

    async def notify(self, body: msgspec.Struct) -> None:
        """Send a notice to every peer that said hello. One that does not read gets no more notices."""
        header, encoded = frames.encode_reply(frames.NOTICE, body)
        for known in list(self._peers.values()):
            if known.is_notified and not self._send(known.peer, header, encoded):
                known.is_notified = False
                log.warning("Peer does not read its notices, it gets no more: pid=%d", known.peer.pid)

    @property
    def peer_count(self) -> int:
        """How many peers said hello and are still connected."""
        return len(self._peers)

    async def close(self, grace_s: float = 5.0) -> None:
        """Let the requests in work end (those that take longer are cancelled), send the replies, go away."""
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=grace_s)
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        if self._endpoint is not None:
            self._endpoint.close(LAST_REPLIES_LINGER_MS)
            self._endpoint = None
        self._peers.clear()
        self._identities_by_descriptor.clear()

    # ---- receiving ----

    def _bound(self) -> Endpoint:
        if self._endpoint is None:
            raise LocalProtocolError("The control server is not bound")
        return self._endpoint

    def _read_one(self) -> bool:
        socket = self._bound().socket
        try:
            identity_frame = socket.recv(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return False
        parts = [socket.recv(zmq.NOBLOCK)] if identity_frame.more else []
        while socket.getsockopt(zmq.RCVMORE):
            part = socket.recv(zmq.NOBLOCK)
            if len(parts) <= FRAME_COUNT:  # one too many is enough to know
                parts.append(part)
        # What came from a descriptor before it was used again must be forgotten before this message counts.
        self._bound().read_connection_events()
        self._accept(identity_frame, parts)
        return True

    def _accept(self, identity_frame: zmq.Frame, parts: list[bytes]) -> None:
        identity = identity_frame.bytes
        if len(identity) != 5 or identity[0] != 0:
            # Made up by the peer. It could be that of a peer that just left, whose replies it would get.
            log.debug("Dropped a message of a peer that chose its identity: identity=%r", identity)
            return
        known = self._peers.get(identity)
        peer = known.peer if known is not None else _credentials(identity, identity_frame)
        try:
            header = frames.decode_request_header(parts[0] if parts else b"")
        except RemoteProtocolError as error:
            log.debug("Dropped a message: pid=%d, reason=%s", peer.pid, error)
            return
        try:
            if len(parts) != FRAME_COUNT:
                raise RemoteProtocolError(f"A message has {FRAME_COUNT} frames, this one has another number")
            request = frames.decode_body(self._bodies, parts[1])
            if isinstance(request, Hello):
                answer = frames.answer_hello(request, self._software)
                if self._reply(peer, header.request_id, answer) and known is None:
                    self._remember(peer, identity_frame)
                return
            if known is None:
                raise RemoteProtocolError("Say hello first")
            if known.requests_in_work >= REQUESTS_IN_WORK_MAX:
                raise ResourceExhausted(
                    f"{known.requests_in_work} requests of this client are in work, "
                    f"at most {REQUESTS_IN_WORK_MAX} may be"
                )
        except TracefleetError as error:
            log.debug("Refused a request: pid=%d, reason=%s", peer.pid, error)
            self._reply(peer, header.request_id, frames.reply_from_error(error))
            return
        known.requests_in_work += 1
        task = asyncio.get_running_loop().create_task(self._execute(known, header, request))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _execute(self, known: _KnownPeer, header: RequestHeader, request: Any) -> None:
        loop = asyncio.get_running_loop()
        give_up_at_s = loop.time() + header.deadline_ms / 1000
        reply: msgspec.Struct
        try:
            reply = await self._handler(known.peer, request)
        except TracefleetError as error:
            reply = frames.reply_from_error(error)
        except Exception:
            log.exception("Cannot carry out a request: request=%s", type(request).__name__)
            reply = frames.reply_from_error(TracefleetError("internal error"))
        finally:
            known.requests_in_work -= 1
        if loop.time() > give_up_at_s:
            log.debug("Dropped a late reply: request=%s, pid=%d", type(request).__name__, known.peer.pid)
            return
        self._reply(known.peer, header.request_id, reply)

    # ---- sending ----

    def _reply(self, peer: Peer, request_id: int, body: msgspec.Struct) -> bool:
        try:
            header, encoded = frames.encode_reply(request_id, body)
        except LocalProtocolError as error:
            log.error("Cannot send a reply: reason=%s", error)
            header, encoded = frames.encode_reply(request_id, frames.reply_from_error(error))
        is_sent = self._send(peer, header, encoded)
        if not is_sent:
            log.debug("Dropped a reply, its peer does not read or left: pid=%d", peer.pid)
        return is_sent

    def _send(self, peer: Peer, header: bytes, body: bytes) -> bool:
        if self._endpoint is None:
            return False
        try:
            self._endpoint.send((peer.identity, header, body))
        except zmq.ZMQError:  # EAGAIN: its queue is full; EHOSTUNREACH: it left
            return False
        return True

    # ---- who is there ----

    def _remember(self, peer: Peer, frame: zmq.Frame) -> None:
        descriptor = int(frame.get(zmq.SRCFD))
        self._forget_descriptor(descriptor)
        self._peers[peer.identity] = _KnownPeer(peer, descriptor)
        self._identities_by_descriptor[descriptor] = peer.identity
        if self._on_peer_arrived is not None:
            self._on_peer_arrived(peer)

    def _forget_connection(self, event: ConnectionEvent) -> None:
        self._forget_descriptor(event.value)

    def _forget_descriptor(self, descriptor: int) -> None:
        identity = self._identities_by_descriptor.pop(descriptor, None)
        if identity is None:
            return
        known = self._peers.pop(identity)
        log.debug("Peer left: pid=%d", known.peer.pid)
        if self._on_peer_lost is not None:
            self._on_peer_lost(known.peer)


def _credentials(identity: bytes, frame: zmq.Frame) -> Peer:
    address = ""
    with contextlib.suppress(zmq.ZMQError):
        address = str(frame.get("Peer-Address"))
    match = _PEER_ADDRESS.fullmatch(address)
    if match is None:
        return Peer(identity, -1, -1, -1)
    return Peer(identity, int(match[1]), int(match[2]), int(match[3]))
