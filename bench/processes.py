"""What processes cost: CPU time, memory; and what the whole machine spends."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

CLOCK_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_CPUCLOCK_SCHED = 2  # the kind of a process clock that counts scheduled time (linux/posix-timers.h)
_TCP_LISTEN = "0A"  # state of a socket in /proc/net/tcp
# Mappings that are ring buffers, or pages shared with the applications: they are not the daemon's own memory.
_RING_BUFFER = re.compile(r"/dev/shm/|/memfd:|/SYSV|/dev/zero")
_MAPPING = re.compile(r"^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+ *(?P<path>.*)$")


def descendants(pid: int) -> list[int]:
    """Return the process ids below `pid`."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if fields[0] != "Z":
                parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found: list[int] = []
    pending = [pid]
    while pending:
        children = parents.get(pending.pop(), [])
        found += children
        pending += children
    return found


def listening_ports() -> set[int]:
    """Return the TCP ports (IPv4) of this network namespace that somebody listens on."""
    rows = [line.split() for line in Path("/proc/self/net/tcp").read_text().splitlines()[1:]]
    return {int(local.rpartition(":")[2], 16) for _, local, _, state, *_ in rows if state == _TCP_LISTEN}


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU seconds of these processes, of all their threads, living and gone.

    From the process clocks, to the nanosecond: /proc/PID/stat counts in hundredths of a second.
    """
    return sum(time.clock_gettime_ns((~pid << 3) | _CPUCLOCK_SCHED) for pid in pids) / 1e9


def machine_cpu_s() -> float:
    """Return the CPU seconds the whole machine has worked since boot, kernel threads and interrupts too."""
    user, nice, system, _idle, _iowait, irq, softirq = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + irq + softirq) / CLOCK_TICKS_PER_S


def own_memory_bytes(pids: Iterable[int]) -> int:
    """Return the proportional set size of these processes in bytes, ring buffers aside."""
    total_kib = 0
    for pid in pids:
        is_ring_buffer = False
        for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
            if mapping := _MAPPING.match(line):
                is_ring_buffer = bool(_RING_BUFFER.search(mapping["path"]))
            elif line.startswith("Pss:") and not is_ring_buffer:
                total_kib += int(line.split()[1])
    return total_kib * 1024
