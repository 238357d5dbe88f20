"""The small ZMTP client against libzmq itself, and against peers that break the protocol."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from tracefleet_common.errors import InvalidArgument, RemoteProtocolError, TransportError
from tracefleet_common.transport import zmtp_client
from tracefleet_common.transport.zmtp_client import GREETING, ZmtpClient, encode_frame, encode_message

DEADLINE_S = 5.0
READY_FRAME = encode_frame(b"\x05READY", zmtp_client.IS_COMMAND)


def connect(address: str, *, size_bytes_max: int = 1_000_000) -> ZmtpClient:
    return ZmtpClient(address, connect_deadline_s=DEADLINE_S, message_size_bytes_max=size_bytes_max)


@pytest.fixture(params=["ipc", "tcp"])
def router(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[zmq.Socket[bytes]]:
    """A ROUTER of libzmq; its address is its LAST_ENDPOINT."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as peer:
        peer.linger = 0
        peer.rcvtimeo = int(DEADLINE_S * 1000)
        peer.bind(f"ipc://{tmp_path}/bus" if request.param == "ipc" else "tcp://127.0.0.1:*")
        yield peer


def address_of(peer: zmq.Socket[bytes]) -> str:
    return peer.getsockopt_string(zmq.LAST_ENDPOINT)


def test_messages_of_every_length_of_frame(router: zmq.Socket[bytes]) -> None:
    client = connect(address_of(router))
    sizes = (0, 1, 255, 256, 70_000)
    received: list[list[bytes]] = []

    def echo() -> None:
        for _ in range(2):
            received.append(router.recv_multipart())
            router.send_multipart(received[-1])

    peer = threading.Thread(target=echo)
    peer.start()
    client.send([bytes(size) for size in sizes], [b"second"], deadline_s=DEADLINE_S)
    assert [len(frame) for frame in client.receive(deadline_s=DEADLINE_S)] == list(sizes)
    assert client.receive(deadline_s=DEADLINE_S) == [b"second"]
    peer.join()
    client.close()


def test_pings_are_answered(tmp_path: Path) -> None:
    """The peer drops the connection when its pings stay without an answer."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        router.setsockopt(zmq.HEARTBEAT_IVL, 20)
        router.setsockopt(zmq.HEARTBEAT_TIMEOUT, 60)
        router.bind(f"ipc://{tmp_path}/bus")
        client = connect(f"ipc://{tmp_path}/bus")
        client.send([b"hello"], deadline_s=DEADLINE_S)
        identity, _ = router.recv_multipart()
        with pytest.raises(TransportError, match="within the deadline"):
            client.receive(deadline_s=0.2)
        router.send_multipart([identity, b"still there"])
        assert client.receive(deadline_s=DEADLINE_S) == [b"still there"]


def test_a_message_that_is_too_large_is_not_read(router: zmq.Socket[bytes]) -> None:
    client = connect(address_of(router), size_bytes_max=1000)
    client.send([b"hello"], deadline_s=DEADLINE_S)
    identity, _ = router.recv_multipart()
    router.send_multipart([identity, bytes(600), bytes(600)])
    with pytest.raises(RemoteProtocolError, match="announces a frame of 600 bytes"):
        client.receive(deadline_s=DEADLINE_S)


def test_who_waits_is_told(router: zmq.Socket[bytes]) -> None:
    client = connect(address_of(router))
    client.send([b"hello"], deadline_s=DEADLINE_S)
    identity, _ = router.recv_multipart()
    ticks = 0

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        if ticks == 3:
            router.send_multipart([identity, b"at last"])

    client.is_waiting = tick
    client.waiting_period_s = 0.001
    assert client.receive(deadline_s=DEADLINE_S) == [b"at last"]
    assert ticks >= 3


def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(TransportError, match="Cannot connect"):
        connect(f"ipc://{tmp_path}/nobody")


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ipc://",
        "nonsense",
        "udp://x:1",
        "tcp://host",
        "tcp://:1",
        "tcp://h:x",
        "tcp://h:99999",
        f"ipc:///{'x' * 107}",
    ],
)
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(InvalidArgument):
        connect(address)


# What a broken peer sends, and how the client takes it.
@pytest.mark.parametrize(
    ("sent", "error", "words"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", RemoteProtocolError, "does not speak ZMTP"),
        (GREETING[:10] + b"\x01" + GREETING[11:], RemoteProtocolError, "another version of ZMTP"),
        (GREETING.replace(b"NULL", b"CURV"), RemoteProtocolError, "or with encryption"),
        (GREETING[:40], TransportError, "closed the connection"),
        (GREETING + encode_message([b"x"]), RemoteProtocolError, "announces a frame of 1 bytes"),
        (GREETING + encode_message([b""]), RemoteProtocolError, "before it is ready"),
        (GREETING + encode_frame(b"\x05ERROR\x04nope", zmtp_client.IS_COMMAND), TransportError, "refuses.*nope"),
        (GREETING + READY_FRAME + b"\x80", RemoteProtocolError, "unknown flags"),
        (GREETING + READY_FRAME + b"\x02" + b"\xff" * 8, RemoteProtocolError, "announces a frame of"),
        (GREETING + READY_FRAME + encode_message([b""] * 17), RemoteProtocolError, "too many frames"),
        (GREETING + READY_FRAME + b"\x00\x09abc", TransportError, "closed the connection"),
    ],
    ids=lambda value: None if isinstance(value, bytes) else str(value),
)
def test_a_peer_that_breaks_the_protocol(sent: bytes, error: type[Exception], words: str, tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/peer")
        listener.listen()
        client = connect(f"ipc://{tmp_path}/peer")
        peer, _ = listener.accept()
        with peer:
            peer.sendall(sent)
            peer.shutdown(socket.SHUT_WR)
            with pytest.raises(error, match=words):
                client.send([b"hello"], deadline_s=DEADLINE_S)
                client.receive(deadline_s=DEADLINE_S)


def test_a_peer_that_says_nothing(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/peer")
        listener.listen()
        client = connect(f"ipc://{tmp_path}/peer")
        with pytest.raises(TransportError, match="within the deadline"):
            client.send([b"hello"], deadline_s=0.05)
