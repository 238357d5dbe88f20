"""The commands of a session daemon as methods, written down once for both clients."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from tracefleet_common.messages.envelope import Done
from tracefleet_common.messages.sessiond_control import (
    ChannelInfo,
    CreateSession,
    DaemonInfo,
    DescribeDaemon,
    DescribeSession,
    DestroySession,
    DisableChannel,
    DisableEvent,
    EnableChannel,
    EnableEvent,
    EventRuleEnabled,
    EventRulesDisabled,
    ListSessions,
    ListTracepoints,
    SessionDetails,
    SessionInfo,
    SessionList,
    SessionStarted,
    SessionStopped,
    StartSession,
    StopSession,
    TracepointList,
)

if TYPE_CHECKING:
    import msgspec

    from tracefleet_common.client.asynchronous import AsyncClient
    from tracefleet_common.client.plain import Connection

Arguments = ParamSpec("Arguments")
Reply = TypeVar("Reply")

DEADLINE_S = 60.0
# The daemon answers when the last data of every application is written: as long as a slow disk needs.
DATA_DEADLINE_S = 3600.0


class Command(Generic[Arguments, Reply]):
    """A method that takes the fields of a request and gives the reply: at once, or to be awaited."""

    def __init__(
        self, request: Callable[Arguments, msgspec.Struct], reply: type[Reply], deadline_s: float = DEADLINE_S
    ) -> None:
        self._request = request
        self._reply = reply
        self._deadline_s = deadline_s

    @overload
    def __get__(self, client: Connection, owner: type[Connection]) -> Callable[Arguments, Reply]: ...
    @overload
    def __get__(self, client: AsyncClient, owner: type[AsyncClient]) -> Callable[Arguments, Awaitable[Reply]]: ...

    def __get__(self, client: Any, owner: object) -> Any:
        def call(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Any:
            return client.ask(self._request(*args, **kwargs), self._reply, self._deadline_s)

        return call


class SessiondCommands:
    """Every method raises the TracefleetError that the daemon sent, or TransportError."""

    create_session = Command(CreateSession, SessionInfo)
    destroy_session = Command(DestroySession, SessionStopped, DATA_DEADLINE_S)
    start_session = Command(StartSession, SessionStarted)
    stop_session = Command(StopSession, SessionStopped, DATA_DEADLINE_S)
    enable_channel = Command(EnableChannel, ChannelInfo)
    disable_channel = Command(DisableChannel, Done)
    enable_event = Command(EnableEvent, EventRuleEnabled)
    disable_event = Command(DisableEvent, EventRulesDisabled)
    list_sessions = Command(ListSessions, SessionList)
    describe_session = Command(DescribeSession, SessionDetails)
    list_tracepoints = Command(ListTracepoints, TracepointList)
    describe_daemon = Command(DescribeDaemon, DaemonInfo)
