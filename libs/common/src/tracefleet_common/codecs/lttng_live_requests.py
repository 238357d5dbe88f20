"""LTTng's live protocol: requests, in both directions. Each command has a body of a fixed size.

Source: lttng-tools 2.13.9, `src/bin/lttng-relayd/lttng-viewer-abi.h`, and `live.c` for what a relay daemon takes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable

from tracefleet_common.codecs.lttng_live import (
    AttachSession,
    Command,
    Connect,
    CreateViewerSession,
    DetachSession,
    GetMetadata,
    GetNewStreams,
    GetNextIndex,
    GetPacket,
    ListSessions,
    Request,
)
from tracefleet_common.codecs.lttng_wire import Decoder, RefusedCommand, pack

_HEADER = struct.Struct(">QII")  # body size, command, command version (0, ignored)
CONNECT = struct.Struct(">QIII")
_ATTACH = struct.Struct(">QQI")  # the second number is an offset that nobody uses
_ID = struct.Struct(">Q")
_PACKET = struct.Struct(">QQI")
_EMPTY = struct.Struct(">")
_UNKNOWN_COMMAND_REPLY = struct.pack(">I", 11)


class RequestDecoder(Decoder[Request]):
    """Requests of one viewer."""

    def next_command(self) -> Request | None:
        """Return the next request; None: feed more bytes first. Raises RefusedCommand for an unknown command.

        The body size that the viewer announces is not looked at, just as lttng-relayd does not: it says nothing
        that the command does not say, and there may be viewers that get it wrong.
        """
        return self._next_message()

    def _decode_next(self) -> Request | None:
        if len(self._received) < _HEADER.size:
            return None
        _, number, _ = _HEADER.unpack_from(self._received)
        try:
            body, decode = _BODIES[Command(number)]
        except ValueError as error:
            message = f"Unknown command {number}"
            raise RefusedCommand(message, reply=_UNKNOWN_COMMAND_REPLY, must_close=True) from error
        data = self._take(_HEADER.size + body.size)
        return None if data is None else decode(body.unpack_from(data, _HEADER.size))


def encode_request(request: Request) -> bytes:
    """Encode a request with its header. Raises LocalProtocolError when a value does not fit."""
    body = _encode_body(request)
    return pack(_HEADER, len(body), request.command, 0) + body


def encode_connect(connect: Connect) -> bytes:
    """Encode the body of a Connect, which is also the reply to it. Raises LocalProtocolError."""
    return pack(CONNECT, connect.viewer_session_id, connect.major, connect.minor, connect.connection_type)


def decode_connect(numbers: tuple[int, ...]) -> Connect:
    """Make a Connect of the four numbers in its body."""
    viewer_session_id, major, minor, connection_type = numbers
    return Connect(viewer_session_id=viewer_session_id, major=major, minor=minor, connection_type=connection_type)


def _encode_body(request: Request) -> bytes:
    match request:
        case Connect():
            return encode_connect(request)
        case ListSessions() | CreateViewerSession():
            return b""
        case AttachSession():
            return pack(_ATTACH, request.session_id, 0, request.seek)
        case GetNextIndex() | GetMetadata():
            return pack(_ID, request.stream_id)
        case GetPacket():
            return pack(_PACKET, request.stream_id, request.offset_bytes, request.size_bytes)
        case GetNewStreams() | DetachSession():
            return pack(_ID, request.session_id)


def _decode_get_packet(numbers: tuple[int, ...]) -> GetPacket:
    stream_id, offset_bytes, size_bytes = numbers
    return GetPacket(stream_id=stream_id, offset_bytes=offset_bytes, size_bytes=size_bytes)


_BODIES: dict[Command, tuple[struct.Struct, Callable[[tuple[int, ...]], Request]]] = {
    Command.CONNECT: (CONNECT, decode_connect),
    Command.LIST_SESSIONS: (_EMPTY, lambda _numbers: ListSessions()),
    Command.ATTACH_SESSION: (_ATTACH, lambda numbers: AttachSession(session_id=numbers[0], seek=numbers[2])),
    Command.GET_NEXT_INDEX: (_ID, lambda numbers: GetNextIndex(stream_id=numbers[0])),
    Command.GET_PACKET: (_PACKET, _decode_get_packet),
    Command.GET_METADATA: (_ID, lambda numbers: GetMetadata(stream_id=numbers[0])),
    Command.GET_NEW_STREAMS: (_ID, lambda numbers: GetNewStreams(session_id=numbers[0])),
    Command.CREATE_VIEWER_SESSION: (_EMPTY, lambda _numbers: CreateViewerSession()),
    Command.DETACH_SESSION: (_ID, lambda numbers: DetachSession(session_id=numbers[0])),
}
