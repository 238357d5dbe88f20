"""What the consumer daemon is told before it starts. The options are those of lttng-consumerd, where it has them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from tracefleet_common.errors import InvalidArgument
from tracefleet_common.options import Option, Parsed
from tracefleet_common.runtime.daemon_options import (
    DEFAULT_TRACING_GROUP,
    INFORMATION_OPTIONS,
    DaemonOptions,
    absolute_path,
    run_directory,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

COMMAND_SOCKET_NAME = "command"
DESCRIPTOR_SOCKET_NAME = "descriptors"
HEALTH_SOCKET_NAME = "health"
SOCKET_PATH_SIZE_BYTES_MAX = 107  # sun_path, without the terminating null byte
# A session daemon that a service manager starts again is back within seconds.
DEFAULT_ORPHAN_TIMEOUT_S = 60.0
ROOT_SPOOL_DIRECTORY = "/var/lib/tracefleet/spool"
BITS_PER_WORD = 64 if sys.maxsize > 2**32 else 32

GENERAL_OPTIONS = (
    Option("ust", "u", None, "Consume user space ring buffers. This is the default."),
    Option("daemonize", "d", None, "Start as a Unix daemon and close the console. Returns when ready."),
    Option("background", "b", None, "Start as a Unix daemon, but keep the console open. Returns when ready."),
    Option("group", "g", "GROUP", "Let the members of GROUP (default: tracing) see the directory of the sockets."),
    Option(
        "orphan-timeout",
        None,
        "SECONDS",
        "Go on recording for SECONDS (default: 60) after the session daemon is gone; then close what it opened.",
    ),
    Option("exit-when-orphaned", None, None, "End when no session daemon was connected for that long."),
)
PATH_OPTIONS = (
    Option("directory", None, "PATH", "Make the sockets in PATH (default: ustconsumerd64 in the run directory)."),
    Option("consumerd-cmd-sock", "c", "PATH", "Set the command socket."),
    Option("descriptor-sock", None, "PATH", "Set the Unix socket over which file descriptors are passed."),
    Option(
        "health-sock",
        None,
        "PATH",
        "Set the socket of LTTng's health check (default: health, beside the command socket).",
    ),
    Option(
        "spool-directory",
        None,
        "PATH",
        "Keep in PATH what waits for a relay daemon that is away (default: TRACEFLEET_SPOOL_DIRECTORY; else root: "
        "/var/lib/tracefleet/spool, others: $LTTNG_HOME/.tracefleet/spool).",
    ),
)
VERBOSITY_OPTIONS = (
    Option("quiet", "q", None, "Suppress all messages, including warnings and errors."),
    Option("verbose", "v", None, "Increase verbosity, up to three times.", is_repeatable=True),
)
KNOWN_OPTIONS = GENERAL_OPTIONS + PATH_OPTIONS + VERBOSITY_OPTIONS + INFORMATION_OPTIONS

# Options of lttng-consumerd that are refused, and why.
REFUSED_OPTIONS: tuple[tuple[Option, str], ...] = (
    (
        Option("kernel", "k", None, "Consume kernel buffers."),
        "the kernel tracing domain is not available in this release",
    ),
    (
        Option("consumerd-err-sock", "e", "PATH", "Error socket."),
        "errors are reported over the command socket; there is no error socket",
    ),
)
_OPTIONS = DaemonOptions("consumerd", KNOWN_OPTIONS, REFUSED_OPTIONS)


class Settings(NamedTuple):
    """Everything that is settled before the daemon starts. Paths are absolute."""

    command_socket: str
    descriptor_socket: str
    health_socket: str
    lock_file: str
    spool_directory: str | None  # None: no session may ask for a spool
    tracing_group: str
    orphan_timeout_s: float
    is_ending_when_orphaned: bool
    is_background: bool
    is_daemonized: bool
    verbosity: int
    is_quiet: bool


def parse_command_line(arguments: Sequence[str]) -> Parsed:
    """Sort the words of the command line. Raises OptionError, InvalidArgument, Unsupported."""
    return _OPTIONS.parse_command_line(arguments)


def load_settings(options: Parsed, environment: Mapping[str, str], *, user_id: int) -> Settings:
    """Raises InvalidArgument."""
    home = environment.get("LTTNG_HOME") or environment.get("HOME") or None
    directory = options.value("directory")
    if directory is None and not (options.has("consumerd-cmd-sock") and options.has("descriptor-sock")):
        directory = f"{run_directory(home, is_root=user_id == 0)}/ustconsumerd{BITS_PER_WORD}"

    def path(option: str, default: str) -> str:
        chosen = absolute_path(options.value(option) or default)
        size_bytes = len(os.fsencode(chosen))
        if size_bytes > SOCKET_PATH_SIZE_BYTES_MAX:
            raise InvalidArgument(
                f"A socket path is {size_bytes} bytes long, {SOCKET_PATH_SIZE_BYTES_MAX} are possible: {chosen}"
            )
        return chosen

    command_socket = path("consumerd-cmd-sock", f"{directory}/{COMMAND_SOCKET_NAME}")
    return Settings(
        command_socket=command_socket,
        descriptor_socket=path("descriptor-sock", f"{directory}/{DESCRIPTOR_SOCKET_NAME}"),
        health_socket=path("health-sock", f"{os.path.dirname(command_socket)}/{HEALTH_SOCKET_NAME}"),
        lock_file=f"{command_socket}.lck",
        spool_directory=_spool_directory(options.value("spool-directory"), environment, home, user_id),
        tracing_group=options.value("group") or DEFAULT_TRACING_GROUP,
        orphan_timeout_s=_orphan_timeout_s(options.value("orphan-timeout")),
        is_ending_when_orphaned=options.has("exit-when-orphaned"),
        is_background=options.has("background"),
        is_daemonized=options.has("daemonize"),
        verbosity=min(options.given_count("verbose"), 3),
        is_quiet=options.has("quiet"),
    )


def _spool_directory(option: str | None, environment: Mapping[str, str], home: str | None, user_id: int) -> str | None:
    chosen = option or environment.get("TRACEFLEET_SPOOL_DIRECTORY")
    if not chosen:
        if user_id != 0 and home is None:
            return None
        chosen = ROOT_SPOOL_DIRECTORY if user_id == 0 else f"{home}/.tracefleet/spool"
    return absolute_path(chosen)


def _orphan_timeout_s(value: str | None) -> float:
    if value is None:
        return DEFAULT_ORPHAN_TIMEOUT_S
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e9:
        raise InvalidArgument(f"--orphan-timeout: not a number of seconds: {value}")
    return seconds
