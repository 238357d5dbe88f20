"""health: whether the daemons of this host run and answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tracefleet_cli import exit_status
from tracefleet_cli.completion import SERVICES
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS, RELAY_BUS
from tracefleet_cli.probes import Probes, ServiceHealth, ServiceState
from tracefleet_common.options import Option, Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (
    HELP,
    Option("timeout", "t", "SECONDS", "Wait so long for each daemon to answer. Default: 3."),
    RELAY_BUS,
    LIST_OPTIONS,
    JSON,
)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = "[SERVICE]..."
DESCRIPTION = """\
Checks that daemons of this host run, and answer on all their sockets and ports. SERVICE is sessiond (the session \
daemon that serves the caller), consumerd (its consumer daemon) or relayd (the relay daemons of the run directory). \
Those named must be there. Without SERVICE, what is there must be healthy, and something must be there. Exits with 0 \
when all is well, else with 1."""

TIMEOUT_S_DEFAULT = 3.0
TIMEOUT_S_MAX = 3600.0


class Health(msgspec.Struct, frozen=True, kw_only=True, tag="health"):
    """`is_healthy`: the exit status is 0."""

    is_healthy: bool
    services: tuple[ServiceHealth, ...]


def run(context: Context, parsed: Parsed) -> int:
    """Look at one after the other."""
    for name in parsed.operands:
        if name not in SERVICES:
            raise context.end(f"Unknown service: {name} (there are {', '.join(SERVICES)})")
    probes = Probes(context.settings.tracing_group, _timeout_s(context, parsed), parsed.values("bus-sock"))
    services = _look(probes, parsed.operands)
    is_healthy = bool(services) and all(service.is_healthy for service in services)
    for service in services:
        context.terminal.message(_line(service))
    if not services:
        context.terminal.message("No daemon is there")
    context.terminal.value(Health(is_healthy=is_healthy, services=tuple(services)))
    return exit_status.SUCCESS if is_healthy else exit_status.ERROR


def _look(probes: Probes, wanted: tuple[str, ...]) -> list[ServiceHealth]:
    """What was asked for; without that, what is there."""
    services: list[ServiceHealth] = []
    if not wanted or "sessiond" in wanted or "consumerd" in wanted:
        session_daemon, consumers = probes.session_daemon(is_needed="sessiond" in wanted)
        if "sessiond" in wanted or not wanted:
            services.append(session_daemon)
        if "consumerd" in wanted or not wanted:
            services += (probes.consumer_daemon(each, is_needed="consumerd" in wanted) for each in consumers)
    if not wanted or "relayd" in wanted:
        services += probes.relay_daemons(is_needed="relayd" in wanted)
    if wanted:
        return services
    present = {service.service for service in services if service.state is not ServiceState.NOT_STARTED}
    # A session daemon starts its consumer daemon when it first needs one: that it has not is worth a line.
    shown = present | ({"consumerd"} if "sessiond" in present else set())
    return [service for service in services if service.service in shown]


def _timeout_s(context: Context, parsed: Parsed) -> float:
    value = parsed.value("timeout")
    if value is None:
        return TIMEOUT_S_DEFAULT
    try:
        seconds = float(value)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= TIMEOUT_S_MAX:
        raise context.end(f"Not a time in seconds: {value}")
    return seconds


def _line(service: ServiceHealth) -> str:
    state = service.state.value.replace("-", " ")
    reason = f": {service.reason}" if service.reason is not None else ""
    pid = f" (pid {service.pid})" if service.pid is not None else ""
    return f"{service.service}: {state}{reason}{pid}"
