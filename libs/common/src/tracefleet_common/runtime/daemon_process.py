"""What the daemons have in common as processes: their exit statuses, and how they say what went wrong."""

from __future__ import annotations

import logging
import os
import sys
from typing import TYPE_CHECKING

from tracefleet_common.errors import TracefleetError

if TYPE_CHECKING:
    from collections.abc import Iterator

EXIT_SUCCESS = 0
EXIT_ERROR = 1  # the world's fault: an option, a file, another daemon
EXIT_FATAL = 3  # ours


def report_failure(error: Exception, log: logging.Logger, *, is_quiet: bool) -> int:
    """Say why the daemon ends, in a sentence when the fault is the world's. Returns the exit status."""
    causes = list(_causes(error))
    if not all(isinstance(cause, TracefleetError) for cause in causes):
        log.critical("The daemon failed", exc_info=error)
        return EXIT_FATAL
    if not is_quiet:
        for cause in causes:
            print("\n".join((f"Error: {cause}", *getattr(cause, "__notes__", ()))), file=sys.stderr)
    return EXIT_ERROR


def _causes(error: Exception) -> Iterator[Exception]:
    """The errors that a group of tasks ended with, or the one error."""
    if isinstance(error, ExceptionGroup):
        for part in error.exceptions:
            yield from _causes(part)
    else:
        yield error


class AbortOnError(logging.Handler):
    """With LTTNG_ABORT_ON_ERROR=1 the process leaves a core dump of the moment of its first error."""

    def emit(self, record: logging.LogRecord) -> None:
        """The handler before this one has written the record."""
        del record
        os.abort()
