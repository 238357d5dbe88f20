"""LTTng's health check, which liblttng-ctl asks (`lttng_health_query`): one question, one answer, on a Unix socket.

Source: LTTng-tools 2.13: a client sends a command, 0, in 4 bytes, and gets a mask of 8 bytes in which each bit is a
thread of the daemon that is stuck. Ours answers 0 from its event loop: that it is well, or nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import struct
from typing import Final

from tracefleet_common.errors import TransportError

log = logging.getLogger("tracefleet.transport.health-socket")

COMMAND_SIZE_BYTES: Final = 4
ANSWER: Final = struct.Struct("=Q")
DEADLINE_S: Final = 5.0
CONNECTIONS_MAX: Final = 64


class HealthSocket:
    """Answers between `open` and `close`. Owner, mode and removal of the socket's file are left to the caller."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._server: asyncio.Server | None = None
        self._connection_count = 0

    async def open(self) -> None:
        """Listen. Raises TransportError."""
        try:
            self._server = await asyncio.start_unix_server(self._answer, self._path)
        except OSError as error:
            raise TransportError(f"Cannot listen on {self._path}: {error.strerror}") from None

    def close(self) -> None:
        """Harmless when it is not open."""
        if self._server is not None:
            self._server.close()
            self._server = None

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connection_count += 1
        try:
            if self._connection_count > CONNECTIONS_MAX:
                return
            async with asyncio.timeout(DEADLINE_S):
                await reader.readexactly(COMMAND_SIZE_BYTES)
                writer.write(ANSWER.pack(0))
                await writer.drain()
        except (OSError, EOFError, TimeoutError) as error:
            log.debug("A health check ended early: error=%s", error)
        finally:
            self._connection_count -= 1
            with contextlib.suppress(RuntimeError):  # the event loop has ended
                writer.close()
