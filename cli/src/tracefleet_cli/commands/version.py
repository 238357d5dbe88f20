"""version: what this is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tracefleet_cli import exit_status
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_common.options import Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (HELP, LIST_OPTIONS, JSON)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = ""
DESCRIPTION = "Shows the version of this command; no session daemon is needed."

VERSION = "0.1.0"
LTTNG_VERSION = "2.13"


class VersionInfo(msgspec.Struct, frozen=True, kw_only=True, tag="version"):
    """`lttng_version`: of LTTng-tools, whose options, messages and exit statuses this command has."""

    version: str
    lttng_version: str


def short_version() -> str:
    """For --version."""
    return f"tracefleet (LTTng {LTTNG_VERSION} compatible trace control) {VERSION}\n"


def run(context: Context, parsed: Parsed) -> int:
    """Show the version."""
    context.at_most_operands(parsed, 0)
    context.terminal.message(
        f"tracefleet version {VERSION}\n\n"
        f"Options, messages and exit statuses are those of LTTng-tools {LTTNG_VERSION}.\n\n"
        "tracefleet is free software under the GNU General Public License, version 2"
    )
    context.terminal.value(VersionInfo(version=VERSION, lttng_version=LTTNG_VERSION))
    return exit_status.SUCCESS
