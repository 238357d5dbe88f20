"""Both clients in conversation with a scripted peer, which speaks through the server end of the bus."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from tracefleet_common.client import AsyncClient, Client
from tracefleet_common.errors import (
    ErrorCode,
    NotFound,
    RemoteProtocolError,
    TransportError,
    WrongState,
)
from tracefleet_common.messages.envelope import Done
from tracefleet_common.messages.sessiond_control import (
    CreateSession,
    DescribeSession,
    SessiondRequest,
    SessionInfo,
    SessionStarted,
    StartSession,
    StopSession,
)
from tracefleet_common.transport.control_server import ControlServer, Peer

DEADLINE_S = 5.0


async def answer(peer: Peer, request: msgspec.Struct) -> msgspec.Struct:
    match request:
        case CreateSession(name=str(name)):
            return SessionInfo(name=name, is_active=False, output_path=None, creation_time_s=1)
        case StartSession(session="gone"):
            raise NotFound("There is no session gone")
        case StartSession(session="active"):
            error = WrongState("Session active is active", ErrorCode.TRACE_ALREADY_STARTED)
            error.add_note("while starting")
            raise error
        case StartSession(session=name):
            return SessionStarted(session=name)
        case StopSession():
            await asyncio.sleep(3600)
        case DescribeSession():
            return Done()  # not what the request is for
    raise AssertionError(f"not in the script: {request}")


class ScriptedDaemon:
    """Answers in a thread of its own."""

    def __init__(self, address: str, script: Callable[[Peer, msgspec.Struct], object]) -> None:
        self._loop = asyncio.new_event_loop()
        self._is_listening = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(address, script))
        self._thread.start()
        assert self._is_listening.wait(DEADLINE_S)

    def _run(self, address: str, script: Callable[[Peer, msgspec.Struct], object]) -> None:
        self._loop.run_until_complete(self._serve(address, script))

    async def _serve(self, address: str, script: Callable[[Peer, msgspec.Struct], object]) -> None:
        server = ControlServer([address], SessiondRequest, script, software="script")  # type: ignore[arg-type]
        await server.bind()
        self._end = asyncio.Event()
        serving = asyncio.create_task(server.serve())
        self._is_listening.set()
        await self._end.wait()
        serving.cancel()
        await server.close(grace_s=0)

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(DEADLINE_S)


@pytest.fixture
def address(tmp_path: Path) -> Iterator[str]:
    daemon = ScriptedDaemon(f"ipc://{tmp_path}/bus", answer)
    yield f"ipc://{tmp_path}/bus"
    daemon.stop()


def test_a_plain_conversation(address: str) -> None:
    with Client(address) as client:
        assert client.create_session(name="s1").name == "s1"
        assert client.start_session("s1") == SessionStarted(session="s1")
        with pytest.raises(NotFound, match="There is no session gone"):
            client.start_session("gone")
        with pytest.raises(WrongState) as caught:
            client.start_session("active")
        assert caught.value.code == ErrorCode.TRACE_ALREADY_STARTED
        assert caught.value.__notes__ == ["while starting"]
        assert client.create_session(name="s2").name == "s2"


def test_an_async_conversation(address: str) -> None:
    async def converse() -> None:
        async with AsyncClient(address) as client:
            names = [f"s{number}" for number in range(20)]
            sessions = await asyncio.gather(*(client.create_session(name=name) for name in names))
            assert [session.name for session in sessions] == names
            with pytest.raises(NotFound, match="There is no session gone"):
                await client.start_session("gone")

    asyncio.run(converse())


def test_a_reply_of_the_wrong_kind(address: str) -> None:
    with Client(address) as client, pytest.raises(RemoteProtocolError):
        client.describe_session("s1")

    async def converse() -> None:
        async with AsyncClient(address) as client:
            with pytest.raises(RemoteProtocolError):
                await client.describe_session("s1")

    asyncio.run(converse())


def test_a_reply_that_does_not_come(address: str) -> None:
    with Client(address, deadline_s=0.05) as client:
        with pytest.raises(TransportError, match="within the deadline"):
            client.stop_session("s1")
        with pytest.raises(TransportError):  # its reply could be taken for another one's
            client.create_session(name="s1")

    async def converse() -> None:
        async with AsyncClient(address, deadline_s=0.05) as client:
            with pytest.raises(TransportError):
                await client.stop_session("s1")

    asyncio.run(converse())


def test_nobody_answers(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="Cannot connect"):
        Client(f"ipc://{tmp_path}/nobody")

    async def converse() -> None:
        client = AsyncClient(f"ipc://{tmp_path}/nobody")
        with pytest.raises(TransportError):
            await client.connect(0.05)
        with pytest.raises(TransportError, match="Not connected"):
            await client.list_sessions()

    asyncio.run(converse())


def test_the_first_address_that_answers_is_used(address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    addresses = (f"ipc://{tmp_path}/nobody", address)
    monkeypatch.setattr("tracefleet_common.client.plain.candidate_addresses", lambda group: addresses)
    with Client() as client:
        assert client.create_session(name="s1").name == "s1"
