"""Start a session daemon when none answers."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

from tracefleet_cli import exit_status
from tracefleet_cli.context import CommandEnded
from tracefleet_common.client.run_directory import ADDRESS_VARIABLE
from tracefleet_common.errors import TransportError

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

PATH_VARIABLE = "LTTNG_SESSIOND_PATH"
PROGRAM = "tracefleet-sessiond"


def ensure_sessiond(context: Context) -> None:
    """Connect to the session daemon; start one if there is none and that is allowed. Raises CommandEnded.

    A daemon that the environment names by its address is somebody else's to start.
    """
    try:
        context.client()
        return
    except TransportError as error:
        if not context.settings.is_starting_sessiond or os.environ.get(ADDRESS_VARIABLE):
            context.terminal.failure(error)
            raise CommandEnded(exit_status.ERROR) from None
    path = context.settings.sessiond_path or os.environ.get(PATH_VARIABLE) or _default_path()
    trouble = _start(context, path)
    if trouble is not None:
        context.terminal.error(trouble)
        raise context.end(f"Problem occurred while launching session daemon ({path})")


def _default_path() -> str:
    """The daemon that was installed beside this command, or the first one in PATH."""
    beside = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), PROGRAM)
    directories = os.get_exec_path()
    return next(
        (
            path
            for path in (beside, *(f"{directory}/{PROGRAM}" for directory in directories))
            if os.access(path, os.X_OK)
        ),
        beside,
    )


def _start(context: Context, path: str) -> str | None:
    """Run the daemon, which goes to the background when it is ready. What went wrong; None: nothing."""
    if not os.access(path, os.X_OK):
        return f"No such file or access denied: {path}"
    context.terminal.message("Spawning a session daemon")
    try:
        pid = os.posix_spawn(path, [path, "--background"], os.environ)
    except OSError as error:
        return f"Cannot run {path}: {error.strerror}"
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"Session daemon was killed by signal {-code}"
    if code > 0:
        return f"Session daemon terminated with an error (exit status: {code})"
    return None
