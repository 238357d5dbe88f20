"""The books of one data stream: sequence numbers, discarded event records, index entries."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tracefleet_cli.verify.data_file import (
    CorruptFile,
    DataFile,
    differences,
    index_entries,
    packets,
)
from tracefleet_cli.verify.event_count import EventCount
from tracefleet_cli.verify.report import StreamReport
from tracefleet_common.codecs.index_file import IndexEntry
from tracefleet_common.codecs.packet import PacketHeader

PROBLEM_COUNT_MAX = 20  # per stream; a broken one has as many as it has packets


class StreamBooks:
    """Collects what the files of a stream say, packet after packet."""

    def __init__(self, trace_uuid: bytes, files: Sequence[DataFile], first: PacketHeader | None) -> None:
        self._trace_uuid = trace_uuid
        self._files = files
        self._class_id = 0 if first is None else first.stream_class_id
        self._instance_id = 0 if first is None else first.stream_instance_id
        self._previous: PacketHeader | None = None
        self._first_sequence_number: int | None = None
        self._packet_count = 0
        self._gap_count = 0
        self._lost_packet_count = 0
        self._discarded_event_count = 0
        self._problems: list[str] = []
        self.corrupt_files: list[str] = []  # names of those that cannot be read to their end
        self._problem_count = 0

    def read(self) -> None:
        """Read all files, which are in the order of their sequence numbers."""
        for file in self._files:
            self._read_file(file)

    def report(self, events: EventCount | None) -> StreamReport:
        """The report, with what was counted; None: event records were not counted."""
        recorded = None
        if events is not None and events.problem is not None:
            self._add(f"only {events.event_count} event records can be read: {events.problem}")
        elif events is not None:
            recorded = events.event_count
            if events.packet_count != self._packet_count:
                self._add(f"a reader finds {events.packet_count} packets, {self._packet_count} have headers")
        hidden = self._problem_count - len(self._problems)
        return StreamReport(
            name=_stream_name(self._files),
            stream_class_id=self._class_id,
            stream_instance_id=self._instance_id,
            packet_count=self._packet_count,
            first_sequence_number=self._first_sequence_number,
            last_sequence_number=None if self._previous is None else self._previous.sequence_number,
            sequence_gap_count=self._gap_count,
            lost_packet_count=self._lost_packet_count,
            recorded_event_count=recorded,
            discarded_event_count=self._discarded_event_count,
            problems=(*self._problems, *((f"and {hidden} more problems",) if hidden else ())),
        )

    def _add(self, problem: str) -> None:
        self._problem_count += 1
        if len(self._problems) < PROBLEM_COUNT_MAX:
            self._problems.append(problem)

    def _read_file(self, file: DataFile) -> None:
        entries: Iterator[IndexEntry] = iter(())
        if file.index_path is None:
            self._add(f"{file.name}: has no index")
        else:
            entries = index_entries(file.index_path)
        is_indexed = file.index_path is not None
        try:
            for offset, header in packets(file):
                if is_indexed:
                    is_indexed = self._compare(file, offset, header, entries)
                self._enter(file, offset, header)
        except CorruptFile as error:
            self._add(str(error))
            self.corrupt_files.append(file.name)
            return
        if is_indexed:
            self._check_exhausted(file, entries)

    def _compare(self, file: DataFile, offset: int, header: PacketHeader, entries: Iterator[IndexEntry]) -> bool:
        """Whether the index goes on to be of use."""
        try:
            entry = next(entries, None)
        except CorruptFile as error:
            self._add(str(error))
            return False
        if entry is None:
            self._add(f"{file.name}: the index ends before the packet at byte {offset}")
            return False
        for difference in differences(offset, header, entry):
            self._add(f"{file.name}: packet at byte {offset}: {difference}")
        return True

    def _check_exhausted(self, file: DataFile, entries: Iterator[IndexEntry]) -> None:
        try:
            surplus = sum(1 for _ in entries)
        except CorruptFile as error:
            self._add(str(error))
            return
        if surplus:
            self._add(f"{file.name}: the index has {surplus} entries too many")

    def _enter(self, file: DataFile, offset: int, header: PacketHeader) -> None:
        where = f"{file.name}: packet at byte {offset}"
        if header.trace_uuid != self._trace_uuid:
            self._add(f"{where}: belongs to another trace")
        if (header.stream_class_id, header.stream_instance_id) != (self._class_id, self._instance_id):
            self._add(f"{where}: belongs to another stream")
        if header.timestamp_end < header.timestamp_begin:
            self._add(f"{where}: ends before it begins")
        if self._previous is None:
            self._first_sequence_number = header.sequence_number
            self._discarded_event_count = header.discarded_event_count
        else:
            self._follow(where, header, self._previous, file.bits_per_long)
        self._packet_count += 1
        self._previous = header

    def _follow(self, where: str, header: PacketHeader, previous: PacketHeader, bits_per_long: int) -> None:
        step = header.sequence_number - previous.sequence_number
        if step < 1:
            self._add(f"{where}: sequence number {header.sequence_number} follows {previous.sequence_number}")
        elif step > 1:
            self._gap_count += 1
            self._lost_packet_count += step - 1
        if header.timestamp_begin < previous.timestamp_begin:
            self._add(f"{where}: begins before the packet that precedes it")
        discarded = (header.discarded_event_count - previous.discarded_event_count) % 2**bits_per_long
        if discarded >= 2 ** (bits_per_long - 1):  # a counter of that width wraps; it never goes back
            self._add(
                f"{where}: the count of discarded event records goes down from "
                f"{previous.discarded_event_count} to {header.discarded_event_count}"
            )
        else:
            self._discarded_event_count += discarded


def _stream_name(files: Sequence[DataFile]) -> str:
    """`c_1` of the file c_1, and of the trace files c_1_0, c_1_1, ..."""
    name = files[0].name
    return name if len(files) == 1 else name.rpartition("_")[0]
