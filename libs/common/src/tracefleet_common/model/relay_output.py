"""Where a session goes that is streamed to a relay daemon in LTTng's protocol."""

from __future__ import annotations

import msgspec

CONTROL_PORT_DEFAULT = 5342
DATA_PORT_DEFAULT = 5343
LIVE_PORT_DEFAULT = 5344
LIVE_TIMER_PERIOD_US_DEFAULT = 1_000_000


class RelayOutput(msgspec.Struct, frozen=True, kw_only=True):
    """One relay daemon, and the directory below its own that the session asks for."""

    address: str  # numeric, IPv4 or IPv6
    control_port: int = CONTROL_PORT_DEFAULT
    data_port: int = DATA_PORT_DEFAULT
    subdirectory: str = ""  # as it was given; "": the relay daemon chooses

    @property
    def text(self) -> str:
        """As LTTng writes it: tcp4://ADDRESS:PORT/SUBDIRECTORY [data: PORT]."""
        host = f"tcp6://[{self.address}]" if ":" in self.address else f"tcp4://{self.address}"
        return f"{host}:{self.control_port}/{self.subdirectory} [data: {self.data_port}]"
