"""The begin of a data connection between our own daemons (include/tracefleet/fleet_frame.h).

Packets follow it, which only the native library reads and writes.
"""

from __future__ import annotations

import struct
from typing import Final

from tracefleet_common.errors import RemoteProtocolError

GREETING_SIZE_BYTES: Final = 32
VERSION: Final = 1

_MAGIC: Final = b"tfh1"
_GREETING = struct.Struct("<4sI16sI")
_CRC = struct.Struct("<I")
_POLYNOMIAL: Final = 0x82F63B78


def crc32c(data: bytes) -> int:
    """CRC-32C (Castagnoli) of a few bytes."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (_POLYNOMIAL if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def encode_greeting(token: bytes) -> bytes:
    """`struct tf_fleet_greeting` for the session of that token, 16 bytes."""
    begin = _GREETING.pack(_MAGIC, VERSION, token, 0)
    return begin + _CRC.pack(crc32c(begin))


def decode_greeting(data: bytes) -> bytes:
    """The token in a whole greeting. Raises RemoteProtocolError for anything else."""
    if len(data) != GREETING_SIZE_BYTES or not data.startswith(_MAGIC):
        raise RemoteProtocolError("A data connection does not begin with a greeting")
    _, version, token, reserved = _GREETING.unpack_from(data)
    if version != VERSION or reserved != 0:
        raise RemoteProtocolError(f"A data connection is of version {version}, not {VERSION}")
    if _CRC.unpack_from(data, _GREETING.size)[0] != crc32c(data[: _GREETING.size]):
        raise RemoteProtocolError("The greeting of a data connection is damaged")
    return bytes(token)
