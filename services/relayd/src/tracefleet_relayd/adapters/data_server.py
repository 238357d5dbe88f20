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
        self._listeners: Sequence[socket.socket] = ()

    def open(self, listeners: Sequence[socket.socket]) -> None:
        """Take over `listeners`. Call it on the loop."""
        self._listeners = listeners
        loop = asyncio.get_running_loop()
        for listener in listeners:
            listener.setblocking(False)
            loop.add_reader(listener, self._accept, listener)
        loop.add_reader(self._intake.fileno(), self._packets.take_reports)

    def close(self) -> None:
        """Connections that are there stay the intake's."""
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._intake.fileno())
        for listener in self._listeners:
            loop.remove_reader(listener)
            listener.close()
        self._listeners = ()

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
