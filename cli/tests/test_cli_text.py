"""What `list` prints, compared with what `lttng` printed for the same (see golden/README.md)."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracefleet_cli import relay_text, session_text, tracepoint_text
from tracefleet_cli.session_books import loss_warning
from tracefleet_cli.streaming_text import streaming_text
from tracefleet_common.messages.relayd_control import RelayLoss, RelaySessionDetails, RelaySessionInfo, RelaySums
from tracefleet_common.messages.sessiond_control import (
    ChannelBooks,
    ChannelInfo,
    DomainInfo,
    EventRuleInfo,
    FieldInfo,
    ProgramInfo,
    SessionDetails,
    SessionInfo,
    StreamingInfo,
    TracepointInfo,
    TracepointList,
)
from tracefleet_common.model.event_rules import (
    BufferOwnership,
    ChannelAttributes,
    Domain,
    EventRule,
    LogLevelMatch,
    LossMode,
)

GOLDEN = Path(__file__).parent / "golden"


def session(name: str, path: str | None, *, is_active: bool = False) -> SessionInfo:
    return SessionInfo(name=name, is_active=is_active, output_path=path, creation_time_s=0)


def channel(
    name: str,
    *rules: EventRuleInfo,
    loss_mode: LossMode = LossMode.DISCARD,
    size_bytes: int = 4096,
    count: int = 2,
    discarded: int = 0,
    lost: int = 0,
) -> ChannelInfo:
    attributes = ChannelAttributes(loss_mode=loss_mode, sub_buffer_size_bytes=size_bytes, sub_buffer_count=count)
    return ChannelInfo(
        name=name,
        is_enabled=True,
        attributes=attributes,
        event_rules=rules,
        discarded_event_count=discarded,
        lost_packet_count=lost,
    )


def rule(
    pattern: str,
    match: LogLevelMatch = LogLevelMatch.ALL,
    level: int = -1,
    *,
    is_enabled: bool = True,
    exclusions: tuple[str, ...] = (),
) -> EventRuleInfo:
    return EventRuleInfo(
        rule=EventRule(pattern=pattern, log_level_match=match, log_level=level, exclusions=exclusions),
        is_enabled=is_enabled,
    )


def whole_text(details: SessionDetails) -> str:
    blocks = [session_text.session_heading(details.session)]
    for domain in details.domains:
        blocks += [session_text.domain_heading(domain), session_text.channels_text(domain, domain.channels)]
    return "\n".join(blocks) + "\n"


def test_a_session_with_two_channels() -> None:
    details = SessionDetails(
        session=session("s1", "/traces/s1", is_active=True),
        domains=(
            DomainInfo(
                domain=Domain.USER_SPACE,
                buffer_ownership=BufferOwnership.PER_USER,
                channels=(
                    channel(
                        "o",
                        rule("demo:h*", LogLevelMatch.SINGLE, 14, is_enabled=False),
                        rule("demo:*", LogLevelMatch.RANGE, 6),
                        loss_mode=LossMode.OVERWRITE,
                        lost=773,
                    ),
                    channel("d", rule("*"), discarded=154724),
                ),
            ),
        ),
    )
    assert whole_text(details) == (GOLDEN / "list-session.txt").read_text()


def test_a_session_with_buffers_per_process() -> None:
    details = SessionDetails(
        session=session("s3", "/traces/s3"),
        domains=(
            DomainInfo(
                domain=Domain.USER_SPACE,
                buffer_ownership=BufferOwnership.PER_PROCESS,
                channels=(channel("p", size_bytes=16384, count=4),),
            ),
        ),
    )
    assert whole_text(details) == (GOLDEN / "list-session-per-process.txt").read_text()


def test_all_sessions() -> None:
    sessions = [
        session("auto", "/traces/auto"),
        session("s1", "/traces/s1"),
        session("..", "/traces/.."),
        session("s2", "/traces/out"),
        session("s3", "/traces/relative"),
        session("s4", None),
        session("s5", "/traces/out5"),
        session("with space", "/traces/with space"),
    ]
    assert session_text.sessions_text(sessions) + "\n" == (GOLDEN / "list-sessions.txt").read_text()


def test_programs_with_fields(monkeypatch: pytest.MonkeyPatch) -> None:
    fields = (
        ("seq", "string", True),
        ("_seq_length", "integer", True),
        ("arr", "unknown", True),
        ("c", "enum", True),
        ("hidden", "integer", False),
        ("d", "float", True),
        ("s", "string", True),
        ("n", "integer", True),
    )
    program = ProgramInfo(
        pid=10872,
        name="app",
        bits_per_word=64,
        uid=0,
        tracepoints=(
            TracepointInfo(name="demo:empty", log_level=13, fields=()),
            TracepointInfo(
                name="demo:hello",
                log_level=4,
                fields=tuple(FieldInfo(name=name, kind=kind, is_recorded=kept) for name, kind, kept in fields),
            ),
        ),
    )
    monkeypatch.setattr(tracepoint_text, "command_name", lambda pid: "./app")
    text = tracepoint_text.tracepoints_text(TracepointList((program,)))
    assert text + "\n" == (GOLDEN / "list-userspace-fields.txt").read_text()


def test_exclusions_follow_the_state_of_a_rule() -> None:
    text = session_text.channel_text(channel("c", rule("d*", exclusions=("a", "b"))))
    assert "      d* (type: tracepoint) [enabled] [exclusions: a,b]\n" in text


def test_why_a_channel_does_not_record_is_shown() -> None:
    info = ChannelInfo(name="c", is_enabled=True, attributes=ChannelAttributes(), error="The disk is full: /traces")
    assert "      Error:            The disk is full: /traces\n" in session_text.channel_text(info)


@pytest.mark.parametrize(
    ("discarded", "lost", "warning"),
    [
        (0, 0, None),
        (3, 0, "Warning: 3 events were discarded, please refer to"),
        (0, 2, "Warning: 2 packets were lost, please refer to"),
        (3, 2, "Warning: 3 events were discarded and 2 packets were lost, please refer to"),
    ],
)
def test_losses_are_summed_up(discarded: int, lost: int, warning: str | None) -> None:
    books = ChannelBooks(
        domain=Domain.USER_SPACE,
        channel="c",
        loss_mode=LossMode.DISCARD,
        discarded_event_count=discarded,
        lost_packet_count=lost,
    )
    found = loss_warning((books,))
    assert found == (None if warning is None else f"{warning} the documentation on channel configuration.")


def test_a_way_that_is_well_takes_two_lines() -> None:
    info = StreamingInfo(is_connected=True, trouble=None, sent_packet_count=3, sent_bytes=12288)
    assert streaming_text(info) == "    Streaming: connected\n      Sent:         3 packets, 12288 bytes\n"


def test_a_way_with_troubles_tells_them_all() -> None:
    info = StreamingInfo(
        is_connected=False,
        trouble="the cable is out",
        sent_packet_count=9,
        sent_bytes=900,
        acknowledged_packet_count=7,
        acknowledged_bytes=700,
        resent_packet_count=4,
        reconnect_count=2,
        spooled_packet_count=5,
        spooled_bytes=500,
    )
    assert streaming_text(info).splitlines() == [
        "    Streaming: not connected",
        "      Error:        the cable is out",
        "      Sent:         9 packets, 900 bytes",
        "      Acknowledged: 7 packets, 700 bytes",
        "      Under way:    2 packets",
        "      Reconnected:  2 times, 4 packets sent again",
        "      Spooled:      5 packets, 500 bytes",
    ]


def test_what_a_relay_daemon_misses_is_told_by_cause() -> None:
    loss = RelayLoss(
        discarded_event_count=1, missing_packet_count=2, unmatched_packet_count=3, overwritten_packet_count=4
    )
    info = RelaySessionInfo(
        session_id=6,
        host_name="host",
        session_name="s",
        output="host/s-1",
        protocol_minor=15,
        live_timer_us=1000,
        is_snapshot=False,
        is_closed=False,
        stream_count=0,
        viewer_count=1,
        trouble="the disk is full",
        sums=RelaySums(
            packet_count=10,
            bytes=100,
            index_entry_count=9,
            lagging_packet_count=1,
            acknowledged_packet_count=9,
            loss=loss,
        ),
    )
    assert relay_text.details_text(RelaySessionDetails(info, ())).splitlines() == [
        "  6) s [live] from host",
        "    Trace output: host/s-1",
        "    Error:        the disk is full",
        "    Streams:      0, viewers: 1",
        "    Received:     10 packets, 100 bytes",
        "    Acknowledged: 9 packets",
        "    Incomplete:   1 packets",
        "    Lost:         1 events discarded by the tracer, 2 packets missing, 3 packets without their other half,"
        " 4 packets replaced by newer trace files",
    ]
