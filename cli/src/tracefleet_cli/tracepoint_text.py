"""Instrumentation points of running programs as `lttng list --userspace` shows them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import log_levels

if TYPE_CHECKING:
    from tracefleet_common.messages.sessiond_control import ProgramInfo, TracepointList

NAME_SIZE_BYTES_MAX = 4096


def tracepoints_text(found: TracepointList) -> str:
    """Programs and their tracepoints, with their fields if those were asked for."""
    lines = ["UST events:", "-------------"]
    if not found.programs:
        lines.append("None")
    for program in found.programs:
        lines += _program_lines(program)
    lines.append("")
    return "\n".join(lines)


def _program_lines(program: ProgramInfo) -> list[str]:
    lines = ["", f"PID: {program.pid} - Name: {command_name(program.pid) or program.name}"]
    for tracepoint in program.tracepoints:
        level = f"{log_levels.name_of(tracepoint.log_level)} ({tracepoint.log_level})"
        lines.append(f"      {tracepoint.name} (loglevel: {level}) (type: tracepoint)")
        for field in tracepoint.fields or ():
            suffix = "" if field.is_recorded else " [no write]"
            lines.append(f"        field: {field.name} ({field.kind}){suffix}")
    if program.error is not None:
        lines.append(f"      Incomplete: {program.error}")
    return lines


def command_name(pid: int) -> str | None:
    """The first word of the command line of a process, as `lttng` shows it; None: it is not visible from here."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            words = file.read(NAME_SIZE_BYTES_MAX)
    except OSError:
        return None
    return words.partition(b"\0")[0].decode("utf-8", "surrogateescape") or None
