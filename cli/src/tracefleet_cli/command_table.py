"""Every command, in the order of `--list-commands`; those without a module are still to come."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol, cast

if TYPE_CHECKING:
    from tracefleet_cli.context import Context
    from tracefleet_common.options import Option, Parsed


class CommandModule(Protocol):
    """What the module of a command contains."""

    OPTIONS: tuple[Option, ...]
    UNSUPPORTED_OPTIONS: frozenset[str]  # long names; known, and refused
    OPERANDS: str  # for the help
    DESCRIPTION: str

    @staticmethod
    def run(context: Context, parsed: Parsed) -> int:
        """Carry the command out; the exit status."""


class Command(NamedTuple):
    """One command: `module` is its file in `commands/`."""

    name: str
    group: str
    summary: str
    module: str | None = None


SESSIONS = "Recording sessions"
CHANNELS = "Channels"
EVENT_RULES = "Recording event rules"
STATUS = "Status"
CONTROL = "Control"
ROTATION = "Recording session rotation"
TRACKING = "Resource tracking"
TRIGGERS = "Triggers"
MISCELLANEOUS = "Miscellaneous"
DEPRECATED = "Deprecated"  # known, but not shown among the others
GROUPS = (SESSIONS, CHANNELS, EVENT_RULES, STATUS, CONTROL, ROTATION, TRACKING, TRIGGERS, MISCELLANEOUS)

COMMANDS = (
    Command("add-context", CHANNELS, "Add context fields to be recorded"),
    Command("add-trigger", TRIGGERS, "Add a trigger"),
    Command("create", SESSIONS, "Create a recording session", "create"),
    Command("clear", SESSIONS, "Clear a recording session"),
    Command("destroy", SESSIONS, "Destroy recording sessions", "destroy"),
    Command("disable-channel", CHANNELS, "Disable channels", "disable_channel"),
    Command("disable-event", EVENT_RULES, "Disable recording event rules", "disable_event"),
    Command("enable-channel", CHANNELS, "Create or enable a channel", "enable_channel"),
    Command("enable-event", EVENT_RULES, "Create or enable recording event rules", "enable_event"),
    Command("health", STATUS, "Check that daemons of this host run and answer", "health"),
    Command("help", MISCELLANEOUS, "Show the help of a command", "help_page"),
    Command("list", STATUS, "List recording sessions and instrumentation points", "list_objects"),
    Command("list-relay", STATUS, "List what relay daemons of this host receive", "list_relay"),
    Command("list-triggers", TRIGGERS, "List triggers"),
    Command("load", SESSIONS, "Load recording session configurations"),
    Command("metadata", DEPRECATED, "Regenerate the metadata of a recording session"),
    Command("regenerate", SESSIONS, "Regenerate specific recording session data"),
    Command("remove-trigger", TRIGGERS, "Remove a trigger"),
    Command("rotate", ROTATION, "Archive the current trace chunk of a recording session"),
    Command("enable-rotation", ROTATION, "Set a recording session rotation schedule"),
    Command("disable-rotation", ROTATION, "Unset a recording session rotation schedule"),
    Command("save", SESSIONS, "Save recording session configurations"),
    Command("set-session", SESSIONS, "Set the current recording session", "set_session"),
    Command("snapshot", CONTROL, "Take a recording session snapshot"),
    Command("start", CONTROL, "Start a recording session", "start"),
    Command("status", STATUS, "Show the status of the current recording session", "status"),
    Command("stop", CONTROL, "Stop a recording session", "stop"),
    Command("track", TRACKING, "Allow specific processes to record events"),
    Command("untrack", TRACKING, "Disallow specific processes to record events"),
    Command("version", MISCELLANEOUS, "Show version information", "version"),
    Command("view", MISCELLANEOUS, "Launch a trace reader", "view"),
    Command("verify", MISCELLANEOUS, "Check that the books of a trace balance", "verify"),
    Command("completion", MISCELLANEOUS, "Print the completion script of a shell", "completion"),
)


def find(name: str) -> Command | None:
    """The command of that name; names are never abbreviated."""
    return next((command for command in COMMANDS if command.name == name), None)


def load(module: str) -> CommandModule:
    """Import the module of a command."""
    from importlib import import_module

    return cast(CommandModule, import_module(f"tracefleet_cli.commands.{module}"))


def names(commands: Sequence[Command] = COMMANDS) -> str:
    """One name a line."""
    return "".join(f"{command.name}\n" for command in commands)
