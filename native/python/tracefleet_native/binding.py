"""The one module that sees `ffi`: C functions and structures become methods and named tuples.

Every call releases the GIL, and may be made from any thread.
"""

from __future__ import annotations

import enum
import errno
import os
import pwd
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from tracefleet_native._native import ffi, lib

if TYPE_CHECKING:
    from tracefleet_native.fleet_binding import Fleet

_REPORTS_PER_RUN = 256


class ReportKind(enum.IntEnum):
    """What a pump has to say about a channel."""

    JAMMED = lib.TF_REPORT_JAMMED  # a sub-buffer waits for a record whose writer is dead, or stopped
    WRITE_FAILED = lib.TF_REPORT_WRITE_FAILED  # its packets stay in the buffer, and are tried again and again
    WRITE_RECOVERED = lib.TF_REPORT_WRITE_RECOVERED
    HUNG_UP = lib.TF_REPORT_HUNG_UP  # nobody else holds the channel any more
    BROKEN = lib.TF_REPORT_BROKEN  # an application damaged the shared memory; the stream is given up


class Report(NamedTuple):
    kind: ReportKind
    token: int
    cpu: int  # -1: the channel as a whole
    error: int  # errno, or 0


class StreamBooks(NamedTuple):
    """What one stream carried so far; cumulative."""

    cpu: int
    packet_count: int
    bytes: int
    discarded_event_count: int
    lost_packet_count: int
    unwritten_packet_count: int


class RelaySums(NamedTuple):
    """Data packets that were given to the connections to a relay daemon, with their padding; cumulative."""

    packet_count: int
    bytes: int


def _check(result: int, what: str) -> int:
    if result >= 0:
        return result
    if result == -errno.EBADF:
        raise ValueError(f"{what} is closed")
    raise OSError(-result, os.strerror(-result), what)


if lib.tf_initialize() < 0:
    raise ImportError("liblttng-ust-ctl cannot be used: no ring buffer could be made to try it")


def has_repair() -> bool:
    """Whether the ring buffer's layout is the known one, so that jammed buffers can be repaired."""
    return bool(lib.tf_has_repair())


def possible_cpu_count() -> int:
    """Streams per channel: the number of CPUs that the kernel could ever bring up."""
    return int(lib.tf_possible_cpu_count())


def ring_buffer_size_bytes(sub_buffer_size_bytes: int, sub_buffer_count: int) -> int:
    """The shared memory of one stream, bookkeeping included."""
    return int(lib.tf_ring_buffer_size(sub_buffer_size_bytes, sub_buffer_count))


def _group_ids(uid: int, gid: int) -> list[int]:
    """The supplementary groups that the owner would have after a login, if it takes root to act for them."""
    if os.geteuid() != 0 or uid == 0:
        return []
    try:
        return os.getgrouplist(pwd.getpwuid(uid).pw_name, gid)
    except KeyError:
        return [gid]


class Relay:
    """A session at a relay daemon: the two connections on which streams and metadata go there."""

    def __init__(self, control_descriptor: int, data_descriptor: int) -> None:
        """Connected sockets, which stay the caller's and become non-blocking. Raises OSError."""
        out = ffi.new("struct tf_relay **")
        _check(lib.tf_relay_create(control_descriptor, data_descriptor, out), "relay")
        self._handle: Any = ffi.gc(out[0], lib.tf_relay_put)

    def begin(self, timeout_ms: int) -> None:
        """Have the control connection alone, with no reply under way, until `end`.

        Raises OSError: ETIMEDOUT, or why the session is lost.
        """
        _check(lib.tf_relay_begin(self._handle, max(0, timeout_ms)), "relay")

    def end(self, error: int = 0, late_size_bytes: int = 0) -> None:
        """Let the streams go on. `error`: 0, or the errno that makes the session lost.

        `late_size_bytes`: of replies that did not come in time, and that nobody waits for any more.
        """
        lib.tf_relay_end(self._handle, error, late_size_bytes)

    def poll(self) -> bool:
        """Send what waits; whether something still does. Raises OSError when the session is lost."""
        return _check(lib.tf_relay_poll(self._handle), "relay") == 1

    @property
    def is_lost(self) -> bool:
        """Whether the session is lost, as was noticed so far. Never waits."""
        return bool(lib.tf_relay_error(self._handle) < 0)

    def sums(self) -> RelaySums:
        """What the streams have sent. Never waits for the peer; also after the close."""
        out = ffi.new("struct tf_relay_sums *")
        lib.tf_relay_get_sums(self._handle, out)
        return RelaySums(int(out.packet_count), int(out.size))

    def close(self) -> None:
        """End both connections."""
        lib.tf_relay_close(self._handle)


class Output:
    """Where the files of one registry (one CTF trace) go; made when they are needed, as the owner's."""

    def __init__(self, root: str, relative_path: str, uid: int, gid: int) -> None:
        """Raises OSError (EINVAL) unless `root` is absolute, and `relative_path` stays below it."""
        groups = _group_ids(uid, gid)
        if "\0" in root or "\0" in relative_path:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), relative_path)
        out = ffi.new("struct tf_output **")
        _check(
            lib.tf_output_create(os.fsencode(root), os.fsencode(relative_path), uid, gid, groups, len(groups), out),
            relative_path,
        )
        self._name = relative_path
        self._handle: Any = ffi.gc(out[0], lib.tf_output_put)

    @classmethod
    def relayed(cls, relay: Relay, metadata_handle: int, name: str) -> Output:
        """The same for a trace that goes to a relay daemon, which calls its metadata stream `metadata_handle`.

        `name` is for error messages.
        """
        out = ffi.new("struct tf_output **")
        _check(lib.tf_output_create_relayed(relay._handle, metadata_handle, out), name)
        output = cls.__new__(cls)
        output._name = name
        output._handle = ffi.gc(out[0], lib.tf_output_put)
        return output

    @classmethod
    def fleet(cls, fleet: Fleet, metadata_key: int, name: str) -> Output:
        """The same for a trace that goes through a fleet, its metadata as the stream `metadata_key` of it.

        `name` is for error messages.
        """
        out = ffi.new("struct tf_output **")
        _check(lib.tf_output_create_fleet(fleet._handle, metadata_key, out), name)
        output = cls.__new__(cls)
        output._name = name
        output._handle = ffi.gc(out[0], lib.tf_output_put)
        return output

    def prepare(self) -> None:
        """Make the directories now, and see that files can be made there. Raises OSError."""
        _check(lib.tf_output_prepare(self._handle), self._name)

    def set_metadata(self, descriptor: int, trace_uuid: bytes) -> None:
        """Take the trace's metadata from shared memory (include/tracefleet/output.h) before packets are written.

        The descriptor stays the caller's. Raises OSError: EINVAL for what is no such memory.
        """
        if len(trace_uuid) != 16:
            raise ValueError(f"a trace uuid has 16 bytes, not {len(trace_uuid)}")
        _check(lib.tf_output_set_metadata(self._handle, descriptor, trace_uuid), self._name)

    def write_metadata(self) -> None:
        """Write the metadata that is not written yet. Raises OSError: EAGAIN when a relay daemon takes no more now."""
        _check(lib.tf_output_write_metadata(self._handle), self._name)

    def close(self) -> None:
        """Write the metadata that is not written yet, and close file and directory. Channels that write here go on.

        Raises OSError when the metadata could not be written; it is closed then as well.
        """
        _check(lib.tf_output_close(self._handle), self._name)


class Channel:
    """The ring buffers of one channel, one stream per possible CPU, and the files they are written to."""

    def __init__(
        self,
        *,
        name: str,
        channel_id: int,
        trace_uuid: bytes,
        is_overwrite: bool,
        sub_buffer_size_bytes: int,
        sub_buffer_count: int,
        switch_timer_period_us: int,
        read_timer_period_us: int,
        blocking_timeout_us: int,
        trace_file_size_bytes: int,
        trace_file_count: int,
        output: Output | None,
        header_type: int = 2,
        live_timer_period_us: int = 0,
    ) -> None:
        """Make buffers and files. `header_type` of event records, as told to applications: 1 compact, 2 large.

        Raises OSError: EINVAL for sizes the tracer does not take, ENOSPC when /dev/shm is too small for the
        buffers (the message has the numbers), or what making the files gave.
        """
        if len(trace_uuid) != 16:
            raise ValueError(f"a trace uuid has 16 bytes, not {len(trace_uuid)}")
        encoded_name = os.fsencode(name)
        if b"\0" in encoded_name:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), name)
        name_buffer = ffi.new("char[]", encoded_name)
        try:
            attributes = ffi.new(
                "struct tf_channel_attributes *",
                {
                    "name": name_buffer,
                    "channel_id": channel_id,
                    "trace_uuid": trace_uuid,
                    "is_overwrite": is_overwrite,
                    "sub_buffer_size": sub_buffer_size_bytes,
                    "sub_buffer_count": sub_buffer_count,
                    "switch_timer_period_us": switch_timer_period_us,
                    "read_timer_period_us": read_timer_period_us,
                    "live_timer_period_us": live_timer_period_us,
                    "blocking_timeout_us": blocking_timeout_us,
                    "trace_file_size": trace_file_size_bytes,
                    "trace_file_count": trace_file_count,
                    "header_type": header_type,
                },
            )
        except OverflowError as error:
            raise OSError(errno.EINVAL, f"a number is out of range: {error}", name) from None
        out = ffi.new("struct tf_channel **")
        needed = ffi.new("uint64_t *")
        available = ffi.new("uint64_t *")
        output_handle = ffi.NULL if output is None else output._handle
        result = lib.tf_channel_create(attributes, output_handle, out, needed, available)
        if result == -errno.ENOSPC and needed[0] > 0:
            raise OSError(
                errno.ENOSPC,
                f"The ring buffers of channel {name} need {needed[0]} bytes of shared memory, "
                f"and /dev/shm has {available[0]} bytes left",
            )
        _check(result, name)
        self._name = name
        self._pump: Pump | None = None
        self._handle: Any = ffi.gc(out[0], lib.tf_channel_free)

    def export(self) -> tuple[int, bytes, list[int]]:
        """What applications must receive: channel type, channel object, and descriptors, which the caller closes.

        The descriptors: the channel's wakeup, then (shared memory, wakeup) of stream 0, 1, … Works once:
        afterwards the channel hangs up when all copies of its wakeup descriptor are closed.
        """
        count = 1 + 2 * possible_cpu_count()
        channel_type = ffi.new("int32_t *")
        data = ffi.new("uint8_t **")
        data_size = ffi.new("size_t *")
        descriptors = ffi.new("int[]", count)
        _check(lib.tf_channel_export(self._handle, channel_type, data, data_size, descriptors, count), self._name)
        try:
            return int(channel_type[0]), bytes(ffi.buffer(data[0], data_size[0])), list(descriptors)
        finally:
            lib.free(data[0])

    def join_pages(self) -> None:
        """Have the kernel put the buffers into large pages if it can: less work with every packet. Takes a while."""
        lib.tf_channel_join_pages(self._handle)

    def flush(self, is_final: bool) -> None:
        """Close the packets under way. Final: also those without an event record, once until `resume`."""
        _check(lib.tf_channel_flush(self._handle, is_final), self._name)

    def resume(self) -> None:
        """The next final flush may close empty packets again."""
        _check(lib.tf_channel_resume(self._handle), self._name)

    def drain(self, deadline_ms: int) -> bool:
        """Write all complete sub-buffers, for at most `deadline_ms`. False: a jam, a failing disk or the time.

        Through a fleet: until the relay daemon has acknowledged them, or they are in the spool.
        """
        return _check(lib.tf_channel_drain(self._handle, max(0, deadline_ms)), self._name) == 1

    def set_record_layout(self, event_id: int, layout: bytes) -> None:
        """Say how the records of an event (-1: the context fields) are laid out; see src/records.h. Raises OSError."""
        _check(lib.tf_channel_set_record_layout(self._handle, event_id, layout, len(layout)), self._name)

    def repair(self, is_tracing: bool = False) -> int:
        """Complete sub-buffers that wait for records which nobody will commit; how many they were.

        The caller knows that no living writer is behind them: every program has left its probes since the last
        flush, or, with `is_tracing`, since the JAMMED report. Raises OSError (ENOTSUP) without `has_repair`.
        """
        return _check(lib.tf_channel_repair(self._handle, is_tracing), self._name)

    def set_relay_streams(self, handles: Sequence[int]) -> None:
        """What the relay daemon of the output calls the streams, by CPU; nothing is read before. Raises OSError."""
        _check(lib.tf_channel_set_relay_streams(self._handle, list(handles), len(handles)), self._name)

    def relay_positions(self) -> list[int]:
        """How many packets each stream has sent to its relay daemon. Also after the close."""
        count = possible_cpu_count()
        packet_counts = ffi.new("uint64_t[]", count)
        _check(lib.tf_channel_relay_positions(self._handle, packet_counts, count), self._name)
        return list(packet_counts)

    def set_fleet_streams(self, keys: Sequence[int]) -> None:
        """The streams' keys in the fleet of the output, by CPU; nothing is read before.

        Raises OSError: EINVAL for other outputs or the second time, ENOENT or EBUSY for keys.
        """
        _check(lib.tf_channel_set_fleet_streams(self._handle, list(keys), len(keys)), self._name)

    def books(self) -> list[StreamBooks]:
        """One entry per stream. Also after the close."""
        count = possible_cpu_count()
        books = ffi.new("struct tf_stream_books[]", count)
        _check(lib.tf_channel_books(self._handle, books, count), self._name)
        return [
            StreamBooks(
                cpu=stream.cpu,
                packet_count=stream.packet_count,
                bytes=stream.bytes,
                discarded_event_count=stream.discarded_event_count,
                lost_packet_count=stream.lost_packet_count,
                unwritten_packet_count=stream.unwritten_packet_count,
            )
            for stream in books
        ]

    def usage(self) -> tuple[int, int, int]:
        """Lowest and highest number of unread bytes over the streams, and all bytes consumed."""
        usage = ffi.new("struct tf_channel_usage *")
        _check(lib.tf_channel_usage(self._handle, usage), self._name)
        return int(usage.lowest), int(usage.highest), int(usage.consumed)

    def error(self) -> int:
        """The errno of the latest failing write, 0 when all is well."""
        return int(lib.tf_channel_error(self._handle))

    def close(self) -> None:
        """Leave the pump, give up buffers and files. What was not drained is lost, and counted in the books."""
        pump = self._pump
        if pump is not None:
            pump.remove(self)
        lib.tf_channel_close(self._handle)


class Pump:
    """Reads any number of channels, with a few threads of its own that never touch Python."""

    def __init__(self) -> None:
        out = ffi.new("struct tf_pump **")
        _check(lib.tf_pump_create(out), "pump")
        # They have to outlive their stay: threads of the pump use them.
        self._channels: set[Channel] = set()
        self._handle: Any = ffi.gc(out[0], lib.tf_pump_free)

    def add(self, channel: Channel, token: int) -> None:
        """Read `channel` from now on; `token` comes back in its reports."""
        _check(lib.tf_pump_add(self._handle, channel._handle, token), channel._name)
        self._channels.add(channel)
        channel._pump = self

    def remove(self, channel: Channel) -> None:
        """After it the pump does not touch the channel. Does nothing when it was not there."""
        if channel not in self._channels:
            return
        lib.tf_pump_remove(self._handle, channel._handle)
        channel._pump = None
        self._channels.discard(channel)

    def run(self, timeout_ms: int) -> list[Report]:
        """Wait for reports: until there is one, `wake` was called, or the time is over (negative: no limit)."""
        reports = ffi.new("struct tf_report[]", _REPORTS_PER_RUN)
        count = lib.tf_pump_wait(self._handle, timeout_ms, reports, _REPORTS_PER_RUN)
        return [Report(ReportKind(report.kind), report.token, report.cpu, report.error) for report in reports[0:count]]

    def wake(self) -> None:
        """Let `run` return now, or return at once the next time."""
        lib.tf_pump_wake(self._handle)
