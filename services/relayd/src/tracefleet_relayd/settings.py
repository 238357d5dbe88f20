"""What the relay daemon is told before it starts: configuration files, command line, environment.

The options are those of lttng-relayd(8), with its defaults, and a few more.
"""

from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from tracefleet_common.errors import InvalidArgument
from tracefleet_common.model.relay_output import (
    CONTROL_PORT_DEFAULT,
    DATA_PORT_DEFAULT,
    FLEET_DATA_PORT_DEFAULT,
    FLEET_PORT_DEFAULT,
    LIVE_PORT_DEFAULT,
)
from tracefleet_common.options import Option, Parsed
from tracefleet_common.runtime.config_file import parse_switch
from tracefleet_common.runtime.daemon_options import (
    DEFAULT_TRACING_GROUP,
    INFORMATION_OPTIONS,
    SYSTEM_CONFIG_FILE,
    DaemonOptions,
    absolute_path,
    home_directory,
    run_directory,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    # The numeric address of a name; None when it has none of that family (is IPv6?).
    Resolve = Callable[[str, bool], str | None]

log = logging.getLogger("tracefleet.relayd.settings")

FD_POOL_SIZE_MIN = 100
# Of the pool, what the tracker does not count: descriptors that are open for a moment, within one of its calls.
FD_POOL_MARGIN = 10
PORT_MAX = 65535

GENERAL_OPTIONS = (
    Option("background", "b", None, "Start as a Unix daemon, but keep the console open. Returns when ready."),
    Option("config", "f", "PATH", "Read the configuration file PATH after the default ones."),
    Option("daemonize", "d", None, "Start as a Unix daemon and close the console. Returns when ready."),
    Option("disallow-clear", "x", None, "Refuse to clear sessions. See LTTNG_RELAYD_DISALLOW_CLEAR."),
    Option(
        "fd-pool-size",
        None,
        "SIZE",
        "Keep at most SIZE file descriptors open (at least 100; default: as many as the process may have).",
    ),
    Option("group", "g", "GROUP", "Let the members of GROUP (default: tracing) ask a root relay daemon for its state."),
    Option("working-directory", "w", "DIR", "Go to DIR. See LTTNG_RELAYD_WORKING_DIRECTORY."),
)
OUTPUT_OPTIONS = (
    Option("group-output-by-host", "p", None, "Group traces by the host they come from. This is the default."),
    Option("group-output-by-session", "s", None, "Group traces by their recording session."),
    Option("output", "o", "DIR", "Keep traces below DIR, an absolute path (default: lttng-traces in LTTNG_HOME)."),
)
PORT_OPTIONS = (
    Option("control-port", "C", "URL", "Listen for control connections on URL (default: tcp://0.0.0.0:5342)."),
    Option("data-port", "D", "URL", "Listen for trace data on URL (default: tcp://0.0.0.0:5343)."),
    Option("live-port", "L", "URL", "Listen for viewers on URL (default: tcp://localhost:5344)."),
    Option("fleet-port", None, "URL", "Listen for fleet:// sessions on URL (default: tcp://0.0.0.0:5340)."),
    Option("fleet-data-port", None, "URL", "Listen for their trace data on URL (default: tcp://0.0.0.0:5341)."),
    Option("bus-sock", None, "PATH", "Set the Unix socket that tells the state (default: relayd/bus-PID)."),
)
VERBOSITY_OPTIONS = (
    Option("quiet", "q", None, "Suppress all messages, including warnings and errors."),
    Option("verbose", "v", None, "Increase verbosity, up to three times.", is_repeatable=True),
)
KNOWN_OPTIONS = GENERAL_OPTIONS + OUTPUT_OPTIONS + PORT_OPTIONS + VERBOSITY_OPTIONS + INFORMATION_OPTIONS
_OPTIONS = DaemonOptions("relayd", KNOWN_OPTIONS)
_GROUPINGS = ("group-output-by-host", "group-output-by-session")


class Listener(NamedTuple):
    """Where to listen. `address` is numeric, IPv4 or IPv6."""

    address: str
    port: int

    @property
    def text(self) -> str:
        """As a URL."""
        return f"tcp6://[{self.address}]:{self.port}" if ":" in self.address else f"tcp://{self.address}:{self.port}"


class KeepAlive(NamedTuple):
    """TCP keep-alive of connections; None: the system's value."""

    idle_time_s: int | None = None
    probe_interval_s: int | None = None
    probe_count_max: int | None = None


class Settings(NamedTuple):
    """Everything that is settled before the daemon starts. Paths are absolute."""

    is_root: bool
    run_directory: str
    given_bus_socket: str | None
    given_health_socket: str | None
    output_directory: str
    is_output_given: bool  # then it is made at the start, as a check
    is_grouped_by_session: bool  # else by host
    control: Listener
    data: Listener
    live: Listener
    fleet: Listener
    fleet_data: Listener
    is_fleet_given: bool  # one of both; otherwise they are done without when they are taken
    is_clear_allowed: bool
    fd_pool_size: int | None  # None: as many as the process may have
    working_directory: str | None
    tracing_group: str
    keep_alive: KeepAlive | None  # None: off
    is_background: bool
    is_daemonized: bool
    is_aborting_on_error: bool
    verbosity: int
    is_quiet: bool

    @property
    def relay_directory(self) -> str:
        """Of the sockets of all relay daemons of this user."""
        return f"{self.run_directory}/relayd"

    def bus_socket(self, pid: int) -> str:
        """Where the daemon with this process id tells its state."""
        return self.given_bus_socket or f"{self.relay_directory}/bus-{pid}"

    def health_socket(self, pid: int) -> str:
        """The same for programs that know LTTng's health check only."""
        return self.given_health_socket or f"{self.relay_directory}/health-{pid}"


def parse_command_line(arguments: Sequence[str]) -> Parsed:
    """Sort the words of the command line. Raises OptionError, InvalidArgument."""
    return _OPTIONS.parse_command_line(arguments)


def load_settings(
    command_line: Parsed, environment: Mapping[str, str], resolve: Resolve, *, user_id: int, open_file_limit: int
) -> Settings:
    """Bring files, command line and environment together; what is read later overrides.

    `open_file_limit`: the soft limit that the process was started with. Raises InvalidArgument.
    """
    home = home_directory(environment, user_id)
    if environment.get("LTTNG_NETWORK_SOCKET_TIMEOUT"):
        # Often set for every program of a user, so it is no reason to refuse to start.
        log.warning("LTTNG_NETWORK_SOCKET_TIMEOUT has no effect: every connection has deadlines of its own")
    paths = (SYSTEM_CONFIG_FILE,) if home is None else (SYSTEM_CONFIG_FILE, f"{home}/.lttng/lttng.conf")
    options = _OPTIONS.with_config_files(command_line, paths)
    bus_socket, health_socket = options.value("bus-sock"), environment.get("LTTNG_RELAYD_HEALTH")
    working_directory = options.value("working-directory") or environment.get("LTTNG_RELAYD_WORKING_DIRECTORY")
    return Settings(
        is_root=user_id == 0,
        run_directory=run_directory(home, is_root=user_id == 0),
        given_bus_socket=None if bus_socket is None else absolute_path(bus_socket),
        given_health_socket=absolute_path(health_socket) if health_socket else None,
        output_directory=_output_directory(options.value("output"), home),
        is_output_given=options.has("output"),
        is_grouped_by_session=_is_grouped_by_session(options),
        control=_listener(options.value("control-port"), "control", f"0.0.0.0:{CONTROL_PORT_DEFAULT}", resolve),
        data=_listener(options.value("data-port"), "data", f"0.0.0.0:{DATA_PORT_DEFAULT}", resolve),
        live=_listener(options.value("live-port"), "live", f"localhost:{LIVE_PORT_DEFAULT}", resolve),
        fleet=_listener(options.value("fleet-port"), "fleet", f"0.0.0.0:{FLEET_PORT_DEFAULT}", resolve),
        fleet_data=_listener(
            options.value("fleet-data-port"), "fleet data", f"0.0.0.0:{FLEET_DATA_PORT_DEFAULT}", resolve
        ),
        is_fleet_given=options.has("fleet-port") or options.has("fleet-data-port"),
        is_clear_allowed=not (
            options.has("disallow-clear") or _is_clear_disallowed(environment.get("LTTNG_RELAYD_DISALLOW_CLEAR"))
        ),
        fd_pool_size=_fd_pool_size(options.value("fd-pool-size"), open_file_limit),
        working_directory=absolute_path(working_directory) if working_directory else None,
        tracing_group=options.value("group") or DEFAULT_TRACING_GROUP,
        keep_alive=_keep_alive(environment),
        is_background=options.has("background"),
        is_daemonized=options.has("daemonize"),
        is_aborting_on_error=environment.get("LTTNG_ABORT_ON_ERROR") == "1",
        verbosity=min(options.given_count("verbose"), 3),
        is_quiet=options.has("quiet"),
    )


def fd_capacity(fd_pool_size: int) -> int:
    """Of the descriptor tracker. Raises InvalidArgument when the pool is too small to work with."""
    if fd_pool_size < FD_POOL_SIZE_MIN:
        raise InvalidArgument(
            f"The process' file number limit is too low ({fd_pool_size}). "
            f"The process' file number limit must be set to at least {FD_POOL_SIZE_MIN}."
        )
    return fd_pool_size - FD_POOL_MARGIN


def _fd_pool_size(value: str | None, open_file_limit: int) -> int | None:
    if value is None:
        return None
    if re.fullmatch(r"[0-9]{1,18}", value) is None:
        raise InvalidArgument(f"Wrong value in --fd-pool-size parameter: {value}")
    size = int(value)
    if size < FD_POOL_SIZE_MIN:
        raise InvalidArgument(f"File descriptor pool size must be set to at least {FD_POOL_SIZE_MIN}")
    if size > open_file_limit:
        raise InvalidArgument(
            f"File descriptor pool size argument ({size}) exceeds the process' soft limit ({open_file_limit})."
        )
    return size


def _output_directory(value: str | None, home: str | None) -> str:
    if value is not None:
        if not os.path.isabs(value):
            raise InvalidArgument("Please specify an absolute path for -o, --output PATH")
        return absolute_path(value)
    if home is None:
        raise InvalidArgument("Cannot find the home directory: set LTTNG_HOME, HOME or --output")
    return absolute_path(f"{home}/lttng-traces")


def _is_grouped_by_session(options: Parsed) -> bool:
    given = [occurrence.long for occurrence in options.occurrences if occurrence.long in _GROUPINGS]
    for other in given:
        if other != given[0]:
            raise InvalidArgument(f"Cannot set --{other}, another --group-output-by argument is present")
    return bool(given) and given[0] == "group-output-by-session"


_PROTOCOL = re.compile(r"(?:tcp|net)(?P<family>[46]?)://", re.IGNORECASE)
# lttng-relayd takes what `lttng create` takes, and ignores what it has no use for: a second port, a directory.
_PLACE = re.compile(r"(?:\[(?P<bracketed>[^]/]+)\]|(?P<plain>[^][:/]+))(?::(?P<port>[^:/]*))?(?:[:/].*)?", re.DOTALL)


def _listener(value: str | None, what: str, default_place: str, resolve: Resolve) -> Listener:
    default_port = int(default_place.rpartition(":")[2])
    try:
        return _parse_listener(f"tcp://{default_place}" if value is None else value, default_port, resolve)
    except InvalidArgument as error:
        error.add_note(f"Error: Invalid {what} URI specified")
        raise


def _parse_listener(url: str, default_port: int, resolve: Resolve) -> Listener:
    protocol = _PROTOCOL.match(url)
    if protocol is None:
        raise InvalidArgument(f"URI parse unknown protocol {url}")
    place = _PLACE.fullmatch(url, protocol.end())
    if place is None:
        raise InvalidArgument(f"Not a URL to listen on, such as tcp://0.0.0.0:{default_port}: {url}")
    port = _port(place["port"]) if place["port"] else default_port
    host, is_ipv6 = place["bracketed"] or place["plain"], protocol["family"] == "6"
    address = resolve(host, is_ipv6)
    if address is None:
        raise InvalidArgument(f"URI parse bad hostname {host} for af {10 if is_ipv6 else 2}")
    return Listener(address, port)


def _port(word: str) -> int:
    port = int(word) if re.fullmatch(r"[0-9]{1,9}", word) else 0
    if not 0 < port <= PORT_MAX:
        raise InvalidArgument(f"Invalid port number {word}")
    return port


def _is_clear_disallowed(value: str | None) -> bool:
    if not value:
        return False
    count = parse_switch(value)
    if count is None:
        raise InvalidArgument("Invalid value for LTTNG_RELAYD_DISALLOW_CLEAR specified")
    return count > 0


def _keep_alive(environment: Mapping[str, str]) -> KeepAlive | None:
    """A value that cannot be right is reported, and keep-alive is off: the daemon can work without."""
    prefix = "LTTNG_RELAYD_TCP_KEEP_ALIVE"
    switch = environment.get(prefix)
    if not switch:
        return None
    is_on = parse_switch(switch)
    if is_on is None:
        log.error("Invalid value for %s: value=%s", prefix, switch)
    if not is_on:
        return None
    values: list[int | None] = []
    for name in (f"{prefix}_IDLE_TIME", f"{prefix}_PROBE_INTERVAL", f"{prefix}_MAX_PROBE_COUNT"):
        text = environment.get(name) or "-1"
        if re.fullmatch(r"-?[0-9]{1,9}", text) is None:
            log.error("%s is not a valid number: value=%s", name, text)
            return None
        if int(text) < -1:
            log.error("%s must be greater or equal to -1: value=%s", name, text)
            return None
        values.append(int(text) if int(text) > 0 else None)
    return KeepAlive(*values)
