"""A consumer daemon without sockets, threads and shared memory."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeVar

import msgspec

from tracefleet_common.errors import TracefleetError, TracerError, TransportError
from tracefleet_common.messages.consumerd_control import (
    ConsumerdNotice,
    CreateChannel,
    OpenRegistry,
    OpenRelaySession,
    RelaySessionState,
    StreamBooks,
)
from tracefleet_common.model.ctf_types import HeaderType
from tracefleet_common.model.event_rules import LossMode
from tracefleet_common.model.relay_output import RelayOutput
from tracefleet_consumerd.application.channel_commands import ChannelCommands
from tracefleet_consumerd.application.consumer_commands import ConsumerCommands
from tracefleet_consumerd.application.draining import Drainer
from tracefleet_consumerd.application.monitor import BufferMonitor
from tracefleet_consumerd.application.ports import (
    ChannelBuffers,
    ExportedChannel,
    RelaySession,
    Requester,
    StreamPosition,
    TraceOutput,
)
from tracefleet_consumerd.application.recording_watch import RecordingWatch
from tracefleet_consumerd.application.registries import Registries
from tracefleet_consumerd.application.registry_commands import RegistryCommands
from tracefleet_consumerd.application.relay_commands import RelayCommands
from tracefleet_consumerd.domain.attendance import Attendance
from tracefleet_consumerd.domain.buffer_usage import Usage
from tracefleet_consumerd.domain.channel import ChannelSettings
from tracefleet_consumerd.domain.registry import RegistrySettings
from tracefleet_consumerd.domain.relay import RelaySettings

T = TypeVar("T")

USER_ID = 1000
PATIENCE_S = 10.0


class FakePeer(NamedTuple):
    identity: bytes = b"sessiond"
    uid: int = USER_ID
    pid: int = 1


SESSIOND = FakePeer()


class FakeClock:
    """Every look at it takes a tenth of a second."""

    def __init__(self) -> None:
        self.time_s = 0.0

    def now_s(self) -> float:
        self.time_s += 0.1
        return self.time_s


class FakeWorkers:
    async def run(self, work: Callable[[], T]) -> T:
        return work()


class FakeRelaySession:
    """`late`: how often it is asked before everything has arrived."""

    text = "relay"

    def __init__(self, relay_key: int = 0) -> None:
        self.relay_key = relay_key
        self.calls: list[str] = []
        self.late = 0
        self.is_lost = False
        self.error: TracefleetError | None = None

    def _note(self, call: str) -> None:
        self.calls.append(call)
        if self.error is not None:
            raise self.error

    def prepare(self) -> None:
        self._note("prepare")

    def poll(self) -> None:
        self._note("poll")

    def is_settled(self, positions: Sequence[StreamPosition], metadata_handles: Sequence[int]) -> bool:
        streams = ",".join(f"{position.handle}:{position.last_number}" for position in positions)
        self._note(f"settled {streams} {','.join(map(str, metadata_handles))}")
        self.late -= 1
        return self.late < 0

    def state(self) -> RelaySessionState:
        return RelaySessionState(
            relay_key=self.relay_key,
            is_connected=not self.is_lost,
            trouble="lost" if self.is_lost else None,
            sent_packet_count=3,
            sent_bytes=12288,
        )

    def close(self) -> None:
        self._note("close")


class FakeOutput:
    def __init__(self, metadata_handle: int | None = None) -> None:
        self.metadata_handle = metadata_handle
        self.is_closed = False
        self.error: TracefleetError | None = None

    def close(self) -> None:
        self.is_closed = True
        if self.error is not None:
            raise self.error


class FakeBuffers:
    """`waiting`: complete packets not written yet. `jammed`: behind a record that is not complete."""

    def __init__(self) -> None:
        self.waiting = 0
        self.jammed = 0
        self.written = 0
        self.per_drain = 1000
        self.disk_trouble: str | None = None
        self.relay_error: TracefleetError | None = None
        self.current_usage = Usage(0, 0, 0)
        self.record_layouts: dict[int, bytes] = {}
        self.calls: list[str] = []

    def export(self) -> ExportedChannel:
        return ExportedChannel(0, b"channel", [os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(3)])

    def flush(self, *, is_final: bool) -> None:
        self.calls.append("final flush" if is_final else "flush")

    def resume(self) -> None:
        self.calls.append("resume")

    def drain(self, deadline_s: float) -> bool:
        self.calls.append("drain")
        if self.disk_trouble is None:
            count = min(self.waiting, self.per_drain)
            self.waiting -= count
            self.written += count
        return self.waiting == 0 and self.jammed == 0

    def repair(self, *, is_tracing: bool) -> int:
        self.calls.append("repair while tracing" if is_tracing else "repair")
        count, self.jammed = self.jammed, 0
        self.waiting += count
        return count

    def set_record_layout(self, event_id: int, layout: bytes) -> None:
        if "close" in self.calls:
            raise TracerError("It is closed")
        self.record_layouts[event_id] = layout

    def join_relay(self) -> None:
        self.calls.append("join relay")
        if self.relay_error is not None:
            raise self.relay_error

    def relay_positions(self) -> tuple[StreamPosition, ...]:
        if "join relay" not in self.calls:
            return ()
        return (StreamPosition(7, self.written - 1 if self.written else None),)

    def leave_relay(self) -> None:
        self.calls.append("leave relay")

    def books(self) -> tuple[StreamBooks, ...]:
        return (
            StreamBooks(
                cpu=0,
                packet_count=self.written,
                bytes=4096 * self.written,
                discarded_event_count=0,
                lost_packet_count=0,
                unwritten_packet_count=self.waiting + self.jammed if "close" in self.calls else 0,
            ),
        )

    def usage(self) -> Usage:
        if "close" in self.calls:
            raise TracerError("It is closed")
        self.calls.append("usage")
        return self.current_usage

    def trouble(self) -> str | None:
        return self.disk_trouble

    def close(self) -> None:
        self.calls.append("close")


class FakeLibrary:
    cpu_count = 1
    bits_per_word = 64
    has_repair = True

    def __init__(self) -> None:
        self.relays: list[FakeRelaySession] = []
        self.relay_error: TracefleetError | None = None
        self.outputs: list[FakeOutput] = []
        self.buffers: list[FakeBuffers] = []
        self.error: TracefleetError | None = None

    def stream_size_bytes(self, settings: ChannelSettings) -> int:
        return settings.sub_buffer_size_bytes * settings.sub_buffer_count

    def prepare_output(self, root: str, owner_uid: int, owner_gid: int) -> None:
        if self.error is not None:
            raise self.error

    def create_metadata_memory(self) -> int:
        return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)

    def connect_relay(self, settings: RelaySettings) -> FakeRelaySession:
        if self.error is not None:
            raise self.error
        self.relays.append(FakeRelaySession(settings.relay_key))
        return self.relays[-1]

    def open_output(
        self, settings: RegistrySettings, metadata_descriptor: int, relay: RelaySession | None
    ) -> FakeOutput | None:
        os.fstat(metadata_descriptor)
        if settings.output_root is None and relay is None:
            return None
        self.outputs.append(FakeOutput(None if relay is None else 99))
        return self.outputs[-1]

    def create_channel(self, settings: ChannelSettings, output: TraceOutput | None) -> FakeBuffers:
        if self.error is not None:
            raise self.error
        self.buffers.append(FakeBuffers())
        self.buffers[-1].relay_error = self.relay_error
        return self.buffers[-1]


class FakeReader:
    def __init__(self) -> None:
        self.read: dict[int, ChannelBuffers] = {}

    def add(self, buffers: ChannelBuffers, channel_key: int) -> None:
        self.read[channel_key] = buffers

    def remove(self, buffers: ChannelBuffers) -> None:
        self.read = {key: channel for key, channel in self.read.items() if channel is not buffers}


class FakeBus:
    def __init__(self) -> None:
        self.sent: dict[int, int] = {}
        self.notices: list[ConsumerdNotice] = []
        self.is_connected = True

    async def send_descriptors(self, requester: Requester, ticket: int, descriptors: Sequence[int]) -> None:
        if not self.is_connected:
            raise TransportError("Nobody takes the descriptors")
        self.sent[ticket] = len(descriptors)

    async def notify(self, notice: ConsumerdNotice) -> None:
        self.notices.append(notice)


class FakeConsumer:
    """The application, wired to fakes."""

    def __init__(self) -> None:
        self.library, self.reader, self.bus, self.clock = FakeLibrary(), FakeReader(), FakeBus(), FakeClock()
        self.registries = Registries()
        workers = FakeWorkers()
        drainer = Drainer(workers, self.clock)
        self.monitor = BufferMonitor(workers, self.bus, self.clock)
        self.commands = ConsumerCommands(
            self.registries,
            RegistryCommands(self.registries, self.library, self.bus, workers, workers),
            ChannelCommands(
                self.registries, self.library, self.reader, self.bus, drainer, self.monitor, workers, workers
            ),
            RelayCommands(self.registries, self.library, workers, self.clock),
            self.library,
            Attendance(PATIENCE_S, 0.0),
            self.clock,
            user_id=USER_ID,
        )
        self.watch = RecordingWatch(self.registries, self.bus, drainer, self.clock)
        self.commands.peer_arrived(SESSIOND)

    async def ask(self, request: msgspec.Struct, requester: Requester = SESSIOND) -> msgspec.Struct:
        return await self.commands.execute(requester, request)

    async def with_channels(self, *keys: int) -> list[FakeBuffers]:
        """Registry 1 with channels of these keys."""
        await self.ask(open_registry())
        for key in keys:
            await self.ask(create_channel(channel_key=key, ticket=key, name=f"channel{key}"))
        return self.library.buffers


def open_relay_session(relay_key: int = 50, **changes: Any) -> OpenRelaySession:
    return OpenRelaySession(
        **{
            "relay_key": relay_key,
            "output": RelayOutput(address="127.0.0.1"),
            "session_name": "s",
            "host_name": "host",
            "has_creation_time_in_name": False,
            "creation_time_s": 1,
            "sessiond_uuid": b"u" * 16,
            "session_id": 1,
            "live_timer_period_us": 0,
            **changes,
        }
    )


def open_registry(
    registry_key: int = 1, output_root: str | None = "/output", ticket: int = 4, relay_key: int | None = None
) -> OpenRegistry:
    return OpenRegistry(
        registry_key=registry_key,
        ticket=ticket,
        trace_uuid=bytes(16),
        output_root=output_root,
        relay_key=relay_key,
        relative_path="ust/uid/1000/64-bit",
        owner_uid=USER_ID,
        owner_gid=USER_ID,
    )


def create_channel(
    *,
    channel_key: int = 10,
    registry_key: int = 1,
    ticket: int = 5,
    name: str = "channel0",
    monitor_timer_period_us: int = 0,
) -> CreateChannel:
    return CreateChannel(
        registry_key=registry_key,
        channel_key=channel_key,
        ticket=ticket,
        name=name,
        channel_id=0,
        header_type=HeaderType.LARGE,
        loss_mode=LossMode.DISCARD,
        sub_buffer_size_bytes=4096,
        sub_buffer_count=4,
        switch_timer_period_us=0,
        read_timer_period_us=0,
        monitor_timer_period_us=monitor_timer_period_us,
        blocking_timeout_us=0,
        trace_file_size_bytes=0,
        trace_file_count=0,
    )
