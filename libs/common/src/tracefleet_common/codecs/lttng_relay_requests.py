"""LTTng's relay protocol: requests on the control port, in both directions.

Source: lttng-tools 2.13.9, `src/common/relayd/relayd.c` for what clients send, `src/bin/lttng-relayd/main.c` for
what a relay daemon takes.
"""

from __future__ import annotations

from typing import Final

from tracefleet_common.codecs import lttng_relay_layouts as layouts
from tracefleet_common.codecs.lttng_relay import (
    BASE_PATH_SIZE_BYTES_MAX,
    CHANNEL_NAME_SIZE_BYTES,
    CHUNK_NAME_SIZE_BYTES_MAX,
    HOST_NAME_SIZE_BYTES_MAX,
    MINOR,
    MINOR_INDEX_1_1,
    MINOR_INDEXES,
    MINOR_TRACE_CHUNKS,
    MINOR_TRACE_FORMAT,
    ROTATED_STREAM_COUNT_MAX,
    SESSION_NAME_SIZE_BYTES,
    SESSIOND_UUID_SIZE_BYTES,
    STREAM_PATH_SIZE_BYTES_MAX,
    AddStream,
    BeginDataPending,
    CloseStream,
    CloseTraceChunk,
    Command,
    CreateSession,
    CreateTraceChunk,
    DataPending,
    EndDataPending,
    GetConfiguration,
    QuiescentControl,
    Request,
    ResetMetadata,
    ReturnCode,
    RotateStreams,
    SendIndex,
    SendMetadata,
    StartData,
    StatusReply,
    StreamsSent,
    TraceChunkExists,
    Version,
)
from tracefleet_common.codecs.lttng_relay_payloads import PAYLOADS
from tracefleet_common.codecs.lttng_relay_replies import encode_reply
from tracefleet_common.codecs.lttng_wire import (
    Decoder,
    RefusedCommand,
    TraceFormat,
    encode_counted_text,
    encode_fixed_text,
    pack,
)
from tracefleet_common.errors import LocalProtocolError, RemoteProtocolError

PAYLOAD_SIZE_BYTES_MAX: Final = 128 << 20  # as lttng-relayd
# Of a metadata packet, with its padding. It is a sub-buffer of 4 KiB unless somebody asked for larger ones.
METADATA_SIZE_BYTES_MAX: Final = 16 << 20


class RequestDecoder(Decoder[Request]):
    """Requests of one session or consumer daemon. Set `minor` once it is agreed on: layouts depend on it."""

    def __init__(self, minor: int = 0, metadata_size_bytes_max: int = METADATA_SIZE_BYTES_MAX) -> None:
        super().__init__()
        self.minor = minor
        self._metadata_size_bytes_max = metadata_size_bytes_max
        self._surplus_size_bytes = 0  # of a payload longer than we know: still to come, and to be ignored

    @property
    def is_between_requests(self) -> bool:
        """Nothing is left of those that came, and nothing came of the next."""
        return not self._received and not self._surplus_size_bytes and self._failure is None

    def next_command(self) -> Request | None:
        """Return the next request; None: feed more bytes first.

        Raises RefusedCommand after having consumed the request, or RemoteProtocolError.
        """
        return self._next_message()

    def _decode_next(self) -> Request | None:
        ignored_size = min(self._surplus_size_bytes, len(self._received))
        del self._received[:ignored_size]
        self._surplus_size_bytes -= ignored_size
        if len(self._received) < layouts.HEADER.size:
            return None
        _, announced_size, number, _ = layouts.HEADER.unpack_from(self._received)
        command = self._command(number)
        size = self._payload_size_bytes(command, announced_size)
        data = self._take(layouts.HEADER.size + size)
        if data is None:
            return None
        self._surplus_size_bytes = announced_size - size
        request = PAYLOADS[command].decode(data[layouts.HEADER.size :], self.minor)
        if isinstance(request, SendMetadata):
            self._check_metadata(request)
        return request

    def _command(self, number: int) -> Command:
        try:
            command = Command(number)
        except ValueError as error:
            reply = encode_reply(StatusReply(return_code=ReturnCode.UNKNOWN))
            raise RefusedCommand(f"Unknown command {number}", reply=reply, must_close=True) from error
        since_minor = layouts.SINCE_MINOR.get(command, 1)
        if self.minor < since_minor:
            raise RemoteProtocolError(f"{command.name} comes on a connection of minor {self.minor}, not {since_minor}")
        return command

    def _payload_size_bytes(self, command: Command, announced_size_bytes: int) -> int:
        """Return how many bytes of the payload we look at."""
        payload = PAYLOADS[command]
        size_max = payload.size_bytes_max
        if command is Command.SEND_METADATA:
            size_max += self._metadata_size_bytes_max
        limit = size_max if payload.is_exact else PAYLOAD_SIZE_BYTES_MAX
        if announced_size_bytes > limit:
            raise RemoteProtocolError(f"{command.name} announces {announced_size_bytes} bytes (at most {limit})")
        return min(announced_size_bytes, size_max)

    def _check_metadata(self, request: SendMetadata) -> None:
        # Padding does not travel, but takes its place in the file.
        size_bytes = len(request.content) + request.padding_size_bytes
        if size_bytes > self._metadata_size_bytes_max:
            raise RemoteProtocolError(
                f"Metadata packet takes {size_bytes} bytes (at most {self._metadata_size_bytes_max})"
            )


def encode_request(request: Request, minor: int = MINOR) -> bytes:
    """Encode a request with its header, for a relay daemon of this (agreed) minor.

    What the minor has no place for is left out. Raises LocalProtocolError when the minor does not know the command,
    or a value does not fit.
    """
    since_minor = layouts.SINCE_MINOR.get(request.command, 1)
    if minor < since_minor:
        raise LocalProtocolError(f"{request.command.name} needs minor {since_minor}, and {minor} was agreed on")
    payload = _encode_payload(request, minor)
    return pack(layouts.HEADER, 0, len(payload), request.command, 0) + payload


def encode_metadata_header(*, stream_handle: int, content_size_bytes: int, padding_size_bytes: int = 0) -> bytes:
    """Encode a SendMetadata without its content, which is then sent from where it is. Raises LocalProtocolError."""
    size_bytes = layouts.METADATA.size + content_size_bytes
    return pack(layouts.HEADER, 0, size_bytes, Command.SEND_METADATA, 0) + pack(
        layouts.METADATA, stream_handle, padding_size_bytes
    )


def _encode_payload(request: Request, minor: int) -> bytes:
    match request:
        case Version():
            return pack(layouts.VERSION, request.major, request.minor)
        case CreateSession():
            return _encode_create_session(request, minor)
        case AddStream():
            return _encode_add_stream(request, minor)
        case StartData() | StreamsSent():
            return b""
        case SendMetadata():
            return pack(layouts.METADATA, request.stream_handle, request.padding_size_bytes) + request.content
        case CloseStream() | DataPending():
            return pack(layouts.ID_AND_NUMBER, request.stream_handle, _number(request.last_sequence_number))
        case BeginDataPending() | EndDataPending():
            return pack(layouts.ID, request.session_id)
        case QuiescentControl():
            return pack(layouts.ID, request.stream_handle)
        case SendIndex():
            return _encode_send_index(request, minor)
        case ResetMetadata():
            return pack(layouts.ID_AND_NUMBER, request.stream_handle, request.version)
        case RotateStreams():
            return _encode_rotate_streams(request)
        case CreateTraceChunk():
            name = b""
            if request.override_name is not None:
                name = encode_counted_text("override name", request.override_name, CHUNK_NAME_SIZE_BYTES_MAX)
            return pack(layouts.CREATE_TRACE_CHUNK, request.chunk_id, request.creation_time_s, len(name)) + name
        case CloseTraceChunk():
            command = request.close_command
            return pack(
                layouts.CLOSE_TRACE_CHUNK, request.chunk_id, request.close_time_s, command is not None, command or 0
            )
        case TraceChunkExists():
            return pack(layouts.ID, request.chunk_id)
        case GetConfiguration():
            return pack(layouts.ID, request.query_flags)


def _number(sequence_number: int | None) -> int:
    return layouts.NUMBER_UNSET if sequence_number is None else sequence_number


def _encode_create_session(request: CreateSession, minor: int) -> bytes:
    if minor < MINOR_INDEXES:
        return b""
    if minor < MINOR_TRACE_CHUNKS:
        return pack(
            layouts.CREATE_SESSION_2_4,
            encode_fixed_text("session name", request.session_name, SESSION_NAME_SIZE_BYTES),
            encode_fixed_text("host name", request.host_name, layouts.HOST_NAME_ARRAY_SIZE_BYTES),
            request.live_timer_us,
            request.is_snapshot,
        )
    if request.sessiond_uuid is None or len(request.sessiond_uuid) != SESSIOND_UUID_SIZE_BYTES:
        raise LocalProtocolError(f"A session for minor {minor} needs the UUID of its session daemon")
    session_name = encode_counted_text("session name", request.session_name, SESSION_NAME_SIZE_BYTES)
    host_name = encode_counted_text("host name", request.host_name, HOST_NAME_SIZE_BYTES_MAX)
    base_path = encode_counted_text("base path", request.base_path, BASE_PATH_SIZE_BYTES_MAX)
    fixed = pack(
        layouts.CREATE_SESSION_2_11,
        len(session_name),
        len(host_name),
        len(base_path),
        request.live_timer_us,
        request.is_snapshot,
        request.has_creation_time_in_name,
        request.sessiond_uuid,
        request.sessiond_session_id,
        request.creation_time_s,
        request.current_chunk_id is not None,
        request.current_chunk_id or 0,
    )
    if minor >= MINOR_TRACE_FORMAT:
        numbers = {trace_format: number for number, trace_format in layouts.TRACE_FORMATS.items()}
        fixed += pack(layouts.TRACE_FORMAT, numbers[request.trace_format or TraceFormat.CTF_1_8])
    return fixed + session_name + host_name + base_path


def _encode_add_stream(request: AddStream, minor: int) -> bytes:
    if minor < MINOR_TRACE_CHUNKS:
        channel_name = encode_fixed_text("channel name", request.channel_name, CHANNEL_NAME_SIZE_BYTES)
        path = encode_fixed_text("path", request.path, layouts.PATH_ARRAY_SIZE_BYTES)
        if minor == 1:
            return pack(layouts.ADD_STREAM_2_1, channel_name, path)
        return pack(layouts.ADD_STREAM_2_2, channel_name, path, request.trace_file_size_bytes, request.trace_file_count)
    channel_name = encode_counted_text("channel name", request.channel_name, CHANNEL_NAME_SIZE_BYTES)
    path = encode_counted_text("path", request.path, STREAM_PATH_SIZE_BYTES_MAX)
    fixed = pack(
        layouts.ADD_STREAM_2_11,
        len(channel_name),
        len(path),
        request.trace_file_size_bytes,
        request.trace_file_count,
        request.trace_chunk_id or 0,
    )
    return fixed + channel_name + path


def _encode_send_index(request: SendIndex, minor: int) -> bytes:
    numbers = (
        request.stream_handle,
        _number(request.sequence_number),
        request.packet_size_bits,
        request.content_size_bits,
        request.timestamp_begin,
        request.timestamp_end,
        request.discarded_event_count,
        request.stream_class_id,
    )
    if minor < MINOR_INDEX_1_1:
        return pack(layouts.INDEX_1_0, *numbers)
    return pack(layouts.INDEX_1_1, *numbers, request.stream_instance_id or 0, request.packet_sequence_number or 0)


def _encode_rotate_streams(request: RotateStreams) -> bytes:
    if len(request.positions) > ROTATED_STREAM_COUNT_MAX:
        raise LocalProtocolError(f"Cannot rotate {len(request.positions)} streams with one command")
    has_new_chunk = request.new_chunk_id is not None
    fixed = pack(layouts.ROTATE_STREAMS, len(request.positions), has_new_chunk, request.new_chunk_id or 0)
    return fixed + b"".join(
        pack(layouts.ID_AND_NUMBER, position.stream_handle, position.packet_sequence_number)
        for position in request.positions
    )
