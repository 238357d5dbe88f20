"""Descriptors beside the bus: whole sets, wrong sets, peers that leave; and none is ever leaked."""

from __future__ import annotations

import array
import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
from bus_permissions import let_others_pass
from bus_waiting import until
from deadlines import DEADLINE_S

from tracefleet_common.errors import RemoteProtocolError, TransportError
from tracefleet_common.transport.control_server import Peer
from tracefleet_common.transport.descriptor_server import DescriptorServer
from tracefleet_common.transport.descriptors import DescriptorBatch, DescriptorLink

ME = Peer(b"", os.geteuid(), os.getegid(), os.getpid())


def open_descriptors() -> set[tuple[str, str]]:
    """Number and file of each. A test looks at what is new: ZeroMQ may still be closing those of an earlier test."""
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the one with which this directory is read
            found.add((entry.name, str(entry.readlink())))
    return found


@asynccontextmanager
async def files(count: int) -> AsyncIterator[list[int]]:
    """Descriptors of `count` different files; file i is i bytes long."""
    opened = [os.memfd_create("tracefleet-test", os.MFD_CLOEXEC) for _ in range(count)]
    for size, descriptor in enumerate(opened):
        os.ftruncate(descriptor, size)
    try:
        yield opened
    finally:
        for descriptor in opened:
            os.close(descriptor)


def run(conversation: Callable[[DescriptorServer, DescriptorLink], Awaitable[None]], directory: Path) -> None:
    """Run it between a connected pair, and check that not one descriptor is left over."""

    async def scenario() -> None:
        before = open_descriptors()
        server, link = DescriptorServer(directory / "descriptors"), DescriptorLink(directory / "descriptors")
        await server.bind()
        await link.connect(DEADLINE_S)
        try:
            await conversation(server, link)
        finally:
            await link.close()
            await server.close()
        assert open_descriptors() <= before

    asyncio.run(scenario())


async def received(link: DescriptorLink, ticket: int, count: int) -> list[int]:
    """The sizes of the files that came."""
    descriptors = await link.receive(ticket, count, DEADLINE_S)
    sizes = [os.fstat(descriptor).st_size for descriptor in descriptors]
    assert not any(os.get_inheritable(descriptor) for descriptor in descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    return sizes


@pytest.mark.parametrize("count", [1, 253, 254, 300, 600])
def test_a_set_arrives_whole_and_in_order(tmp_path: Path, count: int) -> None:
    async def conversation(server: DescriptorServer, link: DescriptorLink) -> None:
        async with files(count) as opened:
            await server.send(ME, 7, opened)
        assert await received(link, 7, count) == list(range(count))

    run(conversation, tmp_path)


def test_receiving_may_begin_before_sending_and_in_any_order(tmp_path: Path) -> None:
    async def conversation(server: DescriptorServer, link: DescriptorLink) -> None:
        both = [asyncio.create_task(received(link, ticket, count)) for ticket, count in ((1, 3), (2, 5))]
        async with files(5) as opened:
            await server.send(ME, 2, opened)
            await server.send(ME, 1, opened[:3])
        assert await asyncio.gather(*both) == [[0, 1, 2], [0, 1, 2, 3, 4]]

    run(conversation, tmp_path)


def test_another_number_than_expected_is_an_error(tmp_path: Path) -> None:
    async def conversation(server: DescriptorServer, link: DescriptorLink) -> None:
        async with files(4) as opened:
            await server.send(ME, 1, opened)
        with pytest.raises(RemoteProtocolError, match="4 descriptors came for ticket 1, not 3"):
            await link.receive(1, 3, DEADLINE_S)

    run(conversation, tmp_path)


def test_nothing_comes_in_time(tmp_path: Path) -> None:
    async def conversation(server: DescriptorServer, link: DescriptorLink) -> None:
        with pytest.raises(TransportError, match="did not come within"):
            await link.receive(1, 3, 0.02)
        async with files(3) as opened:
            await server.send(ME, 1, opened)  # too late: closed with the link, or when its time is up

    run(conversation, tmp_path)


def test_a_process_that_is_not_connected_gets_nothing(tmp_path: Path) -> None:
    async def conversation(server: DescriptorServer, link: DescriptorLink) -> None:
        async with files(1) as opened:
            with pytest.raises(TransportError, match="did not take"):
                await server.send(ME._replace(pid=1), 1, opened, deadline_s=0.02)

    run(conversation, tmp_path)


def test_a_hang_up_ends_the_waiting(tmp_path: Path) -> None:
    async def conversation(server: DescriptorServer, link: DescriptorLink) -> None:
        async with files(1) as opened:
            await server.send(ME, 1, opened)  # so that it is accepted for sure
        assert await received(link, 1, 1) == [0]
        waiting = asyncio.create_task(link.receive(2, 3, DEADLINE_S))
        await asyncio.sleep(0)
        await server.close()
        with pytest.raises(TransportError, match="hung up"):
            await waiting
        assert not link.is_connected

    run(conversation, tmp_path)


def test_a_peer_that_does_not_read_is_given_up_after_the_deadline(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = DescriptorServer(tmp_path / "descriptors")
        await server.bind()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as deaf:
            deaf.connect(str(tmp_path / "descriptors"))
            async with files(1) as opened:
                with pytest.raises(TransportError):
                    for ticket in range(1, 100_000):
                        await server.send(ME, ticket, opened, deadline_s=0.05)
        await server.close()

    asyncio.run(scenario())


def test_a_peer_that_sends_is_hung_up_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        server = DescriptorServer(tmp_path / "descriptors")
        await server.bind()
        before = open_descriptors()
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as rude:
            rude.connect(str(tmp_path / "descriptors"))
            rude.setblocking(False)
            socket.send_fds(rude, [b"have these"], [0, 1, 2])
            await until(lambda: _is_hung_up(rude))
        assert open_descriptors() <= before
        await server.close()

    asyncio.run(scenario())


def _is_hung_up(connected: socket.socket) -> bool:
    try:
        return connected.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:  # it hung up with our message unread
        return True


def _send(peer: socket.socket, message: bytes, descriptors: list[int]) -> None:
    peer.sendmsg([message], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))])


BATCH = msgspec.msgpack.encode


@pytest.mark.parametrize(
    ("messages", "complaint"),
    [
        ([(b"\xc1", 2)], None),
        ([(b"x" * 1000, 2)], None),
        ([(BATCH({"ticket": 1}), 2)], None),
        ([(BATCH(DescriptorBatch(1, 1, 2)), 2)], "for place 1"),
        ([(BATCH(DescriptorBatch(1, 0, 1)), 2)], "announced 1"),
        ([(BATCH(DescriptorBatch(1, 0, 2**40)), 2)], "announced for one ticket"),
        ([(BATCH(DescriptorBatch(1, 0, -1)), 2)], "announced for one ticket"),
        ([(BATCH(DescriptorBatch(1, 0, 4)), 2), (BATCH(DescriptorBatch(1, 0, 4)), 2)], "for place 0"),
        ([(BATCH(DescriptorBatch(1, 0, 4)), 2), (BATCH(DescriptorBatch(1, 2, 4)), 0)], "for place 2"),
    ],
    ids=["rubbish", "long", "missing", "place", "too-many", "huge", "negative", "twice", "none"],
)
def test_wrong_batches_are_closed(tmp_path: Path, messages: list[tuple[bytes, int]], complaint: str | None) -> None:
    async def scenario() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(str(tmp_path / "descriptors"))
            listener.listen()
            link = DescriptorLink(tmp_path / "descriptors")
            await link.connect(DEADLINE_S)
            server, _ = listener.accept()
            with server:
                before = open_descriptors()
                waiting = asyncio.create_task(link.receive(1, 4, DEADLINE_S))
                for message, count in messages:
                    if count:
                        _send(server, message, [0] * count)
                    else:
                        server.send(message)
                if complaint is None:  # it cannot be known whose it is; a good one still gets through
                    _send(server, BATCH(DescriptorBatch(1, 0, 4)), [0] * 4)
                    for descriptor in await waiting:
                        os.close(descriptor)
                else:
                    with pytest.raises(RemoteProtocolError, match=complaint):
                        await waiting
                assert open_descriptors() <= before
            await link.close()

    asyncio.run(scenario())


@pytest.mark.root
def test_another_user_may_not_connect(tmp_path: Path) -> None:
    async def scenario() -> None:
        path = tmp_path / "descriptors"
        server = DescriptorServer(path)
        await server.bind()
        path.chmod(0o666)
        let_others_pass(tmp_path)
        program = (
            "import os, socket, sys\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
            "peer.connect(sys.argv[1])\n"
            "sys.exit(len(peer.recv(100)))\n"
        )
        other = await asyncio.create_subprocess_exec("/usr/bin/python3", "-c", program, str(path))
        assert await other.wait() == 0
        await server.close()

    asyncio.run(scenario())
