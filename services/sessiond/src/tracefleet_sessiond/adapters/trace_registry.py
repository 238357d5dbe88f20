"""One trace: its registry of descriptions, its metadata and its ring buffers in the consumer daemon.

Metadata is published in memory that the consumer daemon reads before it writes any packet: a program that announces
something gets its answer at once, and what it records later is described in the file before it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime

from tracefleet_common.codecs import tsdl
from tracefleet_common.codecs.record_layout import record_layout
from tracefleet_common.codecs.tsdl import ClockDescription
from tracefleet_common.codecs.ust_commands import TracerVersion
from tracefleet_common.codecs.ust_notify import (
    ChannelNotification,
    EnumNotification,
    EventNotification,
)
from tracefleet_common.codecs.ust_registration import Registration
from tracefleet_common.errors import TracefleetError, TransportError
from tracefleet_common.messages import consumerd_control as control
from tracefleet_common.model.ctf_types import Field, HeaderType
from tracefleet_common.model.event_rules import BufferOwnership
from tracefleet_common.transport.metadata_memory import MetadataMemory
from tracefleet_sessiond.adapters.app_listener import Credentials
from tracefleet_sessiond.adapters.consumer import Consumer
from tracefleet_sessiond.domain.channel import Channel
from tracefleet_sessiond.domain.session import RecordingSession
from tracefleet_sessiond.domain.trace_registry import (
    ChannelDescription,
    Enumerations,
    EventDescription,
    header_type_for,
)

log = logging.getLogger("tracefleet.sessiond.trace")


def _local_time(time_s: float) -> datetime:
    return datetime.fromtimestamp(time_s).astimezone()


class BufferedChannel:
    """A channel of one trace: its description, and its ring buffers as applications must receive them."""

    def __init__(
        self,
        channel: Channel,
        channel_key: int,
        description: ChannelDescription,
        created: control.ChannelCreated,
        descriptors: list[int],
    ) -> None:
        self.channel = channel
        self.channel_key = channel_key
        self.description = description
        self.channel_type = created.channel_type
        self.channel_data = created.channel_data
        self.stream_sizes_bytes = created.stream_sizes_bytes
        self.wakeup_descriptor = descriptors[0]
        self.stream_descriptors = list(zip(descriptors[1::2], descriptors[2::2], strict=True))

    def release(self) -> None:
        """Close our ends of the descriptors."""
        for descriptor in (self.wakeup_descriptor, *(fd for pair in self.stream_descriptors for fd in pair)):
            with contextlib.suppress(OSError):
                os.close(descriptor)


class TraceRegistry:
    """Made for the first program that needs it. All waiting on the consumer daemon happens here."""

    def __init__(
        self,
        *,
        session: RecordingSession,
        ownership: BufferOwnership,
        registration: Registration,
        credentials: Credentials,
        registration_time_s: float,
        tracer_version: TracerVersion,
        clock: ClockDescription,
        consumer: Consumer,
        relay_key: int | None,
        new_key: Callable[[], int],
    ) -> None:
        self.session = session
        self.ownership = ownership
        self.key = new_key()
        self.trace_uuid = uuid.uuid4()
        self._registration = registration
        self._credentials = credentials
        self._registration_time_s = registration_time_s
        self._tracer_version = tracer_version
        self._clock = clock
        self._consumer = consumer
        self._relay_key = relay_key
        self._new_key = new_key
        self._lock = asyncio.Lock()
        self._metadata: MetadataMemory | None = None  # while the consumer daemon has the registry
        self._enumerations = Enumerations()
        self.channels: dict[str, BufferedChannel] = {}
        # The latest by channel key, None before the first, which may come before the channel is in `channels`.
        self.usages: dict[int, control.BufferSample | None] = {}

    @property
    def channel_keys(self) -> tuple[int, ...]:
        """The consumer's keys of the channels made so far."""
        return tuple(channel.channel_key for channel in self.channels.values())

    @property
    def relative_path(self) -> str:
        """The trace's directory below the session's output."""
        if self.ownership is BufferOwnership.PER_USER:
            return f"ust/uid/{self._credentials.uid}/{self._registration.bits_per_long}-bit"
        moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(self._registration_time_s))
        return f"ust/pid/{self._registration.safe_name}-{self._credentials.pid}-{moment}"

    async def buffered(self, channel: Channel) -> BufferedChannel:
        """The ring buffers of `channel`, made when this is the first program. Raises what the consumer says."""
        async with self._lock:
            existing = self.channels.get(channel.name)
            if existing is not None:
                return existing
            await self._open()
            channel_key = self._new_key()
            description = ChannelDescription(len(self.channels), header_type_for(channel.rules))
            attributes = channel.attributes
            info = await self._consumer.ensure()
            self.usages[channel_key] = None
            try:
                created, descriptors = await self._consumer.create_channel(
                    stream_count=info.cpu_count,
                    registry_key=self.key,
                    channel_key=channel_key,
                    name=channel.name,
                    channel_id=description.channel_id,
                    header_type=description.header_type,
                    loss_mode=channel.loss_mode,
                    sub_buffer_size_bytes=attributes.sub_buffer_size_bytes,
                    sub_buffer_count=attributes.sub_buffer_count,
                    switch_timer_period_us=attributes.switch_timer_period_us,
                    read_timer_period_us=attributes.read_timer_period_us,
                    monitor_timer_period_us=attributes.monitor_timer_period_us,
                    blocking_timeout_us=attributes.blocking_timeout_us,
                    trace_file_size_bytes=attributes.trace_file_size_bytes,
                    trace_file_count=attributes.trace_file_count,
                    live_timer_period_us=self.session.live_timer_period_us,
                )
            except BaseException:
                self.usages.pop(channel_key, None)
                raise
            buffered = BufferedChannel(channel, channel_key, description, created, descriptors)
            self.channels[channel.name] = buffered
            return buffered

    async def _open(self) -> None:
        if self._metadata is not None:
            return
        await self._consumer.ensure()
        metadata = await self._consumer.open_registry(
            registry_key=self.key,
            trace_uuid=self.trace_uuid.bytes,
            output_root=self.session.output_path,
            relay_key=self._relay_key,
            relative_path=self.relative_path,
            owner_uid=self.session.owner_uid,
            owner_gid=self.session.owner_gid,
        )
        try:
            metadata.append(tsdl.trace_preamble(self._environment()))
        except TracefleetError:
            metadata.close()
            await self._consumer.request(control.CloseRegistry(self.key))
            raise
        self._metadata = metadata

    def _publish(self, text: str) -> None:
        if self._metadata is None:
            raise TransportError("The trace is closed")
        self._metadata.append(text)

    def _environment(self) -> tsdl.TraceEnvironment:
        registration = self._registration
        is_per_process = self.ownership is BufferOwnership.PER_PROCESS
        return tsdl.TraceEnvironment(
            trace_uuid=self.trace_uuid.bytes,
            byte_order=registration.byte_order,
            bits_per_long=registration.bits_per_long,
            alignments=registration.alignments,
            tracer_major=self._tracer_version.major,
            tracer_minor=self._tracer_version.minor,
            buffer_ownership=self.ownership,
            buffer_owner_id=self._credentials.pid if is_per_process else self._credentials.uid,
            trace_name="auto" if self.session.has_default_name else self.session.name,
            creation_time=_local_time(self.session.creation_time_s),
            hostname=socket.gethostname(),
            clock=self._clock,
            process=tsdl.ProcessDescription(
                tracer_patch_level=self._tracer_version.patch_level,
                pid=self._credentials.pid,
                name=registration.name,
                registration_time=_local_time(self._registration_time_s),
            )
            if is_per_process
            else None,
        )

    # ---- what applications announce on their notify connections ----

    def enum_id(self, notification: EnumNotification) -> int:
        """The id of an enumeration that later event descriptions refer to."""
        return self._enumerations.enum_id(notification.name, notification.entries)

    def header_type(self, buffered: BufferedChannel, notification: ChannelNotification) -> HeaderType:
        """Which event header a channel has; its metadata is published when this returns.

        Raises TracerError for contexts that no trace can hold, or what publishing says; nothing has changed then.
        """
        description = buffered.description
        description.check_context_fields(notification.context_fields)
        if description.context_fields is None:
            self._publish(
                tsdl.stream_class(
                    description.channel_id,
                    description.header_type,
                    notification.context_fields,
                    self._enumerations.entries_by_id,
                    byte_order=self._registration.byte_order,
                )
            )
            if self._metadata is not None:
                self._metadata.set_described(description.channel_id)
            description.context_fields = notification.context_fields
            self._tell_layout(buffered, control.CONTEXT_FIELDS_EVENT_ID, notification.context_fields)
        return description.header_type

    def event_id(self, buffered: BufferedChannel, notification: EventNotification) -> int:
        """The id of an event; its metadata is published when this returns.

        Raises TracerError for fields that no trace can hold, or what publishing says; nothing has changed then.
        """
        events = buffered.description
        description = EventDescription(
            notification.name, notification.log_level, notification.fields, notification.model_emf_uri
        )
        known = events.event_ids.get(description)
        if known is not None:
            return known
        event_id = events.next_event_id()
        self._publish(
            tsdl.event_class(
                name=notification.name,
                event_id=event_id,
                channel_id=events.channel_id,
                log_level=notification.log_level,
                fields=notification.fields,
                model_emf_uri=notification.model_emf_uri,
                enumerations=self._enumerations.entries_by_id,
                byte_order=self._registration.byte_order,
            )
        )
        events.add_event(description)
        self._tell_layout(buffered, event_id, notification.fields)
        return event_id

    def _tell_layout(self, buffered: BufferedChannel, event_id: int, fields: Sequence[Field]) -> None:
        layout = record_layout(fields)
        if layout is not None:
            self._consumer.tell_record_layout(
                control.RecordLayout(channel_key=buffered.channel_key, event_id=event_id, layout=layout)
            )

    # ---- the end ----

    async def close(self, *, is_quiescent: bool) -> Sequence[tuple[Channel, control.ChannelState]]:
        """Write what the buffers hold and give them up; the last books. A lost consumer has none."""
        async with self._lock:
            channels = list(self.channels.values())
            for channel in channels:
                channel.release()
            self.channels.clear()
            self.usages.clear()
            if self._metadata is None:
                return ()
            self._metadata.close()
            self._metadata = None
            try:
                states = await self._consumer.channel_states(
                    control.CloseChannels(
                        channel_keys=tuple(channel.channel_key for channel in channels),
                        is_quiescent=is_quiescent,
                    )
                )
                await self._consumer.request(control.CloseRegistry(self.key))
            except TracefleetError as error:
                log.error("Cannot close a trace in order: session=%s, reason=%s", self.session.name, error)
                return ()
            return [(channel.channel, state) for channel, state in zip(channels, states, strict=True)]
