"""Logging set-up: one line per record, a sentence and then its fields, on standard error."""

from __future__ import annotations

import logging
import sys

# Verbosity of a daemon, by the number of --verbose given.
LEVEL_BY_VERBOSITY = (logging.WARNING, logging.INFO, logging.DEBUG, logging.DEBUG)


def configure(verbosity: int, *, is_quiet: bool = False) -> None:
    """Send the records of all `tracefleet.*` loggers to standard error; `is_quiet`: none, not even errors."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s - %(asctime)s [%(name)s]: %(message)s"))
    logger = logging.getLogger("tracefleet")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.CRITICAL + 1 if is_quiet else LEVEL_BY_VERBOSITY[min(verbosity, 3)])
