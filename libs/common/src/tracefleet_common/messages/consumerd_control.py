"""What a session daemon asks of a consumer daemon, and what the consumer daemon says unasked.

A *registry* is one CTF trace: the buffers that one user (or one process) fills in one session. Its channels
and its metadata stream live in one directory and share one trace uuid. The session daemon chooses all keys.
"""

from __future__ import annotations

import msgspec

from tracefleet_common.messages.envelope import Done, Hello, HelloReply
from tracefleet_common.model.ctf_types import HeaderType
from tracefleet_common.model.event_rules import LossMode
from tracefleet_common.model.relay_output import FleetOutput, RelayOutput

CONTEXT_FIELDS_EVENT_ID = -1  # in RecordLayout: not an event, but the context fields of all of them

# ---- requests ----


class PrepareOutput(msgspec.Struct, frozen=True, kw_only=True, tag="prepare-output"):
    """Make the output directory with the owner's credentials, and see that it can be written. Reply: Done."""

    output_root: str  # absolute
    owner_uid: int
    owner_gid: int


class OpenRelaySession(msgspec.Struct, frozen=True, kw_only=True, tag="open-relay-session"):
    """Connect to a relay daemon and make a session there. Reply: Done.

    Fails with TransportError and LTTng's code: 104 nobody answers there, 105 it is too old, 103 it refuses.
    """

    relay_key: int
    output: RelayOutput | FleetOutput
    session_name: str
    host_name: str
    has_creation_time_in_name: bool
    creation_time_s: int  # since the Unix epoch
    sessiond_uuid: bytes  # 16 bytes; with the id they tell the relay daemon what belongs together
    session_id: int
    live_timer_period_us: int  # 0: not for live reading


class PrepareRelaySession(msgspec.Struct, frozen=True, tag="prepare-relay-session"):
    """Make the session's first trace chunk, unless that was done: streams need one in LTTng's protocol. Reply: Done."""

    relay_key: int


class SettleRelaySession(msgspec.Struct, frozen=True, tag="settle-relay-session"):
    """Wait until the relay daemon, or the spool, has all that was sent. Reply: Done; TransportError when it has not."""

    relay_key: int


class CloseRelaySession(msgspec.Struct, frozen=True, tag="close-relay-session"):
    """After its registries: conclude the session at the relay daemon, and hang up. Reply: Done.

    What is in its spool is sent later, and the session concluded after that.
    Fails with TransportError (141) when that was not possible; the session is closed then as well.
    """

    relay_key: int


class SampleRelaySessions(msgspec.Struct, frozen=True, tag="sample-relay-sessions"):
    """Reply: RelaySessionsSampled. What is known here; no relay daemon is asked."""

    relay_keys: tuple[int, ...]


class OpenRegistry(msgspec.Struct, frozen=True, kw_only=True, tag="open-registry"):
    """Make room for a trace. The directory is created with the first file. Reply: Done.

    The descriptor of its metadata memory (`transport.metadata_memory`) goes over the descriptor socket, tagged with
    `ticket`. What the session daemon publishes there before it answers a program is in the metadata file before the
    program's data, and all of it is when the registry is closed.
    """

    registry_key: int
    ticket: int
    trace_uuid: bytes  # 16 bytes, in every packet header
    output_root: str | None  # absolute; where the session's output begins; None: no files are written
    relay_key: int | None = None  # instead of output_root: the relay session that takes the trace
    relative_path: str  # below output_root, for example "ust/uid/1000/64-bit"; never absolute, no ".."
    owner_uid: int  # files and directories are made with these credentials, and belong to them
    owner_gid: int


class RecordLayout(msgspec.Struct, frozen=True, kw_only=True):
    """Where the fields of an event record end, for a repair that must step over records it knows nothing else of.

    `event_id`: the records whose payload is like this; CONTEXT_FIELDS_EVENT_ID (-1): the context fields of every
    record of the channel.
    `layout`: as `codecs.record_layout` writes it. What it cannot say has no layout.
    """

    channel_key: int
    event_id: int
    layout: bytes


class SetRecordLayouts(msgspec.Struct, frozen=True, tag="set-record-layouts"):
    """What repairs need to know of the records of events and contexts. Reply: Done, once the ring buffers know.

    Those of channels that were closed meanwhile are ignored.
    """

    record_layouts: tuple[RecordLayout, ...]


class CreateChannel(msgspec.Struct, frozen=True, kw_only=True, tag="create-channel"):
    """Make the ring buffers of a channel, one stream per possible CPU, and read them from now on.

    Reply: ChannelCreated. The descriptors go over the descriptor socket, tagged with `ticket`:
    first the channel's wakeup descriptor, then (shm, wakeup) of stream 0, 1, …
    """

    registry_key: int
    channel_key: int
    ticket: int
    name: str
    channel_id: int  # stream_id in every packet header
    header_type: HeaderType  # of its event records, as the programs are told; a repair must know it
    loss_mode: LossMode
    sub_buffer_size_bytes: int
    sub_buffer_count: int
    switch_timer_period_us: int
    read_timer_period_us: int
    monitor_timer_period_us: int
    blocking_timeout_us: int
    trace_file_size_bytes: int
    trace_file_count: int
    live_timer_period_us: int = 0  # instead of the switch timer; only to a relay daemon


class DrainChannels(msgspec.Struct, frozen=True, kw_only=True, tag="drain-channels"):
    """Flush every stream, write all that is complete, answer with the books. Reply: ChannelsDrained.

    `is_final_flush`: the programs are stopped; also close packets without an event record (once per stop).
    `is_quiescent`: every living writer has left its probes, so a record still uncommitted has no writer any
    more: empty its packet, count its event records as discarded, make the buffer usable again.
    """

    channel_keys: tuple[int, ...]
    is_final_flush: bool
    is_quiescent: bool


class ResumeChannels(msgspec.Struct, frozen=True, tag="resume-channels"):
    """The session starts again: the next final flush may close empty packets again. Reply: Done."""

    channel_keys: tuple[int, ...]


class SampleChannels(msgspec.Struct, frozen=True, tag="sample-channels"):
    """Reply: ChannelsDrained with the books as they are, without a flush."""

    channel_keys: tuple[int, ...]


class CloseChannels(msgspec.Struct, frozen=True, kw_only=True, tag="close-channels"):
    """Final flush, write all that can be written, give the buffers up. Reply: ChannelsDrained, the last books."""

    channel_keys: tuple[int, ...]
    is_quiescent: bool


class CloseRegistry(msgspec.Struct, frozen=True, tag="close-registry"):
    """After its channels. Reply: Done."""

    registry_key: int


class RepairChannels(msgspec.Struct, frozen=True, tag="repair-channels"):
    """As `is_quiescent` of DrainChannels, while tracing goes on: only records reserved before the position that
    `JammedStream` reported. Reply: ChannelsDrained."""

    channel_keys: tuple[int, ...]


class DescribeConsumer(msgspec.Struct, frozen=True, tag="describe-consumer"):
    """Reply: ConsumerInfo. Also the health check."""


ConsumerdRequest = (
    Hello
    | PrepareOutput
    | OpenRelaySession
    | PrepareRelaySession
    | SettleRelaySession
    | CloseRelaySession
    | SampleRelaySessions
    | OpenRegistry
    | SetRecordLayouts
    | CreateChannel
    | DrainChannels
    | ResumeChannels
    | SampleChannels
    | CloseChannels
    | CloseRegistry
    | RepairChannels
    | DescribeConsumer
)

# ---- replies ----


class ChannelCreated(msgspec.Struct, frozen=True, kw_only=True, tag="channel-created"):
    """`channel_data`: the channel object as every application must receive it (liblttng-ust-ctl's bytes)."""

    channel_key: int
    channel_type: int
    channel_data: bytes
    stream_sizes_bytes: tuple[int, ...]  # shared memory size of stream 0, 1, …


class StreamBooks(msgspec.Struct, frozen=True, kw_only=True):
    """What one stream carried. Counts are cumulative; emitted = recorded + discarded, packet by packet."""

    cpu: int
    packet_count: int
    bytes: int
    discarded_event_count: int
    lost_packet_count: int
    unwritten_packet_count: int  # complete, but they could not be written (disk full …)


class ChannelState(msgspec.Struct, frozen=True, kw_only=True):
    """The books of one channel. `error`: why it does not record as it should now; None when all is well."""

    channel_key: int
    streams: tuple[StreamBooks, ...]
    error: str | None = None


class ChannelsDrained(msgspec.Struct, frozen=True, tag="channels-drained"):
    """One state per channel key asked for, in that order."""

    channels: tuple[ChannelState, ...]


class RelaySessionState(msgspec.Struct, frozen=True, kw_only=True):
    """How a session at a relay daemon goes, and the sums of what went there. Counts are cumulative, sizes in bytes.

    Of LTTng's protocol, which has no acknowledgements, `acknowledged_*` are None, and what was lost in a broken
    connection is not known.
    """

    relay_key: int
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


class RelaySessionsSampled(msgspec.Struct, frozen=True, tag="relay-sessions-sampled"):
    """One state per key asked for, in that order; those that are not known are left out."""

    sessions: tuple[RelaySessionState, ...]


class ConsumerInfo(msgspec.Struct, frozen=True, kw_only=True, tag="consumer"):
    """Who answers."""

    version: str
    pid: int
    bits_per_word: int
    cpu_count: int  # streams per channel
    registry_count: int
    channel_count: int
    has_repair: bool  # the ring buffer layout is the known one, so jammed buffers can be repaired


ConsumerdReply = HelloReply | Done | ChannelCreated | ChannelsDrained | RelaySessionsSampled | ConsumerInfo

# ---- notices ----


class JammedStream(msgspec.Struct, frozen=True, kw_only=True, tag="jammed-stream"):
    """A complete sub-buffer has an uncommitted record for too long: its writer died or is stopped."""

    channel_key: int
    cpu: int


class ChannelTrouble(msgspec.Struct, frozen=True, kw_only=True, tag="channel-trouble"):
    """A channel began to fail, or (`error` None) works again."""

    channel_key: int
    error: str | None


class BufferSample(msgspec.Struct, frozen=True, kw_only=True):
    """How full a channel's ring buffers are. Unread bytes, of the stream with the least and the most of them."""

    channel_key: int
    lowest_bytes: int
    highest_bytes: int
    consumed_bytes: int  # given back to the writers since the channel was made, over all its streams


class BufferUsage(msgspec.Struct, frozen=True, tag="buffer-usage"):
    """One tick of the monitor timers: the channels whose samples are not as they were told last."""

    samples: tuple[BufferSample, ...]


ConsumerdNotice = JammedStream | ChannelTrouble | BufferUsage
