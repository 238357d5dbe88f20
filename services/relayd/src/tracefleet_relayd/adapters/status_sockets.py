"""The two Unix sockets that tell how the relay daemon is: the bus, and LTTng's health check."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import grp
import logging
import os
import socket
import stat
from collections.abc import Callable
from typing import Any, Final

import msgspec

import tracefleet_common
from tracefleet_common.errors import AlreadyExists, InvalidArgument, PermissionRefused, TracefleetError
from tracefleet_common.messages.relayd_control import RelaydRequest
from tracefleet_common.transport.control_server import ControlServer, Peer
from tracefleet_common.transport.health_socket import HealthSocket
from tracefleet_relayd.settings import Settings

log = logging.getLogger("tracefleet.relayd.status-sockets")

SOFTWARE: Final = f"tracefleet-relayd {tracefleet_common.__version__}"
SOCKET_PATH_SIZE_BYTES_MAX: Final = 107  # sun_path, without the terminating null byte
ROOT_DIRECTORY_MODE: Final = 0o755
USER_DIRECTORY_MODE: Final = 0o700
SOCKET_MODE: Final = 0o660


class StatusSockets:
    """Between `open` and `close`. `answer` carries out a request of the bus, or raises a TracefleetError."""

    def __init__(self, settings: Settings, answer: Callable[[Any], msgspec.Struct]) -> None:
        pid = os.getpid()
        self._settings = settings
        self._answer = answer
        self._bus_socket = settings.bus_socket(pid)
        self._health_socket = settings.health_socket(pid)
        self._bound: list[str] = []
        self._health = HealthSocket(self._health_socket)
        self._bus: ControlServer | None = None
        self._serving: asyncio.Task[None] | None = None

    async def open(self) -> None:
        """Make the run directory and the sockets, and answer. Call it when all ports listen. TracefleetError."""
        _make_run_directory(self._settings)
        _tidy_up(self._settings.relay_directory)
        for path in (self._bus_socket, self._health_socket):
            _make_way(path)
        self._bus = ControlServer([f"ipc://{self._bus_socket}"], RelaydRequest, self._handle, software=SOFTWARE)
        # Nobody may connect before the socket has its owner and mode.
        old_mask = os.umask(0o177)
        try:
            await self._bus.bind()
            self._bound.append(self._bus_socket)
            await self._health.open()
            self._bound.append(self._health_socket)
        finally:
            os.umask(old_mask)
        for path in self._bound:
            _give(path, self._settings)
            os.chmod(path, SOCKET_MODE)
        self._serving = asyncio.create_task(self._bus.serve())

    async def close(self) -> None:
        """Also after an `open` that failed."""
        self._health.close()
        if self._serving is not None:
            self._serving.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._serving
        if self._bus is not None:
            await self._bus.close(grace_s=0.5)
        for path in self._bound:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self._bound.clear()

    async def _handle(self, peer: Peer, request: Any) -> msgspec.Struct:
        if peer.uid < 0:
            raise PermissionRefused("The relay daemon tells its state to its own host only")
        return self._answer(request)


def _make_run_directory(settings: Settings) -> None:
    """Also when the sockets are elsewhere: a session daemon of the same user uses the directory, too."""
    mode = ROOT_DIRECTORY_MODE if settings.is_root else USER_DIRECTORY_MODE
    for path in (settings.run_directory, settings.relay_directory):
        try:
            os.mkdir(path, mode)
        except FileExistsError:
            continue
        except OSError as error:
            raise TracefleetError(f"Cannot make the run directory {path}: {error.strerror}") from None
        _give(path, settings)


def _tidy_up(directory: str) -> None:
    """Remove the sockets of relay daemons that were killed: else a health check goes on to miss them."""
    for name in os.listdir(directory):
        kind, _, pid = name.partition("-")
        path = f"{directory}/{name}"
        if kind not in ("bus", "health") or not pid.isdecimal() or os.path.exists(f"/proc/{pid}"):
            continue
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            if probe.connect_ex(path) == errno.ECONNREFUSED:
                os.unlink(path)


def _give(path: str, settings: Settings) -> None:
    """Let the tracing group (of a root daemon) have it."""
    if not settings.is_root:
        return
    try:
        os.chown(path, 0, grp.getgrnam(settings.tracing_group).gr_gid, follow_symlinks=False)
    except (KeyError, ValueError):
        log.info("No tracing group detected, only root sees the state: group=%s", settings.tracing_group)
    except OSError as error:  # for example in a user namespace that does not know the group
        log.warning("Cannot give to the tracing group: path=%s, error=%s", path, error.strerror)


def _make_way(path: str) -> None:
    """Remove the socket of a daemon that was killed; in a container all have the same process id."""
    size_bytes = len(os.fsencode(path))
    if size_bytes > SOCKET_PATH_SIZE_BYTES_MAX:
        raise InvalidArgument(
            f"A socket path is {size_bytes} bytes long, {SOCKET_PATH_SIZE_BYTES_MAX} are possible: {path}"
        )
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise AlreadyExists(f"{path} exists and is not a socket")
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
            if probe.connect_ex(path) in (0, errno.EAGAIN):  # EAGAIN: its backlog is full
                raise AlreadyExists(f"A relay daemon answers on {path} already")
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise TracefleetError(f"Cannot remove the stale socket {path}: {error.strerror}") from None
