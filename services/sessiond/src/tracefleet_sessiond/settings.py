"""What the session daemon is told before it starts: configuration files, command line, environment.

The options are those of lttng-sessiond(8). An option whose feature this release does not have is refused: to
ignore it would leave its user believing that it works.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING, NamedTuple

from tracefleet_common.options import Option, Parsed
from tracefleet_common.runtime.daemon_options import (
    DEFAULT_TRACING_GROUP,
    INFORMATION_OPTIONS,
    SYSTEM_CONFIG_FILE,
    DaemonOptions,
    absolute_path,
    home_directory,
    run_directory,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

log = logging.getLogger("tracefleet.sessiond.settings")

DEFAULT_APPLICATION_TIMEOUT_S = 5.0
# The oldest compatible major version of the tracer's ABI is part of the name (reference: LTTng-UST 2.13).
APPLICATION_SOCKET_NAME = "lttng-ust-sock-8"
BUS_SOCKET_NAME = "tracefleet-sessiond"
HEALTH_SOCKET_NAME = "sessiond-health"

GENERAL_OPTIONS = (
    Option("background", "b", None, "Start as a Unix daemon, but keep the console open. Returns when ready."),
    Option("config", "f", "PATH", "Read the configuration file PATH after the default ones."),
    Option("daemonize", "d", None, "Start as a Unix daemon and close the console. Returns when ready."),
    Option("group", "g", "GROUP", "Let the members of GROUP (default: tracing) control a root session daemon."),
    Option("sig-parent", "S", None, "Send SIGUSR1 to the parent process when ready."),
    Option("no-kernel", None, None, "Disable Linux kernel tracing."),
)
PATH_OPTIONS = (
    Option("apps-sock", "a", "PATH", "Set the application Unix socket path to PATH."),
    Option("pidfile", "p", "PATH", "Write the process id into PATH."),
    Option("consumerd64-path", None, "PATH", "Set the 64-bit consumer daemon program. See LTTNG_CONSUMERD64_BIN."),
    Option(
        "consumerd64-libdir",
        None,
        "PATH",
        "Set the library directory of the 64-bit consumer daemon. See LTTNG_CONSUMERD64_LIBDIR.",
    ),
    Option("ustconsumerd64-cmd-sock", None, "PATH", "Set the 64-bit consumer daemon's command socket."),
    Option(
        "ustconsumerd64-descriptor-sock",
        None,
        "PATH",
        "Set the Unix socket over which the 64-bit consumer daemon passes file descriptors.",
    ),
)
VERBOSITY_OPTIONS = (
    Option("quiet", "q", None, "Suppress all messages, including warnings and errors."),
    Option("verbose", "v", None, "Increase verbosity, up to three times.", is_repeatable=True),
    Option("verbose-consumer", None, None, "Increase the verbosity of the consumer daemon."),
)

_KERNEL = "the kernel tracing domain is not available in this release"
_BITS_32 = "32-bit programs cannot be traced in this release"
_ERROR_SOCKET = "consumer daemons report errors over the command socket; there is no error socket"
# Options of lttng-sessiond(8) that are refused, and why.
REFUSED_OPTIONS: tuple[tuple[Option, str], ...] = (
    (
        Option("load", "l", "PATH", "Load recording session configurations."),
        "recording session configurations cannot be loaded in this release",
    ),
    (Option("agent-tcp-port", None, "PORT", "Agent port."), "agents are not available in this release"),
    (
        Option("client-sock", "c", "PATH", "LTTng client socket."),
        "the LTTng client socket is not available in this release",
    ),
    (Option("kmod-probes", None, "PROBES", "Kernel probe modules."), _KERNEL),
    (Option("extra-kmod-probes", None, "PROBES", "More kernel probe modules."), _KERNEL),
    (Option("kconsumerd-cmd-sock", None, "PATH", "Command socket."), _KERNEL),
    (Option("kconsumerd-err-sock", None, "PATH", "Error socket."), _KERNEL),
    (Option("ustconsumerd32-cmd-sock", None, "PATH", "Command socket."), _BITS_32),
    (Option("ustconsumerd32-err-sock", None, "PATH", "Error socket."), _BITS_32),
    (Option("consumerd32-path", None, "PATH", "32-bit consumer daemon."), _BITS_32),
    (Option("consumerd32-libdir", None, "PATH", "32-bit library directory."), _BITS_32),
    (Option("ustconsumerd64-err-sock", None, "PATH", "Error socket."), _ERROR_SOCKET),
    (Option("event-notifier-error-buffer-size-kernel", None, "SLOTS", "Error counters."), _KERNEL),
    (
        Option("event-notifier-error-buffer-size-userspace", None, "SLOTS", "Error counters."),
        "triggers are not available in this release",
    ),
)

KNOWN_OPTIONS = GENERAL_OPTIONS + PATH_OPTIONS + VERBOSITY_OPTIONS + INFORMATION_OPTIONS
_OPTIONS = DaemonOptions("sessiond", KNOWN_OPTIONS, REFUSED_OPTIONS)


class ConsumerSettings(NamedTuple):
    """How to start, or to find, the consumer daemon of one bitness. Paths are absolute."""

    bits_per_word: int
    program: str | None  # None: look in own_directory, then in PATH
    own_directory: str  # where the program of this daemon lies
    library_directory: str | None
    directory: str  # in the run directory, made for the sockets
    command_socket: str
    descriptor_socket: str
    health_socket: str
    verbosity: int
    is_quiet: bool


class Settings(NamedTuple):
    """Everything that is settled before the daemon starts. Paths are absolute."""

    is_root: bool
    home: str | None
    run_directory: str
    application_socket: str
    bus_socket: str
    health_socket: str
    pid_file: str
    lock_file: str
    tracing_group: str
    application_timeout_s: float | None  # for each answer of a program; None: wait for ever
    consumer64: ConsumerSettings
    is_background: bool
    is_daemonized: bool
    is_signalling_parent: bool
    is_kernel_wanted: bool
    is_aborting_on_error: bool
    verbosity: int
    is_quiet: bool

    @property
    def bus_address(self) -> str:
        """Where clients reach this daemon."""
        return f"ipc://{self.bus_socket}"


def parse_command_line(arguments: Sequence[str]) -> Parsed:
    """Sort the words of the command line. Raises OptionError, InvalidArgument, Unsupported."""
    return _OPTIONS.parse_command_line(arguments)


def load_settings(command_line: Parsed, environment: Mapping[str, str], *, user_id: int) -> Settings:
    """Bring files, command line and environment together; what is read later overrides.

    Raises InvalidArgument, Unsupported.
    """
    home = home_directory(environment, user_id)
    paths = (SYSTEM_CONFIG_FILE,) if home is None else (SYSTEM_CONFIG_FILE, f"{home}/.lttng/lttng.conf")
    return _settle(_OPTIONS.with_config_files(command_line, paths), environment, home, is_root=user_id == 0)


def _settle(options: Parsed, environment: Mapping[str, str], home: str | None, *, is_root: bool) -> Settings:
    directory = run_directory(home, is_root=is_root)
    _warn_about_environment(environment)

    def path(option: str, default: str) -> str:
        value = options.value(option)
        return default if value is None else absolute_path(value)

    is_quiet = options.has("quiet")
    return Settings(
        is_root=is_root,
        home=home,
        run_directory=directory,
        application_socket=path("apps-sock", f"{directory}/{APPLICATION_SOCKET_NAME}"),
        bus_socket=f"{directory}/{BUS_SOCKET_NAME}",
        health_socket=f"{directory}/{HEALTH_SOCKET_NAME}",
        pid_file=path("pidfile", f"{directory}/lttng-sessiond.pid"),
        lock_file=f"{directory}/lttng-sessiond.lck",
        tracing_group=options.value("group") or DEFAULT_TRACING_GROUP,
        application_timeout_s=_application_timeout_s(environment.get("LTTNG_APP_SOCKET_TIMEOUT")),
        consumer64=_consumer_settings(options, environment, directory, bits_per_word=64, is_quiet=is_quiet),
        is_background=options.has("background"),
        is_daemonized=options.has("daemonize"),
        is_signalling_parent=options.has("sig-parent"),
        is_kernel_wanted=not options.has("no-kernel"),
        is_aborting_on_error=environment.get("LTTNG_ABORT_ON_ERROR") == "1",
        verbosity=min(options.given_count("verbose"), 3),
        is_quiet=is_quiet,
    )


def _consumer_settings(
    options: Parsed, environment: Mapping[str, str], run_directory_path: str, *, bits_per_word: int, is_quiet: bool
) -> ConsumerSettings:
    directory = f"{run_directory_path}/ustconsumerd{bits_per_word}"
    program = options.value(f"consumerd{bits_per_word}-path") or environment.get(f"LTTNG_CONSUMERD{bits_per_word}_BIN")
    library_directory = options.value(f"consumerd{bits_per_word}-libdir") or environment.get(
        f"LTTNG_CONSUMERD{bits_per_word}_LIBDIR"
    )
    command_socket = options.value(f"ustconsumerd{bits_per_word}-cmd-sock") or f"{directory}/command"
    descriptor_socket = options.value(f"ustconsumerd{bits_per_word}-descriptor-sock") or f"{directory}/descriptors"
    return ConsumerSettings(
        bits_per_word=bits_per_word,
        program=absolute_path(program) if program else None,
        own_directory=os.path.dirname(absolute_path(sys.argv[0])),
        library_directory=absolute_path(library_directory) if library_directory else None,
        directory=directory,
        command_socket=absolute_path(command_socket),
        descriptor_socket=absolute_path(descriptor_socket),
        health_socket=f"{directory}/health",
        verbosity=2 if options.has("verbose-consumer") else 0,
        is_quiet=is_quiet,
    )


def _application_timeout_s(value: str | None) -> float | None:
    if not value:
        return DEFAULT_APPLICATION_TIMEOUT_S
    try:
        timeout_s = int(value)
    except ValueError:
        timeout_s = -2
    if timeout_s < -1:
        log.warning("Invalid LTTNG_APP_SOCKET_TIMEOUT, using the default: value=%s", value)
        return DEFAULT_APPLICATION_TIMEOUT_S
    return float(timeout_s) if timeout_s > 0 else None


_UNUSED_ENVIRONMENT: Iterable[tuple[str, str]] = (
    ("LTTNG_CONSUMERD32_BIN", _BITS_32),
    ("LTTNG_CONSUMERD32_LIBDIR", _BITS_32),
    ("LTTNG_KMOD_PROBES", _KERNEL),
    ("LTTNG_EXTRA_KMOD_PROBES", _KERNEL),
)


def _warn_about_environment(environment: Mapping[str, str]) -> None:
    """A variable is often set for every program of a user, so it is no reason to refuse to start."""
    for name, reason in _UNUSED_ENVIRONMENT:
        if environment.get(name):
            log.warning("Environment variable has no effect: name=%s, reason=%s", name, reason)
