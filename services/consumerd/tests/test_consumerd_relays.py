"""Sessions at relay daemons, as the commands see them."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tracefleet_common.errors import (
    AlreadyExists,
    ErrorCode,
    InvalidArgument,
    NotFound,
    TracefleetError,
    TransportError,
)
from tracefleet_common.messages import consumerd_control as control
from tracefleet_common.messages.envelope import Done
from tracefleet_common.model.relay_output import FleetOutput, RelayOutput
from tracefleet_consumerd.application import draining, relay_commands

sys.path.insert(0, str(Path(__file__).parent))

from consumerd_fakes import PATIENCE_S, SESSIOND, FakeConsumer, create_channel, open_registry, open_relay_session


@pytest.fixture(autouse=True)
def _without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(draining, "PAUSE_S", 0)
    monkeypatch.setattr(relay_commands, "PAUSE_S_MAX", 0)


def converse(conversation: Callable[[FakeConsumer], Awaitable[None]]) -> None:
    async def scenario() -> None:
        await conversation(FakeConsumer())

    asyncio.run(scenario())


async def with_channel(consumer: FakeConsumer) -> None:
    """Relay session 50, registry 1 there, channel 10 in it."""
    await consumer.ask(open_relay_session())
    await consumer.ask(control.PrepareRelaySession(50))
    await consumer.ask(open_registry(output_root=None, relay_key=50))
    await consumer.ask(create_channel())


def test_a_session_is_opened_filled_settled_and_closed() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await with_channel(consumer)
        (relay,), (buffers,) = consumer.library.relays, consumer.library.buffers
        assert buffers.calls == ["join relay"]
        buffers.waiting, relay.late = 3, 2
        await consumer.ask(control.DrainChannels(channel_keys=(10,), is_final_flush=True, is_quiescent=True))
        assert await consumer.ask(control.SettleRelaySession(50)) == Done()
        assert relay.calls == ["prepare", *["poll", "settled 7:2 99"] * 3]
        with pytest.raises(TransportError, match="still"):
            await consumer.ask(control.CloseRelaySession(50))
        await consumer.ask(control.CloseChannels(channel_keys=(10,), is_quiescent=True))
        assert buffers.calls[-2:] == ["close", "leave relay"]
        await consumer.ask(control.CloseRegistry(1))
        assert await consumer.ask(control.CloseRelaySession(50)) == Done()
        assert relay.calls[-1] == "close"
        with pytest.raises(NotFound):
            await consumer.ask(control.CloseRelaySession(50))

    converse(conversation)


def test_sessions_are_sampled_in_the_order_asked_for_without_a_word_to_the_relay_daemon() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await consumer.ask(open_relay_session(50))
        await consumer.ask(open_relay_session(51))
        consumer.library.relays[1].is_lost = True
        sampled = await consumer.ask(control.SampleRelaySessions((51, 9, 50)))
        assert isinstance(sampled, control.RelaySessionsSampled)
        assert [(state.relay_key, state.is_connected) for state in sampled.sessions] == [(51, False), (50, True)]
        assert consumer.library.relays[0].calls == []
        await consumer.ask(control.CloseRelaySession(51))
        assert await consumer.ask(control.SampleRelaySessions((51,))) == control.RelaySessionsSampled(())

    converse(conversation)


def test_what_the_relay_daemon_never_gets_is_told() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await with_channel(consumer)
        consumer.library.relays[0].late = 1_000_000
        with pytest.raises(TransportError, match="not received everything"):
            await consumer.ask(control.SettleRelaySession(50))

    converse(conversation)


def test_a_lost_session_is_closed_with_the_code_of_lttng_and_forgotten() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await consumer.ask(open_relay_session())
        consumer.library.relays[0].error = TransportError("It is lost")
        with pytest.raises(TransportError, match="lost") as raised:
            await consumer.ask(control.CloseRelaySession(50))
        assert raised.value.code == ErrorCode.ROTATION_FAIL_CONSUMER
        await consumer.ask(open_relay_session())  # the key is free again

    converse(conversation)


def test_a_drain_does_not_wait_for_what_is_lost() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await with_channel(consumer)
        (buffers,) = consumer.library.buffers
        buffers.waiting, buffers.disk_trouble = 1, "lost"
        consumer.library.relays[0].is_lost = True
        await consumer.ask(control.DrainChannels(channel_keys=(10,), is_final_flush=True, is_quiescent=False))
        assert buffers.calls.count("drain") == 2

    converse(conversation)


@pytest.mark.parametrize("code", [ErrorCode.RELAYD_CONNECT_FAIL, ErrorCode.RELAYD_VERSION_FAIL])
def test_a_relay_daemon_that_cannot_be_used_leaves_nothing_behind(code: ErrorCode) -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        consumer.library.error = TransportError("Nobody there", code)
        with pytest.raises(TransportError) as raised:
            await consumer.ask(open_relay_session())
        assert raised.value.code == code
        consumer.library.error = None
        await consumer.ask(open_relay_session())
        with pytest.raises(AlreadyExists):
            await consumer.ask(open_relay_session())

    converse(conversation)


def test_a_channel_that_the_relay_daemon_refuses_leaves_nothing_behind() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await consumer.ask(open_relay_session())
        await consumer.ask(open_registry(output_root=None, relay_key=50))
        before = len(os.listdir("/proc/self/fd"))
        consumer.library.relay_error = TracefleetError("Refused")
        with pytest.raises(TracefleetError, match="Refused"):
            await consumer.ask(create_channel())
        assert len(os.listdir("/proc/self/fd")) == before
        assert consumer.library.buffers[0].calls == ["join relay", "close"]
        consumer.library.relay_error = None
        await consumer.ask(create_channel())

    converse(conversation)


def test_what_a_session_daemon_leaves_behind_is_closed() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await with_channel(consumer)
        consumer.commands.peer_left(SESSIOND)
        consumer.clock.time_s += PATIENCE_S
        await consumer.commands.close_abandoned()
        assert consumer.library.relays[0].calls[-1] == "close"
        assert consumer.registries.registry_count == 0
        assert not consumer.registries.relays()

    converse(conversation)


def test_a_loss_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await consumer.ask(open_relay_session())
        await consumer.commands.poll_relays()
        consumer.library.relays[0].error = TransportError("It is lost")
        await consumer.commands.poll_relays()
        await consumer.commands.poll_relays()
        assert caplog.text.count("It is lost") == 1

    converse(conversation)


@pytest.mark.parametrize(
    "changes",
    [
        {"relay_key": 0},
        {"output": RelayOutput(address="localhost")},
        {"output": RelayOutput(address="127.0.0.1", control_port=0)},
        {"output": RelayOutput(address="127.0.0.1", data_port=65536)},
        {"output": RelayOutput(address="127.0.0.1", subdirectory="x" * 4096)},
        {"output": FleetOutput(address="localhost")},
        {"output": FleetOutput(address="::1", port=0)},
        {"output": FleetOutput(address="::1", port=65536)},
        {"output": FleetOutput(address="::1", subdirectory="a\0b")},
        {"output": FleetOutput(address="::1", spool_size_bytes=-1)},
        {"output": FleetOutput(address="::1", spool_size_bytes=2**63)},
        {"session_name": "x" * 255},
        {"session_name": "a\0b"},
        {"host_name": "\ud800"},
        {"sessiond_uuid": bytes(16)},
        {"sessiond_uuid": b"u"},
        {"session_id": -1},
        {"creation_time_s": 2**63},
        {"live_timer_period_us": 2**32},
    ],
)
def test_what_no_relay_daemon_takes_is_refused(changes: dict[str, Any]) -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        with pytest.raises(InvalidArgument):
            await consumer.ask(open_relay_session(**changes))
        assert not consumer.library.relays

    converse(conversation)


def test_a_trace_goes_to_one_place() -> None:
    async def conversation(consumer: FakeConsumer) -> None:
        await consumer.ask(open_relay_session())
        with pytest.raises(InvalidArgument):
            await consumer.ask(open_registry(output_root="/output", relay_key=50))
        with pytest.raises(NotFound):
            await consumer.ask(open_registry(output_root=None, relay_key=51))

    converse(conversation)
