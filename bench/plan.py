"""What is measured, and which of the figures go into the table, with the target of each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

MB = 1_000_000
PAIRS = ("lttng", "lttng-tracefleet", "tracefleet", "fleet")


@dataclass(frozen=True)
class Row:
    """One line of the table: a figure of a measurement, in the unit to show."""

    figure: str
    title: str
    unit: str
    scale: float = 1.0  # what a figure is multiplied by to be in `unit`
    target: str = ""


@dataclass(frozen=True)
class Case:
    """One measurement with its parameters, and its lines in the table."""

    name: str
    measure: str
    rows: tuple[Row, ...]
    parameters: dict[str, Any] = field(default_factory=dict)
    needs_slow_disk: bool = False
    peers: tuple[str, ...] = ("lttng", "tracefleet")
    has_relay: bool = False  # the peers are pairs then: who sends, and the relay daemon


def _losses(title: str, target: str = "≤ LTTng's") -> tuple[Row, ...]:
    return (
        Row("lost_percent", f"Events lost, {title}", "%", target=target),
        Row("unaccounted", f"Events unaccounted for, {title}", "", target="0"),
    )


def _at_rate(rate: int) -> Case:
    parameters = {"rate": rate, "seconds": 2, "threads": 2, "payload": 32}
    return Case(f"rate-{rate}", "recording", _losses(f"at {rate:,}/s"), parameters)


def _registration(count: int, is_active: bool) -> Case:
    with_what = "while a session records" if is_active else "no session"
    programs = "1 program" if count == 1 else f"{count} programs"
    rows = [
        Row(
            "registered_s",
            f"Registration, {programs}, {with_what}",
            "ms",
            1e3,
            "≤ 2.0 ×" if count == 200 else "",
        )
    ]
    if count == 200 and is_active:
        rows.append(Row("memory_mb", f"Memory of the daemons, {programs}, ring buffers aside", "MB", target="< 150 MB"))
    name = f"registration-{count}-{'active' if is_active else 'idle'}"
    return Case(name, "registration", tuple(rows), {"count": count, "is_active": is_active})


def _relay_streams(name: str, title: str, sends: str, *more: Row) -> Case:
    rows = (
        Row("cpu_s_per_s", f"CPU of the relay daemon, 1,000 streams, {title}", "ms/s", 1e3),
        Row("memory_mb", f"Memory of the relay daemon, 1,000 streams, {title}", "MB"),
    )
    # The producer is the same for both relay daemons, so there are two peers only.
    return Case(
        f"relay-streams-{name}",
        "relay_streams",
        (*more, *rows),
        {"count": 1000, "seconds": 3, "sends": sends},
        peers=("lttng", "lttng-tracefleet"),
        has_relay=True,
    )


def _relay_cpu(where: str, is_in_memory: bool) -> Case:
    rows = (
        Row("relay_cpu_s_per_gb", f"CPU of the relay daemon, to {where}", "s/GB"),
        Row("sender_cpu_s_per_gb", f"CPU of the sending daemons, to {where}", "s/GB"),
        Row("daemons_cpu_s_per_gb", f"CPU of all daemons, to {where}", "s/GB", target="≤ 1.0 ×; acknowledged: ≤ 1.2 ×"),
        Row("machine_cpu_s_per_gb", f"CPU of the whole machine but the program, to {where}, until synced", "s/GB"),
        Row("stop_s", f"`stop` after 0.5 GB to {where}", "ms", 1e3),
        Row("lost_percent", f"Events lost, 200,000/s of 1 kB, to {where}", "%", target="≤ LTTng's"),
    )
    # A tmpfs takes out of the figures what a file system and its disk make them vary by.
    load = {"rate": 200_000, "seconds": 2.5, "payload": 1000, "threads": 2, "is_counted": False}
    return Case(
        f"relay-cpu-{where}", "streaming", rows, {**load, "is_in_memory": is_in_memory}, peers=PAIRS, has_relay=True
    )


RELAY_RATES = (50_000, 100_000, 200_000, 400_000, 600_000)
RELAY_CASES = (
    _relay_cpu("disk", is_in_memory=False),
    _relay_cpu("memory", is_in_memory=True),
    Case(
        "relay-flood-small",
        "streaming",
        (
            *_losses("as fast as 2 threads can, 12 B"),
            Row("daemons_cpu_s_per_gb", "CPU of all daemons, as fast as 2 threads can", "s/GB"),
        ),
        {"rate": 0, "events": 1_000_000, "threads": 2},
        peers=PAIRS,
        has_relay=True,
    ),
    Case(
        "relay-ladder",
        "streaming_ladder",
        (
            *(Row(f"lost_percent_{rate}", f"Events lost, ladder to memory: {rate:,}/s", "%") for rate in RELAY_RATES),
            Row("rate_without_loss", "Highest of these rates without loss", "events/s", target="≥ LTTng's"),
        ),
        {"rates": RELAY_RATES, "seconds": 1, "payload": 1000, "threads": 2},
        peers=PAIRS,
        has_relay=True,
    ),
    Case(
        "relay-live",
        "live_latency",
        (
            Row("latency_median_s", "Event to line of babeltrace2, live timer 130 ms: median", "ms", 1e3, "≤ 1.0 ×"),
            Row("latency_p99_s", "… 99 of 100", "ms", 1e3),
        ),
        # No two of the live timer, the rate and the 100 ms of babeltrace2 keep step: else a round would be luck.
        {"live_timer_us": 130_000, "events": 400, "rate": 27.1},
        peers=PAIRS,
        has_relay=True,
    ),
    _relay_streams("idle", "idle", "nothing", Row("added_s", "1,000 streams are added", "ms", 1e3)),
    _relay_streams("beacons", "idle, live (1 beacon/s each)", "beacons"),
    _relay_streams("slow", "1 packet/s of 4 KiB each", "packets"),
)
CASES = (
    Case(
        "recording-1gb",
        "recording",
        (
            Row("daemons_cpu_s_per_gb", "CPU of the daemons", "s/GB", target="≤ 0.5 ×"),
            Row("machine_cpu_s_per_gb", "CPU of the whole machine but the program, until synced", "s/GB"),
            Row("program_cpu_ns_per_event", "CPU of the program", "ns/event"),
            Row("stop_s", "`stop` after 1 GB", "ms", 1e3),
            Row("lost_percent", "Events lost, 200,000/s of 1 kB", "%", target="≤ LTTng's"),
        ),
        # babeltrace2 takes minutes for a gigabyte of such events; the other cases are counted.
        {"rate": 200_000, "seconds": 5, "payload": 1000, "threads": 2, "is_counted": False},
    ),
    *(_at_rate(rate) for rate in (50_000, 200_000, 500_000, 1_000_000)),
    Case(
        "flood-small",
        "recording",
        (
            *_losses("as fast as 2 threads can, 12 B"),
            Row("daemons_cpu_s_per_gb", "CPU of the daemons, as fast as 2 threads can", "s/GB"),
        ),
        {"rate": 0, "events": 2_000_000, "threads": 2},
    ),
    Case(
        "flood-large",
        "recording",
        (Row("lost_percent", "Events lost, as fast as 2 threads can, 500 B", "%", target="≤ LTTng's"),),
        {"rate": 0, "events": 1_000_000, "threads": 2, "payload": 500, "is_counted": False},
    ),
    *(
        Case(
            f"slow-disk-{megabytes}",
            "recording",
            _losses(f"500,000/s of 50 B (35 MB/s), disk takes {megabytes} MB/s"),
            {"rate": 500_000, "seconds": 3, "payload": 50, "threads": 2, "disk_bytes_per_s": megabytes * MB},
            needs_slow_disk=True,
        )
        for megabytes in (20, 40)
    ),
    Case(
        "start",
        "start_latency",
        (
            Row("first_event_s", "From calling `start` to the first event", "ms", 1e3),
            Row("start_command_s", "`start` command", "ms", 1e3),
        ),
    ),
    *(_registration(count, is_active) for is_active in (False, True) for count in (1, 50, 200)),
    Case(
        "commands",
        "commands",
        (
            Row("version_s", "`version` command", "ms", 1e3),
            Row("list_s", "`list` command", "ms", 1e3),
            Row("enable_event_s", "`enable-event` command", "ms", 1e3),
            Row("list_per_python_pass", "`list` against `python3 -c pass`", "×", target="≤ 5"),
        ),
        {"count": 20},
    ),
    Case(
        "requests",
        "requests",
        tuple(
            Row(f"{name}_s", f"The daemon's share of a command: `{name.replace('_', '-')}`", "ms", 1e3, "≤ 10 ms")
            for name in ("create", "enable_event", "list", "describe", "start", "stop", "destroy")
        ),
        {"count": 50},
        peers=("tracefleet",),
    ),
    *RELAY_CASES,
)
