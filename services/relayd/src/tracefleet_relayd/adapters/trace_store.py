"""The output directory of the relay daemon, through its descriptor tracker."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from tracefleet_common.codecs.index_file import (
    INDEX_ENTRY_1_0_SIZE_BYTES,
    INDEX_ENTRY_SIZE_BYTES,
    INDEX_HEADER_SIZE_BYTES,
    IndexEntry,
    encode_index_entry,
    encode_index_header,
)
from tracefleet_relayd.adapters.acknowledged_files import AcknowledgedFiles
from tracefleet_relayd.adapters.beneath import (
    make_directories,
    open_beneath,
    opened_parent,
    stat_beneath,
    sync_directories,
)
from tracefleet_relayd.adapters.fd_tracker import FdTracker, FileHandle, NewFile
from tracefleet_relayd.adapters.found_files import find_data, find_metadata
from tracefleet_relayd.adapters.native_intake import NativeIntake
from tracefleet_relayd.adapters.room import saying_no_room
from tracefleet_relayd.adapters.viewed_file import ViewedFile
from tracefleet_relayd.application.ports import FoundFile, NoRoom, Tail
from tracefleet_relayd.domain.trace_chunk import MakeDirectory, RemoveDirectory, RemoveFile, Rename, Step

log = logging.getLogger("tracefleet.relayd.store")

DIRECTORY_MODE: Final = 0o770
FILE_MODE: Final = 0o660
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL
LARGE_SIZE_BYTES: Final = 64 << 20  # removing a file takes longer the larger it is
FREEING_COUNT_MAX: Final = 4  # each is a descriptor that the tracker does not know
_COPY_SIZE_BYTES: Final = 1 << 24


class TraceStoreOnDisk:
    """Everything it makes is below `base`, which is made too."""

    def __init__(self, base: str, tracker: FdTracker, intake: NativeIntake) -> None:
        self._base = base
        self._tracker = tracker
        self._intake = intake
        self._threads = ThreadPoolExecutor(max_workers=1, thread_name_prefix="freeing")
        self._freeing_count = 0  # of files; the thread makes it smaller, and being wrong by one does no harm

    def carry_out(self, step: Step) -> None:
        match step:
            case MakeDirectory():
                make_directories(self._base, step.path, DIRECTORY_MODE)
            case Rename():
                with contextlib.suppress(FileNotFoundError):
                    self._tracker.rename(step.source, step.target)
            case RemoveFile():
                self._remove(step.path)
            case RemoveDirectory():
                with (
                    contextlib.suppress(FileNotFoundError),
                    opened_parent(self._base, step.path) as (parent, name),
                ):
                    os.rmdir(name, dir_fd=parent)

    def open_for_reading(self, path: str) -> ViewedFile:
        return ViewedFile(self._tracker.open(path, os.O_RDONLY))

    def make_data_target(self, handle: int, *, session_id: int, size_bytes_max: int) -> IntakeTarget:
        return IntakeTarget(self, self._tracker, self._intake, handle, session_id, size_bytes_max)

    def make_index_file(self, path: str, minor: int) -> IndexFile:
        with saying_no_room():
            self.prepare(path)
            index = IndexFile(self._tracker.open(path, _NEW, FILE_MODE), minor)
        index.write_header()
        return index

    def open_index_file(self, path: str, minor: int) -> IndexFile:
        return IndexFile(self._tracker.open(path, os.O_RDWR), minor)

    def lend_index(
        self, handle: int, path: str | None, *, entry_count: int, data_end_bytes: int
    ) -> IndexOfIntake | None:
        if path is not None and not self._tracker.has_room(1):
            return None  # files that are closed and opened again for each packet are cheaper to have here
        index = IndexOfIntake(self._tracker, self._intake, handle)
        try:
            index.begin(path, entry_count, data_end_bytes)
        except OSError as error:  # usually because a packet has arrived
            log.debug("The intake does not take an index: stream=%d, error=%s", handle, error)
            index.take_back()
            return None
        return index

    def make_metadata_file(self, path: str) -> MetadataFile:
        self.prepare(path)
        return MetadataFile(self._tracker.open(path, _NEW, FILE_MODE))

    def make_acknowledged_target(
        self, handle: int, *, session_id: int, size_bytes_max: int, is_synced: bool
    ) -> AcknowledgedFiles:
        return AcknowledgedFiles(
            self,
            self._tracker,
            self._intake,
            handle,
            session_id=session_id,
            size_bytes_max=size_bytes_max,
            is_synced=is_synced,
        )

    def find_files(self, path: str, index_path: str | None) -> FoundFile | None:
        return find_metadata(self._base, path) if index_path is None else find_data(self._base, path, index_path)

    def sync(self, path: str) -> None:
        """A file: what is in it outlives the machine. Raises OSError."""
        descriptor = open_beneath(self._base, path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            os.fdatasync(descriptor)
        finally:
            os.close(descriptor)

    def sync_directories(self, path: str) -> None:
        """Of a file: the names on the way to it outlive the machine. Raises OSError."""
        sync_directories(self._base, path)

    def prepare(self, path: str) -> None:
        """Make room for a new file: its directories are there, and no file of its name. Raises OSError."""
        directory = path.rpartition("/")[0]
        make_directories(self._base, directory, DIRECTORY_MODE)
        self._remove(path)

    def _remove(self, path: str) -> None:
        """Remove a file's name, if it is there. The blocks of a large one are given back in another thread."""
        with contextlib.suppress(FileNotFoundError), contextlib.ExitStack() as stack:
            if stat_beneath(self._base, path).st_size >= LARGE_SIZE_BYTES and self._freeing_count < FREEING_COUNT_MAX:
                kept = open_beneath(self._base, path, os.O_PATH)
                stack.callback(self._close_elsewhere, kept)
            self._tracker.unlink(path)

    def _close_elsewhere(self, descriptor: int) -> None:
        self._freeing_count += 1
        self._threads.submit(os.close, descriptor).add_done_callback(self._has_freed)

    def _has_freed(self, _: object) -> None:
        self._freeing_count -= 1

    def close(self) -> None:
        """Wait until all blocks are given back."""
        self._threads.shutdown()


class IntakeTarget:
    """The files of one stream, one after the other, as the intake gets them."""

    def __init__(
        self,
        store: TraceStoreOnDisk,
        tracker: FdTracker,
        intake: NativeIntake,
        handle: int,
        session_id: int,
        size_bytes_max: int,
    ) -> None:
        self._store = store
        self._tracker = tracker
        self._intake = intake
        self._handle = handle
        self._session_id = session_id
        self._size_bytes_max = size_bytes_max
        self._target = tracker.target(lambda: intake.revoke(handle))

    def begin(self, path: str, *, stop_sequence: int | None, tail: Tail | None = None) -> None:
        new = NewFile(path, _NEW, FILE_MODE)
        if tail is None:
            with saying_no_room():
                self._store.prepare(path)
                self._target.move([new], self._taker(0, stop_sequence))
            return
        self._store.prepare(path)
        size_bytes = tail.end_bytes - tail.begin_bytes
        take = self._taker(size_bytes, stop_sequence)
        former = self._tracker.open(tail.path, os.O_RDWR)
        try:
            with former as source:

                def take_with_tail(descriptors: list[int]) -> None:
                    _copy(source, tail, descriptors[0])
                    take(descriptors)

                self._target.move([new], take_with_tail)
                os.ftruncate(source, tail.begin_bytes)
        finally:
            former.close()

    def go_on(self, *, stop_sequence: int | None) -> None:
        self._target.lend(self._taker(None, stop_sequence))

    def touch(self) -> None:
        self._target.touch()

    def close(self) -> None:
        self._target.close()

    def _taker(self, offset_bytes: int | None, stop_sequence: int | None) -> Callable[[list[int]], None]:
        def take(descriptors: list[int]) -> None:
            self._intake.set_target(
                self._handle,
                descriptors[0],
                offset_bytes=offset_bytes,
                size_bytes_max=self._size_bytes_max,
                stop_sequence=stop_sequence,
                session_id=self._session_id,
            )

        return take


class IndexOfIntake:
    """The index file of a stream whose packets and index entries the intake joins."""

    def __init__(self, tracker: FdTracker, intake: NativeIntake, handle: int) -> None:
        self._intake = intake
        self._handle = handle
        self._target = tracker.target(self._revoke)

    def begin(self, path: str | None, entry_count: int, data_end_bytes: int) -> None:
        """Raises OSError."""
        offset_bytes = INDEX_HEADER_SIZE_BYTES + entry_count * INDEX_ENTRY_SIZE_BYTES

        def take(descriptors: list[int]) -> None:
            self._intake.join(
                self._handle, descriptors[0], index_offset_bytes=offset_bytes, data_offset_bytes=data_end_bytes
            )

        if path is None:
            take([-1])
        else:
            self._target.move([NewFile(path, os.O_RDWR)], take)

    def touch(self) -> None:
        self._target.touch()

    def take_back(self) -> None:
        self._revoke()
        self._target.close()

    def _revoke(self) -> None:
        self._intake.unjoin(self._handle)


def _copy(source: int, tail: Tail, destination: int) -> None:
    at = tail.begin_bytes
    while at < tail.end_bytes:
        size = min(_COPY_SIZE_BYTES, tail.end_bytes - at)
        copied = os.copy_file_range(source, destination, size, at, at - tail.begin_bytes)
        if copied == 0:
            raise OSError(f"The file {tail.path} ends at {at}, before {tail.end_bytes}")
        at += copied


class IndexFile:
    """An index file. Writing an entry once more does no harm."""

    def __init__(self, handle: FileHandle, minor: int) -> None:
        self._handle = handle
        self._minor = minor
        self._entry_size_bytes = INDEX_ENTRY_SIZE_BYTES if minor else INDEX_ENTRY_1_0_SIZE_BYTES
        self._is_header_missing = False

    def write_header(self) -> None:
        """When there is no room, the first entry tries again."""
        try:
            _write(self._handle, encode_index_header(self._minor), 0)
        except NoRoom:
            self._is_header_missing = True

    def write(self, number: int, entry: IndexEntry) -> None:
        if self._is_header_missing:
            _write(self._handle, encode_index_header(self._minor), 0)
            self._is_header_missing = False
        offset = INDEX_HEADER_SIZE_BYTES + number * self._entry_size_bytes
        _write(self._handle, encode_index_entry(entry, self._minor), offset)

    def close(self) -> None:
        self._handle.close()


class MetadataFile:
    """A metadata file."""

    def __init__(self, handle: FileHandle) -> None:
        self._handle = handle

    def write(self, offset_bytes: int, content: bytes, padding_size_bytes: int) -> None:
        try:
            _write(self._handle, content, offset_bytes)
        except NoRoom:
            with self._handle as descriptor:
                os.ftruncate(descriptor, offset_bytes)  # a reader of the directory sees whole packets only
            raise
        with self._handle as descriptor:
            os.ftruncate(descriptor, offset_bytes + len(content) + padding_size_bytes)

    def close(self) -> None:
        self._handle.close()


def _write(handle: FileHandle, data: bytes, offset_bytes: int) -> None:
    rest = memoryview(data)
    with saying_no_room(), handle as descriptor:
        while rest:
            size = os.pwrite(descriptor, rest, offset_bytes)
            rest = rest[size:]
            offset_bytes += size
