"""Instrumented programs of tests/apps, led by commands on their standard input."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from deadlines import DEADLINE_S, wait_until
from world import REPOSITORY, World, is_stopped

SOURCES = REPOSITORY / "tests" / "apps"
BUILD_DIRECTORY = REPOSITORY / "build" / "test-apps"
FORK_LIBRARY = "liblttng-ust-fork.so"
# A program that registers waits this long for its daemon: with the default of 3 s a loaded machine would let
# it emit before it is traced, and the test would count too few.
REGISTRATION_TIMEOUT_MS = 30_000


def build_programs() -> Path:
    """Build tests/apps once, whoever comes first; returns the directory of the programs."""
    make = ["make", "-C", str(SOURCES), f"BUILD_DIR={BUILD_DIRECTORY}"]
    with contextlib.ExitStack() as held:
        try:
            BUILD_DIRECTORY.mkdir(parents=True, exist_ok=True)
            lock = held.enter_context((BUILD_DIRECTORY / ".lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        except PermissionError:  # in a checkout of somebody else, the programs must be there already
            make.append("--question")
        made = subprocess.run(make, capture_output=True, text=True)
    assert made.returncode == 0, made.stdout + made.stderr
    return BUILD_DIRECTORY


class Program:
    """A running test program. Every command waits for the program's reply, with a deadline."""

    def __init__(
        self,
        world: World,
        name: str = "emit",
        *,
        uid: int | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        environment = {"LTTNG_UST_REGISTER_TIMEOUT": str(REGISTRATION_TIMEOUT_MS)}
        environment.update(env or {})
        self.path = BUILD_DIRECTORY / name
        self._received = b""
        # Given to `env`, so that LD_PRELOAD does not reach the programs that enter the world.
        assignments = [f"{variable}={value}" for variable, value in environment.items()]
        self.process = world.popen(
            ["env", *assignments, self.path], uid=uid, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self.pid = self.process.pid

    def started(self) -> Program:
        """Wait for main: the constructor of liblttng-ust has registered the program by then."""
        reply = self.reply()
        assert reply == f"ready {self.pid}", reply
        return self

    def send(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(command.encode() + b"\n")
        self.process.stdin.flush()

    def reply(self, deadline_s: float = DEADLINE_S) -> str:
        """The next line that the program writes; EOFError when it has ended."""
        assert self.process.stdout is not None
        end = time.monotonic() + deadline_s
        readable = select.poll()  # not select(): a test may hold thousands of descriptors
        readable.register(self.process.stdout, select.POLLIN)
        while b"\n" not in self._received:
            if not readable.poll(max(0.0, 1000 * (end - time.monotonic()))):
                raise AssertionError(f"waited {deadline_s} s for a reply of {self.path.name} {self.pid}")
            chunk = os.read(self.process.stdout.fileno(), 4096)
            if not chunk:
                raise EOFError(f"{self.path.name} {self.pid} has ended")
            self._received += chunk
        line, _, self._received = self._received.partition(b"\n")
        return line.decode()

    def ask(self, command: str, deadline_s: float = DEADLINE_S) -> int:
        """Send a command, wait until it is done, return the number in the reply."""
        self.send(command)
        reply = self.reply(deadline_s)
        assert reply.startswith("done "), f"{command!r} was answered {reply!r}"
        return int(reply.removeprefix("done "))

    def emit(self, count: int) -> int:
        """Emit `count` numbered event records; how many were emitted."""
        return self.ask(f"emit {count}")

    def end(self, command: str = "exit") -> int:
        """Send a command that ends the program; its exit status (negative: the signal)."""
        self.send(command)
        return self.process.wait(DEADLINE_S)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def pause(self) -> None:
        self.process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(self.pid), "the program to stand still")

    def resume(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
