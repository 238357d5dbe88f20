"""Two worlds joined by a link whose delay, loss and rate the test sets, and which it may cut.

The link is a TUN device in each world and a thread of the test that carries IP packets between the two. Not a veth
pair with `tc netem`: many kernels are built without netem (those of small virtual machines, for one), and here a
seed says which packets are lost. Nothing is left behind: a TUN device goes with its descriptor or its world.
"""

from __future__ import annotations

import os
import random
import select
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field, replace
from pathlib import Path

from deadlines import DEADLINE_S
from world import World

NEAR_ADDRESS, FAR_ADDRESS = "10.117.0.1", "10.117.0.2"
INTERFACE = "tf0"
MTU_BYTES = 1500
# What a router keeps while its line is busy. Beyond it, packets are lost, and that is how TCP learns of the rate.
BACKLOG_SIZE_BYTES_MAX = 256 << 10
BATCH_COUNT_MAX = 64
# Opens a TUN device inside the world, hands its descriptor out over its standard input.
OPEN_TUN = f"""
import fcntl, os, socket, struct, subprocess, sys
device = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(device, 0x400454CA, struct.pack("16sH22x", b"{INTERFACE}", 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
address, peer = sys.argv[1:]
subprocess.run(["ip", "address", "add", address, "peer", peer, "dev", "{INTERFACE}"], check=True)
subprocess.run(["ip", "link", "set", "{INTERFACE}", "mtu", "{MTU_BYTES}", "txqueuelen", "2000", "up"], check=True)
socket.send_fds(socket.socket(fileno=0), [b"x"], [device])
"""


def has_tun() -> bool:
    """Whether this process may make TUN devices in worlds."""
    return os.geteuid() == 0 and Path("/dev/net/tun").exists()


@dataclass(frozen=True)
class Condition:
    """What one direction of a link does to packets. `loss`: 0 to 1, of packets; no rate: as fast as it goes."""

    delay_s: float = 0.0
    loss: float = 0.0
    rate_bytes_per_s: float | None = None
    is_cut: bool = False


@dataclass
class _Direction:
    source: int
    target: int
    chance: random.Random
    condition: Condition = field(default_factory=Condition)
    carried_count: int = 0
    lost_count: int = 0
    _under_way: deque[tuple[float, bytes]] = field(default_factory=deque)  # with the time of arrival
    _line_free_at: float = 0.0

    def take(self, now: float) -> None:
        """Read packets that the near end sends; each is lost or gets its time of arrival."""
        condition = self.condition
        for _ in range(BATCH_COUNT_MAX):
            try:
                packet = os.read(self.source, 65536)
            except BlockingIOError:
                return
            rate = condition.rate_bytes_per_s
            departure = now
            if rate is not None:
                departure = max(now, self._line_free_at)
                if (departure - now) * rate > BACKLOG_SIZE_BYTES_MAX:
                    self.lost_count += 1
                    continue
                departure += len(packet) / rate
                self._line_free_at = departure
            if condition.is_cut or self.chance.random() < condition.loss:
                self.lost_count += 1
                continue
            arrival = departure + condition.delay_s
            if self._under_way:
                arrival = max(arrival, self._under_way[-1][0])  # one line: nobody overtakes
            self._under_way.append((arrival, packet))

    def deliver(self, now: float) -> None:
        while self._under_way and self._under_way[0][0] <= now:
            _, packet = self._under_way.popleft()
            if self.condition.is_cut:
                self.lost_count += 1
                continue
            try:
                os.write(self.target, packet)
                self.carried_count += 1
            except OSError:  # the interface is down, or its world has gone
                self.lost_count += 1

    @property
    def next_arrival(self) -> float | None:
        return self._under_way[0][0] if self._under_way else None


class Link:
    """A line between two worlds; `NEAR_ADDRESS` is one, `FAR_ADDRESS` the other. Close it before its worlds."""

    def __init__(self, near: World, far: World, *, seed: int = 1) -> None:
        near_end, far_end = _open_end(near, NEAR_ADDRESS, FAR_ADDRESS), _open_end(far, FAR_ADDRESS, NEAR_ADDRESS)
        self._ends = [near_end, far_end]
        chance = random.Random(seed)
        self._there = _Direction(near_end, far_end, chance)
        self._back = _Direction(far_end, near_end, chance)
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._carry, name="link", daemon=True)
        self._thread.start()

    @property
    def carried_count(self) -> int:
        """Packets that arrived, in both directions."""
        return self._there.carried_count + self._back.carried_count

    @property
    def lost_count(self) -> int:
        return self._there.lost_count + self._back.lost_count

    def shape(self, *, delay_ms: float = 0.0, loss: float = 0.0, rate_bytes_per_s: float | None = None) -> None:
        """From now on. The delay is that of one way."""
        for direction in (self._there, self._back):
            direction.condition = replace(
                direction.condition, delay_s=delay_ms / 1000, loss=loss, rate_bytes_per_s=rate_bytes_per_s
            )

    def cut(self, *, is_both_ways: bool = True) -> None:
        """Lose everything, in silence, as behind a pulled cable; only what goes from near to far otherwise."""
        self._there.condition = replace(self._there.condition, is_cut=True)
        self._back.condition = replace(self._back.condition, is_cut=is_both_ways)

    def mend(self) -> None:
        """What was sent while the link was cut is lost; TCP sends it again."""
        for direction in (self._there, self._back):
            direction.condition = replace(direction.condition, is_cut=False)

    def close(self) -> None:
        """Take the interfaces away. A second call does nothing."""
        if not self._ends:
            return
        self._wake.close()
        self._thread.join(DEADLINE_S)
        assert not self._thread.is_alive(), "the thread of a link does not end"
        self._woken.close()
        for end in self._ends:
            os.close(end)
        self._ends = []

    def _carry(self) -> None:
        waiting = select.poll()
        for descriptor in (*self._ends, self._woken.fileno()):
            waiting.register(descriptor, select.POLLIN)
        directions = (self._there, self._back)
        while True:
            arrivals = [direction.next_arrival for direction in directions if direction.next_arrival is not None]
            timeout_ms = max(0.0, 1000 * (min(arrivals) - time.monotonic())) if arrivals else None
            ready = [descriptor for descriptor, _ in waiting.poll(timeout_ms)]
            if self._woken.fileno() in ready:
                return
            now = time.monotonic()
            for direction in directions:
                if direction.source in ready:
                    direction.take(now)
                direction.deliver(now)


def _open_end(world: World, address: str, peer: str) -> int:
    here, there = socket.socketpair()
    with here, there:
        helper = world.popen(["/usr/bin/python3", "-c", OPEN_TUN, address, peer], uid=0, stdin=there.fileno())
        there.close()
        here.settimeout(DEADLINE_S)
        _, descriptors, _, _ = socket.recv_fds(here, 1, 1)
        helper.wait(DEADLINE_S)
    assert descriptors, "cannot make a TUN device"
    os.set_blocking(descriptors[0], False)
    return descriptors[0]
