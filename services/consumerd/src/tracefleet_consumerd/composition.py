"""Wires the consumer daemon: chooses the adapters, connects them, and takes them down in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable

from tracefleet_common.runtime.signals import stop_requested
from tracefleet_consumerd.adapters.bus import Bus
from tracefleet_consumerd.adapters.clock import MonotonicClock
from tracefleet_consumerd.adapters.fleet_relays import FleetRelays
from tracefleet_consumerd.adapters.native_buffers import NativeLibrary
from tracefleet_consumerd.adapters.pump_reader import PumpReader
from tracefleet_consumerd.adapters.socket_files import SocketFiles
from tracefleet_consumerd.adapters.worker_threads import WorkerThreads
from tracefleet_consumerd.application.channel_commands import ChannelCommands
from tracefleet_consumerd.application.consumer_commands import ConsumerCommands
from tracefleet_consumerd.application.draining import Drainer
from tracefleet_consumerd.application.monitor import STUCK_CALLS_MAX, BufferMonitor
from tracefleet_consumerd.application.ports import Requester
from tracefleet_consumerd.application.recording_watch import RecordingWatch
from tracefleet_consumerd.application.registries import Registries
from tracefleet_consumerd.application.registry_commands import RegistryCommands
from tracefleet_consumerd.application.relay_commands import RelayCommands
from tracefleet_consumerd.domain.attendance import Attendance
from tracefleet_consumerd.settings import Settings

log = logging.getLogger("tracefleet.consumerd")

# Metadata and new channels must not wait behind channels that are drained, which may take long.
QUICK_THREAD_COUNT = 2
DRAINING_THREAD_COUNT = 4
# One that does not answer keeps its thread for some seconds, and shall not hold up the others.
RELAY_THREAD_COUNT = 8
SPOOL_THREAD_COUNT = 2
ATTENDANCE_PERIOD_S_MAX = 2.0


async def run(settings: Settings, files: SocketFiles, on_ready: Callable[[], None]) -> None:
    """Serve until a stop signal (or until nobody needs us), then write what is left and give everything up."""
    stop = stop_requested()
    clock = MonotonicClock()
    fleet_relays = FleetRelays(settings.spool_directory, WorkerThreads("spool", SPOOL_THREAD_COUNT))
    library = NativeLibrary(fleet_relays)
    reader = PumpReader()
    bus = Bus(settings, files)
    registries = Registries()
    attendance = Attendance(settings.orphan_timeout_s, clock.now_s())
    quick = WorkerThreads("quick", QUICK_THREAD_COUNT)
    draining = WorkerThreads("draining", DRAINING_THREAD_COUNT)
    relay_workers = WorkerThreads("relays", RELAY_THREAD_COUNT)
    drainer = Drainer(draining, clock)
    monitor = BufferMonitor(WorkerThreads("monitoring", STUCK_CALLS_MAX), bus, clock)
    watch = RecordingWatch(registries, bus, drainer, clock)
    commands = ConsumerCommands(
        registries,
        RegistryCommands(registries, library, bus, quick, relay_workers),
        ChannelCommands(registries, library, reader, bus, drainer, monitor, quick, relay_workers),
        RelayCommands(registries, library, relay_workers, clock),
        library,
        attendance,
        clock,
        user_id=os.geteuid(),
    )

    def peer_arrived(requester: Requester) -> None:
        commands.peer_arrived(requester)
        monitor.peer_arrived()

    reader.listen(watch.take)
    await bus.open(commands.execute, on_peer_arrived=peer_arrived, on_peer_left=commands.peer_left)
    unasked = asyncio.gather(_take_care(commands, watch, attendance, clock, settings, stop), monitor.run())
    try:
        on_ready()
        fleet_relays.start()
        await stop.wait()
    finally:
        unasked.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await unasked
        await bus.stop_listening()
        await commands.close_all()
        await fleet_relays.close()
        await bus.close()
        reader.close()
    log.info("Stopped in order")


async def _take_care(
    commands: ConsumerCommands,
    watch: RecordingWatch,
    attendance: Attendance,
    clock: MonotonicClock,
    settings: Settings,
    stop: asyncio.Event,
) -> None:
    """Remind of jams; close what is abandoned; stop when nobody is there any more and that was asked for."""
    period_s = min(ATTENDANCE_PERIOD_S_MAX, max(0.05, settings.orphan_timeout_s / 4))
    while True:
        await asyncio.sleep(period_s)
        try:
            await watch.remind()
            await commands.close_abandoned()
            await commands.poll_relays()
        except Exception:  # what failed is tried again in a moment
            log.exception("Cannot take care of what is open")
        if settings.is_ending_when_orphaned and attendance.is_deserted(clock.now_s()):
            log.warning("No session daemon is connected, ending: orphan-timeout-s=%g", settings.orphan_timeout_s)
            stop.set()
            return
