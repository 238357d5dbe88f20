"""The metadata text of one trace in shared memory: the session daemon writes, the consumer daemon reads.

A memfd that only grows: one page with a header (native/include/tracefleet/output.h has it in C), text after it. Text
counts once the header says so, so a reader never meets half a description, whenever the writer dies.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct

from tracefleet_common.errors import RemoteProtocolError, ResourceExhausted, TransportError

TEXT_OFFSET_BYTES = 4096
TEXT_SIZE_BYTES_MAX = 256 << 20  # programs decide what they announce, and how often they come

_MAGIC = 0x74664D44
_VERSION = 2
_HEADER = struct.Struct("=IIQ")  # magic, version, bytes of text published
# After the header, to the end of the page: a byte for each channel id, 1 when its stream class is in the text.
_DESCRIBED_OFFSET_BYTES = _HEADER.size
_DESCRIBED_COUNT = TEXT_OFFSET_BYTES - _DESCRIBED_OFFSET_BYTES


def create_metadata_memory() -> int:
    """An empty one; its descriptor is the caller's. Raises OSError."""
    descriptor = os.memfd_create("tracefleet-metadata", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(descriptor, TEXT_OFFSET_BYTES)
        os.pwrite(descriptor, _HEADER.pack(_MAGIC, _VERSION, 0), 0)
        # Whoever maps the header relies on it that the page stays.
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


class MetadataMemory:
    """The writing end; there is one."""

    def __init__(self, descriptor: int) -> None:
        """Takes the descriptor over. Raises RemoteProtocolError for what is no such memory, or has text already."""
        self.descriptor = descriptor
        try:
            if os.pread(descriptor, _HEADER.size, 0) != _HEADER.pack(_MAGIC, _VERSION, 0):
                raise RemoteProtocolError("The descriptor that came is not that of an empty metadata memory")
            self._map = mmap.mmap(descriptor, TEXT_OFFSET_BYTES)
        except (OSError, ValueError) as error:
            os.close(descriptor)
            raise RemoteProtocolError(f"The metadata memory that came cannot be used: {error}") from None
        except RemoteProtocolError:
            os.close(descriptor)
            raise
        # Assigned to as one word. `struct.pack_into` does not promise that.
        self._published_size_bytes = memoryview(self._map)[8:16].cast("Q")
        self._size_bytes = 0

    def append(self, text: str) -> None:
        """All of it counts when this returns, and nothing when it raises.

        Raises ResourceExhausted, or TransportError after the close.
        """
        if self.descriptor < 0:
            raise TransportError("The trace is closed")
        encoded = text.encode()
        size_bytes = self._size_bytes + len(encoded)
        if size_bytes > TEXT_SIZE_BYTES_MAX:
            raise ResourceExhausted(f"The metadata of a trace has at most {TEXT_SIZE_BYTES_MAX} bytes")
        rest, offset_bytes = memoryview(encoded), TEXT_OFFSET_BYTES + self._size_bytes
        try:
            while rest:
                written_bytes = os.pwrite(self.descriptor, rest, offset_bytes)
                rest, offset_bytes = rest[written_bytes:], offset_bytes + written_bytes
        except OSError as error:
            raise ResourceExhausted(f"No memory for metadata: {error.strerror}") from None
        # After the text: pairs with the load in native/src/output.c.
        self._published_size_bytes[0] = self._size_bytes = size_bytes

    def set_described(self, channel_id: int) -> None:
        """Say that what was appended has the stream class of this channel: its streams may be shown from now on.

        Nothing for ids beyond the table, whose streams always may.
        """
        if self.descriptor >= 0 and channel_id < _DESCRIBED_COUNT:
            self._map[_DESCRIBED_OFFSET_BYTES + channel_id] = 1

    def close(self) -> None:
        """The text stays for whoever reads it."""
        if self.descriptor >= 0:
            self._published_size_bytes.release()
            self._map.close()
            os.close(self.descriptor)
            self.descriptor = -1
