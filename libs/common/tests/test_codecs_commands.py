"""Registration and commands, against a recorded conversation of lttng-sessiond with a real program."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tracefleet_common.codecs import ust_commands
from tracefleet_common.codecs.ust_commands import AppError, AppReply, AppRequest, Command, UstCode
from tracefleet_common.codecs.ust_registration import (
    REGISTRATION_SIZE_BYTES,
    SocketType,
    UnsupportedAbi,
    decode_registration,
)
from tracefleet_common.errors import InvalidArgument, LocalProtocolError, RemoteProtocolError, TracerError
from tracefleet_common.model.ctf_types import NATIVE_BYTE_ORDER, Alignments
from tracefleet_common.model.event_rules import LogLevelMatch

GOLDEN = Path(__file__).resolve().parents[3] / "tests/golden/ust"
LOG_LEVEL_MATCHES = {0: LogLevelMatch.ALL, 1: LogLevelMatch.RANGE, 2: LogLevelMatch.SINGLE}


def dense(sparse: dict[str, Any]) -> bytes:
    data = bytearray(sparse["size"])
    for offset, run in sparse["bytes"].items():
        data[int(offset) : int(offset) + len(run) // 2] = bytes.fromhex(run)
    return bytes(data)


def exchanges() -> list[tuple[bytes, int, bytes]]:
    """Request, descriptors after it, reply: every one that this package can send."""
    lines = [json.loads(line) for line in (GOLDEN / "command/commands.jsonl").read_text().splitlines()]
    found = []
    for request, reply in pairwise(lines):
        data = dense(request)
        is_ours = len(data) >= 612 and int.from_bytes(data[4:8], "little") in set(Command)
        if request["from"] == "daemon" and is_ours:
            if request["descriptors"]:
                data = data[:-1]  # the dummy byte that the descriptors ride on
            found.append((data, request["descriptors"], dense(reply)))
    return found


def rebuild(data: bytes) -> AppRequest:
    handle, number = struct.unpack_from("=II", data)
    command = Command(number)
    if command is Command.CHANNEL:
        return ust_commands.create_channel(handle, struct.unpack_from("=i", data, 48)[0], data[612:])
    if command is Command.STREAM:
        return ust_commands.add_stream(handle, *struct.unpack_from("=QI", data, 40))
    if command is Command.EVENT:
        name = data[44:300].partition(b"\0")[0].decode()
        match, log_level = struct.unpack_from("=ii", data, 300)
        return ust_commands.create_event(handle, name, LOG_LEVEL_MATCHES[match], log_level)
    if command is Command.EXCLUSION:
        names = [data[at : at + 256].rstrip(b"\0").decode() for at in range(612, len(data), 256)]
        return ust_commands.set_exclusion(handle, names)
    builders: dict[Command, Callable[[], AppRequest]] = {
        Command.SESSION: ust_commands.create_session,
        Command.TRACER_VERSION: ust_commands.tracer_version,
        Command.REGISTER_DONE: ust_commands.register_done,
        Command.WAIT_QUIESCENT: ust_commands.wait_quiescent,
        Command.TRACEPOINT_LIST: ust_commands.tracepoint_list,
        Command.TRACEPOINT_FIELD_LIST: ust_commands.tracepoint_field_list,
        Command.TRACEPOINT_LIST_GET: lambda: ust_commands.tracepoint_list_get(handle),
        Command.TRACEPOINT_FIELD_LIST_GET: lambda: ust_commands.tracepoint_field_list_get(handle),
        Command.ENABLE: lambda: ust_commands.enable(handle),
        Command.DISABLE: lambda: ust_commands.disable(handle),
        Command.RELEASE: lambda: ust_commands.release(handle),
        Command.SESSION_STATEDUMP: lambda: ust_commands.regenerate_statedump(handle),
    }
    return builders[command]()


def test_requests_are_the_genuine_ones() -> None:
    seen = set()
    for data, descriptor_count, _ in exchanges():
        request = rebuild(data)
        assert request.message == data
        assert request.descriptor_count == descriptor_count
        seen.add(request.command)
    assert seen >= set(Command) - {Command.SESSION_STATEDUMP}


def test_genuine_replies() -> None:
    tracepoints = []
    fields = []
    for data, _, answer in exchanges():
        request = rebuild(data)
        reply = ust_commands.decode_reply(request, answer[: ust_commands.REPLY_SIZE_BYTES])
        following = answer[ust_commands.REPLY_SIZE_BYTES :]
        assert len(following) == ust_commands.following_size_bytes(request, reply)
        if reply.return_code < 0:
            with pytest.raises(AppError) as refusal:
                ust_commands.check(reply)
            assert refusal.value.is_end_of_list
            continue
        assert ust_commands.check(reply) is reply
        if request.command is Command.TRACER_VERSION:
            assert ust_commands.decode_tracer_version(reply.payload) == (2, 13, 5)
        elif request.command is Command.TRACEPOINT_LIST_GET:
            tracepoints.append(ust_commands.decode_tracepoint(reply.payload))
        elif following:
            fields.append(ust_commands.decode_field_list_entry(following))
        elif request.command is Command.SESSION:
            assert reply.return_value > 0
    assert {(entry.event_name, entry.log_level) for entry in fields} <= set(tracepoints)
    assert {entry.kind for entry in fields} <= {"integer", "enum", "float", "string", "unknown"}
    # A tracepoint without fields is announced by an entry without a name.
    assert all(entry.is_recorded == bool(entry.field_name) for entry in fields)


def an_answer(request: AppRequest, return_code: int = 0, return_value: int = 0, **wrong: int) -> bytes:
    handle = wrong.get("handle", request.handle)
    command = wrong.get("command", request.command)
    return struct.pack("=IIiI32x276s", handle, command, return_code, return_value, b"payload")


def test_reply_to_something_else_is_refused() -> None:
    request = ust_commands.enable(4)
    assert ust_commands.decode_reply(request, an_answer(request, 0, 7)).return_value == 7
    for answer in (
        an_answer(request, handle=5),
        an_answer(request, command=Command.DISABLE),
        an_answer(request, return_code=1),
        an_answer(request)[:-1],
        an_answer(request) + b"\0",
        b"",
    ):
        with pytest.raises(RemoteProtocolError):
            ust_commands.decode_reply(request, answer)


@pytest.mark.parametrize("number", [*UstCode, 1099])
def test_refusal_has_its_number_and_a_reason(number: int) -> None:
    with pytest.raises(TracerError, match=str(int(number))) as refusal:
        ust_commands.check(AppReply(-number, 0, bytes(276)))
    assert isinstance(refusal.value, AppError)
    assert refusal.value.ust_code == number
    assert refusal.value.is_already == (number in (UstCode.EXIST, UstCode.ERROR))
    assert refusal.value.is_exiting == (number == UstCode.EXITING)


def test_filter_only_field() -> None:
    data = b"p:e".ljust(256, b"\0") + b"hidden".ljust(256, b"\0") + struct.pack("=3i284x", 2, 4, 1)
    entry = ust_commands.decode_field_list_entry(data)
    assert entry == ust_commands.FieldListEntry("p:e", "hidden", "enum", 4, False)
    with pytest.raises(RemoteProtocolError):
        ust_commands.decode_field_list_entry(data[:-1])


@pytest.mark.parametrize("name", ["", "x" * 256, "é" * 128, "a\0b", "\ud800"])
def test_name_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        ust_commands.create_event(1, name, LogLevelMatch.ALL, -1)
    with pytest.raises(InvalidArgument):
        ust_commands.set_exclusion(1, ["fine", name])


def test_requests_that_would_jam_the_connection_are_not_made() -> None:
    with pytest.raises(InvalidArgument):
        ust_commands.set_exclusion(1, [])
    with pytest.raises(LocalProtocolError):
        ust_commands.create_channel(1, 0, b"")
    with pytest.raises(LocalProtocolError):
        ust_commands.create_channel(1, 0, bytes((1 << 20) + 1))


# ---- registration ----


def registration(**changes: int | bytes) -> bytes:
    values: dict[str, int | bytes] = {
        "magic": 0xC57C57C5,
        "major": 9,
        "minor": 0,
        "pid": 12,
        "ppid": 1,
        "uid": 1000,
        "gid": 1000,
        "bits": 64,
        **dict.fromkeys(("a8", "a16", "a32", "a64", "along"), 8),
        "kind": 0,
        "name": b"prog",
        **changes,
    }
    return struct.pack("=14I16s64x", *values.values())


@pytest.mark.parametrize(("case", "socket_type"), [("command", SocketType.COMMAND), ("notify", SocketType.NOTIFY)])
def test_recorded_registration(case: str, socket_type: SocketType) -> None:
    decoded = decode_registration((GOLDEN / f"registration/{case}.bin").read_bytes())
    assert decoded.socket_type is socket_type
    assert decoded.byte_order is NATIVE_BYTE_ORDER
    assert (decoded.major, decoded.minor, decoded.bits_per_long) == (9, 0, 64)
    assert (decoded.uid, decoded.gid) == (65534, 65534)
    assert decoded.pid > decoded.ppid > 0
    assert decoded.alignments == Alignments()
    assert decoded.name == decoded.safe_name == "allfields"


@pytest.mark.parametrize("major", [0, 7, 10, 11, 0xFFFFFFFF])
def test_other_abi_is_refused_with_both_versions(major: int) -> None:
    with pytest.raises(UnsupportedAbi) as refusal:
        decode_registration(registration(major=major, minor=3, kind=1))
    for part in (f"{major}.3", "8 to 9", "'prog'", "pid 12"):
        assert part in str(refusal.value)
    assert refusal.value.socket_type is SocketType.NOTIFY


def test_program_of_the_older_abi_is_welcome() -> None:
    assert decode_registration(registration(major=8)).major == 8
    assert decode_registration(registration(bits=32, along=32)).bits_per_long == 32


@pytest.mark.parametrize(
    "data",
    [
        b"",
        registration()[:-1],
        registration() + b"\0",
        registration(magic=0),
        registration(magic=0xC5577CC5),
        registration(kind=2),
        registration(bits=16),
        registration(a32=0),
        registration(along=24),
        bytes(REGISTRATION_SIZE_BYTES),
    ],
)
def test_broken_registration(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        decode_registration(data)


@pytest.mark.parametrize(
    ("raw", "safe"),
    [
        (b"kworker/0:1", "kworker_0:1"),
        (b"../../etc", ".._.._etc"),
        (b"", "_"),
        (b"a\nb\x1b[1m", "a_b_[1m"),
        (b"x" * 16, "x" * 15),
        (b"\xff\xfe", "\\xff\\xfe"),
        ("größe".encode(), "größe"),
    ],
)
def test_name_of_a_program_is_safe_in_a_path(raw: bytes, safe: str) -> None:
    assert decode_registration(registration(name=raw)).safe_name == safe
