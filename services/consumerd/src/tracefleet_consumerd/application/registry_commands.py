"""Commands about registries: open, close."""

from __future__ import annotations

import logging
import os

from tracefleet_common.errors import TracefleetError, WrongState
from tracefleet_common.messages.consumerd_control import CloseRegistry, OpenRegistry, PrepareOutput
from tracefleet_common.messages.envelope import Done
from tracefleet_consumerd.application.ports import BufferLibrary, DescriptorSender, Requester, Workers
from tracefleet_consumerd.application.registries import Registries, Registry
from tracefleet_consumerd.domain.registry import (
    RegistrySettings,
    check_key,
    check_output_root,
    check_owner,
    check_registry,
)

log = logging.getLogger("tracefleet.consumerd.registries")


class RegistryCommands:
    """One method per command."""

    def __init__(
        self,
        registries: Registries,
        library: BufferLibrary,
        descriptors: DescriptorSender,
        workers: Workers,
        relay_workers: Workers,
    ) -> None:
        self._registries = registries
        self._library = library
        self._descriptors = descriptors
        self._workers = workers
        self._relay_workers = relay_workers

    async def prepare_output(self, request: PrepareOutput) -> Done:
        check_output_root(request.output_root)
        check_owner(request.owner_uid, request.owner_gid)
        await self._workers.run(
            lambda: self._library.prepare_output(request.output_root, request.owner_uid, request.owner_gid)
        )
        return Done()

    async def open(self, requester: Requester, request: OpenRegistry) -> Done:
        settings = RegistrySettings(
            registry_key=request.registry_key,
            trace_uuid=request.trace_uuid,
            output_root=request.output_root,
            relay_key=request.relay_key,
            relative_path=request.relative_path,
            owner_uid=request.owner_uid,
            owner_gid=request.owner_gid,
        )
        check_registry(settings)
        check_key("ticket", request.ticket)
        self._registries.check_registry_is_new(settings.registry_key)
        relay = None if settings.relay_key is None else self._registries.relay(settings.relay_key)
        metadata_descriptor = self._library.create_metadata_memory()
        try:
            if relay is None:
                # It only remembers the place: directories are made with the first file.
                output = self._library.open_output(settings, metadata_descriptor, None)
            else:
                output = await self._relay_workers.run(
                    lambda: self._library.open_output(settings, metadata_descriptor, relay)
                )
            registry = Registry(settings, output, relay)
            self._registries.add_registry(registry)
            try:
                await self._descriptors.send_descriptors(requester, request.ticket, [metadata_descriptor])
            except BaseException:
                await self.give_up(registry)
                raise
        finally:
            os.close(metadata_descriptor)
        return Done()

    async def close(self, request: CloseRegistry) -> Done:
        registry = self._registries.registry(request.registry_key)
        if registry.channel_names:
            raise WrongState(f"Registry {registry.key} has {len(registry.channel_names)} channels open")
        await self.give_up(registry)
        return Done()

    async def give_up(self, registry: Registry) -> None:
        """Forget a registry whose channels are closed."""
        self._registries.remove_registry(registry)
        if registry.output is not None:
            try:
                workers = self._workers if registry.relay is None else self._relay_workers
                await workers.run(registry.output.close)
            except TracefleetError as error:
                log.error("Metadata is missing from a trace: path=%s, reason=%s", registry.settings.path, error)
        log.debug("Closed registry: registry-key=%d", registry.key)
