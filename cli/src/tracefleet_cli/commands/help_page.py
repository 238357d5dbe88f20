"""help: the manual page of a command."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import command_table, exit_status, help_text
from tracefleet_cli.general_options import HELP, LIST_OPTIONS
from tracefleet_common.options import Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (HELP, LIST_OPTIONS)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = "[COMMAND]"
DESCRIPTION = "Shows the help of COMMAND, or of tracefleet itself."


def run(context: Context, parsed: Parsed) -> int:
    """Show the page."""
    (name,) = context.at_most_operands(parsed, 1)
    if name is None:
        context.terminal.output(help_text.general_page())
        return exit_status.SUCCESS
    command = command_table.find(name)
    if command is None:
        raise context.end(f'Unknown command "{name}"')
    if command.module is None:
        context.terminal.output(help_text.unsupported_page(command))
    else:
        context.terminal.output(help_text.command_page(command, command_table.load(command.module)))
    return exit_status.SUCCESS
