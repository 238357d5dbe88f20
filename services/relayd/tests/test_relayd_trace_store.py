"""The output directory on a real disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tracefleet_common.codecs.index_file import IndexEntry, decode_index_file
from tracefleet_common.errors import InvalidArgument
from tracefleet_relayd.adapters.fd_tracker import FdTracker
from tracefleet_relayd.adapters.native_intake import NativeIntake
from tracefleet_relayd.adapters.trace_store import LARGE_SIZE_BYTES, TraceStoreOnDisk
from tracefleet_relayd.application.ports import Tail
from tracefleet_relayd.domain.trace_chunk import MakeDirectory, RemoveDirectory, RemoveFile, Rename

ENTRY = IndexEntry(
    offset_bytes=0,
    packet_size_bits=8,
    content_size_bits=8,
    timestamp_begin=1,
    timestamp_end=2,
    discarded_event_count=0,
    stream_class_id=0,
    stream_instance_id=0,
    packet_sequence_number=0,
)


class Disk(NamedTuple):
    path: Path
    tracker: FdTracker
    store: TraceStoreOnDisk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    """Nothing may be open when a test ends."""
    base = tmp_path / "base"
    tracker, intake = FdTracker(str(base), 50), NativeIntake(1)
    store = TraceStoreOnDisk(str(base), tracker, intake)
    yield Disk(base, tracker, store)
    intake.free()
    store.close()
    assert tracker.close() == ()


def test_steps(disk: Disk) -> None:
    metadata = disk.store.make_metadata_file("h/s/ust/metadata")
    metadata.write(0, b"trace", 3)
    for step in (
        MakeDirectory("h/s/.tmp_old_chunk"),
        Rename("h/s/ust", "h/s/.tmp_old_chunk/ust"),
        Rename("h/s/kernel", "h/s/.tmp_old_chunk/kernel"),  # nobody made it
        RemoveDirectory("h/s/nothing"),
    ):
        disk.store.carry_out(step)
    metadata.write(8, b"more", 0)
    metadata.close()
    assert (disk.path / "h/s/.tmp_old_chunk/ust/metadata").read_bytes() == b"trace\0\0\0more"
    for name in ("metadata", "other"):
        disk.store.carry_out(RemoveFile(f"h/s/.tmp_old_chunk/ust/{name}"))
    for name in ("/ust", ""):
        disk.store.carry_out(RemoveDirectory(f"h/s/.tmp_old_chunk{name}"))
    assert list((disk.path / "h/s").iterdir()) == []


def test_new_file_takes_the_place_of_an_old_one_that_is_read_on(disk: Disk) -> None:
    old = disk.store.make_metadata_file("h/metadata")
    old.write(0, b"old", 0)
    reader = disk.store.open_for_reading("h/metadata")
    new = disk.store.make_metadata_file("h/metadata")
    new.write(0, b"new", 0)
    assert (disk.path / "h/metadata").read_bytes() == b"new"
    assert reader.read(0, 10) == b"old"
    for file in (old, new, reader):
        file.close()


def test_large_file_is_removed(disk: Disk) -> None:
    disk.store.make_metadata_file("h/large").close()
    os.truncate(disk.path / "h/large", LARGE_SIZE_BYTES)
    disk.store.carry_out(RemoveFile("h/large"))
    assert not (disk.path / "h/large").exists()


@pytest.mark.parametrize(("minor", "entry_size_bytes"), [(1, 72), (0, 56)])
def test_index_file(disk: Disk, minor: int, entry_size_bytes: int) -> None:
    index = disk.store.make_index_file("h/index/c.idx", minor)
    index.write(0, ENTRY)
    index.close()
    again = disk.store.open_index_file("h/index/c.idx", minor)
    again.write(1, ENTRY)
    again.write(1, ENTRY)
    again.close()
    data = (disk.path / "h/index/c.idx").read_bytes()
    assert len(data) == 16 + 2 * entry_size_bytes
    assert [entry.timestamp_end for entry in decode_index_file(data)] == [2, 2]


def test_tail_moves_to_the_next_file(disk: Disk) -> None:
    target = disk.store.make_data_target(1, session_id=1, size_bytes_max=0)
    target.begin("h/first", stop_sequence=None)
    (disk.path / "h/first").write_bytes(b"oldnew")
    target.begin("h/second", stop_sequence=None, tail=Tail("h/first", 3, 6))
    target.close()
    assert ((disk.path / "h/first").read_bytes(), (disk.path / "h/second").read_bytes()) == (b"old", b"new")


@pytest.mark.parametrize("path", ["../outside/x", "/outside/x", "h/../../outside/x", "link/x", "h/link/x"])
def test_nothing_outside_is_touched(disk: Disk, tmp_path: Path, path: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "x").write_bytes(b"precious")
    (disk.path / "h").mkdir(parents=True)
    for link in (disk.path / "link", disk.path / "h/link"):
        link.symlink_to(outside)
    target = disk.store.make_data_target(1, session_id=1, size_bytes_max=0)
    for call in (
        lambda: disk.store.make_metadata_file(path),
        lambda: disk.store.make_index_file(path, 1),
        lambda: target.begin(path, stop_sequence=None),
        lambda: disk.store.open_for_reading(path),
        lambda: disk.store.carry_out(RemoveFile(path)),
        lambda: disk.store.carry_out(Rename(path, "h/y")),
        lambda: disk.store.carry_out(RemoveDirectory(path)),
    ):
        with pytest.raises((OSError, InvalidArgument)):
            call()
    target.close()
    assert (outside / "x").read_bytes() == b"precious"
    assert list(outside.iterdir()) == [outside / "x"]
