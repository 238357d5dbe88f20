"""The options before the name of the command, and those that every command has."""

from __future__ import annotations

from typing import NamedTuple

from tracefleet_common.client.run_directory import DEFAULT_TRACING_GROUP
from tracefleet_common.options import Option, Parsed

HELP = Option("help", "h", None, "Show this help.")
LIST_OPTIONS = Option("list-options", None, None, "List the available options, one a line.")
RELAY_BUS = Option(
    "bus-sock",
    None,
    "PATH",
    "Bus socket of the relay daemon (its own --bus-sock), instead of those in the run directory.",
    is_repeatable=True,
)
JSON = Option("json", None, None, "Print every reply as one line of JSON (docs/schema), instead of text for people.")

GENERAL_OPTIONS = (
    Option("version", "V", None, "Show the version."),
    HELP,
    Option(
        "group",
        "g",
        "GROUP",
        "Use GROUP as the tracing group, which decides what session daemon serves you. Default: tracing.",
    ),
    Option("verbose", "v", None, "Say more.", is_repeatable=True),
    Option("quiet", "q", None, "Suppress all messages, including warnings and errors."),
    Option("mi", "m", "TYPE", "Machine interface of LTTng: xml (not supported yet; see --json)."),
    Option("no-sessiond", "n", None, "Do not start a session daemon when `create` finds none."),
    Option("sessiond-path", None, "PATH", "Session daemon for `create` to start."),
    Option("relayd-path", None, "PATH", "Relay daemon for `create --live` to start."),
    LIST_OPTIONS,
    Option("list-commands", None, None, "List the available commands, one a line."),
    JSON,
)


class Settings(NamedTuple):
    """What the general options say."""

    tracing_group: str = DEFAULT_TRACING_GROUP
    is_quiet: bool = False
    is_json: bool = False
    is_starting_sessiond: bool = True
    sessiond_path: str | None = None
    relayd_path: str | None = None
    verbosity: int = 0


def settings_from(parsed: Parsed) -> Settings:
    """Quiet wins over verbose."""
    is_quiet = parsed.has("quiet")
    return Settings(
        tracing_group=parsed.value("group") or DEFAULT_TRACING_GROUP,
        is_quiet=is_quiet,
        is_json=parsed.has("json"),
        is_starting_sessiond=not parsed.has("no-sessiond"),
        sessiond_path=parsed.value("sessiond-path"),
        relayd_path=parsed.value("relayd-path"),
        verbosity=0 if is_quiet else parsed.given_count("verbose"),
    )
