"""The notify socket: a program announces its enumerations, events and channels, and gets their ids.

The program sends one notification and waits for its reply, holding its tracing lock, before it sends the
next. After RefusedNotification the connection is in step: send the reply that the error carries. After
RemoteProtocolError nothing more can be understood: drop the program.

Source: liblttng-ust 2.13.5, `src/common/ustcomm.h`, `struct ustcomm_notify_*`.
"""

from __future__ import annotations

import errno
import struct
from enum import IntEnum
from typing import Final

import msgspec

from tracefleet_common.codecs.ust_abi import decode_name, decode_text
from tracefleet_common.codecs.ust_fields import (
    ENUM_ENTRY_COUNT_MAX,
    ENUM_ENTRY_SIZE_BYTES,
    FIELD_COUNT_MAX,
    FIELD_SIZE_BYTES,
    UnsupportedField,
    decode_enum_entries,
    decode_fields,
)
from tracefleet_common.errors import LocalProtocolError, RemoteProtocolError
from tracefleet_common.model.ctf_types import EnumEntry, Field, HeaderType

TEXT_SIZE_BYTES_MAX: Final = 64 * 1024  # a signature, a model URI
_FIELDS_SIZE_BYTES_MAX = FIELD_COUNT_MAX * FIELD_SIZE_BYTES
_ENTRIES_SIZE_BYTES_MAX = ENUM_ENTRY_COUNT_MAX * ENUM_ENTRY_SIZE_BYTES

_KIND = struct.Struct("=I")
# Each with the notification kind in front.
_EVENT = struct.Struct("=III256siIII32x")
_ENUM = struct.Struct("=II256sI32x")
_CHANNEL = struct.Struct("=IIII32x")
_EVENT_REPLY = struct.Struct("=IiI32x")
_ENUM_REPLY = struct.Struct("=IiQ32x")
_CHANNEL_REPLY = struct.Struct("=IiII32x")
_EVENT_NAME_OFFSET = 12
_ENUM_NAME_OFFSET = 8


class NotificationKind(IntEnum):
    """First number of a notification and of its reply."""

    EVENT = 0
    CHANNEL = 1
    ENUM = 2


class EventNotification(msgspec.Struct, frozen=True, kw_only=True):
    """An instrumentation point that an event rule matched, once per channel. Handles are the program's."""

    session_handle: int
    channel_handle: int
    name: str  # provider:name
    log_level: int
    signature: str  # C argument list, for people
    fields: tuple[Field, ...]
    model_emf_uri: str | None


class EnumNotification(msgspec.Struct, frozen=True, kw_only=True):
    """An enumeration that fields of coming events, or context fields, refer to by the id in the reply."""

    session_handle: int
    name: str
    entries: tuple[EnumEntry, ...]


class ChannelNotification(msgspec.Struct, frozen=True, kw_only=True):
    """A channel, at the first start of its session, with the context fields of its event records."""

    session_handle: int
    channel_handle: int
    context_fields: tuple[Field, ...]


Notification = EventNotification | EnumNotification | ChannelNotification


class RefusedNotification(UnsupportedField):
    """A notification describes what a trace cannot hold. `reply`: the bytes that tell the program so."""

    def __init__(self, reason: str, *, kind: NotificationKind, name: str, reply: bytes) -> None:
        super().__init__(f"{kind.name.capitalize()} {name!r} cannot be recorded: {reason}")
        self.kind = kind
        self.name = name
        self.reply = reply


class NotificationParser:
    """Bytes of one notify socket in, notifications out."""

    def __init__(self) -> None:
        self._received = bytearray()

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take more bytes, in pieces of any size."""
        self._received += data

    def next(self) -> Notification | None:
        """Return the next notification; None: feed more bytes first.

        Raises RemoteProtocolError, or RefusedNotification after having consumed the notification.
        """
        if len(self._received) < _KIND.size:
            return None
        (kind,) = _KIND.unpack_from(self._received)
        if kind == NotificationKind.EVENT:
            return self._next_event()
        if kind == NotificationKind.ENUM:
            return self._next_enum()
        if kind == NotificationKind.CHANNEL:
            return self._next_channel()
        raise RemoteProtocolError(f"Notification of an unknown kind ({kind})")

    def _next_event(self) -> EventNotification | None:
        if len(self._received) < _EVENT.size:
            return None
        header = _EVENT.unpack_from(self._received)
        _, session_handle, channel_handle, raw_name, log_level, signature_size, fields_size, uri_size = header
        _check_size("signature", signature_size, TEXT_SIZE_BYTES_MAX)
        _check_size("fields", fields_size, _FIELDS_SIZE_BYTES_MAX)
        _check_size("model URI", uri_size, TEXT_SIZE_BYTES_MAX)
        body = self._take(_EVENT.size, signature_size + fields_size + uri_size)
        if body is None:
            return None
        name = decode_name(raw_name, 0)
        fields_end = signature_size + fields_size
        try:
            fields = decode_fields(body[signature_size:fields_end])
        except UnsupportedField as error:
            raise RefusedNotification(
                str(error),
                kind=NotificationKind.EVENT,
                name=name,
                reply=encode_event_reply(0, -errno.EINVAL),
            ) from error
        return EventNotification(
            session_handle=session_handle,
            channel_handle=channel_handle,
            name=name,
            log_level=log_level,
            signature=decode_text(body[:signature_size]),
            fields=fields,
            model_emf_uri=decode_text(body[fields_end:]) if uri_size else None,
        )

    def _next_enum(self) -> EnumNotification | None:
        if len(self._received) < _ENUM.size:
            return None
        _, session_handle, raw_name, entries_size = _ENUM.unpack_from(self._received)
        _check_size("entries", entries_size, _ENTRIES_SIZE_BYTES_MAX)
        body = self._take(_ENUM.size, entries_size)
        if body is None:
            return None
        return EnumNotification(
            session_handle=session_handle, name=decode_name(raw_name, 0), entries=decode_enum_entries(body)
        )

    def _next_channel(self) -> ChannelNotification | None:
        if len(self._received) < _CHANNEL.size:
            return None
        _, session_handle, channel_handle, fields_size = _CHANNEL.unpack_from(self._received)
        _check_size("context fields", fields_size, _FIELDS_SIZE_BYTES_MAX)
        body = self._take(_CHANNEL.size, fields_size)
        if body is None:
            return None
        try:
            context_fields = decode_fields(body)
        except UnsupportedField as error:
            raise RefusedNotification(
                str(error),
                kind=NotificationKind.CHANNEL,
                name=str(channel_handle),
                reply=encode_channel_reply(0, HeaderType.LARGE, -errno.EINVAL),
            ) from error
        return ChannelNotification(
            session_handle=session_handle, channel_handle=channel_handle, context_fields=context_fields
        )

    def _take(self, header_size: int, body_size: int) -> bytes | None:
        """Remove one notification from the received bytes and return its body; None: it is not whole yet."""
        end = header_size + body_size
        if len(self._received) < end:
            return None
        body = bytes(memoryview(self._received)[header_size:end])
        del self._received[:end]
        return body


def _check_size(what: str, size_bytes: int, size_bytes_max: int) -> None:
    if size_bytes > size_bytes_max:
        raise RemoteProtocolError(f"Notification announces {size_bytes} bytes of {what} (at most {size_bytes_max})")


def _checked(return_code: int) -> int:
    if return_code > 0:
        raise LocalProtocolError(f"A reply to a notification cannot have the return code {return_code}")
    return return_code


def encode_event_reply(event_id: int, return_code: int) -> bytes:
    """Answer an EventNotification. `return_code`: 0, or a negative errno: the event is not recorded then."""
    return _EVENT_REPLY.pack(NotificationKind.EVENT, _checked(return_code), event_id)


def encode_enum_reply(enum_id: int, return_code: int) -> bytes:
    """Answer an EnumNotification. `return_code` as in encode_event_reply()."""
    return _ENUM_REPLY.pack(NotificationKind.ENUM, _checked(return_code), enum_id)


def encode_channel_reply(channel_id: int, header_type: HeaderType, return_code: int) -> bytes:
    """Answer a ChannelNotification. `channel_id` must be the one that the ring buffers were created with."""
    return _CHANNEL_REPLY.pack(NotificationKind.CHANNEL, _checked(return_code), channel_id, header_type)
