"""Sessions, channels, rules and names, without a tracer."""

from __future__ import annotations

import pytest

from tracefleet_common.errors import AlreadyExists, ErrorCode, InvalidArgument, NotFound, Unsupported, WrongState
from tracefleet_common.model.event_rules import BufferOwnership, ChannelAttributes, EventRule, LossMode
from tracefleet_sessiond.domain import names
from tracefleet_sessiond.domain.channel import Channel, checked_rule, settled
from tracefleet_sessiond.domain.session import NEXT_STATE, RecordingSession, SessionEvent, SessionState


def a_session() -> RecordingSession:
    return RecordingSession(
        session_id=1, name="s", owner_uid=1000, owner_gid=1000, creation_time_s=0, output_path="/tmp/s"
    )


def a_session_with(name: str, ownership: BufferOwnership | None = None, *, is_named: bool = True) -> RecordingSession:
    session = a_session()
    channel, settled_ownership = session.plan_channel(name, ownership, ChannelAttributes())
    session.add_channel(channel, settled_ownership, is_named=is_named)
    return session


def test_every_state_and_event_is_either_in_the_table_or_refused() -> None:
    for state in SessionState:
        for event in SessionEvent:
            session = a_session_with("c")
            session.state = state
            if (state, event) in NEXT_STATE:
                session.apply(event)
                assert session.state is NEXT_STATE[state, event]
            else:
                with pytest.raises(WrongState):
                    session.apply(event)
                assert session.state is state


@pytest.mark.parametrize(
    ("state", "event", "code"),
    [
        (SessionState.ACTIVE, SessionEvent.START, ErrorCode.TRACE_ALREADY_STARTED),
        (SessionState.INACTIVE, SessionEvent.STOP, ErrorCode.TRACE_ALREADY_STOPPED),
    ],
)
def test_a_refused_event_has_lttngs_error_code(state: SessionState, event: SessionEvent, code: ErrorCode) -> None:
    session = a_session_with("c")
    session.state = state
    with pytest.raises(WrongState) as refused:
        session.apply(event)
    assert refused.value.code is code


def test_a_session_without_a_channel_does_not_start() -> None:
    session = a_session()
    with pytest.raises(WrongState) as refused:
        session.apply(SessionEvent.START)
    assert refused.value.code is ErrorCode.NO_CHANNEL
    assert not session.has_been_started


def test_channels_are_fixed_by_the_first_start() -> None:
    session = a_session_with("c")
    session.apply(SessionEvent.START)
    session.apply(SessionEvent.STOP)
    with pytest.raises(WrongState) as refused:
        session.plan_channel("d", None, ChannelAttributes())
    assert refused.value.code is ErrorCode.TRACE_ALREADY_STARTED


def test_the_first_channel_fixes_the_buffer_ownership() -> None:
    session = a_session_with("c", BufferOwnership.PER_PROCESS)
    with pytest.raises(InvalidArgument) as refused:
        session.plan_channel("d", BufferOwnership.PER_USER, ChannelAttributes())
    assert refused.value.code is ErrorCode.BUFFER_TYPE_MISMATCH
    _channel, ownership = session.plan_channel("d", None, ChannelAttributes())
    assert ownership is BufferOwnership.PER_PROCESS


def test_an_enabled_channel_cannot_be_created_again() -> None:
    session = a_session_with("c")
    with pytest.raises(AlreadyExists) as refused:
        session.plan_channel("c", None, ChannelAttributes())
    assert refused.value.code is ErrorCode.UST_CHANNEL_EXISTS


def test_named_channels_must_be_named() -> None:
    with pytest.raises(InvalidArgument) as refused:
        a_session_with("c").channel(None)
    assert refused.value.code is ErrorCode.NEED_CHANNEL_NAME
    assert a_session_with("channel0", is_named=False).channel(None).name == "channel0"
    with pytest.raises(NotFound):
        a_session().channel(None)


def test_defaults_are_lttngs() -> None:
    per_user = settled(ChannelAttributes(), BufferOwnership.PER_USER)
    assert (per_user.sub_buffer_size_bytes, per_user.sub_buffer_count) == (524_288, 4)
    assert per_user.loss_mode is LossMode.DISCARD
    assert per_user.monitor_timer_period_us == 1_000_000
    per_process = settled(ChannelAttributes(), BufferOwnership.PER_PROCESS)
    assert (per_process.sub_buffer_size_bytes, per_process.sub_buffer_count) == (16_384, 4)


@pytest.mark.parametrize(
    "attributes",
    [
        ChannelAttributes(sub_buffer_size_bytes=0),
        ChannelAttributes(sub_buffer_size_bytes=-4096),
        ChannelAttributes(sub_buffer_size_bytes=2048),
        ChannelAttributes(sub_buffer_size_bytes=5000),
        ChannelAttributes(sub_buffer_count=0),
        ChannelAttributes(sub_buffer_count=3),
        ChannelAttributes(sub_buffer_count=1, loss_mode=LossMode.OVERWRITE),
        ChannelAttributes(sub_buffer_size_bytes=1 << 40, sub_buffer_count=1 << 20),
        ChannelAttributes(switch_timer_period_us=-1),
        ChannelAttributes(read_timer_period_us=1 << 32),
        ChannelAttributes(blocking_timeout_us=-2),
        ChannelAttributes(blocking_timeout_us=100, loss_mode=LossMode.OVERWRITE),
        ChannelAttributes(trace_file_size_bytes=4096),
        ChannelAttributes(trace_file_size_bytes=-1),
        ChannelAttributes(trace_file_count=3),
        ChannelAttributes(trace_file_count=-3, trace_file_size_bytes=1 << 20),
    ],
)
def test_attributes_that_cannot_work_are_refused(attributes: ChannelAttributes) -> None:
    with pytest.raises(InvalidArgument):
        settled(attributes, BufferOwnership.PER_USER)


def test_only_mmap_output_is_there() -> None:
    with pytest.raises(Unsupported) as refused:
        settled(ChannelAttributes(output="splice"), BufferOwnership.PER_USER)
    assert refused.value.code is ErrorCode.NOT_SUPPORTED


def test_the_same_rule_twice_is_refused_but_enabled_again_after_it_was_disabled() -> None:
    channel = Channel("c", settled(ChannelAttributes(), BufferOwnership.PER_USER))
    rule = EventRule(pattern="a:*", exclusions=("a:b",))
    channel.enable_rule(rule)
    with pytest.raises(AlreadyExists) as refused:
        channel.enable_rule(EventRule(pattern="a:*", exclusions=("a:b",)))
    assert refused.value.code is ErrorCode.UST_EVENT_ENABLED
    channel.enable_rule(EventRule(pattern="a:*"))  # another identity
    assert channel.disable_rules("a:*") == 2
    assert channel.disable_rules("a:*") == 0
    channel.enable_rule(rule)
    assert channel.rules == {rule: True, EventRule(pattern="a:*"): False}
    assert channel.disable_rules(None) == 1
    with pytest.raises(NotFound) as missing:
        channel.disable_rules("a:c")
    assert missing.value.code is ErrorCode.UST_EVENT_NOT_FOUND


@pytest.mark.parametrize(
    ("given", "kept"),
    [("a:**", "a:*"), ("***", "*"), (r"a\**", r"a\**"), (r"a\***", r"a\**"), (r"\\**x", r"\\*x"), ("a:b", "a:b")],
)
def test_runs_of_stars_become_one(given: str, kept: str) -> None:
    assert names.normalised_pattern(given) == kept


@pytest.mark.parametrize(
    ("pattern", "is_pattern"), [("a:b", False), ("a:*", True), (r"a:\*", False), (r"a:\\*", True), ("*", True)]
)
def test_a_pattern_has_a_star_that_is_not_escaped(pattern: str, is_pattern: bool) -> None:
    assert names.is_pattern(pattern) is is_pattern


@pytest.mark.parametrize("name", ["", "a/b", "/", "..", ".", "a\0b", "a\nb", "x" * 255, "é" * 128, "a\x7fb"])
def test_bad_session_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        names.check_session_name(name)
    assert refused.value.code is ErrorCode.SESSION_INVALID_CHAR


@pytest.mark.parametrize("name", ["s", "my session", "日本", "...", "x" * 254, "a..b", "-n"])
def test_odd_but_harmless_session_names_are_taken(name: str) -> None:
    names.check_session_name(name)


@pytest.mark.parametrize("name", ["", ".c", "..", "a/b", "x" * 250, "a\x00", "a\u2028b"])
def test_bad_channel_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        names.check_channel_name(name)
    assert refused.value.code is ErrorCode.INVALID_CHANNEL_NAME


@pytest.mark.parametrize("pattern", ["", "x" * 256, "lttng_jul:event", "lttng_python*", "a\nb"])
def test_bad_event_names_are_refused(pattern: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        checked_rule(EventRule(pattern=pattern))
    assert refused.value.code is ErrorCode.INVALID_EVENT_NAME


@pytest.mark.parametrize(
    "rule",
    [
        EventRule(pattern="a:b", exclusions=("a:c",)),
        EventRule(pattern="a:*", exclusions=("",)),
        EventRule(pattern="a:*", exclusions=("x" * 256,)),
        EventRule(pattern="a:*", exclusions=("x",) * 1025),
    ],
)
def test_bad_exclusions_are_refused(rule: EventRule) -> None:
    with pytest.raises(InvalidArgument) as refused:
        checked_rule(rule)
    assert refused.value.code is ErrorCode.EXCLUSION_INVALID
