"""What the consumer daemon asks of the world around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import Enum
from typing import NamedTuple, Protocol, TypeVar

from tracefleet_common.messages.consumerd_control import ConsumerdNotice, RelaySessionState, StreamBooks
from tracefleet_consumerd.domain.buffer_usage import Usage
from tracefleet_consumerd.domain.channel import ChannelSettings
from tracefleet_consumerd.domain.registry import RegistrySettings
from tracefleet_consumerd.domain.relay import RelaySettings

T = TypeVar("T")


class Requester(Protocol):
    """The connection that a request came from, and its credentials by the kernel's word."""

    @property
    def identity(self) -> bytes: ...
    @property
    def uid(self) -> int: ...
    @property
    def pid(self) -> int: ...


class ExportedChannel(NamedTuple):
    """A channel as applications must receive it. The descriptors are the holder's to close.

    descriptors: the channel's wakeup, then shared memory and wakeup of stream 0, 1, …
    """

    channel_type: int
    channel_data: bytes
    descriptors: list[int]


class TraceOutput(Protocol):
    """The directory of one trace, here or at a relay daemon."""

    @property
    def metadata_handle(self) -> int | None:
        """What a relay daemon of LTTng's protocol calls the metadata stream; None: it goes elsewhere."""

    def close(self) -> None:
        """Write what is left of the metadata, and end it. Raises TracefleetError; it is closed then, too."""


class StreamPosition(NamedTuple):
    """A data stream in LTTng's relay protocol, and the number of the last packet sent; None: there was none."""

    handle: int
    last_number: int | None


class RelaySession(Protocol):
    """A session at a relay daemon. Calls block, for bounded time; TransportError when it is lost or silent."""

    @property
    def text(self) -> str:
        """Where it is, for people."""

    @property
    def is_lost(self) -> bool:
        """Whether it will never take anything again. Does not block."""

    def prepare(self) -> None:
        """Make the first trace chunk, once, where streams need one."""

    def poll(self) -> None:
        """See whether the relay daemon is there, and send what waits for it."""

    def is_settled(self, positions: Sequence[StreamPosition], metadata_handles: Sequence[int]) -> bool:
        """Whether the relay daemon has everything up to these positions; where it acknowledges, everything."""

    def state(self) -> RelaySessionState:
        """How it goes, from what is known here. Does not block; also of a session that is lost."""

    def close(self) -> None:
        """Conclude the session, whose streams are closed. It is closed also when this raises.

        With a spool it may go on there by itself.
        """


class ChannelBuffers(Protocol):
    """The ring buffers of one channel. Calls may block, and come from any thread, one at a time.

    But `usage` and `set_record_layout` come at any time, beside other calls.
    """

    def export(self) -> ExportedChannel: ...

    def flush(self, *, is_final: bool) -> None:
        """Close the current packets; a final flush also those without an event record, once until resume."""

    def resume(self) -> None: ...

    def drain(self, deadline_s: float) -> bool:
        """Write what is complete. True: all of it is written; False: a jam, an error, or the time was over."""

    def repair(self, *, is_tracing: bool) -> int:
        """Give up event records that no living writer will complete. Returns how many sub-buffers it freed."""

    def set_record_layout(self, event_id: int, layout: bytes) -> None:
        """What a repair needs to step over records; see RecordLayout. Raises TracefleetError, also after close."""

    def join_relay(self) -> None:
        """Make the streams at the relay daemon of the output; nothing is read before. Raises TracefleetError."""

    def relay_positions(self) -> tuple[StreamPosition, ...]:
        """None for buffers whose output is of another kind. Also after close."""

    def leave_relay(self) -> None:
        """After close: tell the relay daemon that nothing follows. Raises TransportError."""

    def books(self) -> tuple[StreamBooks, ...]:
        """Also after close."""

    def usage(self) -> Usage:
        """How full they are now. Raises TracefleetError after close."""

    def trouble(self) -> str | None:
        """Why the latest write failed; None: it did not."""

    def close(self) -> None: ...


class BufferLibrary(Protocol):
    """Makes outputs and ring buffers. Every call may block, and raises TracefleetError when it fails."""

    @property
    def cpu_count(self) -> int: ...
    @property
    def bits_per_word(self) -> int: ...
    @property
    def has_repair(self) -> bool: ...

    def stream_size_bytes(self, settings: ChannelSettings) -> int: ...

    def prepare_output(self, root: str, owner_uid: int, owner_gid: int) -> None:
        """Make the directory with its owner's credentials; it can be written to on return."""

    def create_metadata_memory(self) -> int:
        """The descriptor is the caller's."""

    def connect_relay(self, settings: RelaySettings) -> RelaySession:
        """Raises TransportError with LTTng's code."""

    def open_output(
        self, settings: RegistrySettings, metadata_descriptor: int, relay: RelaySession | None
    ) -> TraceOutput | None:
        """None when the registry has no output. The descriptor, of a metadata memory, stays the caller's."""

    def create_channel(self, settings: ChannelSettings, output: TraceOutput | None) -> ChannelBuffers: ...


class ReportKind(Enum):
    """What may happen to a stream while it is read."""

    JAMMED = "jammed"
    WRITE_FAILED = "write-failed"
    WRITE_RECOVERED = "write-recovered"
    HUNG_UP = "hung-up"
    BROKEN = "broken"


class Report(NamedTuple):
    """Something that somebody should know. `reason` is a text for people, empty where there is none."""

    kind: ReportKind
    channel_key: int
    cpu: int
    reason: str


class Reader(Protocol):
    """Reads the ring buffers of every channel added, all the time. Calls may block."""

    def add(self, buffers: ChannelBuffers, channel_key: int) -> None: ...
    def remove(self, buffers: ChannelBuffers) -> None: ...


class Workers(Protocol):
    """Threads for calls that may block."""

    async def run(self, work: Callable[[], T]) -> T:
        """Call it in a thread. Cancelling does not stop the call."""


class DescriptorSender(Protocol):
    """Carries descriptors to whoever asked for them."""

    async def send_descriptors(self, requester: Requester, ticket: int, descriptors: Sequence[int]) -> None:
        """The descriptors stay the caller's. Raises TransportError."""


class Notices(Protocol):
    """Tells every session daemon that is connected."""

    async def notify(self, notice: ConsumerdNotice) -> None: ...


class MonotonicClock(Protocol):
    def now_s(self) -> float: ...
