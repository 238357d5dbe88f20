"""Becoming a Unix daemon: the process that was started waits until its child serves."""

from __future__ import annotations

import contextlib
import os
import signal
import sys

EXIT_FAILURE = 1


class Daemon:
    """The child's side: `ready` ends the waiting of the process that was started."""

    def __init__(self, waiting_parent: int, *, is_console_kept: bool) -> None:
        """`waiting_parent`: the writable end of the pipe that the parent reads."""
        self._waiting_parent = waiting_parent
        self._is_console_kept = is_console_kept

    def ready(self) -> None:
        """Let the parent exit with success, after giving up the console where that was asked for.

        Until then the console is there, so that the reason of a failure is seen.
        """
        if not self._is_console_kept:
            _redirect_console()
        with contextlib.suppress(BrokenPipeError):  # the parent was killed: nobody waits
            os.write(self._waiting_parent, b"\0")
        os.close(self._waiting_parent)


def become_daemon(*, is_console_kept: bool) -> Daemon | int:
    """Go on in a child with a session of its own, in the directory `/`, without inherited descriptors.

    Returns a Daemon in the child. In the parent it returns the exit status for the parent, once the child is
    ready or has failed. Must be called while the process has one thread and no descriptors of its own.
    """
    open_missing_console()
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:  # Python has none where the caller had closed the descriptor
            stream.flush()
    # The caller may wait for the end of a pipe that it did not mean to give away.
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    ready_end, child_end = os.pipe()
    child = os.fork()
    if child != 0:
        os.close(child_end)
        return _wait_for_child(child, ready_end)
    os.close(ready_end)
    os.setsid()
    os.chdir("/")
    return Daemon(child_end, is_console_kept=is_console_kept)


def open_missing_console() -> None:
    """Put /dev/null where the caller closed standard input, output or error.

    Otherwise a file of ours gets that number, and with it what is meant for the console.
    """
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)


def _wait_for_child(child: int, ready_end: int) -> int:
    is_ready = os.read(ready_end, 1) != b""
    os.close(ready_end)
    if is_ready:
        return 0
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status < 0:
        print(f"Error: The daemon was killed while it started: {signal.strsignal(-status)}", file=sys.stderr)
    # A child that ended well without being ready was asked to stop: it does not serve, which is a failure.
    return status if status > 0 else EXIT_FAILURE


def _redirect_console() -> None:
    null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    for descriptor in (0, 1, 2):
        os.dup2(null, descriptor, inheritable=True)
    os.close(null)


class ParentSignal:
    """SIGUSR1 to the process that started us, once we serve (`--sig-parent`)."""

    def __init__(self) -> None:
        self._parent = os.getppid()

    def send(self) -> None:
        """Signal the parent, if it still is our parent: its number may belong to somebody else by now."""
        # 0: the parent is outside our pid namespace, and kill(2) would signal our own group.
        if self._parent != 0 and os.getppid() == self._parent:
            os.kill(self._parent, signal.SIGUSR1)
