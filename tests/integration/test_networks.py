"""The link between worlds does what tests ask of it."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

import pytest
from fleet import Fleet
from networks import FAR_ADDRESS, Link, has_tun
from world import World

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not has_tun(), reason="no /dev/net/tun: no network to disturb"),
]
SIZE_BYTES = 1_000_000
RECEIVE = f"""
import socket
listener = socket.create_server(("{FAR_ADDRESS}", 7000))
print("ready", flush=True)
while True:
    connection, _ = listener.accept()
    with connection:
        size = 0
        while data := connection.recv(65536):
            size += len(data)
        connection.sendall(b"%d" % size)
"""
SEND = f"""
import socket, sys
connection = socket.create_connection(("{FAR_ADDRESS}", 7000))
connection.sendall(bytes(int(sys.argv[1])))
connection.shutdown(socket.SHUT_WR)
assert int(connection.recv(100)) == int(sys.argv[1])
"""


def time_to_send(near: World, size_bytes: int) -> float:
    begin = time.monotonic()
    sent = near.run(["/usr/bin/python3", "-c", SEND, str(size_bytes)])
    assert sent.returncode == 0, sent
    return time.monotonic() - begin


def test_a_link_delays_limits_loses_and_breaks(
    make_fleet: Callable[..., Fleet], make_link: Callable[..., Link]
) -> None:
    near, far = make_fleet().world, make_fleet().world
    link = make_link(near, far)
    receiver = far.popen(["/usr/bin/python3", "-c", RECEIVE], stdout=subprocess.PIPE)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == b"ready\n"
    time_to_send(near, SIZE_BYTES)
    assert link.lost_count == 0
    link.shape(delay_ms=100)
    assert time_to_send(near, 1) > 0.4, "a round trip to connect, one for the data and its answer"
    link.shape(rate_bytes_per_s=2 * SIZE_BYTES)
    assert time_to_send(near, SIZE_BYTES) > 0.3, "half a second, less what the backlog holds"
    link.shape(loss=0.05)
    time_to_send(near, SIZE_BYTES)
    assert link.lost_count > 0
    link.shape()
    link.cut()
    stuck = near.popen(["/usr/bin/python3", "-c", SEND, "1"])
    with pytest.raises(subprocess.TimeoutExpired):
        stuck.wait(0.5)
    link.mend()
    assert stuck.wait(30) == 0
