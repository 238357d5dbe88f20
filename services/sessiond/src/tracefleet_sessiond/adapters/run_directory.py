"""The run directory of a session daemon: what is in it, whose it is, and that only one daemon lives there.

Names, owners and modes are those of lttng-sessiond, so that programs, clients and scripts find what they
expect, and so that a daemon of either kind refuses to start beside one of the other.
"""

from __future__ import annotations

import errno
import fcntl
import grp
import logging
import os
import socket
import stat
from typing import TYPE_CHECKING, NamedTuple

from tracefleet_common.errors import AlreadyExists, InvalidArgument, PermissionRefused, TracefleetError
from tracefleet_sessiond.adapters.wait_page import WaitPage

if TYPE_CHECKING:
    from tracefleet_sessiond.settings import Settings

log = logging.getLogger("tracefleet.sessiond.run_directory")

SOCKET_PATH_SIZE_BYTES_MAX = 107  # sun_path, without the terminating null byte
LISTEN_BACKLOG = 1024  # LTTng's is 64; hundreds of programs can start at the same moment
ROOT_DIRECTORY_MODE = 0o755
USER_DIRECTORY_MODE = 0o700
CONSUMER_DIRECTORY_MODE = 0o750
CONTROL_SOCKET_MODE = 0o660
PID_FILE_MODE = 0o644
LOCK_FILE_MODE = 0o660
_NEVER_FOLLOW = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a symbolic link or a FIFO there is not ours
# LTTng's socket for clients: who answers there is a session daemon of LTTng-tools.
_LTTNG_CLIENT_SOCKET = "client-lttng-sessiond"

ALREADY_RUNNING = "A session daemon is already running."


class Owner(NamedTuple):
    """Whose the files are. `group_id`: who may control the daemon."""

    user_id: int
    group_id: int


class RunDirectory:
    """The run directory, held by this daemon. `application_socket` listens, and does not block."""

    def __init__(self, settings: Settings, owner: Owner, lock: int) -> None:
        self.path = settings.run_directory
        self.owner = owner
        self.bus_address = settings.bus_address
        self._settings = settings
        self._lock = lock
        self._has_pid_file = False
        self._wait_page: WaitPage | None = None
        self._application_socket: socket.socket | None = None

    @classmethod
    def open(cls, settings: Settings) -> RunDirectory:
        """Make the directory and all that programs and clients look for, bar the bus and health sockets.

        Raises AlreadyExists when a daemon lives there; InvalidArgument, PermissionRefused and other
        TracefleetErrors when it cannot be made.
        """
        _check_socket_paths(settings)
        owner = _make_directory(settings, _owner(settings))
        # The question comes before the lock, because lttng-sessiond loses its lock when it becomes a daemon.
        for path in (f"{settings.run_directory}/{_LTTNG_CLIENT_SOCKET}", settings.application_socket):
            if _is_answering(path):
                raise AlreadyExists(ALREADY_RUNNING)
        run_directory = cls(settings, owner, _lock(settings.lock_file))
        try:
            run_directory._fill()
        except BaseException:
            run_directory.close()
            raise
        return run_directory

    def _fill(self) -> None:
        _write_pid_file(self._settings.pid_file)
        self._has_pid_file = True
        _make_consumer_directory(self._settings.consumer64.directory, self.owner)
        for path in (self._settings.bus_socket, self._settings.health_socket):
            _remove_stale_socket(path)
        self._wait_page = WaitPage.open(self.owner.user_id, os.getegid())
        self._application_socket = _listen(self._settings.application_socket)

    @property
    def application_socket(self) -> socket.socket:
        """The socket that programs connect to."""
        assert self._application_socket is not None, "withdrawn"
        return self._application_socket

    def grant_control(self, path: str) -> None:
        """Let the tracing group (of a root daemon) use the socket at `path`, and nobody else."""
        if self._settings.is_root:
            os.chown(path, self.owner.user_id, self.owner.group_id, follow_symlinks=False)
        os.chmod(path, CONTROL_SOCKET_MODE)

    def announce(self) -> None:
        """Wake the programs that wait for a daemon."""
        if self._wait_page is not None:
            self._wait_page.announce()

    def withdraw(self) -> None:
        """Take no further program: they wait for the next daemon. First step of an orderly stop."""
        if self._wait_page is not None:
            self._wait_page.withdraw()
            self._wait_page.close()
            self._wait_page = None
        if self._application_socket is not None:
            # The name goes first: who still finds it must be able to connect.
            _remove(self._settings.application_socket)
            self._application_socket.close()
            self._application_socket = None

    def close(self) -> None:
        """Remove everything that is ours. The lock goes last."""
        self.withdraw()
        for path in (self._settings.bus_socket, self._settings.health_socket):
            _remove(path, is_socket=True)
        if self._has_pid_file:
            _remove(self._settings.pid_file)
        try:
            os.rmdir(self._settings.consumer64.directory)
        except OSError:
            log.debug("Left the consumer daemon's directory: path=%s", self._settings.consumer64.directory)
        _remove(self._settings.lock_file)
        os.close(self._lock)


def _check_socket_paths(settings: Settings) -> None:
    for meaning, path in (
        ("application socket", settings.application_socket),
        ("control socket", settings.bus_socket),
        ("health socket", settings.health_socket),
        ("consumer daemon's command socket", settings.consumer64.command_socket),
        ("consumer daemon's descriptor socket", settings.consumer64.descriptor_socket),
        ("consumer daemon's health socket", settings.consumer64.health_socket),
    ):
        size_bytes = len(os.fsencode(path))
        if size_bytes > SOCKET_PATH_SIZE_BYTES_MAX:
            raise InvalidArgument(
                f"The path of the {meaning} is {size_bytes} bytes long, a Unix socket allows "
                f"{SOCKET_PATH_SIZE_BYTES_MAX}: {path}"
            )


def _owner(settings: Settings) -> Owner:
    if not settings.is_root:
        return Owner(os.geteuid(), os.getegid())
    try:
        return Owner(0, grp.getgrnam(settings.tracing_group).gr_gid)
    except (KeyError, ValueError):
        log.warning("No tracing group detected, only root can control this daemon: group=%s", settings.tracing_group)
        return Owner(0, 0)


def _make_directory(settings: Settings, owner: Owner) -> Owner:
    """Returns the owner that files here can be given to."""
    path = settings.run_directory
    try:
        try:
            os.mkdir(path, USER_DIRECTORY_MODE)
        except FileExistsError:
            log.debug("Run directory exists: path=%s", path)
        if not settings.is_root:
            if os.stat(path).st_uid != owner.user_id:
                raise PermissionRefused(f"The run directory {path} belongs to another user")
            return owner
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fchmod(descriptor, ROOT_DIRECTORY_MODE)
            return _give(descriptor, owner)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _failure(f"Cannot make the run directory {path}", error) from None


def _give(descriptor: int, owner: Owner) -> Owner:
    try:
        os.fchown(descriptor, owner.user_id, owner.group_id)
    except OSError as error:
        # For example in a user namespace that does not know the group.
        log.warning("Cannot give to the tracing group, only root can control this daemon: error=%s", error.strerror)
        return Owner(owner.user_id, os.getegid())
    return owner


def _make_consumer_directory(path: str, owner: Owner) -> None:
    try:
        try:
            os.mkdir(path, CONSUMER_DIRECTORY_MODE)
        except FileExistsError:
            log.debug("Consumer daemon's directory exists: path=%s", path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            if owner.user_id == 0:
                os.fchown(descriptor, owner.user_id, owner.group_id)
            os.fchmod(descriptor, CONSUMER_DIRECTORY_MODE)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _failure(f"Cannot make the consumer daemon's directory {path}", error) from None


def _is_answering(path: str) -> bool:
    """Whether somebody listens on the socket of that name. Never waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:
            return True  # its backlog is full
        except OSError:
            return False
    return True


def _lock(path: str) -> int:
    """Take the lock that a daemon holds for its life. A lock of a dead daemon is free."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | _NEVER_FOLLOW, LOCK_FILE_MODE)
        except OSError as error:
            raise _failure(f"Cannot open the lock file {path}", error) from None
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise AlreadyExists(ALREADY_RUNNING) from None
            raise _failure(f"Cannot lock {path}", error) from None
        if _is_same_file(descriptor, path):
            return descriptor
        os.close(descriptor)  # a daemon that just ended removed the file after we had opened it


def _is_same_file(descriptor: int, path: str) -> bool:
    try:
        there = os.lstat(path)
    except OSError:
        return False
    return os.path.samestat(os.fstat(descriptor), there)


def _write_pid_file(path: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _NEVER_FOLLOW, PID_FILE_MODE)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise InvalidArgument(f"{path} is not a plain file, so it cannot be the pid file")
            os.write(descriptor, f"{os.getpid()}\n".encode())
        finally:
            os.close(descriptor)
    except OSError as error:
        raise _failure(f"Cannot write the pid file {path}", error) from None


def _remove_stale_socket(path: str) -> None:
    """Remove what a daemon that died left. Raises AlreadyExists rather than remove anything but a socket."""
    try:
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            raise AlreadyExists(f"{path} exists and is not a socket")
        os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _failure(f"Cannot remove the stale socket {path}", error) from None


def _listen(path: str) -> socket.socket:
    _remove_stale_socket(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    # The mode comes from the mask, not from a chmod: between the two, somebody who may write to the directory
    # (with --apps-sock it can be any) could put a symbolic link there. Nothing else runs in this process yet.
    old_mask = os.umask(0o111)
    try:
        listener.bind(path)
        listener.listen(LISTEN_BACKLOG)
    except OSError as error:
        listener.close()
        raise _failure(f"Cannot listen on the application socket {path}", error) from None
    finally:
        os.umask(old_mask)
    return listener


def _remove(path: str, *, is_socket: bool = False) -> None:
    """Remove a file of ours at exit; with `is_socket` only a socket, since anything else was never ours."""
    try:
        if not is_socket or stat.S_ISSOCK(os.lstat(path).st_mode):
            os.unlink(path)
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("Cannot remove at exit: path=%s, error=%s", path, error.strerror)


def _failure(text: str, error: OSError) -> TracefleetError:
    if error.errno == errno.ELOOP:
        return PermissionRefused(f"{text}: it is a symbolic link")
    kind = PermissionRefused if error.errno in (errno.EACCES, errno.EPERM) else InvalidArgument
    return kind(f"{text}: {error.strerror}")
