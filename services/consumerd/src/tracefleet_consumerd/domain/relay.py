"""What a session at a relay daemon must be like before somebody connects for it."""

from __future__ import annotations

import ipaddress

import msgspec

from tracefleet_common.errors import InvalidArgument
from tracefleet_common.model.relay_output import FleetOutput, RelayOutput
from tracefleet_consumerd.domain.registry import check_key, encoded_name

UUID_SIZE_BYTES = 16
NAME_SIZE_BYTES_MAX = 254
SUBDIRECTORY_SIZE_BYTES_MAX = 4094
PORT_MAX = 65535
LIVE_TIMER_PERIOD_US_MAX = 2**32 - 1
SPOOL_SIZE_BYTES_MAX = 2**63 - 1  # no file is larger


class RelaySettings(msgspec.Struct, frozen=True, kw_only=True):
    """As the session daemon asks for it; see OpenRelaySession for the meaning of each field."""

    relay_key: int
    output: RelayOutput | FleetOutput
    session_name: str
    host_name: str
    has_creation_time_in_name: bool
    creation_time_s: int
    sessiond_uuid: bytes
    session_id: int
    live_timer_period_us: int


def check_relay(settings: RelaySettings) -> None:
    """Raises InvalidArgument for what no relay daemon would take."""
    check_key("relay session", settings.relay_key)
    check_output(settings.output)
    _check_name("session name", settings.session_name, NAME_SIZE_BYTES_MAX)
    _check_name("host name", settings.host_name, NAME_SIZE_BYTES_MAX)
    if len(settings.sessiond_uuid) != UUID_SIZE_BYTES or not any(settings.sessiond_uuid):
        raise InvalidArgument("Not the uuid of a session daemon")
    if not 0 <= settings.live_timer_period_us <= LIVE_TIMER_PERIOD_US_MAX:
        raise InvalidArgument(f"Not the period of a live timer: {settings.live_timer_period_us} us")
    for number in (settings.session_id, settings.creation_time_s):
        if not 0 <= number < 2**63:
            raise InvalidArgument(f"The session id or creation time is out of range: {number}")


def check_output(output: RelayOutput | FleetOutput) -> None:
    """Raises InvalidArgument for what can be no relay daemon."""
    try:
        ipaddress.ip_address(output.address)
    except ValueError:
        raise InvalidArgument(f"Not a numeric address: {output.address[:64]!r}") from None
    ports = (output.port,) if isinstance(output, FleetOutput) else (output.control_port, output.data_port)
    for port in ports:
        if not 0 < port <= PORT_MAX:
            raise InvalidArgument(f"Not a port: {port}")
    if isinstance(output, FleetOutput) and not 0 <= output.spool_size_bytes <= SPOOL_SIZE_BYTES_MAX:
        raise InvalidArgument(f"Not the size of a spool: {output.spool_size_bytes} bytes")
    _check_name("subdirectory", output.subdirectory, SUBDIRECTORY_SIZE_BYTES_MAX)


def _check_name(what: str, name: str, size_bytes_max: int) -> None:
    if "\0" in name or len(encoded_name(name)) > size_bytes_max:
        raise InvalidArgument(f"The {what} is too long or contains a null byte: {name[:80]!r}")
