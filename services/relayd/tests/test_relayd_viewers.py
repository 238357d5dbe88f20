"""What viewers are told and given."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tracefleet_common.codecs import lttng_live as live
from tracefleet_common.codecs.lttng_live import (
    AttachStatus,
    DetachStatus,
    Flags,
    MetadataStatus,
    NewStreamsStatus,
    NextIndexStatus,
    PacketStatus,
    Seek,
)
from tracefleet_common.errors import RemoteProtocolError
from tracefleet_relayd.application import serve_viewers
from tracefleet_relayd.application.serve_viewers import PATIENCE_S_MAX, Viewers

sys.path.insert(0, str(Path(__file__).parent))

from viewable_fakes import SECOND, Asking, FakeSession, FakeSessions, FakeStream

NOTHING = (PacketStatus.ERROR, b"")


class World:
    """A live session with a metadata stream and one data stream, both published."""

    def __init__(self) -> None:
        self.metadata = FakeStream(1, is_metadata=True, channel_name="metadata")
        self.data = FakeStream(2)
        self.session = FakeSession()
        self.session.publish(self.metadata, self.data)
        self.sessions = FakeSessions([self.session])
        self.viewers = Viewers(self.sessions)

    def viewer(self, seek: Seek | None = Seek.BEGINNING) -> Asking:
        """One that has attached the session; not when `seek` is None."""
        viewer = Asking(self.viewers.viewer())
        if seek is not None:
            assert viewer.attach(seek=seek).status is AttachStatus.OK
        return viewer


@pytest.fixture
def world() -> World:
    return World()


# ── Connections ──────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_lower_minor_is_spoken(world: World) -> None:
    viewer = world.viewers.viewer()
    reply = viewer.handle(live.Connect(minor=4)).reply
    assert isinstance(reply, live.Connect)
    assert (reply.viewer_session_id, reply.major, reply.minor, reply.connection_type) == (1, 2, 13, 0)
    assert viewer.minor == 4
    viewer.handle(live.Connect(minor=99))
    assert viewer.minor == live.MINOR


@pytest.mark.parametrize(
    "request_",
    [live.Connect(major=3), live.Connect(connection_type=3), live.ListSessions(), live.CreateViewerSession()],
)
def test_a_viewer_that_begins_otherwise_is_hung_up_on(world: World, request_: live.Request) -> None:
    viewer = world.viewers.viewer()
    with pytest.raises(RemoteProtocolError):
        viewer.handle(request_)
    assert not viewer.is_connected


def test_without_a_viewer_session_nothing_can_be_attached(world: World) -> None:
    viewer = world.viewers.viewer()
    viewer.handle(live.Connect())
    attach = live.AttachSession(session_id=1, seek=Seek.BEGINNING)
    assert viewer.handle(attach).reply == live.AttachReply(status=AttachStatus.NO_SESSION)
    assert viewer.handle(live.DetachSession(session_id=1)).reply == live.DetachReply(status=DetachStatus.ERROR)
    assert viewer.handle(live.GetNextIndex(stream_id=2)).reply == live.NextIndexReply(status=NextIndexStatus.ERROR)


def test_a_second_viewer_session_is_the_first_one(world: World) -> None:
    viewer = world.viewer()
    viewer.viewer.handle(live.CreateViewerSession())
    assert viewer.attach().status is AttachStatus.ALREADY
    assert viewer.index_status(world.data) is NextIndexStatus.RETRY


# ── Attaching ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_list_names_each_session_with_its_streams_and_viewers(world: World) -> None:
    world.session.add(FakeStream(3))
    world.sessions.sessions.append(FakeSession(2, live_timer_us=0, session_name="stored"))
    viewers = [world.viewer(), world.viewer()]
    reply = viewers[0].viewer.handle(live.ListSessions()).reply
    assert isinstance(reply, live.SessionList)
    assert [(one.session_id, one.viewer_count, one.stream_count) for one in reply.sessions] == [(1, 2, 3), (2, 0, 0)]
    viewers[0].detach()
    viewers[1].viewer.close()
    assert world.viewers.viewer_count(1) == 0


def test_a_session_is_refused_as_lttng_does(world: World) -> None:
    world.sessions.sessions.append(FakeSession(2, live_timer_us=0))
    viewer = world.viewer(None)
    assert viewer.attach(99).status is AttachStatus.UNKNOWN
    assert viewer.attach(2).status is AttachStatus.NOT_LIVE
    assert viewer.attach(1, seek=7).status is AttachStatus.SEEK_ERROR
    assert viewer.attach(1).status is AttachStatus.OK, "the wrong seek has not attached it"
    world.session.hang_up()
    assert world.viewer(None).attach(1).status is AttachStatus.UNKNOWN


def test_detaching(world: World) -> None:
    viewer = world.viewer(None)
    assert viewer.detach(1) is DetachStatus.ERROR
    assert viewer.detach(99) is DetachStatus.UNKNOWN
    viewer.attach()
    world.data.receive_packet()
    assert viewer.index_status(world.data) is NextIndexStatus.OK
    assert viewer.detach(1) is DetachStatus.OK
    assert not world.data.open_files
    assert not world.data.kept
    assert not world.session.watchers
    assert viewer.index_status(world.data) is NextIndexStatus.ERROR
    assert viewer.attach().status is AttachStatus.OK
    assert viewer.index_status(world.data) is NextIndexStatus.OK


def test_a_viewer_reads_only_what_it_attached(world: World) -> None:
    world.data.receive_packet()
    world.metadata.receive_metadata(b"M")
    owner, other = world.viewer(), world.viewer(None)
    assert owner.index_status(world.data) is NextIndexStatus.OK
    assert other.index_status(world.data) is NextIndexStatus.ERROR
    assert other.packet(world.data) == NOTHING
    assert other.metadata(world.metadata) == (MetadataStatus.ERROR, b"")
    assert other.new_streams().status is NewStreamsStatus.ERROR


def test_many_viewers_read_one_session_each_at_its_own_pace(world: World) -> None:
    viewers = [world.viewer() for _ in range(20)]
    sent = [world.data.receive_packet() for _ in range(5)]
    assert viewers[3].index_status(world.data) is NextIndexStatus.OK
    for viewer in viewers[:3] + viewers[4:]:
        assert viewer.all_packets(world.data) == sent
    viewers[5].viewer.close()
    assert viewers[3].all_packets(world.data) == sent[1:]


# ── Streams that come and go ─────────────────────────────────────────────────────────────────────────────────────────


def test_a_viewer_that_came_before_the_streams_is_told_of_them_once(world: World) -> None:
    session = FakeSession(5)
    world.sessions.sessions.append(session)
    viewer = world.viewer(None)
    assert viewer.attach(5) == live.AttachReply(status=AttachStatus.OK)
    metadata, data = FakeStream(7, 3, is_metadata=True), FakeStream(8, 3)
    session.add(metadata, data)
    assert viewer.new_stream_ids(5) == []
    session.publish()
    assert viewer.new_stream_ids(5) == [7, 8]
    assert viewer.new_streams(5) == live.NewStreamsReply(status=NewStreamsStatus.OK)


def test_new_streams_are_announced_with_every_status_until_asked_for(world: World) -> None:
    viewer = world.viewer()
    world.metadata.receive_metadata(b"M")
    viewer.metadata(world.metadata)
    world.session.publish(FakeStream(3))
    assert viewer.index(world.data) == live.NextIndexReply(status=NextIndexStatus.RETRY, flags=Flags.NEW_STREAM)
    world.data.inactive_until = 5
    assert viewer.index(world.data).flags == Flags.NEW_STREAM
    world.data.receive_packet(7, 8)
    assert viewer.index(world.data).flags == Flags.NEW_STREAM
    assert viewer.new_stream_ids() == [3]
    assert viewer.index(world.data).flags == Flags.NONE


def test_a_data_stream_waits_for_the_metadata_stream_of_its_trace(world: World) -> None:
    viewer = world.viewer()
    early, metadata = FakeStream(3, trace_id=9), FakeStream(4, trace_id=9, is_metadata=True)
    world.session.publish(early)
    assert viewer.new_stream_ids() == []
    assert not viewer.index(world.data).flags & Flags.NEW_STREAM
    assert [stream.stream_id for stream in world.viewer(None).attach().streams] == [1, 2]
    world.session.publish(metadata)
    assert viewer.new_stream_ids() == [4, 3]


def test_a_stream_that_lived_between_two_requests_is_not_missed(world: World) -> None:
    viewer = world.viewer(Seek.LAST)
    metadata, short = FakeStream(3, 2, is_metadata=True), FakeStream(4, 2)
    world.session.publish(metadata, short)
    metadata.receive_metadata(b"M")
    sent = [short.receive_packet(), short.receive_packet()]
    metadata.is_closed = short.is_closed = True
    assert viewer.new_stream_ids() == [3, 4]
    assert viewer.metadata(metadata) == (MetadataStatus.OK, b"M")
    assert viewer.all_packets(short) == sent


def test_streams_that_nobody_asks_for_do_not_fill_the_memory(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_viewers, "UNTOLD_STREAM_COUNT_MAX", 3)
    viewer = world.viewer()
    world.session.publish(*(FakeStream(number) for number in range(10, 20)))
    assert viewer.new_stream_ids() == [10, 11, 12]


def test_from_now_on_means_what_is_received_later(world: World) -> None:
    world.metadata.receive_metadata(b"MM")
    world.data.receive_packet()
    viewer = world.viewer(Seek.LAST)
    assert viewer.metadata(world.metadata) == (MetadataStatus.OK, b"MM"), "metadata comes from its beginning"
    assert viewer.index_status(world.data) is NextIndexStatus.RETRY
    assert viewer.all_packets(world.data) == []
    later = world.data.receive_packet()
    assert viewer.all_packets(world.data) == [later]


# ── Indexes, beacons, packets ────────────────────────────────────────────────────────────────────────────────────────


def test_an_idle_stream_passes_on_its_beacon_also_before_its_first_packet(world: World) -> None:
    viewer = world.viewer()
    world.data.stream_class_id = 4
    world.data.inactive_until = 7 * SECOND
    for _ in range(2):
        reply = viewer.index(world.data)
        assert (reply.status, reply.timestamp_end) == (NextIndexStatus.INACTIVE, 7 * SECOND)
        assert reply.stream_class_id == 4
    world.data.receive_packet(8 * SECOND, 9 * SECOND)
    reply = viewer.index(world.data)
    assert (reply.timestamp_begin, reply.timestamp_end) == (8 * SECOND, 9 * SECOND)
    assert viewer.index_status(world.data) is NextIndexStatus.RETRY


def test_an_answer_that_tells_nothing_may_wait_for_news(world: World) -> None:
    viewer, request = world.viewer(), live.GetNextIndex(stream_id=world.data.stream_id)

    def has_news(change: Callable[[], object]) -> bool:
        """After a question that nothing new is answered to, and then a change."""
        assert 0 < viewer.viewer.patience_s(request) <= PATIENCE_S_MAX
        assert not viewer.viewer.has_news(request)
        change()
        return viewer.viewer.has_news(request)

    def note_beacon(timestamp: int) -> None:
        world.data.inactive_until = timestamp

    def take_beacon() -> None:
        """The same one again tells nothing."""
        assert viewer.index_status(world.data) is NextIndexStatus.INACTIVE
        assert viewer.viewer.patience_s(request) == 0
        assert viewer.index_status(world.data) is NextIndexStatus.INACTIVE

    world.metadata.receive_metadata(b"MM")
    assert viewer.index_status(world.data) is NextIndexStatus.RETRY
    assert viewer.viewer.patience_s(request) == 0, "it shall ask for metadata"
    assert viewer.metadata(world.metadata) == (MetadataStatus.OK, b"MM")
    assert viewer.index_status(world.data) is NextIndexStatus.RETRY
    assert has_news(lambda: note_beacon(7 * SECOND))
    take_beacon()
    assert has_news(lambda: note_beacon(8 * SECOND))
    take_beacon()
    assert has_news(lambda: world.data.receive_packet(9 * SECOND, 10 * SECOND))
    assert viewer.index_status(world.data) is NextIndexStatus.OK
    assert viewer.viewer.patience_s(request) == 0, "a packet is news"
    assert viewer.index_status(world.data) is NextIndexStatus.RETRY
    assert has_news(lambda: world.metadata.receive_metadata(b"NN"))
    assert viewer.metadata(world.metadata) == (MetadataStatus.OK, b"NN")
    assert viewer.index_status(world.data) is NextIndexStatus.RETRY
    assert has_news(lambda: world.session.publish(FakeStream(9)))
    assert viewer.new_stream_ids() == [9]
    assert viewer.index_status(world.data) is NextIndexStatus.RETRY
    assert has_news(world.session.hang_up)
    assert viewer.index_status(world.data) is NextIndexStatus.HUP
    assert viewer.viewer.patience_s(request) == 0


def test_what_is_no_question_for_an_index_never_waits(world: World) -> None:
    viewer = world.viewer()
    for request in (
        live.ListSessions(),
        live.GetMetadata(stream_id=world.metadata.stream_id),
        live.GetNextIndex(stream_id=world.metadata.stream_id),
        live.GetNextIndex(stream_id=99),
    ):
        viewer.viewer.handle(request)
        assert viewer.viewer.patience_s(request) == 0


def test_a_time_that_goes_backwards_is_not_passed_on(world: World) -> None:
    viewer = world.viewer()
    world.data.receive_packet(10, 20)
    assert viewer.index_status(world.data) is NextIndexStatus.OK
    world.data.inactive_until = 19
    assert viewer.index_status(world.data) is NextIndexStatus.RETRY
    world.data.inactive_until = 21
    assert viewer.index_status(world.data) is NextIndexStatus.INACTIVE


def test_no_promise_goes_beyond_a_stream_that_the_viewer_does_not_know_yet(world: World) -> None:
    """Another session's too: a viewer merges all that it has attached."""
    world.sessions.sessions.append(FakeSession(2))
    viewer = world.viewer()
    viewer.attach(2)
    world.data.inactive_until = 5 * SECOND
    assert viewer.index(world.data).timestamp_end == 5 * SECOND
    world.sessions.sessions[1].publish(FakeStream(8, 3, is_metadata=True))
    world.data.inactive_until = 6 * SECOND
    reply = viewer.index(world.data)
    assert (reply.status, reply.timestamp_end) == (NextIndexStatus.INACTIVE, 5 * SECOND)
    viewer.new_streams(2)
    assert viewer.index(world.data).timestamp_end == 6 * SECOND


def test_a_packet_is_any_range_of_the_open_file(world: World) -> None:
    viewer = world.viewer()
    packet = world.data.receive_packet()
    assert viewer.packet(world.data) == NOTHING, "no file is open before the first index entry"
    assert viewer.index_status(world.data) is NextIndexStatus.OK
    assert viewer.packet(world.data, 3, 5) == (PacketStatus.OK, packet[3:8])
    assert viewer.packet(world.data, 64, 0) == (PacketStatus.OK, b"")
    for offset_bytes, size_bytes in ((1, 64), (65, 0), (0, 2**32 - 1), (2**64 - 1, 2**32 - 1), (2**64 - 1, 1)):
        assert viewer.packet(world.data, offset_bytes, size_bytes) == NOTHING
    assert viewer.packet(world.metadata) == NOTHING


def test_a_metadata_stream_has_no_index(world: World) -> None:
    viewer = world.viewer()
    assert viewer.index(world.metadata).status is NextIndexStatus.HUP
    world.metadata.receive_metadata(b"M")
    assert viewer.metadata(world.metadata) == (MetadataStatus.OK, b"M"), "it is not finished by that"


def test_metadata_comes_in_order_and_the_flag_says_when_to_ask(world: World) -> None:
    viewer = world.viewer()
    assert viewer.metadata(world.data) == (MetadataStatus.ERROR, b"")
    assert viewer.index(world.data).flags == Flags.NEW_METADATA
    assert viewer.metadata(world.metadata) == (MetadataStatus.NO_NEW, b"")
    world.metadata.receive_metadata(b"AAAA")
    world.metadata.receive_metadata(b"BB")
    assert viewer.metadata(world.metadata) == (MetadataStatus.OK, b"AAAABB")
    assert viewer.index(world.data).flags == Flags.NONE
    world.metadata.receive_metadata(b"C")
    world.data.receive_packet()
    assert viewer.index(world.data).flags == Flags.NEW_METADATA
    assert viewer.metadata(world.metadata) == (MetadataStatus.OK, b"C")
    assert viewer.metadata(world.metadata) == (MetadataStatus.NO_NEW, b"")
    assert not world.metadata.open_files


def test_announced_metadata_that_is_not_in_the_file_is_not_promised(world: World) -> None:
    viewer = world.viewer()
    world.metadata.receive_metadata(b"AAAA")
    world.metadata.metadata_size_bytes = 5
    assert viewer.metadata(world.metadata) == (MetadataStatus.NO_NEW, b"")
    assert not world.metadata.open_files


def test_index_files_that_are_not_there_or_damaged(world: World) -> None:
    viewer = world.viewer()
    world.data.receive_packet()
    world.data.segments[0].is_there = False
    assert viewer.index_status(world.data) is NextIndexStatus.RETRY
    world.data.segments[0].is_there = True
    index = bytes(world.data.segments[0].index)
    world.data.segments[0].index[:] = index[:-1]
    assert viewer.index_status(world.data) is NextIndexStatus.ERROR
    world.data.segments[0].index[:] = index
    assert viewer.index_status(world.data) is NextIndexStatus.OK
    world.data.receive_packet()
    world.data.next_segment().index[:4] = b"oops"
    world.data.receive_packet()
    assert viewer.index_status(world.data) is NextIndexStatus.OK
    assert viewer.index_status(world.data) is NextIndexStatus.ERROR
    viewer.viewer.close()
    assert not world.data.open_files


# ── The end ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_what_was_received_stays_readable_after_the_producer_has_gone(world: World) -> None:
    viewer = world.viewer()
    sent = [world.data.receive_packet() for _ in range(3)]
    world.metadata.receive_metadata(b"M")
    assert viewer.index_status(world.data) is NextIndexStatus.OK
    world.session.hang_up()
    assert viewer.new_streams() == live.NewStreamsReply(status=NewStreamsStatus.OK), "there is something to read"
    assert viewer.metadata(world.metadata) == (MetadataStatus.OK, b"M")
    assert viewer.all_packets(world.data) == sent[1:]
    assert viewer.new_streams() == live.NewStreamsReply(status=NewStreamsStatus.HUP)
    assert viewer.index_status(world.data) is NextIndexStatus.ERROR, "it was told that the stream has ended"
    assert not world.data.open_files
    assert not world.data.kept
    assert viewer.detach() is DetachStatus.OK


def test_a_viewer_that_knows_no_stream_when_the_producer_goes_is_told_of_them_first(world: World) -> None:
    viewer = world.viewer()
    late = FakeStream(3)
    world.session.publish(late)
    sent = late.receive_packet()
    world.session.hang_up()
    assert viewer.index_status(world.data) is NextIndexStatus.HUP
    assert viewer.new_stream_ids() == [3]
    assert viewer.all_packets(late) == [sent]
    assert viewer.new_streams().status is NewStreamsStatus.HUP


def test_a_producer_that_dies_without_metadata_keeps_nobody_waiting(world: World) -> None:
    viewer = world.viewer()
    world.session.publish(FakeStream(3, trace_id=9))
    world.session.is_rotating = world.data.is_rotating = True
    world.session.hang_up()
    assert viewer.index_status(world.data) is NextIndexStatus.HUP
    assert viewer.new_streams().status is NewStreamsStatus.HUP


# ── Rotations, clears, trace files in a ring ─────────────────────────────────────────────────────────────────────────


def test_a_rotation_makes_viewers_wait_and_loses_nothing(world: World) -> None:
    viewer = world.viewer()
    sent = [world.data.receive_packet()]
    world.session.is_rotating = True
    assert viewer.index_status(world.data) is NextIndexStatus.RETRY
    assert viewer.new_streams() == live.NewStreamsReply(status=NewStreamsStatus.NO_NEW)
    late = world.viewer(None)
    assert late.attach() == live.AttachReply(status=AttachStatus.OK)
    world.data.next_segment()
    world.session.is_rotating = False
    sent.append(world.data.receive_packet())
    assert viewer.all_packets(world.data) == sent
    assert late.new_stream_ids() == [1, 2]
    assert late.all_packets(world.data) == sent


def test_a_stream_that_rotates_alone_waits_alone(world: World) -> None:
    other = FakeStream(3)
    world.session.publish(other)
    viewer = world.viewer()
    world.data.receive_packet()
    other.receive_packet()
    world.data.is_rotating = True
    assert viewer.index_status(world.data) is NextIndexStatus.RETRY
    assert viewer.index_status(other) is NextIndexStatus.OK


def test_a_clear_skips_what_was_not_read_and_leaves_what_was(world: World) -> None:
    viewer = world.viewer()
    first = world.data.receive_packet()
    world.data.receive_packet()
    world.metadata.receive_metadata(b"ABCD")
    assert viewer.metadata(world.metadata) == (MetadataStatus.OK, b"ABCD")
    assert viewer.index_status(world.data) is NextIndexStatus.OK
    world.data.clear()
    world.metadata.clear()
    assert viewer.packet(world.data) == (PacketStatus.OK, first), "its index entry was sent before"
    assert viewer.index_status(world.data) is NextIndexStatus.RETRY
    world.metadata.receive_metadata(b"ABCDEF")
    third = world.data.receive_packet()
    reply = viewer.index(world.data)
    assert (reply.status, reply.offset_bytes, reply.flags) == (NextIndexStatus.OK, 0, Flags.NEW_METADATA)
    assert viewer.packet(world.data) == (PacketStatus.OK, third)
    assert viewer.metadata(world.metadata) == (MetadataStatus.OK, b"EF"), "nothing is sent twice"


def test_trace_files_in_a_ring(world: World) -> None:
    viewer = world.viewer()
    sent = []
    for _ in range(4):
        sent += [world.data.receive_packet(), world.data.receive_packet()]
        world.data.next_segment()
    assert viewer.all_packets(world.data) == sent
    slow = world.viewer()
    assert slow.index_status(world.data) is NextIndexStatus.OK
    world.data.drop_segment()
    world.data.drop_segment()
    assert slow.packet(world.data) == (PacketStatus.OK, sent[0]), "the file is open"
    assert slow.all_packets(world.data) == sent[4:]
    assert world.viewer().all_packets(world.data) == sent[4:]


def test_a_viewer_lets_go_of_what_it_has_read(world: World) -> None:
    viewer = world.viewer()
    world.data.receive_packet()
    world.data.next_segment()
    world.data.receive_packet()
    assert set(world.data.kept.values()) == {0}
    viewer.all_packets(world.data)
    assert set(world.data.kept.values()) == {1}
    assert len(world.data.open_files) == 2, "data and index of the last segment"
