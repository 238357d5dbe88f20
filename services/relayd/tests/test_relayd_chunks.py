"""Trace chunks: what moves where, and when, as lttng-relayd was seen to do it."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracefleet_common.codecs import lttng_relay as relay
from tracefleet_common.codecs.lttng_relay import CloseCommand
from tracefleet_relayd.application.control_commands import Refused
from tracefleet_relayd.domain.trace_chunk import MakeDirectory, RemoveDirectory, RemoveFile, Rename

sys.path.insert(0, str(Path(__file__).parent))

from relay_fakes import CREATION_TIME_S, Producer, Relay

LOOKS = 2  # steps before anything else: is something left over from an interrupted rotation?
OUTPUT = "h/s-20231114-221320"
FIRST_ARCHIVE = "archives/20231114T221320+0000-20231114T221321+0000-0"
SECOND = "20231114T221321+0000-1"
SECOND_ARCHIVE = "archives/20231114T221321+0000-20231114T221322+0000-1"


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.fixture
def producer() -> Producer:
    """A session with chunk 0, a data stream 1 that has two packets, and metadata stream 2."""
    producer = Producer(Relay())
    producer.create_chunk(0)
    assert producer.add() == 1
    assert producer.add("metadata") == 2
    for sequence in range(2):
        producer.packet(1, sequence)
    return producer


def rotate(producer: Producer, position: int, chunk_id: int) -> None:
    producer.create_chunk(chunk_id)
    producer.rotate(chunk_id, s1=position)
    producer.rotate(chunk_id, s2=0)


def files_of(producer: Producer) -> list[str]:
    return sorted(path.removeprefix(f"{OUTPUT}/") for path in producer.relay.disk.files)


def test_first_chunk_is_the_session_directory(producer: Producer) -> None:
    assert producer.output == OUTPUT
    assert files_of(producer) == ["ust/a_0", "ust/index/a_0.idx", "ust/metadata"]


def test_rotation_moves_the_old_chunk_aside_and_then_to_the_archives(producer: Producer) -> None:
    disk = producer.relay.disk
    rotate(producer, 2, 1)
    assert files_of(producer) == [
        ".tmp_new_chunk/ust/a_0",
        ".tmp_new_chunk/ust/metadata",
        ".tmp_old_chunk/ust/a_0",
        ".tmp_old_chunk/ust/index/a_0.idx",
        ".tmp_old_chunk/ust/metadata",
    ]
    assert producer.close_chunk(0, CloseCommand.MOVE_TO_COMPLETED) == f"{OUTPUT}/{FIRST_ARCHIVE}"
    assert disk.steps[LOOKS:] == [
        MakeDirectory(f"{OUTPUT}/.tmp_old_chunk"),
        Rename(f"{OUTPUT}/ust", f"{OUTPUT}/.tmp_old_chunk/ust"),
        Rename(f"{OUTPUT}/.tmp_new_chunk", f"{OUTPUT}/{SECOND}"),
        MakeDirectory(f"{OUTPUT}/archives"),
        Rename(f"{OUTPUT}/.tmp_old_chunk", f"{OUTPUT}/{FIRST_ARCHIVE}"),
    ]
    assert not producer.exists(0)
    assert producer.exists(1)


def test_second_rotation_moves_named_directories(producer: Producer) -> None:
    rotate(producer, 2, 1)
    producer.close_chunk(0, CloseCommand.MOVE_TO_COMPLETED)
    producer.packet(1, 2)
    rotate(producer, 3, 2)
    assert producer.close_chunk(1, CloseCommand.MOVE_TO_COMPLETED) == f"{OUTPUT}/{SECOND_ARCHIVE}"
    disk = producer.relay.disk
    assert len(disk.index(f"{OUTPUT}/{FIRST_ARCHIVE}/ust/index/a_0.idx")) == 2
    assert [entry.offset_bytes for entry in disk.index(f"{OUTPUT}/{SECOND_ARCHIVE}/ust/index/a_0.idx")] == [0]


def test_clear_deletes_the_old_chunk_and_brings_the_new_one_back(producer: Producer) -> None:
    disk = producer.relay.disk
    rotate(producer, 2, 1)
    assert producer.close_chunk(0, CloseCommand.DELETE) == OUTPUT
    assert disk.steps[LOOKS + 2 :] == [
        Rename(f"{OUTPUT}/.tmp_new_chunk/ust", f"{OUTPUT}/ust"),
        RemoveDirectory(f"{OUTPUT}/.tmp_new_chunk"),
        RemoveFile(f"{OUTPUT}/.tmp_old_chunk/ust/a_0"),
        RemoveFile(f"{OUTPUT}/.tmp_old_chunk/ust/index/a_0.idx"),
        RemoveFile(f"{OUTPUT}/.tmp_old_chunk/ust/metadata"),
        RemoveDirectory(f"{OUTPUT}/.tmp_old_chunk/ust/index"),
        RemoveDirectory(f"{OUTPUT}/.tmp_old_chunk/ust"),
        RemoveDirectory(f"{OUTPUT}/.tmp_old_chunk"),
    ]
    assert files_of(producer) == ["ust/a_0", "ust/metadata"]


def test_archived_only_when_the_last_stream_has_left(producer: Producer) -> None:
    producer.create_chunk(1)
    producer.rotate(1, s1=3)  # packet 2 is on its way
    producer.rotate(1, s2=0)
    producer.close_chunk(0, CloseCommand.MOVE_TO_COMPLETED)
    assert producer.exists(0)
    producer.packet(1, 2)
    assert not producer.exists(0)
    assert len(producer.relay.disk.index(f"{OUTPUT}/{FIRST_ARCHIVE}/ust/index/a_0.idx")) == 3


def test_rotation_of_a_stopped_session(producer: Producer) -> None:
    producer.rotate(None, s1=2, s2=0)
    producer.close_chunk(0, CloseCommand.MOVE_TO_COMPLETED)
    assert not producer.exists(0)
    assert files_of(producer) == [f"{FIRST_ARCHIVE}/ust/{name}" for name in ("a_0", "index/a_0.idx", "metadata")]
    producer.create_chunk(1)
    producer.rotate(1, s1=2)
    producer.rotate(1, s2=0)
    producer.packet(1, 2)
    assert f"{SECOND}/ust/index/a_0.idx" in files_of(producer)


def test_destroy_of_a_session_that_never_rotated(producer: Producer) -> None:
    producer.rotate(None, s1=2)
    producer.rotate(None, s2=0)
    assert producer.close_chunk(0) == OUTPUT
    assert not producer.exists(0)
    assert producer.relay.disk.steps[LOOKS:] == []


def test_snapshot_has_the_name_that_it_was_given() -> None:
    producer = Producer(Relay(), is_snapshot=True)
    name = "snapshot-1-20261120-145326-0"
    producer.ask(relay.CreateTraceChunk(chunk_id=0, creation_time_s=CREATION_TIME_S, override_name=name))
    handle = producer.add()
    producer.ask(relay.CloseStream(stream_handle=handle, last_sequence_number=0))
    producer.send(handle, 0)  # it may come after the close, as it was announced
    assert producer.close_chunk(0) == f"{OUTPUT}/{name}"
    assert list(producer.relay.disk.files) == [f"{OUTPUT}/{name}/ust/a_0"]


def test_chunks_are_shared_by_the_sessions_of_one_origin() -> None:
    relay_daemon = Relay()
    kernel, user = Producer(relay_daemon, token=1), Producer(relay_daemon, token=2)
    for producer in (kernel, user):
        producer.create_chunk(0)
    first, second = kernel.add(path="kernel"), user.add(path="ust")
    for producer, handle in ((kernel, first), (user, second)):
        producer.create_chunk(1)
        producer.rotate(1, **{f"s{handle}": 0})
    for producer in (kernel, user):
        producer.close_chunk(0, CloseCommand.MOVE_TO_COMPLETED)
    assert sorted(relay_daemon.disk.files) == [
        f"{OUTPUT}/{SECOND}/kernel/a_0",
        f"{OUTPUT}/{SECOND}/ust/a_0",
        f"{OUTPUT}/{FIRST_ARCHIVE}/kernel/a_0",
        f"{OUTPUT}/{FIRST_ARCHIVE}/ust/a_0",
    ]


def test_consumer_daemon_that_comes_late_gets_the_current_chunk() -> None:
    relay_daemon = Relay()
    first = Producer(relay_daemon)
    first.create_chunk(0)
    late = Producer(relay_daemon, token=2, current_chunk_id=0)
    late.add(path="kernel")
    assert list(relay_daemon.disk.files) == [f"{OUTPUT}/kernel/a_0"]


def test_peer_that_dies_during_a_rotation_leaves_no_temporary_directory(producer: Producer) -> None:
    rotate(producer, 2, 1)
    producer.commands.end(is_aborted=True)
    assert files_of(producer) == sorted(
        [f"{SECOND}/ust/a_0", f"{SECOND}/ust/metadata", "ust/a_0", "ust/index/a_0.idx", "ust/metadata"]
    )


def test_third_chunk_is_refused_until_the_first_is_closed(producer: Producer) -> None:
    producer.create_chunk(1)
    with pytest.raises(Refused) as refused:
        producer.create_chunk(2)
    assert refused.value.reply == relay.StatusReply(return_code=relay.ReturnCode.INVALID_PROTOCOL)


@pytest.mark.parametrize("name", ["a.b", "a/b", ".."])
def test_override_name_that_is_none(producer: Producer, name: str) -> None:
    with pytest.raises(Refused) as refused:
        producer.ask(relay.CreateTraceChunk(chunk_id=1, creation_time_s=CREATION_TIME_S, override_name=name))
    assert refused.value.reply == relay.StatusReply(return_code=relay.ReturnCode.INVALID)


def test_time_that_no_calendar_has_is_refused(producer: Producer) -> None:
    with pytest.raises(Refused):
        producer.ask(relay.CreateTraceChunk(chunk_id=1, creation_time_s=2**64 - 1))
    with pytest.raises(Refused):
        producer.ask(relay.CloseTraceChunk(chunk_id=0, close_time_s=2**63))


def test_what_an_interrupted_rotation_left_is_put_aside() -> None:
    relay_daemon = Relay()
    for name in (".tmp_old_chunk/ust/a_0", ".tmp_new_chunk/ust/a_0"):
        relay_daemon.disk.make(f"{OUTPUT}/{name}")
    producer = Producer(relay_daemon)
    Producer(relay_daemon, token=2)
    assert files_of(producer) == [f"interrupted-20231114T221320+0000-{what}/ust/a_0" for what in ("new", "old")]


@pytest.mark.parametrize("is_full", [False, True])
def test_last_entry_comes_when_everybody_else_has_left_the_chunk(producer: Producer, is_full: bool) -> None:
    """The stream that gets it takes the chunk to the archives, and has a packet of the next one in its file."""
    disk = producer.relay.disk
    producer.send(1, 2)
    producer.send(1, 3)
    rotate(producer, 3, 1)
    producer.close_chunk(0, CloseCommand.MOVE_TO_COMPLETED)
    disk.is_full = is_full
    producer.index(1, 2)
    disk.is_full = False
    producer.relay.files.try_again()
    producer.index(1, 3)
    assert len(disk.index(f"{OUTPUT}/{FIRST_ARCHIVE}/ust/index/a_0.idx")) == 3
    assert [entry.offset_bytes for entry in disk.index(f"{OUTPUT}/{SECOND}/ust/index/a_0.idx")] == [0]
