"""The measurements with a relay daemon: on loopback, in a network namespace of their own.

Each takes a tracer that has just started, and starts the relay daemon that belongs to it. What the kernel does to carry
bytes over loopback it does mostly in the name of the sender: compare totals.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bench import trace_files
from bench.measures import Figures
from bench.peers import DEADLINE_S, Tracer, load_arguments, load_environment, running_relay
from bench.processes import cpu_s, machine_cpu_s, own_memory_bytes
from bench.relay_producer import Producer


def streaming(
    tracer: Tracer,
    base: Path,
    *,
    rate: float,
    seconds: float = 0,
    events: int = 0,
    payload: int = 0,
    threads: int = 1,
    is_counted: bool = True,
    is_in_memory: bool = False,
) -> Figures:
    """Stream one run of the load program: CPU of the daemons on either side and of the machine, losses, time of `stop`.

    Parameters as of `measures.recording`. `is_in_memory`: the relay daemon writes to a tmpfs.
    """
    more = {"events": events} if events else {}
    load = load_arguments(threads, seconds, rate, payload, **more)
    if is_in_memory:
        _mount_tmpfs(base / "relay")
    with running_relay(tracer.peer, base / "relay") as relay:
        return _stream(tracer, relay, base / "relay", load, is_counted)


def _mount_tmpfs(place: Path) -> None:
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", str(place)], check=True)


def streaming_ladder(
    tracer: Tracer, base: Path, *, rates: Sequence[int], seconds: float, payload: int, threads: int
) -> Figures:
    """Stream at one rate after the other, each in a session of its own: losses, and the highest rate without any.

    The relay daemon writes to a tmpfs, else the disk would decide.
    """
    _mount_tmpfs(base / "relay")
    figures: Figures = {"rate_without_loss": 0.0}
    is_lossless = True
    with running_relay(tracer.peer, base / "relay") as relay:
        for rate in rates:
            step = _stream(tracer, relay, base / "relay", load_arguments(threads, seconds, rate, payload), False)
            figures[f"lost_percent_{rate}"] = step["lost_percent"]
            figures[f"emitted_per_s_{rate}"] = step["emitted"] / seconds
            is_lossless = is_lossless and step["lost"] == 0 and step["emitted"] >= 0.98 * rate * seconds
            if is_lossless:
                figures["rate_without_loss"] = rate
            shutil.rmtree(base / "relay" / os.uname().nodename)
    return figures


def _stream(tracer: Tracer, relay: list[int], output: Path, load: Sequence[str], is_counted: bool) -> Figures:
    tracer.record_the_load(f"--set-url={tracer.peer.relay_url}")
    tracer.run("start")
    os.sync()
    machine_begin, sender_begin, relay_begin = machine_cpu_s(), cpu_s(tracer.daemons()), cpu_s(relay)
    program = subprocess.run(load, env=load_environment(), stdout=subprocess.PIPE, timeout=DEADLINE_S, check=True)
    stop_s = tracer.timed("stop")  # returns when the relay daemon has everything
    # A consumer daemon that was started for the program counts from its birth.
    sender_s, relay_s = cpu_s(tracer.daemons()) - sender_begin, cpu_s(relay) - relay_begin
    subprocess.run(["sync", "--file-system", str(output)], check=True)  # what is still to be written costs too
    machine_s = machine_cpu_s() - machine_begin
    tracer.run("destroy")
    emitted = json.loads(program.stdout)
    totals = trace_files.figures(output)
    if not totals.content_bytes:
        raise RuntimeError("Nothing has arrived")
    recorded = trace_files.event_count(output) if is_counted else emitted["emitted"] - totals.discarded_count
    gigabytes = totals.content_bytes / 1e9
    return {
        "emitted": emitted["emitted"],
        "lost": totals.discarded_count,
        "lost_percent": 100 * totals.discarded_count / emitted["emitted"],
        "unaccounted": emitted["emitted"] - recorded - totals.discarded_count,
        "recorded_gb": gigabytes,
        "sender_cpu_s_per_gb": sender_s / gigabytes,
        "relay_cpu_s_per_gb": relay_s / gigabytes,
        "daemons_cpu_s_per_gb": (sender_s + relay_s) / gigabytes,
        "machine_cpu_s_per_gb": (machine_s - emitted["cpu_s"]) / gigabytes,
        "stop_s": stop_s,
    }


def live_latency(tracer: Tracer, base: Path, *, live_timer_us: int, events: int, rate: float) -> Figures:
    """Time from an event to the line that babeltrace2 prints of it: `events` events of a program that emits `rate`/s.

    babeltrace2 with its own settings: it asks again after 100 ms when there is nothing new.
    """
    url = f"net://localhost/host/{os.uname().nodename}/bench"
    with running_relay(tracer.peer, base / "relay"):
        tracer.record_the_load(f"--live={live_timer_us}", f"--set-url={tracer.peer.relay_url}")
        tracer.run("start")
        arguments = [*load_arguments(rate=rate), "--until-end-of-input"]
        with (
            subprocess.Popen(arguments, env=load_environment(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL),
            _viewer(url, base / "logs" / "babeltrace2.log") as lines,
        ):
            latencies = _latencies_s(lines, events, settled_after_s=5 * live_timer_us / 1e6)
        tracer.run("stop")
        tracer.run("destroy")
    return {
        "latency_median_s": statistics.median(latencies),
        "latency_p99_s": sorted(latencies)[math.ceil(0.99 * len(latencies)) - 1],
        "latency_most_s": max(latencies),
    }


@contextmanager
def _viewer(url: str, log: Path) -> Iterator[IO[bytes]]:
    command = ["stdbuf", "-oL", "babeltrace2", "--clock-cycles", "--input-format=lttng-live", url]
    with log.open("wb") as stderr, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr) as viewer:
        assert viewer.stdout is not None, "asked for above"
        try:
            yield viewer.stdout
        finally:
            viewer.send_signal(signal.SIGKILL)


def _latencies_s(lines: IO[bytes], count: int, settled_after_s: float) -> list[float]:
    """Of `count` events that were emitted when the viewer had been at it for some time."""
    latencies: list[float] = []
    settled_ns = 0
    for line in lines:
        now_ns = time.monotonic_ns()
        emitted_ns = trace_files.clock_cycles(line)
        settled_ns = settled_ns or now_ns + int(settled_after_s * 1e9)
        if emitted_ns >= settled_ns:
            latencies.append((now_ns - emitted_ns) / 1e9)
        if len(latencies) == count:
            return latencies
    raise RuntimeError(f"babeltrace2 ended after {len(latencies)} of {count} events")


def relay_streams(tracer: Tracer, base: Path, *, count: int, seconds: int, sends: str) -> Figures:
    """CPU and memory of the relay daemon with `count` streams that get nothing, a beacon or a packet a second each.

    `sends`: "nothing", "beacons" (the sessions are live), "packets" (of 4 KiB, with their index entries).
    """
    with running_relay(tracer.peer, base / "relay") as relay:
        begin = time.monotonic()
        with Producer(count, live_timer_us=1_000_000 if sends == "beacons" else 0) as producer:
            added_s = time.monotonic() - begin
            begin, begin_cpu_s = time.monotonic(), cpu_s(relay)
            sent = 0
            if sends == "nothing":
                time.sleep(seconds)
            else:
                sent = producer.send(seconds, is_beacon=sends == "beacons")
            cpu_s_per_s = (cpu_s(relay) - begin_cpu_s) / (time.monotonic() - begin)
            memory_bytes = own_memory_bytes(relay)
            _wait_for_packets(base / "relay", sent if sends == "packets" else 0)
    return {"added_s": added_s, "cpu_s_per_s": cpu_s_per_s, "memory_mb": memory_bytes / 1e6}


def _wait_for_packets(output: Path, count: int) -> None:
    deadline = time.monotonic() + 10
    while (found := trace_files.figures(output).packet_count) != count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"The relay daemon keeps {found} packets of {count}")
        time.sleep(0.1)


MEASURES: dict[str, Callable[..., Figures]] = {
    function.__name__: function for function in (streaming, streaming_ladder, live_latency, relay_streams)
}
