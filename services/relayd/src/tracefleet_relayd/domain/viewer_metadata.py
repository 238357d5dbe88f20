"""How far one viewer has come in the text of one metadata stream.

In a new trace chunk (clear) the producer repeats all metadata, and a viewer has the beginning already. The text is the
same, but not its packets: what came in several small ones is repeated in few full ones. So what a viewer has is
counted in bytes of text, and where its text ends within a packet, it gets the rest of that packet as a packet of its
own. (lttng-relayd counts bytes of the file: its viewers then miss metadata, or get the middle of a sentence.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from tracefleet_common.codecs.packet import (
    METADATA_HEADER_SIZE_BYTES,
    MetadataPacketHeader,
    decode_metadata_packet_header,
    encode_metadata_packet,
)
from tracefleet_common.errors import RemoteProtocolError

# Looked at for one reply: a producer may send very small packets, and others wait meanwhile.
PACKET_COUNT_MAX: Final = 1024
KNOWN_PACKET_COUNT_MAX: Final = 65_536  # of a repetition, which is best passed in one go
TEXT_PART_SIZE_BYTES_MAX: Final = 1 << 20

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

    def next_part(self, metadata_size_bytes: int, read: Read) -> FilePart | bytes | None:
        """What follows what the viewer has, of the first `metadata_size_bytes` of the file; it has that too then.

        A range of the file, or a packet that is not there as it is. There may be more: ask again until it is None.
        Raises OSError of `read`, and stays where it was.
        """
        before = self._offset_bytes, self._text_size_bytes
        try:
            return self._next_part(metadata_size_bytes, read)
        except OSError:
            self._offset_bytes, self._text_size_bytes = before
            raise

    def _next_part(self, metadata_size_bytes: int, read: Read) -> FilePart | bytes | None:
        for _ in range(KNOWN_PACKET_COUNT_MAX):
            known_size_bytes = self._sent_text_size_bytes - self._text_size_bytes
            if not known_size_bytes:
                return self._whole_packets(metadata_size_bytes, read)
            if self._offset_bytes >= metadata_size_bytes:
                return None
            packet = _packet_at(self._offset_bytes, metadata_size_bytes, read)
            if known_size_bytes < packet.text_size_bytes:
                return self._rest_of(packet, known_size_bytes, read)
            self._pass(packet)
        return None

    def _pass(self, packet: _Packet) -> None:
        self._offset_bytes += packet.size_bytes
        self._text_size_bytes += packet.text_size_bytes

    def _rest_of(self, packet: _Packet, known_size_bytes: int, read: Read) -> FilePart | bytes:
        offset_bytes = packet.text_offset_bytes + known_size_bytes
        size_bytes = packet.text_size_bytes - known_size_bytes
        if packet.header is None:
            self._pass(packet)
            self._sent_text_size_bytes = self._text_size_bytes
            return FilePart(offset_bytes, size_bytes)
        text = read(offset_bytes, min(size_bytes, TEXT_PART_SIZE_BYTES_MAX))
        self._sent_text_size_bytes += len(text)
        if len(text) == size_bytes:
            self._pass(packet)
        return encode_metadata_packet(packet.header, text)

    def _whole_packets(self, metadata_size_bytes: int, read: Read) -> FilePart | None:
        begin = self._offset_bytes
        for _ in range(PACKET_COUNT_MAX):
            if self._offset_bytes >= metadata_size_bytes:
                break
            self._pass(_packet_at(self._offset_bytes, metadata_size_bytes, read))
        self._sent_text_size_bytes = self._text_size_bytes
        return FilePart(begin, self._offset_bytes - begin) if self._offset_bytes > begin else None


def _packet_at(offset_bytes: int, end_bytes: int, read: Read) -> _Packet:
    """What is there and before `end_bytes`: a whole packet, or all of it."""
    try:
        header = decode_metadata_packet_header(read(offset_bytes, METADATA_HEADER_SIZE_BYTES))
    except RemoteProtocolError:
        header = None
    if header is None or offset_bytes + header.packet_size_bits // 8 > end_bytes:
        size_bytes = end_bytes - offset_bytes
        return _Packet(offset_bytes, size_bytes, size_bytes, None)
    text_size_bytes = header.content_size_bits // 8 - METADATA_HEADER_SIZE_BYTES
    return _Packet(offset_bytes, header.packet_size_bits // 8, text_size_bytes, header)
