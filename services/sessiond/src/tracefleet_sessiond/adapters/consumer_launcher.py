"""Starts the consumer daemon as a process of its own session, tells when it ends, and stops it."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import TYPE_CHECKING

from tracefleet_common.errors import ErrorCode, NotFound, TracefleetError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tracefleet_sessiond.settings import ConsumerSettings

log = logging.getLogger("tracefleet.sessiond.consumer_launcher")

PROGRAM_NAME = "tracefleet-consumerd"
STOP_DEADLINE_S = 5.0  # it writes what is complete in the ring buffers before it ends


class ConsumerProcess:
    """A consumer daemon that we started."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process
        self.pid = process.pid

    @property
    def exit_status(self) -> int | None:
        """None while it runs; a negative number is the signal that killed it."""
        return self._process.returncode

    async def exited(self) -> int:
        """Wait until it ends, and return its exit status. Any number of tasks may wait."""
        return await self._process.wait()

    async def stop(self, deadline_s: float = STOP_DEADLINE_S) -> int:
        """Ask it to end; kill it when it has not by then. Returns its exit status."""
        if self._process.returncode is None:
            self._process.terminate()
            try:
                async with asyncio.timeout(deadline_s):
                    return await self._process.wait()
            except TimeoutError:
                log.error("Consumer daemon does not stop, killed: pid=%d, deadline-s=%g", self.pid, deadline_s)
                self._process.kill()
        return await self._process.wait()


class ConsumerLauncher:
    """Knows how to start the consumer daemon of one bitness."""

    def __init__(self, settings: ConsumerSettings, *, tracing_group: str, is_console_kept: bool) -> None:
        """`is_console_kept`: its messages go where ours go; else it gets no console at all."""
        self._settings = settings
        self._tracing_group = tracing_group
        self._is_console_kept = is_console_kept

    async def start(self) -> ConsumerProcess:
        """Start it. It listens on its sockets a moment later.

        Raises NotFound without a program to start, TracefleetError when it cannot be started.
        """
        command = (find_program(self._settings), *self._arguments())
        output = None if self._is_console_kept else asyncio.subprocess.DEVNULL
        try:
            process = await asyncio.create_subprocess_exec(
                *command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C at our console must not end it before we have
                env=self._environment(),
            )
        except OSError as error:
            raise TracefleetError(
                f"Cannot start {command[0]}: {error.strerror}", ErrorCode.ENABLE_CONSUMER_FAIL
            ) from None
        log.info("Started consumer daemon: bits=%d, pid=%d", self._settings.bits_per_word, process.pid)
        return ConsumerProcess(process)

    def _arguments(self) -> Iterator[str]:
        yield f"--consumerd-cmd-sock={self._settings.command_socket}"
        yield f"--descriptor-sock={self._settings.descriptor_socket}"
        yield f"--health-sock={self._settings.health_socket}"
        yield f"--group={self._tracing_group}"
        # When this daemon is killed, nobody is left to end it: it writes what it has and goes.
        yield "--exit-when-orphaned"
        if self._settings.is_quiet:
            yield "--quiet"
        else:
            yield from ["-v"] * self._settings.verbosity

    def _environment(self) -> dict[str, str]:
        environment = dict(os.environ)
        if self._settings.library_directory is not None:
            paths = (self._settings.library_directory, environment.get("LD_LIBRARY_PATH"))
            environment["LD_LIBRARY_PATH"] = ":".join(path for path in paths if path)
        return environment


def find_program(settings: ConsumerSettings) -> str:
    """Return the path of the program: the one that was set, else one beside this daemon, else one in PATH.

    Raises NotFound.
    """
    if settings.program is not None:
        if os.access(settings.program, os.X_OK):
            return settings.program
        raise NotFound(f"Cannot execute the consumer daemon {settings.program}", ErrorCode.ENABLE_CONSUMER_FAIL)
    for candidate in _candidates(settings):
        if os.access(candidate, os.X_OK):
            return candidate
    raise NotFound(
        f"Cannot find {PROGRAM_NAME} beside this daemon or in PATH: set --consumerd64-path",
        ErrorCode.ENABLE_CONSUMER_FAIL,
    )


def _candidates(settings: ConsumerSettings) -> Iterator[str]:
    yield f"{settings.own_directory}/{PROGRAM_NAME}"
    # The interpreter of a virtual environment lies beside the programs of that environment.
    yield f"{os.path.dirname(sys.executable)}/{PROGRAM_NAME}"
    for directory in os.environ.get("PATH", os.defpath).split(os.pathsep):
        if os.path.isabs(directory):
            yield f"{directory}/{PROGRAM_NAME}"
