"""Wires the relay daemon: chooses the adapters, connects them, and takes them down in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import resource
import socket
import time
from collections.abc import Callable
from typing import Any

import msgspec

import tracefleet_common
from tracefleet_common.errors import TransportError
from tracefleet_common.messages.relayd_control import DescriptorPool, RelayInfo
from tracefleet_common.runtime.signals import stop_requested
from tracefleet_relayd.adapters.control_server import ControlServer
from tracefleet_relayd.adapters.data_server import DataServer
from tracefleet_relayd.adapters.fd_tracker import FdTracker, Reservation
from tracefleet_relayd.adapters.fleet_server import FleetCommandServer, FleetDataServer
from tracefleet_relayd.adapters.journal_store import JournalStore, journal_name
from tracefleet_relayd.adapters.live_server import LiveServer
from tracefleet_relayd.adapters.native_intake import NativeIntake
from tracefleet_relayd.adapters.status_sockets import StatusSockets
from tracefleet_relayd.adapters.trace_store import TraceStoreOnDisk
from tracefleet_relayd.application.control_commands import ControlCommands
from tracefleet_relayd.application.receive_packets import ReceivePackets
from tracefleet_relayd.application.receive_streaming import ReceiveStreaming
from tracefleet_relayd.application.serve_viewers import Viewers
from tracefleet_relayd.application.sessions import Sessions
from tracefleet_relayd.application.status import Status, Totals
from tracefleet_relayd.application.stream_files import StreamFiles
from tracefleet_relayd.domain.names import Grouping
from tracefleet_relayd.settings import KeepAlive, Listener, Settings, fd_capacity

log = logging.getLogger("tracefleet.relayd")

BACKLOG = 64
CARE_PERIOD_S = 0.5  # what waits for room on the disk, or for a peer that is gone, is looked at again
# Of the descriptors, for each of the three kinds: the rest is for files, without which connections are of no use.
CONNECTIONS_SHARE = 4


class Wires:
    """Everything that is there while the relay daemon serves."""

    def __init__(self, settings: Settings) -> None:
        pool_size = settings.fd_pool_size or resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        capacity = fd_capacity(pool_size)
        self.tracker = FdTracker(settings.output_directory, capacity)
        self.intake = NativeIntake()
        self.store = TraceStoreOnDisk(settings.output_directory, self.tracker, self.intake)
        self.files = StreamFiles(self.store, self.intake)
        grouping = Grouping.BY_SESSION if settings.is_grouped_by_session else Grouping.BY_HOST
        self.sessions = Sessions(self.files, WallClock(), grouping)
        self.packets = ReceivePackets(self.intake, self.files, self.sessions)
        self.viewers = Viewers(self.sessions, self.packets.take_reports)
        connection_count_max = max(8, capacity // CONNECTIONS_SHARE)

        def commands() -> ControlCommands:
            return ControlCommands(
                self.sessions, self.files, self.packets.take_reports, is_clear_allowed=settings.is_clear_allowed
            )

        def set_up_socket(connection: socket.socket) -> None:
            # Replies that are sent one after the other must not wait for the peer's acknowledgement of the first.
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if settings.keep_alive is not None:
                keep_alive(connection, settings.keep_alive)

        self.control = ControlServer(
            commands,
            lambda: self.tracker.reserve(1, "control connection"),
            set_up_socket,
            connection_count_max=connection_count_max,
            index_taker=self.intake,
        )
        self.data = DataServer(
            self.intake,
            lambda: self.tracker.reserve(1, "data connection"),
            set_up_socket,
            connection_count_max=connection_count_max,
            packets=self.packets,
        )
        self.journals = JournalStore(settings.output_directory)
        self.streaming = ReceiveStreaming(
            self.intake,
            self.files,
            self.sessions,
            self.packets,
            self.journals,
            WallClock(),
            journal_name,
            data_port=settings.fleet_data.port,
        )
        self.fleet = FleetCommandServer(zmq_address(settings.fleet), self.streaming)
        self.fleet_data = FleetDataServer(
            self.intake,
            lambda: self.tracker.reserve(1, "data connection"),
            self.streaming,
            connection_count_max=connection_count_max,
        )
        self.is_fleet_open = False
        self.live = LiveServer(self.viewers, lambda: self.tracker.reserve(1, "viewer"))

        def describe(totals: Totals) -> RelayInfo:
            counts = self.tracker.counts()
            return RelayInfo(
                version=tracefleet_common.__version__,
                pid=os.getpid(),
                uid=os.geteuid(),
                output_directory=settings.output_directory,
                control_url=settings.control.text,
                data_url=settings.data.text,
                live_url=settings.live.text,
                fleet_url=settings.fleet.text if self.is_fleet_open else "",
                fleet_data_url=settings.fleet_data.text if self.is_fleet_open else "",
                session_count=totals.session_count,
                stream_count=totals.stream_count,
                packet_count=totals.packet_count,
                bytes=totals.size_bytes,
                descriptors=DescriptorPool(
                    capacity=counts.capacity,
                    reserved_count=counts.reserved_count,
                    active_count=counts.active_count,
                    suspended_count=counts.suspended_count,
                    miss_count=counts.miss_count,
                    error_count=counts.error_count,
                ),
            )

        status = Status(self.sessions, self.viewers.viewer_count, describe)

        def answer(request: Any) -> msgspec.Struct:
            self.packets.take_reports()
            return status.answer(request)

        self.status = StatusSockets(settings, answer)
        self._own_descriptors: Reservation | None = None

    async def open(self, settings: Settings) -> None:
        """Listen on all ports, then say so. Raises TracefleetError, OSError."""
        with contextlib.ExitStack() as stack:
            control, data, live = (
                stack.enter_context(listening(where)) for where in (settings.control, settings.data, settings.live)
            )
            stack.pop_all()
        await self._open_fleet(settings)
        await self.control.open([control])
        self.data.open([data])
        self.live.open([live])
        await self.status.open()
        self._own_descriptors = self.tracker.reserve_what_is_open("the process itself")

    async def _open_fleet(self, settings: Settings) -> None:
        """A second relay daemon of a host whose other ports were moved need not know of these."""
        try:
            with contextlib.ExitStack() as stack:
                data = stack.enter_context(listening(settings.fleet_data))
                await self.fleet.open()
                stack.pop_all()
        except TransportError as error:
            if settings.is_fleet_given:
                raise
            log.warning("Takes no fleet:// sessions: %s", error)
            return
        self.fleet.serve()
        self.fleet_data.open(data)
        self.is_fleet_open = True

    def take_care(self) -> None:
        """Look again at what waits for something."""
        self.files.try_again()
        self.packets.try_again()
        self.sessions.take_care()
        if self.is_fleet_open:
            self.streaming.take_care()

    async def close(self) -> None:
        await self.status.close()
        await self.live.close()
        self.control.close()
        self.data.close()
        await self.fleet.close()
        await self.fleet_data.close()
        self.packets.take_reports()
        self.packets.close_all()
        self.streaming.close_all()
        self.sessions.close_all()
        await asyncio.sleep(0)  # the control connections take their leave
        self.intake.free()
        self.store.close()
        self.journals.close()
        if self._own_descriptors is not None:
            self._own_descriptors.release()
        self.tracker.close()


class WallClock:
    def now_s(self) -> int:
        return int(time.time())


async def run(settings: Settings, on_ready: Callable[[], None]) -> None:
    """Serve until a stop signal, then close all sessions in order.

    `on_ready` is called when all ports are served. Raises TransportError when one is taken.
    """
    stop = stop_requested()
    wires = Wires(settings)
    care = asyncio.ensure_future(_take_care(wires))
    try:
        await wires.open(settings)
        on_ready()
        await stop.wait()
    finally:
        care.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await care
        await wires.close()
    log.info("Stopped in order")


async def _take_care(wires: Wires) -> None:
    while True:
        await asyncio.sleep(CARE_PERIOD_S)
        try:
            wires.take_care()
        except Exception:  # what failed is tried again in a moment
            log.exception("Cannot take care of what waits")


def listening(where: Listener) -> socket.socket:
    """Raises TransportError that names the address."""
    family = socket.AF_INET6 if ":" in where.address else socket.AF_INET
    try:
        return socket.create_server((where.address, where.port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = os.strerror(error.errno or 0)  # of Python's own text the address is a part
        raise TransportError(f"Cannot listen on {where.text}: {reason}") from None


def zmq_address(where: Listener) -> str:
    return f"tcp://[{where.address}]:{where.port}" if ":" in where.address else f"tcp://{where.address}:{where.port}"


def keep_alive(connection: socket.socket, settings: KeepAlive) -> None:
    """Let the system notice that the peer's host is gone."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, settings.idle_time_s),
        (socket.TCP_KEEPINTVL, settings.probe_interval_s),
        (socket.TCP_KEEPCNT, settings.probe_count_max),
    ):
        if value is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)
