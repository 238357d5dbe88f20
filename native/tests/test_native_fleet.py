"""The Python surface of the fleet: signatures, errors, and a session from first packet to last acknowledgement."""

import errno
import os
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tracefleet_common.transport.metadata_memory import MetadataMemory, create_metadata_memory
from tracefleet_native import Channel, Fleet, Output, possible_cpu_count

UUID = bytes(range(16))
DEADLINE_S = 10
HEADER = struct.Struct("<IIQQIIII8Q24x")
ACK = struct.Struct("<IIQQ")
ACK_MAGIC = 0x31616674
PACKET_SIZE_BYTES = 4096


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    fleet = Fleet()
    yield fleet
    fleet.close()


def a_channel(output: Output) -> Channel:
    return Channel(
        name="channel0",
        channel_id=3,
        trace_uuid=UUID,
        is_overwrite=False,
        sub_buffer_size_bytes=PACKET_SIZE_BYTES,
        sub_buffer_count=2,
        switch_timer_period_us=0,
        read_timer_period_us=0,
        blocking_timeout_us=0,
        trace_file_size_bytes=0,
        trace_file_count=0,
        output=output,
    )


def attached(fleet: Fleet, bindings: list[tuple[int, int, int]]) -> socket.socket:
    """The relay daemon's end of a new connection."""
    peer, ours = socket.socketpair()
    peer.settimeout(DEADLINE_S)
    fleet.attach(ours.fileno(), bindings)
    ours.detach()
    return peer


def read_frame(peer: socket.socket) -> tuple[int, int, int]:
    """Handle, sequence and data size of the frame that comes next, whose data is passed over."""
    header = HEADER.unpack(peer.recv(HEADER.size, socket.MSG_WAITALL))
    size = header[4]
    assert len(peer.recv(size, socket.MSG_WAITALL)) == size
    return header[2], header[3], size


def refused(error: int, function: Any, *arguments: Any) -> None:
    with pytest.raises(OSError) as caught:
        function(*arguments)
    assert caught.value.errno == error


def test_a_session_from_the_first_packet_to_the_last_acknowledgement(fleet: Fleet) -> None:
    cpu_count = possible_cpu_count()
    metadata_key = fleet.add_stream()
    output = Output.fleet(fleet, metadata_key, "ust/uid/0/64-bit")
    with closing(MetadataMemory(create_metadata_memory())) as memory, closing(output):
        output.set_metadata(memory.descriptor, UUID)
        memory.append("/* CTF 1.8 */\n")
        channel = a_channel(output)
        keys = [fleet.add_stream() for _ in range(cpu_count)]
        assert keys == list(range(1, cpu_count + 1))
        refused(errno.ENOENT, channel.set_fleet_streams, [99] * cpu_count)
        channel.set_fleet_streams(keys)
        refused(errno.EINVAL, channel.set_fleet_streams, keys)
        channel.flush(is_final=True)
        with attached(fleet, [(key, 100 + key, 0) for key in (metadata_key, *keys)]) as peer:
            assert not channel.drain(50)
            assert not fleet.is_settled()
            handle, sequence, _ = read_frame(peer)
            assert (handle, sequence) == (100, 0)
            frames = {read_frame(peer)[:2] for _ in keys}
            assert frames == {(100 + key, 0) for key in keys}
            for key in (metadata_key, *keys):
                peer.sendall(ACK.pack(ACK_MAGIC, 0, 100 + key, 0))
            assert channel.drain(DEADLINE_S * 1000)
            assert sum(stream.packet_count for stream in channel.books()) == cpu_count
            books = fleet.books()
            assert books.is_attached
            assert (books.sent_count, books.acknowledged_count) == (cpu_count + 1, cpu_count + 1)
            assert books.acknowledged_bytes == (cpu_count + 1) * PACKET_SIZE_BYTES
            assert (books.resent_count, books.spooled_count, books.error) == (0, 0, 0)
            assert fleet.stream_state(keys[0]) == (1, 1, 1)
            assert fleet.is_settled()
        assert select.select([fleet], [], [], DEADLINE_S)[0] == [fleet]
        assert not fleet.books().is_attached
        assert fleet.books().error in {errno.ECONNRESET, errno.EPIPE}
        channel.close()


def test_what_cannot_be_is_refused(fleet: Fleet) -> None:
    assert fleet.add_stream() == 0
    refused(errno.ENOENT, fleet.stream_state, 1)
    refused(errno.ENOTCONN, fleet.bind, 0, 5, 0)
    peer, ours = socket.socketpair()
    with peer, ours:
        refused(errno.ENOENT, fleet.attach, ours.fileno(), [(1, 5, 0)])
        refused(errno.EPROTO, fleet.attach, ours.fileno(), [(0, 5, 1)])
        refused(errno.EEXIST, fleet.attach, ours.fileno(), [(0, 5, 0), (0, 6, 0)])
        with attached(fleet, []):
            refused(errno.EISCONN, fleet.attach, ours.fileno(), [])
            fleet.bind(0, 5, 0)
            refused(errno.EEXIST, fleet.bind, 0, 6, 0)
            fleet.detach()
            fleet.detach()
        fleet.close()
        fleet.close()
        refused(errno.ESHUTDOWN, fleet.attach, ours.fileno(), [])
        assert ours.fileno() >= 0  # still the caller's
    refused(errno.ESHUTDOWN, fleet.add_stream)


def test_a_spool_belongs_to_one_at_a_time(tmp_path: Path) -> None:
    refused(errno.ENOENT, Fleet, str(tmp_path / "missing"), 1 << 20)
    refused(errno.EINVAL, Fleet, "with\0nul", 1 << 20)
    fleet = Fleet(str(tmp_path), 1 << 20)
    assert not fleet.is_damaged
    refused(errno.EBUSY, Fleet, str(tmp_path), 1 << 20)
    output = Output.fleet(fleet, fleet.add_stream(), "ust/uid/0/64-bit")
    with closing(MetadataMemory(create_metadata_memory())) as memory, closing(output):
        output.set_metadata(memory.descriptor, UUID)
        memory.append("/* CTF 1.8 */\n")
        output.write_metadata()
        fleet.close()
    assert fleet.books().spooled_count == 1
    assert fleet.is_settled(or_spooled=True)
    with (tmp_path / "frames").open("ab") as file:
        file.write(os.urandom(100))
    second = Fleet(str(tmp_path), 1 << 20)
    assert second.is_damaged
    assert second.stream_state(0) == (0, 0, 1)
    with attached(second, [(0, 7, 0)]) as peer:
        assert read_frame(peer)[:2] == (7, 0)
        peer.sendall(ACK.pack(ACK_MAGIC, 1, 7, 0))
        peer.shutdown(socket.SHUT_WR)
        assert select.select([second], [], [], DEADLINE_S)[0] == [second]  # it has read all before the end
    assert second.is_settled()
    assert second.books().acknowledged_count == 1
    second.close()
