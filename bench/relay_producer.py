"""Keeps many streams on a relay daemon, as session and consumer daemons of many hosts would, and writes to them slowly.

Of our own codecs and sockets, so that both relay daemons get the same, at the same time, from the same producer.
"""

from __future__ import annotations

import socket
import time
from contextlib import ExitStack
from types import TracebackType

from bench.peers import DEADLINE_S, RELAY_PORTS
from tracefleet_common.codecs import lttng_relay as relay
from tracefleet_common.codecs.lttng_relay_data import DataHeader, encode_data_header
from tracefleet_common.codecs.lttng_relay_replies import ReplyDecoder
from tracefleet_common.codecs.lttng_relay_requests import encode_request

HOST_COUNT = 10
PACKET = bytes(4096)
_CREATION_TIME_S = 1_700_000_000
_TICK_S = 0.01


class _Host:
    """One recording session of one host, on a pair of connections."""

    def __init__(self, number: int, live_timer_us: int, sockets: ExitStack) -> None:
        self._control, self._data = (
            sockets.enter_context(socket.create_connection(("127.0.0.1", port), DEADLINE_S)) for port in RELAY_PORTS[:2]
        )
        for connection in (self._control, self._data):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._replies = ReplyDecoder(relay.MINOR)
        self._ask(relay.Version())
        self._ask(
            relay.CreateSession(
                session_name="bench",
                host_name=f"host{number}",
                live_timer_us=live_timer_us,
                sessiond_uuid=number.to_bytes(relay.SESSIOND_UUID_SIZE_BYTES, "big"),
                sessiond_session_id=number,
                creation_time_s=_CREATION_TIME_S,
            )
        )
        self._ask(relay.CreateTraceChunk(chunk_id=0, creation_time_s=_CREATION_TIME_S))

    def add_stream(self, number: int) -> int:
        """Return the handle of a new stream."""
        reply = self._ask(relay.AddStream(channel_name=f"channel_{number}", path="ust/uid/0/64-bit", trace_chunk_id=0))
        assert isinstance(reply, relay.AddStreamReply)
        if reply.stream_handle is None:
            raise RuntimeError(f"The relay daemon refuses stream {number}: {reply}")
        return reply.stream_handle

    def publish_streams(self) -> None:
        """Say that all streams were added."""
        self._ask(relay.StreamsSent())

    def send_packet(self, handle: int, number: int) -> None:
        """Send packet `number` (from 0) of a stream, and its index entry."""
        header = DataHeader(stream_handle=handle, sequence_number=number, payload_size_bytes=len(PACKET))
        self._data.sendall(encode_data_header(header) + PACKET)
        self._send_index(handle, number, size_bits=8 * len(PACKET))

    def send_beacon(self, handle: int) -> None:
        """Say that nothing happened in a stream until now."""
        self._send_index(handle, None, size_bits=0)

    def _send_index(self, handle: int, number: int | None, size_bits: int) -> None:
        now = time.monotonic_ns()
        self._ask(
            relay.SendIndex(
                stream_handle=handle,
                sequence_number=number,
                packet_size_bits=size_bits,
                content_size_bits=size_bits,
                timestamp_begin=now,
                timestamp_end=now,
                discarded_event_count=0,
                stream_class_id=0,
                stream_instance_id=0,
                packet_sequence_number=number,
            )
        )

    def _ask(self, request: relay.Request) -> relay.Reply:
        self._replies.expect(request.command)
        self._control.sendall(encode_request(request))
        while (reply := self._replies.next_reply()) is None:
            data = self._control.recv(65536)
            if not data:
                raise EOFError(f"The relay daemon has hung up after {request}")
            self._replies.receive(data)
        if getattr(reply, "return_code", relay.ReturnCode.OK) != relay.ReturnCode.OK:
            raise RuntimeError(f"The relay daemon answers {reply} to {request}")
        return reply


class Producer:
    """`count` streams of HOST_COUNT hosts. `live_timer_us`: 0, or they are live. A context manager."""

    def __init__(self, count: int, live_timer_us: int) -> None:
        self._count = count
        with ExitStack() as sockets:
            hosts = [_Host(number, live_timer_us, sockets) for number in range(1, HOST_COUNT + 1)]
            adding = [hosts[number % HOST_COUNT] for number in range(count)]
            self._streams = [(host, host.add_stream(number)) for number, host in enumerate(adding)]
            for host in hosts:
                host.publish_streams()
            self._sockets = sockets.pop_all()

    def __enter__(self) -> Producer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._sockets.close()

    def send(self, seconds: int, is_beacon: bool) -> int:
        """Send a packet, or a beacon, a second in each stream, evenly spread in time; how many there were."""
        begin = time.monotonic()
        for number in range(seconds * self._count):
            while time.monotonic() < begin + number / self._count:
                time.sleep(_TICK_S)
            host, handle = self._streams[number % self._count]
            if is_beacon:
                host.send_beacon(handle)
            else:
                host.send_packet(handle, number // self._count)
        return seconds * self._count
