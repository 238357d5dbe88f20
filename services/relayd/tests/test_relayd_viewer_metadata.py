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

    def ask(self, file: bytes, *, is_last: bool = False) -> bool:
        """Whether there was something."""

        def read(offset: int, size: int) -> bytes:
            return file[offset : offset + size]

        part = self.position.next_part(len(file), read, is_last=is_last)
        match part:
            case FilePart():
                assert 0 < part.size_bytes <= len(file) - part.offset_bytes
                self.received += file[part.offset_bytes : part.offset_bytes + part.size_bytes]
            case bytes():
                self.received += part
        return part is not None

    def ask_all(self, file: bytes, *, is_last: bool = False) -> None:
        while self.ask(file, is_last=is_last):
            pass

    @property
    def text(self) -> bytes:
        """All that came is whole packets: a reader takes them one by one."""
        return metadata_text(self.received).encode()


def test_metadata_in_small_packets_is_repeated_in_full_ones_and_goes_on() -> None:
    """A clear, and then a new event: the file is as long as the old one was, and what is new is in its middle."""
    viewer = Viewer()
    viewer.ask_all(packets([b"first;", b"second;"]))
    assert viewer.text == b"first;second;"
    viewer.position.begin_file()
    repeated = packets([b"first;second;"])
    assert viewer.position.is_worth_asking(len(repeated))
    viewer.ask_all(repeated)
    viewer.ask_all(repeated + packets([b"third;"]))
    assert viewer.text == b"first;second;third;"


def test_new_text_may_follow_the_repeated_one_in_the_same_packet() -> None:
    viewer = Viewer()
    viewer.ask_all(packets([b"first;", b"second;"], ByteOrder.BIG))
    viewer.position.begin_file()
    viewer.ask_all(packets([b"first;second;third;", b"fourth;"], ByteOrder.BIG))
    assert viewer.text == b"first;second;third;fourth;"


DECLARATIONS = (
    b"env { a = 1; };\n",
    b'event { name = "a{;"; fields := struct { int _a; struct { int b; } c; }; };\n\n',
    b"typealias integer { size = 8; } := u8;\n",
    b'/* a { comment; " */\n',
    b"// another ; { '\n",
    b"struct s { int a; } align(8);",
    b'"\\";";',
)


def is_whole(text: bytes) -> bool:
    """Whether it is a sequence of the declarations above, space aside."""
    text = text.strip()
    while text:
        for one in DECLARATIONS:
            if text.startswith(one.strip()):
                text = text[len(one.strip()) :].strip()
                break
        else:
            return False
    return True


@given(
    chunks=st.lists(
        st.lists(
            st.tuples(st.lists(st.sampled_from(DECLARATIONS), max_size=6).map(b"".join), st.booleans()), max_size=5
        ),
        max_size=4,
    ),
    asks=st.lists(st.booleans(), min_size=50, max_size=50),
)
@BOUNDED
def test_any_cutting(chunks: list[list[tuple[bytes, bool]]], asks: list[bool]) -> None:
    """Each chunk begins with all the text of those before, one full packet after the other; viewers ask at any time."""
    viewer = Viewer()
    ask = iter(asks * 20)
    known = b""
    file = b""
    for new in chunks:
        file = b""
        viewer.position.begin_file()
        for text, is_all_needed in ((known, True), *new):
            for piece in filled(text):
                file += packets([piece])
                if next(ask):
                    viewer.ask_all(file)
                    assert is_whole(viewer.text)
            if is_all_needed:  # an index entry follows that needs it
                viewer.ask_all(file)
                assert file == b"" or viewer.text.strip() == metadata_text(file).encode().strip()
        known += b"".join(text for text, _ in new)
    viewer.ask_all(file, is_last=True)
    assert viewer.text == known


def test_half_a_declaration_is_held_back_until_the_end() -> None:
    viewer = Viewer()
    file = packets([b"env { a; };\nevent {"])
    viewer.ask_all(file)
    assert viewer.text == b"env { a; };"
    assert viewer.position.is_worth_asking(len(file))
    viewer.ask_all(file + packets([b" b; "]))
    assert viewer.text == b"env { a; };"
    viewer.ask_all(file + packets([b" b; ", b"};\n"]))
    assert viewer.text == b"env { a; };\nevent { b; };\n"
    last = file + packets([b" b; ", b"};\n", b'event { "'])
    viewer.ask_all(last)
    assert viewer.text.endswith(b"};\n")
    viewer.ask_all(last, is_last=True)
    assert viewer.text.endswith(b'event { "')


def test_a_packet_without_text_is_passed_on() -> None:
    viewer = Viewer()
    viewer.ask_all(packets([b"", b"a;", b""]))
    assert viewer.received == packets([b"", b"a;", b""])


def test_long_metadata_takes_several_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_metadata, "PACKET_COUNT_MAX", 2)
    viewer = Viewer()
    texts = [b"text %d;" % number for number in range(5)]
    file = packets(texts)
    assert viewer.ask(file)
    assert viewer.text == b"text 0;text 1;"
    viewer.ask_all(file)
    viewer.position.begin_file()
    viewer.ask_all(packets(filled(b"".join(texts) + b"and more;")))
    assert viewer.text == b"".join(texts) + b"and more;"


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
    file = packets([b"a;", b"b;"])
    reads = []

    def read(offset: int, size: int) -> bytes:
        reads.append(offset)
        if len(reads) == 2:
            raise OSError(errno.EIO, "broken")
        return file[offset : offset + size]

    with pytest.raises(OSError, match="broken"):
        viewer.position.next_part(len(file), read, is_last=False)
    viewer.ask_all(file)
    assert viewer.text == b"a;b;"


def test_a_declaration_longer_than_a_reply_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(viewer_metadata, "TEXT_SIZE_BYTES_MAX", 2 * ROOM)
    viewer = Viewer()
    text = b"enum {" + b"x," * 100 + b"};"
    viewer.ask_all(packets(filled(text)))
    assert viewer.text == text
