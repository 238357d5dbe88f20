"""Streams: index entries find their packets, files have limits, rotations find their packet."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import pytest

from tracefleet_common.codecs import lttng_relay as relay
from tracefleet_common.codecs.lttng_relay import CloseCommand
from tracefleet_relayd.application.control_commands import Refused
from tracefleet_relayd.application.ports import NoRoom

sys.path.insert(0, str(Path(__file__).parent))

from relay_fakes import Producer, Relay, an_index

OUTPUT = "h/s-20231114-221320"
DATA, INDEX, METADATA = (f"{OUTPUT}/ust/{name}" for name in ("a_0", "index/a_0.idx", "metadata"))
NEW_DATA, NEW_INDEX = (f"{OUTPUT}/.tmp_new_chunk/ust/{name}" for name in ("a_0", "index/a_0.idx"))
OLD_DATA, OLD_INDEX = (f"{OUTPUT}/.tmp_old_chunk/ust/{name}" for name in ("a_0", "index/a_0.idx"))


@pytest.fixture
def producer(monkeypatch: pytest.MonkeyPatch) -> Producer:
    """A session with chunk 0, data stream 1 and metadata stream 2."""
    producer = Producer(Relay(), session_name="s-20231114-221320", has_creation_time_in_name=True)
    producer.create_chunk(0)
    producer.add()
    producer.add("metadata")
    return producer


def packets_in(producer: Producer, path: str) -> list[bytes]:
    data = bytes(producer.relay.disk.files[path].data)
    return [data[at : at + 8] for at in range(0, len(data), 16)]


def offsets_in(producer: Producer, path: str) -> list[int]:
    return [entry.offset_bytes for entry in producer.relay.disk.index(path)]


ARRIVALS = [
    order
    for order in itertools.permutations(["data0", "data1", "index0", "index1"])
    if order.index("data0") < order.index("data1") and order.index("index0") < order.index("index1")
]


@pytest.mark.parametrize("order", ARRIVALS)
def test_entries_are_written_when_both_halves_are_there(producer: Producer, order: tuple[str, ...]) -> None:
    for what in order:
        if what.startswith("data"):
            producer.send(1, int(what[-1]))
        else:
            producer.index(1, int(what[-1]))
    assert offsets_in(producer, INDEX) == [0, 16]


def test_index_file_is_made_with_the_first_packet(producer: Producer) -> None:
    producer.index(1, 0)
    assert INDEX not in producer.relay.disk.files
    producer.send(1, 0)
    assert INDEX in producer.relay.disk.files


def test_entry_that_comes_twice_is_refused(producer: Producer) -> None:
    producer.index(1, 0)
    with pytest.raises(Refused):
        producer.index(1, 0)


def test_packet_that_comes_twice_ends_the_connection(producer: Producer) -> None:
    producer.send(1, 0)
    producer.send(1, 0)
    assert producer.relay.intake.closed == [1]
    assert producer.relay.sessions.viewable_session(producer.session_id) is None


def test_packet_of_an_unknown_stream_ends_its_connection_only(producer: Producer) -> None:
    producer.relay.intake.send(99, 0, token=5)
    producer.relay.packets.take_reports()
    assert producer.relay.intake.closed == [5]
    assert producer.relay.sessions.viewable_session(producer.session_id) is not None


def test_beacon_counts_only_while_nothing_is_on_its_way(producer: Producer) -> None:
    stream = producer.commands.session.streams[1]  # type: ignore[union-attr]
    producer.ask(an_index(1, None, 0, size_bits=0))
    assert (stream.inactive_until, stream.stream_class_id) == (200, 7)
    producer.packet(1, 0)
    assert stream.inactive_until is None
    producer.send(1, 1)
    producer.ask(an_index(1, 0, 0, size_bits=0))
    assert stream.inactive_until is None


# ---- files with limits ----


def test_ring_of_files(producer: Producer) -> None:
    handle = producer.add("b_0", trace_file_size_bytes=40, trace_file_count=2)
    for sequence in range(7):  # three fit a file: the third begins at 32, and ends at 40 without its padding
        producer.packet(handle, sequence)
    stream = producer.commands.session.streams[handle]  # type: ignore[union-attr]
    assert packets_in(producer, f"{OUTPUT}/ust/b_0_0") == [b"packet06"]
    assert packets_in(producer, f"{OUTPUT}/ust/b_0_1") == [b"packet03", b"packet04", b"packet05"]
    assert offsets_in(producer, f"{OUTPUT}/ust/index/b_0_0.idx") == [0]
    assert offsets_in(producer, f"{OUTPUT}/ust/index/b_0_1.idx") == [0, 16, 32]
    assert (stream.first_position, stream.end_position) == (3, 7)
    assert stream.segment_at(2) is None
    segment = stream.segment_at(4)
    assert segment is not None
    assert (segment.name, segment.first_position) == ("b_0_1", 3)
    assert stream.segment_at(6) is not segment


def test_files_with_a_size_and_no_count_never_wrap(producer: Producer) -> None:
    handle = producer.add("b_0", trace_file_size_bytes=16)
    for sequence in range(4):
        producer.packet(handle, sequence)
    assert [f"{OUTPUT}/ust/b_0_{number}" in producer.relay.disk.files for number in range(5)] == [True] * 4 + [False]


def test_packet_larger_than_the_limit_has_a_file_of_its_own(producer: Producer) -> None:
    handle = producer.add("b_0", trace_file_size_bytes=4, trace_file_count=3)
    for sequence in range(3):
        producer.packet(handle, sequence)
    assert [packets_in(producer, f"{OUTPUT}/ust/b_0_{number}") for number in range(3)] == [
        [b"packet00"],
        [b"packet01"],
        [b"packet02"],
    ]


# ---- rotation ----


def test_rotation_at_the_next_packet(producer: Producer) -> None:
    producer.packet(1, 0)
    producer.create_chunk(1)
    producer.rotate(1, s1=1)
    producer.packet(1, 1)
    assert packets_in(producer, OLD_DATA) == [b"packet00"]
    assert packets_in(producer, NEW_DATA) == [b"packet01"]
    assert (offsets_in(producer, OLD_INDEX), offsets_in(producer, NEW_INDEX)) == ([0], [0])


def test_packets_before_the_position_still_go_to_the_old_chunk(producer: Producer) -> None:
    producer.create_chunk(1)
    producer.rotate(1, s1=2)
    for sequence in range(3):
        producer.packet(1, sequence)
    assert packets_in(producer, OLD_DATA) == [b"packet00", b"packet01"]
    assert packets_in(producer, NEW_DATA) == [b"packet02"]


def test_idle_stream_moves_at_once(producer: Producer) -> None:
    producer.create_chunk(1)
    producer.rotate(1, s1=0)
    producer.rotate(1, s2=0)
    producer.close_chunk(0, CloseCommand.DELETE)
    assert not producer.exists(0)
    producer.packet(1, 0)
    assert packets_in(producer, DATA) == [b"packet00"]


def test_numbers_that_jump_over_the_position(producer: Producer) -> None:
    producer.packet(1, 0, packet=0)
    producer.create_chunk(1)
    producer.rotate(1, s1=3)
    producer.packet(1, 1, packet=7)  # the packets 1 to 6 were overwritten in the ring buffer
    assert packets_in(producer, OLD_DATA) == [b"packet00"]
    assert packets_in(producer, NEW_DATA) == [b"packet01"]
    assert offsets_in(producer, NEW_INDEX) == [0]


def test_packets_beyond_the_position_that_came_too_early_are_moved(producer: Producer) -> None:
    for sequence in range(4):
        producer.send(1, sequence, f"packet{sequence:02}".encode())
    producer.index(1, 0)
    producer.index(1, 1)
    producer.create_chunk(1)
    producer.rotate(1, s1=2)
    assert packets_in(producer, OLD_DATA) == [b"packet00", b"packet01"]
    assert packets_in(producer, NEW_DATA) == [b"packet02", b"packet03"]
    producer.index(1, 2)
    producer.index(1, 3)
    producer.packet(1, 4)
    assert offsets_in(producer, OLD_INDEX) == [0, 16]
    assert offsets_in(producer, NEW_INDEX) == [0, 16, 32]


def test_index_of_the_last_packet_before_its_data(producer: Producer) -> None:
    producer.index(1, 0)
    producer.index(1, 1)
    producer.create_chunk(1)
    producer.rotate(1, s1=2)
    for sequence in range(3):
        producer.send(1, sequence, f"packet{sequence:02}".encode())
    producer.index(1, 2)
    assert packets_in(producer, OLD_DATA) == [b"packet00", b"packet01"]
    assert packets_in(producer, NEW_DATA) == [b"packet02"]
    assert (offsets_in(producer, OLD_INDEX), offsets_in(producer, NEW_INDEX)) == ([0, 16], [0])


def test_lost_packets_do_not_keep_a_chunk_for_ever(producer: Producer) -> None:
    producer.index(1, 0)
    producer.index(1, 1)
    producer.create_chunk(1)
    producer.rotate(1, s1=2)
    producer.send(1, 0)
    producer.send(1, 2)  # where is 1?
    producer.rotate(1, s2=0)
    producer.close_chunk(0, CloseCommand.MOVE_TO_COMPLETED)
    assert not producer.exists(0)


def test_two_rotations_at_once_are_refused(producer: Producer) -> None:
    producer.packet(1, 0)
    producer.create_chunk(1)
    producer.rotate(1, s1=5)
    with pytest.raises(Refused) as refused:
        producer.rotate(1, s1=6)
    assert refused.value.reply == relay.StatusReply(return_code=relay.ReturnCode.FILE_CREATION_ERROR)


def test_packet_for_no_chunk_ends_the_connection(producer: Producer) -> None:
    producer.packet(1, 0)
    producer.rotate(None, s1=1, s2=0)
    producer.send(1, 1)
    assert producer.relay.intake.closed == [1]


def test_viewers_read_on_in_the_chunk_before(producer: Producer) -> None:
    producer.packet(1, 0)
    stream = producer.commands.session.streams[1]  # type: ignore[union-attr]
    viewer = object()
    stream.keep(viewer, 0)
    producer.create_chunk(1)
    producer.rotate(1, s1=1)
    producer.packet(1, 1)
    first, second = stream.segment_at(0), stream.segment_at(1)
    assert first is not None
    assert second is not None
    assert (first.path, second.path) == (OLD_DATA, NEW_DATA)
    producer.rotate(1, s2=0)
    producer.close_chunk(0, CloseCommand.DELETE)
    assert stream.segment_at(0) is None
    assert stream.first_position == 1


# ---- metadata ----


def test_metadata_is_padded_and_begins_anew_after_a_rotation(producer: Producer) -> None:
    producer.ask(relay.SendMetadata(stream_handle=2, content=b"trace {};", padding_size_bytes=7))
    stream = producer.commands.session.streams[2]  # type: ignore[union-attr]
    assert bytes(producer.relay.disk.files[METADATA].data) == b"trace {};" + bytes(7)
    assert stream.metadata_size_bytes == 16
    producer.create_chunk(1)
    producer.rotate(1, s2=0)
    assert stream.metadata_size_bytes == 0
    producer.ask(relay.SendMetadata(stream_handle=2, content=b"trace {};"))
    assert stream.open_metadata().read(0, 100) == b"trace {};"


def test_metadata_reset(producer: Producer) -> None:
    producer.ask(relay.SendMetadata(stream_handle=2, content=b"old"))
    producer.ask(relay.ResetMetadata(stream_handle=2, version=1))
    producer.ask(relay.SendMetadata(stream_handle=2, content=b"new"))
    assert bytes(producer.relay.disk.files[METADATA].data) == b"new"
    with pytest.raises(Refused):
        producer.ask(relay.ResetMetadata(stream_handle=1, version=1))


def test_metadata_of_a_live_session_is_not_reset() -> None:
    producer = Producer(Relay(), live_timer_us=1000)
    producer.create_chunk(0)
    handle = producer.add("metadata")
    with pytest.raises(Refused):
        producer.ask(relay.ResetMetadata(stream_handle=handle, version=1))


def test_data_stream_takes_no_metadata(producer: Producer) -> None:
    with pytest.raises(Refused) as refused:
        producer.ask(relay.SendMetadata(stream_handle=1, content=b"x"))
    assert refused.value.reply is None


# ---- is data pending, and the end ----


def test_pending_until_both_halves_are_there(producer: Producer) -> None:
    assert not producer.is_pending(1, None)
    producer.send(1, 0)
    assert producer.is_pending(1, 0)
    producer.index(1, 0)
    assert not producer.is_pending(1, 0)
    assert producer.is_pending(1, 1)


def test_end_of_the_check_asks_for_streams_that_were_left_out(producer: Producer) -> None:
    def end() -> relay.Reply | None:
        return producer.ask(relay.EndDataPending(session_id=producer.session_id))

    pending, arrived = (
        relay.PendingReply(status=status) for status in (relay.PendingStatus(1), relay.PendingStatus(0))
    )
    producer.ask(relay.BeginDataPending(session_id=producer.session_id))
    producer.is_pending(1, None)
    assert end() == pending
    producer.ask(relay.QuiescentControl(stream_handle=2))
    assert end() == arrived
    producer.ask(relay.CloseStream(stream_handle=1, last_sequence_number=0))  # forgotten by the peer, not by us
    producer.ask(relay.BeginDataPending(session_id=producer.session_id))
    producer.ask(relay.QuiescentControl(stream_handle=2))
    assert end() == pending
    producer.send(1, 0)
    assert end() == arrived


def test_announced_packets_are_taken_after_the_control_connection_ended(producer: Producer) -> None:
    producer.index(1, 0)
    producer.commands.end(is_aborted=False)
    assert producer.relay.sessions.viewable_session(producer.session_id) is None
    producer.send(1, 0)
    assert offsets_in(producer, INDEX) == [0]
    assert producer.relay.sessions.ending_sessions() == []


def test_announced_packets_that_never_come_are_given_up(producer: Producer) -> None:
    producer.index(1, 0)
    producer.commands.end(is_aborted=False)
    producer.relay.sessions.take_care()
    assert producer.relay.sessions.ending_sessions() != []
    producer.relay.clock.time_s += 100
    producer.relay.sessions.take_care()
    assert producer.relay.sessions.ending_sessions() == []


def test_broken_data_connection_ends_the_session(producer: Producer) -> None:
    producer.send(1, 0)
    producer.relay.intake.end(error=104)
    producer.index(1, 0)  # came after it, but was sent before the peer died
    assert offsets_in(producer, INDEX) == [0]
    producer.relay.clock.time_s += 10
    producer.relay.sessions.take_care()
    assert producer.relay.sessions.viewable_session(producer.session_id) is None
    with pytest.raises(Refused):
        producer.add("c_0")


def test_streams_of_others_are_unknown(producer: Producer) -> None:
    other = Producer(producer.relay, session_name="t", sessiond_session_id=2, token=2)
    for request in (
        relay.CloseStream(stream_handle=1, last_sequence_number=0),
        an_index(1, 0, 0),
        relay.DataPending(stream_handle=1, last_sequence_number=0),
        relay.SendMetadata(stream_handle=2, content=b"x"),
        relay.ResetMetadata(stream_handle=2, version=1),
        relay.RotateStreams(
            new_chunk_id=None, positions=(relay.RotationPosition(stream_handle=1, packet_sequence_number=0),)
        ),
    ):
        with pytest.raises(Refused):
            other.ask(request)
    assert not producer.is_pending(1, None)


# ---- a full disk ----


def test_full_disk_holds_metadata_and_entries_until_there_is_room(producer: Producer) -> None:
    disk = producer.relay.disk
    disk.is_full = True
    with pytest.raises(NoRoom):
        producer.ask(relay.SendMetadata(stream_handle=2, content=b"x"))
    producer.packet(1, 0)
    assert offsets_in(producer, INDEX) == []
    stream = producer.commands.session.streams[1]  # type: ignore[union-attr]
    assert stream.end_position == 0
    disk.is_full = False
    producer.relay.files.try_again()
    producer.ask(relay.SendMetadata(stream_handle=2, content=b"x"))
    assert offsets_in(producer, INDEX) == [0]
    assert stream.end_position == 1


# ---- names ----


@pytest.mark.parametrize(
    ("channel", "path"),
    [
        ("a_0", "../x"),
        ("a_0", "/abs"),
        ("a_0", "ust/../../x"),
        ("a_0", ".unlinked"),
        ("a_0", ".tmp_old_chunk/ust"),
        ("a_0", "archives/x"),
        ("../a", "ust"),
        ("a/b", "ust"),
        ("..", "ust"),
        ("", "ust"),
        ("x" * 250, "ust"),
        ("a_0", "x" * 256),
        ("a_0", "ust"),  # it is there already
    ],
)
def test_stream_with_a_bad_name_gets_a_number_and_no_file(producer: Producer, channel: str, path: str) -> None:
    before = dict(producer.relay.disk.files)
    with pytest.raises(Refused) as refused:
        producer.add(channel, path)
    assert refused.value.reply == relay.AddStreamReply(stream_handle=3, return_code=relay.ReturnCode.UNKNOWN)
    assert not refused.value.must_close
    assert producer.relay.disk.files == before
    assert producer.add("c_0") == 4
