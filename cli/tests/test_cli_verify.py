"""The books of traces that are made here, packet by packet, and of traces that LTTng recorded."""

from __future__ import annotations

import struct
import uuid
from pathlib import Path

import pytest

from tracefleet_cli.verify.event_count import CannotCount, EventCount, parse_counts
from tracefleet_cli.verify.report import StreamReport, TraceReport, balance
from tracefleet_cli.verify.stream_books import StreamBooks
from tracefleet_cli.verify.trace_directory import UnreadableTrace, find_traces, open_trace
from tracefleet_common.codecs.index_file import IndexEntry, encode_index_entry, encode_index_header

UUID = uuid.UUID(int=7)
PACKET_SIZE_BYTES = 4096
METADATA = '/* CTF 1.8 */\nenv {\n\tdomain = "ust";\n\tarchitecture_bit_width = 64;\n};\n'


def packet(
    sequence: int,
    *,
    discarded: int = 0,
    stream_class: int = 0,
    cpu: int = 0,
    begin: int | None = None,
    owner: uuid.UUID = UUID,
) -> bytes:
    """A data packet whose event records nobody reads."""
    begin = 100 * sequence if begin is None else begin
    header = struct.pack(
        "<I16sI7QI",
        0xC1FC1FC1,
        owner.bytes,
        stream_class,
        cpu,
        begin,
        100 * sequence + 50,
        8 * 100,
        8 * PACKET_SIZE_BYTES,
        sequence,
        discarded % 2**64,
        cpu,
    )
    return header.ljust(PACKET_SIZE_BYTES, b"\0")


def index_of(packets: list[bytes]) -> bytes:
    entries = []
    for number, data in enumerate(packets):
        fields = struct.unpack_from("<I16sI7QI", data)
        _, _, stream_class, cpu, begin, end, content, size, sequence, discarded, _ = fields
        entry = IndexEntry(
            offset_bytes=number * PACKET_SIZE_BYTES,
            packet_size_bits=size,
            content_size_bits=content,
            timestamp_begin=begin,
            timestamp_end=end,
            discarded_event_count=discarded,
            stream_class_id=stream_class,
            stream_instance_id=cpu,
            packet_sequence_number=sequence,
        )
        entries.append(encode_index_entry(entry))
    return encode_index_header() + b"".join(entries)


class Trace:
    """A trace directory in the making."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "index").mkdir(parents=True)
        text = METADATA.encode()
        size_bits = 8 * (37 + len(text))
        header = struct.pack("<I16sIII5B", 0x75D11D57, UUID.bytes, 0, size_bits, size_bits, 0, 0, 0, 1, 8)
        (path / "metadata").write_bytes(header + text)

    def add(self, name: str, *packets: bytes) -> Path:
        (self.path / name).write_bytes(b"".join(packets))
        self.index(name).write_bytes(index_of(list(packets)))
        return self.path / name

    def index(self, name: str) -> Path:
        return self.path / "index" / f"{name}.idx"

    def reports(self) -> tuple[StreamReport, ...]:
        trace = open_trace(str(self.path))
        reports = []
        for stream in trace.streams:
            books = StreamBooks(trace.trace_uuid, stream.files, stream.first)
            books.read()
            reports.append(books.report(None))
        return tuple(reports)

    def stream(self) -> StreamReport:
        (report,) = self.reports()
        return report

    def problems(self) -> list[str]:
        return list(self.stream().problems)


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return Trace(tmp_path / "t")


def test_packets_in_order(trace: Trace) -> None:
    trace.add("c_0", *(packet(number, discarded=3 * number) for number in range(4)))
    report = trace.stream()
    assert trace.problems() == []
    assert (report.name, report.packet_count, report.discarded_event_count) == ("c_0", 4, 9)
    assert (report.first_sequence_number, report.last_sequence_number) == (0, 3)
    assert (report.sequence_gap_count, report.lost_packet_count) == (0, 0)


def test_gaps_are_lost_packets(trace: Trace) -> None:
    trace.add("c_0", packet(2), packet(3), packet(7), packet(9))
    report = trace.stream()
    assert (report.sequence_gap_count, report.lost_packet_count, report.first_sequence_number) == (2, 4, 2)
    assert trace.problems() == []


def test_trace_files_of_one_stream_are_read_in_the_order_of_their_packets(trace: Trace) -> None:
    trace.add("c_0_0", packet(4), packet(5))
    trace.add("c_0_1", packet(2), packet(3))
    trace.add("c_1_0", packet(0, cpu=1))
    names = [(report.name, report.lost_packet_count, report.packet_count) for report in trace.reports()]
    assert names == [("c_0", 0, 4), ("c_1_0", 0, 1)]


def test_a_counter_of_discarded_event_records_may_wrap(trace: Trace) -> None:
    trace.add("c_0", packet(0, discarded=2**64 - 5), packet(1, discarded=2**64 + 5))
    assert trace.problems() == []
    assert trace.stream().discarded_event_count == 2**64 + 5


@pytest.mark.parametrize(
    ("packets", "problem"),
    [
        ((packet(0, discarded=5), packet(1, discarded=4)), "goes down from 5 to 4"),
        ((packet(1), packet(1)), "sequence number 1 follows 1"),
        ((packet(3), packet(2)), "sequence number 2 follows 3"),
        ((packet(0), packet(1, owner=uuid.UUID(int=8))), "belongs to another trace"),
        ((packet(0), packet(1, cpu=1)), "belongs to another stream"),
        ((packet(0, begin=60),), "ends before it begins"),
        ((packet(2), packet(3, begin=10)), "begins before the packet that precedes it"),
    ],
)
def test_packets_that_contradict_each_other(trace: Trace, packets: tuple[bytes, ...], problem: str) -> None:
    trace.add("c_0", *packets)
    assert any(problem in found for found in trace.problems()), trace.problems()


def test_a_packet_that_is_cut(trace: Trace) -> None:
    file = trace.add("c_0", packet(0), packet(1))
    file.write_bytes(file.read_bytes()[:-10])
    assert trace.problems() == ["c_0: the packet at byte 4096 is cut, 10 bytes are missing"]
    assert trace.stream().packet_count == 1


@pytest.mark.parametrize("garbage", [b"x", b"x" * 5000, bytes(5000)])
def test_garbage_after_a_packet(trace: Trace, garbage: bytes) -> None:
    file = trace.add("c_0", packet(0))
    file.write_bytes(file.read_bytes() + garbage)
    (problem,) = trace.problems()
    assert problem.startswith("c_0: at byte 4096: Data packet ")


def test_a_packet_of_no_size(trace: Trace) -> None:
    data = bytearray(packet(0))
    data[44:60] = bytes(16)
    trace.add("c_0", packet(0))
    (trace.path / "c_0").write_bytes(bytes(data))
    assert "claims 0 of 0 bits" in trace.problems()[0]


def test_an_index_that_says_something_else(trace: Trace) -> None:
    trace.add("c_0", packet(0), packet(1))
    trace.index("c_0").write_bytes(index_of([packet(0), packet(5)]))
    assert trace.problems() == [
        "c_0: packet at byte 4096: begin 500 in the index, 100 in the packet",
        "c_0: packet at byte 4096: end 550 in the index, 150 in the packet",
        "c_0: packet at byte 4096: sequence number 5 in the index, 1 in the packet",
    ]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda data: data[:-72], "c_0: the index ends before the packet at byte 4096"),
        (lambda data: data + data[-72:], "c_0: the index has 1 entries too many"),
        (lambda data: data[:-1], "index of c_0.idx: Index entry has 71 bytes"),
        (lambda data: b"", "index of c_0.idx: Index file header has 0 bytes, not 16"),
        (lambda data: b"x" * len(data), "index of c_0.idx: Index file begins with 0x78787878, not 0xc1f1dcc1"),
    ],
)
def test_an_index_of_another_length(trace: Trace, change: object, problem: str) -> None:
    trace.add("c_0", packet(0), packet(1))
    trace.index("c_0").write_bytes(change(trace.index("c_0").read_bytes()))  # type: ignore[operator]
    assert trace.problems() == [problem]


def test_files_without_their_other_half(trace: Trace) -> None:
    trace.add("c_0", packet(0))
    trace.add("c_1", packet(0, cpu=1)).unlink()
    trace.index("c_0").unlink()
    assert trace.problems() == ["c_0: has no index"]
    assert open_trace(str(trace.path)).strays == ("index/c_1.idx: has no data file",)


def test_problems_are_counted_when_they_are_too_many(trace: Trace) -> None:
    trace.add("c_0", *(packet(1) for _ in range(31)))
    problems = trace.stream().problems
    assert len(problems) == 21
    assert problems[-1] == "and 10 more problems"


@pytest.mark.parametrize("metadata", [b"", b"x" * 100, b"\x57\x1d\xd1\x75" + bytes(100)])
def test_metadata_that_cannot_be_read(trace: Trace, metadata: bytes) -> None:
    (trace.path / "metadata").write_bytes(metadata)
    with pytest.raises(UnreadableTrace, match="metadata: "):
        open_trace(str(trace.path))


def test_traces_are_found_at_any_depth(tmp_path: Path) -> None:
    Trace(tmp_path / "b" / "ust" / "uid" / "0" / "64-bit")
    Trace(tmp_path / "a")
    assert find_traces(str(tmp_path)) == [f"{tmp_path}/a", f"{tmp_path}/b/ust/uid/0/64-bit"]
    with pytest.raises(UnreadableTrace, match="No such file"):
        find_traces(str(tmp_path / "nothing"))


def stream(
    recorded: int | None, discarded: int = 0, *, lost: int = 0, first: int = 0, problems: tuple[str, ...] = ()
) -> StreamReport:
    return StreamReport(
        name="c_0",
        stream_class_id=0,
        stream_instance_id=0,
        packet_count=1,
        first_sequence_number=first,
        last_sequence_number=first,
        sequence_gap_count=1 if lost else 0,
        lost_packet_count=lost,
        recorded_event_count=recorded,
        discarded_event_count=discarded,
        problems=problems,
    )


@pytest.mark.parametrize(
    ("streams", "emitted", "lost", "is_balanced"),
    [
        ((stream(5), stream(7, 3)), None, 0, True),
        ((stream(5), stream(7, 3)), 15, 0, True),
        ((stream(5), stream(7, 3)), 16, 0, False),  # an event nobody accounts for
        ((stream(5), stream(7, 3)), 14, 0, False),  # one too many
        ((stream(5, lost=2),), None, 0, False),
        ((stream(5, lost=2),), None, 2, True),
        ((stream(5, lost=2),), 100, 2, True),  # the rest was in the lost packets
        ((stream(5, lost=2),), 4, 2, False),
        ((stream(5, first=3),), None, 0, True),
        ((stream(5, first=3, lost=1),), None, 4, True),  # overwritten before the first could be read
        ((stream(5, first=3, lost=1),), None, 5, False),
        ((stream(5, first=3),), 100, 0, False),
        ((stream(None),), None, 0, True),
        ((stream(None),), 5, 0, False),
        ((stream(5, problems=("torn",)),), None, 0, False),
    ],
)
def test_balance(streams: tuple[StreamReport, ...], emitted: int | None, lost: int, *, is_balanced: bool) -> None:
    trace = TraceReport(path="/t", streams=streams, problems=())
    verification = balance((trace,), emitted_event_count=emitted, lost_packet_count_expected=lost)
    assert verification.is_balanced == is_balanced


def test_what_a_reader_finds_is_compared_with_the_headers(trace: Trace) -> None:
    trace.add("c_0", packet(0), packet(1))
    opened = open_trace(str(trace.path))

    def report_with(events: EventCount) -> StreamReport:
        books = StreamBooks(opened.trace_uuid, opened.streams[0].files, opened.streams[0].first)
        books.read()
        return books.report(events)

    assert report_with(EventCount(9, 2)).recorded_event_count == 9
    assert report_with(EventCount(9, 1)).problems == ("a reader finds 1 packets, 2 have headers",)
    torn = report_with(EventCount(9, 1, "it is torn"))
    assert torn.problems == ("only 9 event records can be read: it is torn",)
    assert torn.recorded_event_count is None


def test_counts_of_the_counting_program() -> None:
    output = "stream\t0\t1\t2000\t3\tok\nstream\t1\t0\t7\t1\terror\tcut\tshort\n"
    assert parse_counts(output) == {
        (0, 1): EventCount(2000, 3, None),
        (1, 0): EventCount(7, 1, "cut\tshort"),
    }
    with pytest.raises(CannotCount):
        parse_counts("Segmentation fault\n")
