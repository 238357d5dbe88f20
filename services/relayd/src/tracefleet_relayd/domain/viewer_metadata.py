"""How far one viewer has come in the text of one metadata stream.

In a new trace chunk (clear) the producer repeats all metadata, and a viewer has the beginning already. The text is the
same, but not its packets: what came in several small ones is repeated in few full ones. So what a viewer has is
counted in bytes of text, and where that ends within a packet, it gets the rest as a packet of its own. (lttng-relayd
counts bytes of the file: its viewers then miss metadata, or get the middle of a sentence.)

A long description comes in several packets, one after the other, and a viewer may ask in between: babeltrace2 fails on
half a declaration. So it gets whole declarations only. What it needs for a packet of events is whole by then: the
producer sends all of it before the packet's index entry.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final, NamedTuple

from tracefleet_common.codecs.packet import (
    METADATA_HEADER_SIZE_BYTES,
    MetadataPacketHeader,
    decode_metadata_packet_header,
    encode_metadata_packet,
)
from tracefleet_common.errors import RemoteProtocolError

KNOWN_PACKET_COUNT_MAX: Final = 65_536  # of a repetition, which is best passed in one go
# Looked at for one reply, as others wait meanwhile; a declaration that is longer is sent in parts.
TEXT_SIZE_BYTES_MAX: Final = 256 * 1024
PACKET_COUNT_MAX: Final = 1024
PACKET_SIZE_BYTES_MAX: Final = 4 << 20  # a larger one is not taken to pieces

# A declaration ends with a semicolon outside of braces. The last two: text or comment whose end did not come yet.
_TOKEN = re.compile(rb"""/\*.*?\*/|//[^\n]*\n|"(?:\\.|[^"\\])*"|'(?:\\.|[^'\\])*'|[{};]|/[*/]|["']""", re.DOTALL)

Read = Callable[[int, int], bytes]  # offset and size, in bytes, of the metadata file


class FilePart(NamedTuple):
    """Bytes to be sent as they are in the file."""

    offset_bytes: int
    size_bytes: int


class _Packet(NamedTuple):
    """`header`: None for what is no packet; all of it is text then."""

    offset_bytes: int
    size_bytes: int
    text_size_bytes: int
    header: MetadataPacketHeader | None

    @property
    def text_offset_bytes(self) -> int:
        return self.offset_bytes + (0 if self.header is None else METADATA_HEADER_SIZE_BYTES)


class MetadataPosition:
    """One viewer in one metadata stream."""

    def __init__(self) -> None:
        self._offset_bytes = 0  # in the current file; the viewer has all before it
        self._text_size_bytes = 0  # before that offset
        self._sent_text_size_bytes = 0

    def is_worth_asking(self, metadata_size_bytes: int) -> bool:
        """Whether the viewer should ask for metadata before it reads on. Always true before it got any."""
        return not self._sent_text_size_bytes or metadata_size_bytes > self._offset_bytes

    def begin_file(self) -> None:
        """The producer begins again in another file."""
        self._offset_bytes = self._text_size_bytes = 0

    def next_part(self, metadata_size_bytes: int, read: Read, *, is_last: bool) -> FilePart | bytes | None:
        """What follows what the viewer has, of the first `metadata_size_bytes` of the file; it has that too then.

        A range of the file, or a packet that is not there as it is. There may be more: ask again until it is None.
        `is_last`: nothing will be added to the file. Raises OSError of `read`, and stays where it was.
        """
        before = self._offset_bytes, self._text_size_bytes
        try:
            if not self._pass_known(metadata_size_bytes, read):
                return None
            return self._new_part(metadata_size_bytes, read, is_last)
        except OSError:
            self._offset_bytes, self._text_size_bytes = before
            raise

    def _pass(self, packet: _Packet) -> None:
        self._offset_bytes += packet.size_bytes
        self._text_size_bytes += packet.text_size_bytes

    def _pass_known(self, metadata_size_bytes: int, read: Read) -> bool:
        """Go to the packet that holds something new. Whether there is one."""
        for _ in range(KNOWN_PACKET_COUNT_MAX):
            if self._offset_bytes >= metadata_size_bytes:
                return False
            known_size_bytes = self._sent_text_size_bytes - self._text_size_bytes
            packet = _packet_at(self._offset_bytes, metadata_size_bytes, read)
            if known_size_bytes < packet.text_size_bytes or not known_size_bytes:
                return True
            self._pass(packet)
        return False

    def _new_part(self, metadata_size_bytes: int, read: Read, is_last: bool) -> FilePart | bytes | None:
        first = _packet_at(self._offset_bytes, metadata_size_bytes, read)
        known_size_bytes = self._sent_text_size_bytes - self._text_size_bytes
        if first.header is None:
            self._pass(first)
            self._sent_text_size_bytes = self._text_size_bytes
            return FilePart(first.offset_bytes + known_size_bytes, first.size_bytes - known_size_bytes)
        packets, text, has_all = _text_from(self._offset_bytes, metadata_size_bytes, read)
        text = text[known_size_bytes:]
        end = len(text) if is_last else _end_of_declarations(text)
        if not end and not has_all:
            end = len(text)
        if not end and any(packet.text_size_bytes for packet in packets):
            return None
        begin = self._offset_bytes
        self._sent_text_size_bytes += end
        for packet in packets:
            if self._text_size_bytes + packet.text_size_bytes > self._sent_text_size_bytes:
                break
            self._pass(packet)
        if not known_size_bytes and end == len(text):
            return FilePart(begin, self._offset_bytes - begin)
        return encode_metadata_packet(first.header, text[:end])


def _text_from(offset_bytes: int, end_bytes: int, read: Read) -> tuple[list[_Packet], bytes, bool]:
    """Packets, their text, and whether these are all there are."""
    packets: list[_Packet] = []
    text = bytearray()
    while offset_bytes < end_bytes:
        if len(text) >= TEXT_SIZE_BYTES_MAX or len(packets) >= PACKET_COUNT_MAX:
            return packets, bytes(text), False
        packet = _packet_at(offset_bytes, end_bytes, read)
        if packet.header is None:
            return packets, bytes(text), False
        packets.append(packet)
        text += read(packet.text_offset_bytes, packet.text_size_bytes)
        offset_bytes += packet.size_bytes
    return packets, bytes(text), True


def _end_of_declarations(text: bytes) -> int:
    """How much of the text is whole declarations, and comments and space between them."""
    end = depth = 0
    for token in _TOKEN.finditer(text):
        match token[0]:
            case b"{":
                depth += 1
            case b"}":
                depth -= 1
            case b"/*" | b"//" | b'"' | b"'":
                return end
            case b";" if depth <= 0:
                end = token.end()
            case comment if comment.startswith(b"/") and depth <= 0 and not text[end : token.start()].strip():
                end = token.end()
    return end if text[end:].strip() else len(text)


def _packet_at(offset_bytes: int, end_bytes: int, read: Read) -> _Packet:
    """A whole packet, or all that is there before `end_bytes`."""
    try:
        header = decode_metadata_packet_header(read(offset_bytes, METADATA_HEADER_SIZE_BYTES))
    except RemoteProtocolError:
        header = None
    size_bytes_max = min(PACKET_SIZE_BYTES_MAX, end_bytes - offset_bytes)
    if header is None or header.packet_size_bits // 8 > size_bytes_max:
        size_bytes = end_bytes - offset_bytes
        return _Packet(offset_bytes, size_bytes, size_bytes, None)
    text_size_bytes = header.content_size_bits // 8 - METADATA_HEADER_SIZE_BYTES
    return _Packet(offset_bytes, header.packet_size_bits // 8, text_size_bytes, header)
