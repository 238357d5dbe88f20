"""What a session daemon publishes counts as a whole, and only that."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest

from tracefleet_common.errors import RemoteProtocolError, ResourceExhausted, TransportError
from tracefleet_common.transport import metadata_memory
from tracefleet_common.transport.metadata_memory import MetadataMemory, create_metadata_memory


@pytest.fixture
def reader() -> Iterator[int]:
    """A descriptor of the memory, as the consumer daemon keeps one."""
    descriptor = create_metadata_memory()
    yield descriptor
    os.close(descriptor)


def published(reader: int) -> bytes:
    magic, version, size_bytes = struct.unpack("=IIQ", os.pread(reader, 16, 0))
    assert (magic, version) == (0x74664D44, 2)
    return os.pread(reader, size_bytes, 4096)


def test_text_counts_when_it_is_appended(reader: int) -> None:
    with closing(MetadataMemory(os.dup(reader))) as memory:
        assert published(reader) == b""
        memory.append("größer ")
        memory.append("x" * 10_000)
    assert published(reader) == "größer ".encode() + b"x" * 10_000


def test_what_does_not_fit_leaves_everything_as_it_was(reader: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata_memory, "TEXT_SIZE_BYTES_MAX", 10)
    with closing(MetadataMemory(os.dup(reader))) as memory:
        memory.append("12345")
        with pytest.raises(ResourceExhausted):
            memory.append("123456")
        assert published(reader) == b"12345"
        memory.append("67890")
    assert published(reader) == b"1234567890"


def test_a_write_that_fails_half_way_leaves_everything_as_it_was(reader: int, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.pwrite

    def write_a_part(descriptor: int, data: memoryview, offset: int) -> int:
        if offset > 4096 + 4:
            raise OSError(12, "Cannot allocate memory")
        return write(descriptor, data[:4], offset)

    with closing(MetadataMemory(os.dup(reader))) as memory:
        memory.append("ab")
        with monkeypatch.context() as broken:
            broken.setattr(os, "pwrite", write_a_part)
            with pytest.raises(ResourceExhausted, match="allocate"):
                memory.append("123456")
        assert published(reader) == b"ab"
        memory.append("cd")
    assert published(reader) == b"abcd"


def test_channels_are_described_one_by_one(reader: int) -> None:
    with closing(MetadataMemory(os.dup(reader))) as memory:
        for channel_id in (1, 4079, 4080, 100_000):
            memory.set_described(channel_id)
        memory.append("text")
    described = os.pread(reader, 4080, 16)
    assert [channel_id for channel_id, byte in enumerate(described) if byte] == [1, 4079]
    assert published(reader) == b"text"


def test_nothing_is_published_after_the_close(reader: int) -> None:
    memory = MetadataMemory(os.dup(reader))
    memory.close()
    memory.close()
    with pytest.raises(TransportError):
        memory.append("x")
    memory.set_described(0)
    assert os.pread(reader, 1, 16) == b"\0"


def test_the_header_cannot_be_cut_off(reader: int) -> None:
    with pytest.raises(PermissionError):
        os.ftruncate(reader, 0)
    with mmap.mmap(reader, 4096, prot=mmap.PROT_READ) as header:
        assert header[:4] == b"DMft"


@pytest.mark.parametrize("content", [b"", b"x" * 4096, struct.pack("=IIQ", 0x74664D44, 1, 0), b"used"])
def test_what_is_no_empty_memory_is_refused(content: bytes, reader: int) -> None:
    if content == b"used":
        with closing(MetadataMemory(os.dup(reader))) as memory:
            memory.append("x")
        descriptor = os.dup(reader)
    else:
        descriptor = os.memfd_create("other")
        os.pwrite(descriptor, content, 0)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(RemoteProtocolError):
        MetadataMemory(descriptor)
    assert len(os.listdir("/proc/self/fd")) == before - 1
