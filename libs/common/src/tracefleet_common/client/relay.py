"""The blocking client of a relay daemon, for its state and its sums."""

from __future__ import annotations

from tracefleet_common.client.commands import Command
from tracefleet_common.client.plain import SOFTWARE, Connection
from tracefleet_common.messages.relayd_control import (
    DescribeRelay,
    DescribeRelaySession,
    ListRelaySessions,
    RelayInfo,
    RelaySessionDetails,
    RelaySessionList,
)


class RelayClient(Connection):
    """A connection to one relay daemon. Every method raises the TracefleetError that it sent, or TransportError.

    `address`: of its bus socket, ipc://RUN-DIRECTORY/relayd/bus-PID.
    """

    describe_relay = Command(DescribeRelay, RelayInfo)
    list_relay_sessions = Command(ListRelaySessions, RelaySessionList)
    describe_relay_session = Command(DescribeRelaySession, RelaySessionDetails)

    def __init__(self, address: str, *, deadline_s: float | None = None, software: str = SOFTWARE) -> None:
        super().__init__((address,), deadline_s, software)
