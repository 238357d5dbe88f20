"""Bad input on every socket of our daemons: it costs its sender the connection, and nobody else anything."""

from __future__ import annotations

import contextlib
import random
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq
from deadlines import DEADLINE_S, wait_until
from fleet import OURS, Fleet
from programs import Program
from raw_peer import (
    COMMAND_SOCKET,
    NOTIFY_SOCKET,
    REPLY_SIZE_BYTES,
    Pretender,
    connect,
    is_closed,
    registration_message,
    send_and_leave,
    silent_connections,
    wait_closed,
)

pytestmark = pytest.mark.fault

NEVER_TIME_OUT = {"LTTNG_APP_SOCKET_TIMEOUT": "-1"}
HEADER = msgspec.msgpack.encode({"request_id": 1, "deadline_ms": 1000})
EVENT_NOTIFICATION, CHANNEL_NOTIFICATION, ENUM_NOTIFICATION = 0, 1, 2


class Recording:
    """A session that goes on while the daemons are hurt, and the proof that it did."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.output = fleet.record("tf_emit:*", session="witness")
        self.early = fleet.program()
        self.early.emit(100)

    def assert_unharmed(self) -> None:
        """The daemons live, the old program goes on, a new one and a new session work, nothing was lost."""
        fleet = self.fleet
        late = fleet.program()
        late.emit(50)
        self.early.emit(100)
        assert fleet.daemon is not None
        assert fleet.daemon.is_running()
        assert {self.early.pid, late.pid} <= fleet.registered_pids()
        fleet.stop("witness")
        reading = fleet.read(self.output)
        assert reading.numbers(pid=self.early.pid) == list(range(200))
        assert reading.numbers(pid=late.pid) == list(range(50))
        assert fleet.verify(self.output).returncode == 0
        second = fleet.record("tf_emit:*", session="afterwards")
        late.emit(5)
        fleet.stop("afterwards")
        assert fleet.read(second).numbers(pid=late.pid) == list(range(50, 55))


@pytest.fixture
def recording(make_fleet: Callable[..., Fleet]) -> Iterator[Recording]:
    fleet = make_fleet(OURS)
    fleet.start_daemon()
    made = Recording(fleet)
    yield made
    made.assert_unharmed()


def daemon_sockets(fleet: Fleet) -> list[Path]:
    """Every socket below the run directory."""
    return sorted(path for path in fleet.world.run_directory.rglob("*") if path.is_socket())


def garbage(seed: int, size: int) -> bytes:
    return random.Random(seed).randbytes(size)


@pytest.mark.parametrize("payload", ["nothing", "one byte", "garbage", "zeros", "ones", "a megabyte"])
def test_garbage_on_every_socket(recording: Recording, payload: str) -> None:
    payloads = {
        "nothing": b"",
        "one byte": b"\xff",
        "garbage": garbage(1, 4096),
        "zeros": bytes(1000),
        "ones": b"\xff" * 1000,
        "a megabyte": garbage(2, 1 << 20),
    }
    sockets = daemon_sockets(recording.fleet)
    assert len(sockets) >= 4, "application, bus, consumer command and descriptor sockets"
    for path in sockets:
        for _ in range(3):
            send_and_leave(path, payloads[payload])


@pytest.mark.parametrize("seed", range(3))
def test_garbage_after_a_good_beginning(recording: Recording, seed: int) -> None:
    greeting = b"\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL" + bytes(16) + b"\0" + bytes(31)  # ZMTP 3.0
    ready = b"\x04\x26\x05READY\x0bSocket-Type\0\0\0\x06DEALER\x08Identity\0\0\0\0"
    for path in daemon_sockets(recording.fleet):
        send_and_leave(path, registration_message() + garbage(seed, 5000))
        send_and_leave(path, greeting + garbage(seed, 5000))
        send_and_leave(path, greeting + ready + b"\0" + garbage(seed, 5000))
        send_and_leave(path, greeting + ready + b"\2" + struct.pack(">Q", 1 << 62) + garbage(seed, 5000))
        send_and_leave(path, struct.pack("<Q", 1 << 40) + garbage(seed, 100))


def test_truncated_and_slow_messages_are_dropped(recording: Recording) -> None:
    whole = registration_message()
    path = recording.fleet.application_socket
    for size in (1, 4, 60, len(whole) - 1):
        send_and_leave(path, whole[:size])
    slow = [connect(path) for _ in range(5)]
    for connection in slow:
        connection.sendall(whole[:100])
    program = recording.fleet.program()  # meanwhile
    program.emit(1)
    for connection in slow:
        wait_closed(connection, "a slow registration")
        connection.close()


@pytest.mark.parametrize(
    "change",
    [
        {"magic": 0xDEADBEEF},
        {"magic": 0xC5577CC5},  # the other byte order
        {"bits_per_long": 16},
        {"bits_per_long": 32},  # no consumer daemon for these
        {"name": b"\xff\xfe\0\n../../etc\xc3\x28"[:16]},
    ],
    ids=str,
)
def test_registrations_that_cannot_be_served(recording: Recording, change: dict[str, object]) -> None:
    path = recording.fleet.application_socket
    connections = []
    for socket_type in (COMMAND_SOCKET, NOTIFY_SOCKET, 7):
        connections.append(connect(path))
        connections[-1].sendall(registration_message(socket_type, **change))  # type: ignore[arg-type]
    for connection in connections:
        if change.keys() != {"name"}:
            wait_closed(connection, f"a registration with {change}")
        connection.close()
    if "bits_per_long" in change:
        assert recording.fleet.daemon is not None
        log = recording.fleet.daemon.log.read_text()
        assert re.search(rf"Refused a program.*\b{change['bits_per_long']}\b", log), log


@pytest.mark.parametrize("major", [7, 10])
def test_an_unsupported_abi_is_refused_with_both_versions(recording: Recording, major: int) -> None:
    fleet = recording.fleet
    assert fleet.daemon is not None
    for socket_type in (COMMAND_SOCKET, NOTIFY_SOCKET):
        with connect(fleet.application_socket) as connection:
            connection.sendall(registration_message(socket_type, major=major, name=b"otherworldly"))
            wait_closed(connection, f"a program of ABI {major}")
    log = fleet.daemon.log.read_text()
    (line, *_) = [line for line in log.splitlines() if "otherworldly" in line or re.search(r"\bABI\b", line)]
    versions = {int(number) for number in re.findall(r"\b(\d+)(?:\.\d+)?\b", line.partition("ABI")[2] or line)}
    assert major in versions, line
    assert versions & {8, 9}, line


def test_ten_thousand_connections_that_say_nothing(recording: Recording) -> None:
    fleet = recording.fleet
    silent = silent_connections(fleet.application_socket, 10_000)
    try:
        assert len(silent) > 1000
        program = fleet.program()  # registers although they are there
        program.emit(20)
        assert program.pid in fleet.registered_pids()
        fleet.stop("witness")
        assert fleet.read(recording.output).numbers(pid=program.pid) == list(range(20))
        fleet.run("start", "witness")
        for path in daemon_sockets(fleet):
            more = silent_connections(path, 200, deadline_s=5)
            assert fleet.run("list").returncode == 0
            for connection in more:
                connection.close()
    finally:
        for connection in silent:
            connection.close()


def test_a_program_that_never_answers_holds_up_nobody(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(OURS)
    fleet.start_daemon(env=NEVER_TIME_OUT)
    recording = Recording(fleet)
    with Pretender(fleet.application_socket) as pretender:
        pretender.next_request()  # the daemon waits for the answer now, for ever
        started = fleet.program()
        started.emit(5)
        assert not is_closed(pretender.command), "it was dropped, so this proves nothing"
    recording.assert_unharmed()


@pytest.mark.parametrize("answer", ["garbage", "short", "wrong handle", "endless", "hang-up", "huge value"])
def test_a_program_that_answers_nonsense_is_dropped(recording: Recording, answer: str) -> None:
    with Pretender(recording.fleet.application_socket) as pretender:
        handle, command = pretender.next_request()
        replies = {
            "garbage": garbage(3, REPLY_SIZE_BYTES),
            "short": struct.pack("<IIiI", handle, command, 0, 0),
            "wrong handle": struct.pack("<IIiI", handle + 1, command, 0, 0).ljust(REPLY_SIZE_BYTES, b"\0"),
            "endless": garbage(4, 1 << 20),
            "hang-up": b"",
            "huge value": struct.pack("<IIiI", handle, command, 2**31 - 1, 2**32 - 1).ljust(REPLY_SIZE_BYTES, b"\xff"),
        }
        pretender.command.settimeout(1)
        with contextlib.suppress(OSError):  # dropped before it had said everything
            pretender.command.sendall(replies[answer])
        if answer == "hang-up":
            pretender.close()
        elif answer != "short":
            wait_closed(pretender.command, f"a program that answers: {answer}")
        started = recording.fleet.program()
        started.emit(1)


@pytest.mark.parametrize(
    "notification",
    [
        garbage(5, 400),
        struct.pack("<I", 99) + bytes(400),
        # Event: session, channel, name, log level, and the lengths of signature, fields and model URI.
        struct.pack("<III256sIIII32x", EVENT_NOTIFICATION, 1, 2, b"a:b", 13, 2**32 - 1, 2**32 - 1, 2**32 - 1),
        struct.pack("<III256sIIII32x", EVENT_NOTIFICATION, 1, 2, b"x" * 256, 13, 1 << 20, 0, 0) + bytes(1 << 20),
        struct.pack("<IIII32x", CHANNEL_NOTIFICATION, 1, 2, 2**32 - 1),
        struct.pack("<II256sI32x", ENUM_NOTIFICATION, 1, b"e" * 256, 2**31),
        struct.pack("<I", EVENT_NOTIFICATION) + b"short",
    ],
    ids=["garbage", "unknown", "lengths", "long name", "channel", "enum", "truncated"],
)
def test_nonsense_on_the_notification_socket(recording: Recording, notification: bytes) -> None:
    with Pretender(recording.fleet.application_socket) as pretender:
        pretender.next_request()
        pretender.notify.settimeout(1)
        with contextlib.suppress(OSError):
            pretender.notify.sendall(notification)
        started = recording.fleet.program()
        started.emit(1)


def test_a_program_cannot_speak_for_another(recording: Recording) -> None:
    """The pid in a registration is not trusted: two connections of different processes make no program."""
    fleet = recording.fleet
    before = fleet.registered_pids()
    victim = fleet.program()
    message = bytearray(registration_message(COMMAND_SOCKET))
    struct.pack_into("<I", message, 12, victim.pid)
    with connect(fleet.application_socket) as connection:
        connection.sendall(bytes(message))
        victim.emit(10)
        assert fleet.registered_pids() == before | {victim.pid}
    fleet.stop("witness")
    assert fleet.read(recording.output).numbers(pid=victim.pid) == list(range(10))
    fleet.run("start", "witness")


# ---- the bus, past ZeroMQ's own framing ----


@pytest.fixture
def bus_peer(recording: Recording) -> Iterator[Callable[[Path], zmq.Socket[bytes]]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    opened: list[zmq.Socket[bytes]] = []

    def dial(path: Path) -> zmq.Socket[bytes]:
        peer = context.socket(zmq.DEALER)
        peer.linger = 0
        peer.connect(f"ipc://{path}")
        opened.append(peer)
        return peer

    yield dial
    for peer in opened:
        peer.close()
    context.term()


@pytest.mark.parametrize(
    "frames",
    [
        [b""],
        [b"", b""],
        [b"\xc1", b"\xc1"],  # never valid MessagePack
        [HEADER],  # a header without a body
        [HEADER, b"\x81\xa4type\xa7unknown"],
        [HEADER, b"\x81\xa4type\xadlist-sessions"],  # no hello before
        [HEADER, b"\xdd\xff\xff\xff\xff"],  # an array that claims 4 G elements
        [HEADER, b"\x91" * 100_000],  # nested deeply
        [HEADER, bytes(17 << 20)],  # above the size limit
        [garbage(6, 50), garbage(7, 50), garbage(8, 50), garbage(9, 50)],
    ],
    ids=[
        "empty",
        "two empty",
        "invalid",
        "no body",
        "unknown",
        "no hello",
        "array length",
        "nested",
        "oversized",
        "many frames",
    ],
)
def test_malformed_bus_messages(
    recording: Recording, bus_peer: Callable[[Path], zmq.Socket[bytes]], frames: list[bytes]
) -> None:
    """On the session daemon's bus socket and on the consumer daemon's."""
    for path in daemon_sockets(recording.fleet):
        peer = bus_peer(path)
        peer.sndtimeo = 1000
        for _ in range(3):
            try:
                peer.send_multipart(frames)
            except zmq.Again:
                break  # no ZeroMQ there
    assert recording.fleet.run("list").returncode == 0


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ({"type": "list-sessions"}, ["hello"]),
        ({"type": "hello", "protocol_major": 99, "protocol_minor": 7, "software": "later"}, ["99.7", "1.0"]),
    ],
    ids=["no hello", "another version"],
)
def test_who_does_not_begin_properly_is_told_so(
    recording: Recording,
    bus_peer: Callable[[Path], zmq.Socket[bytes]],
    request_: dict[str, object],
    words: list[str],
) -> None:
    (path,) = [path for path in daemon_sockets(recording.fleet) if path.name == "tracefleet-sessiond"]
    peer = bus_peer(path)
    peer.rcvtimeo = int(1000 * DEADLINE_S)
    peer.send_multipart([HEADER, msgspec.msgpack.encode(request_)])
    header, body = map(msgspec.msgpack.decode, peer.recv_multipart())
    assert header == {"request_id": 1, "is_error": True}
    assert body["type"] == "error"
    for word in words:
        assert word in body["message"].lower(), body


def test_a_client_that_reads_no_replies_holds_up_nobody(
    recording: Recording, bus_peer: Callable[[Path], zmq.Socket[bytes]]
) -> None:
    (path,) = [path for path in daemon_sockets(recording.fleet) if path.name == "tracefleet-sessiond"]
    peer = bus_peer(path)
    peer.rcvhwm = 1
    peer.sndtimeo = 100
    for _ in range(20_000):
        try:
            peer.send_multipart([HEADER, b"\x81\xa4type\xadlist-sessions"])
        except zmq.Again:
            break
    assert recording.fleet.run("list").returncode == 0


def test_a_dead_program_is_forgotten(recording: Recording) -> None:
    programs: list[Program] = [recording.fleet.program() for _ in range(4)]
    for program in programs:
        program.kill()
    recording.fleet.wait_unregistered(*[program.pid for program in programs])
    wait_until(lambda: recording.early.pid in recording.fleet.registered_pids(), "the survivor")
