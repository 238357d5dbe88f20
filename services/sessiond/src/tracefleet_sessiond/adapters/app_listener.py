"""Applications arrive: accept, read one registration message a connection, pair the two connections by pid.

Everything here is bounded: how long a connection may be silent, and how many may wait at once. When too many
wait, the one that waits longest is dropped, so that a flood of silent connections cannot keep programs out.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import socket
import struct
from collections.abc import Callable
from typing import NamedTuple

from tracefleet_common.codecs.ust_registration import (
    REGISTRATION_SIZE_BYTES,
    Registration,
    SocketType,
    decode_registration,
)
from tracefleet_common.errors import RemoteProtocolError

log = logging.getLogger("tracefleet.sessiond.registration")

ACCEPT_COUNT_PER_TURN = 64  # lets other work in between during a flood
REGISTRATION_DEADLINE_S = 5.0
_CREDENTIALS = struct.Struct("iII")  # struct ucred: pid, uid, gid


class Credentials(NamedTuple):
    """Who is at the other end, as the kernel says; what the program says about itself is not trusted."""

    pid: int
    uid: int
    gid: int


class Arrival(NamedTuple):
    """A program whose two connections have registered."""

    registration: Registration
    credentials: Credentials
    command: socket.socket
    notify: socket.socket


class _Waiting:
    """A connection whose registration, or whose partner, has yet to come."""

    def __init__(self, connection: socket.socket, credentials: Credentials) -> None:
        self.connection = connection
        self.credentials = credentials
        self.received = bytearray()
        self.registration: Registration | None = None
        self.timer: asyncio.TimerHandle | None = None


def _peer_credentials(connection: socket.socket) -> Credentials:
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    return Credentials(*_CREDENTIALS.unpack(data))


class AppListener:
    """Turns connections to the application socket into arrivals."""

    def __init__(
        self,
        listening: socket.socket,
        *,
        bits_per_word: int,
        waiting_count_max: int,
        on_arrival: Callable[[Arrival], None],
    ) -> None:
        """`bits_per_word`: of the programs that can be served, 32 or 64."""
        self._listening = listening
        self._bits_per_word = bits_per_word
        self._waiting_count_max = waiting_count_max
        self._on_arrival = on_arrival
        self._loop = asyncio.get_running_loop()
        self._waiting: dict[_Waiting, None] = {}  # oldest first
        self._partners: dict[tuple[int, SocketType], _Waiting] = {}  # by pid; registered, alone so far
        self._loop.add_reader(listening.fileno(), self._accept)

    def close(self) -> None:
        """Stop accepting and drop what waits; the listening socket stays the caller's."""
        self._loop.remove_reader(self._listening.fileno())
        for waiting in list(self._waiting):
            self._drop(waiting)

    def _accept(self) -> None:
        for _ in range(ACCEPT_COUNT_PER_TURN):
            try:
                connection, _address = self._listening.accept()
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                if error.errno in (errno.EMFILE, errno.ENFILE) and self._waiting:
                    self._drop_oldest("no file descriptor is left")
                    continue
                if error.errno != errno.ECONNABORTED:
                    # Without descriptors the socket stays readable: look away for a moment instead of spinning.
                    log.warning("Cannot accept a program: reason=%s", error)
                    self._loop.remove_reader(self._listening.fileno())
                    self._loop.call_later(0.1, self._resume)
                    return
                continue
            connection.setblocking(False)
            self._admit(connection)

    def _resume(self) -> None:
        if self._listening.fileno() >= 0:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _admit(self, connection: socket.socket) -> None:
        if len(self._waiting) >= self._waiting_count_max:
            self._drop_oldest("too many connections wait")
        waiting = _Waiting(connection, _peer_credentials(connection))
        self._waiting[waiting] = None
        waiting.timer = self._loop.call_later(REGISTRATION_DEADLINE_S, self._expire, waiting)
        self._loop.add_reader(connection.fileno(), self._receive, waiting)
        self._receive(waiting)  # a real program has written before we accept

    def _drop_oldest(self, reason: str) -> None:
        # Connections that have said who they are go last: they only wait for their partner.
        oldest = next((w for w in self._waiting if w.registration is None), None) or next(iter(self._waiting))
        log.debug("Dropping a waiting connection: pid=%d, reason=%s", oldest.credentials.pid, reason)
        self._drop(oldest)

    def _expire(self, waiting: _Waiting) -> None:
        log.debug("A connection did not register in time: pid=%d", waiting.credentials.pid)
        self._drop(waiting)

    def _release(self, waiting: _Waiting) -> None:
        """Stop watching `waiting`; its socket goes to whoever takes it."""
        if waiting.timer is not None:
            waiting.timer.cancel()
        self._loop.remove_reader(waiting.connection.fileno())
        self._waiting.pop(waiting, None)
        if waiting.registration is not None:
            key = (waiting.credentials.pid, waiting.registration.socket_type)
            if self._partners.get(key) is waiting:
                del self._partners[key]

    def _drop(self, waiting: _Waiting) -> None:
        self._release(waiting)
        waiting.connection.close()

    def _receive(self, waiting: _Waiting) -> None:
        missing = REGISTRATION_SIZE_BYTES - len(waiting.received)
        try:
            # Nothing may follow the registration on a command socket, so one more byte is a hang-up or a breach.
            data = waiting.connection.recv(missing or 1)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            data = b""
        if not data or not missing:
            self._drop(waiting)
            return
        waiting.received += data
        if len(waiting.received) < REGISTRATION_SIZE_BYTES:
            return
        try:
            registration = decode_registration(bytes(waiting.received))
        except RemoteProtocolError as error:
            log.warning("Refused a program: pid=%d, reason=%s", waiting.credentials.pid, error)
            self._drop(waiting)
            return
        if waiting.credentials.pid == 0:
            log.warning(
                "Refused a program that runs in another pid namespace: name=%s, uid=%d",
                registration.safe_name,
                waiting.credentials.uid,
            )
            self._drop(waiting)
            return
        if registration.bits_per_long != self._bits_per_word:
            # Buffers of the other layout would be memory that it destroys.
            log.warning(
                "Refused a program, there is no consumer daemon for its word: name=%s, pid=%d, bits=%d",
                registration.safe_name,
                waiting.credentials.pid,
                registration.bits_per_long,
            )
            self._drop(waiting)
            return
        waiting.registration = registration
        self._pair(waiting, registration)

    def _pair(self, waiting: _Waiting, registration: Registration) -> None:
        # The command connection was made first, but its registration may be read second.
        pid, kind = waiting.credentials.pid, registration.socket_type
        predecessor = self._partners.get((pid, kind))
        if predecessor is not None:
            self._drop(predecessor)
        self._partners[pid, kind] = waiting
        command = self._partners.get((pid, SocketType.COMMAND))
        notify = self._partners.get((pid, SocketType.NOTIFY))
        if command is None or notify is None:
            return
        self._release(command)
        self._release(notify)
        assert command.registration is not None
        self._on_arrival(Arrival(command.registration, command.credentials, command.connection, notify.connection))
