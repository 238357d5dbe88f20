"""Ids of channels, events and enumerations in one trace."""

from __future__ import annotations

import pytest

from tracefleet_common.errors import InvalidArgument
from tracefleet_common.model.ctf_types import EnumEntry, Field, HeaderType, IntegerType, StringType
from tracefleet_common.model.event_rules import EventRule
from tracefleet_sessiond.domain.trace_registry import (
    ChannelDescription,
    Enumerations,
    EventDescription,
    header_type_for,
)

INT32 = IntegerType(size_bits=32, is_signed=True)


def test_equal_descriptions_share_an_id_and_others_do_not() -> None:
    channel = ChannelDescription(channel_id=0, header_type=HeaderType.LARGE)
    event = EventDescription("a:b", 13, (Field("n", INT32),), None)
    others = [
        event._replace(fields=(Field("n", StringType()),)),
        event._replace(log_level=4),
        event._replace(model_emf_uri="http://e"),
    ]
    for event_id, description in enumerate([event, *others]):
        assert description not in channel.event_ids
        assert channel.next_event_id() == event_id
        channel.add_event(description)
    assert channel.event_ids[EventDescription("a:b", 13, (Field("n", INT32),), None)] == 0


def test_a_second_program_must_announce_the_same_contexts() -> None:
    channel = ChannelDescription(channel_id=0, header_type=HeaderType.LARGE)
    contexts = (Field("vpid", INT32),)
    channel.check_context_fields(contexts)
    channel.context_fields = contexts
    channel.check_context_fields(contexts)
    with pytest.raises(InvalidArgument):
        channel.check_context_fields(())


def test_enumerations_are_known_by_name_and_entries() -> None:
    enumerations = Enumerations()
    entries = (EnumEntry("A", 0, 0),)
    assert enumerations.enum_id("p_e", entries) == 0
    assert enumerations.enum_id("p_e", entries) == 0
    assert enumerations.enum_id("p_e", (EnumEntry("A", 1, 1),)) == 1
    assert enumerations.enum_id("q_e", entries) == 2
    assert enumerations.entries_by_id[0] == entries


@pytest.mark.parametrize(
    ("patterns", "header_type"),
    [
        ([], HeaderType.LARGE),
        (["a:b"], HeaderType.COMPACT),
        (["a:b", "a:*"], HeaderType.LARGE),
        ([f"a:{number}" for number in range(31)], HeaderType.COMPACT),
        ([f"a:{number}" for number in range(32)], HeaderType.LARGE),
    ],
)
def test_the_header_is_compact_while_few_events_can_come(patterns: list[str], header_type: HeaderType) -> None:
    assert header_type_for({EventRule(pattern=pattern): True for pattern in patterns}) is header_type
