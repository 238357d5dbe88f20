"""Journals on a disk, and what is found in trace files: whatever a crash has left of them."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from msgspec import structs

from tracefleet_common.codecs.index_file import encode_index_entry, encode_index_header
from tracefleet_common.codecs.packet import MetadataPacketHeader, encode_metadata_packet
from tracefleet_common.errors import InvalidArgument, TracefleetError, WrongState
from tracefleet_common.model.ctf_types import ByteOrder
from tracefleet_relayd.adapters.found_files import find_data, find_metadata
from tracefleet_relayd.adapters.journal_store import (
    MAGIC,
    SLACK_BYTES,
    JournalStore,
    decode_journal,
    encode_journal,
    journal_name,
)
from tracefleet_relayd.application.ports import FoundFile
from tracefleet_relayd.domain.journal import Journal

sys.path.insert(0, str(Path(__file__).parent))

from relay_fakes import an_entry
from test_relayd_streaming import A_SESSION, a_record

NAME = journal_name(bytes(16))


@pytest.fixture
def store(tmp_path: Path) -> JournalStore:
    return JournalStore(str(tmp_path / "output"))


def path_of(tmp_path: Path) -> Path:
    return tmp_path / "output" / ".fleet" / NAME


def loaded(tmp_path: Path) -> Journal | None:
    """By the next relay daemon."""
    store = JournalStore(str(tmp_path / "output"))
    try:
        return store.load(NAME)
    finally:
        store.close()


def a_journal(store: JournalStore, count: int = 3) -> Journal:
    journal = Journal(A_SESSION)
    store.save(NAME, journal, is_synced=False)
    for number in range(count):
        record = a_record(channel_name=f"c_{number}", handle=number)
        journal.put(record)
        store.append(NAME, journal, [record], is_synced=number == 1)
    return journal


def test_what_was_written_is_found(store: JournalStore, tmp_path: Path) -> None:
    assert store.names() == []
    assert store.load(NAME) is None
    assert not (tmp_path / "output").exists()
    journal = a_journal(store)
    assert store.names() == [NAME]
    store.close()
    assert loaded(tmp_path) == journal
    assert path_of(tmp_path).stat().st_mode & 0o777 == 0o600
    assert path_of(tmp_path).parent.stat().st_mode & 0o777 == 0o700
    store.remove(NAME)
    store.remove(NAME)
    assert store.names() == []


def test_a_last_record_that_is_cut_is_none(store: JournalStore, tmp_path: Path) -> None:
    journal = a_journal(store)
    store.close()
    whole = path_of(tmp_path).read_bytes()
    without_last = Journal(A_SESSION, {name: journal.streams[name] for name in list(journal.streams)[:2]})
    size = len(encode_journal(list(without_last.records())))
    for end in range(size, len(whole)):
        path_of(tmp_path).write_bytes(whole[:end])
        assert loaded(tmp_path) == without_last
        assert path_of(tmp_path).stat().st_size == size
        path_of(tmp_path).write_bytes(whole[:end] + bytes(len(whole) - end))  # as after a crash of the machine
        assert loaded(tmp_path) == without_last


def test_it_goes_on_behind_a_record_that_was_cut(store: JournalStore, tmp_path: Path) -> None:
    a_journal(store)
    store.close()
    whole = path_of(tmp_path).read_bytes()
    path_of(tmp_path).write_bytes(whole[:-3])
    again = JournalStore(str(tmp_path / "output"))
    journal = again.load(NAME)
    assert journal is not None
    record = a_record(channel_name="c_9")
    journal.put(record)
    again.append(NAME, journal, [record], is_synced=True)
    again.close()
    assert loaded(tmp_path) == journal


@pytest.mark.parametrize(
    "content",
    [b"", b"x" * 100, MAGIC, MAGIC + bytes(100), MAGIC + b"\xff" * 100, encode_journal([a_record()])],
    ids=["empty", "foreign", "without records", "zeros", "large record", "without session"],
)
def test_what_is_none_is_refused(tmp_path: Path, content: bytes) -> None:
    path_of(tmp_path).parent.mkdir(parents=True)
    path_of(tmp_path).write_bytes(content)
    with pytest.raises(TracefleetError, match=f"journal .fleet/{NAME} cannot be used"):
        loaded(tmp_path)
    assert path_of(tmp_path).read_bytes() == content


def test_damage_in_the_middle_is_noticed(store: JournalStore, tmp_path: Path) -> None:
    a_journal(store)
    store.close()
    whole = path_of(tmp_path).read_bytes()
    last = whole.rindex(b"c_2")
    for at in range(len(MAGIC), last - 200, 7):
        damaged = bytearray(whole)
        damaged[at] ^= 0x40
        path_of(tmp_path).write_bytes(damaged)
        with pytest.raises(TracefleetError):
            loaded(tmp_path)


def test_links_are_not_followed(tmp_path: Path) -> None:
    path_of(tmp_path).parent.mkdir(parents=True)
    target = tmp_path / "secret"
    target.write_bytes(encode_journal([A_SESSION]))
    path_of(tmp_path).symlink_to(target)
    store = JournalStore(str(tmp_path / "output"))
    with pytest.raises(OSError, match="symbolic"):
        store.load(NAME)
    store.save(NAME, Journal(A_SESSION), is_synced=False)
    assert not path_of(tmp_path).is_symlink()


def test_it_does_not_grow_without_end(store: JournalStore, tmp_path: Path) -> None:
    journal = a_journal(store)
    for number in range(2000):
        record = structs.replace(journal.streams["ust", "c_0"], file_ordinal=number)
        journal.put(record)
        store.append(NAME, journal, [record], is_synced=False)
    assert path_of(tmp_path).stat().st_size < 2 * SLACK_BYTES
    store.close()
    assert loaded(tmp_path) == journal


def test_a_directory_that_was_removed_is_made_again(store: JournalStore, tmp_path: Path) -> None:
    journal = a_journal(store)
    path_of(tmp_path).unlink()
    record = a_record(channel_name="late")
    journal.put(record)
    store.append(NAME, journal, [record], is_synced=False)
    store.close()
    assert loaded(tmp_path) == journal


def test_two_daemons_do_not_share_journals(store: JournalStore, tmp_path: Path) -> None:
    journal = a_journal(store)
    other = JournalStore(str(tmp_path / "output"))
    with pytest.raises(WrongState, match="Another relay daemon"):
        other.load(NAME)
    with pytest.raises(WrongState, match="Another relay daemon"):
        other.save(NAME, journal, is_synced=False)
    store.close()
    assert other.load(NAME) == journal
    other.close()


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes_are_a_journal_or_none(data: bytes) -> None:
    for content in (data, MAGIC + data, encode_journal([A_SESSION]) + data):
        try:
            records, end = decode_journal(content)
        except InvalidArgument:
            continue
        assert end <= len(content)
        assert encode_journal(records) == content[:end] or records  # other encodings of the same may be longer


# ---- trace files ----


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Three packets of 16 bytes with their entries."""
    (tmp_path / "index").mkdir()
    data, index = tmp_path / "c_0", tmp_path / "index" / "c_0.idx"
    data.write_bytes(bytes(range(48)))
    entries = [encode_index_entry(an_entry(16 * number, 7 + number, number)) for number in range(3)]
    index.write_bytes(encode_index_header() + b"".join(entries))
    return data, index


def find(data: Path) -> FoundFile | None:
    return find_data(str(data.parent), "c_0", "index/c_0.idx")


@pytest.mark.parametrize("rest", [b"", b"x", b"x" * 71])
@pytest.mark.parametrize("more", [b"", b"y", b"y" * 100])
def test_what_has_no_entry_is_cut(files: tuple[Path, Path], rest: bytes, more: bytes) -> None:
    data, index = files
    whole = data.read_bytes(), index.read_bytes()
    data.write_bytes(whole[0] + more)
    index.write_bytes(whole[1] + rest)
    assert find(data) == FoundFile(3, 48, 7, 2, 9)
    assert (data.read_bytes(), index.read_bytes()) == whole


def test_entries_without_their_packet_go(files: tuple[Path, Path]) -> None:
    data, index = files
    os.truncate(data, 40)
    with index.open("ab") as file:
        file.write(bytes(2 * 72))  # never written, after a crash of the machine
    assert find(data) == FoundFile(2, 32, 7, 1, 8)
    assert data.stat().st_size == 32
    assert index.stat().st_size == 16 + 2 * 72
    os.truncate(data, 0)
    assert find(data) == FoundFile(0, 0)


def test_files_that_are_not_there(files: tuple[Path, Path]) -> None:
    data, index = files
    os.truncate(index, 8)
    assert find(data) is None
    index.unlink()
    assert find(data) is None
    index.write_bytes(struct.pack(">4I", 1, 2, 3, 4))
    with pytest.raises(TracefleetError, match="Cannot go on with"):
        find(data)
    data.unlink()
    assert find(data) is None


def test_metadata_is_whole_packets(tmp_path: Path) -> None:
    header = MetadataPacketHeader(
        byte_order=ByteOrder.LITTLE, trace_uuid=bytes(16), content_size_bits=0, packet_size_bits=0, major=1, minor=8
    )
    packets = [encode_metadata_packet(header, text) for text in (b"one", b"two more", b"")]
    whole = b"".join(packets)
    for end in range(len(whole) + 1):
        (tmp_path / "metadata").write_bytes(whole[:end])
        ends = [len(b"".join(packets[:count])) for count in range(4)]
        count = sum(one <= end for one in ends) - 1
        assert find_metadata(str(tmp_path), "metadata") == FoundFile(count, ends[count])
        assert (tmp_path / "metadata").stat().st_size == ends[count]
    assert find_metadata(str(tmp_path), "none") is None
