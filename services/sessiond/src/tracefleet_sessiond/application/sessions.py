"""The sessions of a daemon: who may see which, and how they are named and placed."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import itertools
import posixpath
import time
from collections.abc import AsyncIterator, Iterator

from tracefleet_common.errors import AlreadyExists, ErrorCode, InvalidArgument, NotFound
from tracefleet_common.messages.sessiond_control import CreateSession
from tracefleet_common.model.relay_output import FleetOutput, RelayOutput
from tracefleet_sessiond.application.ports import Caller, UserDirectory, WallClock
from tracefleet_sessiond.domain import names
from tracefleet_sessiond.domain.session import RecordingSession

DEFAULT_NAME_PREFIX = "auto"
PATH_SIZE_BYTES_MAX = 4095 - 512  # leaves room for the directories and files of the trace
SESSION_COUNT_MAX = 10_000
LIVE_TIMER_PERIOD_US_MAX = 0xFFFFFFFF  # LTTng's protocols have 32 bits for it
SPOOL_SIZE_BYTES_MAX = 2**63 - 1  # no file is larger


def _local_datetime(time_s: int) -> str:
    return time.strftime("%Y%m%d-%H%M%S", time.localtime(time_s))


def checked_path(path: str, what: str) -> str:
    """`path` normalised. Raises InvalidArgument unless it is an absolute path that stays where it says."""
    if not path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise InvalidArgument(f"{what} {path!a} is not an absolute path without '..'")
    try:
        size_bytes = len(path.encode())
    except UnicodeEncodeError:
        raise InvalidArgument(f"{what} {path!a} is not valid UTF-8") from None
    if size_bytes > PATH_SIZE_BYTES_MAX:
        raise InvalidArgument(f"{what} has {size_bytes} bytes; {PATH_SIZE_BYTES_MAX} is the most")
    return posixpath.normpath(path)


def check_relay(relay: RelayOutput | FleetOutput) -> None:
    """Raises InvalidArgument for what can be no relay daemon, or a directory outside of its own."""
    try:
        ipaddress.ip_address(relay.address)
    except ValueError:
        raise InvalidArgument(f"The relay daemon's address {relay.address[:64]!a} is not numeric") from None
    if isinstance(relay, FleetOutput):
        if not 0 < relay.port < 65536:
            raise InvalidArgument(f"A relay daemon has a port from 1 to 65535, not {relay.port}")
        if not 0 <= relay.spool_size_bytes <= SPOOL_SIZE_BYTES_MAX:
            raise InvalidArgument(f"The spool size {relay.spool_size_bytes} bytes is out of range")
    else:
        ports = (relay.control_port, relay.data_port)
        if relay.control_port == relay.data_port or not all(0 < port < 65536 for port in ports):
            raise InvalidArgument(f"A relay daemon has two ports from 1 to 65535, not {ports[0]} and {ports[1]}")
    checked_path(f"/{relay.subdirectory}", "The directory at the relay daemon")


class Sessions:
    """All recording sessions, by name. Commands on one session are carried out one after the other."""

    def __init__(self, clock: WallClock, users: UserDirectory) -> None:
        self._clock = clock
        self._users = users
        self._by_name: dict[str, RecordingSession] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._ids = itertools.count(1)

    def __iter__(self) -> Iterator[RecordingSession]:
        return iter(list(self._by_name.values()))

    def __len__(self) -> int:
        return len(self._by_name)

    def get(self, name: str, caller: Caller) -> RecordingSession:
        """The session `name`. Raises NotFound, also when it is somebody else's."""
        session = self._by_name.get(name)
        if session is None or not self.is_visible(session, caller):
            raise NotFound(f"Session {name!r} not found", ErrorCode.SESSION_NOT_FOUND)
        return session

    @contextlib.asynccontextmanager
    async def locked(self, name: str, caller: Caller) -> AsyncIterator[RecordingSession]:
        """The session `name`, once no other command is at work on it. Raises NotFound."""
        session = self.get(name, caller)
        async with self._locks[name]:
            if self._by_name.get(name) is not session:  # destroyed while we waited
                raise NotFound(f"Session {name!r} not found", ErrorCode.SESSION_NOT_FOUND)
            yield session

    @staticmethod
    def is_visible(session: RecordingSession, caller: Caller) -> bool:
        """root sees all sessions, others their own."""
        return caller.uid in (0, session.owner_uid)

    def create(self, request: CreateSession, caller: Caller) -> RecordingSession:
        """Make a session. Raises InvalidArgument or AlreadyExists."""
        if len(self._by_name) >= SESSION_COUNT_MAX:
            raise InvalidArgument(f"There are {SESSION_COUNT_MAX} sessions already", ErrorCode.NO_MEMORY)
        now_s = self._clock.now_s()
        name = self._default_name(now_s) if request.name is None else request.name
        names.check_session_name(name)
        if name in self._by_name:
            raise AlreadyExists(f"Session {name!r} already exists", ErrorCode.SESSION_EXISTS)
        if request.relay is not None:
            check_relay(request.relay)
        if not 0 <= request.live_timer_period_us <= LIVE_TIMER_PERIOD_US_MAX:
            raise InvalidArgument(f"The live timer period {request.live_timer_period_us} us is out of range")
        if request.live_timer_period_us and request.relay is None:
            raise InvalidArgument("A session for live reading is streamed to a relay daemon")
        session = RecordingSession(
            session_id=next(self._ids),
            name=name,
            owner_uid=caller.uid,
            owner_gid=caller.gid,
            creation_time_s=now_s,
            output_path=self._output_path(request, name, now_s, caller),
            relay=request.relay,
            live_timer_period_us=request.live_timer_period_us,
            has_default_name=request.name is None,
        )
        self._by_name[name] = session
        self._locks[name] = asyncio.Lock()
        return session

    def forget(self, session: RecordingSession) -> None:
        """The name is free again."""
        del self._by_name[session.name]
        del self._locks[session.name]

    def _default_name(self, now_s: int) -> str:
        for prefix in itertools.chain(
            [DEFAULT_NAME_PREFIX], (f"{DEFAULT_NAME_PREFIX}{number}" for number in itertools.count(1))
        ):
            name = f"{prefix}-{_local_datetime(now_s)}"
            if name not in self._by_name:
                return name
        raise AssertionError("count() never ends")

    def _output_path(self, request: CreateSession, name: str, now_s: int, caller: Caller) -> str | None:
        if not request.has_output or request.relay is not None:
            if request.output_path is not None or (not request.has_output and request.relay is not None):
                raise InvalidArgument("A session has one output, or none")
            return None
        if request.output_path is not None:
            return checked_path(request.output_path, "The output path")
        home = request.home_directory or self._users.home_directory(caller.uid)
        if home is None:
            raise InvalidArgument(f"User {caller.uid} has no home directory: say where the trace goes")
        directory = name if request.name is None else f"{name}-{_local_datetime(now_s)}"
        if len(directory.encode()) > 255:
            # The date does not fit behind the longest names; the name alone is unique among sessions.
            directory = name
        return posixpath.join(checked_path(home, "The home directory"), "lttng-traces", directory)
