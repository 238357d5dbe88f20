"""Help in the layout of manual pages, made from the same tables that the options are read with."""

from __future__ import annotations

import textwrap

from tracefleet_cli.command_table import COMMANDS, GROUPS, Command, CommandModule
from tracefleet_cli.general_options import GENERAL_OPTIONS
from tracefleet_common.options import render_help_section

WIDTH = 80
USAGE = """\
Usage: tracefleet [--group=GROUP] [--json] [--no-sessiond | --sessiond-path=PATH]
                  [--quiet | -v | -vv | -vvv] COMMAND [COMMAND OPTIONS]
"""
EXIT_STATUS = """\
    0   Success.
    1   Command error.
    2   Undefined command, or unknown option.
    3   Fatal error.
    4   Command warning: something could not be done.
    5   Not supported (yet).

    Several commands exit with the number of the error that the session daemon
    reports, as those of lttng do.
"""


def overview() -> str:
    """What an empty command line shows."""
    lines = [USAGE, "Available commands:", ""]
    for group in GROUPS:
        lines.append(f"{group}:")
        lines += [
            f"  {command.name:<18}{command.summary}{_mark(command)}"
            for command in sorted(COMMANDS)
            if command.group == group
        ]
        lines.append("")
    lines += [
        "* Not supported yet.",
        "",
        "Run `tracefleet help COMMAND` or `tracefleet COMMAND --help` to get help with",
        "command COMMAND.",
        "",
    ]
    return "\n".join(lines)


def general_page() -> str:
    """tracefleet --help."""
    commands = "".join(f"    {command.name:<18}{command.summary}{_mark(command)}\n" for command in sorted(COMMANDS))
    return "\n".join(
        (
            _section("NAME", "tracefleet - Control recording sessions"),
            "SYNOPSIS\n" + textwrap.indent(USAGE.removeprefix("Usage: "), "    ").replace(" " * 22, " " * 15),
            _section(
                "DESCRIPTION",
                "Controls the session daemon that serves you: root uses the daemon of the machine, a member of "
                "the tracing group the same or else its own, everybody else their own. The environment "
                "variable TRACEFLEET_SESSIOND names another one by its bus address.",
            ),
            render_help_section("OPTIONS", GENERAL_OPTIONS, width=WIDTH),
            f"COMMANDS (* not supported yet)\n{commands}",
            f"EXIT STATUS\n{EXIT_STATUS}",
        )
    )


def command_page(command: Command, module: CommandModule) -> str:
    """tracefleet COMMAND --help."""
    options = [
        option._replace(summary=f"{option.summary} Not supported yet.")
        if option.long in module.UNSUPPORTED_OPTIONS and "not supported yet" not in option.summary
        else option
        for option in module.OPTIONS
    ]
    return "\n".join(
        (
            _section("NAME", f"tracefleet-{command.name} - {command.summary}"),
            _section("SYNOPSIS", f"tracefleet [GENERAL OPTIONS] {command.name} [OPTIONS] {module.OPERANDS}"),
            _section("DESCRIPTION", module.DESCRIPTION),
            render_help_section("OPTIONS", options, width=WIDTH),
            f"EXIT STATUS\n{EXIT_STATUS}",
        )
    )


def unsupported_page(command: Command) -> str:
    """For a command that is still to come."""
    return "\n".join(
        (
            _section("NAME", f"tracefleet-{command.name} - {command.summary}"),
            _section("DESCRIPTION", "This command of LTTng is not supported yet."),
        )
    )


def _mark(command: Command) -> str:
    return " *" if command.module is None else ""


def _section(title: str, text: str) -> str:
    paragraphs = [
        textwrap.fill(paragraph, WIDTH, initial_indent=" " * 4, subsequent_indent=" " * 4)
        for paragraph in text.rstrip().split("\n\n")
    ]
    return f"{title}\n" + "\n\n".join(paragraphs) + "\n"
