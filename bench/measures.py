"""The measurements. Each takes a tracer that has just started and returns named figures.

Units are in the names of the figures; a figure that needs the load program to be undisturbed says so.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench import slow_disk, trace_files
from bench.peers import DEADLINE_S, LAUNCH, LOAD, Tracer, load_arguments, load_environment
from bench.processes import cpu_s, machine_cpu_s, own_memory_bytes

Figures = dict[str, float]


def recording(
    tracer: Tracer,
    base: Path,
    *,
    rate: float,
    seconds: float = 0,
    events: int = 0,
    payload: int = 0,
    threads: int = 1,
    disk_bytes_per_s: int = 0,
    is_counted: bool = True,
) -> Figures:
    """Record one run of the load program: CPU of the daemons and of the machine, losses, time of `stop`.

    `rate`: events per second, 0: as fast as it can. `disk_bytes_per_s`: write to a disk that is no faster.
    `is_counted`: also let babeltrace2 count the event records, to see that nothing is unaccounted for.
    """
    with _disk(base, disk_bytes_per_s) as output:
        tracer.record_the_load(f"--output={output}")
        tracer.run("start")
        os.sync()
        daemons = tracer.daemons()
        machine_begin, daemons_begin = machine_cpu_s(), cpu_s(daemons)
        more = {"events": events} if events else {}
        program = subprocess.run(
            load_arguments(threads, seconds, rate, payload, **more),
            env=load_environment(),
            stdout=subprocess.PIPE,
            timeout=DEADLINE_S,
            check=True,
        )
        stop_s = tracer.timed("stop")
        daemons_cpu_s = cpu_s(daemons) - daemons_begin
        subprocess.run(["sync", "--file-system", str(output)], check=True)  # what is still to be written costs too
        machine_s = machine_cpu_s() - machine_begin
        emitted = json.loads(program.stdout)
        totals = trace_files.figures(output)
        recorded = trace_files.event_count(output) if is_counted else emitted["emitted"] - totals.discarded_count
        tracer.run("destroy")
    gigabytes = totals.content_bytes / 1e9
    return {
        "emitted": emitted["emitted"],
        "lost": totals.discarded_count,
        "lost_percent": 100 * totals.discarded_count / emitted["emitted"],
        "unaccounted": emitted["emitted"] - recorded - totals.discarded_count,
        "recorded_gb": gigabytes,
        "daemons_cpu_s_per_gb": daemons_cpu_s / gigabytes,
        "machine_cpu_s_per_gb": (machine_s - emitted["cpu_s"]) / gigabytes,
        "program_cpu_ns_per_event": 1e9 * emitted["cpu_s"] / emitted["emitted"],
        "stop_s": stop_s,
    }


@contextmanager
def _disk(base: Path, disk_bytes_per_s: int) -> Iterator[Path]:
    if disk_bytes_per_s:
        with slow_disk.mounted(base / "slow", disk_bytes_per_s) as mount_point:
            yield mount_point / "trace"
    else:
        yield base / "trace"


def start_latency(tracer: Tracer, base: Path) -> Figures:
    """Time from calling `start` to the first event record of a program that runs and emits every 50 µs."""
    output = base / "trace"
    tracer.record_the_load(f"--output={output}")
    arguments = [*load_arguments(rate=20_000), "--until-end-of-input"]
    with subprocess.Popen(arguments, env=load_environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL):
        _wait_until_listed(tracer)
        begin_ns = time.monotonic_ns()
        command_s = tracer.timed("start")
        tracer.run("stop")
        first_ns = trace_files.first_event_ns(output)
    return {"first_event_s": (first_ns - begin_ns) / 1e9, "start_command_s": command_s}


def _wait_until_listed(tracer: Tracer) -> None:
    deadline = time.monotonic() + 10
    while "bench_load:small" not in tracer.run("list", "--userspace"):
        if time.monotonic() > deadline:
            raise TimeoutError("The load program does not register")


def registration(tracer: Tracer, base: Path, *, count: int, is_active: bool) -> Figures:
    """Wall time until `count` programs that start together are past their registration; memory with them.

    `is_active`: a session records all their events, so that each is set up for it before its main().
    """
    if is_active:
        tracer.record_the_load(f"--output={base / 'trace'}")
        tracer.run("start")
    with subprocess.Popen(
        [LAUNCH, str(count), LOAD], env=load_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as launch:
        assert launch.stdout is not None, "asked for above"
        ready = json.loads(launch.stdout.readline())
        memory_bytes = own_memory_bytes(tracer.daemons())
    return {"registered_s": ready["ready_s"], "memory_mb": memory_bytes / 1e6}


def commands(tracer: Tracer, base: Path, *, count: int) -> Figures:
    """Median wall time of whole commands, each in turn with a Python that does nothing."""
    tracer.run("create", "bench", f"--output={base / 'trace'}")
    tracer.run("enable-event", "--userspace", "--all")
    lines: dict[str, tuple[str, ...]] = {
        "python_pass_s": ("/usr/bin/python3", "-c", "pass"),
        "version_s": (*tracer.peer.command, "version"),
        "list_s": (*tracer.peer.command, "list"),
        "status_s": (*tracer.peer.command, "status"),
        "enable_event_s": (*tracer.peer.command, "enable-event", "--userspace", "another:event"),
    }
    times: dict[str, list[float]] = {name: [] for name in lines}
    for number in range(count):
        for name, line in lines.items():
            arguments = [*line[:-1], f"another:event{number}"] if name == "enable_event_s" else list(line)
            begin = time.monotonic()
            subprocess.run(arguments, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, check=True)
            times[name].append(time.monotonic() - begin)
    figures = {name: statistics.median(values) for name, values in times.items()}
    figures["list_per_python_pass"] = figures["list_s"] / figures["python_pass_s"]
    return figures


def requests(tracer: Tracer, base: Path, *, count: int) -> Figures:
    """Median time of requests to our session daemon over an open connection: its own share of a command.

    A program runs that is recorded from `start` to `stop`, and emits little.
    """
    from tracefleet_common.client import Client
    from tracefleet_common.model.event_rules import Domain, EventRule

    times: dict[str, list[float]] = {}

    def timed(figure: str, ask: Callable[..., object], **arguments: object) -> None:
        begin = time.monotonic()
        ask(**arguments)
        times.setdefault(figure, []).append(time.monotonic() - begin)

    rule = EventRule(pattern="bench_load:*")
    arguments = [*load_arguments(rate=1_000), "--until-end-of-input"]
    with (
        subprocess.Popen(arguments, env=load_environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL),
        Client() as client,
    ):
        _wait_until_listed(tracer)
        for number in range(count):
            session = f"bench{number}"
            timed("create_s", client.create_session, name=session, output_path=str(base / session))
            timed("enable_event_s", client.enable_event, session=session, domain=Domain.USER_SPACE, rule=rule)
            timed("list_s", client.list_sessions)
            timed("describe_s", client.describe_session, session=session)
            timed("start_s", client.start_session, session=session)
            timed("stop_s", client.stop_session, session=session)
            timed("destroy_s", client.destroy_session, session=session)
    return {name: statistics.median(values) for name, values in times.items()}


MEASURES: dict[str, Callable[..., Figures]] = {
    function.__name__: function for function in (recording, start_latency, registration, commands, requests)
}
