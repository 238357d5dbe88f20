"""Commands to a program over its command socket, and its replies.

One request, one reply, never two requests in flight. How a request is sent: `message` whole; then, when
`descriptor_count` is not 0, one `sendmsg` of its own with a single dummy byte that carries exactly that many
descriptors (SCM_RIGHTS): (wakeup) of a channel, (shared memory, wakeup) of a stream. The program answers
after that, with REPLY_SIZE_BYTES, and then `following_size_bytes()` more. A time-out leaves the connection out
of step: drop the program then.

Source: liblttng-ust 2.13.5, `src/common/ustcomm.h`, `src/lib/lttng-ust-ctl/ustctl.c`,
`src/lib/lttng-ust/lttng-ust-comm.c`.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import Final, NamedTuple

from tracefleet_common.codecs.ust_abi import ROOT_HANDLE, SYMBOL_NAME_SIZE_BYTES, decode_name, encode_name
from tracefleet_common.errors import InvalidArgument, LocalProtocolError, RemoteProtocolError, TracerError
from tracefleet_common.model.event_rules import LogLevelMatch


class Command(IntEnum):
    """Command numbers, those that recording needs."""

    RELEASE = 0x01
    SESSION = 0x40
    TRACER_VERSION = 0x41
    TRACEPOINT_LIST = 0x42
    WAIT_QUIESCENT = 0x43
    REGISTER_DONE = 0x44
    TRACEPOINT_FIELD_LIST = 0x45
    CHANNEL = 0x51
    SESSION_STATEDUMP = 0x54
    STREAM = 0x60
    EVENT = 0x61
    ENABLE = 0x80
    DISABLE = 0x81
    TRACEPOINT_LIST_GET = 0x90
    TRACEPOINT_FIELD_LIST_GET = 0x91
    EXCLUSION = 0xA1


class UstCode(IntEnum):
    """Error numbers of liblttng-ust; on the wire they are negative."""

    ERROR = 1024  # anything without a number of its own, EBUSY (already enabled, already started) among it
    NO_ENTRY = 1025  # unknown handle; end of a list
    EXIST = 1026
    INVALID = 1027
    PERMISSION = 1028
    NOT_IMPLEMENTED = 1029
    EXITING = 1030  # the program is about to end: treat like a death


_REASONS: Final[dict[int, str]] = {
    UstCode.ERROR: "failed, or done already",
    UstCode.NO_ENTRY: "no such object",
    UstCode.EXIST: "exists already",
    UstCode.INVALID: "invalid argument",
    UstCode.PERMISSION: "not permitted in this state",
    UstCode.NOT_IMPLEMENTED: "not possible on that object",
    UstCode.EXITING: "the program is exiting",
}

REPLY_SIZE_BYTES: Final = 324
FIELD_LIST_ENTRY_SIZE_BYTES: Final = 808
CHANNEL_DATA_SIZE_BYTES_MAX: Final = 1 << 20
EXCLUSION_COUNT_MAX: Final = 1024  # the program takes any number; no rule needs more

_REQUEST = struct.Struct("=II32x572s")
_REPLY = struct.Struct("=IIiI32x276s")
_EVENT = struct.Struct("=i256sii304x")
_CHANNEL = struct.Struct("=Qi288x")
_STREAM = struct.Struct("=QI288x")
_COUNT = struct.Struct("=I")
_VERSION = struct.Struct("=3I")
_LOG_LEVEL = struct.Struct("=i")
_FIELD_LIST_TAIL = struct.Struct("=3i284x")
_INSTRUMENTATION_TRACEPOINT = 0
_LOG_LEVEL_MATCHES = {LogLevelMatch.ALL: 0, LogLevelMatch.RANGE: 1, LogLevelMatch.SINGLE: 2}
_FIELD_KINDS = {1: "integer", 2: "enum", 3: "float", 4: "string"}


class AppRequest(NamedTuple):
    """`message`: every byte before the descriptors, if there are any."""

    handle: int
    command: Command
    message: bytes
    descriptor_count: int = 0


class AppReply(NamedTuple):
    """`return_code`: 0 or a negative number; `return_value`: a new handle; `payload`: 276 bytes."""

    return_code: int
    return_value: int
    payload: bytes


class TracerVersion(NamedTuple):
    """Version of the program's liblttng-ust."""

    major: int
    minor: int
    patch_level: int


class FieldListEntry(NamedTuple):
    """One field of one tracepoint. A tracepoint without fields has one entry with an empty `field_name`."""

    event_name: str
    field_name: str
    kind: str  # integer, enum, float, string, unknown
    log_level: int
    is_recorded: bool  # False: usable in filters only


class AppError(TracerError):
    """A program refused a command. `ust_code`: mostly one of UstCode."""

    def __init__(self, ust_code: int) -> None:
        self.ust_code: int = ust_code
        reason = _REASONS.get(ust_code, "for a reason of its own")
        super().__init__(f"The program refused the command: {reason} (liblttng-ust error {ust_code})")

    @property
    def is_already(self) -> bool:
        """The thing exists, or may be in the asked state: liblttng-ust has only ERROR for "busy"."""
        return self.ust_code in (UstCode.EXIST, UstCode.ERROR)

    @property
    def is_end_of_list(self) -> bool:
        """No more entries (or, outside of a list, an unknown handle)."""
        return self.ust_code == UstCode.NO_ENTRY

    @property
    def is_exiting(self) -> bool:
        """The program is about to end."""
        return self.ust_code == UstCode.EXITING


def _request(handle: int, command: Command, body: bytes = b"", following: bytes = b"", fds: int = 0) -> AppRequest:
    return AppRequest(handle, command, _REQUEST.pack(handle, command, body) + following, fds)


# ---- the program itself ----


def create_session() -> AppRequest:
    """Reply: the session handle."""
    return _request(ROOT_HANDLE, Command.SESSION)


def tracer_version() -> AppRequest:
    """Reply: decode_tracer_version(payload)."""
    return _request(ROOT_HANDLE, Command.TRACER_VERSION)


def register_done() -> AppRequest:
    """Let the program's constructor end."""
    return _request(ROOT_HANDLE, Command.REGISTER_DONE)


def wait_quiescent() -> AppRequest:
    """Reply: once every probe that ran when the request arrived has ended."""
    return _request(ROOT_HANDLE, Command.WAIT_QUIESCENT)


def tracepoint_list() -> AppRequest:
    """Reply: the handle of a list, to be released."""
    return _request(ROOT_HANDLE, Command.TRACEPOINT_LIST)


def tracepoint_list_get(list_handle: int) -> AppRequest:
    """Reply: decode_tracepoint(payload), or AppError.is_end_of_list."""
    return _request(list_handle, Command.TRACEPOINT_LIST_GET)


def tracepoint_field_list() -> AppRequest:
    """Reply: the handle of a list, to be released."""
    return _request(ROOT_HANDLE, Command.TRACEPOINT_FIELD_LIST)


def tracepoint_field_list_get(list_handle: int) -> AppRequest:
    """Reply: FIELD_LIST_ENTRY_SIZE_BYTES follow it, decode_field_list_entry(); or AppError.is_end_of_list."""
    return _request(list_handle, Command.TRACEPOINT_FIELD_LIST_GET)


# ---- recording sessions ----


def create_channel(session_handle: int, channel_type: int, channel_data: bytes) -> AppRequest:
    """Before the session's first start. Reply: the channel handle. Descriptor: the channel's wakeup."""
    if not 0 < len(channel_data) <= CHANNEL_DATA_SIZE_BYTES_MAX:
        raise LocalProtocolError(f"Channel data of {len(channel_data)} bytes (at most {CHANNEL_DATA_SIZE_BYTES_MAX})")
    return _request(
        session_handle, Command.CHANNEL, _CHANNEL.pack(len(channel_data), channel_type), channel_data, fds=1
    )


def add_stream(channel_handle: int, stream_size_bytes: int, cpu: int) -> AppRequest:
    """All of them, CPU 0 first, right after their channel. Descriptors: shared memory, wakeup."""
    return _request(channel_handle, Command.STREAM, _STREAM.pack(stream_size_bytes, cpu), fds=2)


def create_event(channel_handle: int, name: str, log_level_match: LogLevelMatch, log_level: int) -> AppRequest:
    """Create an event rule, disabled; `name` may hold `*`. Reply: its handle."""
    match_number = _LOG_LEVEL_MATCHES[log_level_match]
    if log_level_match is LogLevelMatch.ALL:
        log_level = -1
    body = _EVENT.pack(_INSTRUMENTATION_TRACEPOINT, encode_name(name), match_number, log_level)
    return _request(channel_handle, Command.EVENT, body)


def set_exclusion(event_handle: int, names: Sequence[str]) -> AppRequest:
    """Before the rule is enabled. An empty list would never be answered, so it is refused here."""
    if not 0 < len(names) <= EXCLUSION_COUNT_MAX:
        raise InvalidArgument(f"{len(names)} exclusions (1 to {EXCLUSION_COUNT_MAX} are possible)")
    following = b"".join(map(encode_name, names))
    return _request(event_handle, Command.EXCLUSION, _COUNT.pack(len(names)), following)


def enable(handle: int) -> AppRequest:
    """Enable an event rule or a channel, or start a session."""
    return _request(handle, Command.ENABLE)


def disable(handle: int) -> AppRequest:
    """Disable an event rule or a channel, or stop a session."""
    return _request(handle, Command.DISABLE)


def release(handle: int) -> AppRequest:
    """Give up a handle; that of a session destroys everything in it."""
    return _request(handle, Command.RELEASE)


def regenerate_statedump(session_handle: int) -> AppRequest:
    """Emit the state dump again."""
    return _request(session_handle, Command.SESSION_STATEDUMP)


# ---- replies ----


def decode_reply(request: AppRequest, data: bytes) -> AppReply:
    """Decode the REPLY_SIZE_BYTES that answer `request`.

    Raises RemoteProtocolError when they answer something else: the connection is out of step.
    """
    if len(data) != REPLY_SIZE_BYTES:
        raise RemoteProtocolError(f"Reply has {len(data)} bytes, not {REPLY_SIZE_BYTES}")
    handle, command, return_code, return_value, payload = _REPLY.unpack(data)
    if handle != request.handle or command != request.command:
        raise RemoteProtocolError(
            f"Reply is to command {command:#x} on handle {handle}, not to {int(request.command):#x} on {request.handle}"
        )
    if return_code > 0:
        raise RemoteProtocolError(f"Reply to command {command:#x} has the positive return code {return_code}")
    return AppReply(return_code, return_value, payload)


def following_size_bytes(request: AppRequest, reply: AppReply) -> int:
    """Return how many bytes the program sends after `reply` and that must be read with it; mostly 0."""
    is_field = request.command == Command.TRACEPOINT_FIELD_LIST_GET and reply.return_code == 0
    return FIELD_LIST_ENTRY_SIZE_BYTES if is_field else 0


def check(reply: AppReply) -> AppReply:
    """Return `reply`, or raise AppError when it says that the program refused."""
    if reply.return_code < 0:
        raise AppError(-reply.return_code)
    return reply


def decode_tracer_version(payload: bytes) -> TracerVersion:
    """Decode the payload of the reply to tracer_version()."""
    return TracerVersion(*_VERSION.unpack_from(payload))


def decode_tracepoint(payload: bytes) -> tuple[str, int]:
    """Decode the payload of the reply to tracepoint_list_get(): "provider:name" and log level."""
    (log_level,) = _LOG_LEVEL.unpack_from(payload, SYMBOL_NAME_SIZE_BYTES)
    return decode_name(payload, 0), log_level


def decode_field_list_entry(data: bytes) -> FieldListEntry:
    """Decode the FIELD_LIST_ENTRY_SIZE_BYTES after the reply to tracepoint_field_list_get()."""
    if len(data) != FIELD_LIST_ENTRY_SIZE_BYTES:
        raise RemoteProtocolError(f"Field list entry has {len(data)} bytes, not {FIELD_LIST_ENTRY_SIZE_BYTES}")
    kind, log_level, is_filter_only = _FIELD_LIST_TAIL.unpack_from(data, 2 * SYMBOL_NAME_SIZE_BYTES)
    return FieldListEntry(
        event_name=decode_name(data, 0),
        field_name=decode_name(data, SYMBOL_NAME_SIZE_BYTES),
        kind=_FIELD_KINDS.get(kind, "unknown"),
        log_level=log_level,
        is_recorded=not is_filter_only,
    )
