"""The text of a metadata stream reaches a viewer once and in order, however its packets are cut."""

from __future__ import annotations

import errno

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracefleet_common.codecs.packet import MetadataPacketHeader, encode_metadata_packet, metadata_text
from tracefleet_common.model.ctf_types import ByteOrder
from tracefleet_relayd.domain import viewer_metadata
from tracefleet_relayd.domain.viewer_metadata import FilePart, MetadataPosition

BOUNDED = settings(max_examples=200, deadline=None, derandomize=True)
PACKET_SIZE_BYTES = 64
ROOM = PACKET_SIZE_BYTES - 37


def header(byte_order: ByteOrder) -> MetadataPacketHeader:
    return MetadataPacketHeader(
        byte_order=byte_order, trace_uuid=b"u" * 16, content_size_bits=0, packet_size_bits=0, major=1, minor=8
    )


def packets(texts: list[bytes], byte_order: ByteOrder = ByteOrder.LITTLE) -> bytes:
    """As a producer makes them: each of the same size, the rest of it padding."""
    made = b""
    for text in texts:
        packet = bytearray(encode_metadata_packet(header(byte_order), text))
        at = 4 + 16 + 4 + 4  # the size of the packet
        packet[at : at + 4] = (8 * PACKET_SIZE_BYTES).to_bytes(4, "little" if byte_order is ByteOrder.LITTLE else "big")
        made += packet.ljust(PACKET_SIZE_BYTES, b"\0")
    return made


def filled(text: bytes) -> list[bytes]:
    """As a producer repeats it: packet after packet is filled."""
    return [text[at : at + ROOM] for at in range(0, len(text), ROOM)]


class Viewer:
    def __init__(self) -> None:
        self.position = MetadataPosition()
        self.received = b""

    def ask(self, file: bytes) -> bool:
        """Whether there was something."""
        part = self.position.next_part(len(file), lambda offset, size: file[offset : offset + size])
        match part:
            case FilePart():
                assert 0 < part.size_bytes <= len(file) - part.offset_bytes
                self.received += file[part.offset_bytes : part.offset_bytes + part.size_bytes]
            case bytes():
                self.received += part
        return part is not None

    def ask_all(self, file: bytes) -> None:
        while self.ask(file):
            pass
        assert not self.position.is_worth_asking(len(file)) or not self.received

    @property
    def text(self) -> bytes:
        """All that came is whole packets: a reader takes them one by one."""
        return metadata_text(self.received).encode()


def test_metadata_in_small_packets_is_repeated_in_full_ones_and_goes_on() -> None:
    """A clear, and then a new event: the file is as long as the old one was, and what is new is in its middle."""
    viewer = Viewer()
    viewer.ask_all(packets([b"first,", b"second,"]))
    assert viewer.text == b"first,second,"
    viewer.position.begin_file()
    repeated = packets([b"first,second,"])
    assert viewer.position.is_worth_asking(len(repeated))
    viewer.ask_all(repeated)
    viewer.ask_all(repeated + packets([b"third,"]))
    assert viewer.text == b"first,second,third,"


def test_new_text_may_follow_the_repeated_one_in_the_same_packet() -> None:
    viewer = Viewer()
    viewer.ask_all(packets([b"first,", b"second,"], ByteOrder.BIG))
    viewer.position.begin_file()
    viewer.ask_all(packets([b"first,second,third,", b"fourth"], ByteOrder.BIG))
    assert viewer.text == b"first,second,third,fourth"


@given(
    texts=st.lists(st.lists(st.binary(min_size=1, max_size=ROOM), max_size=6), min_size=1, max_size=5),
    asks=st.lists(st.booleans(), min_size=40, max_size=40),
)
@BOUNDED
def test_any_cutting(texts: list[list[bytes]], asks: list[bool]) -> None:
    """Each chunk begins with all the text of those before, in full packets, one command after the other."""
    viewer = Viewer()
    ask = iter(asks * 10)
    known = b""
    for new in texts:
        file = b""
        viewer.position.begin_file()
        for text in filled(known) + new:
            file += packets([text])
            if next(ask):
                viewer.ask_all(file)
        known += b"".join(new)
    viewer.ask_all(file)
    assert viewer.received == b"" or metadata_text(viewer.received) == known.decode("utf-8", "backslashreplace")
    assert bool(known) == bool(viewer.received)


def test_long_metadata_takes_several_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_metadata, "PACKET_COUNT_MAX", 2)
    monkeypatch.setattr(viewer_metadata, "TEXT_PART_SIZE_BYTES_MAX", 3)
    viewer = Viewer()
    texts = [b"text %d," % number for number in range(5)]
    file = packets(texts)
    assert viewer.ask(file)
    assert viewer.text == b"text 0,text 1,"
    viewer.ask_all(file)
    viewer.position.begin_file()
    viewer.ask_all(packets(filled(b"".join(texts) + b"and more")))
    assert viewer.text == b"".join(texts) + b"and more"


def test_what_is_no_packet_is_text() -> None:
    viewer = Viewer()
    viewer.ask_all(b"trace {")
    viewer.position.begin_file()
    viewer.ask_all(b"trace { x }")
    assert viewer.received == b"trace { x }"
    viewer.ask_all(b"trace { x }" + packets([b"t"])[:-1])  # sizes that lie
    assert viewer.received == b"trace { x }" + packets([b"t"])[:-1]


def test_a_file_that_cannot_be_read_is_tried_again() -> None:
    viewer = Viewer()
    file = packets([b"a", b"b"])
    reads = []

    def read(offset: int, size: int) -> bytes:
        reads.append(offset)
        if len(reads) == 2:
            raise OSError(errno.EIO, "broken")
        return file[offset : offset + size]

    with pytest.raises(OSError, match="broken"):
        viewer.position.next_part(len(file), read)
    viewer.ask_all(file)
    assert viewer.text == b"ab"
