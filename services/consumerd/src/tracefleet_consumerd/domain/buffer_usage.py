"""How full the ring buffers of a channel are, and what of that is news."""

from __future__ import annotations

from typing import NamedTuple


class Usage(NamedTuple):
    """One look at the streams of a channel: the least and the most unread of them, and what all of them gave up."""

    lowest_bytes: int
    highest_bytes: int
    consumed_bytes: int

    def within(self, buffer_size_bytes: int) -> Usage:
        """A program that scribbles over its positions cannot make a stream hold more than its buffer."""
        return Usage(
            min(self.lowest_bytes, buffer_size_bytes),
            min(self.highest_bytes, buffer_size_bytes),
            self.consumed_bytes,
        )


class ToldUsages:
    """What was told last of each channel, so that only changes are told."""

    def __init__(self) -> None:
        self._told: dict[int, Usage] = {}  # by channel key

    def is_news(self, channel_key: int, usage: Usage) -> bool:
        """Whether to tell it; if so it counts as told."""
        if self._told.get(channel_key) == usage:
            return False
        self._told[channel_key] = usage
        return True

    def forget(self, channel_key: int) -> None:
        """The channel is closed."""
        self._told.pop(channel_key, None)

    def forget_all(self) -> None:
        """Somebody came who was told nothing yet."""
        self._told.clear()
