"""Where a session's packets wait on this host's disk, and what must be known to send them after a restart.

Each session has a directory of its own: `session.msgpack` (SpooledSession) and `frames`, which is the native library's.
Who holds the lock on the directory works on it. A name that ends in `.done` is rubbish.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import logging
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from tracefleet_common.errors import (
    InvalidArgument,
    PermissionRefused,
    RemoteProtocolError,
    ResourceExhausted,
    TracefleetError,
)
from tracefleet_common.messages.relay_streaming import TOKEN_SIZE_BYTES, OpenStreaming, StreamRequest
from tracefleet_common.model.relay_output import FleetOutput
from tracefleet_consumerd.domain.relay import check_output

log = logging.getLogger("tracefleet.consumerd.spool")

FORMAT_VERSION = 1
SESSION_FILE = "session.msgpack"
SESSION_SIZE_BYTES_MAX = 64 * 2**20
NAME = re.compile(r"[0-9a-f]{32}")
DONE_SUFFIX = ".done"
DIRECTORY_MODE = 0o700
_FULL = (errno.ENOSPC, errno.EDQUOT)


class SpooledSession(msgspec.Struct, frozen=True, kw_only=True):
    """A session at a relay daemon. `streams` by key, without those that were ended."""

    version: int = FORMAT_VERSION
    output: FleetOutput
    opening: OpenStreaming
    streams: dict[int, StreamRequest] = {}


class SpoolDirectory:
    """The directory of one session, locked by this process."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def make(cls, root: str) -> SpoolDirectory:
        """A new one below `root`, which is made as well. Raises TracefleetError."""
        path = Path(root, secrets.token_hex(16))
        with _failures(f"Cannot make a spool below {root}"):
            path.parent.mkdir(mode=DIRECTORY_MODE, parents=True, exist_ok=True)
            path.mkdir(mode=DIRECTORY_MODE)
            _sync_directory(path.parent)
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)  # another consumer daemon may look at it just now
        return cls(path, lock)

    @classmethod
    def take(cls, path: Path) -> SpoolDirectory | None:
        """One that is there; None when somebody works on it, or it is gone."""
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Who held it may have given it up and removed it.
            is_same = os.path.samestat(os.fstat(lock), os.stat(path))
        except OSError:
            is_same = False
        if not is_same:
            os.close(lock)
            return None
        return cls(path, lock)

    def write(self, session: SpooledSession) -> None:
        """Replace what is known of the session; the device has it on return. Raises TracefleetError."""
        with _failures(f"Cannot write the spool {self.path}"):
            new = self.path / f"{SESSION_FILE}.new"
            with new.open("wb") as file:
                file.write(msgspec.msgpack.encode(session))
                file.flush()
                os.fsync(file.fileno())
            new.replace(self.path / SESSION_FILE)
            os.fsync(self._lock)

    def read(self) -> SpooledSession | None:
        """What is known of the session; None when its maker did not come that far.

        Raises RemoteProtocolError for what no consumer daemon of this version has written, PermissionRefused for
        what another user has.
        """
        try:
            with (self.path / SESSION_FILE).open("rb") as file:
                if os.fstat(file.fileno()).st_uid != os.geteuid():
                    raise PermissionRefused(f"The spool {self.path} is another user's")
                data = file.read(SESSION_SIZE_BYTES_MAX + 1)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise RemoteProtocolError(f"Cannot read the spool {self.path}: {error.strerror}") from None
        if len(data) > SESSION_SIZE_BYTES_MAX:
            raise RemoteProtocolError(f"The spool {self.path} is damaged: {SESSION_FILE} is too long")
        try:
            session = msgspec.msgpack.decode(data, type=SpooledSession)
            check_output(session.output)
        except (msgspec.DecodeError, InvalidArgument) as error:
            raise RemoteProtocolError(f"The spool {self.path} is damaged: {error}") from None
        if session.version != FORMAT_VERSION or len(session.opening.token) != TOKEN_SIZE_BYTES:
            raise RemoteProtocolError(f"The spool {self.path} is of version {session.version}, or damaged")
        return session

    def release(self) -> None:
        """Leave it to the next consumer daemon."""
        os.close(self._lock)

    def remove(self) -> None:
        """Everything was sent."""
        done = self.path.with_name(self.path.name + DONE_SUFFIX)
        try:
            # At once: half of a session would be taken for a damaged one.
            self.path.rename(done)
        except OSError as error:
            log.error("Cannot remove a spool: path=%s, reason=%s", self.path, error.strerror)
        else:
            shutil.rmtree(done, ignore_errors=True)
        finally:
            self.release()


def spooled_sessions(root: str) -> Iterator[Path]:
    """Paths of those below `root`; rubbish is removed."""
    try:
        names = sorted(os.listdir(root))
    except OSError as error:
        if error.errno != errno.ENOENT:
            log.error("Cannot look for what was spooled: path=%s, reason=%s", root, error.strerror)
        return
    for name in names:
        if NAME.fullmatch(name):
            yield Path(root, name)
        elif NAME.fullmatch(name.removesuffix(DONE_SUFFIX)):
            shutil.rmtree(Path(root, name), ignore_errors=True)


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


@contextlib.contextmanager
def _failures(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        kind: type[TracefleetError] = TracefleetError
        if error.errno in _FULL:
            kind = ResourceExhausted
        elif isinstance(error, PermissionError):
            kind = PermissionRefused
        raise kind(f"{what}: {error.strerror}") from None
