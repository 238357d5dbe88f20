"""The relay daemon as a process. It knows its options for now; what they are for comes in a later release."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tracefleet_common.errors import TracefleetError
from tracefleet_common.options import Option, parse, render_help_section, render_option_list

if TYPE_CHECKING:
    from collections.abc import Sequence

OPTIONS = (
    Option("help", "h", None, "Show this help and quit."),
    Option("list-options", None, None, "List the options and quit."),
    Option("version", "V", None, "Show the version and quit."),
)
EXIT_SUCCESS = 0
EXIT_ERROR = 1
NOT_AVAILABLE = "The relay daemon comes in a later release: record to a local directory for now."


def main(arguments: Sequence[str] | None = None) -> int:
    """Print what was asked for, or that there is no relay daemon yet. Returns the exit status."""
    try:
        parsed = parse(OPTIONS, sys.argv[1:] if arguments is None else arguments)
    except TracefleetError:
        print(f"Error: {NOT_AVAILABLE}", file=sys.stderr)
        return EXIT_ERROR
    if parsed.has("help"):
        sys.stdout.write(
            "Usage: tracefleet-relayd [OPTIONS]\n\n"
            "Keeps traces of other hosts, and serves them live.\n"
            f"{NOT_AVAILABLE}\n\n" + render_help_section("PROGRAM INFORMATION", OPTIONS)
        )
    elif parsed.has("version"):
        from importlib.metadata import version  # slow, and for this option only

        print(version("tracefleet-relayd"))
    elif parsed.has("list-options"):
        sys.stdout.write(render_option_list(OPTIONS))
    else:
        print(f"Error: {NOT_AVAILABLE}", file=sys.stderr)
        return EXIT_ERROR
    return EXIT_SUCCESS


if __name__ == "__main__":
    sys.exit(main())
