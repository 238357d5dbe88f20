"""LTTng's live protocol: replies, in both directions. They have no header: the request says what the reply is.

Only the heads of packet and metadata replies are encoded and decoded here. The bytes of the stream follow them, and
are moved by somebody who does not look at them.

Source: lttng-tools 2.13.9, `src/bin/lttng-relayd/lttng-viewer-abi.h`, and 2.15 for the longer list of sessions.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final, TypeVar

from tracefleet_common.codecs.lttng_live import (
    CHANNEL_NAME_SIZE_BYTES,
    HOST_NAME_SIZE_BYTES,
    MINOR,
    MINOR_TRACE_FORMAT,
    PATH_SIZE_BYTES,
    SESSION_NAME_SIZE_BYTES,
    AttachReply,
    AttachSession,
    AttachStatus,
    Connect,
    CreateViewerSession,
    CreateViewerSessionReply,
    CreateViewerSessionStatus,
    DetachReply,
    DetachSession,
    DetachStatus,
    GetMetadata,
    GetNewStreams,
    GetNextIndex,
    GetPacket,
    ListSessions,
    LiveSession,
    LiveStream,
    MetadataReply,
    MetadataStatus,
    NewStreamsReply,
    NewStreamsStatus,
    NextIndexReply,
    NextIndexStatus,
    PacketReply,
    PacketStatus,
    Reply,
    Request,
    SessionList,
)
from tracefleet_common.codecs.lttng_live_requests import CONNECT, decode_connect, encode_connect
from tracefleet_common.codecs.lttng_wire import (
    Decoder,
    TraceFormat,
    cut_text,
    decode_fixed_text,
    decode_whole_text,
    encode_fixed_text,
    pack,
)
from tracefleet_common.errors import LocalProtocolError, RemoteProtocolError

ENTRY_COUNT_MAX: Final = 65_536  # sessions or streams of one reply that a viewer of ours takes
_NAME_SIZE_BYTES_MAX: Final = 4096  # of the names that travel with their length
_STREAM_COUNT_PER_PART: Final = 16  # 70 kB

_NUMBER = struct.Struct(">I")  # a status, or a count
_STATUS_AND_COUNT = struct.Struct(">II")
_SESSION = struct.Struct(f">QIII{HOST_NAME_SIZE_BYTES}s{SESSION_NAME_SIZE_BYTES}s")
_SESSION_2_15 = struct.Struct(">QIIIIII")
_STREAM = struct.Struct(f">QQI{PATH_SIZE_BYTES}s{CHANNEL_NAME_SIZE_BYTES}s")
_INDEX = struct.Struct(">7QII")
_PACKET = struct.Struct(">III")
_METADATA = struct.Struct(">QI")

_TRACE_FORMATS = {0: TraceFormat.CTF_1_8, 1: TraceFormat.CTF_2}
_TRACE_FORMAT_NUMBERS = {trace_format: number for number, trace_format in _TRACE_FORMATS.items()}

Status = TypeVar("Status", bound=IntEnum)


def encode_reply(reply: Reply, minor: int = MINOR) -> bytes:
    """Encode a reply for a viewer of this (agreed) minor; of a packet or metadata reply, the head.

    Names that are too long for their fields are cut: they are for people, ids tell streams apart. Raises
    LocalProtocolError when another value does not fit.
    """
    match reply:
        case Connect():
            return encode_connect(reply)
        case SessionList():
            encode_session = _encode_session_2_15 if minor >= MINOR_TRACE_FORMAT else _encode_session
            return pack(_NUMBER, len(reply.sessions)) + b"".join(map(encode_session, reply.sessions))
        case AttachReply() | NewStreamsReply():
            head = pack(_STATUS_AND_COUNT, reply.status, len(reply.streams))
            return head + b"".join(map(_encode_stream, reply.streams))
        case CreateViewerSessionReply() | DetachReply():
            return pack(_NUMBER, reply.status)
        case NextIndexReply():
            return pack(
                _INDEX,
                reply.offset_bytes,
                reply.packet_size_bits,
                reply.content_size_bits,
                reply.timestamp_begin,
                reply.timestamp_end,
                reply.discarded_event_count,
                reply.stream_class_id,
                reply.status,
                reply.flags,
            )
        case PacketReply():
            return pack(_PACKET, reply.status, reply.size_bytes, reply.flags)
        case MetadataReply():
            return pack(_METADATA, reply.size_bytes, reply.status)


def encode_reply_in_parts(reply: Reply, minor: int = MINOR) -> Iterator[bytes]:
    """Encode a reply as `encode_reply` does, one part after the other: a stream takes 4 kB, and there may be many."""
    if not isinstance(reply, AttachReply | NewStreamsReply):
        yield encode_reply(reply, minor)
        return
    part = pack(_STATUS_AND_COUNT, reply.status, len(reply.streams))
    for begin in range(0, len(reply.streams), _STREAM_COUNT_PER_PART):
        part += b"".join(map(_encode_stream, reply.streams[begin : begin + _STREAM_COUNT_PER_PART]))
        yield part
        part = b""
    if part:
        yield part


def _cut_name(what: str, name: str, size_bytes: int) -> bytes:
    return encode_fixed_text(what, cut_text(name, size_bytes - 1), size_bytes)


def _encode_session(session: LiveSession) -> bytes:
    return pack(
        _SESSION,
        session.session_id,
        session.live_timer_us,
        session.viewer_count,
        session.stream_count,
        _cut_name("host name", session.host_name, HOST_NAME_SIZE_BYTES),
        _cut_name("session name", session.session_name, SESSION_NAME_SIZE_BYTES),
    )


def _encode_session_2_15(session: LiveSession) -> bytes:
    host_name = cut_text(session.host_name, _NAME_SIZE_BYTES_MAX).encode()
    session_name = cut_text(session.session_name, _NAME_SIZE_BYTES_MAX).encode()
    fixed = pack(
        _SESSION_2_15,
        session.session_id,
        session.live_timer_us,
        session.viewer_count,
        session.stream_count,
        len(host_name),
        len(session_name),
        _TRACE_FORMAT_NUMBERS[session.trace_format or TraceFormat.CTF_1_8],
    )
    return fixed + host_name + session_name


def _encode_stream(stream: LiveStream) -> bytes:
    return pack(
        _STREAM,
        stream.stream_id,
        stream.trace_id,
        stream.is_metadata,
        _cut_name("path", stream.path, PATH_SIZE_BYTES),
        _cut_name("channel name", stream.channel_name, CHANNEL_NAME_SIZE_BYTES),
    )


class ReplyDecoder(Decoder[Reply]):
    """Replies of one relay daemon to one viewer. Say what was asked with `expect`; set `minor` once it is agreed on.

    After a packet or metadata reply with status OK, take its bytes with `take_payload` until
    `payload_size_bytes` is 0; only then there is a next reply.
    """

    def __init__(self, minor: int = MINOR, entry_count_max: int = ENTRY_COUNT_MAX) -> None:
        super().__init__()
        self.minor = minor
        self._entry_count_max = entry_count_max
        self._expected: Request | None = None
        self._head: tuple[int, ...] | None = None  # of a list whose entries are still coming: status, count
        self._sessions: list[LiveSession] = []
        self._streams: list[LiveStream] = []
        self._payload_size_bytes = 0

    @property
    def payload_size_bytes(self) -> int:
        """How many bytes of the stream are still to be taken."""
        return self._payload_size_bytes

    def expect(self, request: Request) -> None:
        """Tell which request was sent. Raises LocalProtocolError when the one before has no reply yet."""
        if self._expected is not None or self._payload_size_bytes:
            raise LocalProtocolError(f"{request.command.name} while the reply to another request is under way")
        self._expected = request

    def take_payload(self) -> bytes:
        """Return what was received of the bytes after the last reply; empty: feed more bytes first."""
        size_bytes = min(self._payload_size_bytes, len(self._received))
        self._payload_size_bytes -= size_bytes
        return self._take(size_bytes) or b""

    def next_reply(self) -> Reply | None:
        """Return the next reply; None: feed more bytes first.

        Raises RemoteProtocolError, or LocalProtocolError while there is payload to take.
        """
        if self._payload_size_bytes:
            raise LocalProtocolError(f"There are {self._payload_size_bytes} bytes to take before the next reply")
        return self._next_message()

    def _decode_next(self) -> Reply | None:
        if not self._received:
            return None
        if self._expected is None:
            raise RemoteProtocolError("Relay daemon sends bytes that nobody asked for")
        reply = self._decode(self._expected)
        if reply is not None:
            self._expected = None
        return reply

    def _decode(self, request: Request) -> Reply | None:
        match request:
            case Connect():
                data = self._take(CONNECT.size)
                return None if data is None else decode_connect(CONNECT.unpack(data))
            case ListSessions():
                return self._next_session_list()
            case AttachSession() | GetNewStreams():
                return self._next_stream_list(request)
            case CreateViewerSession() | DetachSession():
                data = self._take(_NUMBER.size)
                return None if data is None else _decode_status_reply(request, *_NUMBER.unpack(data))
            case GetNextIndex():
                data = self._take(_INDEX.size)
                return None if data is None else _decode_index(data)
            case GetPacket():
                data = self._take(_PACKET.size)
                return None if data is None else self._decode_packet(data, request)
            case GetMetadata():
                data = self._take(_METADATA.size)
                return None if data is None else self._decode_metadata(data)

    def _next_head(self, layout: struct.Struct) -> tuple[int, ...] | None:
        """Return the numbers at the start of a list; the last one says how many entries there are."""
        if self._head is None:
            data = self._take(layout.size)
            if data is None:
                return None
            head = layout.unpack(data)
            if head[-1] > self._entry_count_max:
                raise RemoteProtocolError(
                    f"Relay daemon announces {head[-1]} entries (at most {self._entry_count_max})"
                )
            self._head = head
        return self._head

    def _next_session_list(self) -> SessionList | None:
        head = self._next_head(_NUMBER)
        if head is None:
            return None
        while len(self._sessions) < head[-1]:
            session = self._next_session_2_15() if self.minor >= MINOR_TRACE_FORMAT else self._next_session()
            if session is None:
                return None
            self._sessions.append(session)
        reply = SessionList(sessions=tuple(self._sessions))
        self._sessions.clear()
        self._head = None
        return reply

    def _next_session(self) -> LiveSession | None:
        data = self._take(_SESSION.size)
        if data is None:
            return None
        session_id, live_timer_us, viewer_count, stream_count, host_name, session_name = _SESSION.unpack(data)
        return LiveSession(
            session_id=session_id,
            live_timer_us=live_timer_us,
            viewer_count=viewer_count,
            stream_count=stream_count,
            host_name=decode_fixed_text("host name", host_name),
            session_name=decode_fixed_text("session name", session_name),
        )

    def _next_session_2_15(self) -> LiveSession | None:
        if len(self._received) < _SESSION_2_15.size:
            return None
        *numbers, host_size, name_size, format_number = _SESSION_2_15.unpack_from(self._received)
        if max(host_size, name_size) > _NAME_SIZE_BYTES_MAX or format_number not in _TRACE_FORMATS:
            raise RemoteProtocolError(
                f"Session has names of {host_size} and {name_size} bytes and the trace format {format_number}"
            )
        data = self._take(_SESSION_2_15.size + host_size + name_size)
        if data is None:
            return None
        session_id, live_timer_us, viewer_count, stream_count = numbers
        names = data[_SESSION_2_15.size :]
        return LiveSession(
            session_id=session_id,
            live_timer_us=live_timer_us,
            viewer_count=viewer_count,
            stream_count=stream_count,
            host_name=decode_whole_text("host name", names[:host_size]),
            session_name=decode_whole_text("session name", names[host_size:]),
            trace_format=_TRACE_FORMATS[format_number],
        )

    def _next_stream_list(self, request: AttachSession | GetNewStreams) -> AttachReply | NewStreamsReply | None:
        head = self._next_head(_STATUS_AND_COUNT)
        if head is None:
            return None
        while len(self._streams) < head[-1]:
            data = self._take(_STREAM.size)
            if data is None:
                return None
            self._streams.append(_decode_stream(data))
        streams = tuple(self._streams)
        self._streams.clear()
        self._head = None
        if isinstance(request, AttachSession):
            return AttachReply(status=_status(AttachStatus, head[0]), streams=streams)
        return NewStreamsReply(status=_status(NewStreamsStatus, head[0]), streams=streams)

    def _decode_packet(self, data: bytes, request: GetPacket) -> PacketReply:
        number, size_bytes, flags = _PACKET.unpack(data)
        status = _status(PacketStatus, number)
        if size_bytes > request.size_bytes:
            raise RemoteProtocolError(f"Relay daemon sends {size_bytes} bytes when asked for {request.size_bytes}")
        if status is PacketStatus.OK:
            self._payload_size_bytes = size_bytes
        return PacketReply(status=status, size_bytes=size_bytes, flags=flags)

    def _decode_metadata(self, data: bytes) -> MetadataReply:
        size_bytes, number = _METADATA.unpack(data)
        status = _status(MetadataStatus, number)
        if status is MetadataStatus.OK:
            self._payload_size_bytes = size_bytes
        return MetadataReply(status=status, size_bytes=size_bytes)


def _status(kind: type[Status], number: int) -> Status:
    try:
        return kind(number)
    except ValueError as error:
        raise RemoteProtocolError(f"Relay daemon answers with the unknown {kind.__name__} {number}") from error


def _decode_status_reply(
    request: CreateViewerSession | DetachSession, number: int
) -> CreateViewerSessionReply | DetachReply:
    if isinstance(request, DetachSession):
        return DetachReply(status=_status(DetachStatus, number))
    return CreateViewerSessionReply(status=_status(CreateViewerSessionStatus, number))


def _decode_stream(data: bytes) -> LiveStream:
    stream_id, trace_id, is_metadata, path, channel_name = _STREAM.unpack(data)
    return LiveStream(
        stream_id=stream_id,
        trace_id=trace_id,
        is_metadata=bool(is_metadata),
        path=decode_fixed_text("path", path),
        channel_name=decode_fixed_text("channel name", channel_name),
    )


def _decode_index(data: bytes) -> NextIndexReply:
    offset, packet_size, content_size, begin, end, discarded, stream_class, number, flags = _INDEX.unpack(data)
    return NextIndexReply(
        status=_status(NextIndexStatus, number),
        flags=flags,
        offset_bytes=offset,
        packet_size_bits=packet_size,
        content_size_bits=content_size,
        timestamp_begin=begin,
        timestamp_end=end,
        discarded_event_count=discarded,
        stream_class_id=stream_class,
    )
