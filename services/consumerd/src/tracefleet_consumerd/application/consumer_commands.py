"""Which command is whose, and who may give one."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable

import msgspec

import tracefleet_common
from tracefleet_common.errors import LocalProtocolError, PermissionRefused
from tracefleet_common.messages import consumerd_control as control
from tracefleet_consumerd.application.channel_commands import ChannelCommands
from tracefleet_consumerd.application.ports import BufferLibrary, MonotonicClock, Requester
from tracefleet_consumerd.application.registries import Registries, Registry
from tracefleet_consumerd.application.registry_commands import RegistryCommands
from tracefleet_consumerd.application.relay_commands import RelayCommands
from tracefleet_consumerd.domain.attendance import Attendance

log = logging.getLogger("tracefleet.consumerd.commands")

# Before a process is killed that does not end when told, it has about 5 s.
LAST_DRAIN_DEADLINE_S = 3.0
ABANDONED_DRAIN_DEADLINE_S = 50.0


class ConsumerCommands:
    """Carries out what session daemons ask for."""

    def __init__(
        self,
        registries: Registries,
        registry_commands: RegistryCommands,
        channel_commands: ChannelCommands,
        relay_commands: RelayCommands,
        library: BufferLibrary,
        attendance: Attendance,
        clock: MonotonicClock,
        *,
        user_id: int,
    ) -> None:
        self._registries = registries
        self._registry_commands = registry_commands
        self._channel_commands = channel_commands
        self._relay_commands = relay_commands
        self._library = library
        self._attendance = attendance
        self._clock = clock
        self._user_id = user_id

    async def execute(self, requester: Requester, request: msgspec.Struct) -> msgspec.Struct:
        """The reply. Raises TracefleetError."""
        if requester.uid not in (0, self._user_id):
            raise PermissionRefused("Only root and the user of the consumer daemon may command it")
        self._note_use(requester, request)
        registries, channels, relays = self._registry_commands, self._channel_commands, self._relay_commands
        match request:
            case control.PrepareOutput():
                return await registries.prepare_output(request)
            case control.OpenRelaySession():
                reply = await relays.open(request)
                self._note_registry_use(requester, request.relay_key)
                return reply
            case control.PrepareRelaySession():
                return await relays.prepare(request)
            case control.SettleRelaySession():
                return await relays.settle(request)
            case control.SampleRelaySessions():
                return await relays.sample(request)
            case control.CloseRelaySession():
                self._attendance.registry_closed(request.relay_key)
                return await relays.close(request)
            case control.OpenRegistry():
                await self._make_way(self._registries.find_registry(request.registry_key))
                reply = await registries.open(requester, request)
                self._note_registry_use(requester, request.registry_key)
                return reply
            case control.CloseRegistry():
                reply = await registries.close(request)
                self._attendance.registry_closed(request.registry_key)
                return reply
            case control.CreateChannel():
                channel = self._registries.find_channel(request.channel_key)
                await self._make_way(None if channel is None else channel.registry)
                return await channels.create(requester, request)
            case control.SetRecordLayouts():
                return await channels.set_record_layouts(request)
            case control.DrainChannels():
                return await channels.drain(request)
            case control.ResumeChannels():
                return await channels.resume(request)
            case control.SampleChannels():
                return await channels.sample(request)
            case control.RepairChannels():
                return await channels.repair(request)
            case control.CloseChannels():
                return await channels.close(request)
            case control.DescribeConsumer():
                return self._describe()
            case _:
                raise LocalProtocolError(f"No command is meant by {type(request).__name__}")

    async def _make_way(self, registry: Registry | None) -> None:
        """A session daemon that starts anew may choose keys that are taken by what the one before it left."""
        if registry is not None and self._attendance.is_abandoned(registry.key):
            log.warning("Closing what a session daemon left, its key is wanted: registry-key=%d", registry.key)
            await self._close_registries([registry.key], ABANDONED_DRAIN_DEADLINE_S)

    def _note_use(self, requester: Requester, request: msgspec.Struct) -> None:
        """A registry that is spoken of is looked after by whoever spoke."""
        match request:
            case control.CreateChannel(registry_key=key):
                self._note_registry_use(requester, self._registries.registry(key).key)
            case (
                control.DrainChannels(channel_keys=keys)
                | control.ResumeChannels(channel_keys=keys)
                | control.SampleChannels(channel_keys=keys)
                | control.RepairChannels(channel_keys=keys)
                | control.CloseChannels(channel_keys=keys)
            ):
                for key in keys:
                    if (channel := self._registries.find_channel(key)) is not None:
                        self._note_registry_use(requester, channel.registry.key)
            case control.PrepareRelaySession(relay_key=key) | control.SettleRelaySession(relay_key=key) if (
                key in self._registries.relays()
            ):
                self._note_registry_use(requester, key)

    def _note_registry_use(self, requester: Requester, registry_key: int) -> None:
        self._attendance.registry_used(registry_key, requester.identity, self._clock.now_s())

    def _describe(self) -> control.ConsumerInfo:
        return control.ConsumerInfo(
            version=tracefleet_common.__version__,
            pid=os.getpid(),
            bits_per_word=self._library.bits_per_word,
            cpu_count=self._library.cpu_count,
            registry_count=self._registries.registry_count,
            channel_count=self._registries.channel_count,
            has_repair=self._library.has_repair,
        )

    # ---- without being asked ----

    def peer_arrived(self, requester: Requester) -> None:
        """A connection said hello."""
        self._attendance.peer_arrived(requester.identity)

    def peer_left(self, requester: Requester) -> None:
        """A connection ended. What it kept goes on recording for now."""
        self._attendance.peer_left(requester.identity, self._clock.now_s())

    async def poll_relays(self) -> None:
        """See whether the relay daemons are there."""
        await self._relay_commands.poll()

    async def close_abandoned(self) -> None:
        """Close the registries that nobody looked after for too long."""
        overdue = self._attendance.overdue_registries(self._clock.now_s())
        if overdue:
            log.warning("Closing what no session daemon came back for: registry-count=%d", len(overdue))
            await self._close_registries(overdue, ABANDONED_DRAIN_DEADLINE_S)

    async def close_all(self) -> None:
        """Write what is complete, within the deadline, and give everything up."""
        keys = [registry.key for registry in self._registries.all_registries()]
        await self._close_registries([*keys, *self._registries.relays()], LAST_DRAIN_DEADLINE_S)

    async def _close_registries(self, keys: Iterable[int], deadline_s: float) -> None:
        keys = list(keys)
        relay_keys = [key for key in keys if key in self._registries.relays()]
        registries = [self._registries.registry(key) for key in keys if key not in relay_keys]
        channels = [channel for registry in registries for channel in self._registries.channels_of(registry)]
        # Programs may be inside an event record now, so nothing may be repaired.
        states = await self._channel_commands.close_channels(channels, is_quiescent=False, deadline_s=deadline_s)
        for state in states.channels:
            if state.error is not None:
                log.warning("Closed a channel with trouble: channel-key=%d, reason=%s", state.channel_key, state.error)
        await asyncio.gather(*(self._registry_commands.give_up(registry) for registry in registries))
        results = await asyncio.gather(*map(self._relay_commands.give_up, relay_keys), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                log.warning("Closed a session at a relay daemon with trouble: reason=%s", result)
        for key in keys:
            self._attendance.registry_closed(key)
