"""Which streams of a session a viewer is told of, and when."""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar


class Announceable(Protocol):
    @property
    def trace_id(self) -> int: ...
    @property
    def is_metadata(self) -> bool: ...


Stream = TypeVar("Stream", bound=Announceable)


class Announcements(Generic[Stream]):
    """The published streams of one session that one viewer was not told of yet, each to be told once.

    A data stream is withheld until the metadata stream of its trace is published too: without it babeltrace2
    2.0.4 asks for new streams in a busy loop that nothing stops.
    """

    def __init__(self) -> None:
        self._ready: list[Stream] = []
        self._withheld: dict[int, list[Stream]] = {}  # by trace
        self._traces_with_metadata: set[int] = set()

    def __len__(self) -> int:
        return len(self._ready) + sum(map(len, self._withheld.values()))

    @property
    def has_some(self) -> bool:
        """There is a stream to tell of."""
        return bool(self._ready)

    def add(self, stream: Stream) -> None:
        if stream.is_metadata:
            self._traces_with_metadata.add(stream.trace_id)
            self._ready.append(stream)
            self._ready += self._withheld.pop(stream.trace_id, [])
        elif stream.trace_id in self._traces_with_metadata:
            self._ready.append(stream)
        else:
            self._withheld.setdefault(stream.trace_id, []).append(stream)

    def take(self) -> list[Stream]:
        """The streams to tell of now."""
        ready, self._ready = self._ready, []
        return ready

    def clear(self) -> list[Stream]:
        """Forget all of them, also those that are withheld, and return them."""
        streams = [*self._ready, *(one for streams in self._withheld.values() for one in streams)]
        self._ready = []
        self._withheld.clear()
        return streams
