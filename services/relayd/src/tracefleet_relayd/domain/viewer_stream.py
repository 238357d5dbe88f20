"""How far one viewer has come in one data stream, and what it gets next."""

from __future__ import annotations

from enum import Enum, auto
from typing import NamedTuple


class DataStreamState(NamedTuple):
    """What a data stream has for viewers at this moment. Positions count its index entries."""

    first_position: int  # of the oldest entry that can be read
    end_position: int  # one more than the newest
    inactive_until: int | None  # of the latest beacon, in clock cycles
    is_closed: bool
    is_rotating: bool


class NextStep(Enum):
    """What a viewer that asks for the next index entry is given."""

    READ = auto()  # the entry at its position
    INACTIVE = auto()  # a promise: nothing begins before the beacon's time
    RETRY = auto()
    FINISHED = auto()


class DataPosition:
    """One viewer in one data stream."""

    def __init__(self, position: int) -> None:
        self.position = position
        self._promised_until = 0  # nothing comes before it: the latest time that the viewer was told

    @property
    def promised_until(self) -> int:
        return self._promised_until

    def next_step(self, state: DataStreamState, *, are_promises_held: bool) -> NextStep:
        """Skip what was deleted or overwritten before it was read; tell what comes next.

        With INACTIVE, `promised_until` is the promise. While promises are held, no new one is given.
        """
        if state.is_rotating and not state.is_closed:  # the entries may be about to move, or to be deleted
            return NextStep.RETRY
        self.position = max(self.position, state.first_position)
        if self.position < state.end_position:
            return NextStep.READ
        if state.is_closed:
            return NextStep.FINISHED
        if are_promises_held:
            return NextStep.INACTIVE if self._promised_until else NextStep.RETRY
        # A time that goes backwards would end babeltrace2: a producer that breaks its promise has no beacon.
        if state.inactive_until is not None and state.inactive_until >= self._promised_until:
            self._promised_until = state.inactive_until
            return NextStep.INACTIVE
        return NextStep.RETRY

    def advance(self, timestamp_end: int) -> None:
        """The entry at the position was sent. `timestamp_end` is its own, in clock cycles."""
        self.position += 1
        self._promised_until = max(self._promised_until, timestamp_end)
