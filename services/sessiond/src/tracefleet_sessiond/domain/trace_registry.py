"""What one trace describes: the ids of its channels, events and enumerations.

One registry stands for one CTF trace: what the processes of one user (or one process) record in one session.
Equal descriptions from several processes share one id, so that each is written to the metadata once.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from tracefleet_common.errors import ErrorCode, InvalidArgument, TracerError
from tracefleet_common.model.ctf_types import EnumEntry, Field, HeaderType
from tracefleet_common.model.event_rules import EventRule
from tracefleet_sessiond.domain.names import is_pattern

EVENT_COUNT_MAX = 1 << 20  # of one channel; a program that registers more is not describing events
ENUM_COUNT_MAX = 1 << 20
COMPACT_EVENT_COUNT_MAX = 31  # ids 0 to 30 fit the short form of the compact header


class EventDescription(NamedTuple):
    """The identity of an event of a channel: another process's equal description is the same event."""

    name: str
    log_level: int
    fields: tuple[Field, ...]
    model_emf_uri: str | None


def header_type_for(rules: dict[EventRule, bool]) -> HeaderType:
    """The event header that costs least, as far as the channel's rules tell how many events may come.

    Compact saves two bytes of each record while ids fit five bits and costs seven when they do not; patterns
    may match any number of events.
    """
    is_bounded = len(rules) <= COMPACT_EVENT_COUNT_MAX and not any(is_pattern(rule.pattern) for rule in rules)
    return HeaderType.COMPACT if rules and is_bounded else HeaderType.LARGE


@dataclass
class ChannelDescription:
    """A channel of a registry. The first process that announces it settles the context fields."""

    channel_id: int
    header_type: HeaderType
    context_fields: tuple[Field, ...] | None = None
    event_ids: dict[EventDescription, int] = field(default_factory=dict)

    def check_context_fields(self, context_fields: tuple[Field, ...]) -> None:
        """Raises InvalidArgument when they differ from those that the first program announced."""
        if self.context_fields not in (None, context_fields):
            raise InvalidArgument("The context fields differ from those of the channel's first program")

    def next_event_id(self) -> int:
        """The id that `add_event` gives next. Raises TracerError when there are too many."""
        if len(self.event_ids) >= EVENT_COUNT_MAX:
            raise TracerError(f"The channel has {EVENT_COUNT_MAX} events already", ErrorCode.NO_MEMORY)
        return len(self.event_ids)

    def add_event(self, description: EventDescription) -> None:
        """Give the event the next id."""
        assert description not in self.event_ids
        self.event_ids[description] = len(self.event_ids)


class Enumerations:
    """The enumerations of a registry, by id."""

    def __init__(self) -> None:
        self._ids: dict[tuple[str, tuple[EnumEntry, ...]], int] = {}
        self.entries_by_id: dict[int, tuple[EnumEntry, ...]] = {}

    def enum_id(self, name: str, entries: tuple[EnumEntry, ...]) -> int:
        """The id of the enumeration; a new one for a new name or other entries."""
        known = self._ids.get((name, entries))
        if known is not None:
            return known
        if len(self._ids) >= ENUM_COUNT_MAX:
            raise TracerError(f"The trace has {ENUM_COUNT_MAX} enumerations already", ErrorCode.NO_MEMORY)
        new_id = len(self._ids)
        self._ids[name, entries] = new_id
        self.entries_by_id[new_id] = entries
        return new_id
