"""Start a daemon when none answers."""

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
SESSION_DAEMON, RELAY_DAEMON = "tracefleet-sessiond", "tracefleet-relayd"
LIVE_HOST = "localhost"


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
    path = context.settings.sessiond_path or os.environ.get(PATH_VARIABLE) or _default_path(SESSION_DAEMON)
    _start(context, "session", "Spawning a session daemon", [path, "--background"])


def ensure_relayd(context: Context) -> None:
    """Start a relay daemon unless one serves viewers on this host. Raises CommandEnded."""
    import socket

    from tracefleet_common.model.relay_output import LIVE_PORT_DEFAULT

    try:
        socket.create_connection((LIVE_HOST, LIVE_PORT_DEFAULT)).close()
        return
    except OSError:
        path = context.settings.relayd_path or _default_path(RELAY_DAEMON)
        live_port = f"--live-port=tcp://{LIVE_HOST}:{LIVE_PORT_DEFAULT}"
        _start(context, "relay", "Spawning a relayd daemon", [path, "--background", live_port])


def _default_path(program: str) -> str:
    """The daemon that was installed beside this command, or the first one in PATH."""
    beside = os.path.join(os.path.dirname(os.path.realpath(sys.argv[0])), program)
    directories = os.get_exec_path()
    return next(
        (
            path
            for path in (beside, *(f"{directory}/{program}" for directory in directories))
            if os.access(path, os.X_OK)
        ),
        beside,
    )


def _start(context: Context, kind: str, announcement: str, command: list[str]) -> None:
    """Run the daemon, which goes to the background when it is ready. Raises CommandEnded."""
    trouble = _run(context, kind, announcement, command)
    if trouble is not None:
        context.terminal.error(trouble)
        raise context.end(f"Problem occurred while launching {kind} daemon ({command[0]})")


def _run(context: Context, kind: str, announcement: str, command: list[str]) -> str | None:
    """What went wrong; None: nothing."""
    path = command[0]
    if not os.access(path, os.X_OK):
        return f"No such file or access denied: {path}"
    context.terminal.message(announcement)
    try:
        pid = os.posix_spawn(path, command, os.environ)
    except OSError as error:
        return f"Cannot run {path}: {error.strerror}"
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        return f"{kind.capitalize()} daemon was killed by signal {-code}"
    if code > 0:
        return f"{kind.capitalize()} daemon terminated with an error (exit status: {code})"
    return None
