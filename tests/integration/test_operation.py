"""Operating the daemons: whether they are well, and the sums of what they carry."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from deadlines import DEADLINE_S, wait_until
from fleet import GENUINE, OURS, Fleet, has_genuine
from programs import Program
from relays import OUR_RELAY, Relay
from world import is_stopped

from tracefleet_common.messages.relayd_control import DescriptorPool, RelaydRequest, RelayInfo
from tracefleet_common.transport.control_server import ControlServer, Peer
from tracefleet_common.transport.health_socket import CONNECTIONS_MAX

RULE = "tf_emit:*"
TIMEOUT = "--timeout=0.5"
SESSION_THREAD_COUNT = 12  # of lttng-sessiond 2.13
# Queries a daemon's health as a program would that uses liblttng-ctl; prints the state and those of all threads.
QUERY = """
import ctypes
lttng = ctypes.CDLL("liblttng-ctl.so.0")
for name in ("create_sessiond", "create_consumerd", "create_relayd", "get_thread"):
    getattr(lttng, f"lttng_health_{name}").restype = ctypes.c_void_p
health = ctypes.c_void_p(lttng.lttng_health_create_%s)
assert health
assert lttng.lttng_health_query(health) == 0
threads = (lttng.lttng_health_get_thread(health, i) for i in range(lttng.lttng_health_get_nr_threads(health)))
print(lttng.lttng_health_state(health), *(lttng.lttng_health_thread_state(ctypes.c_void_p(each)) for each in threads))
"""
# Listens on a port, and accepts nobody: once its queue is full, nobody can connect.
JAMMED_PORT = """
import signal, socket
listener = socket.create_server(("127.0.0.1", 5344), backlog=0)
waiting = [socket.socket() for _ in range(4)]
for connection in waiting:
    connection.setblocking(False)
    connection.connect_ex(listener.getsockname())
print("jammed", flush=True)
signal.pause()
"""
CONSUMERD_64 = 1  # LTTNG_HEALTH_CONSUMERD_UST_64


def health(fleet: Fleet, *words: str, uid: int | None = None) -> tuple[int, dict[str, Any]]:
    """The exit status of `tracefleet health`, and each service by name; a second one has a number."""
    result = fleet.run("--json", "health", *words, is_checked=False, uid=uid)
    (value,) = map(json.loads, result.stdout.splitlines())
    assert value["type"] == "health"
    assert value["is_healthy"] == (result.returncode == 0)
    services: dict[str, Any] = {}
    for service in value["services"]:
        same_count = sum(name.rstrip("0123456789") == service["service"] for name in services)
        services[service["service"] + (str(same_count + 1) if same_count else "")] = service
    return result.returncode, services


def states(fleet: Fleet, *words: str, uid: int | None = None) -> dict[str, str]:
    return {name: service["state"] for name, service in health(fleet, *words, uid=uid)[1].items()}


def start(fleet: Fleet) -> Program:
    """Record, so that there is a consumer daemon."""
    fleet.start_daemon()
    program = fleet.program()
    fleet.record(RULE)
    return program


@contextlib.contextmanager
def stopped(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        wait_until(lambda: all(map(is_stopped, pids)), "processes to stand still")
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


# ---- LTTng's health check, asked by LTTng's own library ----


@pytest.mark.skipif(not has_genuine(), reason="lttng-tools is not installed: its library checks the health")
@pytest.mark.parametrize("is_root", [True, False], ids=["root", "ordinary"])
@pytest.mark.parametrize("kind", [OURS, GENUINE], ids=["ours", "genuine"])
def test_lttngs_library_finds_the_daemons_well(make_fleet: Callable[..., Fleet], is_root: bool, kind: Any) -> None:
    fleet = make_fleet(kind, is_root=is_root)
    start(fleet)
    wait_until(fleet.consumer_pids, "a consumer daemon")
    for daemon, thread_count in (("sessiond()", SESSION_THREAD_COUNT), (f"consumerd({CONSUMERD_64})", None)):
        for _ in range(2):
            result = fleet.world.run(["/usr/bin/python3", "-c", QUERY % daemon])
            assert result.returncode == 0, result
            state, *threads = map(int, result.stdout.split())
            assert state == 0 and not any(threads)
            assert thread_count in (None, len(threads))


@pytest.mark.skipif(not has_genuine(), reason="lttng-tools is not installed: its library checks the health")
def test_health_sockets_are_for_the_tracing_group_and_go_with_their_daemons(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    start(fleet)
    (consumer_pid,) = wait_until(fleet.consumer_pids, "a consumer daemon")
    paths = [fleet.world.run_directory / name for name in ("sessiond-health", "ustconsumerd64/health")]
    assert [path.stat().st_mode & 0o777 for path in paths] == [0o660, 0o660]
    with stopped(consumer_pid), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(paths[1]))
        connection.settimeout(0.2)
        connection.sendall(bytes(4))
        with pytest.raises(TimeoutError):
            connection.recv(8)
    assert fleet.daemon is not None and fleet.daemon.stop() == 0
    assert not any(path.exists() for path in paths)


def test_many_who_connect_and_say_nothing_keep_nobody_from_asking(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    fleet.start_daemon()
    path = str(fleet.world.run_directory / "sessiond-health")
    connections = [socket.socket(socket.AF_UNIX) for _ in range(CONNECTIONS_MAX + 20)]
    for connection in connections:
        connection.settimeout(DEADLINE_S)
        connection.connect(path)
    assert connections[-1].recv(8) == b"", "one too many"
    for connection in connections[:10]:
        connection.close()
    wait_until(lambda: states(fleet, "sessiond") == {"sessiond": "ready"}, "room for a health check")
    assert connections[20].recv(8) == b"", "nothing was asked, and its time is over"
    for connection in connections:
        connection.close()


def test_a_foreign_file_in_the_place_of_a_health_socket_stays(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    path = fleet.world.run_directory / "sessiond-health"
    path.write_text("precious")
    refused = fleet.world.run([OURS.session_daemon, "--no-kernel"])
    assert refused.returncode == 1
    assert refused.stderr.endswith("Error: /var/run/lttng/sessiond-health exists and is not a socket\n")
    assert path.read_text() == "precious"


# ---- tracefleet health ----


@pytest.mark.parametrize("is_root", [True, False], ids=["root", "ordinary"])
def test_daemons_that_are_well(make_fleet: Callable[..., Fleet], is_root: bool) -> None:
    fleet = make_fleet(is_root=is_root)
    result = fleet.run("health", is_checked=False)
    assert (result.returncode, result.stdout) == (1, "No daemon is there\n")
    assert states(fleet, "relayd", "sessiond", "consumerd") == dict.fromkeys(
        ("sessiond", "consumerd", "relayd"), "not-started"
    )
    daemon = fleet.start_daemon()
    assert health(fleet)[0] == 0
    assert states(fleet) == {"sessiond": "ready", "consumerd": "not-started"}
    assert health(fleet, "consumerd")[0] == 1, "it was asked for"
    fleet.record(RULE)
    relay = Relay(fleet, f"--output={fleet.world.home}/relayed")
    status, services = health(fleet)
    assert status == 0
    assert {name: (service["state"], service["pid"]) for name, service in services.items()} == {
        "sessiond": ("ready", daemon.pid),
        "consumerd": ("ready", fleet.consumer_pids()[0]),
        "relayd": ("ready", relay.pid),
    }
    lines = fleet.run("health").stdout.splitlines()
    assert lines[0] == f"sessiond: ready (pid {daemon.pid})" and len(lines) == 3
    assert states(fleet, "relayd") == {"relayd": "ready"}
    assert relay.stop() == 0
    assert states(fleet) == {"sessiond": "ready", "consumerd": "ready"}
    lines = relay.log.read_text().splitlines() + daemon.log.read_text().splitlines()
    lines = [line for line in lines if not line.startswith("INFO") and "the open file limit" not in line]
    assert lines == [], "checks leave no complaints"


def test_stopped_daemons_are_reported_in_time_and_are_well_again_when_they_go_on(
    make_fleet: Callable[..., Fleet],
) -> None:
    fleet = make_fleet()
    program = start(fleet)
    relay = Relay(fleet)
    assert fleet.daemon is not None
    pids = {"sessiond": fleet.daemon.pid, "consumerd": fleet.consumer_pids()[0], "relayd": relay.pid}
    for name, pid in pids.items():
        with stopped(pid):
            begin_s = time.monotonic()
            status, services = health(fleet, TIMEOUT)
            assert time.monotonic() - begin_s < 3, "one daemon costs its own half second"
            assert status == 1
            for other, service in services.items():
                assert (service["state"], service["pid"]) == ("silent" if other == name else "ready", pids[other])
            assert "no answer within 0.5 s" in services[name]["reason"]
        wait_until(lambda: health(fleet)[0] == 0, "all to be well again")
    with stopped(*pids.values()):
        # The queues of connections that nobody accepts fill up; it takes no longer for that.
        for _ in range(150):
            with socket.socket(socket.AF_UNIX) as connection:
                connection.setblocking(False)
                connection.connect_ex(str(fleet.world.run_directory / "ustconsumerd64/health"))
        assert states(fleet, TIMEOUT) == dict.fromkeys(pids, "silent")
    wait_until(lambda: health(fleet)[0] == 0, "all to be well again")
    program.emit(100)
    fleet.stop()


def test_killed_daemons_are_missed_until_others_take_their_place(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    start(fleet)
    relay = Relay(fleet)
    assert fleet.daemon is not None
    (consumer_pid,) = fleet.consumer_pids()
    relay.process.kill()
    relay.process.wait(DEADLINE_S)
    assert states(fleet) == {"sessiond": "ready", "consumerd": "ready", "relayd": "gone"}
    assert health(fleet)[0] == health(fleet, "relayd")[0] == 1
    assert health(fleet, "sessiond")[0] == 0
    again = Relay(fleet)
    assert health(fleet, "relayd")[1]["relayd"]["pid"] == again.pid
    os.kill(consumer_pid, signal.SIGKILL)
    wait_until(lambda: not fleet.consumer_pids(), "the consumer daemon to be gone")
    assert states(fleet) == {"sessiond": "ready", "consumerd": "gone", "relayd": "ready"}
    fleet.run("destroy", "s1", is_checked=False)
    fleet.record(RULE, session="s2")
    wait_until(lambda: health(fleet)[0] == 0, "a new consumer daemon")
    fleet.daemon.kill()
    assert states(fleet)["sessiond"] == "gone"
    fleet.start_daemon()
    assert states(fleet)["sessiond"] == "ready"


@pytest.mark.root
def test_the_tracing_group_may_ask_and_others_have_daemons_of_their_own(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    fleet.start_daemon("--group=nogroup")
    fleet.record(RULE)
    with (fleet.world.directory / "relayd.log").open("wb") as log:
        relay = fleet.world.popen([OUR_RELAY.program, "--group=nogroup"], stdout=log.fileno(), stderr=log.fileno())
    wait_until(lambda: states(fleet).get("relayd") == "ready", "the relay daemon")
    group = ("--group=nogroup", "--json", "health")
    value = json.loads(fleet.run(*group, uid=65534).stdout)
    assert [(service["service"], service["state"]) for service in value["services"]] == [
        (name, "ready") for name in ("sessiond", "consumerd", "relayd")
    ]
    assert value["services"][2]["pid"] == relay.pid
    assert health(fleet, uid=65534) == (1, {}), "no member of the group: there is nothing of its own"


def test_checks_do_not_keep_a_consumer_daemon_that_nobody_needs(make_fleet: Callable[..., Fleet]) -> None:
    world = (fleet := make_fleet()).world
    (world.run_directory / "ustconsumerd64").mkdir()
    program = fleet.kind.session_daemon.with_name(fleet.kind.consumer_daemon)
    process = world.popen([program, "--orphan-timeout=2", "--exit-when-orphaned"])
    wait_until(
        lambda: states(fleet, "consumerd") == {"consumerd": "ready"}, "a consumer daemon without a session daemon"
    )
    # More often than it waits for a session daemon.
    wait_until(lambda: (states(fleet, "consumerd"), process.poll())[1] is not None, "the consumer daemon to end")
    assert process.wait() == 0


class PretendedRelay:
    """Speaks the bus at a socket outside the world, and claims to listen on a port where nobody is."""

    def __init__(self, path: Path, live_url: str) -> None:
        self._info = RelayInfo(
            version="1",
            pid=4711,
            uid=0,
            output_directory="/o",
            control_url="",
            data_url="",
            live_url=live_url,
            session_count=0,
            stream_count=0,
            packet_count=0,
            bytes=0,
            descriptors=DescriptorPool(
                capacity=1, reserved_count=0, active_count=0, suspended_count=0, miss_count=0, error_count=0
            ),
        )
        self._path = path
        self._is_ready = threading.Event()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> PretendedRelay:
        self._thread.start()
        assert self._is_ready.wait(DEADLINE_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(DEADLINE_S)

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())

    async def _serve(self) -> None:
        self._end = asyncio.Event()

        async def answer(_peer: Peer, _request: msgspec.Struct) -> msgspec.Struct:
            return self._info

        server = ControlServer([f"ipc://{self._path}"], RelaydRequest, answer, software="test")
        await server.bind()
        serving = asyncio.create_task(server.serve())
        self._is_ready.set()
        await self._end.wait()
        serving.cancel()
        await server.close()


def test_what_is_no_daemon_and_what_is_not_ready(make_fleet: Callable[..., Fleet], tmp_path: Path) -> None:
    fleet = make_fleet()

    def found(path: Path) -> tuple[str, str]:
        status, services = health(fleet, "relayd", TIMEOUT, f"--bus-sock={path}")
        assert status == 1
        return services["relayd"]["state"], services["relayd"]["reason"]

    assert found(tmp_path / "nothing")[0] == "not-started"
    (tmp_path / "file").write_text("x")
    assert found(tmp_path / "file") == ("not-ready", f"{tmp_path}/file is not a socket")
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(tmp_path / "mute"))
        assert found(tmp_path / "mute")[0] == "gone", "it does not listen"
        mute.listen()
        assert found(tmp_path / "mute") == ("silent", "no answer within 0.5 s")
        garbling = threading.Thread(target=_answer_garbage, args=(mute,), daemon=True)
        garbling.start()
        state, reason = found(tmp_path / "mute")
        assert state == "not-ready" and "does not speak ZMTP" in reason
    with PretendedRelay(tmp_path / "pretended", "tcp://127.0.0.1:5344"):
        state, reason = found(tmp_path / "pretended")
        assert state == "not-ready" and reason.startswith("live port: tcp://127.0.0.1:5344: ")
        jam = fleet.world.popen(["/usr/bin/python3", "-c", JAMMED_PORT], stdout=subprocess.PIPE)
        assert jam.stdout is not None and jam.stdout.readline() == b"jammed\n"
        assert found(tmp_path / "pretended") == (
            "silent",
            "live port: tcp://127.0.0.1:5344: no answer within 0.5 s",
        )
        jam.kill()
        jam.wait(DEADLINE_S)
        relay = Relay(fleet)
        assert health(fleet, "relayd", f"--bus-sock={tmp_path / 'pretended'}")[1]["relayd"]["pid"] == 4711
        assert relay.stop() == 0


def _answer_garbage(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        with connection, contextlib.suppress(ConnectionError):
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            while connection.recv(4096):
                pass  # it hangs up first, so that it can read all of this


@pytest.mark.parametrize(
    "words", [["nonsense"], ["sessiond", "x"], ["--timeout=0"], ["--timeout=soon"], ["--timeout=nan"]]
)
def test_what_cannot_be_asked(make_fleet: Callable[..., Fleet], words: list[str]) -> None:
    result = make_fleet().run("health", *words, is_checked=False)
    assert result.returncode == 1
    assert result.stderr.startswith("Error: ")


# ---- sums ----


def verification(fleet: Fleet, path: Path) -> Any:
    return fleet.json("verify", path)


@pytest.mark.parametrize("buffers", ["--buffers-uid", "--buffers-pid"])
def test_sums_of_a_session_are_what_verify_finds(make_fleet: Callable[..., Fleet], buffers: str) -> None:
    fleet = make_fleet()
    fleet.start_daemon()
    programs = [fleet.program(), fleet.program()]
    output = fleet.record(RULE, channel=(buffers, "--subbuf-size=4096", "--num-subbuf=2", "c"))
    with fleet.paused_consumer():
        for program in programs:
            program.emit(2000)
    for program in programs:
        program.emit(50)
    fleet.stop()
    details = fleet.json("list", "s1")
    found = verification(fleet, output)
    assert found["is_balanced"] and found["discarded_event_count"] > 0
    (channel,) = details["domains"][0]["channels"]
    assert details["sums"] == {
        "recorded_packet_count": found["packet_count"],
        "recorded_bytes": 4096 * found["packet_count"],
        "discarded_event_count": found["discarded_event_count"],
        "lost_packet_count": 0,
        "unwritten_packet_count": 0,
    }
    # Of a channel, too, and of each stream.
    for name, value in details["sums"].items():
        assert channel[name] == value == sum(stream[name] for stream in channel["streams"])
    written = {
        (Path(trace["path"]).relative_to(output).as_posix(), stream["stream_instance_id"]): stream["packet_count"]
        for trace in found["traces"]
        for stream in trace["streams"]
    }
    told = {(each["trace"], each["cpu"]): each["recorded_packet_count"] for each in channel["streams"]}
    assert {stream: count for stream, count in told.items() if count} == written
    assert details["streaming"] is None
    assert fleet.json("status") == details
    # Buffers of processes that are gone are in the sums, and no streams any more.
    for program in programs:
        assert program.end() == 0
    if buffers == "--buffers-pid":
        wait_until(lambda: not streams_of(fleet), "the buffers to be closed")
    assert fleet.json("list", "s1")["sums"] == details["sums"]


def streams_of(fleet: Fleet) -> list[Any]:
    (channel,) = fleet.json("list", "s1")["domains"][0]["channels"]
    return list(channel["streams"])


@pytest.mark.parametrize("protocol", ["net", "fleet"])
def test_both_ends_of_a_stream_tell_the_same(make_fleet: Callable[..., Fleet], protocol: str) -> None:
    fleet = make_fleet()
    fleet.start_daemon()
    relay = Relay(fleet)
    program = fleet.program()
    fleet.run("create", "s1", f"--set-url={protocol}://localhost")
    assert fleet.json("list", "s1")["streaming"] is None, "nobody has connected yet"
    fleet.run("enable-channel", "-u", "--subbuf-size=4096", "--num-subbuf=2", "c")
    fleet.run("enable-event", "-u", RULE, "-c", "c")
    fleet.run("start")
    with fleet.paused_consumer():
        program.emit(2000)
    program.emit(50)
    fleet.stop()
    details = fleet.json("list", "s1")
    streaming, sums = details["streaming"], details["sums"]
    assert sums["discarded_event_count"] > 0
    assert (streaming["is_connected"], streaming["trouble"]) == (True, None)

    daemon, sessions = map(json.loads, fleet.run("--json", "list-relay").stdout.splitlines())
    assert (daemon["type"], daemon["pid"], sessions["type"]) == ("relay", relay.pid, "relay-session-list")
    (session,) = sessions["sessions"]
    there = fleet.json("list-relay", "s1")
    assert there["session"] == session == fleet.json("list-relay", str(session["session_id"]))["session"]
    data = [stream["sums"] for stream in there["streams"] if not stream["is_metadata"]]
    assert sum(each["packet_count"] for each in data) == sums["recorded_packet_count"]
    assert sum(each["bytes"] for each in data) == sums["recorded_bytes"]
    assert session["sums"]["loss"]["discarded_event_count"] == sums["discarded_event_count"]
    sent = streaming["sent_packet_count"]
    if protocol == "net":
        assert (sent, streaming["sent_bytes"]) == (sums["recorded_packet_count"], sums["recorded_bytes"])
        assert streaming["acknowledged_packet_count"] is session["sums"]["acknowledged_packet_count"] is None
    else:  # metadata is acknowledged, too
        assert sent == session["sums"]["packet_count"] > sums["recorded_packet_count"]
        assert streaming["sent_bytes"] == session["sums"]["bytes"]
        assert sent == streaming["acknowledged_packet_count"] == session["sums"]["acknowledged_packet_count"]
        assert sum(each["acknowledged_packet_count"] for each in data) == sums["recorded_packet_count"]
    found = verification(fleet, relay.output / session["output"])
    assert found["packet_count"] == sums["recorded_packet_count"]
    assert found["discarded_event_count"] == sums["discarded_event_count"]

    text = fleet.run("list", "s1").stdout
    assert f"    Streaming: connected\n      Sent:         {sent} packets, {streaming['sent_bytes']} bytes\n" in text
    assert (f"      Acknowledged: {sent} packets, {streaming['sent_bytes']} bytes\n" in text) == (protocol == "fleet")
    listed = fleet.run("list-relay").stdout
    assert f"Relay daemon {relay.pid}:\n    Trace output: {relay.output}\n" in listed
    assert f"\n  {session['session_id']}) s1 [open] from {session['host_name']}\n" in listed
    assert f"    Lost:         {sums['discarded_event_count']} events discarded by the tracer\n" in listed
    assert f"      - ust/uid/{fleet.world.uid}/64-bit/c_0\n" in fleet.run("list-relay", "s1").stdout

    relay.process.kill()
    relay.process.wait(DEADLINE_S)
    wait_until(lambda: not fleet.json("list", "s1")["streaming"]["is_connected"], "the loss to be noticed")
    lost = fleet.json("list", "s1")["streaming"]
    assert lost["trouble"] and lost["sent_packet_count"] == sent
    text = fleet.run("list", "s1").stdout
    assert "    Streaming: not connected\n      Error:        " in text
    if protocol == "fleet":
        again = Relay(fleet)
        wait_until(lambda: fleet.json("list", "s1")["streaming"]["is_connected"], "the way to be there again")
        fleet.run("start")
        program.emit(10)
        fleet.stop()
        details = fleet.json("list", "s1")
        assert details["streaming"]["reconnect_count"] == 1 and details["streaming"]["trouble"] is None
        assert details["streaming"]["acknowledged_packet_count"] == details["streaming"]["sent_packet_count"] > sent
        found = verification(fleet, again.output / session["output"])
        assert found["packet_count"] == details["sums"]["recorded_packet_count"]


def test_a_spool_is_shown_while_it_is_filled_and_until_it_is_empty(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    fleet.start_daemon()
    relay = Relay(fleet)
    program = fleet.program()
    fleet.run("create", "s1", "--set-url=fleet://localhost", "--spool=1M")
    fleet.run("enable-channel", "-u", "--subbuf-size=4096", "--num-subbuf=4", "c")
    fleet.run("enable-event", "-u", RULE, "-c", "c")
    fleet.run("start")
    program.emit(100)
    relay.process.kill()
    relay.process.wait(DEADLINE_S)
    program.emit(1000)
    fleet.stop()

    def streaming() -> Any:
        return fleet.json("list", "s1")["streaming"]

    wait_until(lambda: streaming()["spooled_packet_count"], "packets in the spool")
    found = streaming()
    assert not found["is_connected"] and found["trouble"]
    assert found["spooled_bytes"] >= found["spooled_packet_count"] > 0
    packet_count, size_bytes = found["spooled_packet_count"], found["spooled_bytes"]
    assert f"      Spooled:      {packet_count} packets, {size_bytes} bytes\n" in fleet.run("list", "s1").stdout
    again = Relay(fleet)
    wait_until(lambda: streaming()["spooled_packet_count"] == 0, "the spool to be empty")
    found = streaming()
    assert found["is_connected"] and found["trouble"] is None
    assert found["acknowledged_packet_count"] == found["sent_packet_count"]
    (session,) = json.loads(fleet.run("--json", "list-relay").stdout.splitlines()[1])["sessions"]
    assert session["sums"]["loss"]["missing_packet_count"] == 0
    sums = fleet.json("list", "s1")["sums"]
    verified = verification(fleet, again.output / session["output"])
    assert verified["packet_count"] == sums["recorded_packet_count"]
    assert verified["recorded_event_count"] + sums["discarded_event_count"] == 1100


def test_a_list_does_not_wait_for_ever_for_a_consumer_daemon_that_is_stopped(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    start(fleet)
    with fleet.paused_consumer():
        result = fleet.run("list", "s1", deadline_s=DEADLINE_S)
        assert "      Error:            No reply from ipc://" in result.stdout
    wait_until(lambda: "Error:" not in fleet.run("list", "s1").stdout, "the books to be there again")


def test_relay_daemons_that_are_not_there_or_stopped(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet()
    result = fleet.run("list-relay", is_checked=False)
    assert (result.returncode, result.stderr) == (1, "Error: No relay daemon is there\n")
    relay = Relay(fleet)
    assert "    No session is received\n" in fleet.run("list-relay").stdout
    result = fleet.run("list-relay", "nobody", is_checked=False)
    assert (result.returncode, result.stderr) == (1, "Error: Session 'nobody' not found\n")
    path = f"/var/run/lttng/relayd/bus-{relay.pid}"
    with stopped(relay.pid):
        result = fleet.run("list-relay", is_checked=False)
        assert result.returncode == 1
        assert result.stderr.startswith(f"Error: The relay daemon at {path} does not answer\nReason: ")
    relay.process.kill()
    relay.process.wait(DEADLINE_S)
    result = fleet.run("list-relay", is_checked=False)
    assert result.returncode == 1
    assert result.stderr.startswith(f"Error: The relay daemon at {path} does not answer\nReason: ")
