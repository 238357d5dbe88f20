"""A session daemon, its command line and instrumented programs in a world of their own.

Two kinds behind one interface: `OURS`, and `GENUINE` (lttng-tools as the distribution ships it). A scenario
written against `Fleet` runs on both, so that what they record can be compared.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deadlines import DEADLINE_S, wait_until
from programs import Program
from traces import Reading, read_trace, warnings_of_babeltrace2
from world import VENV_BIN, Result, World, is_alive, is_stopped

WAIT_PAGE = "lttng-ust-wait-8"
APPLICATION_SOCKET = "lttng-ust-sock-8"


@dataclass(frozen=True)
class Kind:
    """One implementation: its programs, and what its consumer daemon is called in a process list."""

    name: str
    command: Path
    session_daemon: Path
    consumer_daemon: str


OURS = Kind("ours", VENV_BIN / "tracefleet", VENV_BIN / "tracefleet-sessiond", "tracefleet-consumerd")
GENUINE = Kind("genuine", Path("/usr/bin/lttng"), Path("/usr/bin/lttng-sessiond"), "lttng-consumerd")


class Daemon:
    """A session daemon that runs in the foreground."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.pid = process.pid
        self.log = log

    def stop(self, deadline_s: float = DEADLINE_S) -> int:
        """Orderly stop (SIGTERM); the exit status. subprocess.TimeoutExpired when it does not end."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(deadline_s)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)

    def is_running(self) -> bool:
        return self.process.poll() is None


class Fleet:
    """One kind of daemons in one world."""

    def __init__(self, kind: Kind = OURS, *, is_root: bool = True, shm_size: str | None = None) -> None:
        self.kind = kind
        self.world = World(is_root) if shm_size is None else World(is_root, shm_size)
        self.daemon: Daemon | None = None
        self._log_count = 0
        self._programs: list[Program] = []

    # ---- daemons ----

    def start_daemon(
        self,
        *options: str,
        env: Mapping[str, str] | None = None,
        uid: int | None = None,
        is_awaited: bool = True,
    ) -> Daemon:
        """Start the session daemon; by default wait until programs and clients can reach it."""
        if self.kind is GENUINE and self.world.is_root and not is_real_root():
            options = ("--group=root", *options)  # the group "tracing" does not exist in a user namespace
        log = self._new_log("sessiond")
        with log.open("wb") as stream:
            process = self.world.popen(
                [self.kind.session_daemon, "--no-kernel", *options],
                uid=uid,
                env=env,
                stdout=stream.fileno(),
                stderr=stream.fileno(),
            )
        daemon = Daemon(process, log)
        if uid is None or uid == self.world.uid:
            self.daemon = daemon
        if is_awaited:
            wait_until(
                lambda: process.poll() is not None or self._is_ready(daemon, self._uid(uid)),
                f"{self.kind.session_daemon.name} to be ready",
            )
            assert process.poll() is None, f"the session daemon ended at once:\n{log.read_text()}"
        return daemon

    def _uid(self, uid: int | None) -> int:
        return self.world.uid if uid is None else uid

    def _is_ready(self, daemon: Daemon, uid: int) -> bool:
        return self.daemon_pid(uid) == daemon.pid and self.wait_page_word(uid) == 1

    def daemon_pid(self, uid: int | None = None) -> int | None:
        """What the pid file says, None when there is no (whole) pid file."""
        with contextlib.suppress(OSError, ValueError):
            run_directory = self.world.run_directory_of(self._uid(uid))
            return int((run_directory / "lttng-sessiond.pid").read_text())
        return None

    def wait_page_word(self, uid: int | None = None) -> int | None:
        """The word on which programs wait for a daemon: 1 when there is one; None without a page."""
        uid = self._uid(uid)
        page = self.world.path("/dev/shm") / (WAIT_PAGE if uid == 0 else f"{WAIT_PAGE}-{uid}")
        with contextlib.suppress(OSError):
            return int.from_bytes(page.read_bytes()[:4], "little", signed=True)
        return None

    @property
    def application_socket(self) -> Path:
        """The socket on which programs register, as seen from outside the world."""
        return self.world.run_directory / APPLICATION_SOCKET

    def _new_log(self, name: str) -> Path:
        self._log_count += 1
        return self.world.directory / f"{self._log_count:02d}-{name}.log"

    def logs(self) -> str:
        """What the daemons wrote, for the report of a failed test."""
        parts = []
        for log in sorted(self.world.directory.glob("*.log")):
            text = log.read_text(errors="replace")
            parts.append(f"---- {self.kind.name} {log.name}\n{text[-20_000:]}")
        return "\n".join(parts)

    # ---- the command ----

    def run(
        self,
        *arguments: str | Path,
        is_checked: bool = True,
        uid: int | None = None,
        env: Mapping[str, str] | None = None,
        deadline_s: float = 2 * DEADLINE_S,
    ) -> Result:
        """Run `tracefleet` (or `lttng`) with these arguments; it must succeed unless told otherwise."""
        result = self.world.run([self.kind.command, *arguments], uid=uid, env=env, deadline_s=deadline_s)
        if is_checked:
            assert result.returncode == 0, f"{result}\n{self.logs()}"
        return result

    def json(self, *arguments: str | Path, uid: int | None = None) -> Any:
        """Run `tracefleet --json …`; the value that it prints."""
        assert self.kind is OURS
        result = self.run("--json", *arguments, uid=uid)
        return json.loads(result.stdout)

    def record(
        self,
        *rules: str,
        session: str = "s1",
        channel: tuple[str, ...] = (),
        is_started: bool = True,
        uid: int | None = None,
    ) -> Path:
        """Create a session with one rule per pattern, and start it. Returns its output directory.

        `channel`: options and name for `enable-channel -u`; the rules then go into that channel.
        """
        output = self.world.home_of(self._uid(uid)) / f"trace-{session}"
        self.run("create", session, "--output", output, uid=uid)
        if channel:
            self.run("enable-channel", "-u", "-s", session, *channel, uid=uid)
        for rule in rules:
            into = ("-c", channel[-1]) if channel else ()
            self.run("enable-event", "-u", "-s", session, rule, *into, uid=uid)
        if is_started:
            self.run("start", session, uid=uid)
        return output

    def stop(self, session: str = "s1", uid: int | None = None) -> Result:
        return self.run("stop", session, uid=uid)

    def destroy(self, session: str = "s1", uid: int | None = None) -> Result:
        return self.run("destroy", session, uid=uid)

    def books(self, session: str, channel: str) -> tuple[int, int]:
        """Discarded event records and lost packets of a channel, as `list` shows them."""
        text = self.run("list", session).stdout
        _, found, rest = text.partition(f"- {channel}: [")
        assert found, f"no channel {channel}:\n{text}"
        rest = rest.split("\n- ", 1)[0]

        def count_of(label: str) -> int:
            match = re.search(rf"{label}: +(\d+)", rest)
            # lttng-tools 2.13.9 sometimes shows 2^63 too many.
            return int(match[1]) & ~(1 << 63) if match else 0

        return count_of("Discarded events"), count_of("Lost packets")

    # ---- programs ----

    def program(self, name: str = "emit", *, uid: int | None = None, env: Mapping[str, str] | None = None) -> Program:
        """Start a test program and wait for its main."""
        program = Program(self.world, name, uid=uid, env=env)
        self._programs.append(program)
        return program.started()

    def end_programs(self) -> None:
        """End those that still run."""
        for program in self._programs:
            program.kill()
        self._programs.clear()

    def registered_pids(self) -> set[int]:
        """Pids of the programs that the session daemon knows."""
        result = self.run("list", "-u", is_checked=False)
        return {int(pid) for pid in re.findall(r"PID: (\d+)", result.stdout)}

    def wait_registered(self, *pids: int) -> None:
        wait_until(lambda: set(pids) <= self.registered_pids(), f"programs {pids} to be registered")

    def wait_unregistered(self, *pids: int) -> None:
        wait_until(lambda: not set(pids) & self.registered_pids(), f"programs {pids} to be forgotten")

    # ---- what was recorded ----

    def read(self, output: Path) -> Reading:
        """Read a trace of this world; babeltrace2 must have nothing to complain about."""
        outside = output if output.exists() and not self._is_covered(output) else self.world.path(output)
        warnings = warnings_of_babeltrace2(outside)
        assert not warnings, "\n".join(warnings)
        return read_trace(outside)

    def _is_covered(self, output: Path) -> bool:
        """Whether the world sees another file system there (a mount of its own)."""
        inside = self.world.path(output)
        try:
            return inside.stat().st_dev != output.stat().st_dev
        except OSError:
            return True

    def verify(self, output: Path) -> Result:
        """`tracefleet verify` on a trace; the status is for the caller to judge."""
        return self.world.run([OURS.command, "verify", output])

    # ---- the end ----

    def consumer_pids(self) -> list[int]:
        return [pid for pid in self.world.pids_of(self.kind.consumer_daemon) if is_alive(pid)]

    @contextlib.contextmanager
    def paused_consumer(self) -> Iterator[None]:
        """Nothing is read from the ring buffers meanwhile."""
        pids = wait_until(self.consumer_pids, "a consumer daemon")
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            wait_until(lambda: all(map(is_stopped, pids)), "the consumer daemon to stand still")
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def close(self) -> None:
        for program in self._programs:
            program.resume()
        self.world.close()


def has_genuine() -> bool:
    """Whether lttng-tools is installed, to compare with."""
    return shutil.which("lttng") is not None and shutil.which("lttng-sessiond") is not None


def is_real_root() -> bool:
    return os.geteuid() == 0
