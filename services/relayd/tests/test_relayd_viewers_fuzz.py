"""Any number of viewers ask anything in any order while a producer does anything it may: the promises hold.

Whatever a viewer is given is what the producer sent, in order, each packet once, and never that of a stream that
it did not attach; a viewer that leaves leaves nothing open.
"""

from __future__ import annotations

import sys
from pathlib import Path

import hypothesis.strategies as st
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tracefleet_common.codecs import lttng_live as live
from tracefleet_common.codecs.lttng_live_replies import ReplyDecoder, encode_reply_in_parts
from tracefleet_common.codecs.lttng_live_requests import RequestDecoder, encode_request
from tracefleet_common.codecs.lttng_wire import RefusedCommand
from tracefleet_common.errors import RemoteProtocolError
from tracefleet_relayd.application.serve_viewers import Viewer, Viewers

sys.path.insert(0, str(Path(__file__).parent))

from viewable_fakes import PACKET_SIZE_BYTES, FakeSession, FakeSessions, FakeStream, payload_of

# Derandomized: a failure belongs to the change that is tested.
BOUNDED = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
SESSION_IDS = st.sampled_from((1, 2, 3, 99))
STREAM_IDS = st.integers(1, 12)
NUMBERS = st.integers(0, 59)  # of one of the streams that there are
SIZES = st.one_of(st.sampled_from((0, 1, PACKET_SIZE_BYTES, 2**31, 2**32 - 1)), st.integers(0, 1000))
OFFSETS = st.one_of(st.sampled_from((0, PACKET_SIZE_BYTES, 2**63, 2**64 - 1)), st.integers(0, 1000))
REQUESTS = st.one_of(
    st.builds(live.Connect, minor=st.integers(0, 20), connection_type=st.sampled_from((1, 1, 1, 2, 0, 3))),
    st.just(live.ListSessions()),
    st.just(live.CreateViewerSession()),
    st.builds(live.AttachSession, session_id=SESSION_IDS, seek=st.integers(0, 3)),
    st.builds(live.DetachSession, session_id=SESSION_IDS),
    st.builds(live.GetNewStreams, session_id=SESSION_IDS),
    st.builds(live.GetNextIndex, stream_id=STREAM_IDS),
    st.builds(live.GetMetadata, stream_id=STREAM_IDS),
    st.builds(live.GetPacket, stream_id=STREAM_IDS, offset_bytes=OFFSETS, size_bytes=SIZES),
)


class Seen:
    """What one viewer was told and given since it attached."""

    def __init__(self) -> None:
        self.session_of: dict[int, int] = {}  # by stream
        self.metadata: dict[int, bytes] = {}
        self.begins: dict[int, int] = {}  # of the last packet, which is its position
        self.promises: dict[int, int] = {}

    def forget(self, session_id: int) -> None:
        for stream_id in [one for one, owner in self.session_of.items() if owner == session_id]:
            del self.session_of[stream_id]
            for values in (self.metadata, self.begins, self.promises):
                values.pop(stream_id, None)


class Conversations(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.time = 0
        self.streams: dict[int, FakeStream] = {}
        self.all_metadata: dict[int, bytes] = {}
        self.sessions = FakeSessions([FakeSession(1), FakeSession(2), FakeSession(3, live_timer_us=0)])
        self.viewers = Viewers(self.sessions)
        self.connections: list[tuple[Viewer, Seen]] = [(self.viewers.viewer(), Seen()) for _ in range(3)]
        for viewer, _ in self.connections[:2]:
            viewer.handle(live.Connect())
            viewer.handle(live.CreateViewerSession())
        self.publish(0, 1, True)
        self.publish(0, 1, False)

    # ── The producer ──

    @rule(at=st.integers(0, 2), trace=st.integers(1, 3), is_metadata=st.booleans())
    def publish(self, at: int, trace: int, is_metadata: bool) -> None:
        if len(self.streams) < 10 and not self.sessions.sessions[at].is_closed:
            stream = FakeStream(len(self.streams) + 1, 10 * at + trace, is_metadata=is_metadata)
            self.streams[stream.stream_id] = stream
            self.all_metadata[stream.stream_id] = b""
            self.sessions.sessions[at].publish(stream)

    def open_stream(self, number: int) -> FakeStream | None:
        stream = self.streams[number % len(self.streams) + 1]
        return None if stream.is_closed else stream

    @rule(number=NUMBERS)
    def receive(self, number: int) -> None:
        stream = self.open_stream(number)
        if stream is None:
            return
        if stream.is_metadata:
            text = b"%d," % len(self.all_metadata[stream.stream_id])
            self.all_metadata[stream.stream_id] += text
            stream.receive_metadata(text)
        else:
            stream.receive_packet(stream.end_position, self.now())

    def now(self) -> int:
        self.time += 10
        return self.time

    @rule(number=NUMBERS, is_liar=st.booleans())
    def beacon(self, number: int, is_liar: bool) -> None:
        stream = self.open_stream(number)
        if stream is not None and not stream.is_metadata:
            stream.inactive_until = 1 if is_liar else self.now()

    @rule(number=NUMBERS, what=st.sampled_from(("rotate", "next", "drop", "clear", "close")))
    def disturb(self, number: int, what: str) -> None:
        stream = self.open_stream(number)
        if stream is None:
            return
        match what:
            case "rotate":
                stream.is_rotating = not stream.is_rotating
            case "next":
                stream.next_segment()
            case "drop" if len(stream.segments) > 1:
                stream.drop_segment()
            case "clear":
                stream.clear()
                if stream.is_metadata:  # all of it is repeated
                    stream.receive_metadata(self.all_metadata[stream.stream_id])
            case "close":
                stream.is_closed = True

    @rule(at=st.integers(0, 2), is_end=st.booleans())
    def disturb_session(self, at: int, is_end: bool) -> None:
        session = self.sessions.sessions[at]
        if is_end and len(self.streams) > 5:
            session.hang_up()
        else:
            session.is_rotating = not session.is_rotating

    # ── The viewers ──

    @rule(at=st.integers(0, 2), request=REQUESTS)
    def ask(self, at: int, request: live.Request) -> None:
        viewer, seen = self.connections[at]
        try:
            answer = viewer.handle(request)
        except RemoteProtocolError:
            self.leave(at)
            return
        payload = payload_of(answer)
        replies = ReplyDecoder(viewer.minor)
        replies.expect(request)
        for part in encode_reply_in_parts(answer.reply, viewer.minor):
            replies.receive(part)
        reply = replies.next_reply()
        assert reply == answer.reply
        match reply, request:
            case live.AttachReply() | live.NewStreamsReply(), live.AttachSession() | live.GetNewStreams():
                for stream in reply.streams:
                    assert stream.stream_id not in seen.session_of, "each stream is told of once"
                    assert stream.trace_id // 10 == request.session_id - 1
                    seen.session_of[stream.stream_id] = request.session_id
            case live.DetachReply(status=live.DetachStatus.OK), live.DetachSession():
                seen.forget(request.session_id)
            case live.NextIndexReply(), live.GetNextIndex():
                self.check_index(seen, request.stream_id, reply)
            case live.MetadataReply(status=live.MetadataStatus.OK), live.GetMetadata():
                assert request.stream_id in seen.session_of
                assert payload
                got = seen.metadata[request.stream_id] = seen.metadata.get(request.stream_id, b"") + payload
                assert self.all_metadata[request.stream_id].startswith(got)
            case live.PacketReply(status=live.PacketStatus.OK), live.GetPacket():
                assert request.stream_id in seen.begins, "an index entry came before"
                assert len(payload) == request.size_bytes

    def check_that_all_is_read(self, at: int) -> None:
        """When nothing rotates any more, a viewer gets to the newest packet that is there."""
        for session in self.sessions.sessions:
            session.is_rotating = False
        _, seen = self.connections[at]
        for stream_id in list(seen.session_of):
            stream = self.streams[stream_id]
            stream.is_rotating = False
            for _ in range(stream.end_position + 1):
                self.ask(at, live.GetNextIndex(stream_id=stream_id))
            newest = stream.end_position - 1
            if stream_id in seen.begins and stream.segment_at(newest):
                assert seen.begins[stream_id] == newest

    def check_index(self, seen: Seen, stream_id: int, reply: live.NextIndexReply) -> None:
        if reply.status is live.NextIndexStatus.ERROR:
            return
        assert stream_id in seen.session_of
        promise = seen.promises.get(stream_id, 0)
        if reply.status is live.NextIndexStatus.OK:
            assert reply.timestamp_begin > seen.begins.get(stream_id, -1), "in order, and once"
            seen.begins[stream_id] = reply.timestamp_begin
            seen.promises[stream_id] = max(promise, reply.timestamp_end)
        elif reply.status is live.NextIndexStatus.INACTIVE:
            assert reply.timestamp_end >= promise
            seen.promises[stream_id] = reply.timestamp_end

    @rule(at=st.integers(0, 2), seek=st.sampled_from(live.Seek), count=st.integers(1, 4))
    def read(self, at: int, seek: live.Seek, count: int) -> None:
        """What a viewer does that behaves."""
        for session_id in (1, 2):
            self.ask(at, live.AttachSession(session_id=session_id, seek=seek))
            self.ask(at, live.GetNewStreams(session_id=session_id))
        for stream_id in list(self.connections[at][1].session_of) * count:
            self.ask(at, live.GetNextIndex(stream_id=stream_id))
            self.ask(at, live.GetPacket(stream_id=stream_id, offset_bytes=0, size_bytes=PACKET_SIZE_BYTES))
            self.ask(at, live.GetMetadata(stream_id=stream_id))

    @rule(at=st.integers(0, 2))
    def leave(self, at: int) -> None:
        self.connections[at][0].close()
        viewer = self.viewers.viewer()
        viewer.handle(live.Connect())
        viewer.handle(live.CreateViewerSession())
        self.connections[at] = (viewer, Seen())

    @invariant()
    def files_are_bounded(self) -> None:
        for stream in self.streams.values():
            assert len(stream.open_files) <= 2 * len(self.connections)

    def teardown(self) -> None:
        for at in range(len(self.connections)):
            self.check_that_all_is_read(at)
        for viewer, _ in self.connections:
            viewer.close()
        for stream in self.streams.values():
            assert not stream.open_files
            assert not stream.kept
        for session in self.sessions.sessions:
            assert not session.watchers
            assert self.viewers.viewer_count(session.session_id) == 0


def test_any_conversation() -> None:
    run_state_machine_as_test(Conversations, settings=BOUNDED)


@given(
    pieces=st.lists(
        st.one_of(
            st.binary(max_size=80),
            REQUESTS.map(encode_request),
            st.tuples(REQUESTS, st.integers(0, 36)).map(lambda cut: encode_request(cut[0])[: cut[1]]),
        ),
        max_size=20,
    )
)
@settings(BOUNDED, max_examples=300)
def test_any_bytes(pieces: list[bytes]) -> None:
    """A connection that sends anything is answered or hung up on."""
    metadata, data = FakeStream(1, is_metadata=True), FakeStream(2)
    session = FakeSession(1)
    session.publish(metadata, data)
    data.receive_packet()
    viewer = Viewers(FakeSessions([session])).viewer()
    decoder = RequestDecoder()
    try:
        for piece in [encode_request(live.Connect()), encode_request(live.CreateViewerSession()), *pieces]:
            decoder.receive(piece)
            while (request := decoder.next_command()) is not None:
                answer = viewer.handle(request)
                assert b"".join(encode_reply_in_parts(answer.reply, viewer.minor))
                payload_of(answer)
    except RefusedCommand as refused:
        assert refused.must_close
    except RemoteProtocolError:
        pass
    viewer.close()
    assert not session.watchers
    assert not data.open_files
