"""create: a new recording session, and a session daemon when none runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracefleet_cli import exit_status
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_cli.sessiond_launch import ensure_sessiond
from tracefleet_cli.terminal import Terminal
from tracefleet_common.client.run_directory import home_directory
from tracefleet_common.errors import TracefleetError
from tracefleet_common.options import Option, Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (
    HELP,
    Option("output", "o", "DIR", "Write the trace below DIR; the same as --set-url=file://DIR."),
    LIST_OPTIONS,
    Option("set-url", "U", "URL", "Write the trace to URL; of the forms of URL, file://DIR is supported."),
    Option("ctrl-url", "C", "URL", "Where a relay daemon takes commands."),
    Option("data-url", "D", "URL", "Where a relay daemon takes data."),
    Option("no-output", None, None, "Do not write a trace."),
    Option("no-consumer", None, None, "Obsolete: use --no-output."),
    Option("snapshot", None, None, "Record into memory, and write only on demand."),
    Option("live", None, "PERIOD", "Record for live reading.", is_argument_optional=True),
    Option("shm-path", None, "DIR", "Keep the ring buffers of user-space tracing below DIR."),
    JSON,
)
UNSUPPORTED_OPTIONS = frozenset({"ctrl-url", "data-url", "snapshot", "live", "shm-path"})
OPERANDS = "[SESSION]"
DESCRIPTION = """\
Creates a recording session, which becomes the current one, and prints where its trace will be. Without \
SESSION it is named auto-YYYYmmdd-HHMMSS; without an output option its trace goes to \
$LTTNG_HOME/lttng-traces/SESSION-YYYYmmdd-HHMMSS.

A session daemon is started when none answers, except with the general option --no-sessiond: the program of \
the general option --sessiond-path, of the environment variable LTTNG_SESSIOND_PATH, or tracefleet-sessiond."""

NAME_SIZE_BYTES_MAX = 255
RESERVED_NAME = "auto"
NETWORK_PROTOCOLS = frozenset({"net", "net4", "net6", "tcp", "tcp4", "tcp6"})


def run(context: Context, parsed: Parsed) -> int:
    """Create the session."""
    if parsed.has("no-consumer"):
        context.terminal.message("The option --no-consumer is obsolete. Use --no-output now.")
        return exit_status.WARNING
    (name,) = context.at_most_operands(parsed, 1)
    output_path = None if parsed.has("no-output") else _output_path(context, parsed)
    if name is not None:
        _check_name(context, name)
    ensure_sessiond(context)
    try:
        session = context.client().create_session(
            name=name,
            output_path=output_path,
            home_directory=home_directory(),
            has_output=not parsed.has("no-output"),
        )
    except TracefleetError as error:
        context.terminal.failure(error)
        return exit_status.ERROR
    _report(context.terminal, session.name, session.output_path)
    context.terminal.value(session)
    context.set_current_session(session.name)
    return exit_status.SUCCESS


def _report(terminal: Terminal, name: str, output_path: str | None) -> None:
    terminal.message(f"Session {name} created.")
    if output_path is not None:
        terminal.message(f"Traces will be output to {output_path}")


def _check_name(context: Context, name: str) -> None:
    if len(os.fsencode(name)) > NAME_SIZE_BYTES_MAX:
        raise context.end(f"Session name too long. Length must be lower or equal to {NAME_SIZE_BYTES_MAX}")
    if name == RESERVED_NAME or name.startswith(f"{RESERVED_NAME}-"):
        raise context.end(f"{RESERVED_NAME} is a reserved keyword for default session(s)")


def _output_path(context: Context, parsed: Parsed) -> str | None:
    """Absolute, or None: the daemon's default."""
    path, url = parsed.value("output"), parsed.value("set-url")
    if path is not None and url is not None:
        raise context.end("Only one of the --set-url, --ctrl-url/data-url, or --output options may be used at once.")
    if url is not None:
        protocol, separator, path = url.partition("://")
        if separator and protocol in NETWORK_PROTOCOLS:
            raise context.end(f"Network output is not supported yet: {url}", exit_status.UNSUPPORTED)
        if not separator:
            path = url
        if (protocol != "file" and separator) or not path.startswith("/"):
            raise context.end("Unrecognized URL format.")
    return None if path is None else os.path.abspath(path)
