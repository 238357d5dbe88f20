"""A small blocking client of ZMTP 3.x, for commands that must start in milliseconds.

It speaks to a ROUTER as a DEALER, with the NULL security mechanism, over `ipc://` and `tcp://`. Importing
libzmq and starting its threads costs a command more than everything else it does; this needs one socket.

Nothing of the peer is believed: every length is checked before it is used and every wait has a deadline.
Source: ZMTP 3.1 (rfc.zeromq.org/spec/37).
"""

from __future__ import annotations

import _socket as socket  # the module `socket` only adds what is not needed here, for 12 ms of imports
import time
from collections.abc import Callable, Sequence

from tracefleet_common.errors import InvalidArgument, RemoteProtocolError, TransportError

SUN_PATH_SIZE_BYTES_MAX = 107  # sizeof(sockaddr_un.sun_path) less the NUL
COMMAND_SIZE_BYTES_MAX = 65_536  # a peer's READY carries a few properties
FRAME_COUNT_MAX = 16
READ_SIZE_BYTES = 65_536

GREETING_SIZE_BYTES = 64
SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
MECHANISM = b"NULL".ljust(20, b"\0")
GREETING = SIGNATURE + b"\x03\x01" + MECHANISM + b"\0" + bytes(31)

IS_MORE, IS_LONG, IS_COMMAND = 0x01, 0x02, 0x04
READY, PING, PONG, ERROR = b"\x05READY", b"\x04PING", b"\x04PONG", b"\x05ERROR"
PING_TTL_SIZE_BYTES = 2


def encode_frame(body: bytes, flags: int = 0) -> bytes:
    """One frame: flags, size (1 or 8 bytes, big-endian), body."""
    if len(body) <= 255:
        return bytes((flags, len(body))) + body
    return bytes((flags | IS_LONG,)) + len(body).to_bytes(8, "big") + body


def encode_message(frames: Sequence[bytes]) -> bytes:
    """All frames of one message, as they go over the wire."""
    last = len(frames) - 1
    return b"".join(encode_frame(frame, IS_MORE if index < last else 0) for index, frame in enumerate(frames))


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + len(value).to_bytes(4, "big") + value


HANDSHAKE = GREETING + encode_frame(
    READY + _property(b"Socket-Type", b"DEALER") + _property(b"Identity", b""), IS_COMMAND
)


class ZmtpClient:
    """One connection.

    `is_waiting`, when set, is called about every `waiting_period_s` while an answer is awaited.
    """

    def __init__(self, address: str, *, connect_deadline_s: float, message_size_bytes_max: int) -> None:
        self.address = address
        self.is_waiting: Callable[[], None] | None = None
        self.waiting_period_s = 0.2
        self._message_size_bytes_max = message_size_bytes_max
        self._received = bytearray()
        self._is_ready = False
        self._socket = _connect(address, connect_deadline_s)

    def close(self) -> None:
        """Say no more. Harmless when closed already."""
        self._socket.close()

    def send(self, *messages: Sequence[bytes], deadline_s: float) -> None:
        """Send messages, each a sequence of frames, in one write. Raises as `receive` does."""
        due = time.monotonic() + deadline_s
        if not self._is_ready:
            self._shake_hands(due)
        self._write(b"".join(map(encode_message, messages)), due)

    def receive(self, *, deadline_s: float) -> list[bytes]:
        """The frames of the next message. Raises TransportError (gone, late) and RemoteProtocolError."""
        due = time.monotonic() + deadline_s
        frames: list[bytes] = []
        size_bytes = 0
        while True:
            flags, body = self._read_frame(due, self._message_size_bytes_max - size_bytes)
            if flags & IS_COMMAND:
                self._obey(body, due)
                continue
            size_bytes += len(body)
            frames.append(body)
            if not flags & IS_MORE:
                return frames
            if len(frames) == FRAME_COUNT_MAX:
                raise RemoteProtocolError(f"{self.address} sends a message of too many frames")

    def _shake_hands(self, due: float) -> None:
        """libzmq takes for a broken handshake whatever comes before it has sent READY: so wait for that."""
        self._write(HANDSHAKE, due)
        self._read_greeting(due)
        while not self._is_ready:
            flags, body = self._read_frame(due, 0)
            if not flags & IS_COMMAND:
                raise RemoteProtocolError(f"{self.address} sends messages before it is ready")
            self._obey(body, due)

    def _read_greeting(self, due: float) -> None:
        """Check signature, version and mechanism as soon as they are there: a wrong peer may send no more."""
        signature = self._read(len(SIGNATURE), due)
        if signature[0] != 0xFF or not signature[9] & 1:
            raise RemoteProtocolError(f"{self.address} does not speak ZMTP")
        rest = self._read(GREETING_SIZE_BYTES - len(SIGNATURE), due)
        if rest[0] < 3 or rest[2:22] != MECHANISM:
            raise RemoteProtocolError(f"{self.address} speaks another version of ZMTP, or with encryption")

    def _read_frame(self, due: float, size_bytes_max: int) -> tuple[int, bytes]:
        flags = self._read(1, due)[0]
        if flags & ~(IS_MORE | IS_LONG | IS_COMMAND):
            raise RemoteProtocolError(f"{self.address} sends a frame with unknown flags")
        size_bytes = int.from_bytes(self._read(8 if flags & IS_LONG else 1, due), "big")
        if size_bytes > (COMMAND_SIZE_BYTES_MAX if flags & IS_COMMAND else size_bytes_max):
            raise RemoteProtocolError(f"{self.address} announces a frame of {size_bytes} bytes")
        return flags, self._read(size_bytes, due)

    def _obey(self, command: bytes, due: float) -> None:
        if command.startswith(READY):
            self._is_ready = True
        elif command.startswith(PING):
            self._write(encode_frame(PONG + command[len(PING) + PING_TTL_SIZE_BYTES :], IS_COMMAND), due)
        elif command.startswith(ERROR):
            reason = command[len(ERROR) + 1 :].decode("utf-8", "replace")
            raise TransportError(f"{self.address} refuses the connection: {reason}")

    def _write(self, data: bytes, due: float) -> None:
        try:
            self._socket.settimeout(max(due - time.monotonic(), 0.001))
            self._socket.sendall(data, socket.MSG_NOSIGNAL)
        except TimeoutError:
            raise TransportError(f"{self.address} does not take what is sent to it") from None
        except OSError as error:
            raise TransportError(f"Cannot send to {self.address}: {error.strerror or error}") from None

    def _read(self, size_bytes: int, due: float) -> bytes:
        """Exactly `size_bytes`, from what is buffered and from the socket."""
        while len(self._received) < size_bytes:
            self._received += self._read_some(due)
        data = bytes(self._received[:size_bytes])
        del self._received[:size_bytes]
        return data

    def _read_some(self, due: float) -> bytes:
        while True:
            remaining_s = due - time.monotonic()
            if remaining_s <= 0:
                raise TransportError(f"No answer from {self.address} within the deadline")
            self._socket.settimeout(remaining_s if self.is_waiting is None else min(remaining_s, self.waiting_period_s))
            try:
                data = self._socket.recv(READ_SIZE_BYTES)
            except TimeoutError:
                if self.is_waiting is not None:
                    self.is_waiting()
                continue
            except OSError as error:
                raise TransportError(f"Lost the connection to {self.address}: {error.strerror or error}") from None
            if not data:
                raise TransportError(f"{self.address} closed the connection")
            return data


def _connect(address: str, deadline_s: float) -> socket.socket:
    scheme, separator, rest = address.partition("://")
    if not separator or scheme not in ("ipc", "tcp") or not rest:
        raise InvalidArgument(f"Not a bus address: {address!r} (ipc://PATH or tcp://HOST:PORT)")
    if scheme == "ipc" and len(rest.encode("utf-8", "surrogateescape")) > SUN_PATH_SIZE_BYTES_MAX:
        raise InvalidArgument(f"Socket path too long, at most {SUN_PATH_SIZE_BYTES_MAX} bytes are possible: {rest}")
    host, _, port = rest.rpartition(":")
    if scheme == "tcp" and not (host and port.isdecimal() and int(port) < 65_536):
        raise InvalidArgument(f"Not a bus address: {address!r} (tcp://HOST:PORT)")
    family = socket.AF_UNIX if scheme == "ipc" else socket.AF_INET6 if host.startswith("[") else socket.AF_INET
    connection = socket.socket(family, socket.SOCK_STREAM)
    try:
        connection.settimeout(deadline_s)
        connection.connect(rest if scheme == "ipc" else (host.strip("[]"), int(port)))
        if scheme == "tcp":
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    except TimeoutError:
        connection.close()
        raise TransportError(f"{address} does not answer") from None
    except OSError as error:
        connection.close()
        raise TransportError(f"Cannot connect to {address}: {error.strerror or error}") from None
    return connection
