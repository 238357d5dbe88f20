"""The begin of a data connection between our own daemons."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracefleet_common.codecs.fleet_stream import GREETING_SIZE_BYTES, crc32c, decode_greeting, encode_greeting
from tracefleet_common.errors import RemoteProtocolError

TOKEN = bytes(range(16))
GREETING = encode_greeting(TOKEN)


def test_the_checksum_is_the_known_one() -> None:
    assert crc32c(b"123456789") == 0xE3069283


def test_a_greeting_is_magic_version_token_and_checksum() -> None:
    assert GREETING[:28] == b"tfh1\1\0\0\0" + TOKEN + b"\0\0\0\0"
    assert int.from_bytes(GREETING[28:], "little") == crc32c(GREETING[:28])
    assert decode_greeting(GREETING) == TOKEN


@pytest.mark.parametrize("position", range(GREETING_SIZE_BYTES))
def test_a_greeting_with_a_changed_byte_is_refused(position: int) -> None:
    changed = bytearray(GREETING)
    changed[position] ^= 0x10
    with pytest.raises(RemoteProtocolError):
        decode_greeting(bytes(changed))


@given(st.binary(max_size=40))
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_greeting(data)
