"""LTTng's relay protocol: replies on the control port. They have no header: the request says what the reply is.

Source: lttng-tools 2.13.9, `src/common/sessiond-comm/relayd.h`; `src/common/relayd/relayd.c` for what clients check.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Callable
from typing import Final

from tracefleet_common.codecs.lttng_relay import (
    MINOR,
    MINOR_TRACE_CHUNKS,
    OUTPUT_PATH_SIZE_BYTES_MAX,
    AddStreamReply,
    CloseTraceChunkReply,
    Command,
    CreateSessionReply,
    GetConfigurationReply,
    PendingReply,
    PendingStatus,
    Reply,
    StatusReply,
    TraceChunkExistsReply,
    Version,
)
from tracefleet_common.codecs.lttng_wire import Decoder, decode_counted_text, encode_counted_text, pack
from tracefleet_common.errors import RemoteProtocolError

_VERSION = struct.Struct(">II")
_STATUS = struct.Struct(">I")
_HANDLE = struct.Struct(">QI")
_CREATE_SESSION = struct.Struct(">QII")
_CLOSE_TRACE_CHUNK = struct.Struct(">II")
_TRACE_CHUNK_EXISTS = struct.Struct(">IB")
_CONFIGURATION = struct.Struct(">IQ")

_HANDLE_UNSET: Final = 0xFFFFFFFFFFFFFFFF
_CLEAR_ALLOWED: Final = 1


def encode_reply(reply: Reply, minor: int = MINOR) -> bytes:
    """Encode one reply for a peer of this (agreed) minor. Raises LocalProtocolError when a value does not fit."""
    match reply:
        case StatusReply():
            return pack(_STATUS, reply.return_code)
        case PendingReply():
            return pack(_STATUS, reply.status)
        case Version():
            return pack(_VERSION, reply.major, reply.minor)
        case AddStreamReply():
            handle = _HANDLE_UNSET if reply.stream_handle is None else reply.stream_handle
            return pack(_HANDLE, handle, reply.return_code)
        case CreateSessionReply():
            if minor < MINOR_TRACE_CHUNKS:
                return pack(_HANDLE, reply.session_id, reply.return_code)
            path = _encode_path(reply.output_path or "")
            return pack(_CREATE_SESSION, reply.session_id, reply.return_code, len(path)) + path
        case CloseTraceChunkReply():
            path = _encode_path(reply.path)
            return pack(_CLOSE_TRACE_CHUNK, reply.return_code, len(path)) + path
        case TraceChunkExistsReply():
            return pack(_TRACE_CHUNK_EXISTS, reply.return_code, reply.is_there)
        case GetConfigurationReply():
            return pack(_CONFIGURATION, reply.return_code, _CLEAR_ALLOWED if reply.is_clear_allowed else 0)


def _encode_path(path: str) -> bytes:
    # At least the NUL, also with an error: lttng-tools 2.13.9 waits for ever for a path of no bytes.
    return encode_counted_text("output path", path, OUTPUT_PATH_SIZE_BYTES_MAX)


class ReplyDecoder(Decoder[Reply]):
    """Replies of one relay daemon. Say what was asked with `expect`, and set `minor` once it is agreed on."""

    def __init__(self, minor: int = 0) -> None:
        super().__init__()
        self.minor = minor
        self._expected: deque[Command] = deque()

    def expect(self, command: Command) -> None:
        """Tell which request was sent. Several may be under way: replies come in the same order."""
        if command is not Command.SEND_METADATA:
            self._expected.append(command)

    def next_reply(self) -> Reply | None:
        """Return the next reply; None: feed more bytes first. Raises RemoteProtocolError."""
        return self._next_message()

    def _decode_next(self) -> Reply | None:
        if not self._received:
            return None
        if not self._expected:
            raise RemoteProtocolError("Relay daemon sends bytes that nobody asked for")
        reply = self._decode(self._expected[0])
        if reply is not None:
            self._expected.popleft()
        return reply

    def _decode(self, command: Command) -> Reply | None:
        if command is Command.CREATE_SESSION:
            return self._next_session()
        if command is Command.CLOSE_TRACE_CHUNK:
            return self._next_closed_chunk()
        size_bytes, decode = _FIXED_REPLIES.get(command, (_STATUS.size, _decode_status))
        data = self._take(size_bytes)
        return None if data is None else decode(data)

    def _next_session(self) -> CreateSessionReply | None:
        if self.minor < MINOR_TRACE_CHUNKS:
            data = self._take(_HANDLE.size)
            if data is None:
                return None
            session_id, return_code = _HANDLE.unpack(data)
            return CreateSessionReply(session_id=session_id, return_code=return_code)
        path = self._next_path(_CREATE_SESSION)
        if path is None:
            return None
        (session_id, return_code, _), output_path = path
        return CreateSessionReply(session_id=session_id, return_code=return_code, output_path=output_path)

    def _next_closed_chunk(self) -> CloseTraceChunkReply | None:
        path = self._next_path(_CLOSE_TRACE_CHUNK)
        return None if path is None else CloseTraceChunkReply(return_code=path[0][0], path=path[1])

    def _next_path(self, layout: struct.Struct) -> tuple[tuple[int, ...], str] | None:
        """Return the numbers of a reply that ends with a path, the path's length being the last, and the path."""
        if len(self._received) < layout.size:
            return None
        numbers = layout.unpack_from(self._received)
        if numbers[-1] > OUTPUT_PATH_SIZE_BYTES_MAX:
            raise RemoteProtocolError(f"Relay daemon announces an output path of {numbers[-1]} bytes")
        data = self._take(layout.size + numbers[-1])
        return None if data is None else (numbers, decode_counted_text("output path", data[layout.size :]))


def _decode_status(data: bytes) -> StatusReply:
    return StatusReply(return_code=_STATUS.unpack(data)[0])


def _decode_version(data: bytes) -> Version:
    major, minor = _VERSION.unpack(data)
    return Version(major=major, minor=minor)


def _decode_add_stream(data: bytes) -> AddStreamReply:
    handle, return_code = _HANDLE.unpack(data)
    return AddStreamReply(stream_handle=None if handle == _HANDLE_UNSET else handle, return_code=return_code)


def _decode_pending(data: bytes) -> PendingReply:
    (number,) = _STATUS.unpack(data)
    try:
        return PendingReply(status=PendingStatus(number))
    except ValueError as error:
        raise RemoteProtocolError(f"Relay daemon answers {number} when asked whether data is pending") from error


def _decode_exists(data: bytes) -> TraceChunkExistsReply:
    return_code, is_there = _TRACE_CHUNK_EXISTS.unpack(data)
    return TraceChunkExistsReply(return_code=return_code, is_there=bool(is_there))


def _decode_configuration(data: bytes) -> GetConfigurationReply:
    return_code, flags = _CONFIGURATION.unpack(data)
    return GetConfigurationReply(return_code=return_code, is_clear_allowed=bool(flags & _CLEAR_ALLOWED))


# Everything else is answered with a StatusReply.
_FIXED_REPLIES: dict[Command, tuple[int, Callable[[bytes], Reply]]] = {
    Command.VERSION: (_VERSION.size, _decode_version),
    Command.ADD_STREAM: (_HANDLE.size, _decode_add_stream),
    Command.DATA_PENDING: (_STATUS.size, _decode_pending),
    Command.END_DATA_PENDING: (_STATUS.size, _decode_pending),
    Command.TRACE_CHUNK_EXISTS: (_TRACE_CHUNK_EXISTS.size, _decode_exists),
    Command.GET_CONFIGURATION: (_CONFIGURATION.size, _decode_configuration),
}
