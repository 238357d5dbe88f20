"""Signals that ask a daemon to stop in order."""

from __future__ import annotations

import logging
import signal
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio

log = logging.getLogger("tracefleet.signals")

# SIGHUP: the terminal of a daemon in the foreground goes away. To die of it would leave sessions unwritten.
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def hold_stop_signals() -> None:
    """Keep stop signals pending until `stop_requested` can see them. For the start of a daemon."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)


def stop_requested() -> asyncio.Event:
    """Return an event of the running loop that the first stop signal sets, held ones included.

    A signal that was ignored when the process started (nohup) stays ignored.
    """
    import asyncio  # a daemon that refuses to start does not need it

    event = asyncio.Event()
    loop = asyncio.get_running_loop()

    def request(number: signal.Signals) -> None:
        if not event.is_set():
            log.info("Asked to stop: signal=%s", number.name)
        event.set()

    for number in STOP_SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:
            loop.add_signal_handler(number, request, number)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    return event
