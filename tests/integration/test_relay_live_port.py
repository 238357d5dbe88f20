"""The live port with real connections and files: what a viewer may cost, and that it costs the others nothing."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from deadlines import DEADLINE_S, POLL_PERIOD_S

from tracefleet_common.codecs import lttng_live as live
from tracefleet_common.codecs.index_file import IndexEntry, encode_index_entry, encode_index_header
from tracefleet_common.codecs.lttng_live_replies import ReplyDecoder
from tracefleet_common.codecs.lttng_live_requests import encode_request
from tracefleet_relayd.adapters import live_server
from tracefleet_relayd.adapters.fd_tracker import FdTracker
from tracefleet_relayd.adapters.live_server import LiveLimits, LiveServer
from tracefleet_relayd.adapters.viewed_file import ViewedFile
from tracefleet_relayd.application import serve_viewers
from tracefleet_relayd.application.serve_viewers import Viewers
from tracefleet_relayd.application.serve_viewers_streams import MetadataReader

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "services/relayd/tests"))

from viewable_fakes import FakeSegment, FakeSession, FakeSessions, FakeStream

PACKET_SIZE_BYTES = 8 << 20  # more than a socket buffers
PACKET = os.urandom(1 << 16) * (PACKET_SIZE_BYTES >> 16)
CONNECT = encode_request(live.Connect())
BEGIN = CONNECT + encode_request(live.CreateViewerSession())
ATTACH = encode_request(live.AttachSession(session_id=1, seek=live.Seek.BEGINNING))
NEXT_INDEX = encode_request(live.GetNextIndex(stream_id=2))
GET_PACKET = encode_request(live.GetPacket(stream_id=2, offset_bytes=0, size_bytes=PACKET_SIZE_BYTES))
HURRIED = LiveLimits(connect_deadline_s=0.3, send_deadline_s=0.3)


class DiskSegment(FakeSegment):
    """One packet in real files."""

    def __init__(self, tracker: FdTracker) -> None:
        super().__init__(0, entry_count=1)
        self._tracker = tracker

    def open_data(self) -> ViewedFile:  # type: ignore[override]
        return ViewedFile(self._tracker.open("data", os.O_RDONLY))

    def open_index(self) -> ViewedFile:  # type: ignore[override]
        return ViewedFile(self._tracker.open("index", os.O_RDONLY))


class World:
    """A live session with one packet of a stream, on disk, and a relay daemon's live port."""

    def __init__(self, directory: Path) -> None:
        entry = IndexEntry(
            offset_bytes=0,
            packet_size_bits=8 * PACKET_SIZE_BYTES,
            content_size_bits=8 * PACKET_SIZE_BYTES,
            timestamp_begin=1,
            timestamp_end=2,
            discarded_event_count=0,
            stream_class_id=0,
            stream_instance_id=0,
            packet_sequence_number=0,
        )
        self.data = directory / "data"
        self.data.write_bytes(PACKET)
        (directory / "index").write_bytes(encode_index_header() + encode_index_entry(entry))
        self.tracker = FdTracker(str(directory), 64)
        self.stream = FakeStream(2, segments=[DiskSegment(self.tracker)], end_position=1)
        self.session = FakeSession()
        self.session.publish(FakeStream(1, is_metadata=True), self.stream)
        self.viewers = Viewers(FakeSessions([self.session]))
        self.port = 0
        self.server: LiveServer

    def reserve(self) -> AbstractContextManager[Any]:
        return self.tracker.reserve(1, "viewer")

    @asynccontextmanager
    async def serving(self, limits: LiveLimits) -> AsyncIterator[None]:
        self.server = LiveServer(self.viewers, lambda: self.reserve(), limits)  # `reserve` may be replaced
        listener = socket.create_server(("127.0.0.1", 0))
        self.port = listener.getsockname()[1]
        self.server.open([listener])
        try:
            yield
        finally:
            await self.server.close()
            await self.server.close()
        assert self.server.viewer_count == 0
        assert self.viewers.viewer_count(1) == 0
        assert self.tracker.counts().reserved_count == self.tracker.counts().active_count == 0

    async def connect(self, receive_buffer_size_bytes: int | None = None) -> Client:
        connection = socket.socket()
        if receive_buffer_size_bytes is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_size_bytes)
        connection.setblocking(False)
        await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", self.port))
        return Client(connection)

    async def attached(self, receive_buffer_size_bytes: int | None = None) -> Client:
        client = await self.connect(receive_buffer_size_bytes)
        await client.send(BEGIN + ATTACH + NEXT_INDEX)
        await client.receive(20 + 4 + 8 + 2 * 4371 + 64)
        return client


class Client:
    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._loop = asyncio.get_running_loop()

    async def send(self, data: bytes) -> None:
        await self._loop.sock_sendall(self.connection, data)

    async def receive(self, size_bytes: int) -> bytes:
        data = bytearray()
        while len(data) < size_bytes:
            piece = await self._loop.sock_recv(self.connection, size_bytes - len(data))
            assert piece, "hung up"
            data += piece
        return bytes(data)

    async def next_index(self) -> live.NextIndexReply:
        """The reply to a NEXT_INDEX that was sent."""
        replies = ReplyDecoder()
        replies.expect(live.GetNextIndex(stream_id=2))
        replies.receive(await self.receive(64))
        reply = replies.next_reply()
        assert isinstance(reply, live.NextIndexReply)
        return reply

    async def list_sessions(self) -> live.Reply:
        replies = ReplyDecoder()
        replies.expect(live.ListSessions())
        await self.send(encode_request(live.ListSessions()))
        replies.receive(await self.receive(4 + 339))
        reply = replies.next_reply()
        assert reply is not None
        return reply

    async def packet(self) -> bytes:
        await self.send(GET_PACKET)
        head = await self.receive(12)
        assert head[:4] == b"\0\0\0\1"
        return await self.receive(PACKET_SIZE_BYTES)

    async def is_hung_up_on(self) -> bool:
        """Wait for it, and throw away what comes before."""
        try:
            while await self._loop.sock_recv(self.connection, 1 << 20):
                pass
        except ConnectionError:
            pass
        return True


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    yield made
    assert made.tracker.close() == ()


def play(world: World, scenario: Callable[[], Awaitable[None]], limits: LiveLimits | None = None) -> None:
    """Run `scenario` while the port is served."""

    async def run() -> None:
        async with asyncio.timeout(DEADLINE_S), world.serving(limits or LiveLimits()):
            await scenario()

    asyncio.run(run())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (nobody tells when it becomes true)
        await asyncio.sleep(POLL_PERIOD_S)


def test_requests_in_pieces_of_any_size(world: World) -> None:
    async def scenario() -> None:
        together = await world.connect()
        await together.send(BEGIN + encode_request(live.ListSessions()) * 50)
        assert len(await together.receive(20 + 4 + 50 * 343)) == 20 + 4 + 50 * 343
        apart = await world.connect()
        for byte in BEGIN + ATTACH:
            await apart.send(bytes([byte]))
            await together.list_sessions()
        await apart.receive(20 + 4 + 8 + 2 * 4371)

    play(world, scenario)


@pytest.mark.parametrize("is_cached", [True, False], ids=["in-memory", "on-disk"])
def test_packets_come_whole_to_many_viewers_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch, is_cached: bool
) -> None:
    if not is_cached:
        monkeypatch.setattr(live_server, "_is_in_memory", lambda *_: False)

    async def scenario() -> None:
        clients = [await world.attached() for _ in range(5)]
        assert world.viewers.viewer_count(1) == 5
        for packet in await asyncio.gather(*(client.packet() for client in clients)):
            assert packet == PACKET

    play(world, scenario)


def test_a_question_that_comes_too_early_is_answered_when_there_is_something(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Meanwhile others are served, and a viewer that hangs up is no harm."""
    monkeypatch.setattr(live_server, "REST_S", 0.0)
    monkeypatch.setattr(serve_viewers, "PATIENCE_S_MAX", 10 * DEADLINE_S)
    world.session.live_timer_us = 10 * int(DEADLINE_S * 1e6)
    monkeypatch.setattr(MetadataReader, "is_worth_asking", lambda _: False)  # as if the viewers had it

    async def scenario() -> None:
        early, gone, other = [await world.attached() for _ in range(3)]
        for client in (early, gone):
            await client.send(NEXT_INDEX)
        await until(lambda: len(world.server._waiting) == 2)
        gone.connection.close()
        assert await other.packet() == PACKET
        world.stream.inactive_until = 77
        reply = await early.next_index()
        assert (reply.status, reply.timestamp_end) == (live.NextIndexStatus.INACTIVE, 77)
        await until(lambda: world.server.viewer_count == 2)

    play(world, scenario)


@pytest.mark.parametrize(("rest_s", "patience_s"), [(0, 0.05), (10 * DEADLINE_S, 10 * DEADLINE_S)])
def test_a_question_is_answered_though_nothing_happens(
    world: World, monkeypatch: pytest.MonkeyPatch, rest_s: float, patience_s: float
) -> None:
    """At once, if it comes right behind an answer."""
    monkeypatch.setattr(live_server, "REST_S", rest_s)
    monkeypatch.setattr(serve_viewers, "PATIENCE_S_MAX", patience_s)
    world.session.live_timer_us = int(patience_s * 1e6)
    monkeypatch.setattr(MetadataReader, "is_worth_asking", lambda _: False)  # as if the viewers had it

    async def scenario() -> None:
        client = await world.attached()
        for _ in range(2):
            await client.send(NEXT_INDEX)
            assert (await client.next_index()).status is live.NextIndexStatus.RETRY

    play(world, scenario)


def test_a_viewer_that_does_not_read_is_dropped_and_others_go_on(world: World) -> None:
    async def scenario() -> None:
        stuck, other = await world.attached(4096), await world.attached()
        await stuck.send(GET_PACKET * 10)
        await until(lambda: world.tracker.counts().use_count > 0)
        assert await other.packet() == PACKET
        await until(lambda: world.server.viewer_count == 1)
        assert await other.packet() == PACKET
        assert world.viewers.viewer_count(1) == 1

    play(world, scenario, HURRIED)


def test_a_viewer_that_reads_slowly_is_served(world: World) -> None:
    """It takes longer than the deadline all in all, but takes something in time."""

    async def scenario() -> None:
        slow = await world.attached()
        await slow.send(GET_PACKET)
        began = asyncio.get_running_loop().time()
        data = await slow.receive(12)
        for _ in range(PACKET_SIZE_BYTES >> 19):
            data += await slow.receive(1 << 19)
            await asyncio.sleep(HURRIED.send_deadline_s / 6)
        assert asyncio.get_running_loop().time() - began > HURRIED.send_deadline_s
        assert data[12:] == PACKET

    play(world, scenario, HURRIED)


def test_who_says_nothing_is_hung_up_on_but_not_who_said_who_it_is(world: World) -> None:
    async def scenario() -> None:
        silent, half, viewer = await world.connect(), await world.connect(), await world.connect()
        await half.send(CONNECT[:20])
        await viewer.send(CONNECT)
        await viewer.receive(20)
        assert await silent.is_hung_up_on()
        assert await half.is_hung_up_on()
        await viewer.list_sessions()

    play(world, scenario, HURRIED)


def test_a_long_list_comes_in_parts(world: World) -> None:
    world.session.publish(*(FakeStream(number, path=f"ust/uid/0/{number}-bit") for number in range(10, 810)))

    async def scenario() -> None:
        stuck, reader = await world.connect(4096), await world.connect()
        await stuck.send(BEGIN + ATTACH)
        await stuck.receive(24)
        replies = ReplyDecoder()
        replies.expect(live.AttachSession(session_id=1, seek=live.Seek.BEGINNING))
        await reader.send(BEGIN + ATTACH)
        await reader.receive(24)
        replies.receive(await reader.receive(8 + 802 * 4371))
        reply = replies.next_reply()
        assert isinstance(reply, live.AttachReply)
        assert [stream.stream_id for stream in reply.streams] == [1, 2, *range(10, 810)]
        assert replies.buffered_size_bytes == 0

    play(world, scenario)


def test_there_is_a_limit_on_viewers(world: World) -> None:
    async def scenario() -> None:
        first, second = await world.attached(), await world.attached()
        assert await (await world.connect()).is_hung_up_on()
        first.connection.close()
        await until(lambda: world.server.viewer_count == 1)
        third = await world.attached()
        assert await third.packet() == PACKET
        await second.list_sessions()

    play(world, scenario, LiveLimits(viewer_count=2))


def test_without_descriptors_viewers_wait(world: World) -> None:
    tries: list[int] = []

    def reserve() -> AbstractContextManager[Any]:
        tries.append(1)
        if len(tries) < 3:
            raise OSError(errno.EMFILE, "no descriptors")
        return nullcontext()

    world.reserve = reserve  # type: ignore[method-assign]

    async def scenario() -> None:
        client = await world.attached()
        assert await client.packet() == PACKET

    play(world, scenario)
    assert len(tries) >= 3


def test_a_file_that_shrinks_under_way_ends_the_connection_only(world: World) -> None:
    async def scenario() -> None:
        unlucky, other = await world.attached(4096), await world.connect()
        await unlucky.send(GET_PACKET)
        await unlucky.receive(12)
        os.truncate(world.data, 100)
        assert await unlucky.is_hung_up_on()
        await other.send(BEGIN)
        await other.receive(24)
        await other.list_sessions()

    play(world, scenario)


def test_the_end_hangs_up_on_everybody_even_in_the_middle_of_a_packet(world: World) -> None:
    clients: list[Client] = []

    async def scenario() -> None:
        clients.extend([await world.attached(4096), await world.connect()])
        await clients[0].send(GET_PACKET)
        await clients[0].receive(12)

    play(world, scenario)
    for client in clients:
        client.connection.close()
