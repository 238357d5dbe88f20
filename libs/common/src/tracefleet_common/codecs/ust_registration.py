"""The first message on each of the two connections that a program opens.

Source: liblttng-ust 2.13.5, `src/common/ustcomm.h`, `struct lttng_ust_ctl_reg_msg`.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import Final

import msgspec

from tracefleet_common.codecs.ust_abi import PROCESS_NAME_SIZE_BYTES, decode_name
from tracefleet_common.errors import RemoteProtocolError
from tracefleet_common.model.ctf_types import NATIVE_BYTE_ORDER, Alignments, ByteOrder

MAGIC: Final = 0xC57C57C5
ABI_MAJOR_OLDEST: Final = 8  # lttng-ust 2.11
ABI_MAJOR_NEWEST: Final = 9  # lttng-ust 2.13
ALIGNMENTS_BITS: Final = (8, 16, 32, 64, 128)

_LAYOUT = struct.Struct("=14I16s64x")
_MAGIC_REVERSED = int.from_bytes(MAGIC.to_bytes(4, "big"), "little")
_NAME_OFFSET = 56
REGISTRATION_SIZE_BYTES: Final = 136


class SocketType(IntEnum):
    """What a connection is for: commands from the daemon, or notifications from the program."""

    COMMAND = 0
    NOTIFY = 1


class UnsupportedAbi(RemoteProtocolError):
    """The program's liblttng-ust is too old or too new. Both of its connections say so; report one."""

    def __init__(self, *, program: str, pid: int, major: int, minor: int, socket_type: SocketType) -> None:
        super().__init__(
            f"Program {program!r} (pid {pid}) was refused: its liblttng-ust speaks application ABI"
            f" {major}.{minor}, this session daemon {ABI_MAJOR_OLDEST} to {ABI_MAJOR_NEWEST}"
        )
        self.program = program
        self.pid = pid
        self.major = major
        self.minor = minor
        self.socket_type = socket_type


class Registration(msgspec.Struct, frozen=True, kw_only=True):
    """What a program says about itself. `pid`, `uid`, `gid` are claims: SO_PEERCRED has the true ones."""

    byte_order: ByteOrder
    major: int
    minor: int
    pid: int
    ppid: int
    uid: int
    gid: int
    bits_per_long: int  # 32 or 64
    alignments: Alignments
    socket_type: SocketType
    name: str  # the first thread's name, at most 15 bytes; anything may be in it

    @property
    def safe_name(self) -> str:
        """`name` fit to be a part of a file name: never empty, no slash, nothing unprintable."""
        return "".join(c if c.isprintable() and c != "/" else "_" for c in self.name) or "_"


def decode_registration(data: bytes) -> Registration:
    """Decode one registration message, REGISTRATION_SIZE_BYTES long.

    Raises UnsupportedAbi for an ABI major outside 8..9, RemoteProtocolError for anything else that is wrong.
    """
    if len(data) != REGISTRATION_SIZE_BYTES:
        raise RemoteProtocolError(f"Registration message has {len(data)} bytes, not {REGISTRATION_SIZE_BYTES}")
    magic, major, minor, pid, ppid, uid, gid, bits, a8, a16, a32, a64, along, kind, _ = _LAYOUT.unpack(data)
    if magic == _MAGIC_REVERSED:
        raise RemoteProtocolError("Registration message comes from a program of the other byte order")
    if magic != MAGIC:
        raise RemoteProtocolError(f"Registration message begins with {magic:#010x}, not {MAGIC:#010x}")
    if kind not in (SocketType.COMMAND, SocketType.NOTIFY):
        raise RemoteProtocolError(f"Registration message names socket type {kind}")
    socket_type = SocketType(kind)
    name = decode_name(data, _NAME_OFFSET, PROCESS_NAME_SIZE_BYTES)
    if not ABI_MAJOR_OLDEST <= major <= ABI_MAJOR_NEWEST:
        raise UnsupportedAbi(program=name, pid=pid, major=major, minor=minor, socket_type=socket_type)
    if bits not in (32, 64):
        raise RemoteProtocolError(f"Program {name!r} (pid {pid}) claims a word of {bits} bits")
    for alignment_bits in (a8, a16, a32, a64, along):
        if alignment_bits not in ALIGNMENTS_BITS:
            raise RemoteProtocolError(f"Program {name!r} (pid {pid}) claims an alignment of {alignment_bits} bits")
    return Registration(
        byte_order=NATIVE_BYTE_ORDER,
        major=major,
        minor=minor,
        pid=pid,
        ppid=ppid,
        uid=uid,
        gid=gid,
        bits_per_long=bits,
        alignments=Alignments(uint8_bits=a8, uint16_bits=a16, uint32_bits=a32, uint64_bits=a64, long_bits=along),
        socket_type=socket_type,
        name=name,
    )
