"""The files of one acknowledged stream: the intake writes both the packets and their index entries."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from tracefleet_common.codecs.index_file import (
    INDEX_ENTRY_SIZE_BYTES,
    INDEX_HEADER_SIZE_BYTES,
    encode_index_header,
)
from tracefleet_relayd.adapters.fd_tracker import FdTracker, NewFile
from tracefleet_relayd.adapters.native_intake import NativeIntake
from tracefleet_relayd.adapters.room import saying_no_room
from tracefleet_relayd.application.ports import FoundFile

if TYPE_CHECKING:
    from tracefleet_relayd.adapters.trace_store import TraceStoreOnDisk

FILE_MODE: Final = 0o660
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL


class AcknowledgedFiles:
    """One pair of files after the other; metadata has no index file."""

    def __init__(
        self,
        store: TraceStoreOnDisk,
        tracker: FdTracker,
        intake: NativeIntake,
        handle: int,
        *,
        session_id: int,
        size_bytes_max: int,
        is_synced: bool,
    ) -> None:
        self._store = store
        self._intake = intake
        self._handle = handle
        self._session_id = session_id
        self._size_bytes_max = size_bytes_max
        self._is_synced = is_synced
        self._target = tracker.target(lambda: intake.revoke(handle))

    def prepare(self, path: str, index_path: str | None) -> None:
        with saying_no_room():
            for one in _paths(path, index_path):
                self._store.prepare(one)

    def begin(self, path: str, index_path: str | None, *, next_sequence: int | None) -> None:
        take = self._taker(0, INDEX_HEADER_SIZE_BYTES, next_sequence)

        def take_with_header(descriptors: list[int]) -> None:
            for descriptor in descriptors[1:]:
                os.pwrite(descriptor, encode_index_header(), 0)
            take(descriptors)

        self.prepare(path, index_path)
        with saying_no_room():
            self._target.move([NewFile(one, _NEW, FILE_MODE) for one in _paths(path, index_path)], take_with_header)

    def resume(self, path: str, index_path: str | None, found: FoundFile, *, next_sequence: int) -> None:
        index_end = INDEX_HEADER_SIZE_BYTES + found.entry_count * INDEX_ENTRY_SIZE_BYTES
        self._target.move(
            [NewFile(one, os.O_RDWR) for one in _paths(path, index_path)],
            self._taker(found.end_bytes, index_end, next_sequence),
        )

    def go_on(self) -> None:
        self._target.lend(self._taker(None, None, None))

    def touch(self) -> None:
        self._target.touch()

    def make_durable(self) -> None:
        for path in self._target.paths:
            self._store.sync(path)
        for path in self._target.paths:
            self._store.sync_directories(path)

    def close(self) -> None:
        self._target.close()

    def _taker(
        self, offset_bytes: int | None, index_offset_bytes: int | None, next_sequence: int | None
    ) -> Callable[[list[int]], None]:
        def take(descriptors: list[int]) -> None:
            self._intake.set_acknowledged_target(
                self._handle,
                descriptors,
                offset_bytes=offset_bytes,
                index_offset_bytes=index_offset_bytes,
                size_bytes_max=self._size_bytes_max,
                next_sequence=next_sequence,
                is_synced=self._is_synced,
                session_id=self._session_id,
            )

        return take


def _paths(path: str, index_path: str | None) -> list[str]:
    return [path] if index_path is None else [path, index_path]
