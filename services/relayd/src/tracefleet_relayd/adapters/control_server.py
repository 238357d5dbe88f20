"""The control port: LTTng's relay protocol over TCP. Every connection asks, and is answered, one after the other.

A peer that does not read its replies is not read from, and a peer without a session has some time to make one, so
that a connection costs little whatever comes.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack
from typing import Any, Final, Protocol

from tracefleet_common.codecs.lttng_relay import MINOR_INDEX_1_1, Reply, Request, SendIndex
from tracefleet_common.codecs.lttng_relay_replies import encode_reply
from tracefleet_common.codecs.lttng_relay_requests import RequestDecoder
from tracefleet_common.codecs.lttng_wire import RefusedCommand
from tracefleet_common.errors import RemoteProtocolError
from tracefleet_relayd.application.control_commands import ControlCommands, Refused
from tracefleet_relayd.application.ports import NoRoom

log = logging.getLogger("tracefleet.relayd.control")

REPLIES_SIZE_BYTES_MAX: Final = 64 * 1024  # that the peer did not take
SESSION_DEADLINE_S: Final = 60.0  # to have a session
REPLY_DEADLINE_S: Final = 60.0  # to take replies
ROOM_PERIOD_S: Final = 0.5  # between two looks for room on the disk

# The intake takes a connection while index entries come on it. Each time it cannot take the next one, we keep the
# connection for about twice as many as before: some streams may not be in a state for it.
PATIENCE_MAX: Final = 15
RECEIVE_SIZE_BYTES: Final = 64 * 1024

SocketSettings = Callable[[socket.socket], None]


class IndexTaker(Protocol):
    """The intake, as far as it takes index entries on control connections; see NativeIntake."""

    def lend(self, descriptor: int, session_id: int, on_return: Callable[[], None]) -> int: ...
    def take_back(self, token: int) -> tuple[bytes, bytes]: ...
    def resume(self, token: int) -> None: ...
    def close(self, token: int) -> None: ...


class ControlServer:
    """Between `open` and `close`. `reserve` makes room for a descriptor; OSError: there is none.

    Without an `index_taker`, all index entries are taken here.
    """

    def __init__(
        self,
        make_commands: Callable[[], ControlCommands],
        reserve: Callable[[], AbstractContextManager[Any]],
        set_up_socket: SocketSettings,
        *,
        connection_count_max: int,
        index_taker: IndexTaker | None = None,
    ) -> None:
        # A call to the system writes to it, and what came is taken before the next: one for all connections is enough.
        self.buffer = memoryview(bytearray(RECEIVE_SIZE_BYTES))
        self.index_taker = index_taker
        self.make_commands = make_commands
        self.reserve = reserve
        self.set_up_socket = set_up_socket
        self.connection_count_max = connection_count_max
        self.connections: set[_Connection] = set()
        self._servers: list[asyncio.Server] = []

    async def open(self, listeners: Sequence[socket.socket]) -> None:
        """Take over `listeners`."""
        loop = asyncio.get_running_loop()
        for listener in listeners:
            self._servers.append(await loop.create_server(lambda: _Connection(self), sock=listener))

    def close(self) -> None:
        """Hang up on everybody."""
        for server in self._servers:
            server.close()
        for connection in list(self.connections):
            connection.abort("The relay daemon ends")


class _Connection(asyncio.BufferedProtocol):
    def __init__(self, server: ControlServer) -> None:
        self._server = server
        self._commands = server.make_commands()
        self._decoder = RequestDecoder()
        self._resources = ExitStack()
        self._transport: asyncio.Transport | None = None
        self._waiting: Request | None = None  # for room on the disk
        self._retry: asyncio.TimerHandle | None = None  # of that request
        self._is_read = True
        self._has_failed = False
        self._are_replies_stuck = False
        self._deadline: asyncio.TimerHandle | None = None
        self._peer: Any = None
        self._token: int | None = None  # at the index taker
        self._is_lent = False
        self._is_back = False  # just now
        self._patience = 0
        self._kept_count = 0  # of index entries that are taken here before the connection is lent again
        self._was_index = False  # the latest request

    # ---- what asyncio calls ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._peer = transport.get_extra_info("peername")
        try:
            if len(self._server.connections) >= self._server.connection_count_max:
                raise OSError(f"There are {len(self._server.connections)} control connections already")
            self._resources.enter_context(self._server.reserve())
            self._server.set_up_socket(transport.get_extra_info("socket"))
        except OSError as error:
            self.abort(f"No room for it: {error}")
            return
        self._server.connections.add(self)
        transport.set_write_buffer_limits(high=REPLIES_SIZE_BYTES_MAX)
        self._set_deadline(SESSION_DEADLINE_S, "It has no session")

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(self._server.buffer[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        """They are copied."""
        self._decoder.receive(data)
        self._serve()

    def pause_writing(self) -> None:
        self._are_replies_stuck = True
        self._set_deadline(REPLY_DEADLINE_S, "It does not read its replies")
        self._read_as_we_can()

    def resume_writing(self) -> None:
        self._are_replies_stuck = False
        self._set_deadline(None)
        self._read_as_we_can()
        self._serve()

    def connection_lost(self, exc: Exception | None) -> None:
        self._set_deadline(None)
        self._server.connections.discard(self)
        # Packets may still come that were announced, also when the connection was reset: their peer died.
        self._commands.end(is_aborted=self._has_failed)
        if self._token is not None:
            assert self._server.index_taker is not None
            self._server.index_taker.close(self._token)  # before the socket is closed
            self._token = None
        self._resources.close()
        self._transport = None
        if self._retry is not None:
            self._retry.cancel()

    # ---- one request after the other ----

    def _serve(self) -> None:
        while self._can_serve():
            try:
                request = self._waiting or self._decoder.next_command()
                if request is None:
                    break
                self._execute(request)
            except Refused as error:
                log.info("Refused a command: peer=%s, reason=%s", self._peer, error)
                self._reply(error.reply)
                if error.must_close:
                    self._hang_up()
            except RefusedCommand as error:
                log.info("Refused a command: peer=%s, reason=%s", self._peer, error)
                self._send(error.reply)
                if error.must_close:
                    self._hang_up()
            except RemoteProtocolError as error:
                log.warning("Hung up on a peer: peer=%s, reason=%s", self._peer, error)
                self._hang_up()
            except Exception:
                log.exception("A command failed: peer=%s", self._peer)
                self._hang_up()
        self._lend_if_worth_it()
        self._read_as_we_can()

    def _execute(self, request: Request) -> None:
        self._waiting = None
        self._note_kind(request)
        try:
            reply = self._commands.execute(request)
        except NoRoom:
            self._wait_for_room(request)
            return
        self._decoder.minor = self._commands.minor
        self._reply(reply)

    def _can_serve(self) -> bool:
        if self._transport is None or self._transport.is_closing():
            return False
        return not self._are_replies_stuck and self._retry is None and not self._is_lent

    def _reply(self, reply: Reply | None) -> None:
        if reply is not None:
            self._send(encode_reply(reply, self._commands.minor))
        if self._commands.session is not None and not self._are_replies_stuck:
            self._set_deadline(None)

    def _send(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def _wait_for_room(self, request: Request) -> None:
        if self._is_read:
            log.warning("No room on the disk, will retry: peer=%s, command=%s", self._peer, request.command.name)
        self._waiting = request
        self._retry = asyncio.get_running_loop().call_later(ROOM_PERIOD_S, self._try_again)

    def _try_again(self) -> None:
        self._retry = None
        self._serve()

    def _read_as_we_can(self) -> None:
        """Requests stay with the peer while we cannot serve them."""
        if self._transport is None or self._transport.is_closing():
            return
        can_read = self._waiting is None and not self._are_replies_stuck and not self._is_lent
        if can_read and not self._is_read:
            self._transport.resume_reading()
        elif not can_read and self._is_read:
            self._transport.pause_reading()
        self._is_read = can_read

    # ---- index entries are taken elsewhere ----

    def _note_kind(self, request: Request) -> None:
        self._was_index = isinstance(request, SendIndex)
        if self._was_index and self._is_back:
            self._patience = min(2 * self._patience + 1, PATIENCE_MAX)
            self._kept_count = self._patience
        elif self._was_index:
            self._kept_count = max(0, self._kept_count - 1)
        elif self._is_back:
            self._patience = self._kept_count = 0
        self._is_back = False

    def _lend_if_worth_it(self) -> None:
        """When an index entry came, more will, and most often nothing else."""
        taker, transport, session = self._server.index_taker, self._transport, self._commands.session
        if taker is None or transport is None or session is None or not self._was_index or self._kept_count:
            return
        if not self._can_serve() or self._waiting is not None or self._commands.minor < MINOR_INDEX_1_1:
            return
        if not self._decoder.is_between_requests or transport.get_write_buffer_size():
            return
        self._was_index = False
        if self._token is None:
            try:
                self._token = taker.lend(
                    transport.get_extra_info("socket").fileno(), session.session_id, self._come_back_soon
                )
            except OSError as error:
                log.warning("Index entries are taken one by one: peer=%s, error=%s", self._peer, error)
                return
        else:
            taker.resume(self._token)
        self._is_lent = True

    def _come_back_soon(self) -> None:
        # Somebody takes reports, perhaps in the middle of another connection's command.
        asyncio.get_running_loop().call_soon(self._come_back)

    def _come_back(self) -> None:
        if self._transport is None or self._token is None or not self._is_lent:
            return
        assert self._server.index_taker is not None
        self._is_lent = False
        self._is_back = True
        try:
            replies, data = self._server.index_taker.take_back(self._token)
        except OSError as error:
            self.abort(f"It cannot be read: {error}")
            return
        if replies:
            self._send(replies)
        self._decoder.receive(data)
        self._serve()

    # ---- the end ----

    def abort(self, reason: str) -> None:
        """Hang up at once."""
        log.info("Hung up on a peer: peer=%s, reason=%s", self._peer, reason)
        self._has_failed = True
        if self._transport is not None:
            self._transport.abort()

    def _hang_up(self) -> None:
        """After the replies are sent, if the peer takes them."""
        self._has_failed = True
        self._commands.end(is_aborted=True)
        if self._transport is not None:
            self._transport.close()
            self._set_deadline(REPLY_DEADLINE_S, "It does not read its last reply")

    def _set_deadline(self, after_s: float | None, reason: str = "") -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        if after_s is not None:
            self._deadline = asyncio.get_running_loop().call_later(after_s, self.abort, reason)
