"""What clients ask of a session daemon. These structs are also the shapes of `tracefleet --json`."""

from __future__ import annotations

import msgspec

from tracefleet_common.messages.envelope import Done, Hello, HelloReply
from tracefleet_common.model.event_rules import BufferOwnership, ChannelAttributes, Domain, EventRule, LossMode
from tracefleet_common.model.relay_output import FleetOutput, RelayOutput

# ---- requests ----


class CreateSession(msgspec.Struct, frozen=True, kw_only=True, tag="create-session"):
    """Create a recording session. Reply: SessionInfo."""

    name: str | None = None  # None: auto-YYYYmmdd-HHMMSS
    output_path: str | None = None  # absolute; None: HOME/lttng-traces/NAME-YYYYmmdd-HHMMSS
    home_directory: str | None = None  # the caller's $LTTNG_HOME or $HOME; None: what the user database says
    has_output: bool = True  # False: --no-output
    relay: RelayOutput | FleetOutput | None = None  # instead of output_path: streamed to a relay daemon
    live_timer_period_us: int = 0  # for live reading, every stream tells so often how far it is; 0: not live


class DestroySession(msgspec.Struct, frozen=True, tag="destroy-session"):
    """Stop, write what is left, forget the session. Reply: SessionStopped."""

    session: str
    is_waiting: bool = True  # False: the reply comes before the last data is written


class StartSession(msgspec.Struct, frozen=True, tag="start-session"):
    """Reply: SessionStarted."""

    session: str


class StopSession(msgspec.Struct, frozen=True, tag="stop-session"):
    """Reply: SessionStopped; with `is_waiting`, everything emitted before is in the trace by then."""

    session: str
    is_waiting: bool = True


class EnableChannel(msgspec.Struct, frozen=True, kw_only=True, tag="enable-channel"):
    """Create a channel, or enable one that was disabled. Reply: ChannelInfo."""

    session: str
    domain: Domain
    channel: str
    buffer_ownership: BufferOwnership | None = None  # None: that of the session's other channels, or per user
    attributes: ChannelAttributes = ChannelAttributes()


class DisableChannel(msgspec.Struct, frozen=True, tag="disable-channel"):
    """Reply: Done."""

    session: str
    domain: Domain
    channel: str


class EnableEvent(msgspec.Struct, frozen=True, kw_only=True, tag="enable-event"):
    """Create an event rule, or enable it again. Reply: EventRuleEnabled."""

    session: str
    domain: Domain
    rule: EventRule
    channel: str | None = None  # None: channel0, created when the session has no channel


class DisableEvent(msgspec.Struct, frozen=True, kw_only=True, tag="disable-event"):
    """Disable the event rules whose pattern is `pattern` (None: all of the channel). Reply: EventRulesDisabled."""

    session: str
    domain: Domain
    pattern: str | None
    channel: str | None = None  # None: channel0


class ListSessions(msgspec.Struct, frozen=True, tag="list-sessions"):
    """Reply: SessionList, the sessions that the caller may see, oldest first."""


class DescribeSession(msgspec.Struct, frozen=True, tag="describe-session"):
    """Reply: SessionDetails. With `has_streams`, also the books of every stream, of which there may be thousands."""

    session: str
    has_streams: bool = False


class ListTracepoints(msgspec.Struct, frozen=True, kw_only=True, tag="list-tracepoints"):
    """Reply: TracepointList, of every registered program."""

    domain: Domain = Domain.USER_SPACE
    has_fields: bool = False


class DescribeDaemon(msgspec.Struct, frozen=True, tag="describe-daemon"):
    """Reply: DaemonInfo. Also the health check."""


SessiondRequest = (
    Hello
    | CreateSession
    | DestroySession
    | StartSession
    | StopSession
    | EnableChannel
    | DisableChannel
    | EnableEvent
    | DisableEvent
    | ListSessions
    | DescribeSession
    | ListTracepoints
    | DescribeDaemon
)

# ---- replies ----


class SessionInfo(msgspec.Struct, frozen=True, kw_only=True, tag="session"):
    """A recording session in one line."""

    name: str
    is_active: bool
    output_path: str | None  # where the trace is written, absolute; None: not on this machine
    creation_time_s: int  # since the Unix epoch
    relay: RelayOutput | FleetOutput | None = None  # where the trace is streamed to
    live_timer_period_us: int = 0  # 0: not for live reading


class SessionList(msgspec.Struct, frozen=True, tag="session-list"):
    """All sessions the caller may see."""

    sessions: tuple[SessionInfo, ...]


class EventRuleInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One recording event rule of a channel."""

    rule: EventRule
    is_enabled: bool


class StreamInfo(msgspec.Struct, frozen=True, kw_only=True):
    """The books of one stream: a channel's packets from one CPU, in one trace. Counts are cumulative."""

    trace: str  # below the session's output, as ust/uid/0/64-bit
    cpu: int
    recorded_packet_count: int
    recorded_bytes: int
    discarded_event_count: int
    lost_packet_count: int
    unwritten_packet_count: int  # complete ones that wait, because they cannot be written or sent


class ChannelInfo(msgspec.Struct, frozen=True, kw_only=True, tag="channel"):
    """One channel: every attribute settled (no None left in `attributes`), and its books."""

    name: str
    is_enabled: bool
    attributes: ChannelAttributes
    event_rules: tuple[EventRuleInfo, ...] = ()
    discarded_event_count: int = 0  # event records that found no room (discard mode)
    lost_packet_count: int = 0  # packets overwritten before they could be read (overwrite mode)
    recorded_packet_count: int = 0
    recorded_bytes: int = 0
    # Unread bytes in the ring buffer of the CPU that has the least and the most of them, over all its traces, at
    # the latest tick of the monitor timer; at most sub-buffer size times count. None: no tick yet, or no buffers.
    buffer_usage_lowest_bytes: int | None = None
    buffer_usage_highest_bytes: int | None = None
    error: str | None = None  # why it does not record as it should now, for example: the disk is full
    unwritten_packet_count: int = 0  # complete ones that wait, because they cannot be written or sent
    # Those whose buffers are open, by trace and CPU. Empty when they were not asked for.
    streams: tuple[StreamInfo, ...] = ()


class DomainInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One tracing domain of a session."""

    domain: Domain
    buffer_ownership: BufferOwnership
    channels: tuple[ChannelInfo, ...]


class SessionSums(msgspec.Struct, frozen=True, kw_only=True):
    """The books of a session: those of its channels, added up."""

    recorded_packet_count: int = 0
    recorded_bytes: int = 0
    discarded_event_count: int = 0
    lost_packet_count: int = 0
    unwritten_packet_count: int = 0


class StreamingInfo(msgspec.Struct, frozen=True, kw_only=True):
    """How the way to the relay daemon is, and what went there: packets, each once, cumulative, with their padding.

    `acknowledged_*` are None with LTTng's protocol, which knows none: what was sent and then lost is not known. With
    ours, metadata packets are counted as well, and what was sent and is not acknowledged is still on this host.
    """

    is_connected: bool
    trouble: str | None  # why it is not as it should be; None when all is well
    sent_packet_count: int
    sent_bytes: int
    acknowledged_packet_count: int | None = None
    acknowledged_bytes: int | None = None
    resent_packet_count: int = 0
    reconnect_count: int = 0
    spooled_packet_count: int = 0  # in the spool now: safe on this host, and not at the relay daemon
    spooled_bytes: int = 0


class SessionDetails(msgspec.Struct, frozen=True, kw_only=True, tag="session-details"):
    """Everything about a session."""

    session: SessionInfo
    domains: tuple[DomainInfo, ...]
    sums: SessionSums = SessionSums()
    streaming: StreamingInfo | None = None  # None: it is not streamed, or was not connected yet


class SessionStarted(msgspec.Struct, frozen=True, kw_only=True, tag="session-started"):
    """`warnings`: programs that could not be reached, each with the reason."""

    session: str
    warnings: tuple[str, ...] = ()


class ChannelBooks(msgspec.Struct, frozen=True, kw_only=True):
    """What a channel lost, summed over its streams, since the session was created."""

    domain: Domain
    channel: str
    loss_mode: LossMode
    discarded_event_count: int
    lost_packet_count: int


class SessionStopped(msgspec.Struct, frozen=True, kw_only=True, tag="session-stopped"):
    """The books of the session at that moment, and what could not be done."""

    session: str
    was_active: bool
    output_path: str | None
    channels: tuple[ChannelBooks, ...]
    warnings: tuple[str, ...] = ()


class EventRuleEnabled(msgspec.Struct, frozen=True, kw_only=True, tag="event-rule-enabled"):
    """Where the rule went. `warnings`: as in SessionStarted."""

    channel: str
    rule: EventRule
    warnings: tuple[str, ...] = ()


class EventRulesDisabled(msgspec.Struct, frozen=True, kw_only=True, tag="event-rules-disabled"):
    """How many rules were enabled before and are not any more."""

    channel: str
    count: int


class FieldInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One field of a tracepoint, as the program describes it."""

    name: str
    kind: str  # integer, enum, float, string, unknown
    is_recorded: bool  # False: usable in filters only


class TracepointInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One instrumentation point of a program. `fields` is None when they were not asked for."""

    name: str
    log_level: int
    fields: tuple[FieldInfo, ...] | None = None


class ProgramInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A registered program and its instrumentation points."""

    pid: int
    name: str
    bits_per_word: int
    uid: int
    tracepoints: tuple[TracepointInfo, ...]
    error: str | None = None  # why the list is incomplete, for example: the program is stopped


class TracepointList(msgspec.Struct, frozen=True, tag="tracepoint-list"):
    """Sorted by pid, and by name within a program."""

    programs: tuple[ProgramInfo, ...]


class ConsumerSockets(msgspec.Struct, frozen=True, kw_only=True):
    """Where a consumer daemon listens when it runs. Paths are absolute."""

    bits_per_word: int
    command: str
    descriptors: str
    health: str


class DaemonInfo(msgspec.Struct, frozen=True, kw_only=True, tag="daemon"):
    """Who answers. `consumers`: one line per consumer daemon, for example "ust64: pid 12, connected"."""

    version: str
    pid: int
    uid: int
    run_directory: str
    program_count: int
    session_count: int
    consumers: tuple[str, ...]
    application_socket: str = ""  # where programs register; absolute
    health_socket: str = ""  # of LTTng's health check
    consumer_sockets: tuple[ConsumerSockets, ...] = ()


SessiondReply = (
    HelloReply
    | Done
    | SessionInfo
    | SessionList
    | SessionDetails
    | SessionStarted
    | SessionStopped
    | ChannelInfo
    | EventRuleEnabled
    | EventRulesDisabled
    | TracepointList
    | DaemonInfo
)
