"""The consumer daemon as a process: how it starts, tells that it serves, and ends."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from tracefleet_common import logs
from tracefleet_common.errors import TracefleetError
from tracefleet_common.options import render_help_section, render_option_list
from tracefleet_common.runtime.daemon_options import INFORMATION_OPTIONS
from tracefleet_common.runtime.daemonize import Daemon, become_daemon
from tracefleet_common.runtime.limits import raise_open_file_limit
from tracefleet_common.runtime.signals import hold_stop_signals
from tracefleet_consumerd.settings import (
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

log = logging.getLogger("tracefleet.consumerd")

EXIT_SUCCESS = 0
EXIT_FAILURE = 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the consumer daemon, in the foreground or as a Unix daemon. Returns the exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    is_quiet = False
    try:
        command_line = parse_command_line(words)
        if (information := _information(command_line)) is not None:
            sys.stdout.write(information)
            return EXIT_SUCCESS
        settings = load_settings(command_line, os.environ, user_id=os.geteuid())
        is_quiet = settings.is_quiet
        logs.configure(settings.verbosity, is_quiet=is_quiet)
        return _start(settings)
    except TracefleetError as error:
        if not is_quiet:
            print("\n".join((f"Error: {error}", *getattr(error, "__notes__", ()))), file=sys.stderr)
    except Exception:
        log.critical("The consumer daemon failed", exc_info=True)
    return EXIT_FAILURE


def _information(command_line: Parsed) -> str | None:
    """What --help, --version or --list-options print, whatever else is on the command line."""
    if command_line.has("help"):
        return (
            "Usage: tracefleet-consumerd [OPTIONS]\n\n"
            "Owns the ring buffers of user space channels and moves full sub-buffers into trace files.\n"
            "A session daemon starts it, or finds it running.\n\n"
            + render_help_section("GENERAL", GENERAL_OPTIONS)
            + render_help_section("PATHS", PATH_OPTIONS)
            + render_help_section("VERBOSITY", VERBOSITY_OPTIONS)
            + render_help_section("PROGRAM INFORMATION", INFORMATION_OPTIONS)
            + "Exit status: 0 success, 1 error.\n"
        )
    if command_line.has("version"):
        from importlib.metadata import version  # slow, and for this option only

        return version("tracefleet-consumerd") + "\n"
    return render_option_list(KNOWN_OPTIONS) if command_line.has("list-options") else None


def _start(settings: Settings) -> int:
    daemon: Daemon | None = None
    if settings.is_background or settings.is_daemonized:
        outcome = become_daemon(is_console_kept=settings.is_background)
        if isinstance(outcome, int):
            return outcome
        daemon = outcome
    hold_stop_signals()
    raise_open_file_limit()
    return _serve(settings, daemon)


def _serve(settings: Settings, daemon: Daemon | None) -> int:
    from tracefleet_consumerd.adapters.socket_files import SocketFiles

    files = SocketFiles(settings)
    try:
        # Loaded last, as the most expensive part: a daemon that may not start says so before.
        import asyncio

        from tracefleet_consumerd import composition

        asyncio.run(composition.run(settings, files, daemon.ready if daemon is not None else lambda: None))
    finally:
        hold_stop_signals()  # a second one must not interrupt the tidying up
        files.close()
    return EXIT_SUCCESS


if __name__ == "__main__":
    sys.exit(main())
