"""Where the session daemon that serves the caller listens, by the rules of lttng(1)."""

from __future__ import annotations

import os

from tracefleet_common.errors import InvalidArgument
from tracefleet_common.transport.zmtp_client import SUN_PATH_SIZE_BYTES_MAX

GLOBAL_RUN_DIRECTORY = "/var/run/lttng"
DEFAULT_TRACING_GROUP = "tracing"
SOCKET_NAME = "tracefleet-sessiond"
ADDRESS_VARIABLE = "TRACEFLEET_SESSIOND"


def home_directory() -> str:
    """`$LTTNG_HOME`, else `$HOME`. Raises InvalidArgument when neither is set."""
    home = os.environ.get("LTTNG_HOME") or os.environ.get("HOME")
    if not home:
        raise InvalidArgument("Neither LTTNG_HOME nor HOME is set")
    return home


def user_run_directory() -> str:
    """The run directory of the caller's own session daemon."""
    return f"{home_directory()}/.lttng"


def bus_address(run_directory: str) -> str:
    """The address of a session daemon. Raises InvalidArgument when no socket can have so long a path."""
    path = f"{run_directory}/{SOCKET_NAME}"
    if len(os.fsencode(path)) > SUN_PATH_SIZE_BYTES_MAX:
        raise InvalidArgument(f"Socket path too long, at most {SUN_PATH_SIZE_BYTES_MAX} bytes are possible: {path}")
    return f"ipc://{path}"


def candidate_addresses(tracing_group: str = DEFAULT_TRACING_GROUP) -> tuple[str, ...]:
    """Addresses to try, in this order.

    Root: the global daemon. Members of the tracing group: the global one, then their own. Others: their own.
    The environment variable TRACEFLEET_SESSIOND overrides all of this.
    """
    address = os.environ.get(ADDRESS_VARIABLE)
    if address:
        return (address,)
    return tuple(map(bus_address, candidate_run_directories(tracing_group)))


def candidate_run_directories(tracing_group: str = DEFAULT_TRACING_GROUP) -> tuple[str, ...]:
    """Run directories of daemons that the caller may ask, in the order of `candidate_addresses`."""
    if os.geteuid() == 0:
        return (GLOBAL_RUN_DIRECTORY,)
    if is_in_group(tracing_group):
        return (GLOBAL_RUN_DIRECTORY, user_run_directory())
    return (user_run_directory(),)


def relay_bus_sockets(run_directory: str) -> list[str]:
    """The bus sockets of relay daemons there, also those that killed ones left."""
    directory = f"{run_directory}/relayd"
    try:
        names = os.listdir(directory)
    except OSError:
        return []
    return [f"{directory}/{name}" for name in sorted(names) if name.startswith("bus-")]


def is_in_group(name: str) -> bool:
    """Whether this process belongs to the group of that name, which need not exist."""
    import grp  # not for root, who never comes here

    try:
        group = grp.getgrnam(name)
    except (KeyError, ValueError):
        return False
    return group.gr_gid == os.getegid() or group.gr_gid in os.getgroups()
