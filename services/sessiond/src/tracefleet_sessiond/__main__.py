"""The session daemon as a process: how it starts, tells that it serves, and ends."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from tracefleet_common import logs
from tracefleet_common.options import render_help_section, render_option_list
from tracefleet_common.runtime.daemon_options import INFORMATION_OPTIONS
from tracefleet_common.runtime.daemon_process import EXIT_SUCCESS, AbortOnError, report_failure
from tracefleet_common.runtime.daemonize import Daemon, ParentSignal, become_daemon, open_missing_console
from tracefleet_common.runtime.limits import raise_open_file_limit
from tracefleet_common.runtime.signals import hold_stop_signals
from tracefleet_sessiond.settings import (
    GENERAL_OPTIONS,
    KNOWN_OPTIONS,
    PATH_OPTIONS,
    VERBOSITY_OPTIONS,
    Settings,
    load_settings,
    parse_command_line,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracefleet_common.options import Parsed

log = logging.getLogger("tracefleet.sessiond")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the session daemon, in the foreground or as a Unix daemon. Returns the exit status."""
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
        settings = load_settings(command_line, os.environ, user_id=os.geteuid())
        is_quiet = settings.is_quiet
        logs.configure(settings.verbosity, is_quiet=is_quiet)
        return _start(settings)
    except Exception as error:
        return report_failure(error, log, is_quiet=is_quiet)


def _information(command_line: Parsed) -> str | None:
    """What --help, --version or --list-options print, whatever else is on the command line."""
    if command_line.has("help"):
        return _help()
    if command_line.has("version"):
        from importlib.metadata import version  # slow, and for this option only

        return version("tracefleet-sessiond") + "\n"
    return render_option_list(KNOWN_OPTIONS) if command_line.has("list-options") else None


def _help() -> str:
    return (
        "Usage: tracefleet-sessiond [--background | --daemonize] [OPTIONS]\n\n"
        "Keeps recording sessions, registers instrumented programs, and has the consumer daemon\n"
        "write what they emit. Does the work of lttng-sessiond(8), with its files and options.\n\n"
        + render_help_section("GENERAL", GENERAL_OPTIONS)
        + render_help_section("PATHS", PATH_OPTIONS)
        + render_help_section("VERBOSITY", VERBOSITY_OPTIONS)
        + render_help_section("PROGRAM INFORMATION", INFORMATION_OPTIONS)
        + "Exit status: 0 success, 1 error, 3 fatal error.\n"
    )


def _start(settings: Settings) -> int:
    if settings.is_aborting_on_error:
        logging.getLogger("tracefleet").addHandler(AbortOnError(logging.ERROR))
    # A Unix daemon signals the process that waits for it, as lttng-sessiond does; that process then exits.
    daemon: Daemon | None = None
    if settings.is_background or settings.is_daemonized:
        parent_signal = None
        outcome = become_daemon(is_console_kept=settings.is_background)
        if isinstance(outcome, int):
            return outcome
        daemon = outcome
    else:
        open_missing_console()
        parent_signal = ParentSignal() if settings.is_signalling_parent else None
    hold_stop_signals()
    raise_open_file_limit()
    return _serve(settings, daemon, parent_signal)


def _serve(settings: Settings, daemon: Daemon | None, parent_signal: ParentSignal | None) -> int:
    from tracefleet_sessiond.adapters.run_directory import RunDirectory

    run_directory = RunDirectory.open(settings)
    try:
        # Loaded last, as the most expensive part: a daemon that may not start says so before.
        import asyncio

        from tracefleet_sessiond import composition

        if settings.is_kernel_wanted:
            log.info("Kernel tracing is not available in this release")

        def on_ready() -> None:
            if parent_signal is not None:
                parent_signal.send()
            if daemon is not None:
                daemon.ready()

        asyncio.run(composition.run(settings, run_directory, on_ready))
    finally:
        hold_stop_signals()  # a second one must not interrupt the tidying up
        run_directory.close()
    return EXIT_SUCCESS


if __name__ == "__main__":
    sys.exit(main())
