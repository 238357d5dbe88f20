"""create: a new recording session, and daemons when none runs."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracefleet_cli import exit_status, quantities
from tracefleet_cli.daemon_launch import ensure_relayd, ensure_sessiond
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_cli.session_text import output_of
from tracefleet_cli.terminal import Terminal
from tracefleet_common.client.run_directory import home_directory
from tracefleet_common.errors import TracefleetError
from tracefleet_common.options import Option, Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context
    from tracefleet_common.messages.sessiond_control import SessionInfo
    from tracefleet_common.model.relay_output import FleetOutput, RelayOutput

OPTIONS = (
    HELP,
    Option("output", "o", "DIR", "Write the trace below DIR; the same as --set-url=file://DIR."),
    LIST_OPTIONS,
    Option(
        "set-url",
        "U",
        "URL",
        "Write the trace to URL: file://DIR, net[6]://HOST[:CONTROL[:DATA]][/DIR] or fleet[6]://HOST[:PORT][/DIR].",
    ),
    Option("ctrl-url", "C", "URL", "Where a relay daemon takes commands: tcp[6]://HOST[:PORT][/DIR]."),
    Option("data-url", "D", "URL", "Where it takes data; the same host."),
    Option(
        "durability",
        None,
        "DURABILITY",
        "With a fleet URL: what a relay daemon has done with a packet when it says that it is safe. "
        "`written` (the default): it outlives the relay daemon; `synced`: it outlives the machine.",
    ),
    Option(
        "spool",
        None,
        "SIZE",
        "With a fleet URL: keep up to SIZE bytes (k, M, G) on the disk of this host while the relay daemon is away.",
    ),
    Option("no-output", None, None, "Do not write a trace."),
    Option("no-consumer", None, None, "Obsolete: use --no-output."),
    Option("snapshot", None, None, "Record into memory, and write only on demand."),
    Option(
        "live",
        None,
        "PERIOD",
        "Record for live reading, through a relay daemon (on this host by default, and started when none answers). "
        "Every PERIOD (us, ms, s, m, h; default: 1 s) what was recorded is sent.",
        is_argument_optional=True,
    ),
    Option("shm-path", None, "DIR", "Keep the ring buffers of user-space tracing below DIR."),
    JSON,
)
UNSUPPORTED_OPTIONS = frozenset({"snapshot", "shm-path"})
OPERANDS = "[SESSION]"
DESCRIPTION = """\
Creates a recording session, which becomes the current one, and prints where its trace will be. Without \
SESSION it is named auto-YYYYmmdd-HHMMSS; without an output option its trace goes to \
$LTTNG_HOME/lttng-traces/SESSION-YYYYmmdd-HHMMSS. A session of a network URL is streamed to a relay daemon: \
net:// and tcp:// in LTTng's protocol, fleet:// in that of tracefleet-relayd, which loses nothing when a \
connection or a daemon is lost.

A session daemon is started when none answers, except with the general option --no-sessiond: the program of \
the general option --sessiond-path, of the environment variable LTTNG_SESSIOND_PATH, or tracefleet-sessiond."""

NAME_SIZE_BYTES_MAX = 255
RESERVED_NAME = "auto"
LIVE_URL_DEFAULT = "net://127.0.0.1"
SPOOL_SIZE_BYTES_MAX = 2**63 - 1  # no file is larger
ONE_OUTPUT = "Only one of the --set-url, --ctrl-url/data-url, or --output options may be used at once."


def run(context: Context, parsed: Parsed) -> int:
    """Create the session."""
    if parsed.has("no-consumer"):
        context.terminal.message("The option --no-consumer is obsolete. Use --no-output now.")
        return exit_status.WARNING
    (name,) = context.at_most_operands(parsed, 1)
    live_timer_period_us = _live_timer_period_us(context, parsed) if parsed.has("live") else 0
    output = _output(context, parsed)
    is_local = isinstance(output, str)
    if live_timer_period_us and (output is None or is_local):
        raise context.end("Unsupported output type specified for live session.")
    if name is not None:
        _check_name(context, name)
    ensure_sessiond(context)
    if live_timer_period_us and not _has_output(parsed):
        ensure_relayd(context)
    try:
        session = context.client().create_session(
            name=name,
            output_path=output if isinstance(output, str) else None,
            home_directory=home_directory(),
            has_output=not parsed.has("no-output"),
            relay=None if isinstance(output, str) else output,
            live_timer_period_us=live_timer_period_us,
        )
    except TracefleetError as error:
        context.terminal.failure(error)
        return exit_status.ERROR
    _report(context.terminal, session)
    context.terminal.value(session)
    context.set_current_session(session.name)
    return exit_status.SUCCESS


def _report(terminal: Terminal, session: SessionInfo) -> None:
    is_live = session.live_timer_period_us > 0
    terminal.message(f"{'Live session' if is_live else 'Session'} {session.name} created.")
    output = output_of(session)
    if output is not None:
        terminal.message(f"Traces will be output to {output}")
    if is_live:
        terminal.message(f"Live timer interval set to {session.live_timer_period_us} us")


def _check_name(context: Context, name: str) -> None:
    if len(os.fsencode(name)) > NAME_SIZE_BYTES_MAX:
        raise context.end(f"Session name too long. Length must be lower or equal to {NAME_SIZE_BYTES_MAX}")
    if name == RESERVED_NAME or name.startswith(f"{RESERVED_NAME}-"):
        raise context.end(f"{RESERVED_NAME} is a reserved keyword for default session(s)")


def has_url(parsed: Parsed) -> bool:
    """Whether the command line says where the trace goes."""
    return any(parsed.value(name) is not None for name in ("output", "set-url", "ctrl-url", "data-url"))


def _has_output(parsed: Parsed) -> bool:
    """Whether the command line says where the trace goes."""
    return any(parsed.value(name) is not None for name in ("set-url", "ctrl-url"))


def _live_timer_period_us(context: Context, parsed: Parsed) -> int:
    text = parsed.value("live")
    if text is None:
        from tracefleet_common.model.relay_output import LIVE_TIMER_PERIOD_US_DEFAULT

        return LIVE_TIMER_PERIOD_US_DEFAULT
    try:
        period_us = quantities.duration_us(text, quantities.UINT32_MAX)
    except quantities.TooLarge:
        raise context.end(f"32-bit overflow in --live parameter: {text}") from None
    except quantities.BadQuantity:
        raise context.end(f"Wrong value for --live parameter: {text}") from None
    if period_us == 0:
        raise context.end("Live timer interval must be greater than zero")
    return period_us


def _output(context: Context, parsed: Parsed) -> RelayOutput | FleetOutput | str | None:
    output = _given_output(context, parsed)
    durability, spool = parsed.value("durability"), parsed.value("spool")
    if durability is None and spool is None:
        return output
    import msgspec

    from tracefleet_common.model.relay_output import Durability, FleetOutput

    if not isinstance(output, FleetOutput):
        raise context.end(f"The option --{'spool' if durability is None else 'durability'} needs a fleet:// URL.")
    if durability is not None:
        if durability not in {known.value for known in Durability}:
            raise context.end(f"Unknown durability {durability}: written or synced")
        output = msgspec.structs.replace(output, durability=Durability(durability))
    if spool is not None:
        try:
            size_bytes = quantities.size_bytes(spool)
        except quantities.BadQuantity:
            size_bytes = 0
        if not 0 < size_bytes <= SPOOL_SIZE_BYTES_MAX:
            raise context.end(f"Wrong value in --spool parameter: {spool}")
        output = msgspec.structs.replace(output, spool_size_bytes=size_bytes)
    return output


def _given_output(context: Context, parsed: Parsed) -> RelayOutput | FleetOutput | str | None:
    """A relay daemon, an absolute path, or None: none, or the daemon's default."""
    path, url = parsed.value("output"), parsed.value("set-url")
    control_url, data_url = parsed.value("ctrl-url"), parsed.value("data-url")
    if sum((path is not None, url is not None, control_url is not None or data_url is not None)) > 1:
        raise context.end(ONE_OUTPUT)
    if (control_url is None) != (data_url is None):
        raise context.end("Both control and data URLs must be specified.")
    if parsed.has("no-output"):
        return None
    if path is not None:
        return os.path.abspath(path)
    if parsed.has("live") and url is None and control_url is None:
        url = LIVE_URL_DEFAULT
    if url is None and control_url is None:
        return None
    from tracefleet_common.codecs.output_url import BadUrl, output_from_url, output_from_urls

    try:
        if control_url is not None and data_url is not None:
            return output_from_urls(control_url, data_url, _numeric_address)
        output = None if url is None else output_from_url(url, _numeric_address)
    except BadUrl as error:
        raise context.end("\nError: ".join((*error.reasons, "Unrecognized URL format."))) from None
    return os.path.normpath(output) if isinstance(output, str) else output


def _numeric_address(host: str, is_ipv6: bool) -> str | None:
    import socket

    try:
        found = socket.getaddrinfo(host, None, socket.AF_INET6 if is_ipv6 else socket.AF_INET, socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return None
    return str(found[0][4][0])
