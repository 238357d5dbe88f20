"""The commands of a session daemon, without sockets, threads and shared memory."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tracefleet_common.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionRefused,
    ResourceExhausted,
    TracefleetError,
    TransportError,
    WrongState,
)
from tracefleet_common.messages import consumerd_control as control
from tracefleet_common.messages.envelope import Done
from tracefleet_consumerd.application import draining
from tracefleet_consumerd.application.ports import Report, ReportKind

sys.path.insert(0, str(Path(__file__).parent))

from consumerd_fakes import (
    PATIENCE_S,
    SESSIOND,
    USER_ID,
    FakeConsumer,
    FakePeer,
    create_channel,
    open_registry,
)


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "PAUSE_S", 0)


def converse(conversation: Callable[[FakeConsumer], Awaitable[None]]) -> None:
    async def scenario() -> None:
        await conversation(FakeConsumer())

    asyncio.run(scenario())


def drain(*keys: int, is_quiescent: bool = True) -> control.DrainChannels:
    return control.DrainChannels(channel_keys=keys, is_final_flush=True, is_quiescent=is_quiescent)


@pytest.mark.parametrize("output_root", ["/output", None])
def test_a_registry_gives_its_metadata_memory_away(output_root: str | None) -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        before = len(os.listdir("/proc/self/fd"))
        assert await consumer.ask(open_registry(output_root=output_root)) == Done()
        assert consumer.bus.sent == {4: 1}
        assert len(os.listdir("/proc/self/fd")) == before
        assert await consumer.ask(control.CloseRegistry(1)) == Done()
        assert all(output.is_closed for output in consumer.library.outputs)
        assert consumer.registries.registry_count == 0

    converse(conversation)


def test_a_registry_whose_memory_nobody_takes_leaves_nothing_behind() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        before = len(os.listdir("/proc/self/fd"))
        consumer.bus.is_connected = False
        with pytest.raises(TransportError):
            await consumer.ask(open_registry())
        assert consumer.library.outputs[0].is_closed
        assert len(os.listdir("/proc/self/fd")) == before
        consumer.bus.is_connected = True
        await consumer.ask(open_registry())  # the key is free again

    converse(conversation)


def test_a_registry_is_closed_also_when_its_last_metadata_cannot_be_written(caplog: pytest.LogCaptureFixture) -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await consumer.ask(open_registry())
        consumer.library.outputs[0].error = ResourceExhausted("No space left")
        assert await consumer.ask(control.CloseRegistry(1)) == Done()
        assert consumer.registries.registry_count == 0
        assert "path=/output/ust/uid/1000/64-bit, reason=No space left" in caplog.text

    converse(conversation)


def layouts(*layouts: tuple[int, int, bytes]) -> control.SetRecordLayouts:
    return control.SetRecordLayouts(
        tuple(
            control.RecordLayout(channel_key=channel_key, event_id=event_id, layout=layout)
            for channel_key, event_id, layout in layouts
        )
    )


def test_record_layouts_reach_the_buffers_and_those_of_closed_channels_are_ignored() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        first, second = await consumer.with_channels(10, 11)
        assert await consumer.ask(layouts((10, -1, b""), (10, 0, b"\x02"), (12, 0, b""))) == Done()
        await consumer.ask(layouts((11, 2**32 - 2, bytes(64 * 1024))))
        first.close()  # while the request was under way
        await consumer.ask(layouts((10, 1, b"\x02"), (11, 5, b"\x02")))
        assert first.record_layouts == {-1: b"", 0: b"\x02"}
        assert second.record_layouts == {2**32 - 2: bytes(64 * 1024), 5: b"\x02"}

    converse(conversation)


@pytest.mark.parametrize("wrong", [(10, -2, b""), (10, 2**32 - 1, b""), (10, 0, bytes(64 * 1024 + 1))])
def test_a_record_layout_that_cannot_be_right_costs_the_others_nothing(wrong: tuple[int, int, bytes]) -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        (buffers,) = await consumer.with_channels(10)
        await consumer.ask(layouts(wrong, (10, 1, b"\x02")))
        assert buffers.record_layouts == {1: b"\x02"}

    converse(conversation)


def test_a_channel_is_read_and_its_descriptors_are_given_away() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        before = len(os.listdir("/proc/self/fd"))
        await consumer.ask(open_registry())
        created = await consumer.ask(create_channel())
        assert created == control.ChannelCreated(
            channel_key=10, channel_type=0, channel_data=b"channel", stream_sizes_bytes=(16384,)
        )
        assert consumer.bus.sent == {4: 1, 5: 3}
        assert list(consumer.reader.read) == [10]
        assert len(os.listdir("/proc/self/fd")) == before

    converse(conversation)


def test_a_channel_whose_descriptors_nobody_takes_leaves_nothing_behind() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        before = len(os.listdir("/proc/self/fd"))
        await consumer.ask(open_registry())
        consumer.bus.is_connected = False
        with pytest.raises(TransportError) as caught:
            await consumer.ask(create_channel())
        assert caught.value.__notes__ == ["while making channel channel0"]
        assert consumer.library.buffers[0].calls == ["close"]
        assert not consumer.reader.read
        assert len(os.listdir("/proc/self/fd")) == before
        consumer.bus.is_connected = True
        await consumer.ask(create_channel())  # key and name are free again

    converse(conversation)


def test_a_channel_that_cannot_be_made_leaves_its_key_free() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await consumer.ask(open_registry())
        consumer.library.error = ResourceExhausted("/dev/shm has 5 bytes")
        with pytest.raises(ResourceExhausted, match="5 bytes"):
            await consumer.ask(create_channel())
        consumer.library.error = None
        await consumer.ask(create_channel())

    converse(conversation)


@pytest.mark.parametrize(
    ("request_", "error"),
    [
        (open_registry(), AlreadyExists),
        (open_registry(registry_key=-1), InvalidArgument),
        (open_registry(registry_key=2, ticket=0), InvalidArgument),
        (create_channel(), AlreadyExists),
        (create_channel(channel_key=11), AlreadyExists),  # the name is taken
        (create_channel(channel_key=11, name="a/b"), InvalidArgument),
        (create_channel(channel_key=11, name="other", ticket=0), InvalidArgument),
        (create_channel(registry_key=2), NotFound),
        (control.CloseRegistry(2), NotFound),
        (control.CloseRegistry(1), WrongState),  # it has a channel
        (control.SampleChannels((10, 12)), NotFound),
        (control.SampleChannels((10, 10)), InvalidArgument),
        (control.ResumeChannels((12,)), NotFound),
        (control.RepairChannels((12,)), NotFound),
        (control.CloseChannels(channel_keys=(12,), is_quiescent=True), NotFound),
        (drain(12), NotFound),
        (control.PrepareOutput(output_root="x", owner_uid=0, owner_gid=0), InvalidArgument),
        (control.PrepareOutput(output_root="/x", owner_uid=-1, owner_gid=0), InvalidArgument),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, msgspec.Struct) else value.__name__,
)
def test_what_cannot_be_right_is_refused(request_: msgspec.Struct, error: type[TracefleetError]) -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await consumer.ask(open_registry())
        await consumer.ask(create_channel())
        with pytest.raises(error):
            await consumer.ask(request_)
        assert consumer.registries.registry_count == 1
        assert consumer.registries.channel_count == 1

    converse(conversation)


def test_only_root_and_its_own_user_may_command_it() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        for uid in (0, USER_ID):
            await consumer.ask(control.DescribeConsumer(), FakePeer(uid=uid))
        for uid in (1, -1):
            with pytest.raises(PermissionRefused):
                await consumer.ask(control.DescribeConsumer(), FakePeer(uid=uid))

    converse(conversation)


def test_it_says_what_it_has() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await consumer.with_channels(10, 11)
        info: Any = await consumer.ask(control.DescribeConsumer())
        assert (info.registry_count, info.channel_count, info.cpu_count, info.pid) == (1, 2, 1, os.getpid())

    converse(conversation)


# ---- draining ----


def test_a_drain_goes_on_as_long_as_something_gets_written() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        (buffers,) = await consumer.with_channels(10)
        buffers.waiting, buffers.per_drain = 100, 1
        reply: Any = await consumer.ask(drain(10, is_quiescent=False))
        assert reply.channels[0].error is None
        assert reply.channels[0].streams[0].packet_count == 100
        assert buffers.calls == ["final flush"] + ["drain"] * 100

    converse(conversation)


def test_a_jam_without_living_writers_is_repaired() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        (buffers,) = await consumer.with_channels(10)
        buffers.jammed = 2
        reply: Any = await consumer.ask(drain(10))
        assert reply.channels[0].error is None
        assert reply.channels[0].streams[0].packet_count == 2
        assert "repair" in buffers.calls
        assert buffers.calls[-2:] == ["final flush", "drain"]

    converse(conversation)


def test_a_jam_with_living_writers_is_left_alone_and_told() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        stuck, fine = await consumer.with_channels(10, 11)
        stuck.jammed, fine.waiting = 1, 5
        reply: Any = await consumer.ask(drain(10, 11, is_quiescent=False))
        assert "not complete" in reply.channels[0].error
        assert reply.channels[1].error is None
        assert reply.channels[1].streams[0].packet_count == 5
        assert "repair" not in stuck.calls

    converse(conversation)


def test_a_full_disk_ends_the_drain_with_its_reason_and_the_count() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        (buffers,) = await consumer.with_channels(10)
        buffers.waiting, buffers.disk_trouble = 7, "No space left on device: /output/channel10"
        request = control.CloseChannels(channel_keys=(10,), is_quiescent=True)
        reply: Any = await consumer.ask(request)
        assert reply.channels[0].error == "No space left on device: /output/channel10"
        assert reply.channels[0].streams[0].unwritten_packet_count == 7
        assert consumer.registries.channel_count == 0
        assert not consumer.reader.read

    converse(conversation)


def test_books_come_in_the_order_asked_for() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        first, second = await consumer.with_channels(10, 11)
        first.written, second.written = 1, 2
        reply: Any = await consumer.ask(control.SampleChannels((11, 10)))
        assert [state.channel_key for state in reply.channels] == [11, 10]
        assert [state.streams[0].packet_count for state in reply.channels] == [2, 1]
        assert not first.calls

    converse(conversation)


def test_resume_and_repair_reach_the_buffers() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        (buffers,) = await consumer.with_channels(10)
        assert await consumer.ask(control.ResumeChannels((10,))) == Done()
        await consumer.ask(control.RepairChannels((10,)))
        assert buffers.calls == ["resume", "repair while tracing"]

    converse(conversation)


def test_no_channels_are_no_trouble() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        assert await consumer.ask(drain()) == control.ChannelsDrained(())

    converse(conversation)


# ---- without being asked ----


def test_what_a_lost_session_daemon_left_is_closed_in_due_time() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        (buffers,) = await consumer.with_channels(10)
        buffers.waiting = 3
        consumer.commands.peer_left(SESSIOND)
        await consumer.commands.close_abandoned()
        assert consumer.registries.registry_count == 1
        consumer.clock.time_s += PATIENCE_S
        await consumer.commands.close_abandoned()
        assert (consumer.registries.registry_count, consumer.registries.channel_count) == (0, 0)
        assert buffers.calls == ["final flush", "drain", "close"]
        assert buffers.written == 3
        assert consumer.library.outputs[0].is_closed

    converse(conversation)


def test_a_session_daemon_that_comes_back_keeps_what_it_speaks_of() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await consumer.with_channels(10)
        consumer.commands.peer_left(SESSIOND)
        again = FakePeer(identity=b"again")
        consumer.commands.peer_arrived(again)
        await consumer.ask(control.SampleChannels((10,)), again)
        consumer.clock.time_s += 10 * PATIENCE_S
        await consumer.commands.close_abandoned()
        assert consumer.registries.channel_count == 1

    converse(conversation)


def test_a_session_daemon_that_starts_anew_may_use_the_same_keys() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        (old,) = await consumer.with_channels(10)
        new = FakePeer(identity=b"new")
        consumer.commands.peer_arrived(new)
        with pytest.raises(AlreadyExists):  # the other one is there still
            await consumer.ask(open_registry(), new)
        consumer.commands.peer_left(SESSIOND)
        await consumer.ask(open_registry(registry_key=2), new)
        await consumer.ask(create_channel(registry_key=2), new)  # the key of a channel in registry 1
        assert old.calls[-1] == "close"
        await consumer.ask(open_registry(), new)
        assert consumer.registries.registry_count == 2

    converse(conversation)


def test_the_end_writes_and_closes_everything() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        first, second = await consumer.with_channels(10, 11)
        first.waiting, second.jammed = 2, 1
        await consumer.commands.close_all()
        assert consumer.registries.registry_count == 0
        assert first.written == 2
        assert "repair" not in second.calls  # its writer may live
        assert second.calls[-1] == "close"

    converse(conversation)


# ---- notices ----


def test_a_jam_is_told_once_in_a_while() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await consumer.with_channels(10)
        jam = Report(ReportKind.JAMMED, 10, 0, "")
        await consumer.watch.take(jam)
        await consumer.watch.take(jam)
        await consumer.watch.take(jam._replace(cpu=1))
        assert consumer.bus.notices == [
            control.JammedStream(channel_key=10, cpu=0),
            control.JammedStream(channel_key=10, cpu=1),
        ]
        consumer.clock.time_s += 60
        await consumer.watch.take(jam)
        assert len(consumer.bus.notices) == 3

    converse(conversation)


def test_a_jam_that_stays_is_told_again_until_something_is_written() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        (buffers,) = await consumer.with_channels(10)
        buffers.written = 7
        await consumer.watch.take(Report(ReportKind.JAMMED, 10, 0, ""))
        for expected_count in (2, 3):
            await consumer.watch.remind()
            consumer.clock.time_s += 60
            await consumer.watch.remind()
            assert len(consumer.bus.notices) == expected_count
        buffers.written = 8
        for _ in range(3):
            consumer.clock.time_s += 60
            await consumer.watch.remind()
        assert len(consumer.bus.notices) == 3
        await consumer.watch.take(Report(ReportKind.JAMMED, 10, 0, ""))
        await consumer.ask(control.CloseChannels(channel_keys=(10,), is_quiescent=True))
        consumer.clock.time_s += 60
        await consumer.watch.remind()
        assert len(consumer.bus.notices) == 4

    converse(conversation)


def test_trouble_of_a_channel_is_told_when_it_begins_and_when_it_is_over() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await consumer.with_channels(10)

        async def take(kind: ReportKind, cpu: int) -> None:
            await consumer.watch.take(Report(kind, 10, cpu, "No space left on device: /output"))

        await take(ReportKind.WRITE_FAILED, 0)
        await take(ReportKind.WRITE_FAILED, 1)
        await take(ReportKind.WRITE_FAILED, 1)
        text = "Channel channel10, CPU 0: No space left on device: /output"
        assert consumer.bus.notices == [control.ChannelTrouble(channel_key=10, error=text)]
        reply: Any = await consumer.ask(control.SampleChannels((10,)))
        assert reply.channels[0].error == text
        await take(ReportKind.WRITE_RECOVERED, 0)
        assert len(consumer.bus.notices) == 1
        await take(ReportKind.WRITE_RECOVERED, 1)
        assert consumer.bus.notices[1:] == [control.ChannelTrouble(channel_key=10, error=None)]

    converse(conversation)


def test_reports_of_a_closed_channel_and_hang_ups_are_not_told() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await consumer.with_channels(10)
        await consumer.watch.take(Report(ReportKind.JAMMED, 99, 0, ""))
        await consumer.watch.take(Report(ReportKind.HUNG_UP, 10, -1, ""))
        assert not consumer.bus.notices

    converse(conversation)
