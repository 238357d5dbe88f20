"""The options that choose a tracing domain."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracefleet_cli import exit_status
from tracefleet_common.options import Option, Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

KERNEL = Option("kernel", "k", None, "Linux kernel domain (not supported yet).")
USER_SPACE = Option("userspace", "u", None, "User space domain.")
JUL = Option("jul", "j", None, "java.util.logging domain (not supported yet).")
LOG4J = Option("log4j", "l", None, "Apache log4j domain (not supported yet).")
PYTHON = Option("python", "p", None, "Python logging domain (not supported yet).")
TRACER_DOMAINS = (KERNEL, USER_SPACE)
AGENT_DOMAINS = (JUL, LOG4J, PYTHON)
UNSUPPORTED_DOMAINS = frozenset({"kernel", "jul", "log4j", "python"})


def require_user_space(context: Context, parsed: Parsed, choices: tuple[Option, ...]) -> None:
    """Exactly one domain must be chosen, and it must be user space. Raises CommandEnded."""
    chosen = [option.long for option in choices if parsed.has(option.long)]
    if not chosen:
        words = "/".join(f"--{option.long}" for option in choices)
        raise context.end(f"Please specify a domain ({words}).")
    if len(chosen) > 1:
        raise context.end("Only one domain must be specified.")
    if chosen[0] in UNSUPPORTED_DOMAINS:
        raise context.end(f"Domain --{chosen[0]} is not supported yet", exit_status.UNSUPPORTED)
