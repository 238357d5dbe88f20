"""From the words of a command line to an exit status."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tracefleet_cli import exit_status
from tracefleet_cli.command_table import Command, CommandModule, find, load, names
from tracefleet_cli.context import CommandEnded, Context
from tracefleet_cli.general_options import GENERAL_OPTIONS, settings_from
from tracefleet_cli.terminal import Terminal
from tracefleet_common.errors import TracefleetError
from tracefleet_common.options import (
    MISSING_ARGUMENT,
    UNWANTED_ARGUMENT,
    OptionError,
    Parsed,
    parse,
    render_option_list,
)

if TYPE_CHECKING:
    from tracefleet_cli.general_options import Settings

PROGRAM = "tracefleet"


def run(words: Sequence[str]) -> int:
    """Carry out one command line (without the program's name)."""
    terminal = Terminal()
    if not words:
        from tracefleet_cli.help_text import overview

        terminal.output(overview())
        return exit_status.ERROR
    try:
        "\0".join(words).encode()
    except UnicodeEncodeError:
        terminal.error("The command line is not valid UTF-8")
        return exit_status.ERROR
    try:
        parsed = parse(GENERAL_OPTIONS, words, is_ending_at_operand=True)
    except OptionError as error:
        _print_getopt_error(terminal, error)
        return exit_status.ERROR
    status = _answer_at_once(terminal, parsed)
    if status is not None:
        return status
    if not parsed.operands:
        return exit_status.ERROR
    return _run_command(settings_from(parsed), parsed.operands)


def _answer_at_once(terminal: Terminal, parsed: Parsed) -> int | None:
    """The general options that are commands of their own, in their order; None: there are none."""
    for occurrence in parsed.occurrences:
        if occurrence.long == "version":
            from tracefleet_cli.commands.version import short_version

            terminal.output(short_version())
        elif occurrence.long == "help":
            from tracefleet_cli.help_text import general_page

            terminal.output(general_page())
        elif occurrence.long == "list-options":
            terminal.output(render_option_list(GENERAL_OPTIONS))
        elif occurrence.long == "list-commands":
            terminal.output(names())
        elif occurrence.long == "mi" and not (occurrence.value or "").lower().startswith("xml"):
            terminal.error("MI output format not supported")
            return exit_status.MI_OUTPUT_TYPE
        elif occurrence.long == "mi":
            terminal.error("Machine interface output is not supported yet: use --json")
            return exit_status.UNSUPPORTED
        else:
            continue
        return exit_status.SUCCESS
    return None


def _run_command(settings: Settings, words: Sequence[str]) -> int:
    """`words[0]` is the name of the command."""
    terminal = Terminal(is_quiet=settings.is_quiet, is_json=settings.is_json)
    command = find(words[0])
    if command is None:
        terminal.message(f"{PROGRAM}: {words[0]} is not a {PROGRAM} command. See '{PROGRAM} --help'.")
        return exit_status.UNDEFINED_COMMAND
    if command.module is None:
        return _refuse(terminal, command, words)
    module = load(command.module)
    try:
        parsed = parse(module.OPTIONS, words[1:])
    except OptionError:
        terminal.error(f"Unrecognized argument used with '{command.name}' command")
        return exit_status.UNDEFINED_COMMAND
    if parsed.has("help"):
        from tracefleet_cli.help_text import command_page

        terminal.output(command_page(command, module))
        return exit_status.SUCCESS
    if parsed.has("list-options"):
        terminal.output(render_option_list(module.OPTIONS))
        return exit_status.SUCCESS
    settings = settings._replace(is_json=settings.is_json or parsed.has("json"))
    terminal = Terminal(is_quiet=settings.is_quiet, is_json=settings.is_json)
    return _carry_out(Context(settings, terminal), module, parsed)


def _carry_out(context: Context, module: CommandModule, parsed: Parsed) -> int:
    for occurrence in parsed.occurrences:
        if occurrence.long in module.UNSUPPORTED_OPTIONS:
            context.terminal.error(f"Option --{occurrence.long} is not supported yet")
            return exit_status.UNSUPPORTED
    try:
        return module.run(context, parsed)
    except CommandEnded as end:
        return end.status
    except TracefleetError as error:
        context.terminal.failure(error)
        return exit_status.ERROR


def _refuse(terminal: Terminal, command: Command, words: Sequence[str]) -> int:
    """A command that LTTng has and this program is still to get."""
    if any(word in ("-h", "--help") for word in words[1:]):
        from tracefleet_cli.help_text import unsupported_page

        terminal.output(unsupported_page(command))
        return exit_status.SUCCESS
    terminal.error(f"Command {command.name} is not supported yet")
    return exit_status.UNSUPPORTED


def _print_getopt_error(terminal: Terminal, error: OptionError) -> None:
    """General options are read by getopt_long in `lttng`, which words its complaints in its own way."""
    is_long = error.word.startswith("--")
    name = error.word[2:].partition("=")[0] if is_long else error.word[1:2]
    if error.reason == MISSING_ARGUMENT:
        text = f"option '--{name}' requires an argument" if is_long else f"option requires an argument -- '{name}'"
    elif error.reason == UNWANTED_ARGUMENT:
        text = f"option '--{name}' doesn't allow an argument"
    else:
        text = f"unrecognized option '{error.word}'" if is_long else f"invalid option -- '{name}'"
    terminal.complaint(f"{PROGRAM}: {text}")
