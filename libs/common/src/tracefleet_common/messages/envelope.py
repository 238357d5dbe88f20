"""The frame around every message of the bus, and the hello that settles the protocol version.

A message is two ZeroMQ frames: a header and a body, each one MessagePack value. A conversation begins with
`Hello`; anything else from a peer that has not said hello is answered with an error. `request_id` 0 marks a
notice: nobody asked for it and nobody answers it.
"""

from __future__ import annotations

import msgspec

PROTOCOL_MAJOR = 1  # peers of another major version are refused
PROTOCOL_MINOR = 0  # grows with every field or message added; the lower one of two peers rules
FRAME_SIZE_BYTES_MAX = 16 * 1024 * 1024


class RequestHeader(msgspec.Struct, frozen=True):
    """First frame of a request. `deadline_ms`: after that long nobody waits for the reply any more."""

    request_id: int
    deadline_ms: int


class ReplyHeader(msgspec.Struct, frozen=True):
    """First frame of a reply (`request_id` of its request) or of a notice (0)."""

    request_id: int
    is_error: bool = False


class Hello(msgspec.Struct, frozen=True, tag="hello"):
    """First request of a connection."""

    protocol_major: int
    protocol_minor: int
    software: str  # for people: "tracefleet 0.1.0"


class HelloReply(msgspec.Struct, frozen=True, tag="hello-reply"):
    """The version that rules this connection from now on, and who answers."""

    protocol_major: int
    protocol_minor: int
    software: str
    pid: int
    uid: int


class ErrorReply(msgspec.Struct, frozen=True, tag="error"):
    """Body of a reply whose header says `is_error`. `kind`: class name in `tracefleet_common.errors`."""

    kind: str
    code: int
    message: str
    notes: tuple[str, ...] = ()


class Done(msgspec.Struct, frozen=True, tag="done"):
    """The request was carried out and there is nothing to tell."""
