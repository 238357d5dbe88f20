"""Commands about sessions at relay daemons: open, prepare, settle, sample, close."""

from __future__ import annotations

import asyncio
import logging

from tracefleet_common.errors import ErrorCode, TracefleetError, TransportError
from tracefleet_common.messages.consumerd_control import (
    CloseRelaySession,
    OpenRelaySession,
    PrepareRelaySession,
    RelaySessionsSampled,
    SampleRelaySessions,
    SettleRelaySession,
)
from tracefleet_common.messages.envelope import Done
from tracefleet_consumerd.application.ports import (
    BufferLibrary,
    MonotonicClock,
    RelaySession,
    StreamPosition,
    Workers,
)
from tracefleet_consumerd.application.registries import Registries
from tracefleet_consumerd.domain.relay import RelaySettings, check_relay

log = logging.getLogger("tracefleet.consumerd.relays")

# Somebody waits for `stop`. What is under way then goes on.
SETTLE_DEADLINE_S = 20.0
PAUSE_S_MIN = 0.005
PAUSE_S_MAX = 0.2  # as lttng-tools


class RelayCommands:
    """One method per command. A relay daemon that does not answer keeps one of the worker threads."""

    def __init__(self, registries: Registries, library: BufferLibrary, workers: Workers, clock: MonotonicClock) -> None:
        self._registries = registries
        self._library = library
        self._workers = workers
        self._clock = clock
        self._told_lost: set[int] = set()

    async def open(self, request: OpenRelaySession) -> Done:
        settings = RelaySettings(
            relay_key=request.relay_key,
            output=request.output,
            session_name=request.session_name,
            host_name=request.host_name,
            has_creation_time_in_name=request.has_creation_time_in_name,
            creation_time_s=request.creation_time_s,
            sessiond_uuid=request.sessiond_uuid,
            session_id=request.session_id,
            live_timer_period_us=request.live_timer_period_us,
        )
        check_relay(settings)
        self._registries.reserve_relay(settings.relay_key)
        try:
            relay = await self._workers.run(lambda: self._library.connect_relay(settings))
        except BaseException:
            self._registries.remove_relay(settings.relay_key)
            raise
        self._registries.add_relay(settings.relay_key, relay)
        log.info("Opened a session at a relay daemon: session=%s, relay=%s", settings.session_name, relay.text)
        return Done()

    async def prepare(self, request: PrepareRelaySession) -> Done:
        await self._workers.run(self._registries.relay(request.relay_key).prepare)
        return Done()

    async def settle(self, request: SettleRelaySession) -> Done:
        relay = self._registries.relay(request.relay_key)
        end_s = self._clock.now_s() + SETTLE_DEADLINE_S
        pause_s = PAUSE_S_MIN
        while not await self._workers.run(lambda: self._is_settled(relay)):
            if self._clock.now_s() >= end_s:
                raise TransportError(f"The relay daemon at {relay.text} has not received everything yet")
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, PAUSE_S_MAX)
        return Done()

    def _is_settled(self, relay: RelaySession) -> bool:
        relay.poll()
        positions: list[StreamPosition] = []
        metadata_handles = []
        for registry in self._registries.registries_of(relay):
            for channel in self._registries.channels_of(registry):
                positions += channel.buffers.relay_positions()
            if registry.output is not None and registry.output.metadata_handle is not None:
                metadata_handles.append(registry.output.metadata_handle)
        return relay.is_settled(positions, metadata_handles)

    async def sample(self, request: SampleRelaySessions) -> RelaySessionsSampled:
        relays = self._registries.relays()
        return RelaySessionsSampled(tuple(relays[key].state() for key in request.relay_keys if key in relays))

    async def close(self, request: CloseRelaySession) -> Done:
        relay = self._registries.relay(request.relay_key)
        if self._registries.registries_of(relay):
            raise TransportError("Traces still go there", ErrorCode.UST_SESSION_FAIL)
        try:
            await self.give_up(request.relay_key)
        except TracefleetError as error:
            raise TransportError(str(error), ErrorCode.ROTATION_FAIL_CONSUMER) from None
        return Done()

    async def give_up(self, relay_key: int) -> None:
        """Conclude and forget a session whose registries are closed. Raises TracefleetError; it is forgotten too."""
        relay = self._registries.relay(relay_key)
        self._registries.remove_relay(relay_key)
        self._told_lost.discard(relay_key)
        await self._workers.run(relay.close)
        log.debug("Closed a session at a relay daemon: relay-key=%d", relay_key)

    async def poll(self) -> None:
        """Look after all connections; what is lost is told once. The streams tell it, too, when they have data."""
        for relay_key, relay in self._registries.relays().items():
            try:
                await self._workers.run(relay.poll)
            except TracefleetError as error:
                if relay_key not in self._told_lost:
                    self._told_lost.add(relay_key)
                    log.error("A session goes on without output: reason=%s", error)
