"""LTTng's relay protocol: the data port. Headers only, one way; each is followed by the bytes of one packet.

The bytes of packets do not come through here: read `missing_size_bytes` from the connection, give them to `receive`,
take the header, then have `payload_size_bytes` moved to the file by somebody who does not look at them.

Source: lttng-tools 2.13.9, `src/common/sessiond-comm/relayd.h`, `struct lttcomm_relayd_data_hdr`.
"""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from tracefleet_common.codecs.lttng_wire import Decoder, pack
from tracefleet_common.errors import LocalProtocolError, RemoteProtocolError

_HEADER = struct.Struct(">QQQII")  # the first number, a circuit id, is 0 and ignored

DATA_HEADER_SIZE_BYTES: Final = _HEADER.size
# A sub-buffer holds a packet, and nobody has larger ones. Without a limit, padding would let 32 bytes fill 4 GiB.
PACKET_SIZE_BYTES_MAX: Final = 1 << 30


class DataHeader(msgspec.Struct, frozen=True, kw_only=True):
    """What comes before the bytes of a packet. Payload and padding together are the packet."""

    stream_handle: int
    sequence_number: int  # of the packet on this connection, per stream from 0; not the tracer's count
    payload_size_bytes: int  # that follow
    padding_size_bytes: int = 0  # zero bytes that do not travel, and belong after the payload in the file

    @property
    def packet_size_bytes(self) -> int:
        """What the packet takes in the file."""
        return self.payload_size_bytes + self.padding_size_bytes


def encode_data_header(header: DataHeader) -> bytes:
    """Encode a header, 32 bytes. Raises LocalProtocolError when a value does not fit."""
    return pack(
        _HEADER,
        0,
        header.stream_handle,
        header.sequence_number,
        header.payload_size_bytes,
        header.padding_size_bytes,
    )


def decode_data_header(
    data: bytes | bytearray | memoryview, packet_size_bytes_max: int = PACKET_SIZE_BYTES_MAX
) -> DataHeader:
    """Decode one whole header. Raises RemoteProtocolError when it is not 32 bytes, or announces too large a packet."""
    if len(data) != _HEADER.size:
        raise RemoteProtocolError(f"Data header has {len(data)} bytes, not {_HEADER.size}")
    _, stream_handle, sequence_number, payload_size, padding_size = _HEADER.unpack(data)
    if payload_size + padding_size > packet_size_bytes_max:
        raise RemoteProtocolError(
            f"Data header announces {payload_size} + {padding_size} bytes of a packet (at most {packet_size_bytes_max})"
        )
    return DataHeader(
        stream_handle=stream_handle,
        sequence_number=sequence_number,
        payload_size_bytes=payload_size,
        padding_size_bytes=padding_size,
    )


class DataHeaderDecoder(Decoder[DataHeader]):
    """Collects one header after the other. Between two headers it is somebody else who reads the connection."""

    def __init__(self, packet_size_bytes_max: int = PACKET_SIZE_BYTES_MAX) -> None:
        super().__init__()
        self._packet_size_bytes_max = packet_size_bytes_max

    @property
    def missing_size_bytes(self) -> int:
        """How many bytes complete the header; read no more than that."""
        return _HEADER.size - len(self._received)

    def receive(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes of the header. Raises LocalProtocolError when there are more than `missing_size_bytes`."""
        if len(data) > self.missing_size_bytes:
            raise LocalProtocolError(f"Decoder of data headers got {len(data)} bytes, payload among them")
        super().receive(data)

    def next_header(self) -> DataHeader | None:
        """Return the header; None: feed more bytes first. Raises RemoteProtocolError."""
        return self._next_message()

    def _decode_next(self) -> DataHeader | None:
        data = self._take(_HEADER.size)
        return None if data is None else decode_data_header(data, self._packet_size_bytes_max)
