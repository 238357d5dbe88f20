"""LTTng's relay protocol: the payloads of requests, as a relay daemon reads them.

Source: lttng-tools 2.13.9, `src/bin/lttng-relayd/main.c` and `cmd-*.c` for what is accepted and how it is refused.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any, NamedTuple

from tracefleet_common.codecs import lttng_relay_layouts as layouts
from tracefleet_common.codecs.lttng_relay import (
    BASE_PATH_SIZE_BYTES_MAX,
    CHANNEL_NAME_SIZE_BYTES,
    CHUNK_NAME_SIZE_BYTES_MAX,
    HOST_NAME_SIZE_BYTES_MAX,
    MINOR_INDEX_1_1,
    MINOR_INDEXES,
    MINOR_TRACE_CHUNKS,
    MINOR_TRACE_FORMAT,
    ROTATED_STREAM_COUNT_MAX,
    SESSION_NAME_SIZE_BYTES,
    STREAM_PATH_SIZE_BYTES_MAX,
    AddStream,
    AddStreamReply,
    BeginDataPending,
    CloseCommand,
    CloseStream,
    CloseTraceChunk,
    CloseTraceChunkReply,
    Command,
    CreateSession,
    CreateSessionReply,
    CreateTraceChunk,
    DataPending,
    EndDataPending,
    GetConfiguration,
    QuiescentControl,
    Request,
    ResetMetadata,
    ReturnCode,
    RotateStreams,
    RotationPosition,
    SendIndex,
    SendMetadata,
    StartData,
    StatusReply,
    StreamsSent,
    TraceChunkExists,
    Version,
)
from tracefleet_common.codecs.lttng_relay_replies import encode_reply
from tracefleet_common.codecs.lttng_wire import RefusedCommand, TraceFormat, decode_counted_text, decode_fixed_text
from tracefleet_common.errors import RemoteProtocolError


def _unpack(what: str, layout: struct.Struct, payload: bytes) -> tuple[Any, ...]:
    """Return the numbers at the start of `payload`."""
    _check_size(what, payload, layout.size)
    return layout.unpack_from(payload)


def _check_size(what: str, payload: bytes, size_bytes: int) -> None:
    if len(payload) < size_bytes:
        raise RemoteProtocolError(f"{what} has {len(payload)} bytes, and needs {size_bytes}")


def _sequence_number(number: int) -> int | None:
    return None if number == layouts.NUMBER_UNSET else number


def _decode_version(payload: bytes, _minor: int) -> Version:
    major, minor = _unpack("VERSION", layouts.VERSION, payload)
    return Version(major=major, minor=minor)


def _decode_create_session(payload: bytes, minor: int) -> CreateSession:
    try:
        if minor >= MINOR_TRACE_CHUNKS:
            return _decode_create_session_2_11(payload, minor)
        return _decode_create_session_2_4(payload) if minor >= MINOR_INDEXES else CreateSession()
    except RemoteProtocolError as error:
        reply = encode_reply(CreateSessionReply(session_id=0, return_code=ReturnCode.FATAL), minor)
        raise RefusedCommand(str(error), reply=reply, must_close=False) from error


def _decode_create_session_2_4(payload: bytes) -> CreateSession:
    fields = _unpack("CREATE_SESSION", layouts.CREATE_SESSION_2_4, payload)
    session_name, host_name, live_timer_us, is_snapshot = fields
    return CreateSession(
        session_name=decode_fixed_text("session name", session_name),
        host_name=decode_fixed_text("host name", host_name),
        live_timer_us=live_timer_us,
        is_snapshot=bool(is_snapshot),
    )


def _decode_create_session_2_11(payload: bytes, minor: int) -> CreateSession:
    fields = _unpack("CREATE_SESSION", layouts.CREATE_SESSION_2_11, payload)
    name_size, host_size, path_size, live_timer_us, is_snapshot, has_time = fields[:6]
    uuid, sessiond_session_id, creation_time_s, has_chunk, chunk_id = fields[6:]
    at = layouts.CREATE_SESSION_2_11.size
    trace_format: TraceFormat | None = None
    if minor >= MINOR_TRACE_FORMAT:
        (number,) = _unpack("CREATE_SESSION", layouts.TRACE_FORMAT, payload[at:])
        at += layouts.TRACE_FORMAT.size
        trace_format = layouts.TRACE_FORMATS.get(number)
        if trace_format is None:
            raise RemoteProtocolError(f"Session has the unknown trace format {number}")
    session_name, host_name, base_path = _decode_texts(
        payload[at:],
        ("session name", name_size, SESSION_NAME_SIZE_BYTES),
        ("host name", host_size, HOST_NAME_SIZE_BYTES_MAX),
        ("base path", path_size, BASE_PATH_SIZE_BYTES_MAX),
    )
    return CreateSession(
        session_name=session_name,
        host_name=host_name,
        live_timer_us=live_timer_us,
        is_snapshot=bool(is_snapshot),
        base_path=base_path,
        has_creation_time_in_name=bool(has_time),
        sessiond_uuid=uuid,
        sessiond_session_id=sessiond_session_id,
        creation_time_s=creation_time_s,
        current_chunk_id=chunk_id if has_chunk else None,
        trace_format=trace_format,
    )


def _decode_texts(payload: bytes, *announced: tuple[str, int, int]) -> list[str]:
    """Decode strings that follow each other, each announced as (what, size in bytes, at most)."""
    texts: list[str] = []
    at = 0
    for what, size_bytes, size_bytes_max in announced:
        if size_bytes > size_bytes_max:
            raise RemoteProtocolError(f"The {what} has {size_bytes} bytes (at most {size_bytes_max})")
        _check_size(f"What holds the {what}", payload, at + size_bytes)
        texts.append(decode_counted_text(what, payload[at : at + size_bytes]))
        at += size_bytes
    return texts


def _decode_add_stream(payload: bytes, minor: int) -> AddStream:
    try:
        if minor >= MINOR_TRACE_CHUNKS:
            return _decode_add_stream_2_11(payload)
        return _decode_add_stream_2_1(payload, minor)
    except RemoteProtocolError as error:
        reply = encode_reply(AddStreamReply(stream_handle=None, return_code=ReturnCode.UNKNOWN), minor)
        raise RefusedCommand(str(error), reply=reply, must_close=True) from error


def _decode_add_stream_2_1(payload: bytes, minor: int) -> AddStream:
    file_size = file_count = 0
    if minor == 1:
        channel_name, path = _unpack("ADD_STREAM", layouts.ADD_STREAM_2_1, payload)
    else:
        channel_name, path, file_size, file_count = _unpack("ADD_STREAM", layouts.ADD_STREAM_2_2, payload)
    return AddStream(
        channel_name=decode_fixed_text("channel name", channel_name),
        path=decode_fixed_text("path", path),
        trace_file_size_bytes=file_size,
        trace_file_count=file_count,
    )


def _decode_add_stream_2_11(payload: bytes) -> AddStream:
    name_size, path_size, file_size, file_count, chunk_id = _unpack("ADD_STREAM", layouts.ADD_STREAM_2_11, payload)
    channel_name, path = _decode_texts(
        payload[layouts.ADD_STREAM_2_11.size :],
        ("channel name", name_size, CHANNEL_NAME_SIZE_BYTES),
        ("path", path_size, STREAM_PATH_SIZE_BYTES_MAX),
    )
    return AddStream(
        channel_name=channel_name,
        path=path,
        trace_file_size_bytes=file_size,
        trace_file_count=file_count,
        trace_chunk_id=chunk_id,
    )


def _decode_send_metadata(payload: bytes, _minor: int) -> SendMetadata:
    stream_handle, padding_size = _unpack("SEND_METADATA", layouts.METADATA, payload)
    return SendMetadata(
        stream_handle=stream_handle, content=payload[layouts.METADATA.size :], padding_size_bytes=padding_size
    )


def _decode_close_stream(payload: bytes, _minor: int) -> CloseStream:
    stream_handle, last = _unpack("CLOSE_STREAM", layouts.ID_AND_NUMBER, payload)
    return CloseStream(stream_handle=stream_handle, last_sequence_number=_sequence_number(last))


def _decode_data_pending(payload: bytes, _minor: int) -> DataPending:
    stream_handle, last = _unpack("DATA_PENDING", layouts.ID_AND_NUMBER, payload)
    return DataPending(stream_handle=stream_handle, last_sequence_number=_sequence_number(last))


def _decode_send_index(payload: bytes, minor: int) -> SendIndex:
    instance: int | None = None
    packet_sequence: int | None = None
    if minor >= MINOR_INDEX_1_1:
        *fields, instance, packet_sequence = _unpack("SEND_INDEX", layouts.INDEX_1_1, payload)
    else:
        fields = list(_unpack("SEND_INDEX", layouts.INDEX_1_0, payload))
    handle, sequence, packet_size, content_size, begin, end, discarded, stream_class = fields
    return SendIndex(
        stream_handle=handle,
        sequence_number=_sequence_number(sequence),
        packet_size_bits=packet_size,
        content_size_bits=content_size,
        timestamp_begin=begin,
        timestamp_end=end,
        discarded_event_count=discarded,
        stream_class_id=stream_class,
        stream_instance_id=instance,
        packet_sequence_number=packet_sequence,
    )


def _decode_reset_metadata(payload: bytes, _minor: int) -> ResetMetadata:
    stream_handle, version = _unpack("RESET_METADATA", layouts.ID_AND_NUMBER, payload)
    return ResetMetadata(stream_handle=stream_handle, version=version)


def _decode_rotate_streams(payload: bytes, _minor: int) -> RotateStreams:
    (stream_count,) = _unpack("ROTATE_STREAMS", layouts.STREAM_COUNT, payload)
    positions_size = stream_count * layouts.ID_AND_NUMBER.size
    layout = layouts.ROTATE_STREAMS_BY_SIZE.get(len(payload) - positions_size)
    if layout is None:
        raise RemoteProtocolError(f"ROTATE_STREAMS of {stream_count} streams has {len(payload)} bytes")
    _, has_new_chunk, new_chunk_id = layout.unpack_from(payload)
    return RotateStreams(
        new_chunk_id=new_chunk_id if has_new_chunk else None,
        positions=tuple(
            RotationPosition(stream_handle=handle, packet_sequence_number=position)
            for handle, position in layouts.ID_AND_NUMBER.iter_unpack(payload[layout.size :])
        ),
    )


def _decode_create_trace_chunk(payload: bytes, _minor: int) -> CreateTraceChunk:
    chunk_id, creation_time_s, name_size = _unpack("CREATE_TRACE_CHUNK", layouts.CREATE_TRACE_CHUNK, payload)
    override_name: str | None = None
    if name_size:
        try:
            announced = ("override name", name_size, CHUNK_NAME_SIZE_BYTES_MAX)
            (override_name,) = _decode_texts(payload[layouts.CREATE_TRACE_CHUNK.size :], announced)
            if not override_name:
                raise RemoteProtocolError("The override name is empty")
        except RemoteProtocolError as error:
            reply = encode_reply(StatusReply(return_code=ReturnCode.INVALID))
            raise RefusedCommand(str(error), reply=reply, must_close=True) from error
    return CreateTraceChunk(chunk_id=chunk_id, creation_time_s=creation_time_s, override_name=override_name)


def _decode_close_trace_chunk(payload: bytes, _minor: int) -> CloseTraceChunk:
    chunk_id, close_time_s, has_command, number = _unpack("CLOSE_TRACE_CHUNK", layouts.CLOSE_TRACE_CHUNK, payload)
    try:
        close_command = CloseCommand(number) if has_command else None
    except ValueError as error:
        reply = encode_reply(CloseTraceChunkReply(return_code=ReturnCode.INVALID))
        message = f"Trace chunk {chunk_id} is to be closed with the unknown command {number}"
        raise RefusedCommand(message, reply=reply, must_close=True) from error
    return CloseTraceChunk(chunk_id=chunk_id, close_time_s=close_time_s, close_command=close_command)


def _decode_begin_data_pending(payload: bytes, _minor: int) -> BeginDataPending:
    return BeginDataPending(session_id=_unpack("BEGIN_DATA_PENDING", layouts.ID, payload)[0])


def _decode_end_data_pending(payload: bytes, _minor: int) -> EndDataPending:
    return EndDataPending(session_id=_unpack("END_DATA_PENDING", layouts.ID, payload)[0])


def _decode_quiescent_control(payload: bytes, _minor: int) -> QuiescentControl:
    return QuiescentControl(stream_handle=_unpack("QUIESCENT_CONTROL", layouts.ID, payload)[0])


def _decode_trace_chunk_exists(payload: bytes, _minor: int) -> TraceChunkExists:
    return TraceChunkExists(chunk_id=_unpack("TRACE_CHUNK_EXISTS", layouts.ID, payload)[0])


def _decode_get_configuration(payload: bytes, _minor: int) -> GetConfiguration:
    return GetConfiguration(query_flags=_unpack("GET_CONFIGURATION", layouts.ID, payload)[0])


class Payload(NamedTuple):
    """How the payload of a command is read. What is longer than we know is ignored, or refused if `is_exact`."""

    size_bytes_max: int
    decode: Callable[[bytes, int], Request]  # payload, minor
    is_exact: bool = False


_CREATE_SESSION_SIZE_BYTES_MAX = (
    layouts.CREATE_SESSION_2_11.size
    + layouts.TRACE_FORMAT.size
    + SESSION_NAME_SIZE_BYTES
    + HOST_NAME_SIZE_BYTES_MAX
    + BASE_PATH_SIZE_BYTES_MAX
)
_ROTATE_STREAMS_SIZE_BYTES_MAX = layouts.ROTATE_STREAMS.size + ROTATED_STREAM_COUNT_MAX * layouts.ID_AND_NUMBER.size

PAYLOADS: dict[Command, Payload] = {
    Command.ADD_STREAM: Payload(layouts.ADD_STREAM_2_2.size, _decode_add_stream),
    Command.CREATE_SESSION: Payload(_CREATE_SESSION_SIZE_BYTES_MAX, _decode_create_session),
    Command.START_DATA: Payload(0, lambda _payload, _minor: StartData()),
    Command.VERSION: Payload(layouts.VERSION.size, _decode_version),
    Command.SEND_METADATA: Payload(layouts.METADATA.size, _decode_send_metadata, is_exact=True),  # and the content
    Command.CLOSE_STREAM: Payload(layouts.ID_AND_NUMBER.size, _decode_close_stream),
    Command.DATA_PENDING: Payload(layouts.ID_AND_NUMBER.size, _decode_data_pending),
    Command.QUIESCENT_CONTROL: Payload(layouts.ID.size, _decode_quiescent_control),
    Command.BEGIN_DATA_PENDING: Payload(layouts.ID.size, _decode_begin_data_pending),
    Command.END_DATA_PENDING: Payload(layouts.ID.size, _decode_end_data_pending),
    Command.SEND_INDEX: Payload(layouts.INDEX_1_1.size, _decode_send_index),
    Command.STREAMS_SENT: Payload(0, lambda _payload, _minor: StreamsSent()),
    Command.RESET_METADATA: Payload(layouts.ID_AND_NUMBER.size, _decode_reset_metadata),
    Command.ROTATE_STREAMS: Payload(_ROTATE_STREAMS_SIZE_BYTES_MAX, _decode_rotate_streams, is_exact=True),
    Command.CREATE_TRACE_CHUNK: Payload(
        layouts.CREATE_TRACE_CHUNK.size + CHUNK_NAME_SIZE_BYTES_MAX, _decode_create_trace_chunk
    ),
    Command.CLOSE_TRACE_CHUNK: Payload(layouts.CLOSE_TRACE_CHUNK.size, _decode_close_trace_chunk),
    Command.TRACE_CHUNK_EXISTS: Payload(layouts.ID.size, _decode_trace_chunk_exists),
    Command.GET_CONFIGURATION: Payload(layouts.ID.size, _decode_get_configuration),
}
