"""A registered program: its two connections, and what it may announce on the second one."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Sequence

from tracefleet_common.codecs import ust_commands, ust_notify
from tracefleet_common.codecs.ust_commands import AppReply, AppRequest, TracerVersion
from tracefleet_common.codecs.ust_notify import (
    ChannelNotification,
    EnumNotification,
    EventNotification,
    Notification,
    NotificationParser,
    RefusedNotification,
)
from tracefleet_common.errors import RemoteProtocolError, TracefleetError
from tracefleet_common.model.ctf_types import HeaderType
from tracefleet_sessiond.adapters.app_listener import Arrival
from tracefleet_sessiond.adapters.app_socket import AppSocket, CommandSocket
from tracefleet_sessiond.adapters.trace_registry import BufferedChannel, TraceRegistry

log = logging.getLogger("tracefleet.sessiond.app")

# Return codes on the notify connection are negative error numbers, shown to nobody.
REFUSED = -22  # EINVAL
UNKNOWN_OBJECT = -2  # ENOENT


class Application:
    """One program. Its commands go one at a time; its announcements are answered whatever its commands do.

    The program blocks in a command while it waits for the answer to an announcement, so answering must never
    wait for a command of the same program.
    """

    def __init__(
        self, arrival: Arrival, *, deadline_s: float | None, on_end: Callable[[Application, str], None]
    ) -> None:
        self.registration = arrival.registration
        self.credentials = arrival.credentials
        self.registration_time_s = time.time()
        self.lock = asyncio.Lock()  # held while the program is brought up to date with one session
        self.tracer_version: TracerVersion | None = None
        # Handles are the program's numbers; it uses them in its announcements.
        self.registries_by_session: dict[int, TraceRegistry] = {}
        self.channels_by_handle: dict[tuple[int, int], BufferedChannel] = {}
        self._on_end = on_end
        self._is_ended = False
        self._parser = NotificationParser()
        self._command = CommandSocket(arrival.command, deadline_s=deadline_s, on_end=self._end)
        self._notify = AppSocket(arrival.notify, on_data=self._take_notification, on_end=self._end)

    @property
    def pid(self) -> int:
        """As the kernel says."""
        return self.credentials.pid

    @property
    def has_left(self) -> bool:
        """Whether the program itself ended a connection; False while it is registered, or when we dropped it."""
        return self._command.is_ended_by_peer or self._notify.is_ended_by_peer

    @property
    def is_alive(self) -> bool:
        """Whether commands can be sent."""
        return not self._is_ended

    def __str__(self) -> str:
        return f"{self.registration.safe_name} (pid {self.pid})"

    async def request(self, request: AppRequest, descriptors: Sequence[int] = ()) -> AppReply:
        """Carry out one command in the program. Raises AppGone, AppError or RemoteProtocolError."""
        return await self._command.request(request, descriptors)

    async def read_tracer_version(self) -> TracerVersion:
        """The version of the program's liblttng-ust."""
        reply = await self.request(ust_commands.tracer_version())
        self.tracer_version = ust_commands.decode_tracer_version(reply.payload)
        return self.tracer_version

    def close(self, reason: str) -> None:
        """End both connections."""
        self._command.close(reason)
        self._notify.close(reason)

    def _end(self, reason: str) -> None:
        if self._is_ended:
            return
        self._is_ended = True
        self.close(reason)
        self._on_end(self, reason)

    # ---- announcements ----

    def _take_notification(self, data: bytes) -> None:
        self._parser.feed(data)
        while not self._is_ended:
            try:
                notification = self._parser.next()
                if notification is None:
                    return
                reply = self._answer(notification)
            except RefusedNotification as refusal:
                self._log_refusal(refusal.name, refusal)
                reply = refusal.reply
            except RemoteProtocolError as error:
                log.warning("A program announces nonsense: program=%s, reason=%s", self, error)
                self.close(str(error))
                return
            self._notify.send(reply)

    def _answer(self, notification: Notification) -> bytes:
        match notification:
            case EnumNotification():
                registry = self.registries_by_session.get(notification.session_handle)
                if registry is None:
                    return ust_notify.encode_enum_reply(0, UNKNOWN_OBJECT)
                try:
                    return ust_notify.encode_enum_reply(registry.enum_id(notification), 0)
                except TracefleetError as error:
                    self._log_refusal(notification.name, error)
                    return ust_notify.encode_enum_reply(0, REFUSED)
            case ChannelNotification():
                registry, channel = self._objects(notification)
                if registry is None or channel is None:
                    return ust_notify.encode_channel_reply(0, HeaderType.LARGE, UNKNOWN_OBJECT)
                try:
                    header_type = registry.header_type(channel, notification)
                except TracefleetError as error:
                    self._log_refusal(channel.channel.name, error)
                    return ust_notify.encode_channel_reply(0, HeaderType.LARGE, REFUSED)
                return ust_notify.encode_channel_reply(channel.description.channel_id, header_type, 0)
            case EventNotification():
                registry, channel = self._objects(notification)
                if registry is None or channel is None:
                    return ust_notify.encode_event_reply(0, UNKNOWN_OBJECT)
                try:
                    return ust_notify.encode_event_reply(registry.event_id(channel, notification), 0)
                except TracefleetError as error:
                    self._log_refusal(notification.name, error)
                    return ust_notify.encode_event_reply(0, REFUSED)

    def _objects(
        self, notification: ChannelNotification | EventNotification
    ) -> tuple[TraceRegistry | None, BufferedChannel | None]:
        return (
            self.registries_by_session.get(notification.session_handle),
            self.channels_by_handle.get((notification.session_handle, notification.channel_handle)),
        )

    def _log_refusal(self, name: str, error: TracefleetError) -> None:
        log.warning("Refused an announcement: program=%s, name=%s, reason=%s", self, name, error)
