"""Who looks after which registry, and since when nobody does.

A session daemon that dies or loses its connection leaves registries behind. They go on recording for a while,
because it may come back and take them up again; then they are closed, so that nothing stays for ever.
"""

from __future__ import annotations


class Attendance:
    """Times are seconds of one monotonic clock, given from outside."""

    def __init__(self, patience_s: float, now_s: float) -> None:
        self._patience_s = patience_s
        self._keepers: dict[int, bytes] = {}  # registry key: the connection that spoke of it last
        self._abandoned_at_s: dict[int, float] = {}
        self._present: set[bytes] = set()
        self._alone_since_s: float | None = now_s

    def peer_arrived(self, identity: bytes) -> None:
        """Somebody is there."""
        self._present.add(identity)
        self._alone_since_s = None

    def registry_used(self, registry_key: int, identity: bytes, now_s: float) -> None:
        """A registry belongs to the connection that spoke of it last (which may be gone when the work is done)."""
        self._keepers[registry_key] = identity
        if identity in self._present:
            self._abandoned_at_s.pop(registry_key, None)
        else:
            self._abandoned_at_s[registry_key] = now_s

    def registry_closed(self, registry_key: int) -> None:
        """Nobody needs to look after it any more."""
        self._keepers.pop(registry_key, None)
        self._abandoned_at_s.pop(registry_key, None)

    def peer_left(self, identity: bytes, now_s: float) -> None:
        """The time of what it kept begins to run."""
        self._present.discard(identity)
        for registry_key, keeper in self._keepers.items():
            if keeper == identity:
                self._abandoned_at_s[registry_key] = now_s
        if not self._present and self._alone_since_s is None:
            self._alone_since_s = now_s

    def is_abandoned(self, registry_key: int) -> bool:
        """Whether the connection that kept it is gone."""
        return registry_key in self._abandoned_at_s

    def overdue_registries(self, now_s: float) -> list[int]:
        """Keys of the registries that nobody looked after for too long."""
        return sorted(key for key, at_s in self._abandoned_at_s.items() if now_s - at_s >= self._patience_s)

    def is_deserted(self, now_s: float) -> bool:
        """Whether nobody at all was connected for too long."""
        return self._alone_since_s is not None and now_s - self._alone_since_s >= self._patience_s
