"""Whatever a sender asks in any order, and wherever the daemon is killed: what was acknowledged is there, once.

Derandomized, as all tests of that kind: a failure belongs to the change that is tested.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tracefleet_common.codecs.fleet_stream import GREETING_SIZE_BYTES, decode_greeting, encode_greeting
from tracefleet_common.errors import RemoteProtocolError, TracefleetError
from tracefleet_common.messages.relay_streaming import (
    AddStreams,
    CloseStreaming,
    EndStreams,
    OpenStreaming,
    RelayStreamingRequest,
    StreamEnd,
    StreamRequest,
)
from tracefleet_common.model.relay_output import Durability
from tracefleet_common.transport import frames

sys.path.insert(0, str(Path(__file__).parent))

from streaming_fakes import OUTPUT, Crash, FleetRelay, FleetSender, a_stream

BOUNDED = settings(
    max_examples=100,
    stateful_step_count=50,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
# Two packets a file: metadata, one file, files without end, a ring of one, a ring of three.
REQUESTS = (
    a_stream("metadata"),
    a_stream("a_0"),
    a_stream("b_0", trace_file_size_bytes=32),
    a_stream("c_0", trace_file_size_bytes=32, trace_file_count=1),
    a_stream("d_0", trace_file_size_bytes=32, trace_file_count=3),
)
STREAMS = st.integers(0, len(REQUESTS) - 1)
STEPS = st.one_of(st.none(), st.none(), st.integers(0, 12))  # until the daemon is killed


class Machine(RuleBasedStateMachine):
    """One session. `acknowledged`: the packets of each stream that the sender may have forgotten, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.relay = FleetRelay()
        self.sender = FleetSender(self.relay)
        self.handles: dict[int, int] = {}
        self.acknowledged: dict[int, list[int]] = defaultdict(list)
        self.next: dict[int, int] = defaultdict(int)
        self.is_open = False

    def _mortally(self, steps: int | None, act: Any) -> None:
        self.relay.fate.step_count = steps
        try:
            act()
        except Crash:
            self._hear()
            self._die()
        except TracefleetError:
            assert self.relay.disk.is_full or not self.is_open
        self.relay.fate.step_count = None
        self._hear()

    def _die(self) -> None:
        self.relay.restart()
        self.is_open = False
        self.sender.connection = None

    def _hear(self) -> None:
        """The acknowledgements."""
        by_handle = {handle: stream for stream, handle in self.handles.items()}
        for handle, sequence in self.relay.intake.acks:
            stream = by_handle[handle]
            known = self.acknowledged[stream]
            if sequence >= self.next[stream]:
                known.append(sequence)
                self.next[stream] = sequence + 1
        self.relay.intake.acks.clear()

    @rule(steps=STEPS, chosen=st.sets(STREAMS))
    def begin(self, steps: int | None, chosen: set[int]) -> None:
        """What a sender does after any break: all streams that it has, and some new ones."""
        self._begin(steps, chosen)

    def _begin(self, steps: int | None, chosen: set[int]) -> None:
        def act() -> None:
            self.sender.open()
            self.is_open = True
            wanted = sorted(chosen | self.handles.keys())
            added = self.sender.add(*(REQUESTS[one] for one in wanted))
            for stream, one in zip(wanted, added, strict=True):
                assert self.handles.setdefault(stream, one.handle) == one.handle
                assert one.next_sequence == self.next[stream], REQUESTS[stream]
            self.sender.connect()

        self._mortally(steps, act)

    @rule(steps=STEPS, stream=STREAMS, offset=st.sampled_from((0, 0, 0, 0, -1, 1)), count=st.integers(1, 4))
    def send(self, steps: int | None, stream: int, offset: int, count: int) -> None:
        self._send(steps, stream, offset, count)

    def _send(self, steps: int | None, stream: int, offset: int, count: int) -> None:
        if self.sender.connection is None or stream not in self.handles:
            self._begin(None, {stream})
        if self.sender.connection is None or stream not in self.handles:
            return
        first = max(0, self.next[stream] + offset)

        def act() -> None:
            for sequence in range(first, first + count):
                self.sender.send(self.handles[stream], sequence)
                self.relay.packets.take_reports()

        self._mortally(steps, act)

    @rule(stream=STREAMS, count=st.integers(2, 7))
    def send_many(self, stream: int, count: int) -> None:
        self._send(None, stream, 0, count)

    @rule(stream=STREAMS)
    def send_one(self, stream: int) -> None:
        self._send(None, stream, 0, 1)

    @rule(steps=STEPS, stream=STREAMS)
    def end(self, steps: int | None, stream: int) -> None:
        if stream not in self.handles or not self.is_open or self.relay.intake.held:
            return
        one = StreamEnd(handle=self.handles[stream], next_sequence=self.next[stream])
        self._mortally(
            steps, lambda: self.relay.streaming.execute(EndStreams(token=self.sender.token, ends=(one,)), "peer")
        )
        self.sender.connection = None  # it begins again, as if it had not heard the reply

    @rule(is_full=st.sampled_from((False, False, False, True)))
    def fill_disk(self, is_full: bool) -> None:
        self.relay.disk.is_full = is_full

    @rule(steps=STEPS)
    def wait(self, steps: int | None) -> None:
        def act() -> None:
            self.relay.streaming.take_care()
            for _ in range(3):
                self.relay.packets.take_reports()

        self._mortally(steps, act)

    @rule()
    def leave(self) -> None:
        if self.sender.connection is not None:
            self.relay.intake.end(self.sender.connection)
            self.relay.packets.take_reports()
            self._hear()
        self.sender.connection = None

    @rule()
    def stay_away(self) -> None:
        self.leave()
        self.relay.streaming.peer_lost("peer")
        self.relay.clock.time_s += 1000
        self.relay.streaming.take_care()
        self.is_open = False

    @rule()
    def kill(self) -> None:
        self._die()

    @invariant()
    def all_is_there_once(self) -> None:
        for stream in self.handles:
            request = REQUESTS[stream]
            names = [f"{request.channel_name}"]
            if request.trace_file_size_bytes:
                names = [f"{request.channel_name}_{number}" for number in range(100)]
            found: list[int | None] = []
            for name in names:
                data = self.relay.disk.files.get(f"{OUTPUT}/ust/{name}")
                if data is None:
                    continue
                if stream == 0:
                    found += range(len(data.data) // 16)
                    continue
                index = f"{OUTPUT}/ust/index/{name}.idx"
                if index in self.relay.disk.files and self.relay.disk.files[index].data:
                    found += [entry.packet_sequence_number for entry in self.relay.disk.index(index)]
            known = self.acknowledged[stream]
            assert known == list(range(len(known)))
            if request.trace_file_count:
                assert sorted(map(int, map(str, found))) == known[len(known) - len(found) :]
            else:
                assert found == known


def test_what_was_acknowledged_is_there_once() -> None:
    run_state_machine_as_test(Machine, settings=BOUNDED)


WORDS = st.one_of(
    st.text(max_size=20), st.sampled_from(("..", "a/../b", "/a", ".fleet", "x\0", "\ud800", "ust", "a" * 300))
)
ANY_INT = st.one_of(st.integers(-3, 3), st.sampled_from((1 << 31, 1 << 63, (1 << 64) - 1, -(1 << 63))))
TOKENS = st.one_of(st.just(bytes(range(16))), st.binary(max_size=20))
ANY_REQUEST = st.one_of(
    st.builds(
        OpenStreaming,
        token=TOKENS,
        session_name=WORDS,
        host_name=WORDS,
        has_creation_time_in_name=st.booleans(),
        creation_time_s=ANY_INT,
        sessiond_uuid=st.one_of(st.binary(min_size=16, max_size=16), st.binary(max_size=3)),
        session_id=ANY_INT,
        live_timer_period_us=ANY_INT,
        subdirectory=WORDS,
        durability=st.sampled_from(Durability),
    ),
    st.builds(
        AddStreams,
        token=TOKENS,
        streams=st.lists(
            st.builds(
                StreamRequest,
                path=WORDS,
                channel_name=WORDS,
                trace_file_size_bytes=ANY_INT,
                trace_file_count=ANY_INT,
                oldest_sequence=ANY_INT,
            ),
            max_size=3,
        ).map(tuple),
    ),
    st.builds(
        EndStreams,
        token=TOKENS,
        ends=st.lists(st.builds(StreamEnd, handle=ANY_INT, next_sequence=ANY_INT), max_size=3).map(tuple),
    ),
    st.builds(CloseStreaming, token=TOKENS),
)


@settings(BOUNDED, max_examples=150)
@given(st.lists(ANY_REQUEST, max_size=12), st.booleans())
def test_any_request_is_answered_or_refused(requests: list[Any], is_begun: bool) -> None:
    relay = FleetRelay()
    sender = FleetSender(relay)
    if is_begun:
        sender.open()
        sender.add(a_stream())
    for request in requests:
        sender.is_refused(request)
    for path in relay.disk.files:
        parts = path.split("/")
        assert ".." not in parts
        assert not parts[0].startswith(".")
        assert len(parts) >= 3
    relay.restart()
    for name in list(relay.journals.names()):
        assert relay.journals.load(name) is not None


@settings(BOUNDED, max_examples=150)
@given(st.one_of(st.binary(max_size=200), ANY_REQUEST.map(lambda one: _encoded(one))), st.data())
def test_any_bytes_are_a_request_or_none(body: bytes, data: st.DataObject) -> None:
    if body and data.draw(st.booleans()):
        at = data.draw(st.integers(0, len(body) - 1))
        body = body[:at] + data.draw(st.binary(max_size=3)) + body[at + 1 :]
    relay = FleetRelay()
    try:
        request = frames.decode_body(frames.body_decoder(RelayStreamingRequest), body)
    except RemoteProtocolError:
        return
    FleetSender(relay).is_refused(request)


def _encoded(request: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(request)
    except (UnicodeEncodeError, OverflowError):
        return b""


@settings(BOUNDED, max_examples=200)
@given(st.binary(max_size=40), st.integers(0, GREETING_SIZE_BYTES - 1), st.integers(1, 255))
def test_only_whole_greetings_are_any(data: bytes, at: int, bits: int) -> None:
    damaged = bytearray(encode_greeting(bytes(range(16))))
    damaged[at] ^= bits
    for greeting in (data, bytes(damaged), bytes(damaged[:at]), encode_greeting(bytes(16)) + data[:1] + b"x"):
        with pytest.raises(RemoteProtocolError):
            decode_greeting(greeting)
