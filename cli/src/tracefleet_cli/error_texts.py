"""The texts that `lttng` prints for the error codes, which scripts know (lttng-tools 2.13.9, lttng_strerror)."""

from __future__ import annotations

from tracefleet_common.errors import ErrorCode, TracefleetError

TEXTS: dict[ErrorCode, str] = {
    ErrorCode.UNKNOWN: "Unknown error",
    ErrorCode.UNDEFINED_COMMAND: "Undefined command",
    ErrorCode.SESSION_STARTED: "Session is running",
    ErrorCode.UNKNOWN_DOMAIN: "Unknown tracing domain",
    ErrorCode.NOT_SUPPORTED: "Operation not supported",
    ErrorCode.CREATE_DIR_FAIL: "Create directory failed",
    ErrorCode.NO_SESSIOND: "No session daemon is available",
    ErrorCode.BUFFER_NOT_SUPPORTED: "Buffer type not supported",
    ErrorCode.SESSION_NOT_FOUND: "Session name not found",
    ErrorCode.BUFFER_TYPE_MISMATCH: "Buffer type mismatch for session",
    ErrorCode.FATAL: "Fatal error of the session daemon",
    ErrorCode.NO_MEMORY: "Not enough memory",
    ErrorCode.SESSION_EXISTS: "Session name already exists",
    ErrorCode.PERMISSION_DENIED: "Permission denied",
    ErrorCode.KERNEL_NOT_AVAILABLE: "Kernel tracer not available",
    ErrorCode.UST_EVENT_ENABLED: "UST event already enabled",
    ErrorCode.UST_SESSION_FAIL: "UST create session failed",
    ErrorCode.UST_CHANNEL_EXISTS: "UST channel already exist",
    ErrorCode.UST_CHANNEL_FAIL: "UST create channel failed",
    ErrorCode.UST_CHANNEL_NOT_FOUND: "UST channel not found",
    ErrorCode.UST_ENABLE_FAIL: "Enable UST event failed",
    ErrorCode.UST_DISABLE_FAIL: "Disable UST event failed",
    ErrorCode.UST_START_FAIL: "Starting UST trace failed",
    ErrorCode.UST_STOP_FAIL: "Stopping UST trace failed",
    ErrorCode.UST_CONSUMER64_FAIL: "64-bit UST consumer start failed",
    ErrorCode.NO_CHANNEL: "No channel found in the session",
    ErrorCode.SESSION_INVALID_CHAR: "Invalid character found in session name",
    ErrorCode.UST_LIST_FAIL: "Listing UST events failed",
    ErrorCode.UST_EVENT_EXISTS: "UST event already exist",
    ErrorCode.UST_EVENT_NOT_FOUND: "UST event not found",
    ErrorCode.NEED_ROOT_SESSIOND: (
        "Tracing the kernel requires a root lttng-sessiond daemon, as well as "
        '"tracing" group membership or root user ID for the lttng client'
    ),
    ErrorCode.TRACE_ALREADY_STARTED: "Tracing has already been started once",
    ErrorCode.TRACE_ALREADY_STOPPED: "Tracing has already been stopped",
    ErrorCode.NEED_CHANNEL_NAME: (
        "Non-default channel exists within session: channel name needs to be specified with '-c name'"
    ),
    ErrorCode.INVALID: "Invalid parameter",
    ErrorCode.NO_USTCONSUMERD: "No UST consumer detected",
    ErrorCode.ENABLE_CONSUMER_FAIL: "Enabling consumer failed",
    ErrorCode.RELAYD_CONNECT_FAIL: "Unable to connect to lttng-relayd",
    ErrorCode.RELAYD_VERSION_FAIL: "Relay daemon not compatible",
    ErrorCode.NO_CONSUMER: "Consumer not found for recording session",
    ErrorCode.EXCLUSION_INVALID: "Invalid event exclusion",
    ErrorCode.INVALID_EVENT_NAME: "Invalid event name",
    ErrorCode.INVALID_CHANNEL_NAME: "Invalid channel name",
    ErrorCode.INVALID_CHANNEL_DOMAIN: "Invalid channel domain",
    ErrorCode.SESSION_NOT_STARTED: "Session not started",
    ErrorCode.COMMAND_CANCELLED: "Command cancelled",
    ErrorCode.ROTATION_FAIL_CONSUMER: "Rotation failure on consumer",
    ErrorCode.CHANNEL_NOT_FOUND: "Channel not found",
    ErrorCode.CREATE_TRACE_CHUNK_FAIL_CONSUMER: "Trace chunk creation failed on consumer",
    ErrorCode.INVALID_PROTOCOL: "Protocol error occurred",
    ErrorCode.UNSUPPORTED_DOMAIN: "Unsupported domain used",
    ErrorCode.BUFFER_FLUSH_FAILED: "Failed to flush stream buffer",
}

# Their texts leave nothing to ask. For the others the daemon's own words (which file, how many bytes) follow.
SELF_EXPLANATORY = frozenset(
    {
        ErrorCode.SESSION_NOT_FOUND,
        ErrorCode.SESSION_EXISTS,
        ErrorCode.SESSION_INVALID_CHAR,
        ErrorCode.UST_EVENT_ENABLED,
        ErrorCode.UST_EVENT_NOT_FOUND,
        ErrorCode.UST_CHANNEL_EXISTS,
        ErrorCode.UST_CHANNEL_NOT_FOUND,
        ErrorCode.NO_CHANNEL,
        ErrorCode.TRACE_ALREADY_STARTED,
        ErrorCode.TRACE_ALREADY_STOPPED,
        ErrorCode.NEED_CHANNEL_NAME,
        ErrorCode.INVALID_CHANNEL_NAME,
        ErrorCode.BUFFER_TYPE_MISMATCH,
    }
)


def text_of(error: TracefleetError) -> str:
    """What `lttng` prints for the code of `error`."""
    return TEXTS.get(error.code, str(error))


def reason(error: TracefleetError) -> str | None:
    """What `error` says beyond that text, if anything."""
    if error.code in SELF_EXPLANATORY:
        return None
    words = "; ".join((str(error), *getattr(error, "__notes__", ())))
    return None if words in ("", text_of(error)) else words
