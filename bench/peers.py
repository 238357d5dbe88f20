"""The tracers that are compared: how each daemon is started, and which command drives it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from bench.processes import descendants, listening_ports

ROOT = Path(__file__).resolve().parent.parent
BUILD = ROOT / "build" / "bench"
LOAD = str(BUILD / "load")
LAUNCH = str(BUILD / "launch")
DEADLINE_S = 30.0  # for any one command or program: past it the measurement is given up


@dataclass(frozen=True)
class Peer:
    """One tracer: its command and its daemons, with the arguments that every use has."""

    name: str
    command: tuple[str, ...]
    daemon: tuple[str, ...]
    relay_daemon: tuple[str, ...]
    relay_url: str = "net://localhost"


_LTTNG = Peer("lttng", ("/usr/bin/lttng",), ("/usr/bin/lttng-sessiond", "--no-kernel"), ("/usr/bin/lttng-relayd",))
_TRACEFLEET = Peer(
    "tracefleet",
    (str(ROOT / ".venv/bin/tracefleet"),),
    (str(ROOT / ".venv/bin/tracefleet-sessiond"), "--no-kernel"),
    (str(ROOT / ".venv/bin/tracefleet-relayd"),),
)
PEERS = {
    "lttng": _LTTNG,
    "lttng-tracefleet": replace(_LTTNG, name="lttng-tracefleet", relay_daemon=_TRACEFLEET.relay_daemon),
    "tracefleet": _TRACEFLEET,
    "fleet": replace(_TRACEFLEET, name="fleet", relay_url="fleet://localhost"),
}
RELAY_PORTS = (5342, 5343, 5344)  # control, data, live
FLEET_PORTS = (5340, 5341)


class Tracer:
    """A running session daemon of one peer, and the command that drives it."""

    def __init__(self, peer: Peer, daemon_pid: int) -> None:
        self.peer = peer
        self.daemon_pid = daemon_pid

    def run(self, *arguments: str) -> str:
        """Run one command of the peer and return what it printed; raises CalledProcessError."""
        done = subprocess.run(
            [*self.peer.command, *arguments],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=DEADLINE_S,
        )
        return done.stdout

    def timed(self, *arguments: str) -> float:
        """Run one command and return its wall time in seconds."""
        begin = time.monotonic()
        self.run(*arguments)
        return time.monotonic() - begin

    def record_the_load(self, *output: str, session: str = "bench") -> None:
        """Make a session that records the events of load programs, not started yet. `output`: options of `create`."""
        self.run("create", session, *output)
        self.run("enable-event", "--userspace", "bench_load:*")

    def daemons(self) -> list[int]:
        """Return the process ids of the session daemon and everything it started."""
        return [self.daemon_pid, *descendants(self.daemon_pid)]


@contextmanager
def running(peer: Peer) -> Iterator[Tracer]:
    """Start the peer's session daemon, and end it afterwards. Only in namespaces of our own: see worker."""
    with _started(peer.daemon, "sessiond") as daemon:
        tracer = Tracer(peer, daemon.pid)
        _wait_until_it_answers(tracer, daemon)
        yield tracer


@contextmanager
def running_relay(peer: Peer, output: Path) -> Iterator[list[int]]:
    """Start the peer's relay daemon on the usual ports, and end it afterwards; its process ids."""
    with _started((*peer.relay_daemon, f"--output={output}"), "relayd") as daemon:
        deadline = time.monotonic() + DEADLINE_S
        ports = {*RELAY_PORTS, *(FLEET_PORTS if peer.relay_url.startswith("fleet:") else ())}
        while not ports <= listening_ports():
            if daemon.poll() is not None:
                raise RuntimeError(f"The relay daemon of {peer.name} ended: status={daemon.returncode}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"The relay daemon of {peer.name} does not listen")
            time.sleep(0.05)
        yield [daemon.pid, *descendants(daemon.pid)]


@contextmanager
def _started(command: Sequence[str], log_name: str) -> Iterator[subprocess.Popen[bytes]]:
    with Path(os.environ["BENCH_LOGS"], f"{log_name}.log").open("ab") as log:
        daemon = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    try:
        yield daemon
    finally:
        daemon.terminate()
        try:
            daemon.wait(timeout=DEADLINE_S)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


def _wait_until_it_answers(tracer: Tracer, daemon: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        answer = subprocess.run(
            [*tracer.peer.command, "--no-sessiond", "list"],
            capture_output=True,
            timeout=DEADLINE_S,
            check=False,
        )
        if answer.returncode == 0:
            return
        if daemon.poll() is not None:
            raise RuntimeError(f"The session daemon of {tracer.peer.name} ended: status={daemon.returncode}")
        if time.monotonic() > deadline:
            raise TimeoutError(f"The session daemon of {tracer.peer.name} does not answer")
        time.sleep(0.05)


def load_environment(environment: dict[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a load program, which must not begin before it is traced."""
    return {**os.environ, **(environment or {}), "LTTNG_UST_REGISTER_TIMEOUT": "-1"}


def load_arguments(
    threads: int = 1, seconds: float = 0, rate: float = 0, payload: int = 0, **more: int
) -> Sequence[str]:
    """Return the command line of a load program; `more`: other options that take a number."""
    arguments = [LOAD, f"--threads={threads}", f"--rate={rate}", f"--payload={payload}"]
    if seconds:
        arguments.append(f"--seconds={seconds}")
    arguments += [f"--{name}={value}" for name, value in more.items()]
    return arguments
