"""What is wrong with the streams of a channel now, so that only changes are told."""

from __future__ import annotations


class ChannelTroubles:
    """The streams of one channel that do not record as they should, each with the reason."""

    def __init__(self) -> None:
        self._texts: dict[int, str] = {}  # by CPU

    @property
    def text(self) -> str | None:
        """The first reason; None: all is well."""
        return next(iter(self._texts.values()), None)

    def begin(self, cpu: int, text: str) -> bool:
        """A stream fails. Returns whether the channel did not fail before."""
        is_first = not self._texts
        self._texts.setdefault(cpu, text)
        return is_first

    def end(self, cpu: int) -> bool:
        """A stream works again. Returns whether the channel as a whole does, and did not before."""
        return self._texts.pop(cpu, None) is not None and not self._texts


class Jams:
    """Streams that wait for an event record that is not complete, and when that was told last.

    Whoever is told may be unable to help yet, so it is told again as long as nothing gets written. Times in
    seconds of one monotonic clock; `packet_count` is what the stream had written by then.
    """

    def __init__(self, period_s: float) -> None:
        self._period_s = period_s
        self._told: dict[tuple[int, int], tuple[float, int]] = {}  # by channel key and CPU: when, packet count

    def begin(self, channel_key: int, cpu: int, packet_count: int, now_s: float) -> bool:
        """A stream is jammed. Returns whether to tell of it now; if so it counts as told."""
        told_at_s, _ = self._told.get((channel_key, cpu), (now_s - self._period_s, 0))
        if now_s - told_at_s < self._period_s:
            return False
        self._told[channel_key, cpu] = (now_s, packet_count)
        return True

    def due(self, now_s: float) -> list[tuple[int, int]]:
        """Channel keys and CPUs that may have to be told of again."""
        return [stream for stream, (told_at_s, _) in self._told.items() if now_s - told_at_s >= self._period_s]

    def is_over(self, channel_key: int, cpu: int, packet_count: int) -> bool:
        """Whether the stream wrote something since; then it is forgotten."""
        if self._told[channel_key, cpu][1] == packet_count:
            return False
        del self._told[channel_key, cpu]
        return True

    def forget(self, channel_key: int) -> None:
        """The channel is closed."""
        for stream in [stream for stream in self._told if stream[0] == channel_key]:
            del self._told[stream]
