"""The use cases, with a tracer that only remembers what it was asked."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tracefleet_common.errors import (
    AlreadyExists,
    ErrorCode,
    InvalidArgument,
    NotFound,
    PermissionRefused,
    ResourceExhausted,
    TracefleetError,
    TransportError,
    Unsupported,
)
from tracefleet_common.messages import sessiond_control as control
from tracefleet_common.model.event_rules import ChannelAttributes, Domain, EventRule
from tracefleet_common.model.relay_output import Durability, FleetOutput, RelayOutput
from tracefleet_sessiond.application.ports import Caller, ChannelTotals
from tracefleet_sessiond.application.session_commands import SessionCommands
from tracefleet_sessiond.application.sessions import Sessions
from tracefleet_sessiond.domain.session import RecordingSession

ROOT = Caller(uid=0, gid=0, pid=1)
ANNA = Caller(uid=1000, gid=1000, pid=2)
BERT = Caller(uid=1001, gid=1001, pid=3)


class RememberingTracer:
    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        self.failures: dict[str, TracefleetError] = {}
        self.totals_by_channel: dict[str, ChannelTotals] = {}
        self.streaming_info: control.StreamingInfo | None = None
        self.pause = asyncio.Event()
        self.pause.set()

    async def _remember(self, call: str, session: RecordingSession | None) -> list[str]:
        self.calls.append((call, session.name if session else ""))
        await self.pause.wait()
        if call in self.failures:
            raise self.failures[call]
        return []

    def warm_up(self) -> None:
        pass

    async def check_channel(self, session: RecordingSession, attributes: ChannelAttributes) -> None:
        await self._remember("check_channel", None)

    async def prepare_output(self, session: RecordingSession) -> None:
        await self._remember("prepare_output", session)

    async def start(self, session: RecordingSession) -> list[str]:
        return await self._remember("start", session)

    async def stop(self, session: RecordingSession) -> list[str]:
        return await self._remember("stop", session)

    async def drain(self, session: RecordingSession) -> list[str]:
        return await self._remember("drain", session)

    async def apply_rules(self, session: RecordingSession) -> list[str]:
        return await self._remember("apply_rules", session)

    async def destroy(self, session: RecordingSession) -> list[str]:
        return await self._remember("destroy", session)

    async def totals(self, session: RecordingSession) -> dict[str, ChannelTotals]:
        return self.totals_by_channel

    async def streaming(self, session: RecordingSession) -> control.StreamingInfo | None:
        return self.streaming_info

    def forget(self, session: RecordingSession) -> None:
        self.calls.append(("forget", session.name))

    async def programs(self, *, has_fields: bool) -> list[control.ProgramInfo]:
        return []

    def program_count(self) -> int:
        return 0

    def consumers(self) -> tuple[str, ...]:
        return ()


class StoppedClock:
    def now_s(self) -> int:
        return 1_795_182_697


class NoUsers:
    def home_directory(self, uid: int) -> str | None:
        return f"/home/{uid}" if uid else None


def describe_nothing(_sessions: Sessions, _tracer: Any) -> control.DaemonInfo:
    return control.DaemonInfo(
        version="", pid=0, uid=0, run_directory="", program_count=0, session_count=0, consumers=()
    )


class World:
    def __init__(self) -> None:
        self.tracer = RememberingTracer()
        self.commands = SessionCommands(Sessions(StoppedClock(), NoUsers()), self.tracer, describe_nothing)

    async def does(self, *requests: Any, caller: Caller = ANNA) -> Any:
        for request in requests:
            reply = await self.commands.execute(request, caller)
        return reply


CREATE = control.CreateSession(name="s")
ENABLE_ALL = control.EnableEvent(session="s", domain=Domain.USER_SPACE, rule=EventRule(pattern="*"))


def test_a_session_is_created_started_stopped_and_destroyed() -> None:
    async def scenario() -> None:
        world = World()
        created = await world.does(CREATE)
        assert created.output_path is not None
        assert created.output_path.startswith("/home/1000/lttng-traces/s-20")
        enabled = await world.does(ENABLE_ALL)
        assert enabled.channel == "channel0"
        await world.does(control.StartSession("s"))
        world.tracer.totals_by_channel = {"channel0": ChannelTotals(discarded_event_count=7)}
        stopped = await world.does(control.StopSession("s"))
        assert [channel.discarded_event_count for channel in stopped.channels] == [7]
        destroyed = await world.does(control.DestroySession("s"))
        assert not destroyed.was_active
        assert world.tracer.calls == [
            ("check_channel", ""),
            ("prepare_output", "s"),
            ("start", "s"),
            ("stop", "s"),
            ("drain", "s"),
            ("destroy", "s"),
            ("forget", "s"),
        ]
        with pytest.raises(NotFound):
            await world.does(control.DescribeSession("s"))

    asyncio.run(scenario())


def test_a_channel_is_shown_with_its_books_and_its_usage() -> None:
    async def scenario() -> None:
        world = World()
        world.tracer.totals_by_channel = {
            "channel0": ChannelTotals(packet_count=3, lowest_usage_bytes=0, highest_usage_bytes=4096)
        }
        details = await world.does(CREATE, ENABLE_ALL, control.DescribeSession("s"))
        (channel,) = details.domains[0].channels
        assert channel.recorded_packet_count == 3
        assert (channel.buffer_usage_lowest_bytes, channel.buffer_usage_highest_bytes) == (0, 4096)
        world.tracer.totals_by_channel = {}
        details = await world.does(control.DescribeSession("s"))
        assert details.domains[0].channels[0].buffer_usage_highest_bytes is None

    asyncio.run(scenario())


def test_a_session_is_shown_with_its_sums_and_on_demand_its_streams() -> None:
    stream = control.StreamInfo(
        trace="ust/uid/0/64-bit",
        cpu=0,
        recorded_packet_count=2,
        recorded_bytes=8192,
        discarded_event_count=1,
        lost_packet_count=0,
        unwritten_packet_count=5,
    )

    async def scenario() -> None:
        world = World()
        await world.does(CREATE, ENABLE_ALL)
        world.tracer.totals_by_channel = {
            "channel0": ChannelTotals(packet_count=2, recorded_bytes=8192, discarded_event_count=1, streams=[stream]),
            "forgotten": ChannelTotals(packet_count=1, unwritten_packet_count=5),
        }
        world.tracer.streaming_info = control.StreamingInfo(
            is_connected=True, trouble=None, sent_packet_count=2, sent_bytes=8192
        )
        details = await world.does(control.DescribeSession("s"))
        assert details.sums == control.SessionSums(
            recorded_packet_count=3, recorded_bytes=8192, discarded_event_count=1, unwritten_packet_count=5
        )
        assert details.streaming == world.tracer.streaming_info
        assert details.domains[0].channels[0].streams == ()
        details = await world.does(control.DescribeSession("s", has_streams=True))
        assert details.domains[0].channels[0].streams == (stream,)

    asyncio.run(scenario())


def test_an_active_session_is_stopped_before_it_is_destroyed() -> None:
    async def scenario() -> None:
        world = World()
        destroyed = await world.does(CREATE, ENABLE_ALL, control.StartSession("s"), control.DestroySession("s"))
        assert destroyed.was_active
        assert [call for call, _name in world.tracer.calls][-3:] == ["stop", "destroy", "forget"]

    asyncio.run(scenario())


def test_nobody_waits_for_the_data_who_does_not_want_to() -> None:
    async def scenario() -> None:
        world = World()
        await world.does(CREATE, ENABLE_ALL, control.StartSession("s"))
        await world.does(control.StopSession("s", is_waiting=False), control.DestroySession("s", is_waiting=False))
        await world.commands.destroy_all()
        assert [call for call, _name in world.tracer.calls][-4:] == ["stop", "drain", "destroy", "forget"]

    asyncio.run(scenario())


def test_only_the_owner_and_root_see_a_session() -> None:
    async def scenario() -> None:
        world = World()
        await world.does(CREATE, caller=ANNA)
        assert (await world.does(control.ListSessions(), caller=BERT)).sessions == ()
        assert len((await world.does(control.ListSessions(), caller=ROOT)).sessions) == 1
        with pytest.raises(NotFound) as refused:
            await world.does(control.DestroySession("s"), caller=BERT)
        assert refused.value.code is ErrorCode.SESSION_NOT_FOUND
        with pytest.raises(AlreadyExists):
            await world.does(CREATE, caller=BERT)  # the name is taken, whoever owns it

    asyncio.run(scenario())


def test_a_channel_that_cannot_be_made_leaves_the_session_as_it_was() -> None:
    async def scenario() -> None:
        world = World()
        await world.does(CREATE)
        world.tracer.failures["check_channel"] = ResourceExhausted("too small", ErrorCode.UST_CHANNEL_FAIL)
        with pytest.raises(ResourceExhausted):
            await world.does(ENABLE_ALL)
        with pytest.raises(ResourceExhausted):
            await world.does(control.EnableChannel(session="s", domain=Domain.USER_SPACE, channel="c"))
        assert (await world.does(control.DescribeSession("s"))).domains == ()
        world.tracer.failures.clear()
        assert (await world.does(ENABLE_ALL)).channel == "channel0"

    asyncio.run(scenario())


def test_a_bad_rule_makes_no_default_channel() -> None:
    async def scenario() -> None:
        world = World()
        await world.does(CREATE)
        with pytest.raises(InvalidArgument):
            await world.does(
                control.EnableEvent(session="s", domain=Domain.USER_SPACE, rule=EventRule(pattern="lttng_jul:x"))
            )
        assert (await world.does(control.DescribeSession("s"))).domains == ()

    asyncio.run(scenario())


def test_a_session_whose_output_cannot_be_made_stays_inactive() -> None:
    async def scenario() -> None:
        world = World()
        await world.does(CREATE, ENABLE_ALL)
        world.tracer.failures["prepare_output"] = PermissionRefused("no", ErrorCode.CREATE_DIR_FAIL)
        with pytest.raises(PermissionRefused):
            await world.does(control.StartSession("s"))
        described = await world.does(control.DescribeSession("s"))
        assert not described.session.is_active
        world.tracer.failures.clear()
        # It was never started, so channels may still be added.
        await world.does(control.EnableChannel(session="s", domain=Domain.USER_SPACE, channel="c"))
        await world.does(control.StartSession("s"))

    asyncio.run(scenario())


def test_a_destroy_that_goes_wrong_still_frees_the_name() -> None:
    async def scenario() -> None:
        world = World()
        await world.does(CREATE, ENABLE_ALL, control.StartSession("s"))
        world.tracer.failures["destroy"] = TransportError("the consumer daemon is gone")
        with pytest.raises(TransportError):
            await world.does(control.DestroySession("s"))
        await world.does(CREATE)

    asyncio.run(scenario())


def test_commands_on_one_session_wait_for_each_other_and_find_it_gone() -> None:
    async def scenario() -> None:
        world = World()
        await world.does(CREATE, ENABLE_ALL)
        world.tracer.pause.clear()
        destroying = asyncio.create_task(world.does(control.DestroySession("s")))
        await asyncio.sleep(0)
        starting = asyncio.create_task(world.does(control.StartSession("s")))
        await asyncio.sleep(0)
        # Another session is not held up.
        await world.does(control.CreateSession(name="t"), control.DescribeSession("t"))
        world.tracer.pause.set()
        await destroying
        with pytest.raises(NotFound):
            await starting

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("domain", "code"),
    [(Domain.KERNEL, ErrorCode.KERNEL_NOT_AVAILABLE), (Domain.JUL, ErrorCode.UNSUPPORTED_DOMAIN)],
)
def test_domains_still_to_come_are_refused(domain: Domain, code: ErrorCode) -> None:
    async def scenario() -> None:
        world = World()
        await world.does(CREATE)
        with pytest.raises(Unsupported) as refused:
            await world.does(control.EnableChannel(session="s", domain=domain, channel="c"))
        assert refused.value.code is code

    asyncio.run(scenario())


@pytest.mark.parametrize("path", ["relative", "/a/../b", "/a\0b", "/" + "x" * 4096])
def test_bad_output_paths_are_refused(path: str) -> None:
    async def scenario() -> None:
        world = World()
        with pytest.raises(InvalidArgument):
            await world.does(control.CreateSession(name="s", output_path=path))
        with pytest.raises(InvalidArgument):
            await world.does(control.CreateSession(name="s", home_directory=path))

    asyncio.run(scenario())


def test_default_names_do_not_collide() -> None:
    async def scenario() -> None:
        world = World()
        unnamed = control.CreateSession()
        names = [(await world.does(unnamed)).name for _ in range(3)]
        assert len(set(names)) == 3
        assert all(name.startswith("auto") for name in names)

    asyncio.run(scenario())


def test_a_session_without_a_home_needs_a_path() -> None:
    async def scenario() -> None:
        world = World()
        with pytest.raises(InvalidArgument):
            await world.does(CREATE, caller=ROOT)
        assert (await world.does(control.CreateSession(name="s", has_output=False), caller=ROOT)).output_path is None

    asyncio.run(scenario())


RELAY = RelayOutput(address="127.0.0.1", subdirectory="a/b")
FLEET = FleetOutput(address="::1", port=7, subdirectory="a", durability=Durability.SYNCED, spool_size_bytes=2**20)


@pytest.mark.parametrize("relay", [RELAY, FLEET])
def test_a_session_may_be_streamed_and_read_live(relay: RelayOutput | FleetOutput) -> None:
    async def scenario() -> None:
        world = World()
        created = await world.does(control.CreateSession(name="s", relay=relay, live_timer_period_us=5))
        assert (created.relay, created.output_path, created.live_timer_period_us) == (relay, None, 5)
        channel = await world.does(
            control.EnableChannel(
                session="s",
                domain=Domain.USER_SPACE,
                channel="c",
                attributes=ChannelAttributes(switch_timer_period_us=7),
            )
        )
        assert channel.attributes.switch_timer_period_us == 0

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "changes",
    [
        {"relay": RelayOutput(address="localhost")},
        {"relay": RelayOutput(address="127.0.0.1", control_port=0)},
        {"relay": RelayOutput(address="127.0.0.1", data_port=65536)},
        {"relay": RelayOutput(address="::1", control_port=5, data_port=5)},
        {"relay": RelayOutput(address="::1", subdirectory="a/../b")},
        {"relay": RelayOutput(address="::1", subdirectory="..")},
        {"relay": RelayOutput(address="::1", subdirectory="a\0b")},
        {"relay": RelayOutput(address="::1", subdirectory="a" * 4096)},
        {"relay": FleetOutput(address="localhost")},
        {"relay": FleetOutput(address="::1", port=0)},
        {"relay": FleetOutput(address="::1", port=65536)},
        {"relay": FleetOutput(address="::1", subdirectory="../b")},
        {"relay": FleetOutput(address="::1", spool_size_bytes=-1)},
        {"relay": FleetOutput(address="::1", spool_size_bytes=2**63)},
        {"relay": RELAY, "has_output": False},
        {"relay": RELAY, "output_path": "/tmp/x"},
        {"live_timer_period_us": 1},
        {"relay": RELAY, "live_timer_period_us": -1},
        {"relay": RELAY, "live_timer_period_us": 2**32},
    ],
)
def test_a_relay_daemon_that_cannot_be_is_refused(changes: dict[str, Any]) -> None:
    async def scenario() -> None:
        world = World()
        with pytest.raises(InvalidArgument):
            await world.does(control.CreateSession(name="s", **changes))
        assert (await world.does(control.ListSessions())).sessions == ()

    asyncio.run(scenario())
