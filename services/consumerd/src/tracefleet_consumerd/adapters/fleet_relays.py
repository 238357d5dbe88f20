"""All sessions at relay daemons of our own: new ones, and those that a former consumer daemon left in the spool."""

from __future__ import annotations

import asyncio
import logging
import secrets
from contextlib import suppress
from pathlib import Path

from tracefleet_common.errors import ErrorCode, TracefleetError, Unsupported
from tracefleet_common.messages.relay_streaming import TOKEN_SIZE_BYTES, OpenStreaming
from tracefleet_common.model.relay_output import FleetOutput
from tracefleet_consumerd.adapters.fleet_relay import FleetRelaySession
from tracefleet_consumerd.adapters.spool_directory import SpoolDirectory, SpooledSession, spooled_sessions
from tracefleet_consumerd.application.ports import Workers
from tracefleet_consumerd.domain.relay import RelaySettings

log = logging.getLogger("tracefleet.consumerd.fleet")

NO_RELAY_KEY = 0  # nobody asks after a session of a former consumer daemon
# Another consumer daemon of this user may end, and leave something.
LOOK_PERIOD_S = 10.0


class FleetRelays:
    """Made on the loop. `workers`: for the disk."""

    def __init__(self, spool_directory: str | None, workers: Workers) -> None:
        self._spool_directory = spool_directory
        self._workers = workers
        self._loop = asyncio.get_running_loop()
        self._sessions: set[FleetRelaySession] = set()
        self._refused: set[Path] = set()  # told once
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Send what former consumer daemons left."""
        self._looking = asyncio.create_task(self._look())

    def open(self, settings: RelaySettings) -> FleetRelaySession:
        """Connect and make the session; from a worker thread. Raises TransportError with LTTng's code."""
        output = settings.output
        assert isinstance(output, FleetOutput), "the others have LTTng's protocol"
        record = SpooledSession(
            output=output,
            opening=OpenStreaming(
                token=secrets.token_bytes(TOKEN_SIZE_BYTES),
                session_name=settings.session_name,
                host_name=settings.host_name,
                has_creation_time_in_name=settings.has_creation_time_in_name,
                creation_time_s=settings.creation_time_s,
                sessiond_uuid=settings.sessiond_uuid,
                session_id=settings.session_id,
                live_timer_period_us=settings.live_timer_period_us,
                subdirectory=output.subdirectory,
                durability=output.durability,
            ),
        )
        spool = None
        if output.spool_size_bytes:
            if self._spool_directory is None:
                raise Unsupported("There is no home directory for a spool", ErrorCode.ENABLE_CONSUMER_FAIL)
            spool = SpoolDirectory.make(self._spool_directory)
        try:
            if spool is not None:
                spool.write(record)
            session = self._session(settings.relay_key, record, spool)
        except BaseException:
            if spool is not None:
                spool.remove()
            raise
        asyncio.run_coroutine_threadsafe(self._open(session), self._loop).result()
        return session

    async def _open(self, session: FleetRelaySession) -> None:
        self._sessions.add(session)
        await session.open()

    def _session(self, relay_key: int, record: SpooledSession, spool: SpoolDirectory | None) -> FleetRelaySession:
        return FleetRelaySession(
            relay_key, record, spool, loop=self._loop, workers=self._workers, on_end=self._sessions.discard
        )

    async def close(self) -> None:
        """Leave what is in the spool to the next consumer daemon."""
        if self._looking is not None:
            self._looking.cancel()
            with suppress(asyncio.CancelledError):
                await self._looking
        await asyncio.gather(*(session.give_up() for session in list(self._sessions)))

    async def _look(self) -> None:
        root = self._spool_directory
        if root is None:
            return
        while True:
            try:
                for path in await self._workers.run(lambda: list(spooled_sessions(root))):
                    await self._go_on(path)
            except Exception:  # the others, or the next time
                log.exception("Cannot look for what was spooled: path=%s", root)
            await asyncio.sleep(LOOK_PERIOD_S)

    async def _go_on(self, path: Path) -> None:
        session = await self._workers.run(lambda: self._take(path))
        if session is not None:
            self._sessions.add(session)
            session.deliver()

    def _take(self, path: Path) -> FleetRelaySession | None:
        """The session that lies there; None when somebody has it, or nobody can."""
        spool = SpoolDirectory.take(path)
        if spool is None:
            return None
        session = None
        try:
            record = spool.read()
            if record is not None:
                session = self._session(NO_RELAY_KEY, record, spool)
                log.warning(
                    "Going on with what a former consumer daemon spooled: relay=%s, path=%s", session.text, path
                )
        except TracefleetError as error:
            if path not in self._refused:
                self._refused.add(path)
                log.error("A spool is left alone: path=%s, reason=%s", path, error)
        finally:
            if session is None:
                spool.release()
        return session
