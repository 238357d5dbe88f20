"""A session at a relay daemon of our own: numbered packets, acknowledged (include/tracefleet/fleet.h)."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from tracefleet_native._native import ffi, lib
from tracefleet_native.binding import _check

_NAME = "fleet"


class FleetStreamState(NamedTuple):
    """Sequence numbers, each of the first packet that is not …"""

    oldest: int  # gone: what is before it cannot be sent any more
    acknowledged: int
    next: int  # handed over


class FleetBooks(NamedTuple):
    """Cumulative but for `spooled_*`, over all streams, metadata included. Bytes are those of whole packets."""

    sent_count: int  # each packet once
    sent_bytes: int
    acknowledged_count: int
    acknowledged_bytes: int
    resent_count: int
    spooled_count: int  # in the spool now
    spooled_bytes: int
    is_attached: bool
    error: int  # errno because of which the latest connection was lost, or the spool failed; 0: all is well


class Fleet:
    """Sends the packets of channels, keeps them until they are acknowledged, and outlives its connections."""

    is_damaged: bool  # frames at the end of the spool were lost

    def __init__(self, spool_directory: str | None = None, spool_size_bytes_max: int = 0) -> None:
        """With a spool directory: what frames it has already are sent first; their streams have the first keys.

        Raises OSError: EBUSY when another process has the spool.
        """
        directory = ffi.NULL
        if spool_directory is not None:
            if "\0" in spool_directory:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL), spool_directory)
            directory = ffi.new("char[]", os.fsencode(spool_directory))
        out = ffi.new("struct tf_fleet **")
        is_damaged = ffi.new("bool *")
        _check(lib.tf_fleet_create(directory, spool_size_bytes_max, out, is_damaged), spool_directory or _NAME)
        self.is_damaged = bool(is_damaged[0])
        self._handle: Any = ffi.gc(out[0], lib.tf_fleet_put)

    def add_stream(self) -> int:
        """A new stream's key: 0, 1, … Its packets wait until it is bound, or go to the spool. Raises OSError."""
        return _check(lib.tf_fleet_add_stream(self._handle), _NAME)

    def attach(self, descriptor: int, bindings: Sequence[tuple[int, int, int]]) -> None:
        """Go on through the connected socket, on which the greeting was sent; it is the fleet's on success.

        `bindings`: (key, handle, next sequence) as the relay daemon says. Streams that are not among them wait for
        `bind`, without holding up the others: bind the metadata of a trace before its other streams.

        Raises OSError: EISCONN, EPROTO for a sequence of a packet that was never sent, EEXIST for two of one handle or
        key, ENOENT for no such key, ESHUTDOWN after the close.
        """
        array = ffi.new("struct tf_fleet_binding[]", len(bindings))
        for item, (key, handle, next_sequence) in zip(array, bindings, strict=True):
            item.key, item.handle, item.next_sequence = key, handle, next_sequence
        _check(lib.tf_fleet_attach(self._handle, descriptor, array, len(bindings)), _NAME)

    def bind(self, key: int, handle: int, next_sequence: int) -> None:
        """The same for one more stream of the present connection. Raises OSError: ENOTCONN, or as `attach`."""
        binding = ffi.new("struct tf_fleet_binding *", {"key": key, "handle": handle, "next_sequence": next_sequence})
        _check(lib.tf_fleet_bind(self._handle, binding), _NAME)

    def detach(self) -> None:
        """End the connection, if there is one."""
        lib.tf_fleet_detach(self._handle)

    def fileno(self) -> int:
        """A descriptor that is readable while there is no connection; to be waited for, never read."""
        return int(lib.tf_fleet_fd(self._handle))

    def stream_state(self, key: int) -> FleetStreamState:
        """Raises OSError (ENOENT) for no such stream."""
        state = ffi.new("struct tf_fleet_stream_state *")
        _check(lib.tf_fleet_stream_state(self._handle, key, state), _NAME)
        return FleetStreamState(state.oldest_sequence, state.acknowledged_sequence, state.next_sequence)

    def books(self) -> FleetBooks:
        books = ffi.new("struct tf_fleet_books *")
        lib.tf_fleet_books(self._handle, books)
        return FleetBooks(
            sent_count=books.sent_count,
            sent_bytes=books.sent_bytes,
            acknowledged_count=books.acknowledged_count,
            acknowledged_bytes=books.acknowledged_bytes,
            resent_count=books.resent_count,
            spooled_count=books.spooled_count,
            spooled_bytes=books.spooled_bytes,
            is_attached=bool(books.is_attached),
            error=-books.error,
        )

    def is_settled(self, or_spooled: bool = False) -> bool:
        """Whether all that was handed over is acknowledged, or, with `or_spooled`, in the spool."""
        return bool(lib.tf_fleet_is_settled(self._handle, or_spooled))

    def close(self) -> None:
        """End thread and connection. What is neither acknowledged nor in the spool by then never will be."""
        lib.tf_fleet_close(self._handle)
