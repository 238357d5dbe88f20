"""Journals of acknowledged sessions: one file each in a hidden directory below the output directory.

A file begins with a magic; then come records: size and checksum (CRC-32) of 4 bytes each, little-endian, and the
record as MessagePack. They are appended; a file that has grown much longer than it needs to be is written anew. The
last record may be cut after a crash: nobody was told of it then.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import struct
import zlib
from collections.abc import Sequence
from typing import Final

import msgspec

from tracefleet_common.errors import InvalidArgument, TracefleetError, WrongState
from tracefleet_relayd.adapters.beneath import (
    make_directories,
    open_beneath,
    opened_parent,
    stat_beneath,
    sync_directories,
)
from tracefleet_relayd.adapters.room import saying_no_room
from tracefleet_relayd.domain.journal import Journal, JournalRecord, replay

DIRECTORY: Final = ".fleet"
DIRECTORY_MODE: Final = 0o700
FILE_MODE: Final = 0o600
MAGIC: Final = b"tfjrnl1\n"
FILE_SIZE_BYTES_MAX: Final = 1 << 28
RECORD_SIZE_BYTES_MAX: Final = 1 << 16
SLACK_BYTES: Final = 1 << 16  # records that were replaced, before the file is written anew

_FRAME = struct.Struct("<II")
_NAME = re.compile(r"[0-9a-f]{64}")
_decoder = msgspec.msgpack.Decoder(JournalRecord)


def journal_name(token: bytes) -> str:
    """Who can list the directory must not learn the token."""
    return hashlib.sha256(token).hexdigest()


class JournalStore:
    """Journals are known by their names. Nothing is opened or made before the first one is needed."""

    def __init__(self, base: str) -> None:
        self._base = base
        self._lock: int | None = None
        self._sizes: dict[str, int] = {}  # of the files, as far as they were written from here
        self._needed_sizes: dict[str, int] = {}  # when they were written anew

    # ---- what is there ----

    def names(self) -> list[str]:
        """Raises OSError."""
        try:
            directory = open_beneath(self._base, DIRECTORY, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            return []
        try:
            return sorted(name for name in os.listdir(directory) if _NAME.fullmatch(name))
        finally:
            os.close(directory)

    def load(self, name: str) -> Journal | None:
        """None: there is none of that name. Raises TracefleetError for one that cannot be understood, OSError."""
        try:
            descriptor = open_beneath(self._base, f"{DIRECTORY}/{name}", os.O_RDWR | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        with open(descriptor, "r+b") as file:
            self._take_lock()
            try:
                return self._read(name, file.fileno())
            except InvalidArgument as error:
                raise TracefleetError(f"The journal {DIRECTORY}/{name} cannot be used: {error}") from None

    def _read(self, name: str, descriptor: int) -> Journal:
        size = os.fstat(descriptor).st_size
        if size > FILE_SIZE_BYTES_MAX:
            raise InvalidArgument(f"It has {size} bytes")
        data = os.pread(descriptor, size, 0)
        records, end = decode_journal(data)
        journal = replay(records)
        if end < len(data):
            os.ftruncate(descriptor, end)
        self._sizes[name] = end
        self._needed_sizes[name] = len(encode_journal(list(journal.records())))
        return journal

    # ---- what is written ----

    def save(self, name: str, journal: Journal, *, is_synced: bool) -> None:
        """In place of what was there. Raises NoRoom, OSError; WrongState when the directory is another daemon's."""
        make_directories(self._base, DIRECTORY, DIRECTORY_MODE)
        self._take_lock()
        data = encode_journal(list(journal.records()))
        temporary = f"{name}.new"
        with saying_no_room(), opened_parent(self._base, f"{DIRECTORY}/{name}") as (directory, _):
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            try:
                with open(os.open(temporary, flags, FILE_MODE, dir_fd=directory), "wb", buffering=0) as file:
                    _write_all(file.fileno(), data)
                    if is_synced:
                        os.fsync(file.fileno())
                os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=directory)
                raise
        if is_synced:
            sync_directories(self._base, f"{DIRECTORY}/{name}")
        self._sizes[name] = self._needed_sizes[name] = len(data)

    def append(self, name: str, journal: Journal, records: Sequence[JournalRecord], *, is_synced: bool) -> None:
        """`journal`: with these records. Nothing has changed when it raises; raises as `save`."""
        data = b"".join(map(_encode, records))
        size = self._sizes.get(name)
        if size is None or size + len(data) > 2 * self._needed_sizes[name] + SLACK_BYTES:
            self.save(name, journal, is_synced=is_synced)
            return
        try:
            descriptor = open_beneath(self._base, f"{DIRECTORY}/{name}", os.O_WRONLY)
        except FileNotFoundError:  # somebody removed the output directory
            self.save(name, journal, is_synced=is_synced)
            return
        with saying_no_room(), open(descriptor, "wb", buffering=0):
            try:
                os.lseek(descriptor, size, os.SEEK_SET)
                _write_all(descriptor, data)
                if is_synced:
                    os.fsync(descriptor)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(descriptor, size)
                raise
        self._sizes[name] = size + len(data)

    def remove(self, name: str) -> None:
        """It need not be there. Raises OSError."""
        self._sizes.pop(name, None)
        self._needed_sizes.pop(name, None)
        with (
            contextlib.suppress(FileNotFoundError),
            opened_parent(self._base, f"{DIRECTORY}/{name}") as (directory, _),
        ):
            os.unlink(name, dir_fd=directory)

    def is_output_there(self, path: str) -> bool:
        """Whether the directory of a session, below the output directory, is there. Raises OSError."""
        try:
            stat_beneath(self._base, path)
        except FileNotFoundError:
            return False
        return True

    def close(self) -> None:
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _take_lock(self) -> None:
        """Two daemons that write the same sessions would destroy them. A daemon that is killed gives it up."""
        if self._lock is not None:
            return
        descriptor = open_beneath(self._base, f"{DIRECTORY}/lock", os.O_RDWR | os.O_CREAT, FILE_MODE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno == errno.EWOULDBLOCK:
                raise WrongState(f"Another relay daemon keeps sessions in {self._base}") from None
            raise
        self._lock = descriptor


def encode_journal(records: Sequence[JournalRecord]) -> bytes:
    return MAGIC + b"".join(map(_encode, records))


def _encode(record: JournalRecord) -> bytes:
    body = msgspec.msgpack.encode(record)
    return _FRAME.pack(len(body), zlib.crc32(body)) + body


def decode_journal(data: bytes) -> tuple[list[JournalRecord], int]:
    """The records, and where the last whole one ends. Raises InvalidArgument for what was never written so."""
    if data[: len(MAGIC)] != MAGIC:
        raise InvalidArgument("It does not begin as a journal does")
    records: list[JournalRecord] = []
    at = len(MAGIC)
    written = len(data.rstrip(b"\0"))  # a crash of the machine may leave zeros
    while len(data) - at >= _FRAME.size and at < written:
        size, crc = _FRAME.unpack_from(data, at)
        end = at + _FRAME.size + size
        if size > RECORD_SIZE_BYTES_MAX:
            raise InvalidArgument(f"Its record at {at} has {size} bytes")
        if end > len(data):
            break
        body = data[at + _FRAME.size : end]
        if zlib.crc32(body) != crc:
            if end >= written:
                break
            raise InvalidArgument(f"Its record at {at} is damaged")
        try:
            records.append(_decoder.decode(body))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidArgument(f"Its record at {at} is none: {error}") from None
        at = end
    return records, at


def _write_all(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]
