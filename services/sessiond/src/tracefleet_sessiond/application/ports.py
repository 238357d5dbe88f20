"""What the session daemon asks of the world. Adapters implement these; each only translates."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

from tracefleet_common.messages.sessiond_control import ProgramInfo, StreamInfo, StreamingInfo
from tracefleet_common.model.event_rules import ChannelAttributes
from tracefleet_sessiond.domain.session import RecordingSession


class Caller(NamedTuple):
    """Who asks, as the kernel says. -1: unknown (a network peer)."""

    uid: int
    gid: int
    pid: int


@dataclass
class ChannelTotals:
    """The books of one channel, over all its streams since the session was created."""

    packet_count: int = 0
    recorded_bytes: int = 0
    discarded_event_count: int = 0
    lost_packet_count: int = 0
    unwritten_packet_count: int = 0
    # Unread bytes of the emptiest and the fullest stream; None: not sampled yet, or never.
    lowest_usage_bytes: int | None = None
    highest_usage_bytes: int | None = None
    error: str | None = None
    streams: list[StreamInfo] = field(default_factory=list)  # those whose buffers are open


class Tracer(Protocol):
    """One tracing domain. Warnings are sentences about programs or buffers that could not take part."""

    def warm_up(self) -> None:
        """A session was created: what it will need soon may be started now. Failures show when it is needed."""

    async def check_channel(self, session: RecordingSession, attributes: ChannelAttributes) -> None:
        """Raises when buffers of that shape can never be made here, or the session's relay daemon is not there.

        Starts the consumer daemon when needed.
        """

    async def prepare_output(self, session: RecordingSession) -> None:
        """Make the session's output, here or at its relay daemon. Raises PermissionRefused or TransportError."""

    async def start(self, session: RecordingSession) -> list[str]:
        """Programs registered now and later record into `session` from now on."""

    async def stop(self, session: RecordingSession) -> list[str]:
        """When it returns, no program records into `session` any more; the buffers still hold data."""

    async def drain(self, session: RecordingSession) -> list[str]:
        """Write everything that the buffers of a stopped session hold."""

    async def apply_rules(self, session: RecordingSession) -> list[str]:
        """Bring the programs that record into an active `session` up to date with its channels and rules."""

    async def destroy(self, session: RecordingSession) -> list[str]:
        """Write what the buffers still hold, then give up everything that belongs to a stopped `session`.

        Raises TransportError when its relay daemon could not be told; everything is given up then as well.
        """

    async def totals(self, session: RecordingSession) -> dict[str, ChannelTotals]:
        """The books by channel name; a channel without buffers has none."""

    async def streaming(self, session: RecordingSession) -> StreamingInfo | None:
        """How the way to the session's relay daemon is; None: it has none, or nobody connected yet."""

    def forget(self, session: RecordingSession) -> None:
        """The session was destroyed and its last books were read."""

    async def programs(self, *, has_fields: bool) -> list[ProgramInfo]:
        """Every registered program and its instrumentation points, by pid."""

    def program_count(self) -> int:
        """Programs registered now."""

    def consumers(self) -> tuple[str, ...]:
        """One line per consumer daemon, for people."""


class WallClock(Protocol):
    """The time of day, which comes in through the door."""

    def now_s(self) -> int:
        """Seconds since the Unix epoch."""


class UserDirectory(Protocol):
    """What the user database knows."""

    def home_directory(self, uid: int) -> str | None:
        """The absolute home directory of `uid`; None when there is none."""
