"""The intake of a relay daemon: C threads that write packets from connections into files.

Every call releases the GIL, and may be made from any thread; none waits for a peer.
"""

from __future__ import annotations

import enum
import errno
import os
import struct
from typing import Any, Final, NamedTuple

from tracefleet_native._native import ffi, lib

REPORTS_PER_CALL: Final = 1024
BACK_SIZE_BYTES_MAX: Final = 32 << 10
_REPORT = struct.Struct("=iiiiQQQQIIQQQQQQQQ")

PACKET_SIZE_BYTES_MAX: Final = 1 << 30
NO_STOP: Final = (1 << 64) - 1
_KEEP: Final = (1 << 64) - 1


class Framing(enum.IntEnum):
    """What a connection speaks."""

    LTTNG = 1  # lttng-relayd's data connection: 32-byte headers, no answers
    FLEET = 2  # acknowledged: 128-byte headers with the index entry
    CONTROL = 3  # lttng-relayd's control connection, minor 8 or later, lent for its index entries


class IntakeReportKind(enum.IntEnum):
    PACKET = 1  # it is in the file, padding included; in the order of its connection
    HOLD = 2  # the packet of that header waits for set_target and resume, or for close
    CLOSED = 3  # nothing more will be read; close() gives the descriptor back
    BEACON = 4  # FLEET: nothing happened in the stream up to `timestamp_end`; all before `net_seq` is there
    ENTRY = 5  # as PACKET, and its index entry is in the index file: see `join`
    INDEX = 6  # an index entry whose packet did not come; whoever hears of it joins them


class HoldReason(enum.IntEnum):
    NONE = 0  # not a HOLD
    UNKNOWN_STREAM = 1  # never given a target, or removed
    NO_FILE = 2  # revoked: set the file again, also in the middle of a packet
    FILE_FULL = 3  # size limit: the next target takes this packet whatever its size
    STOPPED = 4  # the number is the stop number or above
    STREAM_BUSY = 5  # another connection is in the middle of a packet of this stream
    FOREIGN_STREAM = 6  # its group is not that of the connection's first packet
    WRITE_FAILED = 7  # `error` says why; what arrived is kept, and resume tries again
    COMMAND = 8  # CONTROL: it is the caller's turn, see `take_back`


class IntakeReport(NamedTuple):
    """`handle`, `net_seq` and sizes (bytes) are of PACKET, ENTRY and HOLD, `offset` (bytes, in the file) not of HOLD.

    The last eight: of ENTRY and INDEX, what the index entry says; the first four of them of PACKET with FLEET framing,
    the first two of BEACON.
    """

    kind: IntakeReportKind
    reason: HoldReason
    error: int  # errno, or 0; of CLOSED: 0 the end between packets, ENODATA within one, EMSGSIZE/EBADMSG a bad header
    token: int
    handle: int
    net_seq: int
    offset: int
    data_size: int
    padding_size: int
    timestamp_end: int = 0
    stream_class_id: int = 0
    events_discarded: int = 0
    packet_seq_num: int = 0
    packet_size: int = 0
    content_size: int = 0
    timestamp_begin: int = 0
    stream_instance_id: int = 0


class IntakeBooks(NamedTuple):
    """What arrived for one stream since its first target; sizes in bytes."""

    packet_count: int
    data_bytes: int
    padding_bytes: int
    cut_count: int  # packets whose connection ended in the middle; nothing is left of them
    duplicate_count: int  # FLEET: acknowledged again, and thrown away
    offset: int  # of the next packet in the current file
    received_bytes: int  # of the packet under way
    is_under_way: bool


_KINDS = {kind.value: kind for kind in IntakeReportKind}
_REASONS = {reason.value: reason for reason in HoldReason}


def _check(result: int, what: str) -> int:
    if result >= 0:
        return result
    raise OSError(-result, os.strerror(-result), what)


class Intake:
    """Reads connections and writes their packets; `fileno()` is readable while there are reports."""

    def __init__(self, thread_count: int = 0) -> None:
        """Start the threads; 0: as many as the machine has processors, 2 to 4. Raises OSError."""
        out = ffi.new("struct tf_intake **")
        _check(lib.tf_intake_create(thread_count, out), "intake")
        self._handle: Any = ffi.gc(out[0], lib.tf_intake_free)
        self._reports: Any = ffi.new("struct tf_intake_report[]", REPORTS_PER_CALL)

    def fileno(self) -> int:
        """For a selector. The descriptor stays the intake's."""
        return int(lib.tf_intake_fd(self._handle))

    def free(self) -> None:
        """End the threads, close all connections and files. Packets under way are cut. The last call to it."""
        handle, self._handle = self._handle, None
        if handle is not None:
            ffi.release(handle)

    def take_reports(self, timeout_ms: int = 0) -> list[IntakeReport]:
        """Up to 1024 reports; waits for one for so long (negative: for ever), or until `wake`."""
        return [
            IntakeReport(_KINDS[kind], _REASONS[reason], error, *numbers)
            for kind, reason, error, _, *numbers in self.take_numbers(timeout_ms)
        ]

    def take_numbers(self, timeout_ms: int = 0) -> list[tuple[int, ...]]:
        """The same as they are: kind, reason, error, 0, and what follows in an IntakeReport."""
        count = lib.tf_intake_wait(self._handle, timeout_ms, self._reports, REPORTS_PER_CALL)
        data = ffi.buffer(self._reports, count * _REPORT.size)
        return list(_REPORT.iter_unpack(data))

    def wake(self) -> None:
        """Let `take_reports` return now, or return at once the next time."""
        lib.tf_intake_wake(self._handle)

    def add(self, fd: int, token: int, framing: Framing, group: int = 0) -> None:
        """Read a stream socket from now on. `fd` is the intake's on success; tokens are never used twice. OSError.

        `group`: of its streams (see `set_target`); 0: that of the first packet's stream.
        """
        _check(lib.tf_intake_add(self._handle, fd, token, framing, group), f"connection {token}")

    def close(self, token: int) -> None:
        """Close the connection, also one reported CLOSED; its packet under way is cut from the file.

        Afterwards no thread touches it. What it reported before may still be in the queue. Unknown tokens do nothing.
        """
        result = lib.tf_intake_close(self._handle, token)
        if result != -errno.ENOENT:
            _check(result, f"connection {token}")

    def resume(self, token: int) -> None:
        """Try the packet again that held the connection. Nothing happens unless it is held."""
        result = lib.tf_intake_resume(self._handle, token)
        if result != -errno.ENOENT:
            _check(result, f"connection {token}")

    def set_target(
        self,
        handle: int,
        fd: int,
        *,
        offset: int | None = None,
        size_limit: int = 0,
        stop_net_seq: int = NO_STOP,
        group: int = 0,
        index_fd: int = -1,
        index_offset: int | None = None,
        next_sequence: int | None = None,
        is_synced: bool = False,
    ) -> None:
        """Say where the next packet of the stream goes: a file open for reading and writing, and the offset in it.

        The descriptors are the intake's on success, and the former ones are closed. What lies behind `offset` is cut
        from the file; None: the same file as before, where it was. A packet under way goes along, also into another
        file. Held connections wait for `resume`. A packet fits when offset + data_size is at most `size_limit`
        (0: any). A connection that wrote to one `group` cannot write to another (0: to any).

        For FLEET framing: entries go to `index_fd` at `index_offset`, with the same rules; the sender hears what is
        written, or with `is_synced` what the device has; `next_sequence` is for new streams, None: as before, or 0.

        Before moving on to another file: `set_stop`, take all reports.
        Raises OSError: ESTALE when the file or the offset is not the one to be kept, EINVAL for an offset behind the
        end or a file that is not regular, EBADF when a packet is under way in a file that is revoked, EIO after a
        failed sync: remove the stream, and see what its files hold.
        """
        target = ffi.new(
            "struct tf_intake_target *",
            {
                "fd": fd,
                "offset": _KEEP if offset is None else offset,
                "size_limit": size_limit,
                "stop_net_seq": stop_net_seq,
                "group": group,
                "index_fd": index_fd,
                "index_offset": _KEEP if index_offset is None else index_offset,
                "next_sequence": _KEEP if next_sequence is None else next_sequence,
                "is_synced": is_synced,
            },
        )
        _check(lib.tf_intake_set_target(self._handle, handle, target), f"stream {handle}")

    def join(self, handle: int, index_fd: int, *, index_offset: int, data_offset: int) -> None:
        """Write index entries (format 1.1) of an LTTng stream as soon as data and SEND_INDEX are both here: ENTRY.

        `index_fd`: open for reading and writing, the intake's on success; -1: the stream has no packets yet, and only
        beacons are answered. `data_offset`: behind the last packet that was reported. The caller has no half that
        waits. It ends with `unjoin`, `set_stop`, another file, or whatever is out of order: then the halves there are
        come as PACKET and INDEX. Raises OSError: ESTALE when packets arrived meanwhile, ENOENT.
        """
        index = ffi.new(
            "struct tf_intake_index *", {"fd": index_fd, "offset": index_offset, "data_offset": data_offset}
        )
        _check(lib.tf_intake_join(self._handle, handle, index), f"stream {handle}")

    def unjoin(self, handle: int) -> None:
        """Give packets and index entries back to the caller. Unknown streams do nothing."""
        result = lib.tf_intake_unjoin(self._handle, handle)
        if result != -errno.ENOENT:
            _check(result, f"stream {handle}")

    def take_back(self, token: int) -> tuple[bytes, bytes]:
        """Of a connection that holds with COMMAND: what to send before anything else, and what came and is left."""
        reply_size = ffi.new("size_t *")
        data = ffi.new("uint8_t[]", BACK_SIZE_BYTES_MAX)
        size = _check(lib.tf_intake_take_back(self._handle, token, data, reply_size), f"connection {token}")
        taken = bytes(ffi.buffer(data, size))
        return taken[: reply_size[0]], taken[reply_size[0] :]

    def set_stop(self, handle: int, stop_net_seq: int) -> bool:
        """Hold packets from that number on (0: all). Whether one is under way, which will be finished. OSError."""
        return _check(lib.tf_intake_set_stop(self._handle, handle, stop_net_seq), f"stream {handle}") == 1

    def revoke(self, handle: int) -> None:
        """Close the descriptors of the stream's target now; what comes next holds with NO_FILE. OSError: ENOENT."""
        _check(lib.tf_intake_revoke(self._handle, handle), f"stream {handle}")

    def remove(self, handle: int) -> None:
        """Forget the stream and close its descriptors. A connection in the middle of its packet closes. OSError."""
        _check(lib.tf_intake_remove(self._handle, handle), f"stream {handle}")

    def books(self, handle: int) -> IntakeBooks:
        """Raises OSError (ENOENT) for an unknown stream."""
        books = ffi.new("struct tf_intake_books *")
        _check(lib.tf_intake_books(self._handle, handle, books), f"stream {handle}")
        return IntakeBooks(
            packet_count=int(books.packet_count),
            data_bytes=int(books.data_bytes),
            padding_bytes=int(books.padding_bytes),
            cut_count=int(books.cut_count),
            duplicate_count=int(books.duplicate_count),
            offset=int(books.offset),
            received_bytes=int(books.received_bytes),
            is_under_way=bool(books.is_under_way),
        )
