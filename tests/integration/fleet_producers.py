"""A sender of fleet:// sessions, word by word, and the trace that it sends: for what no sender does."""

from __future__ import annotations

import os
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

from deadlines import DEADLINE_S
from relays import connect_inside
from world import World

from tracefleet_common.codecs.fleet_stream import GREETING_SIZE_BYTES, crc32c, encode_greeting
from tracefleet_common.messages.envelope import FRAME_SIZE_BYTES_MAX, Done
from tracefleet_common.messages.relay_streaming import (
    AddedStream,
    AddStreams,
    CloseStreaming,
    EndStreams,
    OpenStreaming,
    RelayStreamingReply,
    StreamEnd,
    StreamingOpened,
    StreamRequest,
    StreamsAdded,
)
from tracefleet_common.model.relay_output import FLEET_DATA_PORT_DEFAULT, FLEET_PORT_DEFAULT, Durability
from tracefleet_common.transport import frames
from tracefleet_common.transport.zmtp_client import ZmtpClient

HEADER = struct.Struct("<4sIQQIIII8Q24x")
ACK = struct.Struct("<4sIQQ")
WRITTEN, SYNCED, GAP, CORRUPT = range(4)
NOTHING = (1 << 64) - 1  # as the sequence of a refusal: no packet is there
BEACON = 1
TRACE_UUID = bytes(range(16))
TRACE_PATH = "ust/uid/0/64-bit"
HOST_NAME = os.uname().nodename
CREATION_TIME_S = 1_700_000_000

# The layout of LTTng's packets; one event class with a number.
METADATA = """/* CTF 1.8 */

typealias integer { size = 8; align = 8; signed = false; } := uint8_t;
typealias integer { size = 32; align = 8; signed = false; } := uint32_t;
typealias integer { size = 64; align = 8; signed = false; } := uint64_t;
trace {
    major = 1; minor = 8;
    uuid = "00010203-0405-0607-0809-0a0b0c0d0e0f";
    byte_order = le;
    packet.header := struct {
        uint32_t magic; uint8_t uuid[16]; uint32_t stream_id; uint64_t stream_instance_id;
    };
};
env {
    domain = "ust"; tracer_name = "lttng-ust"; tracer_major = 2; tracer_minor = 13;
    architecture_bit_width = 64;
};
clock { name = monotonic; freq = 1000000000; };
typealias integer { size = 64; align = 8; signed = false; map = clock.monotonic.value; } := time_t;
stream {
    id = 0;
    event.header := struct { time_t timestamp; };
    packet.context := struct {
        time_t timestamp_begin; time_t timestamp_end; uint64_t content_size; uint64_t packet_size;
        uint64_t packet_seq_num; uint64_t events_discarded; uint32_t cpu_id;
    };
};
"""
EVENT_CLASS = """event {
    name = "tf:numbered"; id = 0; stream_id = 0;
    fields := struct { uint64_t number; };
};
"""
EVENTS_PER_PACKET = 4
_PACKET = struct.Struct("<I16sIQ6QI")
_EVENT = struct.Struct("<QQ")
_METADATA_PACKET = struct.Struct("<I16sIII5B")

Reply = TypeVar("Reply")


class Packet(NamedTuple):
    """`entry`: content size (bits), timestamps, events discarded, stream class and instance, the tracer's number."""

    data: bytes
    padding_size: int
    entry: tuple[int, ...]


def metadata_packet(text: str) -> Packet:
    """One, as the tracer makes them."""
    size_bits = 8 * (_METADATA_PACKET.size + len(text))
    header = _METADATA_PACKET.pack(0x75D11D57, TRACE_UUID, 0, size_bits, size_bits, 0, 0, 0, 1, 8)
    return Packet(header + text.encode(), 0, (size_bits, 0, 0, 0, 0, 0, 0))


def metadata_packets() -> list[Packet]:
    return [metadata_packet(METADATA), metadata_packet(EVENT_CLASS)]


def data_packet(number: int, *, cpu: int = 0, padding_size: int = 40, discarded: int = 0) -> Packet:
    """The tracer's packet `number` of a stream, with the event records that follow those of the packet before."""
    first = number * EVENTS_PER_PACKET
    begin, end = 1000 * (first + 1), 1000 * (first + EVENTS_PER_PACKET)
    records = b"".join(_EVENT.pack(1000 * (one + 1), one) for one in range(first, first + EVENTS_PER_PACKET))
    content_bits = 8 * (_PACKET.size + len(records))
    size_bits = content_bits + 8 * padding_size
    header = _PACKET.pack(0xC1FC1FC1, TRACE_UUID, 0, cpu, begin, end, content_bits, size_bits, number, discarded, cpu)
    return Packet(header + records, padding_size, (content_bits, begin, end, discarded, 0, cpu, number))


PACKET_SIZE_BYTES = len(data_packet(0).data) + data_packet(0).padding_size


def frame(handle: int, sequence: int, packet: Packet, *, flags: int = 0, crc: int | None = None) -> bytes:
    """As it travels. `crc`: of the data; None: the right one."""
    content, begin, end, *rest = packet.entry
    payload_crc = crc32c(packet.data) if crc is None else crc
    sizes = (len(packet.data), packet.padding_size, payload_crc, flags)
    entry = (8 * (len(packet.data) + packet.padding_size), content, begin, end, *rest)
    bare = HEADER.pack(b"tfp1", 0, handle, sequence, *sizes, *entry)
    return bare[:4] + crc32c(bare).to_bytes(4, "little") + bare[8:] + packet.data


def beacon(handle: int, sequence: int, timestamp_end: int) -> bytes:
    return frame(handle, sequence, Packet(b"", 0, (0, 0, timestamp_end, 0, 0, 0, 0)), flags=BEACON, crc=0)


class Bus(ZmtpClient):
    """Commands, over a connection that is there already."""

    def __init__(self, connection: socket.socket) -> None:
        self.address = "the relay daemon"
        self.is_waiting = None
        self.waiting_period_s = 0.2
        self._message_size_bytes_max = FRAME_SIZE_BYTES_MAX
        self._received = bytearray()
        self._is_ready = False
        self._socket = connection
        self._request_id = 1
        self._decoder = frames.body_decoder(RelayStreamingReply)
        self.say(frames.hello("a test"))

    def say(self, request: Any) -> Any:
        """The reply; raises the error that is in it, or TransportError."""
        self._request_id += 1
        self.send(frames.encode_request(self._request_id, 10_000, request), deadline_s=DEADLINE_S)
        while True:
            header, body = self.receive(deadline_s=DEADLINE_S)
            reply = frames.decode_reply_header(header)
            if reply.is_error:
                raise frames.decode_error(body)
            if reply.request_id == self._request_id:
                return frames.decode_body(self._decoder, body)


class FleetProducer:
    """One session; the token of another producer goes on with that one's."""

    def __init__(
        self,
        world: World,
        session: str = "raw",
        *,
        token: bytes | None = None,
        live_timer_period_us: int = 0,
        durability: Durability = Durability.WRITTEN,
        **settings: Any,
    ) -> None:
        self.world = world
        self.token = os.urandom(16) if token is None else token
        self.bus = Bus(connect_inside(world, FLEET_PORT_DEFAULT))
        self.request = OpenStreaming(
            **{
                "token": self.token,
                "session_name": session,
                "host_name": HOST_NAME,
                "has_creation_time_in_name": False,
                "creation_time_s": CREATION_TIME_S,
                "sessiond_uuid": TRACE_UUID,
                "session_id": 1,
                "live_timer_period_us": live_timer_period_us,
                "subdirectory": "",
                "durability": durability,
                **settings,
            }
        )
        opened = self.ask(self.request, StreamingOpened)
        self.session_id, self.output, self.is_resumed = opened.relay_session_id, opened.output, opened.is_resumed
        self.data: socket.socket | None = None
        self.acknowledged: dict[int, tuple[int, int]] = {}  # latest status and sequence, by handle

    def __enter__(self) -> FleetProducer:
        return self

    def __exit__(self, *_: object) -> None:
        self.bus.close()
        if self.data is not None:
            self.data.close()

    def ask(self, request: Any, reply: type[Reply]) -> Reply:
        answer = self.bus.say(request)
        assert isinstance(answer, reply), answer
        return answer

    def add(self, *streams: StreamRequest) -> list[AddedStream]:
        return list(self.ask(AddStreams(token=self.token, streams=streams), StreamsAdded).streams)

    def connect_data(self) -> socket.socket:
        self.data = connect_inside(self.world, FLEET_DATA_PORT_DEFAULT)
        self.data.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        greeting = encode_greeting(self.token)
        assert len(greeting) == GREETING_SIZE_BYTES
        self.data.sendall(greeting)
        return self.data

    def send(self, handle: int, packets: Sequence[Packet], first_sequence: int = 0) -> None:
        assert self.data is not None
        self.data.sendall(
            b"".join(frame(handle, sequence, one) for sequence, one in enumerate(packets, first_sequence))
        )

    def next_acknowledgement(self) -> tuple[int, int, int] | None:
        """Status, handle, sequence; None: the relay daemon has hung up."""
        assert self.data is not None
        received = b""
        try:
            while len(received) < ACK.size:
                part = self.data.recv(ACK.size - len(received))
                if not part:
                    return None
                received += part
        except ConnectionError:
            return None
        magic, status, handle, sequence = ACK.unpack(received)
        assert magic == b"tfa1"
        self.acknowledged[handle] = status, sequence
        return status, handle, sequence

    def wait_acknowledged(self, handle: int, sequence: int, status: int = WRITTEN) -> None:
        """Until the answer for that packet is there; those of other streams, and of packets before, may come first."""
        while self.acknowledged.get(handle) != (status, sequence):
            assert self.next_acknowledgement() is not None, f"hung up before {sequence}: {self.acknowledged}"

    def is_hung_up_on(self) -> bool:
        """Read until the relay daemon hangs up, or is silent for too long."""
        assert self.data is not None
        while select.select([self.data], [], [], DEADLINE_S)[0]:
            if self.next_acknowledgement() is None:
                return True
        return False

    def end(self, **next_sequences: int) -> None:
        """`h12=5`: the stream with handle 12 ends before packet 5."""
        ends = tuple(
            StreamEnd(handle=int(name[1:]), next_sequence=next_sequence)
            for name, next_sequence in next_sequences.items()
        )
        self.ask(EndStreams(token=self.token, ends=ends), Done)

    def close(self) -> None:
        self.ask(CloseStreaming(token=self.token), Done)


def a_stream(channel_name: str = "c_0", path: str = TRACE_PATH, **settings: int) -> StreamRequest:
    return StreamRequest(path=path, channel_name=channel_name, **settings)


def numbers_of(packet_numbers: Sequence[int]) -> Iterator[int]:
    """Of the event records in these packets."""
    for number in packet_numbers:
        yield from range(number * EVENTS_PER_PACKET, (number + 1) * EVENTS_PER_PACKET)
