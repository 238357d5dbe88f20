"""One session at a relay daemon of our own: connections come and go, the session goes on.

The native library sends packets and hears what is safe. What is here makes its connections, and tells the relay daemon
which streams there are (`messages.relay_streaming`), as a task of the loop: one that is away holds up nobody. The
methods of the RelaySession port are called from worker threads.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, NamedTuple, TypeVar

import msgspec

import tracefleet_common
import tracefleet_native
from tracefleet_common.codecs.fleet_stream import encode_greeting
from tracefleet_common.errors import ErrorCode, RemoteProtocolError, TracefleetError, TracerError, TransportError
from tracefleet_common.messages import relay_streaming as streaming
from tracefleet_common.messages.consumerd_control import RelaySessionState
from tracefleet_common.messages.envelope import Done
from tracefleet_common.model.relay_output import FleetOutput
from tracefleet_common.transport.control_link import ControlLink
from tracefleet_consumerd.adapters.spool_directory import SpoolDirectory, SpooledSession
from tracefleet_consumerd.application.ports import StreamPosition, Workers

log = logging.getLogger("tracefleet.consumerd.fleet")

SOFTWARE = f"tracefleet-consumerd {tracefleet_common.__version__}"
CONNECT_DEADLINE_S = 5.0
# It writes its journal before it answers, for some durabilities with a sync.
REPLY_DEADLINE_S = 10.0
PAUSE_S_MIN = 0.1
PAUSE_S_MAX = 5.0
# A connection that lasted so long was a good one: the next attempt comes at once.
GOOD_CONNECTION_S = 5.0
# A program waits for its streams. What the relay daemon has not refused by then is taken for accepted.
ADD_DEADLINE_S = 1.0
# How often to look whether what is to be ended has been acknowledged.
ENDING_PAUSE_S = 0.02
CLOSE_DEADLINE_S = 5.0
# Who waits for what was sent waits so long for a relay daemon that is away.
PATIENCE_S = 5.0
STREAMS_AT_ONCE_MAX = 256
# A host that vanished, and one that takes nothing: the rest is for the next connection.
UNACKNOWLEDGED_MS_MAX = 30_000
PORT_MAX = 65535

T = TypeVar("T")


class _NewStreams(NamedTuple):
    """`answer`: of the relay daemon; also set when it is away."""

    streams: dict[int, streaming.StreamRequest]
    answer: Future[None]


class FleetRelaySession:
    """`record` is what its spool directory knows, if there is one. `workers`: for its disk.

    `on_end` is called on the loop when it is concluded, or given up.
    """

    is_lost = False  # it never is for good

    def __init__(
        self,
        relay_key: int,
        record: SpooledSession,
        spool: SpoolDirectory | None,
        *,
        loop: asyncio.AbstractEventLoop,
        workers: Workers,
        on_end: Callable[[FleetRelaySession], None],
    ) -> None:
        """Without a connection. Raises TracefleetError when there is no room for it."""
        self.text = record.output.text
        self._relay_key = relay_key
        self._record = record
        self._spool = spool
        self._loop = loop
        self._workers = workers
        self._on_end = on_end
        try:
            self.native = tracefleet_native.Fleet(
                None if spool is None else str(spool.path), record.output.spool_size_bytes
            )
        except OSError as error:
            raise TracerError(
                f"Cannot stream to {self.text}: {error.strerror}", ErrorCode.ENABLE_CONSUMER_FAIL
            ) from None
        if self.native.is_damaged:
            log.error("Packets at the end of a spool are damaged, and lost: path=%s", spool and spool.path)
        self._making = threading.Lock()  # streams get their keys, and are written down, one after the other
        # What follows is the loop's.
        self._streams = dict(record.streams)  # by key; those that the relay daemon shall know
        self._new: list[_NewStreams] = []  # that the relay daemon of this connection was not told of
        self._handles: dict[int, streaming.AddedStream] = {}  # by key; those that this connection serves
        self._ending: set[int] = set()  # keys of those to which nothing is added any more
        self._work = asyncio.Event()
        self._trouble: str | None = None
        self._is_connected = False  # the bus
        self._is_attached = False  # and the data
        self._connection_count = 0
        self._lost_at_s: float | None = None
        self._is_concluding = False
        self._is_concluded = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None

    # ---- the port, from worker threads ----

    def prepare(self) -> None:
        """The relay daemon makes its chunk by itself."""

    def poll(self) -> None:
        """It looks after itself."""

    def is_settled(self, positions: Sequence[StreamPosition], metadata_handles: Sequence[int]) -> bool:
        """Whether everything that was sent is acknowledged, or in the spool.

        Raises TransportError when there is no spool and the relay daemon is away for a while.
        """
        if self.native.is_settled(True):
            return True
        if self._is_away:
            raise TransportError(self._trouble or f"The relay daemon at {self.text} is away")
        return False

    @property
    def _is_away(self) -> bool:
        lost_at_s = self._lost_at_s
        return lost_at_s is not None and self._loop.time() - lost_at_s >= PATIENCE_S

    def state(self) -> RelaySessionState:
        """As the native library counts."""
        books = self.native.books()
        trouble = self._trouble
        if trouble is None and books.error:
            trouble = f"{self.text}: {os.strerror(books.error)}"
        return RelaySessionState(
            relay_key=self._relay_key,
            is_connected=self._is_connected,
            trouble=trouble,
            sent_packet_count=books.sent_count,
            sent_bytes=books.sent_bytes,
            acknowledged_packet_count=books.acknowledged_count,
            acknowledged_bytes=books.acknowledged_bytes,
            resent_packet_count=books.resent_count,
            reconnect_count=max(0, self._connection_count - 1),
            spooled_packet_count=books.spooled_count,
            spooled_bytes=books.spooled_bytes,
        )

    def add_streams(
        self, path: str, names: Iterable[str], trace_file_size_bytes: int = 0, trace_file_count: int = 0
    ) -> tuple[int, ...]:
        """The keys of new streams of the trace at `path`. The relay daemon hears of them when it is there.

        Raises TracefleetError: it refuses them, or there is no room here.
        """
        requests = [
            streaming.StreamRequest(
                path=path,
                channel_name=name,
                trace_file_size_bytes=trace_file_size_bytes,
                trace_file_count=trace_file_count,
            )
            for name in names
        ]
        with self._making:
            try:
                added = {self.native.add_stream(): request for request in requests}
            except OSError as error:
                raise TracerError(
                    f"Cannot stream to {self.text}: {error.strerror}", ErrorCode.UST_CHANNEL_FAIL
                ) from None
            self._remember({**self._record.streams, **added})
        new = _NewStreams(added, Future())
        self._loop.call_soon_threadsafe(self._take_streams, new)
        with suppress(TimeoutError):
            new.answer.result(ADD_DEADLINE_S)
        return tuple(added)

    def end_streams(self, keys: Iterable[int]) -> None:
        """Nothing follows in these streams. The relay daemon hears of it when it has everything before."""
        self._loop.call_soon_threadsafe(self._take_ends, tuple(keys))

    def close(self) -> None:
        """Conclude the session. With a spool, what is safe in it goes to the relay daemon later.

        Raises TransportError when the relay daemon could not be told, or something is neither there nor in the spool.
        """
        self._wait_for(self._conclude_in_time())

    def _wait_for(self, work: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _remember(self, streams: dict[int, streaming.StreamRequest]) -> None:
        record = msgspec.structs.replace(self._record, streams=streams)
        if self._spool is not None:
            self._spool.write(record)
        self._record = record

    def _forget(self, keys: Iterable[int]) -> None:
        with self._making:
            gone = set(keys)
            self._remember({key: stream for key, stream in self._record.streams.items() if key not in gone})

    # ---- its life, on the loop ----

    async def open(self) -> None:
        """Connect for the first time, and keep it so. Raises TransportError with LTTng's code."""
        try:
            link = await self._connect()
        except BaseException as error:
            await self._end_here(is_spool_kept=False)
            if not isinstance(error, TracefleetError | OSError):
                raise
            if isinstance(error, RemoteProtocolError):
                text, code = "is of another version", ErrorCode.RELAYD_VERSION_FAIL
            elif isinstance(error, TransportError | OSError):
                text, code = "does not answer", ErrorCode.RELAYD_CONNECT_FAIL
            else:
                text, code = "refuses", ErrorCode.ENABLE_CONSUMER_FAIL
            raise TransportError(f"The relay daemon at {self.text} {text}: {error}", code) from None
        self._keeper = asyncio.create_task(self._keep(link))

    def deliver(self) -> None:
        """Send what the spool of a former consumer daemon holds, then conclude."""
        self._is_concluding = True
        self._keeper = asyncio.create_task(self._keep(None))

    async def give_up(self) -> None:
        """Forget it here. What is in the spool stays there, for the next consumer daemon."""
        keeper, self._keeper = self._keeper, None
        if keeper is None:  # it is concluded
            return
        keeper.cancel()
        with suppress(asyncio.CancelledError):
            await keeper
        await self._end_here(is_spool_kept=True)

    async def _end_here(self, *, is_spool_kept: bool) -> None:
        spool = self._spool

        def end() -> None:
            self.native.close()
            if spool is not None:
                if is_spool_kept:
                    spool.release()
                else:
                    spool.remove()

        await self._workers.run(end)
        self._on_end(self)

    async def _conclude_in_time(self) -> None:
        self._is_concluding = True
        self._work.set()
        # While the relay daemon is away it makes no sense to wait for what is safe here, or for long.
        is_waiting = self._is_connected or (self._spool is None and not self._is_away)
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_DEADLINE_S if is_waiting else 0):
                await self._is_concluded.wait()
        if self._is_concluded.is_set():
            return
        if self._spool is not None:
            books = self.native.books()
            log.info("A session goes on from the spool: relay=%s, packet-count=%d", self.text, books.spooled_count)
            if not self.native.is_settled(True):
                raise TransportError(
                    f"Not all packets for {self.text} are in the spool", ErrorCode.ROTATION_FAIL_CONSUMER
                )
            return
        trouble = self._trouble or f"The relay daemon at {self.text} has not acknowledged everything"
        await self.give_up()
        raise TransportError(
            f"The session could not be concluded: {trouble}",
            ErrorCode.ROTATION_FAIL_CONSUMER,
        )

    def _take_streams(self, new: _NewStreams) -> None:
        self._streams |= new.streams
        if self._is_attached:
            self._new.append(new)
            self._work.set()
        else:
            new.answer.set_result(None)

    def _forget_new(self) -> None:
        """The next connection begins with all streams."""
        for new in self._new:
            new.answer.set_result(None)
        self._new.clear()

    def _take_ends(self, keys: Iterable[int]) -> None:
        self._ending.update(keys)
        self._work.set()

    async def _keep(self, link: ControlLink | None) -> None:
        """Stay connected until the session is concluded."""
        pause_s = PAUSE_S_MIN
        while True:
            served_at_s = None
            try:
                link = link or await self._connect()
                served_at_s = self._loop.time()
                if await self._serve(link):
                    break
                raise TransportError(self._why_lost())
            except (TracefleetError, OSError) as error:
                is_reached = served_at_s is not None
                self._note_trouble(
                    str(error) if is_reached else f"The relay daemon at {self.text} cannot be reached: {error}"
                )
            except Exception as error:  # of ours; the next connection may do without
                log.exception("A connection to a relay daemon failed: relay=%s", self.text)
                self._note_trouble(str(error))
            finally:
                self._is_connected = self._is_attached = False
                self._handles.clear()
                self._forget_new()
                self.native.detach()
                if link is not None:
                    await link.close()
            link = None
            if served_at_s is not None and self._loop.time() - served_at_s >= GOOD_CONNECTION_S:
                pause_s = PAUSE_S_MIN
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
        self._keeper = None
        await self._end_here(is_spool_kept=False)
        self._is_concluded.set()

    def _why_lost(self) -> str:
        error = self.native.books().error
        reason = os.strerror(error) if error else "the relay daemon hung up"
        return f"The connection to the relay daemon at {self.text} is lost: {reason}"

    def _note_trouble(self, trouble: str) -> None:
        if self._trouble is None:
            log.warning("A session goes on without its relay daemon: relay=%s, reason=%s", self.text, trouble)
            self._lost_at_s = self._loop.time()
        self._trouble = trouble

    # ---- one connection ----

    async def _connect(self) -> ControlLink:
        """Connect, and go on with all streams. Raises TracefleetError or OSError."""
        output = self._record.output
        link = ControlLink(_bus_address(output), streaming.RelayStreamingReply, software=SOFTWARE)
        await link.connect(CONNECT_DEADLINE_S, is_persistent=False)
        try:
            # A session of which it has everything needs no more than its end, and shall not be begun anew for it.
            if not (self._is_concluding and self.native.is_settled(False)):
                opened = await self._ask(link, self._record.opening, streaming.StreamingOpened)
                is_first = self._connection_count == 0 and not self._is_concluding
                if not (opened.is_resumed or is_first):
                    log.error("A relay daemon has forgotten a session, and what it had of it: relay=%s", self.text)
                handles = await self._add(link, dict(self._streams))
                await self._attach(opened.data_port, handles)
                self._handles, self._is_attached = handles, True
        except BaseException:
            await link.close()
            raise
        # Those that came meanwhile.
        late = {key: stream for key, stream in self._streams.items() if key not in self._handles}
        if self._is_attached and late:
            self._new.append(_NewStreams(late, Future()))
        self._is_connected = True
        self._connection_count += 1
        if self._trouble is not None:
            log.warning("A session has its relay daemon again: relay=%s", self.text)
        self._trouble = self._lost_at_s = None
        return link

    async def _ask(self, link: ControlLink, request: msgspec.Struct, reply_type: type[T]) -> T:
        reply = await link.request(request, deadline_s=REPLY_DEADLINE_S)
        if not isinstance(reply, reply_type):
            raise RemoteProtocolError(f"The relay daemon at {self.text} answers {type(reply).__name__}")
        return reply

    async def _add(
        self, link: ControlLink, streams: dict[int, streaming.StreamRequest]
    ) -> dict[int, streaming.AddedStream]:
        """Where these streams go on."""
        added: dict[int, streaming.AddedStream] = {}
        keys = sorted(streams)
        for begin in range(0, len(keys), STREAMS_AT_ONCE_MAX):
            some = keys[begin : begin + STREAMS_AT_ONCE_MAX]
            requests = tuple(
                msgspec.structs.replace(streams[key], oldest_sequence=self._oldest_sequence(key)) for key in some
            )
            reply = await self._ask(
                link,
                streaming.AddStreams(token=self._record.opening.token, streams=requests),
                streaming.StreamsAdded,
            )
            if len(reply.streams) != len(some):
                raise RemoteProtocolError(f"The relay daemon at {self.text} does not name all streams")
            added.update(zip(some, reply.streams, strict=True))
        return added

    def _oldest_sequence(self, key: int) -> int:
        try:
            return self.native.stream_state(key).oldest
        except FileNotFoundError:  # of a former consumer daemon, and nothing of it was spooled
            return 0

    def _is_known(self, key: int) -> bool:
        try:
            self.native.stream_state(key)
        except FileNotFoundError:
            return False
        return True

    async def _attach(self, port: int, handles: dict[int, streaming.AddedStream]) -> None:
        if not 0 < port <= PORT_MAX:
            raise RemoteProtocolError(f"The relay daemon at {self.text} takes data at port {port}")
        bindings = [
            (key, stream.handle, stream.next_sequence) for key, stream in handles.items() if self._is_known(key)
        ]
        with await connect_data(self._record.output, port, self._record.opening.token) as data:
            self.native.attach(data.fileno(), bindings)
            data.detach()

    async def _serve(self, link: ControlLink) -> bool:
        """Until the connection is lost; True: until the session is concluded. Raises TracefleetError or OSError."""
        descriptor = self.native.fileno()
        has_lost = False

        def note_lost() -> None:
            nonlocal has_lost
            has_lost = True
            self._loop.remove_reader(descriptor)  # it stays readable
            self._work.set()

        if self._is_attached:
            self._loop.add_reader(descriptor, note_lost)
        watch = asyncio.create_task(link.lost.wait())
        watch.add_done_callback(lambda _: self._work.set())
        try:
            while not has_lost and link.is_connected:
                self._work.clear()
                if self._is_attached:
                    await self._bind_new(link)
                    await self._end_delivered(link)
                if self._is_concluding and self.native.is_settled(False):
                    await self._conclude(link)
                    return True
                is_looking = self._is_concluding or bool(self._ending)
                with suppress(TimeoutError):
                    async with asyncio.timeout(ENDING_PAUSE_S if is_looking else None):
                        await self._work.wait()
            return False
        finally:
            watch.cancel()
            self._loop.remove_reader(descriptor)

    async def _bind_new(self, link: ControlLink) -> None:
        while self._new:
            new = self._new[0]
            try:
                added = await self._add(link, new.streams)
            except (TransportError, RemoteProtocolError):
                raise
            except TracefleetError as error:
                log.error("A relay daemon refuses streams: relay=%s, reason=%s", self.text, error)
                for key in new.streams:
                    del self._streams[key]
                await self._forget_later(tuple(new.streams))
                self._new.remove(new)
                new.answer.set_exception(TracerError(f"The relay daemon at {self.text} refuses: {error}", error.code))
                continue
            for key, stream in added.items():
                self.native.bind(key, stream.handle, stream.next_sequence)
                self._handles[key] = stream
            self._new.remove(new)
            new.answer.set_result(None)

    async def _end_delivered(self, link: ControlLink) -> None:
        delivered = [key for key in self._ending if key in self._handles and self._is_delivered(key)]
        if not delivered:
            return
        self._ending.difference_update(delivered)
        # Whatever becomes of the request, they must not be begun anew: the session's end would end them as well.
        ends = [self._end_of(key) for key in delivered]
        for key in delivered:
            del self._streams[key]
            del self._handles[key]
        await self._forget_later(delivered)
        await self._end(link, ends)

    async def _forget_later(self, keys: Sequence[int]) -> None:
        await self._workers.run(lambda: self._forget(keys))

    def _is_delivered(self, key: int) -> bool:
        state = self.native.stream_state(key)
        return max(state.acknowledged, state.oldest) >= state.next

    def _end_of(self, key: int) -> streaming.StreamEnd:
        added = self._handles[key]
        next_sequence = added.next_sequence
        if self._is_known(key):
            # Not of packets that were given up: the relay daemon never heard of them.
            next_sequence = max(next_sequence, self.native.stream_state(key).acknowledged)
        return streaming.StreamEnd(handle=added.handle, next_sequence=next_sequence)

    async def _end(self, link: ControlLink, ends: Sequence[streaming.StreamEnd]) -> None:
        for begin in range(0, len(ends), STREAMS_AT_ONCE_MAX):
            some = tuple(ends[begin : begin + STREAMS_AT_ONCE_MAX])
            await self._ask(link, streaming.EndStreams(token=self._record.opening.token, ends=some), Done)

    async def _conclude(self, link: ControlLink) -> None:
        await self._end(link, [self._end_of(key) for key in sorted(self._handles)])
        await self._ask(link, streaming.CloseStreaming(token=self._record.opening.token), Done)
        log.debug("Concluded a session: relay=%s", self.text)


async def connect_data(output: FleetOutput, port: int, token: bytes) -> socket.socket:
    """A data connection on which the greeting was sent. Raises TransportError or OSError."""
    loop = asyncio.get_running_loop()
    family = socket.AF_INET6 if ":" in output.address else socket.AF_INET
    data = socket.socket(family, socket.SOCK_STREAM)
    try:
        data.setblocking(False)
        data.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        data.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        data.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKNOWLEDGED_MS_MAX)
        async with asyncio.timeout(CONNECT_DEADLINE_S):
            await loop.sock_connect(data, (output.address, port))
            await loop.sock_sendall(data, encode_greeting(token))
    except BaseException as error:
        data.close()
        if isinstance(error, TimeoutError):
            raise TransportError(f"Nobody takes data at port {port} of {output.text}") from None
        raise
    return data


def _bus_address(output: FleetOutput) -> str:
    host = f"[{output.address}]" if ":" in output.address else output.address
    return f"tcp://{host}:{output.port}"
