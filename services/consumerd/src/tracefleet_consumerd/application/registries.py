"""Everything that is open: registries and their channels, by the keys that the session daemon chose."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tracefleet_common.errors import AlreadyExists, ErrorCode, NotFound
from tracefleet_common.messages.consumerd_control import ChannelState, StreamBooks
from tracefleet_consumerd.application.ports import ChannelBuffers, RelaySession, TraceOutput
from tracefleet_consumerd.domain.channel import ChannelSettings
from tracefleet_consumerd.domain.registry import RegistrySettings
from tracefleet_consumerd.domain.troubles import ChannelTroubles


class Channel:
    """A channel with its ring buffers. Whoever works on the buffers holds `turn`, and notes the books after it.

    `streams` and `write_trouble` are as they were noted last: to ask the buffers may mean to wait for a disk.
    """

    def __init__(self, settings: ChannelSettings, registry: Registry, buffers: ChannelBuffers) -> None:
        self.settings = settings
        self.registry = registry
        self.buffers = buffers
        self.troubles = ChannelTroubles()
        self.streams: tuple[StreamBooks, ...] = ()
        self.write_trouble: str | None = None
        self.turn = asyncio.Lock()
        self.is_closed = False

    @property
    def key(self) -> int:
        return self.settings.channel_key

    def state(self, error: str | None = None) -> ChannelState:
        """The books as noted last, and what is wrong with the channel: `error`, or what is known of it."""
        return ChannelState(
            channel_key=self.key,
            streams=self.streams,
            error=error or self.troubles.text or self.write_trouble,
        )


class Registry:
    """One trace."""

    def __init__(
        self, settings: RegistrySettings, output: TraceOutput | None, relay: RelaySession | None = None
    ) -> None:
        self.settings = settings
        self.output = output
        self.relay = relay
        self.channel_names: dict[int, str] = {}  # by key; also those that are being made
        self.is_closed = False

    @property
    def key(self) -> int:
        return self.settings.registry_key


class Registries:
    """The table. A key is taken from the moment its request is accepted."""

    def __init__(self) -> None:
        self._registries: dict[int, Registry] = {}
        self._channels: dict[int, Channel | None] = {}  # None: it is being made
        self._relays: dict[int, RelaySession | None] = {}  # None: it is being made

    @property
    def registry_count(self) -> int:
        return len(self._registries)

    @property
    def channel_count(self) -> int:
        return len(self._channels)

    def all_registries(self) -> list[Registry]:
        return list(self._registries.values())

    def find_registry(self, key: int) -> Registry | None:
        return self._registries.get(key)

    def registry(self, key: int) -> Registry:
        """Raises NotFound."""
        registry = self._registries.get(key)
        if registry is None:
            raise NotFound(f"Registry {key} does not exist", ErrorCode.UST_SESSION_FAIL)
        return registry

    def check_registry_is_new(self, key: int) -> None:
        """Raises AlreadyExists."""
        if key in self._registries:
            raise AlreadyExists(f"Registry {key} exists already", ErrorCode.UST_SESSION_FAIL)

    def add_registry(self, registry: Registry) -> None:
        self.check_registry_is_new(registry.key)
        self._registries[registry.key] = registry

    def remove_registry(self, registry: Registry) -> None:
        registry.is_closed = True
        self._registries.pop(registry.key, None)

    def relays(self) -> dict[int, RelaySession]:
        """Those that are made, by key."""
        return {key: relay for key, relay in self._relays.items() if relay is not None}

    def relay(self, key: int) -> RelaySession:
        """Raises NotFound."""
        relay = self._relays.get(key)
        if relay is None:
            raise NotFound(f"Relay session {key} does not exist", ErrorCode.UST_SESSION_FAIL)
        return relay

    def reserve_relay(self, key: int) -> None:
        """Raises AlreadyExists. Ends in `add_relay` or `remove_relay`."""
        if key in self._relays:
            raise AlreadyExists(f"Relay session {key} exists already", ErrorCode.UST_SESSION_FAIL)
        self._relays[key] = None

    def add_relay(self, key: int, relay: RelaySession) -> None:
        self._relays[key] = relay

    def remove_relay(self, key: int) -> None:
        self._relays.pop(key, None)

    def registries_of(self, relay: RelaySession) -> list[Registry]:
        """Those whose traces go there."""
        return [registry for registry in self._registries.values() if registry.relay is relay]

    def find_channel(self, key: int) -> Channel | None:
        return self._channels.get(key)

    def channels(self, keys: Iterable[int]) -> list[Channel]:
        """In the order of the keys. Raises NotFound for the first that is unknown."""
        found = []
        for key in keys:
            channel = self._channels.get(key)
            if channel is None:
                raise NotFound(f"Channel {key} does not exist", ErrorCode.UST_CHANNEL_NOT_FOUND)
            found.append(channel)
        return found

    def channels_of(self, registry: Registry) -> list[Channel]:
        """Those that are made."""
        channels = (self._channels.get(key) for key in registry.channel_names)
        return [channel for channel in channels if channel is not None]

    def reserve_channel(self, registry: Registry, key: int, name: str) -> None:
        """Raises AlreadyExists. Ends in `add_channel` or `release_channel`.

        Two channels of one name in a registry would write into the same files.
        """
        if key in self._channels:
            raise AlreadyExists(f"Channel {key} exists already", ErrorCode.UST_CHANNEL_EXISTS)
        if name in registry.channel_names.values():
            raise AlreadyExists(f"Registry {registry.key} has a channel {name!r}", ErrorCode.UST_CHANNEL_EXISTS)
        self._channels[key] = None
        registry.channel_names[key] = name

    def release_channel(self, registry: Registry, key: int) -> None:
        self._channels.pop(key, None)
        registry.channel_names.pop(key, None)

    def add_channel(self, channel: Channel) -> None:
        self._channels[channel.key] = channel

    def remove_channel(self, channel: Channel) -> None:
        channel.is_closed = True
        self.release_channel(channel.registry, channel.key)
