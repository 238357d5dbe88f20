"""A session at a relay daemon of our own: what it tells, over connections that come and go."""

from __future__ import annotations

import asyncio
import os
import socket
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

import tracefleet_native
from tracefleet_common.errors import (
    AlreadyExists,
    ErrorCode,
    InvalidArgument,
    RemoteProtocolError,
    TracefleetError,
    TracerError,
    TransportError,
    Unsupported,
)
from tracefleet_common.messages import relay_streaming as streaming
from tracefleet_common.messages.envelope import Done
from tracefleet_common.model.relay_output import FleetOutput
from tracefleet_consumerd.adapters import fleet_relay, fleet_relays
from tracefleet_consumerd.adapters.fleet_relay import FleetRelaySession
from tracefleet_consumerd.adapters.fleet_relays import FleetRelays
from tracefleet_consumerd.adapters.worker_threads import WorkerThreads
from tracefleet_consumerd.domain.relay import RelaySettings

sys.path.insert(0, str(Path(__file__).parent))

DEADLINE_S = 10.0
FIRST_HANDLE = 100


class FakeFleet:
    """The native sender. `states`: (oldest, acknowledged, next) by key."""

    is_damaged = False
    made: list[FakeFleet]
    spooled_states: dict[int, tuple[int, int, int]]  # what a spool holds

    def __init__(self, spool_directory: str | None, spool_size_bytes_max: int) -> None:
        self.spool_size_bytes_max = spool_size_bytes_max
        self.states = dict(self.spooled_states) if spool_directory is not None else {}
        self.is_all_spooled = spool_directory is not None
        self.calls: list[str] = []
        self._lost = os.eventfd(1, os.EFD_NONBLOCK)
        self._data: socket.socket | None = None
        FakeFleet.made.append(self)

    def add_stream(self) -> int:
        key = len(self.states)
        self.states[key] = (0, 0, 0)
        return key

    def attach(self, descriptor: int, bindings: Sequence[tuple[int, int, int]]) -> None:
        self._data = socket.socket(fileno=descriptor)
        os.read(self._lost, 8)
        self.calls.append(f"attach {sorted(bindings)}")

    def bind(self, key: int, handle: int, next_sequence: int) -> None:
        self.calls.append(f"bind {key} {handle} {next_sequence}")

    def detach(self) -> None:
        if self._data is not None:
            self._data.close()
            self._data = None
            os.eventfd_write(self._lost, 1)

    def fileno(self) -> int:
        return self._lost

    def stream_state(self, key: int) -> tracefleet_native.FleetStreamState:
        if key not in self.states:
            raise FileNotFoundError
        return tracefleet_native.FleetStreamState(*self.states[key])

    def books(self) -> tracefleet_native.FleetBooks:
        return tracefleet_native.FleetBooks(9, 90, 8, 80, 1, 2, 20, self._data is not None, 0)

    def is_settled(self, or_spooled: bool = False) -> bool:
        return (or_spooled and self.is_all_spooled) or all(state[1] == state[2] for state in self.states.values())

    def close(self) -> None:
        self.detach()
        self.calls.append("close")


class FakeRelayDaemon:
    """`requests`: what it was asked. `refusal`: what it raises, from its hello on when `is_there` is False."""

    def __init__(self) -> None:
        self.requests: list[msgspec.Struct] = []
        self.is_there = True
        self.refusal: TracefleetError = TransportError("Nobody listens there")
        self.refused: type[msgspec.Struct] | None = None
        self.links: list[FakeLink] = []
        self._handles: dict[tuple[str, str], int] = {}

    def answer(self, request: msgspec.Struct) -> msgspec.Struct:
        if self.refused is not None and isinstance(request, self.refused):
            raise self.refusal
        self.requests.append(request)
        match request:
            case streaming.OpenStreaming():
                return streaming.StreamingOpened(relay_session_id=1, data_port=7, output="o", is_resumed=False)
            case streaming.AddStreams():
                return streaming.StreamsAdded(streams=tuple(map(self._add, request.streams)))
        return Done()

    def _add(self, request: streaming.StreamRequest) -> streaming.AddedStream:
        name = (request.path, request.channel_name)
        handle = self._handles.setdefault(name, FIRST_HANDLE + len(self._handles))
        return streaming.AddedStream(handle=handle, next_sequence=request.oldest_sequence)

    def asked(self) -> list[str]:
        """In short, beginning anew."""
        texts = []
        for request in self.requests:
            match request:
                case streaming.AddStreams(streams=streams):
                    what = ",".join(f"{stream.channel_name}:{stream.oldest_sequence}" for stream in streams)
                    texts.append(f"add {what}")
                case streaming.EndStreams(ends=ends):
                    texts.append("end " + ",".join(f"{end.handle}:{end.next_sequence}" for end in ends))
                case _:
                    texts.append(type(request).__name__)
        self.requests.clear()
        return texts

    def hang_up(self) -> None:
        for link in self.links:
            link.lose()


class FakeLink:
    def __init__(self, relay: FakeRelayDaemon) -> None:
        self._relay = relay
        self.lost = asyncio.Event()
        self.is_connected = False

    async def connect(self, deadline_s: float, *, is_persistent: bool) -> None:
        assert not is_persistent
        if not self._relay.is_there:
            raise self._relay.refusal
        self.is_connected = True
        self._relay.links.append(self)

    async def request(self, body: msgspec.Struct, *, deadline_s: float) -> Any:
        if not self.is_connected:
            raise TransportError("Hung up")
        return self._relay.answer(body)

    def lose(self) -> None:
        self.is_connected = False
        self.lost.set()

    async def close(self) -> None:
        self.lose()


class World:
    """The adapter, between a relay daemon and a native library that are fakes."""

    def __init__(self, directory: Path, relay: FakeRelayDaemon) -> None:
        self.spool = directory / "spool"
        self.relay = relay
        self._threads = WorkerThreads("test", 2)
        self.relays = FleetRelays(str(self.spool), WorkerThreads("disk", 2))

    async def open(self, spool_size_bytes: int = 0) -> FleetRelaySession:
        settings = RelaySettings(
            relay_key=5,
            output=FleetOutput(address="127.0.0.1", spool_size_bytes=spool_size_bytes),
            session_name="s",
            host_name="h",
            has_creation_time_in_name=False,
            creation_time_s=1,
            sessiond_uuid=b"u" * 16,
            session_id=1,
            live_timer_period_us=0,
        )
        session: FleetRelaySession = await self.run(lambda: self.relays.open(settings))
        return session

    async def run(self, work: Callable[[], Any]) -> Any:
        """As commands do, in a thread."""
        return await self._threads.run(work)

    async def add(self, session: FleetRelaySession, *names: str) -> tuple[int, ...]:
        keys: tuple[int, ...] = await self.run(lambda: session.add_streams("p", names))
        return keys

    async def asked(self, *expected: str) -> None:
        """Wait until the relay daemon was asked this, and nothing else."""
        await until(lambda: len(self.relay.requests) >= len(expected))
        assert self.relay.asked() == list(expected)

    def spooled(self) -> list[str]:
        return os.listdir(self.spool) if self.spool.exists() else []


async def until(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what it waits for is several tasks and threads away
            await asyncio.sleep(0)


@pytest.fixture
def converse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[World], Awaitable[None]]], None]:
    relay = FakeRelayDaemon()

    async def connect_data(output: FleetOutput, port: int, token: bytes) -> socket.socket:
        assert (port, len(token)) == (7, 16)
        return socket.socketpair()[0]

    FakeFleet.made, FakeFleet.spooled_states = [], {}
    monkeypatch.setattr(tracefleet_native, "Fleet", FakeFleet)
    monkeypatch.setattr(fleet_relay, "ControlLink", lambda *_, **__: FakeLink(relay))
    monkeypatch.setattr(fleet_relay, "connect_data", connect_data)
    monkeypatch.setattr(fleet_relays, "LOOK_PERIOD_S", 0.0)
    for name in ("PAUSE_S_MIN", "PAUSE_S_MAX", "ENDING_PAUSE_S", "CLOSE_DEADLINE_S"):
        monkeypatch.setattr(fleet_relay, name, 0.01)

    def run(conversation: Callable[[World], Awaitable[None]]) -> None:
        async def scenario() -> None:
            world = World(tmp_path, relay)
            try:
                await conversation(world)
            finally:
                await world.relays.close()

        asyncio.run(scenario())

    return run


Converse = Callable[[Callable[[World], Awaitable[None]]], None]


def test_streams_are_made_bound_ended_and_the_session_concluded(converse: Converse) -> None:
    async def conversation(world: World) -> None:
        session = await world.open()
        await world.asked("OpenStreaming")
        metadata, first, second = (*await world.add(session, "metadata"), *await world.add(session, "c_0", "c_1"))
        await world.asked("add metadata:0", "add c_0:0,c_1:0")
        (native,) = FakeFleet.made
        await until(lambda: len(native.calls) == 4)
        assert native.calls == ["attach []", "bind 0 100 0", "bind 1 101 0", "bind 2 102 0"]
        native.states[first] = (0, 2, 3)
        session.end_streams([first, second])
        await world.asked("end 102:0")
        native.states[first] = (2, 3, 3)
        await world.asked("end 101:3")
        session.end_streams([metadata])
        await world.asked("end 100:0")
        await world.run(session.close)
        await world.asked("CloseStreaming")
        assert native.calls[-1] == "close"
        assert not world.spooled()

    converse(conversation)


def test_a_session_goes_on_at_the_next_connection(converse: Converse) -> None:
    async def conversation(world: World) -> None:
        session = await world.open()
        await world.add(session, "metadata", "c_0")
        await world.asked("OpenStreaming", "add metadata:0,c_0:0")
        (native,) = FakeFleet.made
        native.states |= {0: (3, 3, 3), 1: (5, 6, 8)}
        world.relay.is_there = False
        world.relay.hang_up()
        await until(lambda: not session.state().is_connected)
        assert session.state().trouble is not None
        await world.add(session, "c_1")  # nobody waits for the relay daemon
        assert world.relay.asked() == []
        world.relay.is_there = True
        await world.asked("OpenStreaming", "add metadata:3,c_0:5,c_1:0")
        await until(lambda: session.state().is_connected)
        assert native.calls[-1] == "attach [(0, 100, 3), (1, 101, 5), (2, 102, 0)]"
        state = session.state()
        assert (state.relay_key, state.trouble, state.reconnect_count) == (5, None, 1)
        assert (state.acknowledged_packet_count, state.spooled_bytes) == (8, 20)
        native.detach()  # the data connection is lost
        await world.asked("OpenStreaming", "add metadata:3,c_0:5,c_1:0")

    converse(conversation)


def test_a_stream_that_was_ended_is_not_begun_anew(converse: Converse) -> None:
    async def conversation(world: World) -> None:
        session = await world.open()
        await world.add(session, "metadata", "c_0")
        await world.asked("OpenStreaming", "add metadata:0,c_0:0")
        world.relay.refused = streaming.EndStreams  # it was carried out, but the reply is lost
        session.end_streams([1])
        await world.asked("OpenStreaming", "add metadata:0")

    converse(conversation)


def test_who_adds_streams_hears_that_they_are_refused(converse: Converse) -> None:
    async def conversation(world: World) -> None:
        session = await world.open()
        await world.add(session, "metadata")
        await world.asked("OpenStreaming", "add metadata:0")
        world.relay.refused, world.relay.refusal = streaming.AddStreams, AlreadyExists("Somebody has that name")
        with pytest.raises(TracerError, match="Somebody has that name"):
            await world.add(session, "c_0")
        world.relay.refused = None
        assert await world.add(session, "c_1") == (2,)
        await world.asked("add c_1:0")
        native = FakeFleet.made[0]
        assert native.calls == ["attach []", "bind 0 100 0", "bind 2 101 0"]
        native.detach()
        await world.asked("OpenStreaming", "add metadata:0,c_1:0")

    converse(conversation)


@pytest.mark.parametrize(
    ("is_there", "refusal", "code"),
    [
        (False, TransportError("Nobody"), ErrorCode.RELAYD_CONNECT_FAIL),
        (False, RemoteProtocolError("Version 2"), ErrorCode.RELAYD_VERSION_FAIL),
        (True, TransportError("No reply"), ErrorCode.RELAYD_CONNECT_FAIL),
        (True, InvalidArgument("A bad name"), ErrorCode.ENABLE_CONSUMER_FAIL),
    ],
)
def test_a_relay_daemon_that_cannot_be_used_leaves_nothing_behind(
    converse: Converse, is_there: bool, refusal: TracefleetError, code: ErrorCode
) -> None:
    async def conversation(world: World) -> None:
        world.relay.is_there, world.relay.refusal, world.relay.refused = is_there, refusal, streaming.OpenStreaming
        with pytest.raises(TransportError, match=str(refusal)) as raised:
            await world.open(spool_size_bytes=1000)
        assert raised.value.code == code
        assert FakeFleet.made[0].calls == ["close"]
        assert not world.spooled()

    converse(conversation)


def test_a_session_without_a_spool_ends_with_an_error_when_the_relay_daemon_is_away(converse: Converse) -> None:
    async def conversation(world: World) -> None:
        session = await world.open()
        await world.add(session, "metadata")
        (native,) = FakeFleet.made
        native.states[0] = (0, 0, 1)
        assert not session.is_settled((), ())
        world.relay.is_there = False
        world.relay.hang_up()
        with pytest.raises(TransportError, match="could not be concluded") as raised:
            await world.run(session.close)
        assert raised.value.code == ErrorCode.ROTATION_FAIL_CONSUMER
        assert native.calls[-1] == "close"

    converse(conversation)


def test_who_waits_for_what_was_sent_does_not_wait_for_ever(
    converse: Converse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleet_relay, "PATIENCE_S", 0.0)

    async def conversation(world: World) -> None:
        session = await world.open()
        await world.add(session, "metadata")
        FakeFleet.made[0].states[0] = (0, 0, 1)
        world.relay.is_there = False
        world.relay.hang_up()
        await until(lambda: session.state().trouble)
        with pytest.raises(TransportError):
            session.is_settled((), ())

    converse(conversation)


def test_a_session_with_a_spool_is_concluded_when_the_relay_daemon_is_back(converse: Converse) -> None:
    async def conversation(world: World) -> None:
        session = await world.open(spool_size_bytes=1000)
        await world.add(session, "metadata")
        await world.asked("OpenStreaming", "add metadata:0")
        (native,) = FakeFleet.made
        native.states[0] = (0, 0, 1)
        world.relay.is_there = False
        world.relay.hang_up()
        await until(lambda: not session.state().is_connected)
        assert session.is_settled((), ())
        await world.run(session.close)
        assert len(world.spooled()) == 1
        world.relay.is_there = True
        await world.asked("OpenStreaming", "add metadata:0")
        native.states[0] = (1, 1, 1)
        await until(lambda: not world.spooled())
        await world.asked("end 100:1", "CloseStreaming")
        assert native.calls[-1] == "close"

    converse(conversation)


def test_what_finds_no_room_in_the_spool_is_told(converse: Converse) -> None:
    async def conversation(world: World) -> None:
        session = await world.open(spool_size_bytes=1000)
        await world.add(session, "metadata")
        (native,) = FakeFleet.made
        native.states[0], native.is_all_spooled = (0, 0, 1), False
        with pytest.raises(TransportError, match="Not all packets") as raised:
            await world.run(session.close)
        assert raised.value.code == ErrorCode.ROTATION_FAIL_CONSUMER
        assert len(world.spooled()) == 1

    converse(conversation)


def test_the_next_consumer_daemon_goes_on_with_the_spool(converse: Converse) -> None:
    async def conversation(world: World) -> None:
        session = await world.open(spool_size_bytes=1000)
        await world.add(session, "metadata", "c_0", "c_1")
        await world.asked("OpenStreaming", "add metadata:0,c_0:0,c_1:0")
        session.end_streams([1])
        await world.asked("end 101:0")
        world.relay.is_there = False
        world.relay.hang_up()
        await world.relays.close()
        assert len(world.spooled()) == 1
        FakeFleet.spooled_states = {0: (4, 4, 6)}  # nothing of the others is there
        world.relays = FleetRelays(str(world.spool), WorkerThreads("disk", 2))
        world.relays.start()
        await until(lambda: len(FakeFleet.made) == 2)
        _, native = FakeFleet.made
        assert native.spool_size_bytes_max == 1000
        world.relay.is_there = True
        await world.asked("OpenStreaming", "add metadata:4,c_1:0")
        await until(lambda: native.calls)
        assert native.calls == ["attach [(0, 100, 4)]"]
        native.states[0] = (6, 6, 6)
        await until(lambda: not world.spooled())
        await world.asked("end 100:6,102:0", "CloseStreaming")
        assert native.calls[-1] == "close"

    converse(conversation)


def test_a_session_of_which_everything_has_arrived_is_not_begun_anew(converse: Converse) -> None:
    async def conversation(world: World) -> None:
        session = await world.open(spool_size_bytes=1000)
        await world.add(session, "metadata")
        await world.asked("OpenStreaming", "add metadata:0")
        await world.relays.close()
        world.relays = FleetRelays(str(world.spool), WorkerThreads("disk", 2))
        world.relays.start()
        await world.asked("CloseStreaming")
        await until(lambda: not world.spooled())

    converse(conversation)


def test_a_spool_needs_a_directory(converse: Converse, tmp_path: Path) -> None:
    async def conversation(world: World) -> None:
        world.relays = FleetRelays(None, WorkerThreads("disk", 2))
        world.relays.start()
        with pytest.raises(Unsupported):
            await world.open(spool_size_bytes=1000)
        await world.open()
        await world.relays.close()
        (tmp_path / "spool").touch()
        world.relays = FleetRelays(str(world.spool), WorkerThreads("disk", 2))
        with pytest.raises(TracefleetError, match="Cannot make a spool"):
            await world.open(spool_size_bytes=1000)

    converse(conversation)
