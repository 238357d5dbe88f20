"""LTTng's relay protocol: where the numbers of a request are.

Source: lttng-tools 2.13.9, `src/common/sessiond-comm/relayd.h`, and its versions 2.1 to 2.16.
"""

from __future__ import annotations

import struct
from typing import Final

from tracefleet_common.codecs.lttng_relay import (
    CHANNEL_NAME_SIZE_BYTES,
    MINOR_INDEX_1_1,
    MINOR_INDEXES,
    MINOR_TRACE_CHUNKS,
    SESSION_NAME_SIZE_BYTES,
    SESSIOND_UUID_SIZE_BYTES,
    Command,
)
from tracefleet_common.codecs.lttng_wire import TraceFormat

HEADER = struct.Struct(">QQII")  # circuit id (0, ignored), payload size, command, command version (0, ignored)
ID = struct.Struct(">Q")
ID_AND_NUMBER = struct.Struct(">QQ")
VERSION = struct.Struct(">II")
METADATA = struct.Struct(">QI")
HOST_NAME_ARRAY_SIZE_BYTES: Final = 64
CREATE_SESSION_2_4 = struct.Struct(f">{SESSION_NAME_SIZE_BYTES}s{HOST_NAME_ARRAY_SIZE_BYTES}sII")
CREATE_SESSION_2_11 = struct.Struct(f">IIIIBB{SESSIOND_UUID_SIZE_BYTES}sQQBQ")  # then, since 2.15, the trace format
TRACE_FORMAT = struct.Struct(">I")
PATH_ARRAY_SIZE_BYTES: Final = 4096
ADD_STREAM_2_1 = struct.Struct(f">{CHANNEL_NAME_SIZE_BYTES}s{PATH_ARRAY_SIZE_BYTES}s")
ADD_STREAM_2_2 = struct.Struct(f">{CHANNEL_NAME_SIZE_BYTES}s{PATH_ARRAY_SIZE_BYTES}sQQ")
ADD_STREAM_2_11 = struct.Struct(">IIQQQ")
INDEX_1_0 = struct.Struct(">8Q")
INDEX_1_1 = struct.Struct(">10Q")
STREAM_COUNT = struct.Struct(">I")
# Never packed: the same fields, as the ABI of the peer aligns them. The padding is uninitialised memory.
ROTATE_STREAMS = struct.Struct(">IB7xQ")
ROTATE_STREAMS_BY_SIZE = {
    layout.size: layout for layout in (ROTATE_STREAMS, struct.Struct(">IB3xQ"), struct.Struct(">IBQ"))
}
CREATE_TRACE_CHUNK = struct.Struct(">QQI")
CLOSE_TRACE_CHUNK = struct.Struct(">QQBI")

NUMBER_UNSET: Final = 0xFFFFFFFFFFFFFFFF
TRACE_FORMATS = {1: TraceFormat.CTF_1_8, 2: TraceFormat.CTF_2}

# What a peer must have agreed on before the command makes sense; 1 where it is not mentioned.
SINCE_MINOR = {
    Command.VERSION: 0,
    Command.START_DATA: 0,
    Command.GET_CONFIGURATION: 0,  # sent since minor 12, but lttng-relayd answers it to anybody
    Command.SEND_INDEX: MINOR_INDEXES,
    Command.STREAMS_SENT: MINOR_INDEXES,
    Command.RESET_METADATA: MINOR_INDEX_1_1,
    Command.ROTATE_STREAMS: MINOR_TRACE_CHUNKS,
    Command.CREATE_TRACE_CHUNK: MINOR_TRACE_CHUNKS,
    Command.CLOSE_TRACE_CHUNK: MINOR_TRACE_CHUNKS,
    Command.TRACE_CHUNK_EXISTS: MINOR_TRACE_CHUNKS,
}
