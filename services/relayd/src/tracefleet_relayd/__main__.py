"""The relay daemon as a process: how it starts, tells that it serves, and ends."""

from __future__ import annotations

import logging
import os
import resource
import sys
from typing import TYPE_CHECKING

from tracefleet_common import logs
from tracefleet_common.errors import InvalidArgument, TracefleetError
from tracefleet_common.options import render_help_section, render_option_list
from tracefleet_common.runtime.daemon_options import INFORMATION_OPTIONS
from tracefleet_common.runtime.daemon_process import EXIT_SUCCESS, AbortOnError, report_failure
from tracefleet_common.runtime.daemonize import Daemon, become_daemon, open_missing_console
from tracefleet_common.runtime.limits import raise_open_file_limit
from tracefleet_common.runtime.signals import hold_stop_signals
from tracefleet_relayd.settings import (
    GENERAL_OPTIONS,
    KNOWN_OPTIONS,
    OUTPUT_OPTIONS,
    PORT_OPTIONS,
    VERBOSITY_OPTIONS,
    Settings,
    fd_capacity,
    load_settings,
    parse_command_line,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracefleet_common.options import Parsed

log = logging.getLogger("tracefleet.relayd")

OUTPUT_DIRECTORY_MODE = 0o770


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the relay daemon, in the foreground or as a Unix daemon. Returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    is_quiet = False
    try:
        command_line = parse_command_line(words)
        if (information := _information(command_line)) is not None:
            sys.stdout.write(information)
            return EXIT_SUCCESS
        is_quiet = command_line.has("quiet")
        # Once for the warnings of the configuration files, and again with what these files say.
        logs.configure(command_line.given_count("verbose"), is_quiet=is_quiet)
        settings = load_settings(
            command_line,
            os.environ,
            _numeric_address,
            user_id=os.geteuid(),
            open_file_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
        )
        is_quiet = settings.is_quiet
        logs.configure(settings.verbosity, is_quiet=is_quiet)
        return _start(settings)
    except Exception as error:
        return report_failure(error, log, is_quiet=is_quiet)


def _information(command_line: Parsed) -> str | None:
    """What --help, --version or --list-options print, whatever else is on the command line."""
    if command_line.has("help"):
        return (
            "Usage: tracefleet-relayd [--background | --daemonize] [OPTIONS]\n\n"
            "Keeps traces of other hosts, and serves them live. Does the work of lttng-relayd(8), with its\n"
            "protocols, files and options.\n\n"
            + render_help_section("GENERAL", GENERAL_OPTIONS)
            + render_help_section("OUTPUT", OUTPUT_OPTIONS)
            + render_help_section("PORTS", PORT_OPTIONS)
            + render_help_section("VERBOSITY", VERBOSITY_OPTIONS)
            + render_help_section("PROGRAM INFORMATION", INFORMATION_OPTIONS)
            + "A URL is tcp://HOST:PORT or tcp6://[ADDRESS]:PORT.\n\n"
            "Exit status: 0 success, 1 error, 3 fatal error.\n"
        )
    if command_line.has("version"):
        from importlib.metadata import version  # slow, and for this option only

        return version("tracefleet-relayd") + "\n"
    return render_option_list(KNOWN_OPTIONS) if command_line.has("list-options") else None


def _numeric_address(host: str, is_ipv6: bool) -> str | None:
    import socket  # a daemon that may not start for another reason does not need it

    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return str(found[0][4][0])


def _start(settings: Settings) -> int:
    if settings.is_aborting_on_error:
        logging.getLogger("tracefleet").addHandler(AbortOnError(logging.ERROR))
    fd_pool_size = settings.fd_pool_size
    if fd_pool_size is None:
        # The administrator's limit is the hard one; the soft one protects programs that use select(2).
        fd_pool_size = raise_open_file_limit(is_hard_limit_kept=True)
        fd_capacity(fd_pool_size)
    if settings.is_output_given:
        _make_output_directory(settings.output_directory)
    daemon: Daemon | None = None
    if settings.is_background or settings.is_daemonized:
        outcome = become_daemon(is_console_kept=settings.is_background)
        if isinstance(outcome, int):
            return outcome
        daemon = outcome
    else:
        open_missing_console()
    if settings.working_directory is not None:
        _change_directory(settings.working_directory)
    hold_stop_signals()
    return _serve(settings._replace(fd_pool_size=fd_pool_size), daemon)


def _make_output_directory(path: str) -> None:
    try:
        os.makedirs(path, OUTPUT_DIRECTORY_MODE, exist_ok=True)
    except OSError as error:
        raise InvalidArgument(f"Unable to create {path}: {error.strerror}") from None


def _change_directory(path: str) -> None:
    try:
        os.chdir(path)
    except OSError as error:
        raise TracefleetError(f'Failed to change working directory to "{path}": {error.strerror}') from None


def _serve(settings: Settings, daemon: Daemon | None) -> int:
    # Loaded last, as the most expensive part: a daemon that may not start says so before.
    import asyncio

    from tracefleet_relayd import composition

    try:
        asyncio.run(composition.run(settings, daemon.ready if daemon is not None else lambda: None))
    finally:
        hold_stop_signals()  # a second one must not interrupt the end
    return EXIT_SUCCESS


if __name__ == "__main__":
    sys.exit(main())
