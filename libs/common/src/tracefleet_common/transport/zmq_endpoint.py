"""A ZeroMQ socket on an asyncio loop, with a monitor that tells when connections come and go.

`zmq.asyncio` makes a future for every receive; a daemon that only ever asks "what is there?" needs none.
ZeroMQ's descriptor is edge-triggered: it announces work for the socket, not a message, and any call on the
socket may swallow the announcement. So two rules hold here: read until there is nothing left, and look again
after every send.
"""

from __future__ import annotations

import asyncio
import itertools
import struct
from collections.abc import Callable, Sequence
from typing import NamedTuple

import zmq

# A busy peer must not keep the loop from its other work: after so many messages the loop gets a turn.
MESSAGES_PER_TURN = 64

_MONITOR_EVENT = struct.Struct("=HI")  # event number, value: zmq_socket_monitor(3)
_monitor_numbers = itertools.count(1)


class ConnectionEvent(NamedTuple):
    """What the monitor saw. `value` is a descriptor for most events."""

    event: int
    value: int


class Endpoint:
    """Owns one ZeroMQ socket. All methods are called from the loop's thread.

    `read_one` is called whenever there may be something to receive, until it returns False; it calls
    `receive` on this object. `on_connection_event` hears of connections, never later than their messages
    are handled when it calls `read_connection_events` first.
    """

    def __init__(
        self,
        socket_type: int,
        options: dict[int, int],
        *,
        monitored_events: int,
        on_connection_event: Callable[[ConnectionEvent], None],
        read_one: Callable[[], bool],
    ) -> None:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context.instance()
        self.socket: zmq.Socket[bytes] = context.socket(socket_type)
        for option, value in options.items():
            self.socket.setsockopt(option, value)
        address = f"inproc://tracefleet-monitor-{next(_monitor_numbers)}"
        self.socket.monitor(address, monitored_events)
        self._monitor: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        self._monitor.setsockopt(zmq.LINGER, 0)
        self._monitor.setsockopt(zmq.RCVHWM, 0)  # else the I/O thread waits for us when thousands connect
        self._monitor.connect(address)
        self._descriptors = [int(opened.getsockopt(zmq.FD)) for opened in (self.socket, self._monitor)]
        self._on_connection_event = on_connection_event
        self._read_one = read_one
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_turn_due = False
        self._is_closed = False

    def start_reading(self) -> None:
        """From now on the callbacks are called."""
        self._loop = asyncio.get_running_loop()
        for descriptor in self._descriptors:
            self._loop.add_reader(descriptor, self._take_turn)
        self._schedule_turn()

    def stop_reading(self) -> None:
        """The callbacks are not called any more; sending still works."""
        if self._loop is not None:
            for descriptor in self._descriptors:
                self._loop.remove_reader(descriptor)
            self._loop = None

    def send(self, frames: Sequence[bytes]) -> None:
        """Raises zmq.Again when the queue is full, zmq.ZMQError(EHOSTUNREACH) when there is no such peer."""
        try:
            self.socket.send_multipart(frames, zmq.NOBLOCK)
        finally:
            if self._loop is not None and int(self.socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                self._schedule_turn()

    def read_connection_events(self) -> None:
        """Report every connection event that is there."""
        while not self._is_closed:
            try:
                frames = self._monitor.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            self._on_connection_event(ConnectionEvent(*_MONITOR_EVENT.unpack_from(frames[0])))

    def close(self, linger_ms: int) -> None:
        """What was sent may still leave for `linger_ms`."""
        if self._is_closed:
            return
        self._is_closed = True
        self.stop_reading()
        self.socket.disable_monitor()
        self._monitor.close()
        self.socket.close(linger_ms)

    def _schedule_turn(self) -> None:
        if self._loop is not None and not self._is_turn_due:
            self._is_turn_due = True
            self._loop.call_soon(self._take_turn)

    def _take_turn(self) -> None:
        self._is_turn_due = False
        if self._loop is None:
            return
        self.read_connection_events()
        for _ in range(MESSAGES_PER_TURN):
            if self._is_closed or not self._read_one():
                break
        else:
            self._schedule_turn()
