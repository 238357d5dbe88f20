"""Typed clients of the session daemon: `Client` for plain programs, `AsyncClient` for event loops.

`RelayClient` asks a relay daemon how it is. They are imported when first asked for: a program that uses one does not
pay for the others.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracefleet_common.client.asynchronous import AsyncClient
    from tracefleet_common.client.plain import Client
    from tracefleet_common.client.relay import RelayClient

__all__ = ["AsyncClient", "Client", "RelayClient"]


def __getattr__(name: str) -> object:
    if name == "Client":
        from tracefleet_common.client.plain import Client

        return Client
    if name == "AsyncClient":
        from tracefleet_common.client.asynchronous import AsyncClient

        return AsyncClient
    if name == "RelayClient":
        from tracefleet_common.client.relay import RelayClient

        return RelayClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
