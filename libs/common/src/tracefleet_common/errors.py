"""What can go wrong, whose fault it is, and how it travels in a reply.

Every error has a `code`: the number that LTTng gives to the same situation (lttng-tools 2.13.9,
`include/lttng/lttng-error.h`), because scripts written for `lttng` look at exit statuses made from it.
"""

from __future__ import annotations

from enum import IntEnum


class ErrorCode(IntEnum):
    """LTTng's error numbers, those that user-space tracing can produce."""

    UNKNOWN = 11
    UNDEFINED_COMMAND = 12
    SESSION_STARTED = 13
    UNKNOWN_DOMAIN = 14
    NOT_SUPPORTED = 15
    CREATE_DIR_FAIL = 17
    NO_SESSIOND = 19
    BUFFER_NOT_SUPPORTED = 22
    SESSION_NOT_FOUND = 23
    BUFFER_TYPE_MISMATCH = 24
    FATAL = 25
    NO_MEMORY = 26
    SESSION_EXISTS = 28
    PERMISSION_DENIED = 32
    KERNEL_NOT_AVAILABLE = 33
    UST_EVENT_ENABLED = 55
    UST_SESSION_FAIL = 56
    UST_CHANNEL_EXISTS = 57
    UST_CHANNEL_FAIL = 58
    UST_CHANNEL_NOT_FOUND = 59
    UST_ENABLE_FAIL = 63
    UST_DISABLE_FAIL = 64
    UST_START_FAIL = 66
    UST_STOP_FAIL = 67
    UST_CONSUMER64_FAIL = 68
    NO_CHANNEL = 72
    SESSION_INVALID_CHAR = 73
    UST_LIST_FAIL = 74
    UST_EVENT_EXISTS = 75
    UST_EVENT_NOT_FOUND = 76
    NEED_ROOT_SESSIOND = 79
    TRACE_ALREADY_STARTED = 80
    TRACE_ALREADY_STOPPED = 81
    NEED_CHANNEL_NAME = 83
    INVALID = 97
    NO_USTCONSUMERD = 98
    ENABLE_CONSUMER_FAIL = 103
    RELAYD_CONNECT_FAIL = 104
    RELAYD_VERSION_FAIL = 105
    NO_CONSUMER = 109
    EXCLUSION_INVALID = 110
    INVALID_EVENT_NAME = 112
    INVALID_CHANNEL_NAME = 113
    INVALID_CHANNEL_DOMAIN = 116
    SESSION_NOT_STARTED = 118
    COMMAND_CANCELLED = 128
    ROTATION_FAIL_CONSUMER = 141
    CHANNEL_NOT_FOUND = 146
    CREATE_TRACE_CHUNK_FAIL_CONSUMER = 149
    INVALID_PROTOCOL = 152
    UNSUPPORTED_DOMAIN = 162
    BUFFER_FLUSH_FAILED = 170


class TracefleetError(Exception):
    """Base of all errors that cross a boundary. `str(error)` is a sentence for the person who asked."""

    default_code = ErrorCode.UNKNOWN

    def __init__(self, message: str, code: ErrorCode | None = None) -> None:
        super().__init__(message)
        self.code = self.default_code if code is None else code


class InvalidArgument(TracefleetError):
    """The caller passed something that can never be right."""

    default_code = ErrorCode.INVALID


class NotFound(TracefleetError):
    """The thing named does not exist (or is not the caller's to see)."""

    default_code = ErrorCode.SESSION_NOT_FOUND


class AlreadyExists(TracefleetError):
    """A thing of that name is there already."""

    default_code = ErrorCode.SESSION_EXISTS


class WrongState(TracefleetError):
    """The command is right, but not now."""

    default_code = ErrorCode.SESSION_STARTED


class PermissionRefused(TracefleetError):
    """The caller may not do that."""

    default_code = ErrorCode.PERMISSION_DENIED


class Unsupported(TracefleetError):
    """This build, or this machine, cannot do that."""

    default_code = ErrorCode.NOT_SUPPORTED


class ResourceExhausted(TracefleetError):
    """Memory, disk, descriptors: the message gives the numbers (what is needed, what is there)."""

    default_code = ErrorCode.NO_MEMORY


class LocalProtocolError(TracefleetError):
    """We broke a protocol: a defect of ours."""

    default_code = ErrorCode.INVALID_PROTOCOL


class RemoteProtocolError(TracefleetError):
    """The peer broke a protocol, or speaks another version of it."""

    default_code = ErrorCode.INVALID_PROTOCOL


class TransportError(TracefleetError):
    """The peer cannot be reached, or did not answer within the deadline."""

    default_code = ErrorCode.NO_SESSIOND


class TracerError(TracefleetError):
    """An application, or the ring buffer library, refused or failed."""

    default_code = ErrorCode.UST_ENABLE_FAIL


# The name of the class is its tag on the wire. A peer of a later version may send one we do not know: it
# then arrives as TracefleetError with its code and text.
ERRORS_BY_KIND: dict[str, type[TracefleetError]] = {
    kind.__name__: kind
    for kind in (
        TracefleetError,
        InvalidArgument,
        NotFound,
        AlreadyExists,
        WrongState,
        PermissionRefused,
        Unsupported,
        ResourceExhausted,
        LocalProtocolError,
        RemoteProtocolError,
        TransportError,
        TracerError,
    )
}
