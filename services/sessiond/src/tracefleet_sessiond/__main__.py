"""The session daemon as a process: how it starts, tells that it serves, and ends."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from tracefleet_common import logs
from tracefleet_common.errors import TracefleetError
from tracefleet_common.options import render_help_section, render_option_list
from tracefleet_common.runtime.daemonize import Daemon, ParentSignal, become_daemon, open_missing_console
from tracefleet_common.runtime.limits import raise_open_file_limit
from tracefleet_common.runtime.signals import hold_stop_signals
from tracefleet_sessiond.settings import (
    GENERAL_OPTIONS,
    INFORMATION_OPTIONS,
    KNOWN_OPTIONS,
    PATH_OPTIONS,
    VERBOSITY_OPTIONS,
    Settings,
    load_settings,
    parse_command_line,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tracefleet_common.options import Parsed

log = logging.getLogger("tracefleet.sessiond")

EXIT_SUCCESS = 0
EXIT_ERROR = 1  # the world's fault: an option, a file, another daemon
EXIT_FATAL = 3  # ours


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
        return _report(error, is_quiet=is_quiet)


def _report(error: Exception, *, is_quiet: bool) -> int:
    """Say what went wrong, in a sentence when the fault is the world's. Returns the exit status."""
    causes = list(_causes(error))
    if not all(isinstance(cause, TracefleetError) for cause in causes):
        log.critical("The session daemon failed", exc_info=error)
        return EXIT_FATAL
    if not is_quiet:
        for cause in causes:
            print("\n".join((f"Error: {cause}", *getattr(cause, "__notes__", ()))), file=sys.stderr)
    return EXIT_ERROR


def _causes(error: Exception) -> Iterator[Exception]:
    """The errors that a group of tasks ended with, or the one error."""
    if isinstance(error, ExceptionGroup):
        for part in error.exceptions:
            yield from _causes(part)
    else:
        yield error


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
        logging.getLogger("tracefleet").addHandler(_AbortOnError(logging.ERROR))
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


class _AbortOnError(logging.Handler):
    """With LTTNG_ABORT_ON_ERROR=1 the process leaves a core dump of the moment of its first error."""

    def emit(self, record: logging.LogRecord) -> None:
        del record  # the handler before this one has written it
        os.abort()


if __name__ == "__main__":
    sys.exit(main())
