"""The native library: ring buffers of user-space channels, and the files their packets go to.

Import it before the process has threads: it blocks the signals that liblttng-ust-ctl uses, and installs the
handler of SIGBUS that it needs. Only the consumer daemon imports it.
"""

from tracefleet_native.binding import (
    Channel,
    Output,
    Pump,
    Relay,
    RelaySums,
    Report,
    ReportKind,
    StreamBooks,
    has_repair,
    possible_cpu_count,
    ring_buffer_size_bytes,
)
from tracefleet_native.fleet_binding import Fleet, FleetBooks, FleetStreamState

__all__ = [
    "Channel",
    "Fleet",
    "FleetBooks",
    "FleetStreamState",
    "Output",
    "Pump",
    "Relay",
    "RelaySums",
    "Report",
    "ReportKind",
    "StreamBooks",
    "has_repair",
    "possible_cpu_count",
    "ring_buffer_size_bytes",
]
