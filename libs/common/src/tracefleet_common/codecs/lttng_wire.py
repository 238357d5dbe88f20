"""What LTTng's relay and live protocols have in common: big-endian numbers, and strings that end with a NUL.

A decoder takes bytes in pieces of any size (`receive`) and hands out whole messages (`next_…`, None: feed more
bytes first). It never keeps more than one message needs, whatever the peer announces. After RefusedCommand the
connection is in step: send the reply that the error carries. After any other RemoteProtocolError nothing more can
be understood: close the connection; the decoder raises the same error from then on.
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Any

from tracefleet_common.errors import LocalProtocolError, RemoteProtocolError


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


def pack(layout: struct.Struct, *values: Any) -> bytes:
    """Encode `values`. Raises LocalProtocolError when one does not fit its field."""
    try:
        return layout.pack(*values)
    except struct.error as error:
        raise LocalProtocolError(f"Cannot encode {values!r}: {error}") from error


def take(received: bytearray, size_bytes: int) -> bytes:
    """Remove the first `size_bytes` of `received` and return them; there must be as many."""
    with memoryview(received) as view:
        taken = bytes(view[:size_bytes])
    del received[:size_bytes]
    return taken


def _text(what: str, raw: bytes) -> str:
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
    return _text(what, field[:-1])


def decode_fixed_text(what: str, field: bytes) -> str:
    """Decode the string in an array. What follows the first NUL is the peer's uninitialised memory.

    Raises RemoteProtocolError when there is no NUL.
    """
    end = field.find(b"\0")
    if end < 0:
        raise RemoteProtocolError(f"The {what} has no NUL within {len(field)} bytes: {field[:64]!r}")
    return _text(what, field[:end])


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
