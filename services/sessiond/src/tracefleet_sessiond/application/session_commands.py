"""Carry out what clients ask: each request becomes a change of a session and a request to the tracer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import msgspec

from tracefleet_common.errors import ErrorCode, TracefleetError, Unsupported, WrongState
from tracefleet_common.messages import sessiond_control as control
from tracefleet_common.messages.envelope import Done
from tracefleet_common.model.event_rules import BufferOwnership, ChannelAttributes, Domain
from tracefleet_sessiond.application.ports import Caller, ChannelTotals, Tracer
from tracefleet_sessiond.application.sessions import Sessions
from tracefleet_sessiond.domain.channel import DEFAULT_CHANNEL_NAME, Channel, checked_rule
from tracefleet_sessiond.domain.session import RecordingSession, SessionEvent

log = logging.getLogger("tracefleet.sessiond.commands")

DAEMON = Caller(uid=0, gid=0, pid=0)  # the daemon's own commands may do anything


def _check_domain(domain: Domain) -> None:
    if domain is Domain.KERNEL:
        raise Unsupported("Kernel tracing is not available", ErrorCode.KERNEL_NOT_AVAILABLE)
    if domain is not Domain.USER_SPACE:
        raise Unsupported(f"The {domain.value} domain is not supported by this version", ErrorCode.UNSUPPORTED_DOMAIN)


class SessionCommands:
    """The use cases. Everything a client can ask comes through `execute`."""

    def __init__(
        self,
        sessions: Sessions,
        tracer: Tracer,
        describe_daemon: Callable[[Sessions, Tracer], control.DaemonInfo],
    ) -> None:
        self._sessions = sessions
        self._tracer = tracer
        self._describe_daemon = describe_daemon
        self._background: set[asyncio.Task[None]] = set()
        self._handlers: dict[type, Callable[[Any, Caller], Awaitable[msgspec.Struct]]] = {
            control.CreateSession: self._create_session,
            control.DestroySession: self._destroy_session,
            control.StartSession: self._start_session,
            control.StopSession: self._stop_session,
            control.EnableChannel: self._enable_channel,
            control.DisableChannel: self._disable_channel,
            control.EnableEvent: self._enable_event,
            control.DisableEvent: self._disable_event,
            control.ListSessions: self._list_sessions,
            control.DescribeSession: self._describe_session,
            control.ListTracepoints: self._list_tracepoints,
            control.DescribeDaemon: self._describe,
        }

    async def execute(self, request: msgspec.Struct, caller: Caller) -> msgspec.Struct:
        """The reply to `request`. Raises a TracefleetError; then nothing has changed."""
        return await self._handlers[type(request)](request, caller)

    async def destroy_all(self) -> None:
        """Orderly end of the daemon: every session is destroyed, with its last data written."""
        await asyncio.gather(*self._background, return_exceptions=True)
        for session in self._sessions:
            try:
                async with self._sessions.locked(session.name, DAEMON) as held:
                    await self._destroy(held)
            except TracefleetError as error:
                log.error("Cannot destroy session: session=%s, reason=%s", session.name, error)

    # ---- sessions ----

    async def _create_session(self, request: control.CreateSession, caller: Caller) -> msgspec.Struct:
        session = self._sessions.create(request, caller)
        self._tracer.warm_up()
        log.info("Created session: session=%s, output=%s", session.name, session.output_path)
        return _session_info(session)

    async def _destroy_session(self, request: control.DestroySession, caller: Caller) -> msgspec.Struct:
        async with self._sessions.locked(request.session, caller) as session:
            if request.is_waiting:
                return await self._destroy(session)
            was_active = session.is_active
        self._in_background(request.session, self._destroy)
        return _session_stopped(session, was_active, {}, [])

    async def _destroy(self, session: RecordingSession) -> control.SessionStopped:
        was_active = session.is_active
        session.apply(SessionEvent.DESTROY)
        try:
            warnings = await self._tracer.stop(session) if was_active else []
            warnings += await self._tracer.destroy(session)
            totals = await self._tracer.totals(session)
        finally:
            # Whatever went wrong on the way, the session is gone and its name free.
            self._tracer.forget(session)
            self._sessions.forget(session)
        log.info("Destroyed session: session=%s", session.name)
        return _session_stopped(session, was_active, totals, warnings)

    async def _start_session(self, request: control.StartSession, caller: Caller) -> msgspec.Struct:
        async with self._sessions.locked(request.session, caller) as session:
            had_been_started = session.has_been_started
            session.apply(SessionEvent.START)
            try:
                await self._tracer.prepare_output(session)
            except TracefleetError:
                session.apply(SessionEvent.STOP)
                session.has_been_started = had_been_started
                raise
            warnings = await self._tracer.start(session)
        log.info("Started session: session=%s", session.name)
        return control.SessionStarted(session=session.name, warnings=tuple(warnings))

    async def _stop_session(self, request: control.StopSession, caller: Caller) -> msgspec.Struct:
        async with self._sessions.locked(request.session, caller) as session:
            session.apply(SessionEvent.STOP)
            warnings = await self._tracer.stop(session)
            if request.is_waiting:
                warnings += await self._tracer.drain(session)
            else:
                self._in_background(session.name, self._drain)
            totals = await self._tracer.totals(session)
        log.info("Stopped session: session=%s", session.name)
        return _session_stopped(session, True, totals, warnings)

    async def _drain(self, session: RecordingSession) -> None:
        if not session.is_active:
            for warning in await self._tracer.drain(session):
                log.warning("After stop: session=%s, warning=%s", session.name, warning)

    def _in_background(self, name: str, work: Callable[[RecordingSession], Awaitable[object]]) -> None:
        """Do `work` on the session when it is its turn, after the reply to the client."""

        async def attempt() -> None:
            try:
                async with self._sessions.locked(name, DAEMON) as session:
                    await work(session)
            except TracefleetError as error:
                log.error("Work that nobody waited for failed: session=%s, reason=%s", name, error)

        task = asyncio.create_task(attempt())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _list_sessions(self, _request: control.ListSessions, caller: Caller) -> msgspec.Struct:
        return control.SessionList(
            tuple(_session_info(session) for session in self._sessions if self._sessions.is_visible(session, caller))
        )

    async def _describe_session(self, request: control.DescribeSession, caller: Caller) -> msgspec.Struct:
        session = self._sessions.get(request.session, caller)
        domains: tuple[control.DomainInfo, ...] = ()
        # At the same time, because a consumer daemon that is stopped answers neither.
        totals, streaming = await asyncio.gather(self._tracer.totals(session), self._tracer.streaming(session))
        if session.channels:
            domains = (
                control.DomainInfo(
                    domain=Domain.USER_SPACE,
                    buffer_ownership=session.buffer_ownership or BufferOwnership.PER_USER,
                    channels=tuple(
                        _channel_info(
                            channel, totals.get(channel.name, ChannelTotals()), has_streams=request.has_streams
                        )
                        for channel in session.channels.values()
                    ),
                ),
            )
        return control.SessionDetails(
            session=_session_info(session),
            domains=domains,
            sums=_session_sums(totals.values()),
            streaming=streaming,
        )

    # ---- channels ----

    async def _enable_channel(self, request: control.EnableChannel, caller: Caller) -> msgspec.Struct:
        _check_domain(request.domain)
        async with self._sessions.locked(request.session, caller) as session:
            channel = session.channels.get(request.channel)
            if channel is not None and not channel.is_enabled:
                channel.is_enabled = True
                if session.is_active:
                    await self._tracer.apply_rules(session)
            else:
                channel = await self._add_channel(
                    session, request.channel, request.buffer_ownership, request.attributes, is_named=True
                )
        return _channel_info(channel, ChannelTotals())

    async def _add_channel(
        self,
        session: RecordingSession,
        name: str,
        ownership: BufferOwnership | None,
        attributes: ChannelAttributes,
        *,
        is_named: bool,
    ) -> Channel:
        channel, ownership = session.plan_channel(name, ownership, attributes)
        await self._tracer.check_channel(session, channel.attributes)
        session.add_channel(channel, ownership, is_named=is_named)
        return channel

    async def _disable_channel(self, request: control.DisableChannel, caller: Caller) -> msgspec.Struct:
        _check_domain(request.domain)
        async with self._sessions.locked(request.session, caller) as session:
            if not session.channels:
                raise WrongState(f"Session {session.name} has no channel", ErrorCode.NO_CHANNEL)
            channel = session.channel(request.channel)
            channel.is_enabled = False
            if session.is_active:
                await self._tracer.apply_rules(session)
        return Done()

    # ---- event rules ----

    async def _enable_event(self, request: control.EnableEvent, caller: Caller) -> msgspec.Struct:
        _check_domain(request.domain)
        async with self._sessions.locked(request.session, caller) as session:
            if request.channel is None:
                session.check_default_channel()
            rule = checked_rule(request.rule)
            name = DEFAULT_CHANNEL_NAME if request.channel is None else request.channel
            channel = session.channels.get(name)
            if channel is None:
                channel = await self._add_channel(
                    session, name, None, ChannelAttributes(), is_named=request.channel is not None
                )
            channel.enable_rule(rule)
            warnings = await self._tracer.apply_rules(session) if session.is_active else []
        return control.EventRuleEnabled(channel=channel.name, rule=rule, warnings=tuple(warnings))

    async def _disable_event(self, request: control.DisableEvent, caller: Caller) -> msgspec.Struct:
        _check_domain(request.domain)
        async with self._sessions.locked(request.session, caller) as session:
            channel = session.channel(request.channel)
            count = channel.disable_rules(request.pattern)
            if session.is_active:
                await self._tracer.apply_rules(session)
        return control.EventRulesDisabled(channel=channel.name, count=count)

    # ---- the rest ----

    async def _list_tracepoints(self, request: control.ListTracepoints, _caller: Caller) -> msgspec.Struct:
        _check_domain(request.domain)
        return control.TracepointList(tuple(await self._tracer.programs(has_fields=request.has_fields)))

    async def _describe(self, _request: control.DescribeDaemon, _caller: Caller) -> msgspec.Struct:
        return self._describe_daemon(self._sessions, self._tracer)


def _session_info(session: RecordingSession) -> control.SessionInfo:
    return control.SessionInfo(
        name=session.name,
        is_active=session.is_active,
        output_path=session.output_path,
        creation_time_s=session.creation_time_s,
        relay=session.relay,
        live_timer_period_us=session.live_timer_period_us,
    )


def _session_sums(totals: Iterable[ChannelTotals]) -> control.SessionSums:
    totals = list(totals)
    return control.SessionSums(
        recorded_packet_count=sum(total.packet_count for total in totals),
        recorded_bytes=sum(total.recorded_bytes for total in totals),
        discarded_event_count=sum(total.discarded_event_count for total in totals),
        lost_packet_count=sum(total.lost_packet_count for total in totals),
        unwritten_packet_count=sum(total.unwritten_packet_count for total in totals),
    )


def _channel_info(channel: Channel, totals: ChannelTotals, *, has_streams: bool = False) -> control.ChannelInfo:
    return control.ChannelInfo(
        name=channel.name,
        is_enabled=channel.is_enabled,
        attributes=channel.attributes,
        event_rules=tuple(
            control.EventRuleInfo(rule=rule, is_enabled=is_enabled) for rule, is_enabled in channel.rules.items()
        ),
        discarded_event_count=totals.discarded_event_count,
        lost_packet_count=totals.lost_packet_count,
        recorded_packet_count=totals.packet_count,
        recorded_bytes=totals.recorded_bytes,
        buffer_usage_lowest_bytes=totals.lowest_usage_bytes,
        buffer_usage_highest_bytes=totals.highest_usage_bytes,
        error=channel.error or totals.error,
        unwritten_packet_count=totals.unwritten_packet_count,
        streams=tuple(totals.streams) if has_streams else (),
    )


def _session_stopped(
    session: RecordingSession, was_active: bool, totals: dict[str, ChannelTotals], warnings: list[str]
) -> control.SessionStopped:
    books = []
    for channel in session.channels.values():
        total = totals.get(channel.name, ChannelTotals())
        books.append(
            control.ChannelBooks(
                domain=Domain.USER_SPACE,
                channel=channel.name,
                loss_mode=channel.loss_mode,
                discarded_event_count=total.discarded_event_count,
                lost_packet_count=total.lost_packet_count,
            )
        )
        if total.unwritten_packet_count:
            warnings.append(
                f"{total.unwritten_packet_count} packets of channel {channel.name} could not be written"
                f" ({total.error or 'their writer did not finish'})"
            )
    return control.SessionStopped(
        session=session.name,
        was_active=was_active,
        output_path=session.output_path,
        channels=tuple(books),
        warnings=tuple(warnings),
    )
