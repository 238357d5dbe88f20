"""The control side of the bus over real sockets: good peers, other versions, rubbish, floods, departures."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from bus_permissions import let_others_pass
from bus_waiting import until
from deadlines import DEADLINE_S, wait_until

from tracefleet_common.errors import (
    NotFound,
    RemoteProtocolError,
    ResourceExhausted,
    TracefleetError,
    TransportError,
)
from tracefleet_common.messages.consumerd_control import (
    CloseRegistry,
    ConsumerdNotice,
    ConsumerdReply,
    ConsumerdRequest,
    DescribeConsumer,
    JammedStream,
    ResumeChannels,
)
from tracefleet_common.messages.envelope import Done, Hello, RequestHeader
from tracefleet_common.transport import frames
from tracefleet_common.transport.control_link import ControlLink
from tracefleet_common.transport.control_server import QUEUED_MESSAGES_MAX, REQUESTS_IN_WORK_MAX, ControlServer, Peer

REQUEST_SIZE_BYTES_MAX = 100_000
JAM = JammedStream(channel_key=3, cpu=1)


class Bus:
    """A server whose handler can be held up, and what it saw."""

    def __init__(self, directory: Path) -> None:
        self.address = f"ipc://{directory}/command"
        self.requests: list[tuple[Peer, Any]] = []
        self.lost: list[Peer] = []
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()
        self.server = ControlServer(
            [self.address],
            ConsumerdRequest,
            self.handle,
            software="server",
            on_peer_lost=self.lost.append,
            request_size_bytes_max=REQUEST_SIZE_BYTES_MAX,
        )
        self.links: list[ControlLink] = []
        self.sockets: list[zmq.Socket[bytes]] = []

    async def handle(self, peer: Peer, request: Any) -> msgspec.Struct:
        self.requests.append((peer, request))
        if isinstance(request, CloseRegistry):
            error = NotFound(f"Registry {request.registry_key} does not exist")
            error.add_note("while closing")
            raise error
        if isinstance(request, DescribeConsumer):
            raise ZeroDivisionError
        await self.may_go_on.wait()
        return Done()

    def link(self, on_notice: Callable[[Any], None] | None = None) -> ControlLink:
        link = ControlLink(
            self.address, ConsumerdReply, notice_type=ConsumerdNotice, on_notice=on_notice, software="client"
        )
        self.links.append(link)
        return link

    async def connected(self, on_notice: Callable[[Any], None] | None = None) -> ControlLink:
        link = self.link(on_notice)
        await link.connect(DEADLINE_S)
        return link

    def raw(self, identity: bytes = b"") -> zmq.Socket[bytes]:
        """A peer that sends what it likes."""
        socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        if identity:
            socket.setsockopt(zmq.IDENTITY, identity)
        socket.connect(self.address)
        self.sockets.append(socket)
        return socket


@asynccontextmanager
async def a_bus(directory: Path) -> AsyncIterator[Bus]:
    bus = Bus(directory)
    await bus.server.bind()
    serving = asyncio.create_task(bus.server.serve())
    try:
        yield bus
    finally:
        bus.may_go_on.set()
        for link in bus.links:
            await link.close()
        for socket in bus.sockets:
            socket.close()
        serving.cancel()
        await bus.server.close()


async def raw_reply(peer: zmq.Socket[bytes]) -> tuple[int, Any]:
    """Request id, and the reply or the error of the next message."""
    await until(lambda: bool(peer.poll(0)))
    header_frame, body = peer.recv_multipart()
    header = frames.decode_reply_header(header_frame)
    if header.is_error:
        return header.request_id, frames.decode_error(body)
    return header.request_id, frames.decode_body(frames.body_decoder(ConsumerdReply), body)


def run(conversation: Callable[[Bus], Any], directory: Path) -> None:
    async def scenario() -> None:
        async with a_bus(directory) as bus:
            await conversation(bus)

    asyncio.run(scenario())


def test_a_request_is_answered_and_an_error_arrives_whole(tmp_path: Path) -> None:
    async def conversation(bus: Bus) -> None:
        link = bus.link()
        hello = await link.connect(DEADLINE_S)
        assert (hello.software, hello.pid) == ("server", os.getpid())
        assert await link.request(ResumeChannels((1,)), deadline_s=DEADLINE_S) == Done()
        with pytest.raises(NotFound, match="Registry 9 does not exist") as caught:
            await link.request(CloseRegistry(9), deadline_s=DEADLINE_S)
        assert caught.value.__notes__ == ["while closing"]
        with pytest.raises(TracefleetError, match="internal error"):
            await link.request(DescribeConsumer(), deadline_s=DEADLINE_S)
        assert await link.request(ResumeChannels((2,)), deadline_s=DEADLINE_S) == Done()

    run(conversation, tmp_path)


def test_the_kernel_says_who_a_peer_is(tmp_path: Path) -> None:
    async def conversation(bus: Bus) -> None:
        link = await bus.connected()
        await link.request(ResumeChannels(()), deadline_s=DEADLINE_S)
        peer, _ = bus.requests[0]
        assert (peer.uid, peer.gid, peer.pid) == (os.geteuid(), os.getegid(), os.getpid())

    run(conversation, tmp_path)


@pytest.mark.root
def test_another_user_is_told_apart(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from tracefleet_common.messages.consumerd_control import ConsumerdReply, ResumeChannels\n"
        "from tracefleet_common.transport.control_link import ControlLink\n"
        "import os; os.setgid(65534); os.setuid(65534)\n"
        "async def main():\n"
        "    link = ControlLink(sys.argv[1], ConsumerdReply, software='other')\n"
        "    await link.connect(30)\n"
        "    await link.request(ResumeChannels(()), deadline_s=30)\n"
        "    await link.close()\n"
        "asyncio.run(main())\n"
    )

    async def conversation(bus: Bus) -> None:
        path = Path(bus.address.removeprefix("ipc://"))
        path.chmod(0o666)
        let_others_pass(path.parent)
        other = await asyncio.create_subprocess_exec(sys.executable, "-c", program, bus.address, stderr=subprocess.PIPE)
        _, complaint = await other.communicate()
        assert other.returncode == 0, complaint
        peer, _ = bus.requests[0]
        assert (peer.uid, peer.gid, peer.pid) == (65534, 65534, other.pid)
        await until(lambda: bool(bus.lost))
        assert bus.lost == [peer]

    run(conversation, tmp_path)


def test_nobody_there_is_an_error_after_the_deadline(tmp_path: Path) -> None:
    async def scenario() -> None:
        link = ControlLink(f"ipc://{tmp_path}/nobody", ConsumerdReply, software="client")
        with pytest.raises(TransportError, match="Nobody answers"):
            await link.connect(0.1)

    asyncio.run(scenario())


def test_a_link_waits_for_a_server_that_starts_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        bus = Bus(tmp_path)
        connecting = asyncio.create_task(bus.link().connect(DEADLINE_S))
        await asyncio.sleep(0.05)  # so that the first attempt fails; nothing depends on it
        await bus.server.bind()
        serving = asyncio.create_task(bus.server.serve())
        assert (await connecting).software == "server"
        await bus.links[0].close()
        serving.cancel()
        await bus.server.close()

    asyncio.run(scenario())


def test_another_major_version_is_refused_and_may_not_ask(tmp_path: Path) -> None:
    async def conversation(bus: Bus) -> None:
        odd = bus.raw()
        odd.send_multipart(frames.encode_request(1, 1000, Hello(9, 1, "tracefleet 9.1")))
        request_id, error = await raw_reply(odd)
        assert request_id == 1
        assert isinstance(error, RemoteProtocolError)
        assert "9.1" in str(error) and "1.0" in str(error)
        odd.send_multipart(frames.encode_request(2, 1000, ResumeChannels(())))
        request_id, error = await raw_reply(odd)
        assert request_id == 2
        assert "hello" in str(error)
        assert not bus.requests

    run(conversation, tmp_path)


GOOD_HEADER = msgspec.msgpack.encode(RequestHeader(5, 1000))
GOOD_BODY = msgspec.msgpack.encode(ResumeChannels(()))


@pytest.mark.parametrize(
    "rubbish",
    [
        [GOOD_HEADER],
        [GOOD_HEADER, GOOD_BODY, b""],
        [GOOD_HEADER, *[b"x"] * 1000],
        [GOOD_HEADER, b""],
        [GOOD_HEADER, b"\xc1"],
        [GOOD_HEADER, b"\x91" * 50_000],
        [GOOD_HEADER, msgspec.msgpack.encode({"type": "no-such-command"})],
        [GOOD_HEADER, msgspec.msgpack.encode({"type": "resume-channels", "channel_keys": "all"})],
        [GOOD_HEADER, msgspec.msgpack.encode({"type": "close-registry"})],
    ],
    ids=["one-frame", "three-frames", "many-frames", "empty", "no-msgpack", "deep", "tag", "type", "missing"],
)
def test_a_wrong_body_gets_an_error_reply_and_disturbs_nobody(tmp_path: Path, rubbish: list[bytes]) -> None:
    async def conversation(bus: Bus) -> None:
        link = await bus.connected()
        odd = bus.raw()
        odd.send_multipart(frames.encode_request(1, 1000, frames.hello("odd")))
        await raw_reply(odd)
        odd.send_multipart(rubbish)
        request_id, error = await raw_reply(odd)
        assert request_id == 5
        assert isinstance(error, RemoteProtocolError)
        assert await link.request(ResumeChannels((1,)), deadline_s=DEADLINE_S) == Done()
        odd.send_multipart([GOOD_HEADER, GOOD_BODY])  # and the peer itself may mend its ways
        assert await raw_reply(odd) == (5, Done())

    run(conversation, tmp_path)


@pytest.mark.parametrize(
    "header",
    [b"", b"\xc1", b"x" * 1000, msgspec.msgpack.encode({"request_id": 0, "deadline_ms": 5})],
    ids=["empty", "no-msgpack", "long", "notice"],
)
def test_a_wrong_header_is_dropped(tmp_path: Path, header: bytes) -> None:
    async def conversation(bus: Bus) -> None:
        odd = bus.raw()
        odd.send_multipart([header, GOOD_BODY])
        odd.send_multipart(frames.encode_request(1, 1000, frames.hello("odd")))
        request_id, _ = await raw_reply(odd)  # of the hello: the other got none
        assert request_id == 1

    run(conversation, tmp_path)


def test_a_peer_that_made_up_its_identity_is_not_heard(tmp_path: Path) -> None:
    async def conversation(bus: Bus) -> None:
        impostor = bus.raw(identity=b"session-daemon")
        impostor.send_multipart(frames.encode_request(1, 1000, frames.hello("impostor")))
        await bus.connected()
        assert bus.server.peer_count == 1
        assert not impostor.poll(0)

    run(conversation, tmp_path)


def test_an_oversized_frame_ends_its_connection_only(tmp_path: Path) -> None:
    async def conversation(bus: Bus) -> None:
        other, link = await bus.connected(), await bus.connected()
        with pytest.raises(TransportError, match="went away"):
            await link.request(ResumeChannels(tuple(range(2**62, 2**62 + 20_000))), deadline_s=DEADLINE_S)  # 180 kB
        await asyncio.wait_for(link.lost.wait(), DEADLINE_S)
        assert not link.is_connected
        assert await other.request(ResumeChannels((1,)), deadline_s=DEADLINE_S) == Done()
        await link.connect(DEADLINE_S)
        assert await link.request(ResumeChannels((1,)), deadline_s=DEADLINE_S) == Done()

    run(conversation, tmp_path)


def test_a_peer_that_floods_is_answered_with_errors_and_others_are_served(tmp_path: Path) -> None:
    async def conversation(bus: Bus) -> None:
        bus.may_go_on.clear()
        flooding, other = await bus.connected(), await bus.connected()
        flood = [
            asyncio.create_task(flooding.request(ResumeChannels((i,)), deadline_s=DEADLINE_S))
            for i in range(REQUESTS_IN_WORK_MAX + 20)
        ]
        await until(lambda: sum(task.done() for task in flood) == 20)
        refused = [task.exception() for task in flood if task.done()]
        assert all(isinstance(error, ResourceExhausted) for error in refused)
        with pytest.raises(NotFound):
            await other.request(CloseRegistry(1), deadline_s=DEADLINE_S)
        bus.may_go_on.set()
        results = await asyncio.gather(*flood, return_exceptions=True)
        assert results.count(Done()) == REQUESTS_IN_WORK_MAX

    run(conversation, tmp_path)


def test_a_peer_that_does_not_read_gets_no_more_notices(tmp_path: Path) -> None:
    async def conversation(bus: Bus) -> None:
        seen: list[Any] = []
        await bus.connected(seen.append)

        def has_seen(count: int) -> bool:
            return len(seen) == count

        deaf = bus.raw()
        deaf.setsockopt(zmq.RCVHWM, 1)
        deaf.send_multipart(frames.encode_request(1, 1000, frames.hello("deaf")))
        await raw_reply(deaf)
        # The kernel's buffers hold some thousands, ours QUEUED_MESSAGES_MAX; the reader reads all the time.
        for count in range(1, 100 * QUEUED_MESSAGES_MAX):
            await bus.server.notify(JAM)
            if count % 64 == 0:
                await until(partial(has_seen, count))
            if not all(known.is_notified for known in bus.server._peers.values()):
                break
        else:
            raise AssertionError("the deaf peer was never dropped")
        await bus.server.notify(JAM)
        await until(partial(has_seen, count + 1))

    run(conversation, tmp_path)


def test_a_late_reply_is_dropped_but_the_command_is_carried_out(tmp_path: Path) -> None:
    async def conversation(bus: Bus) -> None:
        link = await bus.connected()
        bus.may_go_on.clear()
        with pytest.raises(TransportError, match=r"within 0\.05 s"):
            await link.request(ResumeChannels((7,)), deadline_s=0.05)
        bus.may_go_on.set()
        assert await link.request(ResumeChannels((8,)), deadline_s=DEADLINE_S) == Done()
        assert [request for _, request in bus.requests] == [ResumeChannels((7,)), ResumeChannels((8,))]

    run(conversation, tmp_path)


def test_both_sides_learn_when_the_other_goes_away(tmp_path: Path) -> None:
    async def conversation(bus: Bus) -> None:
        leaving, staying = await bus.connected(), await bus.connected()
        assert bus.server.peer_count == 2
        await leaving.close()
        await until(lambda: bus.server.peer_count == 1)
        assert len(bus.lost) == 1
        bus.may_go_on.clear()
        waiting = asyncio.create_task(staying.request(ResumeChannels((1,)), deadline_s=DEADLINE_S))
        await until(lambda: bool(bus.requests))
        await bus.server.close(grace_s=0)
        with pytest.raises(TransportError, match="went away"):
            await waiting
        assert not staying.is_connected and staying.lost.is_set()
        with pytest.raises(TransportError, match="Not connected"):
            await staying.request(ResumeChannels((1,)), deadline_s=DEADLINE_S)

    run(conversation, tmp_path)


def test_thousands_of_silent_connections_change_nothing(tmp_path: Path) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(2000, hard // 4)

    async def conversation(bus: Bus) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 3 * count)), hard))
        link = await bus.connected()
        silent = []
        for _ in range(count):
            connecting = socket.socket(socket.AF_UNIX)  # blocking: waits for its place in the queue
            connecting.connect(bus.address.removeprefix("ipc://"))
            silent.append(connecting)
        assert await link.request(ResumeChannels((1,)), deadline_s=DEADLINE_S) == Done()
        for connected in silent:
            connected.close()
        assert await link.request(ResumeChannels((2,)), deadline_s=DEADLINE_S) == Done()
        assert bus.server.peer_count == 1
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    run(conversation, tmp_path)


def test_closing_leaks_no_descriptor(tmp_path: Path) -> None:
    def open_descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async def conversation(bus: Bus) -> None:
        for _ in range(5):
            await bus.connected()

    run(conversation, tmp_path)  # ZeroMQ's own, made once
    before = open_descriptors()
    run(conversation, tmp_path)
    wait_until(lambda: open_descriptors() <= before, "ZeroMQ to close its descriptors, in its own thread")
