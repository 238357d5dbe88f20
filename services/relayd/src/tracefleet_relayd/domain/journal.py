"""What must outlive the relay daemon so that it can go on with an acknowledged session where its files end.

A journal is a row of records; a later one of a stream replaces those before. How many packets a stream has is not in
it: the files tell. It holds which files these are, and the number of the first packet in the current one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

import msgspec
from msgspec import structs

from tracefleet_common.errors import InvalidArgument
from tracefleet_common.model.relay_output import Durability

VERSION: Final = 1
# Streams that have ended, and may be asked for once more by a peer that did not get the answer.
ENDED_STREAMS_KEPT: Final = 4096


class SessionRecord(msgspec.Struct, frozen=True, kw_only=True, tag="session"):
    """As it was asked for. `output`: its directory; options of the relay daemon that decide it may change."""

    version: int = VERSION
    session_name: str
    host_name: str
    creation_time_s: int
    has_creation_time_in_name: bool
    sessiond_uuid: bytes
    session_id: int
    live_timer_period_us: int
    durability: Durability
    output: str


class StreamRecord(msgspec.Struct, frozen=True, kw_only=True, tag="stream"):
    """`file_ordinal` counts the trace files of the stream, from 0; limits make their numbers begin again.

    `first_sequence`: of the first packet in that file, if none had been given up since. So the next packet's number is
    this and the number of packets that the file holds.
    """

    handle: int
    path: str
    channel_name: str
    trace_file_size_bytes: int
    trace_file_count: int
    file_ordinal: int = 0
    # False: the file that has its name is an older one, if there is any.
    is_file_made: bool = True
    first_sequence: int = 0
    missing_packet_count: int = 0  # that the sender could not send any more
    # Those of them that were noticed last: behind so many packets of the current file.
    gap_entry_count: int = -1
    gap_packet_count: int = 0
    is_ended: bool = False

    def with_gap(self, entry_count: int, packet_count: int) -> StreamRecord:
        """Behind the packets of the current file, so many are missing."""
        is_longer = self.gap_entry_count == entry_count
        return structs.replace(
            self,
            first_sequence=self.first_sequence + packet_count,
            missing_packet_count=self.missing_packet_count + packet_count,
            gap_entry_count=entry_count,
            gap_packet_count=packet_count + (self.gap_packet_count if is_longer else 0),
        )

    def with_next_file(self, first_sequence: int) -> StreamRecord:
        """Where the name of the next file may be in use, it is to be said when it was made."""
        return structs.replace(
            self,
            file_ordinal=self.file_ordinal + 1,
            is_file_made=not self.trace_file_count or self.file_ordinal + 1 < self.trace_file_count,
            first_sequence=first_sequence,
            gap_entry_count=-1,
            gap_packet_count=0,
        )

    @property
    def name(self) -> tuple[str, str]:
        return self.path, self.channel_name

    @property
    def file_number(self) -> int | None:
        """None when the stream has one file only."""
        return self._number(self.file_ordinal) if self.trace_file_size_bytes else None

    def former_file_numbers(self) -> Iterator[int]:
        """Of the files before the current one that were not overwritten, the oldest first."""
        first = max(0, self.file_ordinal - self.trace_file_count + 1) if self.trace_file_count else 0
        return (self._number(ordinal) for ordinal in range(first, self.file_ordinal))

    def _number(self, ordinal: int) -> int:
        return ordinal % self.trace_file_count if self.trace_file_count else ordinal


JournalRecord = SessionRecord | StreamRecord


@dataclass
class Journal:
    """The sum of the records."""

    session: SessionRecord
    streams: dict[tuple[str, str], StreamRecord] = field(default_factory=dict)  # by path and name
    _ended: dict[tuple[str, str], None] = field(default_factory=dict)  # the oldest first

    def put(self, record: StreamRecord) -> None:
        self.streams[record.name] = record
        self._ended.pop(record.name, None)
        if record.is_ended:
            self._ended[record.name] = None
            if len(self._ended) > ENDED_STREAMS_KEPT:
                oldest = next(iter(self._ended))
                del self._ended[oldest], self.streams[oldest]

    def records(self) -> Iterator[JournalRecord]:
        """As few as say it all."""
        yield self.session
        yield from self.streams.values()


def replay(records: Iterable[JournalRecord]) -> Journal:
    """Raises InvalidArgument when these are not the records of one session, of a version that we know."""
    journal: Journal | None = None
    for record in records:
        match record:
            case SessionRecord() if record.version != VERSION:
                raise InvalidArgument(f"Its version is {record.version}, known is {VERSION}")
            case SessionRecord() if journal is None:
                journal = Journal(record)
            case StreamRecord() if journal is not None:
                journal.put(record)
            case _:
                raise InvalidArgument("Its records are out of order")
    if journal is None:
        raise InvalidArgument("It has no record of a session")
    return journal
