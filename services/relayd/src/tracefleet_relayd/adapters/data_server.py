"""The data port: accepts connections and hands them to the intake."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Final

from tracefleet_relayd.adapters.native_intake import NativeIntake
from tracefleet_relayd.application.receive_packets import ReceivePackets

log = logging.getLogger("tracefleet.relayd.data")

ACCEPTS_PER_TURN_MAX: Final = 64
ACCEPT_PAUSE_S: Final = 0.2  # when there is no descriptor left
# A report of the intake may wait so long while there are many: mostly an index entry comes next, and takes it along.
REPORT_PERIOD_S: Final = 0.002

SocketSettings = Callable[[socket.socket], None]


class DataServer:
    """Between `open` and `close`. `reserve` makes room for a descriptor; OSError: there is none."""

    def __init__(
        self,
        intake: NativeIntake,
        reserve: Callable[[], AbstractContextManager[Any]],
        set_up_socket: SocketSettings,
        *,
        connection_count_max: int,
        packets: ReceivePackets,
    ) -> None:
        self._intake = intake
        self._reserve = reserve
        self._set_up_socket = set_up_socket
        self._connection_count_max = connection_count_max
        self._packets = packets
        self._seen_count = 0  # of reports, at the last look
        self._next_look: asyncio.TimerHandle | None = None
        self._listeners: Sequence[socket.socket] = ()

    def open(self, listeners: Sequence[socket.socket]) -> None:
        """Take over `listeners`. Call it on the loop."""
        self._listeners = listeners
        loop = asyncio.get_running_loop()
        for listener in listeners:
            listener.setblocking(False)
            loop.add_reader(listener, self._accept, listener)
        loop.add_reader(self._intake.fileno(), self._reports_are_there)

    def close(self) -> None:
        """Connections that are there stay the intake's."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._intake.fileno())
        if self._next_look is not None:
            self._next_look.cancel()
        for listener in self._listeners:
            loop.remove_reader(listener)
            listener.close()
        self._listeners = ()

    def _reports_are_there(self) -> None:
        hold_count = self._packets.hold_count
        self._packets.take_reports()
        if self._packets.hold_count == hold_count:  # while connections are held, nothing must wait
            asyncio.get_running_loop().remove_reader(self._intake.fileno())
            self._look_later()

    def _look_later(self) -> None:
        self._seen_count = self._packets.report_count
        self._next_look = asyncio.get_running_loop().call_later(REPORT_PERIOD_S, self._look)

    def _look(self) -> None:
        hold_count = self._packets.hold_count
        self._packets.take_reports()
        if self._packets.report_count == self._seen_count or self._packets.hold_count != hold_count:
            asyncio.get_running_loop().add_reader(self._intake.fileno(), self._reports_are_there)
        else:
            self._look_later()

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(ACCEPTS_PER_TURN_MAX):
            try:
                connection, address = listener.accept()
            except (BlockingIOError, ConnectionAbortedError, InterruptedError):
                return
            except OSError as error:
                log.warning("Cannot accept a data connection, will retry: error=%s", error)
                loop = asyncio.get_running_loop()
                loop.remove_reader(listener)
                loop.call_later(ACCEPT_PAUSE_S, self._go_on, listener)
                return
            self._take(connection, address)

    def _go_on(self, listener: socket.socket) -> None:
        if listener in self._listeners:
            asyncio.get_running_loop().add_reader(listener, self._accept, listener)

    def _take(self, connection: socket.socket, address: Any) -> None:
        with connection:
            if self._intake.connection_count >= self._connection_count_max:
                log.warning("Too many data connections: refused=%s", address)
                return
            try:
                self._set_up_socket(connection)
                connection.setblocking(False)
                token = self._intake.add(connection.fileno(), self._reserve)
            except OSError as error:
                log.warning("Cannot take a data connection: refused=%s, error=%s", address, error)
                return
            connection.detach()
            log.debug("Data connection: token=%d, from=%s", token, address)
