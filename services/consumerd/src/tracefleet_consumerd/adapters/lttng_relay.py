"""Sessions at relay daemons, in LTTng's relay protocol: set-up, streams, and the end.

Packets, index entries and metadata go from the native library; what is here asks for a reply, and shares the control
connection with it. Calls block, for bounded time.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
import time
from collections.abc import Sequence
from typing import TypeVar

import tracefleet_native
from tracefleet_common.codecs import lttng_relay as relay
from tracefleet_common.codecs.lttng_relay_replies import ReplyDecoder
from tracefleet_common.codecs.lttng_relay_requests import encode_request
from tracefleet_common.errors import ErrorCode, RemoteProtocolError, TracefleetError, TracerError, TransportError
from tracefleet_common.messages.consumerd_control import RelaySessionState
from tracefleet_common.model.relay_output import RelayOutput
from tracefleet_consumerd.application.ports import StreamPosition
from tracefleet_consumerd.domain.relay import RelaySettings

CONNECT_DEADLINE_S = 5.0
# A relay daemon answers from memory; one that takes longer is stopped, or its host is away.
REPLY_DEADLINE_S = 5.0
RECEIVE_SIZE_BYTES = 4096
PENDING_REPLY_SIZE_BYTES = 4
REQUESTS_AT_ONCE_MAX = 500
FIRST_CHUNK_ID = 0
METADATA_NAME = "metadata"
EXISTS_PAUSE_S = 0.02

Reply = TypeVar("Reply")


class _Silence(Exception):
    """So many replies to requests that were sent did not come in time."""

    def __init__(self, late_count: int) -> None:
        super().__init__("it does not answer")
        self.late_count = late_count


class LttngRelaySession:
    """One session at one relay daemon, while it lasts: once it is lost every call raises TransportError."""

    def __init__(self, settings: RelaySettings) -> None:
        """Connect and make the session. Raises TransportError with LTTng's code."""
        assert isinstance(settings.output, RelayOutput), "the others have our own protocol"
        self._output = settings.output
        self.text = settings.output.text
        self._relay_key = settings.relay_key
        self._minor = 0
        self._decoder = ReplyDecoder()
        self._has_chunk = False
        # Traces without data streams yet: path, and handle of the metadata stream. A viewer that was told of such a
        # trace would forget it, with its metadata, and babeltrace2 would wait for that without end later.
        self._bare_traces: dict[str, int] = {}
        self._has_unpublished = False
        self._lock = threading.Lock()
        self._control, self._data = self._connect()
        try:
            self._native: tracefleet_native.Relay | None = None
            self._session_id = self._negotiate(settings)
            self._native = tracefleet_native.Relay(self._control.fileno(), self._data.fileno())
        except BaseException:
            self._control.close()
            self._data.close()
            raise

    @property
    def native(self) -> tracefleet_native.Relay:
        """What the streams send through."""
        assert self._native is not None, "made with the session"
        return self._native

    @property
    def is_lost(self) -> bool:
        return self.native.is_lost

    def _connect(self) -> tuple[socket.socket, socket.socket]:
        output = self._output
        control: socket.socket | None = None
        try:
            control = socket.create_connection((output.address, output.control_port), CONNECT_DEADLINE_S)
            return control, socket.create_connection((output.address, output.data_port), CONNECT_DEADLINE_S)
        except OSError as error:
            if control is not None:
                control.close()
            raise TransportError(
                f"No relay daemon at {self.text}: {error.strerror or error}", ErrorCode.RELAYD_CONNECT_FAIL
            ) from None

    def _negotiate(self, settings: RelaySettings) -> int:
        """The id of the new session."""
        try:
            version = self._only(relay.Version, self._converse([relay.Version()]))
            if version.major != relay.MAJOR or version.minor < relay.MINOR_TRACE_CHUNKS:
                raise TransportError(
                    f"The relay daemon at {self.text} speaks version {version.major}.{version.minor},"
                    f" not {relay.MAJOR}.{relay.MINOR_TRACE_CHUNKS} or later",
                    ErrorCode.RELAYD_VERSION_FAIL,
                )
            self._minor = self._decoder.minor = relay.agreed_minor(relay.MINOR, version.minor)
            if self._minor >= relay.MINOR_CONFIGURATION:
                configuration = self._only(
                    relay.GetConfigurationReply, self._converse([relay.GetConfiguration(query_flags=0)])
                )
                self._check(configuration.return_code, "configuration", ErrorCode.RELAYD_CONNECT_FAIL)
            created = self._only(relay.CreateSessionReply, self._converse([_create_session(settings)]))
            self._check(created.return_code, "session", ErrorCode.ENABLE_CONSUMER_FAIL)
        except (OSError, _Silence, RemoteProtocolError) as error:
            raise TransportError(
                f"The relay daemon at {self.text} does not answer as one: {error}", ErrorCode.RELAYD_CONNECT_FAIL
            ) from None
        return created.session_id

    # ---- commands ----

    def prepare(self) -> None:
        """Make the first trace chunk, once."""
        with self._lock:
            if self._has_chunk:
                return
            (reply,) = self._ask([relay.CreateTraceChunk(chunk_id=FIRST_CHUNK_ID, creation_time_s=int(time.time()))])
            self._check(_status(reply), "trace chunk", ErrorCode.CREATE_TRACE_CHUNK_FAIL_CONSUMER, is_lost=True)
            self._has_chunk = True

    def add_metadata_stream(self, path: str) -> int:
        """The handle of the metadata stream of the trace at `path`. Viewers see it with the first channel."""
        with self._lock:
            (handle,) = self._add_streams(
                [relay.AddStream(channel_name=METADATA_NAME, path=path, trace_chunk_id=FIRST_CHUNK_ID)]
            )
            self._bare_traces[path] = handle
        return handle

    def add_streams(
        self, path: str, names: Sequence[str], trace_file_size_bytes: int, trace_file_count: int
    ) -> tuple[int, ...]:
        """The handles of data streams, in the order of the names; viewers may see them soon."""
        if trace_file_count == 0:
            # A size without a count makes lttng-relayd 2.13 divide by zero.
            trace_file_size_bytes = 0
        try:
            handles = self._add_streams(
                [
                    relay.AddStream(
                        channel_name=name,
                        path=path,
                        trace_file_size_bytes=trace_file_size_bytes,
                        trace_file_count=trace_file_count,
                        trace_chunk_id=FIRST_CHUNK_ID,
                    )
                    for name in names
                ]
            )
            self._has_unpublished = True
        finally:
            with self._lock:
                self._bare_traces.pop(path, None)  # a trace whose streams are refused holds up no other
        with self._lock:
            self._publish()
        return handles

    def _publish(self) -> None:
        """With the lock held: tell that all streams are there. The request means those of all traces."""
        if not self._has_unpublished or self._bare_traces:
            return  # whoever changes that, does it
        (reply,) = self._ask([relay.StreamsSent()])
        self._check(_status(reply), "streams", ErrorCode.UST_CHANNEL_FAIL, is_lost=True)
        self._has_unpublished = False

    def _add_streams(self, streams: Sequence[relay.AddStream]) -> tuple[int, ...]:
        handles = []
        for stream, reply in zip(streams, self._ask(streams), strict=True):
            added = self._expect(relay.AddStreamReply, reply)
            self._check(added.return_code, f"stream {stream.path}/{stream.channel_name}", ErrorCode.UST_CHANNEL_FAIL)
            if added.stream_handle is None:
                raise RemoteProtocolError(f"The relay daemon at {self.text} adds a stream and does not name it")
            handles.append(added.stream_handle)
        return tuple(handles)

    def is_settled(self, positions: Sequence[StreamPosition], metadata_handles: Sequence[int]) -> bool:
        """Whether everything that was sent up to these positions has arrived.

        Raises TransportError when nobody says so in time; then it may be asked again.
        """
        replies = self._ask(
            [
                relay.BeginDataPending(session_id=self._session_id),
                *(
                    relay.DataPending(stream_handle=position.handle, last_sequence_number=position.last_number)
                    for position in positions
                ),
                *(relay.QuiescentControl(stream_handle=handle) for handle in metadata_handles),
                relay.EndDataPending(session_id=self._session_id),
            ],
            is_patient=True,
        )
        return all(
            reply.status == relay.PendingStatus.ARRIVED for reply in replies if isinstance(reply, relay.PendingReply)
        )

    def close_streams(self, positions: Sequence[StreamPosition]) -> None:
        """Nothing follows in these streams."""
        replies = self._ask(
            [
                relay.CloseStream(stream_handle=position.handle, last_sequence_number=position.last_number)
                for position in positions
            ]
        )
        for reply in replies:
            self._check(_status(reply), "end of a stream", ErrorCode.ROTATION_FAIL_CONSUMER, is_lost=True)
        closed = {position.handle for position in positions}
        with self._lock:
            self._bare_traces = {path: handle for path, handle in self._bare_traces.items() if handle not in closed}
            self._publish()

    def poll(self) -> None:
        """See whether the relay daemon is there, and send what waits for it. Raises TransportError when it is not."""
        try:
            self.native.poll()
        except OSError as error:
            raise self._lost(error) from None

    def state(self) -> RelaySessionState:
        """LTTng's relay daemon acknowledges nothing: what was sent is all that is known."""
        is_lost, sums = self.is_lost, self.native.sums()
        return RelaySessionState(
            relay_key=self._relay_key,
            is_connected=not is_lost,
            trouble=f"The connection to the relay daemon at {self.text} is lost" if is_lost else None,
            sent_packet_count=sums.packet_count,
            sent_bytes=sums.bytes,
        )

    def close(self) -> None:
        """Close the trace chunk, whose streams are closed, and hang up, also when it raises TransportError."""
        try:
            self._wait_until_settled()
            if self._has_chunk:
                (reply,) = self._ask([relay.CloseTraceChunk(chunk_id=FIRST_CHUNK_ID, close_time_s=int(time.time()))])
                closed = self._expect(relay.CloseTraceChunkReply, reply)
                self._check(closed.return_code, "end of the trace chunk", ErrorCode.ROTATION_FAIL_CONSUMER)
                self._wait_until_released()
        finally:
            self.native.close()
            self._control.close()
            self._data.close()

    def _wait_until_settled(self) -> None:
        """Until nothing is under way any more to the streams, which are closed."""
        end_s = time.monotonic() + REPLY_DEADLINE_S
        while True:
            self.poll()
            if self.is_settled((), ()):
                return
            if time.monotonic() >= end_s:
                raise TransportError(f"The relay daemon at {self.text} still waits for data")
            time.sleep(EXISTS_PAUSE_S)

    def _wait_until_released(self) -> None:
        """Until no stream is in the chunk any more: everything that was sent is in the files."""
        end_s = time.monotonic() + REPLY_DEADLINE_S
        while True:
            (reply,) = self._ask([relay.TraceChunkExists(chunk_id=FIRST_CHUNK_ID)])
            exists = self._expect(relay.TraceChunkExistsReply, reply)
            self._check(exists.return_code, "trace chunk", ErrorCode.ROTATION_FAIL_CONSUMER)
            if not exists.is_there:
                return
            if time.monotonic() >= end_s:
                raise TransportError(
                    f"The relay daemon at {self.text} still waits for data", ErrorCode.ROTATION_FAIL_CONSUMER
                )
            time.sleep(EXISTS_PAUSE_S)

    # ---- requests and replies ----

    def _ask(self, requests: Sequence[relay.Request], *, is_patient: bool = False) -> list[relay.Reply]:
        """The replies. Raises TransportError.

        `is_patient`: replies of four bytes each, that may come late without the session being lost.
        """
        if not requests:
            return []
        native = self.native
        try:
            native.begin(int(REPLY_DEADLINE_S * 1000))
        except TimeoutError:
            raise TransportError(f"The relay daemon at {self.text} does not answer") from None
        except OSError as error:
            raise self._lost(error) from None
        problem, late_count = errno.EPROTO, 0
        replies: list[relay.Reply] = []
        try:
            self._converse(requests, replies)
            problem = 0
        except _Silence as silence:
            if is_patient:
                problem, late_count = 0, silence.late_count
            else:
                problem = errno.ETIMEDOUT
            raise TransportError(f"The relay daemon at {self.text} does not answer") from None
        except OSError as error:
            problem = error.errno or errno.EPROTO
            raise self._lost(error) from None
        finally:
            late_size_bytes = late_count * PENDING_REPLY_SIZE_BYTES - self._decoder.buffered_size_bytes
            if late_count:
                self._decoder = ReplyDecoder(self._minor)
            native.end(problem, max(0, late_size_bytes) if late_count else 0)
        return replies

    def _converse(
        self, requests: Sequence[relay.Request], replies: list[relay.Reply] | None = None
    ) -> list[relay.Reply]:
        """Send requests and read their replies. Raises OSError, _Silence or RemoteProtocolError."""
        replies = [] if replies is None else replies
        # A relay daemon that cannot send its replies reads no more requests: not too many at once.
        for begin in range(0, len(requests), REQUESTS_AT_ONCE_MAX):
            self._converse_at_once(requests[begin : begin + REQUESTS_AT_ONCE_MAX], replies)
        return replies

    def _converse_at_once(self, requests: Sequence[relay.Request], replies: list[relay.Reply]) -> None:
        end_s = time.monotonic() + REPLY_DEADLINE_S
        reply_count = len(replies) + len(requests)
        for request in requests:
            self._decoder.expect(request.command)
        self._control.settimeout(REPLY_DEADLINE_S)
        self._control.sendall(b"".join(encode_request(request, self._minor) for request in requests))
        try:
            while len(replies) < reply_count:
                reply = self._decoder.next_reply()
                if reply is not None:
                    replies.append(reply)
                    continue
                self._control.settimeout(max(0.001, end_s - time.monotonic()))
                data = self._control.recv(RECEIVE_SIZE_BYTES)
                if not data:
                    raise ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))
                self._decoder.receive(data)
        except TimeoutError:
            raise _Silence(reply_count - len(replies)) from None

    def _only(self, kind: type[Reply], replies: list[relay.Reply]) -> Reply:
        return self._expect(kind, replies[0])

    def _expect(self, kind: type[Reply], reply: relay.Reply) -> Reply:
        assert isinstance(reply, kind), "the decoder knows what was asked"
        return reply

    def _check(self, return_code: int, what: str, code: ErrorCode, *, is_lost: bool = False) -> None:
        if return_code == relay.ReturnCode.OK:
            return
        kind: type[TracefleetError] = TransportError if is_lost or self._native is None else TracerError
        raise kind(f"The relay daemon at {self.text} refuses: {what} (code {return_code})", code)

    def _lost(self, error: OSError) -> TransportError:
        return TransportError(
            f"The connection to the relay daemon at {self.text} is lost: {error.strerror or error}",
            ErrorCode.RELAYD_CONNECT_FAIL,
        )


def _status(reply: relay.Reply) -> int:
    assert isinstance(reply, relay.StatusReply), "the decoder knows what was asked"
    return reply.return_code


def _create_session(settings: RelaySettings) -> relay.CreateSession:
    return relay.CreateSession(
        session_name=settings.session_name,
        host_name=settings.host_name,
        live_timer_us=settings.live_timer_period_us,
        base_path=settings.output.subdirectory.lstrip("/"),
        has_creation_time_in_name=settings.has_creation_time_in_name,
        sessiond_uuid=settings.sessiond_uuid,
        sessiond_session_id=settings.session_id,
        creation_time_s=settings.creation_time_s,
    )
