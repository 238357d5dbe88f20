"""The client of a session daemon for asyncio programs: requests may be made from many tasks at once."""

from __future__ import annotations

from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from tracefleet_common.client.commands import SessiondCommands
from tracefleet_common.client.plain import CONNECT_DEADLINE_S, SOFTWARE
from tracefleet_common.client.run_directory import DEFAULT_TRACING_GROUP, candidate_addresses
from tracefleet_common.errors import RemoteProtocolError, TransportError
from tracefleet_common.messages.sessiond_control import SessiondReply
from tracefleet_common.transport.control_link import ControlLink

Reply = TypeVar("Reply")


class AsyncClient(SessiondCommands):
    """A connection to one session daemon; its methods are those of `Client`, to be awaited.

    `address`: where to; None: the daemon that serves the caller (see run_directory). `deadline_s` replaces
    the deadlines of the commands. It connects with `connect`, or when used as `async with`.
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tracing_group: str = DEFAULT_TRACING_GROUP,
        deadline_s: float | None = None,
        software: str = SOFTWARE,
    ) -> None:
        self._addresses = candidate_addresses(tracing_group) if address is None else (address,)
        self._deadline_s = deadline_s
        self._software = software
        self._link: ControlLink | None = None

    async def __aenter__(self) -> Self:
        await self.connect()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def connect(self, deadline_s: float = CONNECT_DEADLINE_S) -> None:
        """Connect to the first address that answers. Raises TransportError, RemoteProtocolError."""
        for address in self._addresses[:-1]:
            try:
                return await self._connect(address, deadline_s)
            except TransportError:
                continue  # the global daemon is away: the caller's own may be there
        return await self._connect(self._addresses[-1], deadline_s)

    async def _connect(self, address: str, deadline_s: float) -> None:
        link = ControlLink(address, SessiondReply, software=self._software)
        await link.connect(deadline_s)
        self._link = link

    async def close(self) -> None:
        """Close the connection. Harmless when closed already."""
        if self._link is not None:
            await self._link.close()
            self._link = None

    async def ask(self, request: msgspec.Struct, reply: type[Reply], deadline_s: float) -> Reply:
        """Send one request and wait for its reply. Raises what SessiondCommands says."""
        if self._link is None:
            raise TransportError("Not connected to a session daemon")
        answer: Any = await self._link.request(request, deadline_s=self._deadline_s or deadline_s)
        if not isinstance(answer, reply):
            raise RemoteProtocolError(f"The daemon answered with {type(answer).__name__}")
        return answer
