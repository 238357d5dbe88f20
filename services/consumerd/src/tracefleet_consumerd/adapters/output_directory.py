"""The directory that a session's output goes to, made as the session's owner would make it."""

from __future__ import annotations

import errno
import os

import tracefleet_native
from tracefleet_common.errors import ErrorCode, PermissionRefused, ResourceExhausted, TracefleetError

# Every trace of user-space programs lies below it; it is there even when no program comes.
USER_SPACE_DIRECTORY = "ust"
_ERRORS_BY_NUMBER: dict[int | None, type[TracefleetError]] = {
    errno.EACCES: PermissionRefused,
    errno.EPERM: PermissionRefused,
    errno.EROFS: PermissionRefused,
    errno.ENOSPC: ResourceExhausted,
    errno.EDQUOT: ResourceExhausted,
}


def prepare_output(root: str, owner_uid: int, owner_gid: int) -> None:
    """Make `root` (mode 0770, parents too) unless it is there, and check that its owner can write to it.

    Raises PermissionRefused, ResourceExhausted, or another TracefleetError with the system's reason.
    """
    output = tracefleet_native.Output(root, USER_SPACE_DIRECTORY, owner_uid, owner_gid)
    try:
        output.prepare()
    except OSError as error:
        kind = _ERRORS_BY_NUMBER.get(error.errno, TracefleetError)
        reason = os.strerror(error.errno or 0)
        raise kind(f"Cannot make the output directory {root}: {reason}", ErrorCode.CREATE_DIR_FAIL) from None
    finally:
        output.close()
