"""Limits of the process that a daemon raises for itself."""

from __future__ import annotations

import logging
import os
import resource

log = logging.getLogger("tracefleet.limits")

# What lttng-sessiond asks for: two sockets a program, and two descriptors a CPU for every channel.
OPEN_FILE_COUNT_WANTED = 65_535


def raise_open_file_limit(wanted: int = OPEN_FILE_COUNT_WANTED, *, is_hard_limit_kept: bool = False) -> int:
    """Raise the number of files that this process can have open, as far as it may. Returns that number.

    Never lowers it. Warns when root cannot have as many as it wants; a user seldom can. `is_hard_limit_kept`: also root
    stays within what the administrator set.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= wanted:  # Linux knows no infinite number of open files
        return soft
    if hard < wanted and not is_hard_limit_kept:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, wanted))
        except (OSError, ValueError):
            level = logging.WARNING if os.geteuid() == 0 else logging.INFO
            log.log(level, "Cannot raise the open file limit: limit=%d, wanted=%d", hard, wanted)
        else:
            return wanted
    reachable = min(hard, wanted)
    if reachable > soft:
        resource.setrlimit(resource.RLIMIT_NOFILE, (reachable, hard))
    return reachable
