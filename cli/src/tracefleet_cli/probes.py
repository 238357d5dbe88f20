"""Whether the daemons of this host run and answer, each within a deadline: one that is stopped holds up nobody.

A daemon that was stopped (SIGSTOP) or hangs still has its sockets, and the kernel goes on accepting connections for it.
So every check ends with an answer of the daemon itself. Its process id comes from the kernel, also when it is silent.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
import struct
import time
from collections.abc import Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from tracefleet_common.client.plain import Client
from tracefleet_common.client.run_directory import (
    ADDRESS_VARIABLE,
    bus_address,
    candidate_run_directories,
    relay_bus_sockets,
)
from tracefleet_common.errors import TracefleetError, TransportError
from tracefleet_common.transport.zmtp_client import ZmtpClient

if TYPE_CHECKING:
    from tracefleet_common.messages.relayd_control import RelayInfo
    from tracefleet_common.messages.sessiond_control import ConsumerSockets

CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid
HEALTH_COMMAND = bytes(4)
HEALTH_ANSWER_SIZE_BYTES = 8
IPC = "ipc://"


class ServiceState(Enum):
    """What was found."""

    READY = "ready"  # it answers on all its sockets and ports
    NOT_STARTED = "not-started"  # nothing is there
    GONE = "gone"  # it left its socket behind: killed
    SILENT = "silent"  # it does not answer in time: stopped, or it hangs
    NOT_READY = "not-ready"  # it answers, but not everywhere, or somebody else does


class ServiceHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One daemon. `reason`: why it is not ready, for people."""

    service: str  # sessiond, consumerd, relayd
    state: ServiceState
    is_healthy: bool
    address: str  # of its bus
    pid: int | None = None
    version: str | None = None
    reason: str | None = None


class _Finding(Exception):
    """The check ends here."""

    def __init__(self, state: ServiceState, reason: str) -> None:
        super().__init__(reason)
        self.state = state
        self.reason = reason


class _Deadline:
    """For all steps of one check."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end_s = time.monotonic() + seconds

    @property
    def remaining_s(self) -> float:
        """At least a moment, so that the step fails by itself."""
        return max(0.01, self._end_s - time.monotonic())

    def silence(self, where: str = "") -> _Finding:
        return _Finding(ServiceState.SILENT, f"{where}no answer within {self._seconds:g} s")

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self._end_s


class _Check:
    """One daemon while it is looked at."""

    def __init__(self, service: str, address: str, deadline_s: float) -> None:
        self.address = address
        self.pid: int | None = None
        self.version: str | None = None
        self.deadline = _Deadline(deadline_s)
        self._service = service

    def carry_out(self, steps: Callable[[_Check], None], *, is_needed: bool) -> ServiceHealth:
        """`is_needed`: it is not healthy not to be there."""
        state, reason = ServiceState.READY, None
        try:
            steps(self)
        except _Finding as finding:
            state, reason = finding.state, finding.reason
        return ServiceHealth(
            service=self._service,
            state=state,
            is_healthy=state is ServiceState.READY or (state is ServiceState.NOT_STARTED and not is_needed),
            address=self.address,
            pid=self.pid,
            version=self.version,
            reason=reason,
        )

    def find(self, path: str) -> None:
        """See that somebody listens on the socket by which the daemon is found, and who."""
        try:
            if not stat.S_ISSOCK(os.stat(path).st_mode):
                raise _Finding(ServiceState.NOT_READY, f"{path} is not a socket")
            with self._connect(path, socket.SOCK_STREAM) as connection:
                credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, CREDENTIALS.size)
                self.pid = CREDENTIALS.unpack(credentials)[0] or None
        except (FileNotFoundError, NotADirectoryError):
            raise _Finding(ServiceState.NOT_STARTED, f"there is no {path}") from None
        except ConnectionRefusedError:
            raise _Finding(ServiceState.GONE, f"nobody listens on {path}") from None
        except TimeoutError:
            raise self.deadline.silence() from None
        except OSError as error:
            raise _Finding(ServiceState.NOT_READY, f"cannot ask at {path}: {error.strerror}") from None

    def connect(self, what: str, path: str, kind: int = socket.SOCK_STREAM) -> None:
        """See that somebody listens on another socket of the daemon."""
        try:
            self._connect(path, kind).close()
        except TimeoutError:
            raise self.deadline.silence(f"{what}: {path}: ") from None
        except PermissionError:
            return  # it is for others
        except OSError as error:
            raise _Finding(ServiceState.NOT_READY, f"{what}: {path}: {error.strerror}") from None

    def _connect(self, path: str, kind: int) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, kind)
        try:
            connection.settimeout(self.deadline.remaining_s)
            connection.connect(path)
        except BaseException as error:
            connection.close()
            if isinstance(error, OSError) and error.errno == errno.EAGAIN:
                raise TimeoutError from None  # its queue is full
            raise
        return connection

    def connect_tcp(self, what: str, url: str) -> None:
        """See that somebody listens on a port, tcp://ADDRESS:PORT."""
        host, _, port = url.partition("://")[2].rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), self.deadline.remaining_s).close()
        except TimeoutError:
            raise self.deadline.silence(f"{what}: {url}: ") from None
        except (OSError, ValueError) as error:
            raise _Finding(ServiceState.NOT_READY, f"{what}: {url}: {error}") from None

    def ask_health(self, path: str) -> None:
        """LTTng's health check."""
        try:
            with self._connect(path, socket.SOCK_STREAM) as connection:
                connection.sendall(HEALTH_COMMAND)
                answer = b""
                while len(answer) < HEALTH_ANSWER_SIZE_BYTES:
                    connection.settimeout(self.deadline.remaining_s)
                    piece = connection.recv(HEALTH_ANSWER_SIZE_BYTES - len(answer))
                    if not piece:
                        raise _Finding(ServiceState.NOT_READY, f"health check: {path}: it hangs up")
                    answer += piece
        except TimeoutError:
            raise self.deadline.silence() from None
        except OSError as error:
            raise _Finding(ServiceState.NOT_READY, f"health check: {path}: {error.strerror}") from None
        if any(answer):
            raise _Finding(ServiceState.NOT_READY, f"health check: threads that are stuck: {answer[::-1].hex()}")

    def failed(self, error: TracefleetError) -> _Finding:
        """Of a request."""
        if isinstance(error, TransportError) and self.deadline.is_over:
            return self.deadline.silence()
        return _Finding(ServiceState.NOT_READY, str(error))


class Probes(NamedTuple):
    """`deadline_s`: for each daemon."""

    tracing_group: str
    deadline_s: float
    relay_bus_sockets: tuple[str, ...]  # empty: those in the run directories

    def session_daemon(self, *, is_needed: bool) -> tuple[ServiceHealth, list[ConsumerSockets]]:
        """The session daemon that serves the caller, and where its consumer daemons listen."""
        from tracefleet_common.messages.sessiond_control import ConsumerSockets

        address = os.environ.get(ADDRESS_VARIABLE)
        directories = candidate_run_directories(self.tracing_group)
        if not address:
            present = [path for path in directories if os.path.exists(bus_address(path).removeprefix(IPC))]
            directory = (present or list(directories[-1:]))[0]
            address = bus_address(directory)
        else:
            directory = os.path.dirname(address.removeprefix(IPC)) if address.startswith(IPC) else directories[-1]
        consumers = f"{directory}/ustconsumerd64"
        sockets = [
            ConsumerSockets(
                bits_per_word=64,
                command=f"{consumers}/command",
                descriptors=f"{consumers}/descriptors",
                health=f"{consumers}/health",
            )
        ]

        def steps(check: _Check) -> None:
            if check.address.startswith(IPC):
                check.find(check.address.removeprefix(IPC))
            try:
                with Client(check.address, deadline_s=check.deadline.remaining_s) as client:
                    info = client.describe_daemon()
            except TracefleetError as error:
                raise check.failed(error) from None
            check.pid, check.version = info.pid, info.version
            sockets[:] = info.consumer_sockets or sockets
            if check.address.startswith(IPC):
                check.connect("application socket", info.application_socket)
                check.ask_health(info.health_socket)

        check = _Check("sessiond", address, self.deadline_s)
        return check.carry_out(steps, is_needed=is_needed), sockets

    def consumer_daemon(self, sockets: ConsumerSockets, *, is_needed: bool) -> ServiceHealth:
        """Nothing is asked on its bus: who says hello there counts as a session daemon that looks after it."""

        def steps(check: _Check) -> None:
            check.find(sockets.health)
            check.ask_health(sockets.health)
            if not os.access(sockets.command, os.W_OK):
                return  # only its own user may command it
            try:
                client = ZmtpClient(
                    check.address, connect_deadline_s=check.deadline.remaining_s, message_size_bytes_max=0
                )
                try:
                    client.send(deadline_s=check.deadline.remaining_s)
                finally:
                    client.close()
            except TracefleetError as error:
                raise check.failed(error) from None
            check.connect("descriptor socket", sockets.descriptors, socket.SOCK_SEQPACKET)

        check = _Check("consumerd", f"{IPC}{sockets.command}", self.deadline_s)
        return check.carry_out(steps, is_needed=is_needed)

    def relay_daemons(self, *, is_needed: bool) -> list[ServiceHealth]:
        """All of the run directory; when one is needed and none is there, that."""
        directories = candidate_run_directories(self.tracing_group)
        paths = self.relay_bus_sockets or [path for each in directories for path in relay_bus_sockets(each)]
        if not paths and is_needed:
            paths = [f"{directories[-1]}/relayd/bus-*"]
        return [self._relay_daemon(path, is_needed=is_needed) for path in paths]

    def _relay_daemon(self, path: str, *, is_needed: bool) -> ServiceHealth:
        def steps(check: _Check) -> None:
            from tracefleet_common.client.relay import RelayClient

            check.find(path)
            try:
                with RelayClient(check.address, deadline_s=check.deadline.remaining_s) as client:
                    info = client.describe_relay()
            except TracefleetError as error:
                raise check.failed(error) from None
            check.pid, check.version = info.pid, info.version
            for what, url in _ports(info):
                check.connect_tcp(what, url)

        return _Check("relayd", f"{IPC}{path}", self.deadline_s).carry_out(steps, is_needed=is_needed)


def _ports(info: RelayInfo) -> Iterator[tuple[str, str]]:
    """Where it listens: every `…_url` that it names."""
    for name in info.__struct_fields__:
        if name.endswith("_url") and (url := getattr(info, name)):
            yield f"{name.removesuffix('_url').replace('_', ' ')} port", url
