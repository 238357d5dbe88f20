"""One session inside one program: which of its objects exist there, and how to bring them up to date.

`synchronise` compares what should be with what the program was told, and sends the difference. It can be
repeated after any failure, and costs nothing when nothing changed.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from tracefleet_common.codecs import ust_commands
from tracefleet_common.model.event_rules import EventRule
from tracefleet_sessiond.adapters.application import Application
from tracefleet_sessiond.adapters.trace_registry import TraceRegistry
from tracefleet_sessiond.domain.channel import Channel
from tracefleet_sessiond.domain.session import RecordingSession


@dataclass
class _Object:
    """An object in the program that can be enabled and disabled."""

    handle: int
    is_enabled: bool


@dataclass
class _AppChannel(_Object):
    rules: dict[EventRule, _Object] = field(default_factory=dict)


class AppSession:
    """The caller holds the application's lock around every method."""

    def __init__(self, application: Application, session: RecordingSession, registry: TraceRegistry) -> None:
        self._application = application
        self._session = session
        self.registry = registry
        self._handle: int | None = None
        self._channels: dict[str, _AppChannel] = {}
        self._was_started = False
        self.is_started = False

    async def synchronise(self) -> None:
        """Create, enable, disable and start what the session says now.

        Raises AppGone, AppError, or what the consumer daemon says when buffers cannot be made.
        """
        if self._handle is None:
            reply = await self._application.request(ust_commands.create_session())
            self._handle = reply.return_value
            self._application.registries_by_session[self._handle] = self.registry
        for channel in self._session.channels.values():
            app_channel = self._channels.get(channel.name)
            if app_channel is None:
                if self._was_started:
                    continue  # the tracer takes no channel any more
                app_channel = await self._create_channel(self._handle, channel)
            await self._set_enabled(app_channel, channel.is_enabled)
            for rule, is_enabled in list(channel.rules.items()):
                await self._apply_rule(app_channel, rule, is_enabled)
        if self._session.is_active and not self.is_started:
            self._was_started = True
            await self._application.request(ust_commands.enable(self._handle))
            self.is_started = True
            await self._application.request(ust_commands.wait_quiescent())

    async def stop(self) -> None:
        """When it returns, no thread of the program is inside a probe of this session any more."""
        if self._handle is not None and self.is_started:
            self.is_started = False
            await self._application.request(ust_commands.disable(self._handle))
            await self._application.request(ust_commands.wait_quiescent())

    async def release(self) -> None:
        """The program forgets the session and unmaps its buffers."""
        if self._handle is None:
            return
        handle, self._handle = self._handle, None
        for app_channel in self._channels.values():
            for app_rule in app_channel.rules.values():
                await self._application.request(ust_commands.release(app_rule.handle))
            await self._application.request(ust_commands.release(app_channel.handle))
            self._application.channels_by_handle.pop((handle, app_channel.handle), None)
        await self._application.request(ust_commands.release(handle))
        self._application.registries_by_session.pop(handle, None)
        await self._application.request(ust_commands.wait_quiescent())

    async def _create_channel(self, session_handle: int, channel: Channel) -> _AppChannel:
        buffered = await self.registry.buffered(channel)
        reply = await self._application.request(
            ust_commands.create_channel(session_handle, buffered.channel_type, buffered.channel_data),
            [buffered.wakeup_descriptor],
        )
        app_channel = _AppChannel(reply.return_value, is_enabled=True)
        self._application.channels_by_handle[session_handle, app_channel.handle] = buffered
        for cpu, (size_bytes, descriptors) in enumerate(
            zip(buffered.stream_sizes_bytes, buffered.stream_descriptors, strict=True)
        ):
            await self._application.request(ust_commands.add_stream(app_channel.handle, size_bytes, cpu), descriptors)
        self._channels[channel.name] = app_channel
        return app_channel

    async def _apply_rule(self, app_channel: _AppChannel, rule: EventRule, is_enabled: bool) -> None:
        app_rule = app_channel.rules.get(rule)
        if app_rule is None:
            if not is_enabled:
                return
            reply = await self._application.request(
                ust_commands.create_event(app_channel.handle, rule.pattern, rule.log_level_match, rule.log_level)
            )
            app_rule = _Object(reply.return_value, is_enabled=False)
            if rule.exclusions:
                await self._application.request(ust_commands.set_exclusion(app_rule.handle, rule.exclusions))
            app_channel.rules[rule] = app_rule
        await self._set_enabled(app_rule, is_enabled)

    async def _set_enabled(self, target: _Object, is_enabled: bool) -> None:
        if target.is_enabled != is_enabled:
            command = ust_commands.enable if is_enabled else ust_commands.disable
            await self._application.request(command(target.handle))
            target.is_enabled = is_enabled
