"""The relay daemon as a process: how it starts, what it refuses, what it says of itself, beside the genuine one."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from deadlines import DEADLINE_S, wait_until
from fleet import GENUINE, Fleet, has_genuine
from relays import GENUINE_RELAY, LIVE_PORT, OUR_RELAY, Relay, is_listening
from world import Result, World, is_alive

from tracefleet_common.errors import NotFound, RemoteProtocolError
from tracefleet_common.messages.relayd_control import (
    DescribeRelay,
    DescribeRelaySession,
    ListRelaySessions,
    RelaydReply,
    RelayInfo,
    RelaySessionDetails,
    RelaySessionList,
    RelaySums,
)
from tracefleet_common.model.relay_output import FLEET_DATA_PORT_DEFAULT, FLEET_PORT_DEFAULT
from tracefleet_common.transport.control_link import ControlLink

INDEX_HEADER_SIZE_BYTES, INDEX_ENTRY_SIZE_BYTES = 16, 72
OTHER_PORTS = ("-C", "tcp://127.0.0.1:1", "-D", "tcp://127.0.0.1:2", "-L", "tcp://127.0.0.1:3")
HEALTH_CHECK = """
import ctypes
lttng = ctypes.CDLL("liblttng-ctl.so.0")
lttng.lttng_health_create_relayd.restype = ctypes.c_void_p
health = ctypes.c_void_p(lttng.lttng_health_create_relayd(b"{path}"))
assert health and lttng.lttng_health_query(health) == 0
print(lttng.lttng_health_state(health))
"""


def start(world: World, *options: str | Path, program: Path = OUR_RELAY.program) -> Result:
    return world.run([program, *options])


def bus_of(world: World) -> Path | None:
    """The bus socket of the one relay daemon of the world."""
    found = list((world.run_directory / "relayd").glob("bus-*"))
    return found[0] if found else None


def ask(bus: Path, *requests: msgspec.Struct) -> list[Any]:
    """The replies of a relay daemon."""

    async def converse() -> list[Any]:
        link = ControlLink(f"ipc://{bus}", RelaydReply, software="test")
        await link.connect(DEADLINE_S)
        try:
            return [await link.request(request, deadline_s=DEADLINE_S) for request in requests]
        finally:
            await link.close()

    return asyncio.run(converse())


# ---- starting and stopping ----


@pytest.mark.parametrize("is_root", [True, False], ids=["root", "ordinary"])
@pytest.mark.parametrize("mode", ["--daemonize", "--background"])
def test_a_unix_daemon_listens_when_its_parent_returns(
    make_fleet: Callable[..., Fleet], is_root: bool, mode: str
) -> None:
    world = make_fleet(is_root=is_root).world
    result = start(world, mode)
    assert result.returncode == 0, result
    assert all(is_listening(world, port) for port in (5342, 5343, 5344))
    bus = bus_of(world)
    assert bus is not None
    pid = int(bus.name.removeprefix("bus-"))
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    console = [str(Path(f"/proc/{pid}/fd/{descriptor}").readlink()) for descriptor in (0, 1, 2)]
    assert (console == ["/dev/null"] * 3) == (mode == "--daemonize")
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not is_alive(pid), "the relay daemon to stop")
    assert list((world.run_directory / "relayd").iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_that_stop_in_order(make_fleet: Callable[..., Fleet], number: signal.Signals) -> None:
    fleet = make_fleet()
    relay = Relay(fleet)
    relay.process.send_signal(number)
    assert relay.process.wait(DEADLINE_S) == 0
    assert list((fleet.world.run_directory / "relayd").iterdir()) == []


@pytest.mark.parametrize("mode", [[], ["--daemonize"]], ids=["foreground", "daemon"])
def test_a_port_that_is_taken(make_fleet: Callable[..., Fleet], mode: list[str]) -> None:
    fleet = make_fleet()
    relay = Relay(fleet)
    result = start(fleet.world, *mode, "--control-port=tcp://0.0.0.0:6000")
    assert result.returncode == 1
    assert result.stderr == "Error: Cannot listen on tcp://0.0.0.0:5343: Address already in use\n"
    assert not is_listening(fleet.world, 6000)
    # Two of them are possible, on other ports and over one output directory.
    assert start(fleet.world, "-d", f"--output={relay.output}", *OTHER_PORTS).returncode == 0
    assert len(list((fleet.world.run_directory / "relayd").glob("bus-*"))) == 2
    assert relay.stop() == 0


@pytest.mark.skipif(not has_genuine(), reason="lttng-tools is not installed")
def test_all_ports_are_free_beside_genuine_daemons(make_fleet: Callable[..., Fleet]) -> None:
    """LTTng's session daemon listens for agents, close to the ports of relay daemons."""
    fleet = make_fleet(GENUINE)
    fleet.start_daemon()
    relay = Relay(fleet)
    for port in (FLEET_PORT_DEFAULT, FLEET_DATA_PORT_DEFAULT):
        assert is_listening(fleet.world, port)
    assert "Takes no fleet://" not in relay.log.read_text()
    assert relay.stop() == 0


def test_a_killed_daemon_is_followed_by_one_with_its_number(make_fleet: Callable[..., Fleet]) -> None:
    """In a container every relay daemon has process id 1, and finds the sockets of the one before."""
    fleet = make_fleet()
    path = fleet.world.home / "bus"
    relay = Relay(fleet, f"--bus-sock={path}", env={"LTTNG_RELAYD_HEALTH": str(fleet.world.home / "health")})
    wait_until(path.is_socket, "the bus, which is served last")
    relay.process.kill()
    relay.process.wait(DEADLINE_S)
    assert path.is_socket()
    again = Relay(fleet, f"--bus-sock={path}")
    refused = start(fleet.world, f"--bus-sock={path}", *OTHER_PORTS)
    assert refused.returncode == 1
    # Before, it may have warned that the ports of fleet:// are taken.
    assert refused.stderr.endswith(f"Error: A relay daemon answers on {path} already\n")
    assert ask(path, DescribeRelay())[0].pid == again.pid
    assert again.stop() == 0
    assert not path.exists()


def test_files_and_environment(make_fleet: Callable[..., Fleet]) -> None:
    world = make_fleet().world
    output, work = world.home / "out", world.home / "work"
    work.mkdir()
    (world.home / ".lttng").mkdir()
    (world.home / ".lttng/lttng.conf").write_text(f"[relayd]\nlive-port=tcp://127.0.0.1:7000\noutput={output}\n")
    result = world.run(
        [OUR_RELAY.program, "-d", "--data-port=tcp6://[::1]"], env={"LTTNG_RELAYD_WORKING_DIRECTORY": str(work)}
    )
    assert result.returncode == 0, result
    assert is_listening(world, 7000) and not is_listening(world, LIVE_PORT)
    assert output.is_dir()
    bus = bus_of(world)
    assert bus is not None
    (info,) = ask(bus, DescribeRelay())
    assert (info.output_directory, info.data_url) == (str(output), "tcp6://[::1]:5343")
    assert Path(f"/proc/{info.pid}/cwd").readlink() == work


@pytest.mark.parametrize(
    ("limits", "options", "capacity"),
    [("-n 256", [], 246), ("-Sn 256", ["--fd-pool-size=200"], 190), ("-Sn 256; ulimit -Hn 512", [], 502)],
)
def test_the_limit_of_open_files(
    make_fleet: Callable[..., Fleet], limits: str, options: list[str], capacity: int
) -> None:
    world = make_fleet().world
    command = " ".join([str(OUR_RELAY.program), "-d", *options])
    assert world.run(["bash", "-c", f"ulimit {limits}; exec {command}"]).returncode == 0
    bus = bus_of(world)
    assert bus is not None
    (info,) = ask(bus, DescribeRelay())
    assert info.descriptors.capacity == capacity
    assert 10 < info.descriptors.reserved_count < 50  # its own


# ---- refusals, in the words of the genuine one ----

REFUSALS = [
    ["-p", "-s"],
    ["-o", "relative"],
    ["-o", ""],
    ["--fd-pool-size=99"],
    ["--fd-pool-size=0"],
    ["--fd-pool-size=99999999"],
    ["--fd-pool-size=abc"],
    ["-C", "tcp://0.0.0.0:0"],
    ["-D", "tcp://0.0.0.0:99999"],
    ["-C", "foo://x"],
    ["-C", "127.0.0.1:6000"],
    ["-L", ""],
    ["-D", "tcp://nowhere.invalid:6000"],
    ["-C", "tcp://[::1]:6001"],
    ["-V"],
    ["--bogus"],
    ["--output"],
    ["--daemonize=yes"],
    ["-f", "/nonexistent"],
]
# getopt_long(3) names the program and has words of its own; ours says more about a file that cannot be opened.
OTHER_WORDS = ("-V", "--bogus", "--output", "--daemonize=yes", "-f")


@pytest.mark.parametrize("options", REFUSALS, ids=" ".join)
def test_refusals_are_those_of_the_genuine_one(make_fleet: Callable[..., Fleet], options: list[str]) -> None:
    if not has_genuine():
        pytest.skip("lttng-tools is not installed: nothing to compare with")
    world = make_fleet().world
    ours, genuine = (start(world, *options, program=kind.program) for kind in (OUR_RELAY, GENUINE_RELAY))
    assert ours.returncode == genuine.returncode
    if options[0] not in OTHER_WORDS:
        assert (ours.stdout, ours.stderr) == (genuine.stdout, genuine.stderr)
    elif options[0] != "-V":
        assert ours.stderr.startswith("Error: ")
        assert ours.stderr.count("\n") == 1


@pytest.mark.parametrize("limit", [90, 99])
def test_too_few_open_files_are_refused_as_by_the_genuine_one(make_fleet: Callable[..., Fleet], limit: int) -> None:
    if not has_genuine():
        pytest.skip("lttng-tools is not installed: nothing to compare with")
    world = make_fleet().world
    ours, genuine = (
        world.run(["bash", "-c", f"ulimit -n {limit}; exec {kind.program}"]) for kind in (OUR_RELAY, GENUINE_RELAY)
    )
    assert (ours.returncode, ours.stderr) == (genuine.returncode, genuine.stderr)
    assert ours.returncode == 1


def test_what_the_genuine_one_fails_at_with_success(make_fleet: Callable[..., Fleet]) -> None:
    """It exits with status 0 when it cannot do as told (reference: relay-protocol.md, 19); we do not."""
    world = make_fleet().world
    result = start(world, "-w", "/nonexistent")
    assert result.returncode == 1
    assert result.stderr == 'Error: Failed to change working directory to "/nonexistent": No such file or directory\n'
    result = start(world, "-o", "/proc/nope")
    assert (result.returncode, result.stderr) == (1, "Error: Unable to create /proc/nope: No such file or directory\n")
    result = world.run([OUR_RELAY.program], env={"LTTNG_RELAYD_DISALLOW_CLEAR": "maybe"})
    assert result.returncode == 1
    assert result.stderr == "Error: Invalid value for LTTNG_RELAYD_DISALLOW_CLEAR specified\n"


# ---- what it tells ----


def test_lttngs_health_check(make_fleet: Callable[..., Fleet]) -> None:
    if not has_genuine():
        pytest.skip("lttng-tools is not installed: its library checks the health")
    fleet = make_fleet()
    relay = Relay(fleet)
    script = HEALTH_CHECK.format(path=f"/run/lttng/relayd/health-{relay.pid}")
    for _ in range(2):
        result = fleet.world.run(["/usr/bin/python3", "-c", script])
        assert (result.returncode, result.stdout) == (0, "0\n"), result
    assert relay.stop() == 0


def test_only_who_may_asks(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    relay = Relay(fleet)
    for name in ("bus", "health"):
        assert (fleet.world.run_directory / f"relayd/{name}-{relay.pid}").stat().st_mode & 0o777 == 0o660


def test_sums_are_those_of_the_files(make_fleet: Callable[..., Fleet]) -> None:
    """A genuine session streams to us; what we tell of it is what lies on the disk."""
    if not has_genuine():
        pytest.skip("lttng-tools is not installed: nobody streams")
    fleet = make_fleet(GENUINE)
    relay = Relay(fleet)
    fleet.start_daemon()
    bus = bus_of(fleet.world)
    assert bus is not None
    fleet.run("create", "s", "--set-url=net://localhost")
    fleet.run("enable-channel", "-u", "--subbuf-size=4096", "--num-subbuf=2", "c")
    fleet.run("enable-event", "-u", "tf_emit:*", "-c", "c")
    program = fleet.program()
    fleet.wait_registered(program.pid)
    fleet.run("start")
    with fleet.paused_consumer():
        program.emit(5000)
    fleet.run("stop")
    discarded, _ = fleet.books("s", "c")
    assert discarded > 0
    info, sessions = ask(bus, DescribeRelay(), ListRelaySessions())
    assert isinstance(info, RelayInfo) and isinstance(sessions, RelaySessionList)
    (session,) = sessions.sessions
    assert (session.session_name, session.host_name) == ("s", os.uname().nodename)
    assert (session.live_timer_us, session.viewer_count, session.is_closed) == (0, 0, False)
    (details,) = ask(bus, DescribeRelaySession(session.session_id))
    assert isinstance(details, RelaySessionDetails)
    trace = relay.output / session.output
    for stream in details.streams:
        data = trace / stream.path / stream.channel_name
        assert stream.sums.bytes == data.stat().st_size
        if not stream.is_metadata:
            index_size_bytes = (data.parent / "index" / f"{data.name}.idx").stat().st_size
            entry_count = (index_size_bytes - INDEX_HEADER_SIZE_BYTES) // INDEX_ENTRY_SIZE_BYTES
            assert stream.sums.index_entry_count == stream.sums.packet_count == entry_count
    assert {stream.channel_name for stream in details.streams} >= {"c_0", "metadata"}
    assert session.sums.loss.discarded_event_count == discarded
    assert session.sums.loss.missing_packet_count == session.sums.loss.unmatched_packet_count == 0
    assert session.sums.lagging_packet_count == 0
    assert session.sums.acknowledged_packet_count is None
    assert sum_of([stream.sums for stream in details.streams]) == (session.sums.packet_count, session.sums.bytes)
    assert (info.session_count, info.stream_count) == (1, len(details.streams))
    assert (info.packet_count, info.bytes) == (session.sums.packet_count, session.sums.bytes)
    fleet.run("destroy")

    wait_until(lambda: ask(bus, DescribeRelay())[0].session_count == 0, "the session to be over")
    (info,) = ask(bus, DescribeRelay())
    assert info.packet_count == session.sums.packet_count
    with pytest.raises(NotFound):
        ask(bus, DescribeRelaySession(session.session_id))
    with pytest.raises(RemoteProtocolError):
        ask(bus, DescribeRelaySession("nonsense"))  # type: ignore[arg-type]
    assert relay.stop() == 0
    assert not re.search("Still open at the end|ERROR|CRITICAL", relay.log.read_text())


def sum_of(sums: list[RelaySums]) -> tuple[int, int]:
    return sum(each.packet_count for each in sums), sum(each.bytes for each in sums)


def test_many_more_files_than_descriptors(make_fleet: Callable[..., Fleet]) -> None:
    """Every channel has a data and an index file per CPU; a hundred descriptors have to do for several hundred."""
    if not has_genuine():
        pytest.skip("lttng-tools is not installed: nobody streams")
    channel_count, event_count, pool_size = 60, 40, 100
    fleet = make_fleet(GENUINE)
    relay = Relay(fleet, f"--fd-pool-size={pool_size}")
    fleet.start_daemon()
    bus = bus_of(fleet.world)
    assert bus is not None
    fleet.run("create", "s", "--set-url=net://localhost")
    for number in range(channel_count):
        fleet.run("enable-channel", "-u", "--subbuf-size=4096", "--num-subbuf=4", f"c{number}")
        fleet.run("enable-event", "-u", "tf_emit:*", "-c", f"c{number}")
    program = fleet.program()
    fleet.wait_registered(program.pid)
    for _ in range(3):
        fleet.run("start")
        program.emit(event_count)
        fleet.run("stop")
        assert len(list(Path(f"/proc/{relay.pid}/fd").iterdir())) <= pool_size
    (info,) = ask(bus, DescribeRelay())
    assert info.stream_count >= 2 * channel_count or os.cpu_count() == 1
    assert info.descriptors.suspended_count > pool_size
    assert info.descriptors.error_count == 0
    (session,) = ask(bus, ListRelaySessions())[0].sessions
    fleet.run("destroy")
    assert len(fleet.read(relay.output / session.output).events) == channel_count * 3 * event_count
    assert relay.stop() == 0
    assert "Still open at the end" not in relay.log.read_text()
