"""The page of shared memory on which programs wait for a session daemon.

Programs with liblttng-ust that found no daemon sleep on the first 32-bit word of this page (a futex shared
between processes): 0 means no daemon, 1 means one listens. Either side may be the first to create the file.
Source: LTTng-UST 2.13, `lttng-ust-comm.c`; LTTng-tools 2.13, `shm.c` and `futex.c`.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import stat
import sys

from tracefleet_common.errors import PermissionRefused, ResourceExhausted, TracefleetError

log = logging.getLogger("tracefleet.sessiond.wait_page")

SHARED_MEMORY_DIRECTORY = "/dev/shm"
ROOT_NAME = "lttng-ust-wait-8"
ROOT_MODE_AT_CREATION = 0o666  # a program of any user may be setting the size at the same time
ROOT_MODE = 0o664
USER_MODE = 0o660

_WORD_SIZE_BYTES = 4
_FUTEX_WAKE = 1
_EVERY_WAITER = 2**31 - 1
# Number of futex(2), which has no wrapper in the C library; the generic number serves the younger machines.
_FUTEX_NUMBER_GENERIC = 98
_FUTEX_NUMBER_BY_MACHINE = {
    "x86_64": 202,
    "i686": 240,
    "armv7l": 240,
    "ppc64le": 221,
    "s390x": 238,
}


class WaitPage:
    """One daemon's hold on the page. `announce` once programs can connect; `withdraw` before they cannot."""

    def __init__(self, descriptor: int, path: str) -> None:
        self._descriptor = descriptor
        self._path = path

    @classmethod
    def open(cls, user_id: int, group_id: int, *, directory: str = SHARED_MEMORY_DIRECTORY) -> WaitPage:
        """Create or take over the page of the root daemon (`user_id` 0) or of one user.

        Raises PermissionRefused when the file there cannot be ours, ResourceExhausted without memory for it.
        """
        is_root = user_id == 0
        path = f"{directory}/{ROOT_NAME}" if is_root else f"{directory}/{ROOT_NAME}-{user_id}"
        descriptor = _open_file(path, ROOT_MODE_AT_CREATION if is_root else USER_MODE)
        try:
            _take_over(descriptor, path, user_id, group_id, ROOT_MODE if is_root else USER_MODE)
        except BaseException:
            os.close(descriptor)
            raise
        return cls(descriptor, path)

    def announce(self) -> None:
        """Tell every program that waits, and those yet to come, that the daemon listens."""
        self._set(1)

    def withdraw(self) -> None:
        """Tell programs to wait again. Without this they would poll, five seconds apart."""
        self._set(0)

    def close(self) -> None:
        """Give the page up; the file stays, because programs sleep on it."""
        os.close(self._descriptor)

    def _set(self, value: int) -> None:
        # A program that created the file may have made it short again: then a write through a mapping would
        # kill us with SIGBUS, while a write through the descriptor makes it longer.
        try:
            os.pwrite(self._descriptor, value.to_bytes(_WORD_SIZE_BYTES, sys.byteorder), 0)
            with mmap.mmap(self._descriptor, _WORD_SIZE_BYTES) as page:
                woken_count = _wake_waiters(page)
        except (OSError, ValueError) as error:
            log.warning("Cannot wake the programs that wait: path=%s, error=%s", self._path, error)
            return
        log.debug("Set the wait page: path=%s, value=%d, woken-count=%d", self._path, value, woken_count)


def _open_file(path: str, mode: int) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    # Nothing else runs in this process yet, so nobody else sees the changed mask.
    old_mask = os.umask(0)
    try:
        try:
            return os.open(path, flags | os.O_CREAT, mode)
        except PermissionError:
            # With fs.protected_regular, O_CREAT is refused for a file of somebody else's in a sticky
            # directory, even where opening it is not.
            return os.open(path, flags)
    except OSError as error:
        raise _refusal(path, error) from None
    finally:
        os.umask(old_mask)


def _refusal(path: str, error: OSError) -> TracefleetError:
    text = f"Cannot open {path}, on which programs wait for the session daemon: {error.strerror}"
    if error.errno in (errno.ENOSPC, errno.EMFILE, errno.ENFILE, errno.ENOMEM):
        return ResourceExhausted(text)
    try:
        status = os.lstat(path)
    except OSError:
        return PermissionRefused(text)
    if stat.S_ISLNK(status.st_mode):
        return PermissionRefused(f"{text}; it is a symbolic link, made by user {status.st_uid}")
    return PermissionRefused(f"{text}; it belongs to user {status.st_uid}, mode {status.st_mode & 0o7777:o}")


def _take_over(descriptor: int, path: str, user_id: int, group_id: int, mode: int) -> None:
    """See to it that the file is a plain one, a page long, with the owner and mode that programs expect."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise PermissionRefused(f"{path} is not a plain file of its own (made by user {status.st_uid}): remove it")
    if user_id != 0 and status.st_uid != user_id:
        # Programs of this user would take no notice of it.
        raise PermissionRefused(f"{path} belongs to user {status.st_uid}, not to user {user_id}: have it removed")
    try:
        os.ftruncate(descriptor, mmap.PAGESIZE)
        os.fchown(descriptor, user_id, group_id)
        os.fchmod(descriptor, mode)
        os.pwrite(descriptor, bytes(_WORD_SIZE_BYTES), 0)  # now, so that a lack of memory is known before anybody waits
    except OSError as error:
        raise _refusal(path, error) from None


def _wake_waiters(page: mmap.mmap) -> int:
    import ctypes  # the one call that needs it

    library = ctypes.CDLL(None, use_errno=True)
    word = ctypes.c_int32.from_buffer(page)
    number = _FUTEX_NUMBER_BY_MACHINE.get(os.uname().machine, _FUTEX_NUMBER_GENERIC)
    woken_count = library.syscall(
        ctypes.c_long(number),
        ctypes.byref(word),
        ctypes.c_int(_FUTEX_WAKE),
        ctypes.c_int(_EVERY_WAITER),
        None,
    )
    del word  # the mapping cannot be closed while something points into it
    if woken_count < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(woken_count)
