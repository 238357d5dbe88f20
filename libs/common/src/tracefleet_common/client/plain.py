"""The blocking client of a daemon: no event loop, no libzmq, ready in milliseconds."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

from tracefleet_common.client.commands import SessiondCommands
from tracefleet_common.client.run_directory import DEFAULT_TRACING_GROUP, candidate_addresses
from tracefleet_common.errors import RemoteProtocolError, TransportError
from tracefleet_common.messages.envelope import FRAME_SIZE_BYTES_MAX, HelloReply
from tracefleet_common.transport import frames
from tracefleet_common.transport.zmtp_client import ZmtpClient

if TYPE_CHECKING:
    import msgspec

Reply = TypeVar("Reply")

SOFTWARE = "tracefleet 0.1.0"
CONNECT_DEADLINE_S = 5.0
HELLO_REQUEST_ID = 1


class Connection:
    """A connection to the first daemon of these addresses that is there.

    `deadline_s` replaces the deadlines of the commands. The hello travels with the first request: what is wrong
    with the peer shows when it is first asked.
    """

    def __init__(self, addresses: tuple[str, ...], deadline_s: float | None, software: str) -> None:
        self._deadline_s = deadline_s
        self._software = software
        self._request_id = HELLO_REQUEST_ID
        self._peer: HelloReply | None = None
        self.link = _first_that_answers(addresses, min(CONNECT_DEADLINE_S, deadline_s or CONNECT_DEADLINE_S))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self.link.close()

    def ask(self, request: msgspec.Struct, reply: type[Reply], deadline_s: float) -> Reply:
        """Send one request and wait for its reply. Raises the daemon's TracefleetError, or TransportError."""
        deadline_s = self._deadline_s or deadline_s
        deadline_ms = min(max(1, int(deadline_s * 1000)), frames.DEADLINE_MS_MAX)
        self._request_id += 1
        messages = [frames.encode_request(self._request_id, deadline_ms, request)]
        if self._peer is None:
            hello = frames.hello(self._software)
            messages.insert(0, frames.encode_request(HELLO_REQUEST_ID, deadline_ms, hello))
        try:
            self.link.send(*messages, deadline_s=deadline_s)
            if self._peer is None:
                answer = self._await_reply(HELLO_REQUEST_ID, HelloReply, deadline_s)
                self._peer = frames.check_hello_reply(answer)
            return self._await_reply(self._request_id, reply, deadline_s)
        except (TransportError, RemoteProtocolError):
            self.close()  # a reply that comes late must not be taken for the next one
            raise

    def _await_reply(self, request_id: int, reply: type[Reply], deadline_s: float) -> Reply:
        while True:
            parts = self.link.receive(deadline_s=deadline_s)
            if len(parts) != 2:
                raise RemoteProtocolError(f"A message has 2 frames, this one has {len(parts)}")
            header = frames.decode_reply_header(parts[0])
            if header.request_id != request_id:
                continue  # a notice: nothing that this client asked for
            if header.is_error:
                raise frames.decode_error(parts[1])
            decoded: Any = frames.decode_body(frames.body_decoder(reply), parts[1])
            return cast(Reply, decoded)


class Client(Connection, SessiondCommands):
    """A connection to one session daemon.

    `address`: where to; None: the daemon that serves the caller (see run_directory).
    """

    def __init__(
        self,
        address: str | None = None,
        *,
        tracing_group: str = DEFAULT_TRACING_GROUP,
        deadline_s: float | None = None,
        software: str = SOFTWARE,
    ) -> None:
        super().__init__(candidate_addresses(tracing_group) if address is None else (address,), deadline_s, software)


def _first_that_answers(addresses: tuple[str, ...], deadline_s: float) -> ZmtpClient:
    for address in addresses[:-1]:
        try:
            return _connect(address, deadline_s)
        except TransportError:
            continue  # the global daemon is away: the caller's own may be there
    return _connect(addresses[-1], deadline_s)


def _connect(address: str, deadline_s: float) -> ZmtpClient:
    return ZmtpClient(address, connect_deadline_s=deadline_s, message_size_bytes_max=FRAME_SIZE_BYTES_MAX)
