"""Acknowledged sessions: what their commands do, how often they are asked, and what is left when the daemon dies."""

from __future__ import annotations

import errno
import sys
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from tracefleet_common.errors import AlreadyExists, InvalidArgument, NotFound, ResourceExhausted
from tracefleet_common.messages.envelope import Done
from tracefleet_common.messages.relay_streaming import AddedStream, CloseStreaming, EndStreams, StreamEnd
from tracefleet_common.model.relay_output import Durability
from tracefleet_relayd.application.ports import HoldReason, IntakeReport, ReportKind
from tracefleet_relayd.application.receive_streaming import GRACE_S
from tracefleet_relayd.domain.journal import ENDED_STREAMS_KEPT, Journal, SessionRecord, StreamRecord, replay

sys.path.insert(0, str(Path(__file__).parent))

from relay_fakes import CREATION_TIME_S, UUID
from streaming_fakes import DATA_PORT, OUTPUT, TOKEN, Crash, FleetRelay, FleetSender, MortalDisk, a_stream

DATA, INDEX, METADATA = (f"{OUTPUT}/ust/{name}" for name in ("a_0", "index/a_0.idx", "metadata"))
FILE_LIMIT = 2 * 16  # two packets, of which the padding of the second does not count


@pytest.fixture
def relay(monkeypatch: pytest.MonkeyPatch) -> FleetRelay:
    monkeypatch.setenv("TZ", "UTC")
    return FleetRelay()


@pytest.fixture
def sender(relay: FleetRelay) -> FleetSender:
    """A session with a data connection."""
    sender = FleetSender(relay)
    sender.open()
    sender.connect()
    return sender


def end(sender: FleetSender, **next_sequences: int) -> None:
    ends = tuple(StreamEnd(handle=int(name[1:]), next_sequence=number) for name, number in next_sequences.items())
    sender.ask(EndStreams(token=sender.token, ends=ends), Done)


def numbers_in(relay: FleetRelay, path: str = INDEX) -> list[int | None]:
    return [entry.packet_sequence_number for entry in relay.disk.index(path)]


def test_a_session_begins(relay: FleetRelay) -> None:
    sender = FleetSender(relay, live_timer_period_us=500)
    opened = sender.open()
    assert (opened.data_port, opened.output, opened.is_resumed) == (DATA_PORT, OUTPUT, False)
    metadata, data = sender.add(a_stream("metadata"), a_stream())
    assert metadata.handle != data.handle
    assert min(metadata.handle, data.handle) >= 1 << 62
    (session,) = relay.sessions.viewable_sessions()
    assert session.session_id == opened.relay_session_id
    assert session.live_timer_us == 500
    assert [stream.channel_name for stream in session.published_streams()] == ["metadata", "a_0"]
    assert sorted(relay.disk.files) == [DATA, INDEX, METADATA]


def test_packets_count_when_they_are_reported(relay: FleetRelay, sender: FleetSender) -> None:
    metadata, data = sender.add(a_stream("metadata"), a_stream())
    for sequence in range(3):
        sender.send(metadata.handle, sequence)
        sender.send(data.handle, sequence, number=2 * sequence, discarded=sequence)
    (session,) = relay.sessions.viewable_sessions()
    stream = session.stream(data.handle)
    assert (stream.end_position, stream.first_position, stream.stream_class_id) == (3, 0, 7)
    segment = stream.segment_at(2)
    assert segment is not None
    assert segment.path == DATA
    books = session.books()
    assert (books.packet_count, books.entry_count, books.missing_packet_count) == (6, 3, 2)
    assert books.discarded_event_count == 2
    assert session.stream(metadata.handle).metadata_size_bytes == 3 * 16


def test_a_beacon_holds_until_the_next_packet(relay: FleetRelay, sender: FleetSender) -> None:
    (data,) = sender.add(a_stream())
    (session,) = relay.sessions.viewable_sessions()
    stream = session.stream(data.handle)
    assert sender.connection is not None
    relay.intake.send_beacon(data.handle, 5000, token=sender.connection)
    relay.packets.take_reports()
    assert (stream.inactive_until, stream.stream_class_id) == (5000, 7)
    sender.send(data.handle, 0)
    assert stream.inactive_until is None


@pytest.mark.parametrize("is_killed", [False, True])
def test_commands_may_be_repeated(relay: FleetRelay, sender: FleetSender, is_killed: bool) -> None:
    first = sender.add(a_stream("metadata"), a_stream())
    sender.send(first[1].handle, 0)
    if is_killed:
        relay.restart()
    assert sender.open().is_resumed
    again = sender.add(a_stream("metadata"), a_stream(), a_stream())
    assert again == [
        AddedStream(handle=first[0].handle, next_sequence=0),
        *2 * [AddedStream(handle=first[1].handle, next_sequence=1)],
    ]
    assert len(list(relay.sessions.viewable_sessions())) == 1
    end(sender, **{f"h{first[1].handle}": 1})
    end(sender, **{f"h{first[1].handle}": 1, "h5": 1})
    for _ in range(2):
        sender.ask(CloseStreaming(token=TOKEN), Done)
    assert relay.journals.records == {}
    assert list(relay.sessions.viewable_sessions()) == []
    with pytest.raises(NotFound):
        sender.add(a_stream())


def test_a_stream_that_has_ended_may_come_again(relay: FleetRelay, sender: FleetSender) -> None:
    (data,) = sender.add(a_stream())
    for sequence in range(2):
        sender.send(data.handle, sequence)
    end(sender, **{f"h{data.handle}": 2})
    (session,) = relay.sessions.viewable_sessions()
    assert session.streams == {}
    assert relay.intake.acknowledged == {}
    assert sender.add(a_stream()) == [AddedStream(handle=data.handle, next_sequence=2)]
    sender.send(data.handle, 2)
    assert numbers_in(relay) == [0, 1, 2]
    assert session.books().packet_count == 3


def test_the_end_of_a_stream_must_be_one(relay: FleetRelay, sender: FleetSender) -> None:
    (data,) = sender.add(a_stream())
    sender.send(data.handle, 0)
    with pytest.raises(InvalidArgument, match="packets up to 0 only"):
        end(sender, **{f"h{data.handle}": 2})
    sender.send(data.handle, 1)
    assert numbers_in(relay) == [0, 1]


def test_what_the_sender_has_no_more_is_counted_once(relay: FleetRelay, sender: FleetSender) -> None:
    (data,) = sender.add(a_stream(oldest_sequence=3))
    assert data.next_sequence == 3
    sender.send(data.handle, 3)
    assert sender.add(a_stream(oldest_sequence=6))[0].next_sequence == 6
    relay.restart()
    sender.open()
    assert sender.add(a_stream(oldest_sequence=8))[0].next_sequence == 8
    sender.connect()
    sender.send(data.handle, 8)
    (session,) = relay.sessions.viewable_sessions()
    assert session.books().missing_packet_count == 3 + 2 + 2
    assert session.books().packet_count == 2
    assert numbers_in(relay) == [3, 8]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_trace_files_go_on_after_every_packet(relay: FleetRelay, sender: FleetSender, count: int) -> None:
    request = a_stream(trace_file_size_bytes=FILE_LIMIT, trace_file_count=count)
    for sequence in range(9):
        (data,) = sender.add(request)
        assert data.next_sequence == sequence
        sender.send(data.handle, sequence)
        relay.restart()
        sender.open()
        sender.connect()
    (data,) = sender.add(request)
    (session,) = relay.sessions.viewable_sessions()
    stream = session.stream(data.handle)
    kept = range(9) if count == 0 else range(max(0, 8 - 2 * (count - 1)), 9)
    assert stream.books.packet_count == len(kept)
    found = []
    for position in range(stream.end_position):
        segment = stream.segment_at(position)
        assert segment is not None
        entry = relay.disk.index(segment.index_path)[position - segment.first_position]
        found.append(entry.packet_sequence_number)
    assert found == list(kept)


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_killed_at_every_step(count: int) -> None:
    """Of adding a stream and filling some files."""
    request = a_stream(trace_file_size_bytes=FILE_LIMIT, trace_file_count=count)
    has_survived = False
    step = 0
    while not has_survived:
        relay = FleetRelay()
        sender = FleetSender(relay)
        relay.fate.step_count = step
        try:
            sender.open()
            (data,) = sender.add(request)
            sender.connect()
            for sequence in range(8):
                sender.send(data.handle, sequence)
                relay.packets.take_reports()
            has_survived = True
        except Crash:
            pass
        next_sequence = max((sequence for _, sequence in relay.intake.acks), default=-1) + 1
        assert next_sequence == 8 or not has_survived
        relay.restart()
        sender.open()
        assert sender.add(request)[0].next_sequence == next_sequence, f"killed at step {step}"
        step += 1
    assert step > 20


def test_a_next_file_that_has_no_room_is_made_once(relay: FleetRelay, sender: FleetSender) -> None:
    request = a_stream(trace_file_size_bytes=FILE_LIMIT)
    (data,) = sender.add(request)
    for sequence in range(2):
        sender.send(data.handle, sequence)
    relay.disk.is_full = True
    relay.journals.disk = MortalDisk(relay.fate)  # a few bytes find room
    sender.send(data.handle, 2)
    for _ in range(3):
        relay.streaming.take_care()
        relay.packets.take_reports()
    assert relay.intake.acks[-1] == (data.handle, 1)
    relay.disk.is_full = False
    # Meanwhile the sender begins again, without that packet.
    assert sender.add(a_stream(oldest_sequence=3, trace_file_size_bytes=FILE_LIMIT))[0].next_sequence == 3
    sender.connect()
    for sequence in range(3, 8):
        sender.send(data.handle, sequence)
        relay.packets.take_reports()
    names = sorted(path.rpartition("/")[2] for path in relay.disk.files if path.endswith(".idx"))
    assert [numbers_in(relay, f"{OUTPUT}/ust/index/{name}") for name in names] == [[0, 1], [3, 4], [5, 6], [7]]
    assert names == [f"a_0_{number}.idx" for number in range(4)]


def test_a_trace_that_was_removed_begins_anew(relay: FleetRelay, sender: FleetSender) -> None:
    (data,) = sender.add(a_stream())
    for sequence in range(3):
        sender.send(data.handle, sequence)
    relay.restart()
    relay.disk.files.clear()
    assert sender.open().is_resumed
    assert sender.add(a_stream(oldest_sequence=2)) == [AddedStream(handle=data.handle, next_sequence=2)]
    sender.connect()
    sender.send(data.handle, 2)
    assert numbers_in(relay) == [2]


def test_journals_are_synced_with_the_data(relay: FleetRelay) -> None:
    sender = FleetSender(relay, durability=Durability.SYNCED)
    sender.open()
    (data,) = sender.add(a_stream())
    assert relay.journals.synced == [True, True]
    target = relay.intake.acknowledged[data.handle]
    assert target.is_synced
    assert target.durable_count == 1
    sender.connect()
    sender.send(data.handle, 0)
    # What it is told now, it takes for acknowledged.
    assert sender.add(a_stream())[0].next_sequence == 1
    assert target.durable_count == 2


def test_a_disk_that_fails_ends_the_connection(relay: FleetRelay, sender: FleetSender) -> None:
    (data,) = sender.add(a_stream())
    sender.send(data.handle, 0)
    assert sender.connection is not None
    relay.intake.reports.append(
        IntakeReport(ReportKind.HOLD, HoldReason.WRITE_FAILED, errno.EIO, sender.connection, data.handle, 1, 0, 8, 8)
    )
    relay.packets.take_reports()
    assert relay.intake.closed == [sender.connection]
    assert relay.intake.acknowledged == {}
    assert sender.add(a_stream()) == [AddedStream(handle=data.handle, next_sequence=1)]
    sender.connect()
    sender.send(data.handle, 1)
    assert numbers_in(relay) == [0, 1]


def test_the_latest_data_connection_is_the_sessions(relay: FleetRelay, sender: FleetSender) -> None:
    (data,) = sender.add(a_stream())
    former = sender.connection
    sender.connect()
    assert relay.intake.closed == [former]
    sender.send(data.handle, 0)
    assert numbers_in(relay) == [0]
    assert relay.connect(bytes(16)) is None


def test_a_stream_of_another_session_ends_the_connection(relay: FleetRelay, sender: FleetSender) -> None:
    other = FleetSender(relay, token=bytes(16), session_name="other")
    other.open()
    (foreign,) = other.add(a_stream())
    sender.send(4711, 0)
    assert relay.intake.closed == [sender.connection]
    other.connect()
    other.send(foreign.handle, 0)
    assert relay.intake.closed == [sender.connection]


def test_two_sessions_do_not_share_a_stream(relay: FleetRelay, sender: FleetSender) -> None:
    sender.add(a_stream())
    other = FleetSender(relay, token=bytes(16))
    assert other.open().output == OUTPUT
    with pytest.raises(AlreadyExists):
        other.add(a_stream())
    other.add(a_stream("a_1"))


def test_descriptors_that_were_taken_away_are_lent_again(relay: FleetRelay, sender: FleetSender) -> None:
    (data,) = sender.add(a_stream())
    relay.intake.acknowledged[data.handle].is_lent = False
    sender.send(data.handle, 0)
    relay.packets.take_reports()
    assert numbers_in(relay) == [0]


def test_a_full_disk_holds_and_says_so(relay: FleetRelay, sender: FleetSender) -> None:
    (data,) = sender.add(a_stream(trace_file_size_bytes=FILE_LIMIT))
    (session,) = relay.sessions.viewable_sessions()
    for sequence in range(3):
        relay.disk.is_full = True
        sender.send(data.handle, sequence)
        assert session.trouble == "No room on the disk"
        relay.streaming.take_care()
        relay.packets.take_reports()
        assert session.trouble is not None
        relay.disk.is_full = False
        relay.streaming.take_care()
        for _ in range(2):  # the next file, and the packet in it
            relay.packets.take_reports()
        assert session.trouble is None
    assert relay.intake.acks == [(data.handle, sequence) for sequence in range(3)]
    relay.disk.is_full = True
    with pytest.raises(ResourceExhausted):
        sender.add(a_stream("a_1"))
    relay.disk.is_full = False
    sender.add(a_stream("a_1"))


def test_a_session_that_everybody_left_is_over_for_viewers(relay: FleetRelay, sender: FleetSender) -> None:
    (data,) = sender.add(a_stream())
    sender.send(data.handle, 0)
    (session,) = relay.sessions.viewable_sessions()
    stream = session.stream(data.handle)
    relay.streaming.peer_lost("another")
    relay.streaming.peer_lost("peer")
    relay.clock.time_s += 2 * GRACE_S
    relay.streaming.take_care()
    assert not session.is_closed  # its data connection is there
    assert sender.connection is not None
    relay.intake.end(sender.connection)
    relay.packets.take_reports()
    relay.clock.time_s += GRACE_S - 1
    relay.streaming.take_care()
    assert not session.is_closed
    relay.clock.time_s += 1
    relay.streaming.take_care()
    assert session.is_closed
    assert stream.is_closed
    assert sender.open().is_resumed
    assert sender.add(a_stream()) == [AddedStream(handle=data.handle, next_sequence=1)]


def test_sessions_without_streams_leave_no_journal(relay: FleetRelay, sender: FleetSender) -> None:
    relay.streaming.peer_lost("peer")
    assert sender.connection is not None
    relay.intake.end(sender.connection)
    relay.packets.take_reports()
    relay.clock.time_s += GRACE_S
    relay.streaming.take_care()
    assert relay.journals.records == {}


def test_what_a_former_daemon_left_is_made_whole(relay: FleetRelay, sender: FleetSender) -> None:
    (data,) = sender.add(a_stream())
    sender.send(data.handle, 0)
    relay.restart()
    relay.disk.files[DATA].data += b"a part"
    relay.streaming.take_care()
    assert len(relay.disk.files[DATA].data) == 16
    assert relay.journals.records
    relay.restart()
    relay.disk.files.clear()
    relay.streaming.take_care()
    assert relay.journals.records == {}


def test_closing_what_is_only_in_a_journal(relay: FleetRelay, sender: FleetSender) -> None:
    (data,) = sender.add(a_stream())
    sender.send(data.handle, 0)
    relay.restart()
    relay.disk.files[DATA].data += b"a part"
    sender.ask(CloseStreaming(token=TOKEN), Done)
    assert len(relay.disk.files[DATA].data) == 16
    assert relay.journals.records == {}


# ---- records ----

A_SESSION = SessionRecord(
    session_name="s",
    host_name="h",
    creation_time_s=CREATION_TIME_S,
    has_creation_time_in_name=False,
    sessiond_uuid=UUID,
    session_id=1,
    live_timer_period_us=0,
    durability=Durability.WRITTEN,
    output=OUTPUT,
)


def a_record(**settings: Any) -> StreamRecord:
    return StreamRecord(
        **{
            "handle": 1,
            "path": "ust",
            "channel_name": "a_0",
            "trace_file_size_bytes": 0,
            "trace_file_count": 0,
            **settings,
        }
    )


@pytest.mark.parametrize(
    ("count", "ordinal", "former", "current"),
    [(0, 0, [], 0), (0, 3, [0, 1, 2], 3), (1, 5, [], 0), (3, 2, [0, 1], 2), (3, 3, [1, 2], 0), (3, 7, [2, 0], 1)],
)
def test_numbers_of_trace_files(count: int, ordinal: int, former: list[int], current: int) -> None:
    record = a_record(trace_file_size_bytes=4096, trace_file_count=count, file_ordinal=ordinal)
    assert list(record.former_file_numbers()) == former
    assert record.file_number == current


def test_records_replace_each_other() -> None:
    first = a_record()
    second = structs.replace(first, file_ordinal=1)
    journal = replay([A_SESSION, first, second])
    assert list(journal.records()) == [A_SESSION, second]


@pytest.mark.parametrize(
    "records",
    [[], [a_record()], [A_SESSION, A_SESSION], [structs.replace(A_SESSION, version=2)]],
    ids=["empty", "no session", "two sessions", "other version"],
)
def test_other_records_are_refused(records: list[Any]) -> None:
    with pytest.raises(InvalidArgument):
        replay(records)


def test_only_the_latest_ended_streams_are_kept() -> None:
    journal = Journal(A_SESSION)
    for number in range(ENDED_STREAMS_KEPT + 10):
        journal.put(a_record(channel_name=f"c_{number}", is_ended=True))
    assert len(journal.streams) == ENDED_STREAMS_KEPT
    assert ("ust", "c_9") not in journal.streams
