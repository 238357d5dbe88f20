"""A consumer daemon of LTTng's relay protocol, word by word, for what the genuine one does not do."""

from __future__ import annotations

import socket
import struct

from deadlines import wait_until
from relays import connect_inside
from world import World

from tracefleet_common.codecs import lttng_relay as relay
from tracefleet_common.codecs.lttng_relay_replies import ReplyDecoder
from tracefleet_common.codecs.lttng_relay_requests import encode_request

CONTROL_PORT, DATA_PORT = 5342, 5343
DATA_HEADER = struct.Struct(">QQQII")
CREATION_TIME_S = 1_700_000_000
CREATION_TIME = "20231114-221320"


class RawProducer:
    """One session on a pair of connections. `minor`: of the protocol that it speaks."""

    def __init__(
        self,
        world: World,
        session: str = "raw",
        *,
        session_id: int = 1,
        host: str = "rawhost",
        minor: int = relay.MINOR,
        live_timer_us: int = 0,
    ) -> None:
        self.control = connect_inside(world, CONTROL_PORT)
        self.control.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.data = connect_inside(world, DATA_PORT)
        self._minor = minor
        self._replies = ReplyDecoder(minor)
        self.ask(relay.Version(minor=minor))
        reply = self.ask(
            relay.CreateSession(
                session_name=session,
                host_name=host,
                sessiond_uuid=bytes(range(16)),
                sessiond_session_id=session_id,
                creation_time_s=CREATION_TIME_S,
                live_timer_us=live_timer_us,
            )
        )
        assert isinstance(reply, relay.CreateSessionReply)
        self.session_id, self.output = reply.session_id, reply.output_path
        self._path_prefix = ""
        if minor >= relay.MINOR_TRACE_CHUNKS:
            self.ask(relay.CreateTraceChunk(chunk_id=0, creation_time_s=CREATION_TIME_S))
        else:  # paths are complete, and begin as those of lttng-tools 2.10
            self.output = f"{host}/{session}-{CREATION_TIME}"
            self._path_prefix = f"/{self.output}//"

    def __enter__(self) -> RawProducer:
        return self

    def __exit__(self, *_: object) -> None:
        self.control.close()
        self.data.close()

    def ask(self, *requests: relay.Request) -> relay.Reply:
        """Send all of them at once; the last reply. EOFError when the relay daemon hangs up."""
        for request in requests:
            self._replies.expect(request.command)
        self.control.sendall(b"".join(encode_request(request, self._minor) for request in requests))
        return [self._next_reply() for _ in requests][-1]

    def tell(self, request: relay.SendMetadata) -> None:
        """The request that has no reply."""
        self.control.sendall(encode_request(request, self._minor))

    def _next_reply(self) -> relay.Reply:
        while (reply := self._replies.next_reply()) is None:
            data = self.control.recv(65536)
            if not data:
                raise EOFError("the relay daemon has hung up")
            self._replies.receive(data)
        return reply

    def add(self, channel: str, path: str = "ust", **settings: int) -> int:
        path = self._path_prefix + path
        reply = self.ask(relay.AddStream(channel_name=channel, path=path, trace_chunk_id=0, **settings))
        assert isinstance(reply, relay.AddStreamReply)
        assert reply.return_code == relay.ReturnCode.OK
        assert reply.stream_handle is not None
        return reply.stream_handle

    def send(self, handle: int, sequence: int, data: bytes, padding: int = 0) -> None:
        self.data.sendall(DATA_HEADER.pack(0, handle, sequence, len(data), padding) + data)

    def index(self, handle: int, sequence: int, size_bytes: int) -> relay.SendIndex:
        return relay.SendIndex(
            stream_handle=handle,
            sequence_number=sequence,
            packet_size_bits=8 * size_bytes,
            content_size_bits=8 * size_bytes,
            timestamp_begin=sequence,
            timestamp_end=sequence,
            discarded_event_count=0,
            stream_class_id=0,
            stream_instance_id=0,
            packet_sequence_number=sequence,
        )

    def rotate(self, chunk_id: int, positions: dict[int, int]) -> None:
        """Go on in chunk `chunk_id`, each stream (by handle) from its position on, and archive the one before."""
        self.ask(relay.CreateTraceChunk(chunk_id=chunk_id, creation_time_s=CREATION_TIME_S + chunk_id))
        found = tuple(
            relay.RotationPosition(stream_handle=handle, packet_sequence_number=number)
            for handle, number in positions.items()
        )
        self.ask(relay.RotateStreams(new_chunk_id=chunk_id, positions=found))
        self.ask(
            relay.CloseTraceChunk(
                chunk_id=chunk_id - 1,
                close_time_s=CREATION_TIME_S + chunk_id,
                close_command=relay.CloseCommand.MOVE_TO_COMPLETED,
            )
        )
        # As a session daemon does, before it rotates again: packets may be under way on the data connection.
        wait_until(lambda: not self._is_chunk_there(chunk_id - 1), f"chunk {chunk_id - 1} to be archived")

    def _is_chunk_there(self, chunk_id: int) -> bool:
        reply = self.ask(relay.TraceChunkExists(chunk_id=chunk_id))
        assert isinstance(reply, relay.TraceChunkExistsReply)
        return reply.is_there

    def wait_arrived(self, handle: int, last: int) -> None:
        """Wait until all packets of a stream and their index entries are there, up to number `last`."""
        wait_until(lambda: not self._is_pending(handle, last), f"packet {last} of stream {handle}")

    def _is_pending(self, handle: int, last: int) -> bool:
        number = None if last < 0 else last
        reply = self.ask(relay.DataPending(stream_handle=handle, last_sequence_number=number))
        assert isinstance(reply, relay.PendingReply)
        return reply.status is not relay.PendingStatus.ARRIVED
