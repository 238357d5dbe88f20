"""The live port: LTTng's live protocol over TCP, one task per viewer.

A viewer is read again only when its last reply is sent, so that one connection takes little memory whatever it sends
and however slowly it reads. The bytes of streams go from the file to the socket without passing through here.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import functools
import logging
import os
import socket
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, Final, NamedTuple

from tracefleet_common.codecs.lttng_live import GetNextIndex
from tracefleet_common.codecs.lttng_live_replies import encode_reply_in_parts
from tracefleet_common.codecs.lttng_live_requests import RequestDecoder
from tracefleet_common.codecs.lttng_wire import RefusedCommand
from tracefleet_common.errors import RemoteProtocolError, TracefleetError, TransportError
from tracefleet_relayd.application.serve_viewers import Viewer, Viewers
from tracefleet_relayd.application.serve_viewers_streams import Answer, FileRange
from tracefleet_relayd.application.viewables import ViewableFile

RECEIVE_SIZE_BYTES: Final = 4096  # requests have 36 bytes at most
TURN_SIZE_BYTES: Final = 256 * 1024  # sent to one viewer before others have their turn; babeltrace2 asks for that much
SEND_BUFFER_SIZE_BYTES: Final = 512 * 1024  # what the system keeps of a reply that a viewer does not take
PAGE_SIZE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
NEWS_PERIOD_S: Final = 0.01  # how often to look for what viewers wait for
# A viewer that asks again at once must hear that there is no more before it shows what it has (babeltrace2 does so, and
# then sleeps for 100 ms). Only one that comes after a rest is kept waiting until there is something.
REST_S: Final = 0.02
ACCEPT_PAUSE_S: Final = 0.1  # when there is no descriptor left for a viewer that waits
# A viewer whose host vanished is noticed after 60 + 6 * 10 s.
_KEEP_ALIVE = ((socket.TCP_KEEPIDLE, 60), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 6))

log = logging.getLogger("tracefleet.relayd.live")


class LiveLimits(NamedTuple):
    """What one viewer, and all of them, may cost."""

    viewer_count: int = 512
    connect_deadline_s: float = 30.0  # to say which version it speaks; after that it may be silent for ever
    send_deadline_s: float = 60.0  # to take something of a reply


class LiveServer:
    """Serves viewers on listening sockets between `open` and `close`.

    `reserve` makes room for one descriptor before it is opened; OSError: there is none.
    """

    def __init__(
        self,
        viewers: Viewers,
        reserve: Callable[[], AbstractContextManager[Any]],
        limits: LiveLimits = LiveLimits(),  # noqa: B008 (a tuple: nobody can change it)
    ) -> None:
        self._viewers = viewers
        self._reserve = reserve
        self._limits = limits
        self._listeners: Sequence[socket.socket] = ()
        self._tasks: set[asyncio.Task[None]] = set()
        self._viewer_count = 0
        self._waiting: dict[asyncio.Future[None], Callable[[], bool]] = {}  # with what says that there is news
        self._looking: asyncio.TimerHandle | None = None
        self._disk = ThreadPoolExecutor(max_workers=2, thread_name_prefix="live-disk")

    @property
    def viewer_count(self) -> int:
        """How many connections there are."""
        return self._viewer_count

    def open(self, listeners: Sequence[socket.socket]) -> None:
        """Take over `listeners` and serve whoever connects. Call it on the loop."""
        self._listeners = listeners
        for listener in listeners:
            listener.setblocking(False)
            self._start(self._accept(listener))

    async def close(self) -> None:
        """Hang up on all viewers. A second call does nothing."""
        if self._looking is not None:
            self._looking.cancel()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listener in self._listeners:
            listener.close()
        self._disk.shutdown(wait=False, cancel_futures=True)

    def _start(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _accept(self, listener: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(self._reserve())
                    connection, address = await loop.sock_accept(listener)
                except OSError as error:  # no descriptor, or the viewer left while it waited
                    log.warning("Cannot accept a viewer, will retry: reason=%s", error)
                    await asyncio.sleep(ACCEPT_PAUSE_S)
                    continue
                stack.enter_context(connection)
                if self._viewer_count >= self._limits.viewer_count:
                    log.info("Too many viewers: refused=%s, count=%d", address, self._viewer_count)
                    continue
                self._viewer_count += 1
                self._start(self._serve(connection, stack.pop_all()))

    async def _serve(self, connection: socket.socket, resources: contextlib.ExitStack) -> None:
        viewer = self._viewers.viewer()
        try:
            _set_up(connection)
            await self._converse(connection, viewer)
        except RemoteProtocolError as error:
            log.info("Hung up on a viewer: reason=%s", error)
        except (OSError, TracefleetError) as error:
            log.info("Lost a viewer: reason=%s", error)
        except Exception:
            log.exception("Cannot serve a viewer")
        finally:
            viewer.close()
            resources.close()
            self._viewer_count -= 1

    async def _converse(self, connection: socket.socket, viewer: Viewer) -> None:
        decoder = RequestDecoder()
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._limits.connect_deadline_s) as deadline:
                answered_at_s = loop.time()
                while data := await loop.sock_recv(connection, RECEIVE_SIZE_BYTES):
                    has_rested = loop.time() - answered_at_s >= REST_S
                    decoder.receive(data)
                    await self._answer_all(connection, viewer, decoder, has_rested=has_rested)
                    answered_at_s = loop.time()
                    if viewer.is_connected:
                        deadline.reschedule(None)
        except TimeoutError as error:
            raise TransportError("Viewer connected and said nothing in time") from error

    async def _answer_all(
        self, connection: socket.socket, viewer: Viewer, decoder: RequestDecoder, *, has_rested: bool
    ) -> None:
        while True:
            try:
                request = decoder.next_command()
            except RefusedCommand as refused:
                await self._send(connection, refused.reply)
                raise
            if request is None:
                return
            answer = viewer.handle(request)
            patience_s = viewer.patience_s(request) if has_rested else 0.0
            has_rested = False
            if patience_s and isinstance(request, GetNextIndex):
                await self._wait_for_news(functools.partial(viewer.has_news, request), patience_s)
                answer = viewer.handle(request)
            await self._send_answer(connection, answer, viewer.minor)

    async def _wait_for_news(self, has_news: Callable[[], bool], patience_s: float) -> None:
        """One timer for all viewers, while there are any that wait."""
        news: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting[news] = has_news
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(NEWS_PERIOD_S, self._look)
        try:
            async with asyncio.timeout(patience_s):
                await news
        except TimeoutError:
            pass
        finally:
            del self._waiting[news]

    def _look(self) -> None:
        self._looking = None
        for news, has_news in self._waiting.items():
            if not news.done() and has_news():
                news.set_result(None)
        if self._waiting:
            self._looking = asyncio.get_running_loop().call_later(NEWS_PERIOD_S, self._look)

    async def _send_answer(self, connection: socket.socket, answer: Answer, minor: int) -> None:
        payload = answer.payload
        if isinstance(payload, bytes):
            for part in encode_reply_in_parts(answer.reply, minor):
                await self._send(connection, part + payload)
            return
        try:
            more = socket.MSG_MORE if payload.size_bytes else 0
            for part in encode_reply_in_parts(answer.reply, minor):
                await self._send(connection, part, more)
            await self._send_file(connection, payload)
        finally:
            if payload.is_to_be_closed:
                payload.file.close()

    async def _send(self, connection: socket.socket, data: bytes, flags: int = 0) -> None:
        with memoryview(data) as view:
            sent = 0
            while sent < len(view):
                try:
                    sent += connection.send(view[sent:], flags)
                except BlockingIOError:
                    await self._wait_writable(connection)

    async def _send_file(self, connection: socket.socket, payload: FileRange) -> None:
        loop = asyncio.get_running_loop()
        offset_bytes = read_until = payload.offset_bytes
        end = offset_bytes + payload.size_bytes
        while offset_bytes < end:
            size_bytes = min(end - offset_bytes, TURN_SIZE_BYTES)
            try:
                with payload.file.use() as descriptor:
                    is_ready = offset_bytes < read_until or _is_in_memory(descriptor, offset_bytes, size_bytes)
                    if is_ready:
                        sent_size_bytes = os.sendfile(connection.fileno(), descriptor, offset_bytes, size_bytes)
            except BlockingIOError:
                await self._wait_writable(connection)
                continue
            if not is_ready:
                await loop.run_in_executor(self._disk, _bring_into_memory, payload.file, offset_bytes, size_bytes)
                read_until = offset_bytes + size_bytes
                continue
            if not sent_size_bytes:
                raise TransportError(f"A file became shorter than {end} bytes while it was sent")
            offset_bytes += sent_size_bytes
            if sent_size_bytes == TURN_SIZE_BYTES:
                await asyncio.sleep(0)

    async def _wait_writable(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        writable: asyncio.Future[None] = loop.create_future()

        def wake() -> None:
            if not writable.done():
                writable.set_result(None)

        loop.add_writer(connection, wake)
        try:
            async with asyncio.timeout(self._limits.send_deadline_s):
                await writable
        except TimeoutError as error:
            raise TransportError("Viewer does not read") from error
        finally:
            loop.remove_writer(connection)


def _set_up(connection: socket.socket) -> None:
    connection.setblocking(False)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_SIZE_BYTES)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEP_ALIVE:
        connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _is_in_memory(descriptor: int, offset_bytes: int, size_bytes: int) -> bool:
    """Whether a file can be sent without waiting for the disk, as far as the first and last byte can tell."""
    byte = bytearray(1)
    try:
        for at in {offset_bytes // PAGE_SIZE_BYTES, (offset_bytes + size_bytes - 1) // PAGE_SIZE_BYTES}:
            os.preadv(descriptor, [byte], at * PAGE_SIZE_BYTES, os.RWF_NOWAIT)
    except OSError as error:  # EOPNOTSUPP: a file system that has no disk to wait for, or cannot tell
        return error.errno != errno.EAGAIN
    return True


def _bring_into_memory(file: ViewableFile, offset_bytes: int, size_bytes: int) -> None:
    """Runs in a thread, and waits for the disk there."""
    with file.use() as descriptor:
        os.posix_fadvise(descriptor, offset_bytes, size_bytes, os.POSIX_FADV_WILLNEED)
        os.pread(descriptor, size_bytes, offset_bytes)
