"""A recording session: what is recorded, where to, and whether it is running."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

import msgspec

from tracefleet_common.errors import AlreadyExists, ErrorCode, InvalidArgument, NotFound, WrongState
from tracefleet_common.model.event_rules import BufferOwnership, ChannelAttributes
from tracefleet_common.model.relay_output import FleetOutput, RelayOutput
from tracefleet_sessiond.domain import names
from tracefleet_sessiond.domain.channel import DEFAULT_CHANNEL_NAME, Channel, settled


class SessionState(Enum):
    """Whether programs record into the session."""

    INACTIVE = "inactive"
    ACTIVE = "active"
    DESTROYED = "destroyed"


class SessionEvent(Enum):
    """What may happen to a session."""

    START = "start"
    STOP = "stop"
    DESTROY = "destroy"


NEXT_STATE: dict[tuple[SessionState, SessionEvent], SessionState] = {
    (SessionState.INACTIVE, SessionEvent.START): SessionState.ACTIVE,
    (SessionState.ACTIVE, SessionEvent.STOP): SessionState.INACTIVE,
    (SessionState.ACTIVE, SessionEvent.DESTROY): SessionState.DESTROYED,
    (SessionState.INACTIVE, SessionEvent.DESTROY): SessionState.DESTROYED,
}  # any other pair is refused and the session stays as it was

_REFUSED = {
    SessionEvent.START: ErrorCode.TRACE_ALREADY_STARTED,
    SessionEvent.STOP: ErrorCode.TRACE_ALREADY_STOPPED,
    SessionEvent.DESTROY: ErrorCode.SESSION_NOT_FOUND,
}


@dataclass(eq=False)  # two sessions are never the same
class RecordingSession:
    """`channels` by name, in order of creation. One buffer ownership rules all of them, fixed by the first."""

    session_id: int
    name: str
    owner_uid: int
    owner_gid: int
    creation_time_s: int
    output_path: str | None
    relay: RelayOutput | FleetOutput | None = None
    live_timer_period_us: int = 0
    has_default_name: bool = False
    state: SessionState = SessionState.INACTIVE
    has_been_started: bool = False
    buffer_ownership: BufferOwnership | None = None
    channels: dict[str, Channel] = field(default_factory=dict)
    has_named_channel: bool = False  # then an event rule must name its channel

    @property
    def is_active(self) -> bool:
        """Whether programs record into it now."""
        return self.state is SessionState.ACTIVE

    def apply(self, event: SessionEvent) -> None:
        """Go to the next state. Raises WrongState when that is not possible now."""
        next_state = NEXT_STATE.get((self.state, event))
        if next_state is None:
            raise WrongState(f"Session {self.name} is {self.state.value}: cannot {event.value} it", _REFUSED[event])
        if event is SessionEvent.START and not self.channels:
            raise WrongState(f"Session {self.name} has no channel", ErrorCode.NO_CHANNEL)
        self.state = next_state
        if event is SessionEvent.START:
            self.has_been_started = True

    def channel(self, name: str | None) -> Channel:
        """The channel called `name`, or the default one. Raises NotFound, or InvalidArgument when it must be named."""
        if name is None:
            self.check_default_channel()
            name = DEFAULT_CHANNEL_NAME
        channel = self.channels.get(name)
        if channel is None:
            raise NotFound(f"Session {self.name} has no channel {name!r}", ErrorCode.UST_CHANNEL_NOT_FOUND)
        return channel

    def check_default_channel(self) -> None:
        """Raises InvalidArgument when the session's channels have names, so that one must be chosen."""
        if self.has_named_channel:
            raise InvalidArgument(f"Session {self.name} has named channels: say which one", ErrorCode.NEED_CHANNEL_NAME)

    def plan_channel(
        self, name: str, ownership: BufferOwnership | None, attributes: ChannelAttributes
    ) -> tuple[Channel, BufferOwnership]:
        """The channel as `add_channel` would make it; nothing changes. Raises what makes it impossible."""
        names.check_channel_name(name)
        existing = self.channels.get(name)
        if existing is not None and existing.is_enabled:
            raise AlreadyExists(f"Session {self.name} already has a channel {name!r}", ErrorCode.UST_CHANNEL_EXISTS)
        if self.has_been_started:
            raise WrongState(
                f"Session {self.name} was started once: its channels are fixed",
                ErrorCode.TRACE_ALREADY_STARTED,
            )
        ownership = ownership or self.buffer_ownership or BufferOwnership.PER_USER
        if self.buffer_ownership not in (None, ownership):
            raise InvalidArgument(
                f"Session {self.name} has per-{self.buffer_ownership.value} buffers, not per-{ownership.value}",
                ErrorCode.BUFFER_TYPE_MISMATCH,
            )
        if self.live_timer_period_us:
            # The live timer flushes; a second one would only make packets smaller.
            attributes = msgspec.structs.replace(attributes, switch_timer_period_us=0)
        return Channel(name, settled(attributes, ownership)), ownership

    def add_channel(self, channel: Channel, ownership: BufferOwnership, *, is_named: bool) -> None:
        """Take a planned channel in."""
        self.channels[channel.name] = channel
        self.buffer_ownership = ownership
        self.has_named_channel |= is_named
