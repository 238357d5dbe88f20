"""Commands about registries: open, metadata, close."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from tracefleet_common.errors import ErrorCode, NotFound, TracefleetError, WrongState
from tracefleet_common.messages.consumerd_control import (
    AppendMetadata,
    CloseRegistry,
    OpenRegistry,
    PrepareOutput,
    RecordLayout,
)
from tracefleet_common.messages.envelope import Done
from tracefleet_consumerd.application.ports import BufferLibrary, ChannelBuffers, Workers
from tracefleet_consumerd.application.registries import Registries, Registry
from tracefleet_consumerd.domain.channel import check_record_layout
from tracefleet_consumerd.domain.registry import (
    RegistrySettings,
    check_output_root,
    check_owner,
    check_registry,
)

log = logging.getLogger("tracefleet.consumerd.registries")


class RegistryCommands:
    """One method per command."""

    def __init__(self, registries: Registries, library: BufferLibrary, workers: Workers) -> None:
        self._registries = registries
        self._library = library
        self._workers = workers

    async def prepare_output(self, request: PrepareOutput) -> Done:
        check_output_root(request.output_root)
        check_owner(request.owner_uid, request.owner_gid)
        await self._workers.run(
            lambda: self._library.prepare_output(request.output_root, request.owner_uid, request.owner_gid)
        )
        return Done()

    async def open(self, request: OpenRegistry) -> Done:
        settings = RegistrySettings(
            registry_key=request.registry_key,
            trace_uuid=request.trace_uuid,
            output_root=request.output_root,
            relative_path=request.relative_path,
            owner_uid=request.owner_uid,
            owner_gid=request.owner_gid,
        )
        check_registry(settings)
        self._registries.check_registry_is_new(settings.registry_key)
        # It only remembers the place: directories are made with the first file.
        self._registries.add_registry(Registry(settings, self._library.open_output(settings)))
        return Done()

    async def append_metadata(self, request: AppendMetadata) -> Done:
        registry = self._registries.registry(request.registry_key)
        for layout in request.record_layouts:
            check_record_layout(layout.event_id, layout.layout)
        output = registry.output
        async with registry.turn:
            if registry.is_closed:
                raise NotFound(f"Registry {registry.key} was closed", ErrorCode.UST_SESSION_FAIL)
            await self._take_record_layouts(registry, request.record_layouts)
            if output is not None and request.text:
                await self._workers.run(lambda: output.append_metadata(request.text))
        return Done()

    async def _take_record_layouts(self, registry: Registry, layouts: Sequence[RecordLayout]) -> None:
        # Not in the turn of the channel: a program waits for its new event, and a drain may take long.
        known: list[tuple[ChannelBuffers, RecordLayout]] = []
        for layout in layouts:
            channel = self._registries.find_channel(layout.channel_key)
            if channel is None or channel.registry is not registry:
                log.debug("Ignored the record layout of a closed channel: channel-key=%d", layout.channel_key)
            else:
                known.append((channel.buffers, layout))
        if known:
            await self._workers.run(lambda: _set_record_layouts(known))

    async def close(self, request: CloseRegistry) -> Done:
        registry = self._registries.registry(request.registry_key)
        if registry.channel_names:
            raise WrongState(f"Registry {registry.key} has {len(registry.channel_names)} channels open")
        await self.give_up(registry)
        return Done()

    async def give_up(self, registry: Registry) -> None:
        """Forget a registry whose channels are closed."""
        self._registries.remove_registry(registry)
        async with registry.turn:
            if registry.output is not None:
                await self._workers.run(registry.output.close)
        log.debug("Closed registry: registry-key=%d", registry.key)


def _set_record_layouts(layouts: Sequence[tuple[ChannelBuffers, RecordLayout]]) -> None:
    for buffers, layout in layouts:
        try:
            buffers.set_record_layout(layout.event_id, layout.layout)
        except NotFound as error:
            log.debug("Ignored the record layout of a closed channel: reason=%s", error)
        except TracefleetError as error:  # a repair will do without; the metadata must not have a hole for it
            log.warning("Repairs must do without a record layout: event-id=%d, reason=%s", layout.event_id, error)
