"""Where a session goes that is streamed to a relay daemon, in LTTng's protocol or in our own."""

from __future__ import annotations

from enum import Enum

import msgspec

CONTROL_PORT_DEFAULT = 5342
DATA_PORT_DEFAULT = 5343
LIVE_PORT_DEFAULT = 5344
# Below LTTng's: from 5345 on, its session daemons listen for agents.
FLEET_PORT_DEFAULT = 5340
FLEET_DATA_PORT_DEFAULT = 5341
LIVE_TIMER_PERIOD_US_DEFAULT = 1_000_000


class Durability(Enum):
    """What a relay daemon has done with a packet when it acknowledges it."""

    WRITTEN = "written"  # it outlives the relay daemon
    SYNCED = "synced"  # it outlives the machine


class RelayOutput(msgspec.Struct, frozen=True, kw_only=True, tag="lttng"):
    """One relay daemon that speaks LTTng's protocol, and the directory below its own that the session asks for."""

    address: str  # numeric, IPv4 or IPv6
    control_port: int = CONTROL_PORT_DEFAULT
    data_port: int = DATA_PORT_DEFAULT
    subdirectory: str = ""  # as it was given; "": the relay daemon chooses

    @property
    def text(self) -> str:
        """As LTTng writes it: tcp4://ADDRESS:PORT/SUBDIRECTORY [data: PORT]."""
        host = f"tcp6://[{self.address}]" if ":" in self.address else f"tcp4://{self.address}"
        return f"{host}:{self.control_port}/{self.subdirectory} [data: {self.data_port}]"


class FleetOutput(msgspec.Struct, frozen=True, kw_only=True, tag="fleet"):
    """One relay daemon of our own, which acknowledges what it has; and what the session asks of both ends."""

    address: str  # numeric, IPv4 or IPv6
    port: int = FLEET_PORT_DEFAULT
    subdirectory: str = ""  # "": the relay daemon chooses
    durability: Durability = Durability.WRITTEN
    spool_size_bytes: int = 0  # on the traced host's disk, while the relay daemon is away; 0: none

    @property
    def text(self) -> str:
        """As a URL: fleet://ADDRESS:PORT/SUBDIRECTORY."""
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"fleet://{host}:{self.port}/{self.subdirectory}"
