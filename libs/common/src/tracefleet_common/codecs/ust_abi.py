"""What all messages between liblttng-ust and a session daemon have in common: names in fixed-size arrays.

Source: liblttng-ust 2.13.5, `include/lttng/ust-abi.h`.
"""

from __future__ import annotations

from tracefleet_common.errors import InvalidArgument

SYMBOL_NAME_SIZE_BYTES = 256  # with the NUL
PROCESS_NAME_SIZE_BYTES = 16  # with the NUL
ROOT_HANDLE = 0


def decode_text(raw: bytes) -> str:
    r"""Return `raw` up to its first NUL as text.

    Bytes that are not UTF-8 become `\xNN`: names stay distinct, and there is never a lone surrogate in them.
    """
    return raw.partition(b"\0")[0].decode("utf-8", "backslashreplace")


def decode_name(data: bytes, offset: int, size_bytes: int = SYMBOL_NAME_SIZE_BYTES) -> str:
    """Return the name in the `size_bytes` at `offset`; its last byte counts as NUL whatever it is."""
    last = offset + size_bytes - 1
    end = data.find(b"\0", offset, last)
    return data[offset : last if end < 0 else end].decode("utf-8", "backslashreplace")


def encode_name(name: str, size_bytes: int = SYMBOL_NAME_SIZE_BYTES) -> bytes:
    """Return `name` NUL-padded to `size_bytes`. Raises InvalidArgument when it is empty or does not fit."""
    try:
        encoded = name.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidArgument(f"Name {name[:size_bytes]!r} is not text: {error.reason}") from error
    if not encoded or len(encoded) >= size_bytes or b"\0" in encoded:
        raise InvalidArgument(
            f"Name {name[:size_bytes]!r} is empty, longer than {size_bytes - 1} bytes, or contains a NUL"
        )
    return encoded.ljust(size_bytes, b"\0")
