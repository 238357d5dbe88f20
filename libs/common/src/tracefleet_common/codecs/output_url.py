"""The URLs that say where a trace goes, with the rules and the words of lttng-tools (2.13.9, src/common/uri.c).

file:///DIRECTORY, or the bare absolute path; net[4|6]://HOST[:CONTROL[:DATA]][/SUBDIRECTORY]; and one port at a time
tcp[4|6]://HOST[:PORT][/SUBDIRECTORY]. Of our own, for relay daemons of our own: fleet[4|6]://HOST[:PORT][/SUBDIRECTORY].
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import Enum
from typing import Final

import msgspec

from tracefleet_common.errors import InvalidArgument
from tracefleet_common.model.relay_output import (
    CONTROL_PORT_DEFAULT,
    DATA_PORT_DEFAULT,
    FLEET_PORT_DEFAULT,
    FleetOutput,
    RelayOutput,
)


class UrlKind(Enum):
    """What the protocol of a network URL means."""

    PAIRED = "net"  # control and data
    SINGLE = "tcp"  # one of them
    FLEET = "fleet"  # a relay daemon of our own, which says itself where data goes


_FILE: Final = "file"
_KINDS: Final = {f"{kind.value}{family}": kind for kind in UrlKind for family in ("", "4", "6")}
_FLEET_ALONE: Final = "The fleet[4|6]:// protocol has one URL, which --set-url takes"
_PORT_MAX: Final = 65535
_DIGITS = re.compile(r"\s*([+-]?[0-9]+)")  # as atoi() reads them: what follows does not count
_ADDRESS_FAMILIES = {False: 2, True: 10}  # the numbers of Linux are part of the words

# The numeric address of a name, None when it has none of that family (IPv6?).
Resolve = Callable[[str, bool], str | None]


class BadUrl(InvalidArgument):
    """`reasons`: what LTTng says, one line each, from the detail to the whole."""

    def __init__(self, *reasons: str) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons


class NetworkUrl(msgspec.Struct, frozen=True, kw_only=True):
    """One URL of the network kinds. Ports are None when they were not given."""

    kind: UrlKind
    is_ipv6: bool
    host: str
    port: int | None = None
    data_port: int | None = None
    subdirectory: str = ""


def parse_url(text: str) -> NetworkUrl | str:
    """A network URL, or the path of a local one. Raises BadUrl."""
    try:
        return _parse(text)
    except BadUrl as error:
        raise BadUrl(*error.reasons, f"Unable to parse the URL {text}") from None


def _parse(text: str) -> NetworkUrl | str:
    if text.startswith("/"):
        return text
    protocol, separator, rest = text.partition("://")
    protocol = protocol.lower()
    if not separator or (protocol != _FILE and protocol not in _KINDS):
        raise BadUrl(f"URI parse unknown protocol {text}")
    if protocol == _FILE:
        if not rest.startswith("/"):
            raise BadUrl("Missing destination full path.")
        return rest
    place, _, subdirectory = rest.partition("/")
    host, ports = _host_and_ports(place)
    port, ports = _next_port(ports)
    port_after = None
    if _KINDS[protocol] is UrlKind.PAIRED:
        port_after, ports = _next_port(ports)
    if ports:
        slash = "/" if rest != place else ""
        raise BadUrl(f"Trailing characters not recognized: {ports}{slash}{subdirectory}")
    return NetworkUrl(
        kind=_KINDS[protocol],
        is_ipv6=protocol.endswith("6"),
        host=host,
        port=port,
        data_port=port_after,
        subdirectory=subdirectory,
    )


def _host_and_ports(place: str) -> tuple[str, str]:
    if place.startswith("["):
        host, bracket, ports = place[1:].partition("]")
        if not bracket:
            raise BadUrl(f"Broken IPv6 address {host}")
        if ports and not ports.startswith(":"):
            raise BadUrl(f"Unknown symbol after IPv6 address: {ports}")
    else:
        host, colon, ports = place.partition(":")
        ports = colon + ports
    if not host:
        raise BadUrl("No address or hostname detected.")
    return host, ports


def _next_port(ports: str) -> tuple[int | None, str]:
    """The number after the first colon, and what follows it from the next colon on."""
    if not ports:
        return None, ""
    word, colon, rest = ports[1:].partition(":")
    if not word:
        return None, colon + rest
    match = _DIGITS.match(word)
    port = int(match[1]) if match else 0
    if not 0 < port <= _PORT_MAX:
        raise BadUrl(f"Invalid port number {port}")
    return port, colon + rest


def relay_output(control: NetworkUrl, data: NetworkUrl, resolve: Resolve) -> RelayOutput:
    """The relay daemon behind two URLs of one host. Raises BadUrl."""
    address = _address(control, resolve)
    if _address(data, resolve) != address:
        raise BadUrl("Control and data destination mismatch")
    return RelayOutput(
        address=address,
        control_port=control.port or CONTROL_PORT_DEFAULT,
        data_port=data.port or DATA_PORT_DEFAULT,
        subdirectory=control.subdirectory,
    )


def _address(url: NetworkUrl, resolve: Resolve) -> str:
    address = resolve(url.host, url.is_ipv6)
    if address is None:
        raise BadUrl(f"URI parse bad hostname {url.host} for af {_ADDRESS_FAMILIES[url.is_ipv6]}")
    return address


def output_from_url(text: str, resolve: Resolve) -> RelayOutput | FleetOutput | str:
    """What one URL says (--set-url): a relay daemon, or a path. Raises BadUrl."""
    if not text:
        raise BadUrl()
    url = parse_url(text)
    if isinstance(url, str):
        return url
    if url.kind is UrlKind.SINGLE:
        raise BadUrl()
    try:
        if url.kind is UrlKind.FLEET:
            return FleetOutput(
                address=_address(url, resolve), port=url.port or FLEET_PORT_DEFAULT, subdirectory=url.subdirectory
            )
        return relay_output(url, msgspec.structs.replace(url, port=url.data_port), resolve)
    except BadUrl as error:
        raise BadUrl(*error.reasons, f"Unable to parse the URL {text}") from None


def output_from_urls(control_text: str, data_text: str, resolve: Resolve) -> RelayOutput:
    """What two URLs say (--ctrl-url and --data-url). Raises BadUrl."""
    control = parse_url(control_text)
    if isinstance(control, str):
        raise BadUrl("Cannot have a data URL when destination is file://")
    if control.kind is UrlKind.FLEET:
        raise BadUrl(_FLEET_ALONE)
    if control.kind is UrlKind.PAIRED:
        if control_text != data_text:
            raise BadUrl("Control URL uses the net:// protocol and the data URL is different. Not allowed.")
        return relay_output(control, msgspec.structs.replace(control, port=control.data_port), resolve)
    data = parse_url(data_text)
    if isinstance(data, str):
        raise BadUrl("Control and data destination mismatch")
    if data.kind is UrlKind.FLEET:
        raise BadUrl(_FLEET_ALONE)
    if data.kind is UrlKind.PAIRED:
        raise BadUrl("Data URL can not be set with the net[4|6]:// protocol")
    return relay_output(control, data, resolve)
