"""Ring buffers and trace files, from the native library.

Import it before the process has threads: the library blocks signals that no thread may receive.
"""

from __future__ import annotations

import errno
import os
import queue
import threading
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager

import tracefleet_native
from tracefleet_common.errors import (
    ErrorCode,
    InvalidArgument,
    NotFound,
    PermissionRefused,
    ResourceExhausted,
    TracefleetError,
    TracerError,
    Unsupported,
)
from tracefleet_common.messages.consumerd_control import StreamBooks
from tracefleet_common.messages.relay_streaming import METADATA_NAME
from tracefleet_common.model.event_rules import LossMode
from tracefleet_common.model.relay_output import FleetOutput
from tracefleet_common.transport.metadata_memory import create_metadata_memory
from tracefleet_consumerd.adapters.fleet_relay import FleetRelaySession
from tracefleet_consumerd.adapters.fleet_relays import FleetRelays
from tracefleet_consumerd.adapters.lttng_relay import LttngRelaySession
from tracefleet_consumerd.adapters.output_directory import prepare_output
from tracefleet_consumerd.application.ports import (
    ChannelBuffers,
    ExportedChannel,
    RelaySession,
    StreamPosition,
    TraceOutput,
)
from tracefleet_consumerd.domain.buffer_usage import Usage
from tracefleet_consumerd.domain.channel import ChannelSettings
from tracefleet_consumerd.domain.registry import RegistrySettings
from tracefleet_consumerd.domain.relay import RelaySettings
from tracefleet_consumerd.settings import BITS_PER_WORD

_EXHAUSTED = (errno.ENOSPC, errno.EDQUOT, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EFBIG)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def _failures(what: str, code: ErrorCode) -> Iterator[None]:
    """Errors of the native library as errors that travel. `what` could not be done."""
    try:
        yield
    except ValueError as error:
        raise NotFound(f"{what}: {error}", code) from None
    except OSError as error:
        # Without a path the text is a whole sentence of the library's own.
        text = f"{what}: {error.strerror}"
        kind: type[TracefleetError] = TracerError
        if error.errno in _EXHAUSTED:
            kind = ResourceExhausted
        elif error.errno in _FORBIDDEN:
            kind = PermissionRefused
        elif error.errno == errno.EINVAL:
            kind = InvalidArgument
        elif error.errno == errno.ENOTSUP:
            kind = Unsupported
        raise kind(text, code) from None


# How long the last metadata may wait for a relay daemon that is slow.
METADATA_DEADLINE_S = 5.0
METADATA_PAUSE_S = 0.01


class NativeOutput:
    """One trace directory."""

    metadata_handle: int | None = None

    def __init__(self, settings: RegistrySettings, root: str, metadata_descriptor: int) -> None:
        with _failures(f"Cannot use the output {settings.path}", ErrorCode.CREATE_DIR_FAIL):
            self.native = tracefleet_native.Output(root, settings.relative_path, settings.owner_uid, settings.owner_gid)
            self.native.set_metadata(metadata_descriptor, settings.trace_uuid)
        self.path = settings.path

    def close(self) -> None:
        with _failures(f"Cannot write {self.path}/metadata", ErrorCode.CREATE_DIR_FAIL):
            self.native.close()


class NativeRelayOutput(NativeOutput):
    """One trace at a relay daemon."""

    def __init__(self, settings: RegistrySettings, relay: LttngRelaySession, metadata_descriptor: int) -> None:
        self.relay = relay
        self.relative_path = settings.relative_path
        self.path = f"{relay.text} {settings.relative_path}"
        self.metadata_handle: int = relay.add_metadata_stream(settings.relative_path)
        with _failures(f"Cannot use the output {self.path}", ErrorCode.UST_SESSION_FAIL):
            self.native = tracefleet_native.Output.relayed(relay.native, self.metadata_handle, self.path)
            self.native.set_metadata(metadata_descriptor, settings.trace_uuid)

    def close(self) -> None:
        end_s = time.monotonic() + METADATA_DEADLINE_S
        with _failures(f"Cannot send the metadata of {self.path}", ErrorCode.ROTATION_FAIL_CONSUMER):
            try:
                while not self._is_metadata_sent() and time.monotonic() < end_s:
                    time.sleep(METADATA_PAUSE_S)
            finally:
                self.native.close()
        self.relay.close_streams([StreamPosition(self.metadata_handle, None)])

    def _is_metadata_sent(self) -> bool:
        try:
            self.native.write_metadata()
        except BlockingIOError:
            return False
        return True


class NativeFleetOutput(NativeOutput):
    """One trace at a relay daemon of our own."""

    def __init__(self, settings: RegistrySettings, relay: FleetRelaySession, metadata_descriptor: int) -> None:
        self.relay = relay
        self.relative_path = settings.relative_path
        self.path = f"{relay.text} {settings.relative_path}"
        (self._metadata_key,) = relay.add_streams(settings.relative_path, [METADATA_NAME])
        with _failures(f"Cannot use the output {self.path}", ErrorCode.UST_SESSION_FAIL):
            self.native = tracefleet_native.Output.fleet(relay.native, self._metadata_key, self.path)
            self.native.set_metadata(metadata_descriptor, settings.trace_uuid)

    def close(self) -> None:
        try:
            super().close()
        finally:
            self.relay.end_streams([self._metadata_key])


class NativeChannel:
    """The ring buffers of one channel, and its files."""

    def __init__(self, settings: ChannelSettings, output: NativeOutput | None) -> None:
        self._settings = settings
        self._output = output
        self._handles: tuple[int, ...] = ()  # of LTTng's protocol
        self._fleet_keys: tuple[int, ...] = ()  # of our own
        self._name = settings.name
        self._path = None if output is None else output.path
        self._what = f"Channel {settings.name}"
        with _failures(f"Cannot make channel {settings.name}", ErrorCode.UST_CHANNEL_FAIL):
            self.native = tracefleet_native.Channel(
                name=settings.name,
                channel_id=settings.channel_id,
                trace_uuid=settings.trace_uuid,
                is_overwrite=settings.loss_mode is LossMode.OVERWRITE,
                sub_buffer_size_bytes=settings.sub_buffer_size_bytes,
                sub_buffer_count=settings.sub_buffer_count,
                switch_timer_period_us=settings.switch_timer_period_us,
                read_timer_period_us=settings.read_timer_period_us,
                blocking_timeout_us=settings.blocking_timeout_us,
                trace_file_size_bytes=settings.trace_file_size_bytes,
                trace_file_count=settings.trace_file_count,
                header_type=settings.header_type,
                output=None if output is None else output.native,
                live_timer_period_us=settings.live_timer_period_us,
            )

    def export(self) -> ExportedChannel:
        with _failures(self._what, ErrorCode.UST_CHANNEL_FAIL):
            return ExportedChannel(*self.native.export())

    def flush(self, *, is_final: bool) -> None:
        with _failures(self._what, ErrorCode.BUFFER_FLUSH_FAILED):
            self.native.flush(is_final)

    def resume(self) -> None:
        with _failures(self._what, ErrorCode.UST_START_FAIL):
            self.native.resume()

    def drain(self, deadline_s: float) -> bool:
        with _failures(self._what, ErrorCode.BUFFER_FLUSH_FAILED):
            return self.native.drain(int(deadline_s * 1000))

    def repair(self, *, is_tracing: bool) -> int:
        with _failures(f"Cannot repair channel {self._name}", ErrorCode.BUFFER_FLUSH_FAILED):
            return self.native.repair(is_tracing)

    def set_record_layout(self, event_id: int, layout: bytes) -> None:
        with _failures(f"Cannot take a record layout of channel {self._name}", ErrorCode.UST_CHANNEL_FAIL):
            self.native.set_record_layout(event_id, layout)

    def join_relay(self) -> None:
        output = self._output
        assert isinstance(output, NativeRelayOutput | NativeFleetOutput), "made for a registry that has a relay session"
        streams = output.relay.add_streams(
            output.relative_path,
            [f"{self._name}_{cpu}" for cpu in range(tracefleet_native.possible_cpu_count())],
            self._settings.trace_file_size_bytes,
            self._settings.trace_file_count,
        )
        with _failures(self._what, ErrorCode.UST_CHANNEL_FAIL):
            if isinstance(output, NativeFleetOutput):
                self.native.set_fleet_streams(streams)
                self._fleet_keys = streams
            else:
                self.native.set_relay_streams(streams)
                self._handles = streams

    def relay_positions(self) -> tuple[StreamPosition, ...]:
        if not self._handles:
            return ()
        counts = self.native.relay_positions()
        return tuple(
            StreamPosition(handle, count - 1 if count else None)
            for handle, count in zip(self._handles, counts, strict=True)
        )

    def leave_relay(self) -> None:
        if self._fleet_keys:
            assert isinstance(self._output, NativeFleetOutput), "the streams are there"
            self._output.relay.end_streams(self._fleet_keys)
        if self._handles:
            assert isinstance(self._output, NativeRelayOutput), "the streams are there"
            self._output.relay.close_streams(self.relay_positions())

    def books(self) -> tuple[StreamBooks, ...]:
        return tuple(StreamBooks(**stream._asdict()) for stream in self.native.books())

    def usage(self) -> Usage:
        with _failures(self._what, ErrorCode.BUFFER_FLUSH_FAILED):
            return Usage(*self.native.usage())

    def trouble(self) -> str | None:
        number = self.native.error()
        return None if number == 0 else f"Channel {self._name}: {os.strerror(number)}: {self._path}"

    def describe(self, number: int, cpu: int) -> str:
        """What an errno of a write means, with the place: the stream's file, or the first of them."""
        return f"{os.strerror(number)}: {self._path}/{self._name}_{cpu}"

    def close(self) -> None:
        self.native.close()


class _PageJoiner:
    """Puts ring buffers into large pages a while after they were made: a program is waiting for them just then."""

    _DELAY_S = 1.0

    def __init__(self) -> None:
        # Weak: who closes a channel gets its memory back at once.
        self._channels: queue.SimpleQueue[tuple[float, weakref.ref[tracefleet_native.Channel]]] = queue.SimpleQueue()
        threading.Thread(target=self._run, name="pages", daemon=True).start()

    def join_later(self, channel: tracefleet_native.Channel) -> None:
        self._channels.put((time.monotonic() + self._DELAY_S, weakref.ref(channel)))

    def _run(self) -> None:
        while True:
            due_s, reference = self._channels.get()
            time.sleep(max(0.0, due_s - time.monotonic()))
            channel = reference()
            if channel is not None:
                channel.join_pages()
            del channel


class NativeLibrary:
    """Makes the above."""

    def __init__(self, fleet_relays: FleetRelays) -> None:
        self._fleet_relays = fleet_relays
        self._page_joiner = _PageJoiner()

    @property
    def cpu_count(self) -> int:
        return tracefleet_native.possible_cpu_count()

    @property
    def bits_per_word(self) -> int:
        return BITS_PER_WORD

    @property
    def has_repair(self) -> bool:
        return tracefleet_native.has_repair()

    def stream_size_bytes(self, settings: ChannelSettings) -> int:
        return tracefleet_native.ring_buffer_size_bytes(settings.sub_buffer_size_bytes, settings.sub_buffer_count)

    def prepare_output(self, root: str, owner_uid: int, owner_gid: int) -> None:
        prepare_output(root, owner_uid, owner_gid)

    def create_metadata_memory(self) -> int:
        with _failures("Cannot make a metadata memory", ErrorCode.UST_SESSION_FAIL):
            return create_metadata_memory()

    def connect_relay(self, settings: RelaySettings) -> RelaySession:
        if isinstance(settings.output, FleetOutput):
            return self._fleet_relays.open(settings)
        return LttngRelaySession(settings)

    def open_output(
        self, settings: RegistrySettings, metadata_descriptor: int, relay: RelaySession | None
    ) -> NativeOutput | None:
        if isinstance(relay, FleetRelaySession):
            return NativeFleetOutput(settings, relay, metadata_descriptor)
        if relay is not None:
            assert isinstance(relay, LttngRelaySession), "made by connect_relay"
            return NativeRelayOutput(settings, relay, metadata_descriptor)
        if settings.output_root is None:
            return None
        return NativeOutput(settings, settings.output_root, metadata_descriptor)

    def create_channel(self, settings: ChannelSettings, output: TraceOutput | None) -> ChannelBuffers:
        assert output is None or isinstance(output, NativeOutput), "made by open_output"
        channel = NativeChannel(settings, output)
        self._page_joiner.join_later(channel.native)
        return channel
