"""Serve clients over the bus: who they are comes from the kernel, what they may do from these rules."""

from __future__ import annotations

from typing import Any

import msgspec

from tracefleet_common.errors import PermissionRefused
from tracefleet_common.transport.control_server import Peer
from tracefleet_sessiond.application.ports import Caller
from tracefleet_sessiond.application.session_commands import SessionCommands


class BusControl:
    """The handler of a ControlServer.

    Whoever can open the socket may ask: its mode and group keep others out. A peer without credentials is not
    on this host, and gets nothing.
    """

    def __init__(self, commands: SessionCommands) -> None:
        self._commands = commands

    async def handle(self, peer: Peer, request: Any) -> msgspec.Struct:
        """Carry out one request. Raises a TracefleetError."""
        if peer.uid < 0:
            raise PermissionRefused("The session daemon serves clients of its own host only")
        return await self._commands.execute(request, Caller(uid=peer.uid, gid=peer.gid, pid=peer.pid))
