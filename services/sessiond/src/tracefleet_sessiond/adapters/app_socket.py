"""One connection to an application: requests with deadlines, and the end of the connection noticed at once.

The application reads and answers strictly one command after the other. A reply that does not come in time
leaves the connection out of step for good, so a connection that missed a deadline is closed.
"""

from __future__ import annotations

import array
import asyncio
import logging
import socket
from collections.abc import Callable, Sequence

from tracefleet_common.codecs import ust_commands
from tracefleet_common.codecs.ust_commands import AppReply, AppRequest
from tracefleet_common.errors import TracerError

log = logging.getLogger("tracefleet.sessiond.app")

RECEIVE_SIZE_BYTES = 65536


class AppGone(TracerError):
    """The application closed its connection, or is not to be waited for any longer."""


class AppSocket:
    """A non-blocking stream socket of an application, read as data comes."""

    def __init__(
        self,
        connection: socket.socket,
        *,
        on_data: Callable[[bytes], None],
        on_end: Callable[[str], None],
    ) -> None:
        self._connection = connection
        self._on_data = on_data
        self._on_end = on_end
        self._loop = asyncio.get_running_loop()
        self._outgoing: list[tuple[memoryview, Sequence[int]]] = []
        self.is_open = True
        self.is_ended_by_peer = False
        self._loop.add_reader(connection.fileno(), self._receive)

    def send(self, data: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send everything, in order; what the kernel does not take now goes later."""
        self._outgoing.append((memoryview(data), descriptors))
        if len(self._outgoing) == 1:
            self._flush()

    def close(self, reason: str) -> None:
        """End the connection; `on_end` is called once, whoever ends it."""
        if not self.is_open:
            return
        self.is_open = False
        self._outgoing.clear()
        self._loop.remove_reader(self._connection.fileno())
        self._loop.remove_writer(self._connection.fileno())
        self._connection.close()
        self._on_end(reason)

    def _receive(self) -> None:
        try:
            data = self._connection.recv(RECEIVE_SIZE_BYTES)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end_by_peer(str(error))
            return
        if data:
            self._on_data(data)
        else:
            self._end_by_peer("it closed the connection")

    def _end_by_peer(self, reason: str) -> None:
        if self.is_open:
            self.is_ended_by_peer = True
            self.close(reason)

    def _flush(self) -> None:
        while self._outgoing:
            data, descriptors = self._outgoing[0]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            try:
                sent = self._connection.sendmsg([data], ancillary, socket.MSG_NOSIGNAL)
            except (BlockingIOError, InterruptedError):
                self._loop.add_writer(self._connection.fileno(), self._flush)
                return
            except OSError as error:
                self._end_by_peer(str(error))
                return
            if sent < len(data):
                self._outgoing[0] = (data[sent:], ())
            else:
                del self._outgoing[0]
        self._loop.remove_writer(self._connection.fileno())


class CommandSocket:
    """The command connection of one application."""

    def __init__(self, connection: socket.socket, *, deadline_s: float | None, on_end: Callable[[str], None]) -> None:
        self._deadline_s = deadline_s
        self._on_end = on_end
        self._lock = asyncio.Lock()
        self._received = bytearray()
        self._awaited_size_bytes = 0
        self._reply: asyncio.Future[bytes] | None = None
        self._end_reason = ""
        self._socket = AppSocket(connection, on_data=self._take, on_end=self._end)

    @property
    def is_open(self) -> bool:
        """Whether commands can be sent."""
        return self._socket.is_open

    @property
    def is_ended_by_peer(self) -> bool:
        """Whether the program closed the connection, not we."""
        return self._socket.is_ended_by_peer

    async def request(self, request: AppRequest, descriptors: Sequence[int] = ()) -> AppReply:
        """Send one command and wait for its reply; what follows some replies is appended to the payload.

        Raises AppGone, AppError (the application refused), RemoteProtocolError (then the connection is closed).
        """
        async with self._lock:
            if not self.is_open:
                raise AppGone(f"The program is gone: {self._end_reason}")
            self._reply = self._begin(ust_commands.REPLY_SIZE_BYTES)
            self._socket.send(request.message)
            if descriptors:
                self._socket.send(b"\0", descriptors)
            try:
                async with asyncio.timeout(self._deadline_s):
                    frame = await self._reply
                    reply = ust_commands.decode_reply(request, frame)
                    following_size_bytes = ust_commands.following_size_bytes(request, reply)
                    if following_size_bytes:
                        self._reply = self._begin(following_size_bytes)
                        reply = reply._replace(payload=reply.payload + await self._reply)
            except TimeoutError:
                self.close(f"it did not answer within {self._deadline_s:g} s")
                raise AppGone(f"The program did not answer within {self._deadline_s:g} s") from None
            except BaseException as error:
                # A refusal is no reason to close; a cancelled or garbled exchange leaves us out of step.
                if not isinstance(error, AppGone):
                    self.close(f"the exchange broke off: {error!r}")
                raise
            finally:
                self._reply = None
            ust_commands.check(reply)
            return reply

    def close(self, reason: str) -> None:
        """End the connection."""
        self._socket.close(reason)

    def _begin(self, size_bytes: int) -> asyncio.Future[bytes]:
        self._awaited_size_bytes = size_bytes
        future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        if len(self._received) >= size_bytes:
            self._finish(future)
        return future

    def _finish(self, future: asyncio.Future[bytes]) -> None:
        frame = bytes(self._received[: self._awaited_size_bytes])
        del self._received[: self._awaited_size_bytes]
        if not future.done():
            future.set_result(frame)

    def _take(self, data: bytes) -> None:
        if self._reply is None:
            self.close("it sent data that nobody asked for")
            return
        self._received += data
        if not self._reply.done() and len(self._received) >= self._awaited_size_bytes:
            self._finish(self._reply)

    def _end(self, reason: str) -> None:
        self._end_reason = reason
        if self._reply is not None and not self._reply.done():
            self._reply.set_exception(AppGone(f"The program is gone: {reason}"))
        self._on_end(reason)
