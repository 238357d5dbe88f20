"""The Python surface of the native library: values, errors, and what happens after a close."""

import errno
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tracefleet_common.transport.metadata_memory import MetadataMemory, create_metadata_memory
from tracefleet_native import (
    Channel,
    Output,
    Pump,
    has_repair,
    possible_cpu_count,
    ring_buffer_size_bytes,
)

UUID = bytes(range(16))


def a_channel(output: Output | None, **changes: Any) -> Channel:
    attributes: dict[str, Any] = {
        "name": "channel0",
        "channel_id": 3,
        "trace_uuid": UUID,
        "is_overwrite": False,
        "sub_buffer_size_bytes": 4096,
        "sub_buffer_count": 2,
        "switch_timer_period_us": 0,
        "read_timer_period_us": 0,
        "blocking_timeout_us": 0,
        "trace_file_size_bytes": 0,
        "trace_file_count": 0,
    }
    return Channel(**(attributes | changes), output=output)


@pytest.fixture
def output(tmp_path: Path) -> Iterator[Output]:
    output = Output(str(tmp_path), "ust/uid/0/64-bit", os.getuid(), os.getgid())
    yield output
    output.close()


def test_the_known_layout_is_found() -> None:
    assert has_repair()
    assert ring_buffer_size_bytes(16384, 2) == 53472  # measured with liblttng-ust 2.13


def test_a_channel_without_events_leaves_one_empty_packet_per_stream(output: Output, tmp_path: Path) -> None:
    channel = a_channel(output)
    directory = tmp_path / "ust/uid/0/64-bit"
    names = [f"channel0_{cpu}" for cpu in range(possible_cpu_count())]
    assert sorted(path.name for path in directory.iterdir()) == [*names, "index"]
    assert [(directory / name).stat().st_size for name in names] == [0] * len(names)
    channel.flush(is_final=False)
    assert channel.drain(1000)
    assert all(books.packet_count == 0 for books in channel.books())
    for _ in range(2):  # a second final flush adds nothing
        channel.flush(is_final=True)
        assert channel.drain(1000)
    assert [(directory / name).stat().st_size for name in names] == [4096] * len(names)
    assert [(directory / "index" / f"{name}.idx").stat().st_size for name in names] == [88] * len(names)
    channel.resume()
    channel.flush(is_final=True)
    assert channel.drain(1000)
    assert all(books == (cpu, 2, 8192, 0, 0, 0) for cpu, books in enumerate(channel.books()))
    assert channel.usage() == (0, 0, 8192 * possible_cpu_count())
    assert channel.error() == 0
    channel.close()


def test_file_names_follow_the_limit_of_their_size(output: Output, tmp_path: Path) -> None:
    channel = a_channel(output, trace_file_size_bytes=4096, trace_file_count=2)
    for _ in range(3):
        channel.flush(is_final=True)
        assert channel.drain(1000)
        channel.resume()
    channel.close()
    directory = tmp_path / "ust/uid/0/64-bit"
    assert (directory / "channel0_0_0").stat().st_size == 4096
    assert {path.name for path in directory.glob("channel0_0_*")} == {"channel0_0_0", "channel0_0_1"}
    assert {path.name for path in (directory / "index").glob("channel0_0_*")} == {
        "channel0_0_0.idx",
        "channel0_0_1.idx",
    }


def test_metadata_comes_in_packets_of_a_page_before_the_data(output: Output, tmp_path: Path) -> None:
    with closing(MetadataMemory(create_metadata_memory())) as memory:
        output.set_metadata(memory.descriptor, UUID)
        memory.append("/* CTF 1.8 */\n")
        channel = a_channel(output)
        channel.flush(is_final=True)
        assert channel.drain(1000)
        file = tmp_path / "ust/uid/0/64-bit/metadata"
        packet = file.read_bytes()
        assert len(packet) == 4096
        assert packet[:37].hex() == "571dd175" + UUID.hex() + "00000000" + "98010000" + "00800000" + "0000000108"
        assert packet[37:52] == b"/* CTF 1.8 */\n\0"
        memory.append("x" * 5000)
        output.close()
        assert file.read_bytes()[:4096] == packet
        assert file.stat().st_size == 3 * 4096
        with pytest.raises(ValueError, match="16 bytes"):
            output.set_metadata(memory.descriptor, b"short")


def test_what_is_no_metadata_memory_is_refused(output: Output) -> None:
    descriptor = os.memfd_create("other")
    with pytest.raises(OSError) as caught:
        output.set_metadata(descriptor, UUID)
    os.close(descriptor)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("path", ["", "/etc", "..", "a/../../b", "a//b", "a/", "."])
def test_a_path_that_leaves_the_root_is_refused(path: str) -> None:
    with pytest.raises(OSError) as caught:
        Output("/tmp", path, 0, 0)
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize(
    "changes",
    [
        {"sub_buffer_size_bytes": 5000},
        {"sub_buffer_size_bytes": 2048},
        {"sub_buffer_size_bytes": -1},
        {"sub_buffer_size_bytes": 1 << 40},
        {"sub_buffer_count": 3},
        {"sub_buffer_count": 1, "is_overwrite": True},
        {"channel_id": 1 << 32},
        {"blocking_timeout_us": -2},
        {"name": "a/b"},
        {"name": ""},
        {"name": "nul\0"},
    ],
    ids=str,
)
def test_bad_attributes_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(OSError) as caught:
        a_channel(None, **changes)
    assert caught.value.errno == errno.EINVAL


def test_buffers_beyond_the_shared_memory_are_refused_with_the_numbers() -> None:
    available = os.statvfs("/dev/shm").f_bavail * os.statvfs("/dev/shm").f_frsize
    size = 1 << 29
    if 3 * size * possible_cpu_count() <= available:
        pytest.skip("/dev/shm is larger than any channel")
    with pytest.raises(OSError, match=str(ring_buffer_size_bytes(size, 2) * possible_cpu_count())) as caught:
        a_channel(None, sub_buffer_size_bytes=size)
    assert caught.value.errno == errno.ENOSPC


def test_the_export_has_what_applications_need() -> None:
    channel = a_channel(None)
    channel_type, data, descriptors = channel.export()
    try:
        assert channel_type == 0
        assert len(data) > 500
        assert len(descriptors) == 1 + 2 * possible_cpu_count()
        assert all(os.fstat(fd).st_size == ring_buffer_size_bytes(4096, 2) for fd in descriptors[1::2])
        assert not any(os.get_inheritable(fd) for fd in descriptors)
        with pytest.raises(OSError):
            channel.export()
    finally:
        for descriptor in descriptors:
            os.close(descriptor)
        channel.close()


def test_a_closed_channel_says_so_and_keeps_its_books(output: Output) -> None:
    channel = a_channel(output)
    channel.flush(is_final=True)
    channel.close()
    channel.close()
    for call in (
        lambda: channel.flush(is_final=True),
        lambda: channel.drain(0),
        lambda: channel.repair(),
        channel.resume,
        channel.usage,
        channel.export,
        lambda: Pump().add(channel, 1),
    ):
        with pytest.raises(ValueError, match="channel0 is closed"):
            call()
    assert [books.unwritten_packet_count for books in channel.books()] == [1] * possible_cpu_count()


def test_a_pump_returns_when_it_is_woken() -> None:
    pump = Pump()
    assert pump.run(0) == []
    pump.wake()
    assert pump.run(-1) == []


def test_a_channel_leaves_its_pump_when_it_closes(output: Output) -> None:
    pump = Pump()
    channel = a_channel(output)
    pump.add(channel, 1)
    with pytest.raises(OSError):
        pump.add(channel, 2)
    channel.close()
    pump.remove(channel)
    assert pump.run(0) == []
