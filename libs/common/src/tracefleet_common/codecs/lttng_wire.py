"""What LTTng's relay and live protocols have in common: big-endian numbers, and strings that end with a NUL.

A decoder takes bytes in pieces of any size (`receive`) and hands out whole messages (`next_…`, None: feed more
bytes first). What it keeps grows with what was received, not with what a peer announces. After RefusedCommand the
connection is in step: send the reply that the error carries. After any other RemoteProtocolError nothing more can
be understood: close the connection; the decoder says so again from then on, and keeps nothing.
"""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from enum import Enum
from typing import Any, Generic, TypeVar

from tracefleet_common.errors import LocalProtocolError, RemoteProtocolError

Message = TypeVar("Message")


class TraceFormat(Enum):
    """Layout of the trace that a session holds. The two protocols number them differently."""

    CTF_1_8 = "ctf-1.8"
    CTF_2 = "ctf-2"


class RefusedCommand(RemoteProtocolError):
    """One command is wrong. Send `reply`, the bytes that tell the peer so; then close if `must_close`."""

    def __init__(self, message: str, *, reply: bytes, must_close: bool) -> None:
        super().__init__(message)
        self.reply = reply
        self.must_close = must_close


class Decoder(ABC, Generic[Message]):
    """What all decoders do with bytes that wait and with a peer that broke the protocol."""

    def __init__(self) -> None:
        self._received = bytearray()
        self._failure: str | None = None

    @property
    def buffered_size_bytes(self) -> int:
        """How much memory the bytes take that are not decoded yet."""
        return len(self._received)

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take more bytes, in pieces of any size. Then call `next_…` until it returns None."""
        if self._failure is None:
            self._received += data

    @abstractmethod
    def _decode_next(self) -> Message | None:
        """Return the next message; None: it is not all there. Raises RemoteProtocolError."""

    def _next_message(self) -> Message | None:
        if self._failure is not None:
            raise RemoteProtocolError(self._failure)
        try:
            return self._decode_next()
        except RemoteProtocolError as error:
            if not isinstance(error, RefusedCommand) or error.must_close:
                self._failure = str(error)
                self._received.clear()
            raise

    def _take(self, size_bytes: int) -> bytes | None:
        """Remove the first `size_bytes` of the received bytes and return them; None: they are not all there."""
        if len(self._received) < size_bytes:
            return None
        with memoryview(self._received) as view:
            taken = bytes(view[:size_bytes])
        del self._received[:size_bytes]
        return taken


def pack(layout: struct.Struct, *values: Any) -> bytes:
    """Encode `values`. Raises LocalProtocolError when one does not fit its field."""
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise LocalProtocolError(f"Cannot encode {values!r}: {error}") from error


def decode_whole_text(what: str, raw: bytes) -> str:
    """Decode a string that was sent with its length and without a NUL. Raises RemoteProtocolError."""
    if b"\0" in raw:
        raise RemoteProtocolError(f"The {what} contains a NUL: {raw[:64]!r}")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RemoteProtocolError(f"The {what} is not UTF-8: {raw[:64]!r}") from error


def decode_counted_text(what: str, field: bytes) -> str:
    """Decode a string that was sent with its length: the whole of `field`, a NUL at its end and nowhere else.

    No bytes at all stand for the empty string too. Raises RemoteProtocolError.
    """
    if not field:
        return ""
    if field.find(b"\0") != len(field) - 1:
        raise RemoteProtocolError(f"The {what} does not end with its only NUL: {field[:64]!r}")
    return decode_whole_text(what, field[:-1])


def decode_fixed_text(what: str, field: bytes) -> str:
    """Decode the string in an array. What follows the first NUL is the peer's uninitialised memory.

    Raises RemoteProtocolError when there is no NUL.
    """
    end = field.find(b"\0")
    if end < 0:
        raise RemoteProtocolError(f"The {what} has no NUL within {len(field)} bytes: {field[:64]!r}")
    return decode_whole_text(what, field[:end])


def encode_counted_text(what: str, text: str, size_bytes_max: int) -> bytes:
    """Encode `text` with its NUL, `size_bytes_max` bytes at most in all. Raises LocalProtocolError."""
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise LocalProtocolError(f"The {what} {text[:64]!r} is not text: {error.reason}") from error
    if b"\0" in raw or len(raw) >= size_bytes_max:
        raise LocalProtocolError(
            f"The {what} {text[:64]!r} contains a NUL or is longer than {size_bytes_max - 1} bytes"
        )
    return raw + b"\0"


def encode_fixed_text(what: str, text: str, size_bytes: int) -> bytes:
    """Encode `text` for an array of `size_bytes`, the rest zero. Raises LocalProtocolError."""
    return encode_counted_text(what, text, size_bytes).ljust(size_bytes, b"\0")


def cut_text(text: str, size_bytes_max: int) -> str:
    """Return as many of the first characters of `text` as fit `size_bytes_max` bytes."""
    raw = text.encode("utf-8", "replace")
    return raw[:size_bytes_max].decode("utf-8", "ignore")
