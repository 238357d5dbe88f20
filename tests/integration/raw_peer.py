"""Peers that do not behave: raw connections to a daemon's sockets, and a program that only pretends to be one.

Message layouts: liblttng-ust 2.13, `struct ustctl_reg_msg` (136 bytes) and the command and notification
structures of its ABI 9.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import time
from pathlib import Path

from deadlines import DEADLINE_S, wait_until

REGISTRATION_MAGIC = 0xC57C57C5
ABI_MAJOR = 9
COMMAND_SOCKET, NOTIFY_SOCKET = 0, 1
REQUEST_SIZE_BYTES = 612
REPLY_SIZE_BYTES = 324
# magic, major, minor, pid, ppid, uid, gid, bits per long, alignments of u8 … u64 and long, socket type, name
REGISTRATION = struct.Struct("<14I16s64x")


def registration_message(
    socket_type: int = COMMAND_SOCKET,
    *,
    magic: int = REGISTRATION_MAGIC,
    major: int = ABI_MAJOR,
    bits_per_long: int = 64,
    name: bytes = b"pretender",
) -> bytes:
    alignments = (8, 8, 8, 8, 8)
    ids = (os.getpid(), os.getppid(), os.getuid(), os.getgid())
    return REGISTRATION.pack(magic, major, 0, *ids, bits_per_long, *alignments, socket_type, name)


def connect(path: Path, is_blocking: bool = True) -> socket.socket:
    """A connection, of whichever type the socket is; its operations end with TimeoutError rather than hang."""
    for kind in (socket.SOCK_STREAM, socket.SOCK_SEQPACKET):
        connection = socket.socket(socket.AF_UNIX, kind)
        connection.settimeout(DEADLINE_S if is_blocking else 0)
        try:
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            if error.errno != errno.EPROTOTYPE:
                raise
        else:
            return connection
    raise AssertionError(f"{path} is neither a stream nor a sequenced-packet socket")


def is_closed(connection: socket.socket) -> bool:
    """Whether the peer has hung up; what it sent before is thrown away."""
    connection.setblocking(False)
    try:
        while connection.recv(65536):
            pass
    except BlockingIOError:
        return False
    except OSError:
        return True
    return True


def wait_closed(connection: socket.socket, what: str) -> None:
    wait_until(lambda: is_closed(connection), f"the daemon to drop {what}")


def send_and_leave(path: Path, payload: bytes) -> None:
    """Send as much of `payload` as the peer takes, then hang up."""
    with connect(path) as connection, contextlib.suppress(OSError):
        connection.sendall(payload)


def silent_connections(path: Path, count: int, deadline_s: float = 2 * DEADLINE_S) -> list[socket.socket]:
    """Up to `count` connections that say nothing: as many as the deadline and our descriptors allow."""
    connections: list[socket.socket] = []
    end = time.monotonic() + deadline_s
    while len(connections) < count and time.monotonic() < end:
        try:
            connections.append(connect(path, is_blocking=False))
        except BlockingIOError:  # the backlog is full: the daemon has to accept first
            time.sleep(0.001)
    return connections


class Pretender:
    """Registers as a program would, and then answers as the test says."""

    def __init__(self, application_socket: Path) -> None:
        self.command = connect(application_socket)
        self.command.sendall(registration_message(COMMAND_SOCKET))
        self.notify = connect(application_socket)
        self.notify.sendall(registration_message(NOTIFY_SOCKET))

    def next_request(self) -> tuple[int, int]:
        """Handle and number of the daemon's next command."""
        request = b""
        while len(request) < REQUEST_SIZE_BYTES:
            chunk = self.command.recv(REQUEST_SIZE_BYTES - len(request))
            assert chunk, "the daemon hung up before it asked anything"
            request += chunk
        handle, command = struct.unpack_from("<II", request)
        return handle, command

    def close(self) -> None:
        self.command.close()
        self.notify.close()

    def __enter__(self) -> Pretender:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
