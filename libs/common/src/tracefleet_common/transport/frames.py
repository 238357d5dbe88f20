"""The two frames of a control message: structs to bytes, bytes to structs, errors to replies and back.

Nothing here touches a socket. Whatever a peer sent wrongly ends in RemoteProtocolError.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

import msgspec

from tracefleet_common.errors import (
    ERRORS_BY_KIND,
    ErrorCode,
    LocalProtocolError,
    RemoteProtocolError,
    TracefleetError,
)
from tracefleet_common.messages.envelope import (
    FRAME_SIZE_BYTES_MAX,
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    ErrorReply,
    Hello,
    HelloReply,
    ReplyHeader,
    RequestHeader,
)

HEADER_SIZE_BYTES_MAX = 64  # two integers and a flag need 21
DEADLINE_MS_MAX = 24 * 60 * 60 * 1000
ERROR_TEXT_CHARACTERS_MAX = 4096
ERROR_NOTE_COUNT_MAX = 16
NOTICE = 0  # the request id of what nobody asked for

_encoder = msgspec.msgpack.Encoder()
_request_headers = msgspec.msgpack.Decoder(RequestHeader)
_reply_headers = msgspec.msgpack.Decoder(ReplyHeader)
_errors = msgspec.msgpack.Decoder(ErrorReply)


class BodyDecoder(Protocol):
    """What `msgspec.msgpack.Decoder` of a union of messages does."""

    def decode(self, buf: bytes, /) -> Any: ...


def body_decoder(message_type: Any) -> BodyDecoder:
    """A decoder for a union of tagged structs."""
    decoder: BodyDecoder = msgspec.msgpack.Decoder(message_type)
    return decoder


def encode_request(request_id: int, deadline_ms: int, body: msgspec.Struct) -> tuple[bytes, bytes]:
    """Header and body of a request. LocalProtocolError when the body is larger than a frame may be."""
    return _encoder.encode(RequestHeader(request_id, deadline_ms)), _encode_body(body)


def encode_reply(request_id: int, body: msgspec.Struct) -> tuple[bytes, bytes]:
    """Header and body of a reply, of an error reply (`body` is an ErrorReply), or of a notice (id 0)."""
    return _encoder.encode(ReplyHeader(request_id, isinstance(body, ErrorReply))), _encode_body(body)


def _encode_body(body: msgspec.Struct) -> bytes:
    encoded = _encoder.encode(body)
    if len(encoded) > FRAME_SIZE_BYTES_MAX:
        raise LocalProtocolError(
            f"A {type(body).__name__} of {len(encoded)} bytes exceeds the limit of {FRAME_SIZE_BYTES_MAX}"
        )
    return encoded


def decode_request_header(frame: bytes) -> RequestHeader:
    """Raises RemoteProtocolError for anything but a header with a positive id and a sane deadline."""
    header: RequestHeader = _decode(_request_headers, frame, "request header", HEADER_SIZE_BYTES_MAX)
    if header.request_id <= NOTICE:
        raise RemoteProtocolError(f"Request id {header.request_id} is not positive")
    if not 0 < header.deadline_ms <= DEADLINE_MS_MAX:
        raise RemoteProtocolError(f"Deadline of {header.deadline_ms} ms is not between 1 and {DEADLINE_MS_MAX}")
    return header


def decode_reply_header(frame: bytes) -> ReplyHeader:
    """Raises RemoteProtocolError for anything but a reply header."""
    header: ReplyHeader = _decode(_reply_headers, frame, "reply header", HEADER_SIZE_BYTES_MAX)
    if header.request_id < NOTICE:
        raise RemoteProtocolError(f"Request id {header.request_id} is negative")
    return header


def decode_body(decoder: BodyDecoder, frame: bytes) -> Any:
    """Raises RemoteProtocolError when the frame is none of the messages that `decoder` knows."""
    return _decode(decoder, frame, "message", FRAME_SIZE_BYTES_MAX)


def decode_error(frame: bytes) -> TracefleetError:
    """The error that an error reply carries (or RemoteProtocolError raised: it carries none)."""
    reply: ErrorReply = _decode(_errors, frame, "error reply", FRAME_SIZE_BYTES_MAX)
    return error_from_reply(reply)


def _decode(decoder: BodyDecoder, frame: bytes, what: str, size_bytes_max: int) -> Any:
    if len(frame) > size_bytes_max:
        raise RemoteProtocolError(f"A {what} of {len(frame)} bytes exceeds the limit of {size_bytes_max}")
    try:
        return decoder.decode(frame)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RemoteProtocolError(f"Malformed {what}: {error}") from None


def reply_from_error(error: TracefleetError) -> ErrorReply:
    """What the peer is told. A class without a name on the wire travels as its nearest base that has one."""
    kind = next(base.__name__ for base in type(error).__mro__ if base.__name__ in ERRORS_BY_KIND)
    notes = tuple(note[:ERROR_TEXT_CHARACTERS_MAX] for note in getattr(error, "__notes__", ()))
    return ErrorReply(
        kind=kind,
        code=int(error.code),
        message=str(error)[:ERROR_TEXT_CHARACTERS_MAX],
        notes=notes[:ERROR_NOTE_COUNT_MAX],
    )


def error_from_reply(reply: ErrorReply) -> TracefleetError:
    """The error the peer raised: class, code, text and notes. Never raises."""
    notes = reply.notes
    try:
        code = ErrorCode(reply.code)
    except ValueError:  # a number of a later version
        code = ErrorCode.UNKNOWN
        notes = (*notes, f"error code {reply.code}")
    error = ERRORS_BY_KIND.get(reply.kind, TracefleetError)(reply.message, code)
    for note in notes:
        error.add_note(note)
    return error


def hello(software: str) -> Hello:
    """The first request of a connection."""
    return Hello(PROTOCOL_MAJOR, PROTOCOL_MINOR, software)


def answer_hello(request: Hello, software: str) -> HelloReply:
    """Settle the version. Raises RemoteProtocolError, naming both, when the major versions differ."""
    _check_major(request.protocol_major, request.protocol_minor, request.software)
    minor = min(request.protocol_minor, PROTOCOL_MINOR)
    return HelloReply(PROTOCOL_MAJOR, minor, software, pid=os.getpid(), uid=os.geteuid())


def check_hello_reply(reply: object) -> HelloReply:
    """Raises RemoteProtocolError when the peer did not answer a hello as it should."""
    if not isinstance(reply, HelloReply):
        raise RemoteProtocolError(f"The peer answered hello with {type(reply).__name__}")
    _check_major(reply.protocol_major, reply.protocol_minor, reply.software)
    return reply


def _check_major(major: int, minor: int, software: str) -> None:
    if major != PROTOCOL_MAJOR:
        raise RemoteProtocolError(
            f"The peer ({software[:80]}) speaks protocol {major}.{minor}, "
            f"this side speaks {PROTOCOL_MAJOR}.{PROTOCOL_MINOR}"
        )
