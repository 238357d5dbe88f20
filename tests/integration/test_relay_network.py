"""LTTng's protocols over a line that is slow, long, lossy or cut: recording goes on, and the books balance."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
from deadlines import wait_until
from fleet import GENUINE, OURS, Fleet, Kind, has_genuine
from networks import FAR_ADDRESS, NEAR_ADDRESS, Link, has_tun
from relay_producers import RawProducer
from relays import GENUINE_RELAY, OUR_RELAY, LiveViewer, Relay, RelayKind, create_streamed, wait_attached

pytestmark = [
    pytest.mark.root,
    pytest.mark.fault,
    pytest.mark.skipif(not has_tun(), reason="no /dev/net/tun: no network to disturb"),
    pytest.mark.skipif(not has_genuine(), reason="lttng-tools is not installed: no peer"),
]
RULE = "tf_emit:*"
CHANNEL = ("--subbuf-size=65536", "--num-subbuf=4", "c1")
BULK_SIZE_BYTES = 8000
PERIOD_US = 100_000


@dataclass
class Line:
    """A session daemon here, a relay daemon there."""

    fleet: Fleet
    relay: Relay
    link: Link

    def emit(self, count: int) -> int:
        """Emit about `count` times 80 kB, at the pace of somebody who is not held up; how many records."""
        program = self.fleet.program()
        emitted = sum(program.ask(f"bulky 10 {BULK_SIZE_BYTES}", deadline_s=10) for _ in range(count))
        assert program.end() == 0
        return emitted

    def check_books(self, emitted: int, session: str = "s1") -> int:
        """Assert that what was emitted is recorded or counted, on the other side; how much was recorded."""
        directory = self.relay.session_directory(session)
        reading = self.fleet.read(directory)
        recorded = len(reading.events)
        assert recorded + reading.discarded_event_count == emitted
        verified = self.fleet.world.run([OURS.command, "verify", directory, f"--emitted={emitted}"])
        assert verified.returncode == 0, verified
        return recorded


@pytest.fixture(
    params=[(GENUINE, OUR_RELAY), (OURS, GENUINE_RELAY), (OURS, OUR_RELAY)],
    ids=lambda pair: f"{pair[0].name}-{pair[1].name}",
)
def line(request: pytest.FixtureRequest, make_fleet: Callable[..., Fleet], make_link: Callable[..., Link]) -> Line:
    consumer: Kind
    kind: RelayKind
    consumer, kind = request.param
    near, far = make_fleet(consumer), make_fleet(OURS)
    link = make_link(near.world, far.world)
    relay = Relay(far, kind=kind)
    near.start_daemon()
    return Line(near, relay, link)


def test_a_line_that_is_long_slow_and_lossy(line: Line) -> None:
    line.link.shape(delay_ms=10, loss=0.01, rate_bytes_per_s=4e6)
    create_streamed(line.fleet, channel=CHANNEL, url=f"net://{FAR_ADDRESS}")
    emitted = line.emit(50)  # 4 MB, in much less than the second that they take on the line
    line.fleet.stop()
    line.fleet.run("start", "s1")
    program = line.fleet.program()
    emitted += program.emit(100)  # finds empty buffers
    line.fleet.destroy()
    assert line.link.lost_count > 0
    assert 100 < line.check_books(emitted) < emitted
    assert line.fleet.read(line.relay.session_directory()).numbers() == list(range(100))


def test_a_line_that_is_cut_for_a_while(line: Line) -> None:
    """TCP sends again what was lost; what finds no room in the buffers meanwhile is counted."""
    local = line.fleet.record(RULE, session="here", channel=("--subbuf-size=1M", "--num-subbuf=8", "big"))
    create_streamed(line.fleet, channel=CHANNEL, url=f"net://{FAR_ADDRESS}")
    emitted = line.emit(2)
    line.link.cut()
    for _ in range(10):
        emitted += line.emit(5)  # more than sockets and ring buffers hold
    with RawProducer(line.relay.world, "beside", session_id=9) as other:  # it is on that side of the cut
        handle = other.add("c_0")
        other.send(handle, 0, bytes(4096))
        other.ask(other.index(handle, 0, 4096))
        other.wait_arrived(handle, 0)
    lost_count = line.link.lost_count
    wait_until(lambda: line.link.lost_count > lost_count, "TCP to send again, in vain")
    line.link.mend()
    line.fleet.destroy()
    line.check_books(emitted)
    line.fleet.destroy("here")
    if line.fleet.kind is OURS:  # lttng-consumerd writes nothing while it waits for the line
        assert len(line.fleet.read(local).events) == emitted


def test_a_live_viewer_at_the_end_of_a_slow_line(
    make_fleet: Callable[..., Fleet], make_link: Callable[..., Link]
) -> None:
    """It sees everything, later than others, and holds up nobody."""
    near, far = make_fleet(OURS), make_fleet(OURS)
    link = make_link(near.world, far.world)
    relay = Relay(near, "--live-port=tcp://0.0.0.0:5344")
    near.start_daemon()
    create_streamed(near, "s1", f"--live={PERIOD_US}", channel=("c1",), is_started=False)
    viewers = [
        LiveViewer(near.world, "s1"),
        LiveViewer(far.world, "s1", address=NEAR_ADDRESS),
    ]
    wait_attached(near.world, "s1", 2)
    link.shape(delay_ms=20, loss=0.005, rate_bytes_per_s=200e3)
    near.run("start", "s1")
    program = near.program()
    program.ask(f"bulky 100 {BULK_SIZE_BYTES}")  # four seconds on that line
    program.emit(10)
    viewers[0].wait_for_number(109)
    assert 109 not in viewers[1].numbers()
    viewers[1].wait_for_number(109)
    near.destroy()
    for viewer in viewers:
        assert viewer.wait() == 0, viewer.complaint
        assert viewer.text.count("tf_emit:bulky") == 100
    assert near.read(relay.session_directory()).numbers() == list(range(100, 110))
