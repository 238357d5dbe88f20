"""Wires the session daemon: chooses the adapters, connects them, and takes them down in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
from collections.abc import Callable

import tracefleet_common
from tracefleet_common.messages.sessiond_control import ConsumerSockets, DaemonInfo, SessiondRequest
from tracefleet_common.runtime.signals import stop_requested
from tracefleet_common.transport.control_server import ControlServer
from tracefleet_common.transport.health_socket import HealthSocket
from tracefleet_sessiond.adapters.app_listener import AppListener
from tracefleet_sessiond.adapters.bus_control import BusControl
from tracefleet_sessiond.adapters.clock import SystemUsers, SystemWallClock, tracer_clock
from tracefleet_sessiond.adapters.consumer import Consumer
from tracefleet_sessiond.adapters.consumer_launcher import ConsumerLauncher
from tracefleet_sessiond.adapters.run_directory import RunDirectory
from tracefleet_sessiond.adapters.ust_tracer import UstTracer
from tracefleet_sessiond.application.ports import Tracer
from tracefleet_sessiond.application.session_commands import SessionCommands
from tracefleet_sessiond.application.sessions import Sessions
from tracefleet_sessiond.settings import Settings

log = logging.getLogger("tracefleet.sessiond")

SOFTWARE = f"tracefleet-sessiond {tracefleet_common.__version__}"
# Connections that have not registered may hold at most this share of the descriptors.
WAITING_SHARE = 4
WAITING_COUNT_MAX = 1024


def _waiting_count_max() -> int:
    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(16, min(WAITING_COUNT_MAX, soft // WAITING_SHARE))


async def run(settings: Settings, run_directory: RunDirectory, on_ready: Callable[[], None]) -> None:
    """Serve until a stop signal, then destroy every session and take everything down.

    `on_ready` is called when programs and clients are served.
    """
    stop = stop_requested()
    consumer = Consumer(
        settings.consumer64,
        ConsumerLauncher(
            settings.consumer64,
            tracing_group=settings.tracing_group,
            is_console_kept=not settings.is_daemonized,
        ),
        software=SOFTWARE,
    )
    tracer = UstTracer(consumer, tracer_clock(), app_deadline_s=settings.application_timeout_s)

    def describe_daemon(sessions: Sessions, tracer: Tracer) -> DaemonInfo:
        return DaemonInfo(
            version=tracefleet_common.__version__,
            pid=os.getpid(),
            uid=os.geteuid(),
            run_directory=run_directory.path,
            program_count=tracer.program_count(),
            session_count=len(sessions),
            consumers=tracer.consumers(),
            application_socket=settings.application_socket,
            health_socket=settings.health_socket,
            consumer_sockets=(
                ConsumerSockets(
                    bits_per_word=settings.consumer64.bits_per_word,
                    command=settings.consumer64.command_socket,
                    descriptors=settings.consumer64.descriptor_socket,
                    health=settings.consumer64.health_socket,
                ),
            ),
        )

    commands = SessionCommands(Sessions(SystemWallClock(), SystemUsers()), tracer, describe_daemon)
    bus = ControlServer([run_directory.bus_address], SessiondRequest, BusControl(commands).handle, software=SOFTWARE)
    health = HealthSocket(settings.health_socket)
    # Nobody may connect before the sockets have their owner and mode.
    old_mask = os.umask(0o177)
    try:
        await bus.bind()
        await health.open()
    finally:
        os.umask(old_mask)
    for path in (settings.bus_socket, settings.health_socket):
        run_directory.grant_control(path)
    listener = AppListener(
        run_directory.application_socket,
        bits_per_word=settings.consumer64.bits_per_word,
        waiting_count_max=_waiting_count_max(),
        on_arrival=tracer.take_arrival,
    )
    serving = asyncio.create_task(bus.serve())
    try:
        run_directory.announce()
        on_ready()
        await stop.wait()
    finally:
        # New programs wait for the next daemon; clients get their last replies.
        listener.close()
        run_directory.withdraw()
        serving.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await serving
        await commands.destroy_all()
        health.close()
        await bus.close()
        await tracer.close()
    log.info("Stopped in order")
