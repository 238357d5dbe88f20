"""The user-space tracing domain: programs, their sessions, and the traces they record into."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import socket
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from dataclasses import replace

from tracefleet_common.codecs import ust_commands
from tracefleet_common.codecs.tsdl import ClockDescription
from tracefleet_common.codecs.ust_commands import AppError, UstCode
from tracefleet_common.errors import ErrorCode, ResourceExhausted, TracefleetError, TransportError
from tracefleet_common.messages import consumerd_control as control
from tracefleet_common.messages.sessiond_control import (
    FieldInfo,
    ProgramInfo,
    StreamInfo,
    StreamingInfo,
    TracepointInfo,
)
from tracefleet_common.model.event_rules import BufferOwnership, ChannelAttributes
from tracefleet_sessiond.adapters.app_listener import Arrival
from tracefleet_sessiond.adapters.app_session import AppSession
from tracefleet_sessiond.adapters.app_socket import AppGone
from tracefleet_sessiond.adapters.application import Application
from tracefleet_sessiond.adapters.consumer import Consumer
from tracefleet_sessiond.adapters.trace_registry import TraceRegistry
from tracefleet_sessiond.application.ports import ChannelTotals
from tracefleet_sessiond.domain.channel import Channel
from tracefleet_sessiond.domain.session import RecordingSession

log = logging.getLogger("tracefleet.sessiond.ust")

# A relay daemon may be slow, and the consumer daemon waits for it; it answers itself within this time.
RELAY_DEADLINE_S = 45.0
SHARED_MEMORY_PATH = "/dev/shm"
TRACEPOINT_COUNT_MAX = 100_000  # of one program; a list without end must not fill our memory


def _add(totals: ChannelTotals, state: control.ChannelState) -> None:
    for stream in state.streams:
        totals.packet_count += stream.packet_count
        totals.recorded_bytes += stream.bytes
        totals.discarded_event_count += stream.discarded_event_count
        totals.lost_packet_count += stream.lost_packet_count
        totals.unwritten_packet_count += stream.unwritten_packet_count
    totals.error = state.error or totals.error


def _stream_info(trace: str, books: control.StreamBooks) -> StreamInfo:
    return StreamInfo(
        trace=trace,
        cpu=books.cpu,
        recorded_packet_count=books.packet_count,
        recorded_bytes=books.bytes,
        discarded_event_count=books.discarded_event_count,
        lost_packet_count=books.lost_packet_count,
        unwritten_packet_count=books.unwritten_packet_count,
    )


def _add_usage(totals: ChannelTotals, sample: control.BufferSample | None) -> None:
    if sample is None:
        return
    lowest, highest = totals.lowest_usage_bytes, totals.highest_usage_bytes
    totals.lowest_usage_bytes = sample.lowest_bytes if lowest is None else min(lowest, sample.lowest_bytes)
    totals.highest_usage_bytes = sample.highest_bytes if highest is None else max(highest, sample.highest_bytes)


class _SessionTraces:
    """What the tracer keeps of one session."""

    def __init__(self) -> None:
        self.registries: dict[tuple[int, ...], TraceRegistry] = {}
        self.app_sessions: dict[Application, AppSession] = {}
        self.closed_totals: dict[str, ChannelTotals] = {}
        self.closings: set[asyncio.Task[None]] = set()
        self.relay_key: int | None = None  # the consumer's key of the session at its relay daemon
        # Programs that were dropped while they lived: they may still be inside a record of these buffers.
        self.unreachable_pids: set[int] = set()


class UstTracer:
    """Implements the Tracer port."""

    def __init__(self, consumer: Consumer, clock: ClockDescription, *, app_deadline_s: float | None) -> None:
        self._consumer = consumer
        self._clock = clock
        self._app_deadline_s = app_deadline_s
        # A consumer daemon may still hold buffers of a session daemon that was killed: begin where it did not.
        self._keys = itertools.count(secrets.randbits(48))
        self._uuid = uuid.uuid4().bytes
        self._applications: dict[int, Application] = {}
        self._traces: dict[RecordingSession, _SessionTraces] = {}
        self._background: set[asyncio.Task[None]] = set()
        self._repairs: dict[TraceRegistry, asyncio.Task[None]] = {}
        consumer.on_notice = self._take_notice
        consumer.on_lost = self._consumer_lost

    # ---- programs come and go ----

    def take_arrival(self, arrival: Arrival) -> None:
        """A program has registered: bring it up to date with every active session, then let it go on."""
        predecessor = self._applications.get(arrival.credentials.pid)
        if predecessor is not None:
            predecessor.close("it registered anew (exec)")
        application = Application(arrival, deadline_s=self._app_deadline_s, on_end=self._application_ended)
        self._applications[application.pid] = application
        for traces in self._traces.values():
            traces.unreachable_pids.discard(application.pid)
        task = asyncio.create_task(self._welcome(application))
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def _welcome(self, application: Application) -> None:
        try:
            # Commands know the program already; they wait until it is what they would take it for.
            async with application.lock:
                await application.read_tracer_version()
                for session in list(self._traces):
                    await self._synchronise(application, session)
                await application.request(ust_commands.register_done())
            log.info("Registered a program: program=%s", application)
        except AppGone as error:
            log.debug("A program went away while it registered: program=%s, reason=%s", application, error)
        except TracefleetError as error:
            log.warning("Cannot register a program: program=%s, reason=%s", application, error)
            application.close(str(error))

    def _application_ended(self, application: Application, reason: str) -> None:
        log.info("A program went away: program=%s, reason=%s", application, reason)
        if self._applications.get(application.pid) is application:
            del self._applications[application.pid]
        may_be_inside = not application.has_left
        for traces in self._traces.values():
            app_session = traces.app_sessions.pop(application, None)
            if app_session is None:
                continue
            if app_session.registry.ownership is BufferOwnership.PER_PROCESS:
                self._close_in_background(traces, app_session.registry)
            elif may_be_inside:
                traces.unreachable_pids.add(application.pid)

    def _close_in_background(self, traces: _SessionTraces, registry: TraceRegistry) -> None:
        for key, known in list(traces.registries.items()):
            if known is registry:
                del traces.registries[key]
        task = asyncio.create_task(self._close(traces, registry, is_quiescent=True))
        traces.closings.add(task)
        task.add_done_callback(traces.closings.discard)

    async def _close(self, traces: _SessionTraces, registry: TraceRegistry, *, is_quiescent: bool) -> None:
        for channel, state in await registry.close(is_quiescent=is_quiescent):
            _add(traces.closed_totals.setdefault(channel.name, ChannelTotals()), state)

    # ---- the Tracer port ----

    def warm_up(self) -> None:
        """Start the consumer daemon while the person types the next command."""

        async def ensure() -> None:
            with contextlib.suppress(TracefleetError):
                await self._consumer.ensure()

        task = asyncio.create_task(ensure())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    async def check_channel(self, session: RecordingSession, attributes: ChannelAttributes) -> None:
        """Raises ResourceExhausted when the shared memory cannot hold one set of such buffers.

        Raises TransportError when the session's relay daemon is not there.
        """
        info = await self._consumer.ensure()
        await self._connect_relay(session)
        assert attributes.sub_buffer_size_bytes is not None
        assert attributes.sub_buffer_count is not None
        # One sub-buffer more than the writers see belongs to the reader.
        needed = info.cpu_count * attributes.sub_buffer_size_bytes * (attributes.sub_buffer_count + 1)
        memory = os.statvfs(SHARED_MEMORY_PATH)
        available = memory.f_bavail * memory.f_frsize
        if needed > available:
            raise ResourceExhausted(
                f"The channel's ring buffers need {needed} bytes of shared memory ({info.cpu_count} CPUs,"
                f" {attributes.sub_buffer_count} + 1 sub-buffers of {attributes.sub_buffer_size_bytes} bytes);"
                f" {SHARED_MEMORY_PATH} has {available} bytes left",
                ErrorCode.UST_CHANNEL_FAIL,
            )

    async def _connect_relay(self, session: RecordingSession) -> None:
        traces = self._traces.setdefault(session, _SessionTraces())
        if session.relay is None or traces.relay_key is not None:
            return
        relay_key = next(self._keys)
        await self._consumer.request(
            control.OpenRelaySession(
                relay_key=relay_key,
                output=session.relay,
                session_name=session.name,
                host_name=socket.gethostname(),
                has_creation_time_in_name=session.has_default_name,
                creation_time_s=session.creation_time_s,
                sessiond_uuid=self._uuid,
                session_id=session.session_id,
                live_timer_period_us=session.live_timer_period_us,
            ),
            deadline_s=RELAY_DEADLINE_S,
        )
        traces.relay_key = relay_key

    async def prepare_output(self, session: RecordingSession) -> None:
        """Make the session's output directory, or its trace chunk at the relay daemon."""
        relay_key = self._relay_key(session)
        if relay_key is not None:
            await self._consumer.request(control.PrepareRelaySession(relay_key), deadline_s=RELAY_DEADLINE_S)
        if session.output_path is None:
            return
        await self._consumer.ensure()
        making = asyncio.create_task(self._make_buffers(session))
        try:
            await self._consumer.request(
                control.PrepareOutput(
                    output_root=session.output_path, owner_uid=session.owner_uid, owner_gid=session.owner_gid
                )
            )
        finally:
            await making

    async def _make_buffers(self, session: RecordingSession) -> None:
        """Somebody waits for `start`: let memory be filled while the disk makes directories.

        Only what programs share: it is closed with the session, whoever of them is still there. What fails is tried
        again, and told, when a program needs it.
        """
        if session.buffer_ownership is BufferOwnership.PER_PROCESS:
            return
        traces = self._traces.setdefault(session, _SessionTraces())
        with contextlib.suppress(TracefleetError):
            for application in [known for known in self._applications.values() if known.tracer_version is not None]:
                registry = self._registry(traces, session, application)
                for channel in session.channels.values():
                    await registry.buffered(channel)

    async def start(self, session: RecordingSession) -> list[str]:
        """Every program records from now on; those that cannot are named in the warnings."""
        traces = self._traces.setdefault(session, _SessionTraces())
        keys = tuple(key for registry in traces.registries.values() for key in registry.channel_keys)
        if keys:
            await self._consumer.request(control.ResumeChannels(keys))
        return await self.apply_rules(session)

    async def apply_rules(self, session: RecordingSession) -> list[str]:
        """Bring every program up to date, all of them at the same time."""
        return await self._for_each(
            list(self._applications.values()),
            lambda application: self._synchronise_or_raise(application, session),
        )

    async def stop(self, session: RecordingSession) -> list[str]:
        """Take every program out of the session's probes."""
        traces = self._traces.get(session)
        if traces is None:
            return []

        async def stop_one(application: Application) -> None:
            async with application.lock:
                app_session = traces.app_sessions.get(application)
                if app_session is not None:
                    await app_session.stop()

        return await self._for_each(list(traces.app_sessions), stop_one)

    async def drain(self, session: RecordingSession) -> list[str]:
        """Write everything that the buffers hold."""
        traces = self._traces.get(session)
        if traces is None:
            return []
        warnings = []
        await self._finish_closings(traces)
        for registry in list(traces.registries.values()):
            if not registry.channels:
                continue
            is_quiescent = not self._unreachable(traces)
            try:
                states = await self._consumer.channel_states(
                    control.DrainChannels(
                        channel_keys=registry.channel_keys, is_final_flush=True, is_quiescent=is_quiescent
                    )
                )
            except TracefleetError as error:
                warnings.append(f"The buffers could not be read to their end: {error}")
                continue
            for state in states:
                if state.error is not None:
                    warnings.append(state.error)
        if traces.relay_key is not None:
            try:
                await self._consumer.request(control.SettleRelaySession(traces.relay_key), deadline_s=RELAY_DEADLINE_S)
            except TracefleetError as error:
                warnings.append(str(error))
        if self._unreachable(traces):
            pids = ", ".join(str(pid) for pid in sorted(traces.unreachable_pids))
            warnings.append(f"Stopped programs may still be inside an event record: pids {pids}")
        return list(dict.fromkeys(warnings))

    async def destroy(self, session: RecordingSession) -> list[str]:
        """Release the session in every program, write the last data, give the buffers up."""
        traces = self._traces.get(session)
        if traces is None:
            return []

        async def release_one(application: Application) -> None:
            async with application.lock:
                app_session = traces.app_sessions.get(application)
                if app_session is not None:
                    await app_session.release()

        warnings = await self._for_each(list(traces.app_sessions), release_one)
        traces.app_sessions.clear()
        await self._finish_closings(traces)
        is_quiescent = not self._unreachable(traces)
        await asyncio.gather(
            *(self._close(traces, registry, is_quiescent=is_quiescent) for registry in traces.registries.values())
        )
        traces.registries.clear()
        if traces.relay_key is not None:
            try:
                await self._consumer.request(control.CloseRelaySession(traces.relay_key), deadline_s=RELAY_DEADLINE_S)
            except TracefleetError as error:
                count = sum(total.unwritten_packet_count for total in traces.closed_totals.values())
                lost = f"; {count} packets are lost, which it did not take" if count else ""
                raise TransportError(f"{error}{lost}", ErrorCode.ROTATION_FAIL_CONSUMER) from None
        return warnings

    def _relay_key(self, session: RecordingSession) -> int | None:
        traces = self._traces.get(session)
        return None if traces is None else traces.relay_key

    async def totals(self, session: RecordingSession) -> dict[str, ChannelTotals]:
        """The books of the buffers that are open, and of those that were closed with their processes."""
        traces = self._traces.get(session)
        if traces is None:
            return {}
        totals = {name: replace(closed, streams=[]) for name, closed in traces.closed_totals.items()}
        registries = list(traces.registries.values())
        channels = [(registry.relative_path, each) for registry in registries for each in registry.channels.values()]
        usages = {key: sample for registry in registries for key, sample in registry.usages.items()}
        if channels:
            keys = tuple(channel.channel_key for _, channel in channels)
            try:
                sampled: control.ChannelsDrained = await self._consumer.sample(control.SampleChannels(keys))
            except TracefleetError as error:
                for _, channel in channels:
                    totals.setdefault(channel.channel.name, ChannelTotals()).error = str(error)
            else:
                for (trace, channel), state in zip(channels, sampled.channels, strict=True):
                    total = totals.setdefault(channel.channel.name, ChannelTotals())
                    _add(total, state)
                    _add_usage(total, usages.get(state.channel_key))
                    total.streams += (_stream_info(trace, books) for books in state.streams)
        return totals

    async def streaming(self, session: RecordingSession) -> StreamingInfo | None:
        """What the consumer daemon knows of the relay daemon; None: it is not to be asked, or does not know."""
        relay_key = self._relay_key(session)
        if relay_key is None:
            return None
        try:
            sampled: control.RelaySessionsSampled = await self._consumer.sample(
                control.SampleRelaySessions((relay_key,))
            )
        except TracefleetError as error:
            log.warning("Cannot tell how a session is streamed: session=%s, reason=%s", session.name, error)
            return None
        for state in sampled.sessions:
            return StreamingInfo(**{name: getattr(state, name) for name in StreamingInfo.__struct_fields__})
        return None

    def forget(self, session: RecordingSession) -> None:
        """The session was destroyed and its last books were read."""
        self._traces.pop(session, None)

    async def programs(self, *, has_fields: bool) -> list[ProgramInfo]:
        """Ask every program, all of them at the same time."""
        applications = sorted(self._applications.values(), key=lambda application: application.pid)
        return list(await asyncio.gather(*(self._describe(application, has_fields) for application in applications)))

    def program_count(self) -> int:
        """Programs registered now."""
        return len(self._applications)

    def consumers(self) -> tuple[str, ...]:
        """One line per consumer daemon."""
        return (self._consumer.describe(),)

    async def close(self) -> None:
        """Let go of every program and of the consumer daemon."""
        for task in (*self._background, *self._repairs.values()):
            task.cancel()
        for application in list(self._applications.values()):
            application.close("the session daemon ends")
        await self._consumer.close()

    # ---- one program ----

    async def _synchronise(self, application: Application, session: RecordingSession) -> None:
        """As _bring_up_to_date, for a program that comes by itself: what goes wrong is only logged."""
        try:
            await self._bring_up_to_date(application, session)
        except AppGone:
            raise
        except TracefleetError as error:
            log.error("A program cannot record: program=%s, session=%s, reason=%s", application, session.name, error)

    async def _synchronise_or_raise(self, application: Application, session: RecordingSession) -> None:
        async with application.lock:
            await self._bring_up_to_date(application, session)

    async def _bring_up_to_date(self, application: Application, session: RecordingSession) -> None:
        """The caller holds the application's lock."""
        traces = self._traces.get(session)
        if traces is None or not session.is_active or not application.is_alive:
            return
        app_session = traces.app_sessions.get(application)
        if app_session is None:
            registry = self._registry(traces, session, application)
            app_session = AppSession(application, session, registry)
            traces.app_sessions[application] = app_session
        await app_session.synchronise()

    def _registry(self, traces: _SessionTraces, session: RecordingSession, application: Application) -> TraceRegistry:
        ownership = session.buffer_ownership or BufferOwnership.PER_USER
        bits = application.registration.bits_per_long
        # Processes share a trace when they share a user and a word size; a process of its own has a unique key.
        key = (
            (application.credentials.uid, bits)
            if ownership is BufferOwnership.PER_USER
            else (application.credentials.uid, bits, application.pid, id(application))
        )
        registry = traces.registries.get(key)
        if registry is None:
            assert application.tracer_version is not None
            registry = TraceRegistry(
                session=session,
                ownership=ownership,
                registration=application.registration,
                credentials=application.credentials,
                registration_time_s=application.registration_time_s,
                tracer_version=application.tracer_version,
                clock=self._clock,
                consumer=self._consumer,
                relay_key=traces.relay_key,
                new_key=lambda: next(self._keys),
            )
            traces.registries[key] = registry
        return registry

    async def _describe(self, application: Application, has_fields: bool) -> ProgramInfo:
        tracepoints: dict[str, TracepointInfo] = {}
        error = None
        try:
            async with application.lock:
                if has_fields:
                    await self._list_fields(application, tracepoints)
                else:
                    await self._list_tracepoints(application, tracepoints)
        except TracefleetError as failure:
            error = str(failure)
        return ProgramInfo(
            pid=application.pid,
            name=application.registration.name,
            bits_per_word=application.registration.bits_per_long,
            uid=application.credentials.uid,
            tracepoints=tuple(tracepoints[name] for name in sorted(tracepoints)),
            error=error,
        )

    async def _list_tracepoints(self, application: Application, tracepoints: dict[str, TracepointInfo]) -> None:
        reply = await application.request(ust_commands.tracepoint_list())
        handle = reply.return_value
        async for payload in _entries(application, lambda: ust_commands.tracepoint_list_get(handle)):
            name, log_level = ust_commands.decode_tracepoint(payload)
            tracepoints[name] = TracepointInfo(name=name, log_level=log_level)
        await application.request(ust_commands.release(handle))

    async def _list_fields(self, application: Application, tracepoints: dict[str, TracepointInfo]) -> None:
        reply = await application.request(ust_commands.tracepoint_field_list())
        handle = reply.return_value
        async for payload in _entries(application, lambda: ust_commands.tracepoint_field_list_get(handle)):
            entry = ust_commands.decode_field_list_entry(payload[-ust_commands.FIELD_LIST_ENTRY_SIZE_BYTES :])
            known = tracepoints.get(entry.event_name)
            fields = known.fields or () if known is not None else ()
            if entry.field_name:
                fields += (FieldInfo(name=entry.field_name, kind=entry.kind, is_recorded=entry.is_recorded),)
            tracepoints[entry.event_name] = TracepointInfo(
                name=entry.event_name, log_level=entry.log_level, fields=fields
            )
        await application.request(ust_commands.release(handle))

    async def _for_each(
        self, applications: Sequence[Application], action: Callable[[Application], Awaitable[None]]
    ) -> list[str]:
        """Run `action` for all at once; what failed, as sentences, each once."""

        async def attempt(application: Application) -> str | None:
            try:
                await action(application)
            except AppGone as error:
                # A program that ended is no reason to warn; one that lives and does not answer is.
                return f"{application}: {error}" if _is_living(application.pid) else None
            except AppError as error:
                if error.ust_code == UstCode.EXITING:
                    return None
                return f"{application}: {error}"
            except ResourceExhausted as error:
                return str(error)
            except TracefleetError as error:
                return f"{application}: {error}"
            return None

        results = await asyncio.gather(*(attempt(application) for application in applications))
        return list(dict.fromkeys(result for result in results if result is not None))

    # ---- buffers in trouble ----

    def _unreachable(self, traces: _SessionTraces) -> bool:
        traces.unreachable_pids = {pid for pid in traces.unreachable_pids if _is_living(pid)}
        return bool(traces.unreachable_pids)

    async def _finish_closings(self, traces: _SessionTraces) -> None:
        if traces.closings:
            await asyncio.gather(*traces.closings, return_exceptions=True)

    def _take_notice(self, notice: control.ConsumerdNotice) -> None:
        if isinstance(notice, control.BufferUsage):
            self._take_usage(notice)
            return
        found = self._find_channel(notice.channel_key)
        if found is None:
            return
        traces, registry, channel = found
        match notice:
            case control.JammedStream():
                if registry not in self._repairs:
                    task = asyncio.create_task(self._repair(traces, registry))
                    self._repairs[registry] = task
                    task.add_done_callback(lambda _task: self._repairs.pop(registry, None))
            case control.ChannelTrouble(error=error):
                channel.error = error
                if error is not None:
                    log.error("A channel has trouble: channel=%s, reason=%s", channel.name, error)
                else:
                    log.warning("A channel works again: channel=%s", channel.name)

    def _take_usage(self, notice: control.BufferUsage) -> None:
        registries = (registry for traces in self._traces.values() for registry in traces.registries.values())
        usages_by_key = {key: registry.usages for registry in registries for key in registry.usages}
        for sample in notice.samples:
            usages = usages_by_key.get(sample.channel_key)
            if usages is not None:  # it is not another session daemon's, and not closed
                usages[sample.channel_key] = sample

    def _find_channel(self, channel_key: int) -> tuple[_SessionTraces, TraceRegistry, Channel] | None:
        for traces in self._traces.values():
            for registry in traces.registries.values():
                for buffered in registry.channels.values():
                    if buffered.channel_key == channel_key:
                        return traces, registry, buffered.channel
        return None

    async def _repair(self, traces: _SessionTraces, registry: TraceRegistry) -> None:
        """Once every living writer has left its probes, what is still uncommitted has no writer any more."""
        if self._unreachable(traces):
            return

        async def leave_probes(application: Application) -> None:
            await application.request(ust_commands.wait_quiescent())

        writers = [
            application for application, app_session in traces.app_sessions.items() if app_session.registry is registry
        ]
        warnings = await self._for_each(writers, leave_probes)
        if warnings or self._unreachable(traces):
            return
        try:
            await self._consumer.channel_states(control.RepairChannels(registry.channel_keys))
            log.warning("Repaired buffers that a killed program had jammed: session=%s", registry.session.name)
        except TracefleetError as error:
            log.error("Cannot repair jammed buffers: session=%s, reason=%s", registry.session.name, error)

    def _consumer_lost(self) -> None:
        for channel in self._all_channels():
            channel.error = "The consumer daemon that owned the buffers is gone"

    def _all_channels(self) -> Iterable[Channel]:
        for traces in self._traces.values():
            for registry in traces.registries.values():
                for buffered in registry.channels.values():
                    yield buffered.channel


async def _entries(
    application: Application, next_request: Callable[[], ust_commands.AppRequest]
) -> AsyncIterator[bytes]:
    """The payloads of a list in the program, until it says that there are no more."""
    for _ in range(TRACEPOINT_COUNT_MAX):
        try:
            reply = await application.request(next_request())
        except AppError as error:
            if error.ust_code == UstCode.NO_ENTRY:
                return
            raise
        yield reply.payload


def _is_living(pid: int) -> bool:
    """Whether the process exists and is not a zombie, which runs no code any more."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            state = file.read().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return False
    return state not in (b"Z", b"X")
