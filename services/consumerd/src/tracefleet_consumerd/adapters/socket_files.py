"""The directory and the files of the sockets: made, locked, given to their owner, removed."""

from __future__ import annotations

import contextlib
import fcntl
import grp
import os
from pathlib import Path

from tracefleet_common.errors import AlreadyExists, InvalidArgument, PermissionRefused, TracefleetError
from tracefleet_consumerd.settings import Settings

DIRECTORY_MODE = 0o750
ROOT_RUN_DIRECTORY_MODE = 0o755
USER_RUN_DIRECTORY_MODE = 0o700
SOCKET_MODE = 0o600
HEALTH_SOCKET_MODE = 0o660
LOCK_FILE_MODE = 0o600


class SocketFiles:
    """Held by one consumer daemon at a time."""

    def __init__(self, settings: Settings) -> None:
        """Make the directories and take the lock.

        Raises AlreadyExists when another consumer daemon is there, other TracefleetErrors when they cannot be made.
        """
        self._control_sockets = (Path(settings.command_socket), Path(settings.descriptor_socket))
        self._health_socket = Path(settings.health_socket)
        self._sockets = (*self._control_sockets, self._health_socket)
        self._tracing_group = settings.tracing_group
        self._lock_file = Path(settings.lock_file)
        try:
            for directory in {path.parent for path in self._sockets}:
                _make_directory(directory, settings.tracing_group)
            self._lock = _lock(self._lock_file)
        except PermissionError as error:
            raise PermissionRefused(f"Cannot make {error.filename}: {error.strerror}") from None
        except OSError as error:
            raise TracefleetError(f"Cannot make {error.filename}: {error.strerror}") from None
        for path in self._sockets:
            _remove_socket(path)  # of a daemon that was killed: we hold its lock

    def restrict(self) -> None:
        """Who may command, may write files as anybody: the owner (and root) only. How it is, the group may know."""
        for path in self._control_sockets:
            path.chmod(SOCKET_MODE)
        _give_to_group(self._health_socket, self._tracing_group)
        self._health_socket.chmod(HEALTH_SOCKET_MODE)

    def close(self) -> None:
        """Remove what is ours. The lock goes last."""
        for path in self._sockets:
            _remove_socket(path)
        self._lock_file.unlink(missing_ok=True)
        os.close(self._lock)


def _make_directory(directory: Path, group: str) -> None:
    if directory.is_dir():
        return
    is_root = os.geteuid() == 0
    run_directory_mode = ROOT_RUN_DIRECTORY_MODE if is_root else USER_RUN_DIRECTORY_MODE
    directory.parent.mkdir(mode=run_directory_mode, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):  # the session daemon makes it too
        directory.mkdir(mode=DIRECTORY_MODE)
    _give_to_group(directory, group)


def _give_to_group(path: Path, group: str) -> None:
    if os.geteuid() == 0:
        with contextlib.suppress(KeyError):  # no such group: then for root only
            os.chown(path, 0, grp.getgrnam(group).gr_gid, follow_symlinks=False)


def _lock(path: Path) -> int:
    while True:
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW, LOCK_FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise AlreadyExists(f"A consumer daemon is already running: {path} is locked") from None
        # The one that held it may have removed the file between our two calls: then this lock is nobody's.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(path.stat(follow_symlinks=False), os.fstat(descriptor)):
                return descriptor
        os.close(descriptor)


def _remove_socket(path: Path) -> None:
    if path.is_socket():
        path.unlink(missing_ok=True)
    elif path.exists():
        raise InvalidArgument(f"{path} is there and is not a socket")
