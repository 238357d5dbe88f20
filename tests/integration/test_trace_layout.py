"""Directories, files, index entries, owners and permissions of a trace, as LTTng lays them out."""

from __future__ import annotations

import re
import stat
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from fleet import OURS, Fleet
from traces import packets_of, trace_directories

BUS_SOCKET = "tracefleet-sessiond"
INDEX_MAGIC = 0xC1F1DCC1
INDEX_HEADER = struct.Struct(">4I")
INDEX_ENTRY = struct.Struct(">9Q")


def tree_of(output: Path) -> dict[str, tuple[str, bool]]:
    """Relative path → (mode, is it a directory), with dates and pids made equal."""
    found = {}
    for path in [output, *sorted(output.rglob("*"))]:
        name = str(path.relative_to(output))
        name = re.sub(r"emit-\d+-\d{8}-\d{6}", "emit-PID-DATE", name)
        found[name] = (stat.filemode(path.stat().st_mode), path.is_dir())
    return found


@pytest.mark.parametrize("ownership", ["--buffers-uid", "--buffers-pid"])
@pytest.mark.parametrize("limit", [(), ("--tracefile-size=1M",)], ids=["one file", "limited files"])
def test_the_tree_equals_that_of_the_genuine_tracer(
    both_kinds: tuple[Fleet, Fleet], ownership: str, limit: tuple[str, ...]
) -> None:
    trees = []
    for fleet in both_kinds:
        output = fleet.record("tf_emit:*", channel=(ownership, *limit, "c"))
        fleet.program().emit(10)
        fleet.stop()
        fleet.destroy()
        trees.append(tree_of(output))
    assert trees[0] == trees[1]


def test_the_default_output_is_below_the_home_directory(any_fleet: Fleet) -> None:
    created = any_fleet.run("create", "mine")
    match = re.search(r"^Traces will be output to (.*)$", created.stdout, re.MULTILINE)
    assert match, created.stdout
    output = Path(match[1])
    assert output.parent == any_fleet.world.home / "lttng-traces"
    assert re.fullmatch(r"mine-\d{8}-\d{6}", output.name)
    any_fleet.run("enable-event", "-u", "tf_emit:*")
    any_fleet.run("start")
    any_fleet.program().emit(3)
    any_fleet.run("stop")
    assert any_fleet.read(output).numbers() == [0, 1, 2]


def test_an_unnamed_session_is_called_by_its_time(fleet: Fleet) -> None:
    created = fleet.run("create")
    assert re.search(r"^Session auto-\d{8}-\d{6} created\.$", created.stdout, re.MULTILINE)
    fleet.run("enable-event", "-u", "tf_emit:*")
    fleet.run("start")
    fleet.program().emit(1)
    fleet.run("stop")
    (output,) = (fleet.world.home / "lttng-traces").iterdir()
    assert fleet.read(output).environments()[0]["trace_name"] == "auto"


def test_every_index_entry_describes_its_packet(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*", channel=("--subbuf-size=4k", "--num-subbuf=32", "c"))
    program = fleet.program()
    program.ask("threads 2 1500")
    fleet.stop()
    fleet.run("start")
    program.emit(100)
    fleet.stop()
    reading = fleet.read(output)
    (directory,) = trace_directories(output)
    packet_count = 0
    for index in sorted((directory / "index").iterdir()):
        packets = packets_of(directory / index.name.removesuffix(".idx"))
        record = index.read_bytes()
        assert INDEX_HEADER.unpack_from(record) == (INDEX_MAGIC, 1, 1, INDEX_ENTRY.size)
        entries = list(INDEX_ENTRY.iter_unpack(record[INDEX_HEADER.size :]))
        assert entries == [
            (
                packet.offset_bytes,
                packet.packet_size_bits,
                packet.content_size_bits,
                packet.timestamp_begin,
                packet.timestamp_end,
                packet.events_discarded,
                packet.stream_id,
                packet.stream_instance_id,
                packet.sequence_number,
            )
            for packet in packets
        ]
        assert [packet.sequence_number for packet in packets] == list(range(len(packets)))
        assert all(packet.timestamp_begin <= packet.timestamp_end for packet in packets)
        assert {packet.cpu for packet in packets} == {packets[0].stream_instance_id}
        packet_count += len(packets)
    assert packet_count == len(reading.packets)


def test_one_trace_has_one_uuid(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*")
    fleet.program().emit(10)
    fleet.stop()
    reading = fleet.read(output)
    (trace,) = reading.traces
    (directory,) = trace_directories(output)
    data = b"".join(path.read_bytes()[:24] for path in sorted(directory.glob("channel0_*")))
    assert data[4:20].hex() == trace["uuid"].replace("-", "")
    metadata = (directory / "metadata").read_bytes()
    assert metadata[:4] == struct.pack("<I", 0x75D11D57)
    assert metadata[4:20] == data[4:20]


@pytest.fixture
def shared_daemon(make_fleet: Callable[..., Fleet]) -> Fleet:
    """The root daemon, with its sockets open to users 1001 and 1002 as if they were in the tracing group."""
    fleet = make_fleet(OURS)
    fleet.start_daemon()
    (fleet.world.run_directory / BUS_SOCKET).chmod(0o666)
    return fleet


AS_CLIENT_OF_ROOT = {"TRACEFLEET_SESSIOND": f"ipc:///run/lttng/{BUS_SOCKET}"}


@pytest.mark.root
def test_files_of_a_users_session_belong_to_that_user(shared_daemon: Fleet) -> None:
    fleet = shared_daemon
    output = fleet.world.home_of(1001) / "mine"
    for command in (("create", "s1", "--output", output), ("enable-event", "-u", "tf_emit:*"), ("start",)):
        fleet.run(*command, uid=1001, env=AS_CLIENT_OF_ROOT)
    programs = [fleet.program(uid=uid) for uid in (0, 1001, 1002)]
    for program in programs:
        program.emit(10)
    fleet.run("stop", uid=1001, env=AS_CLIENT_OF_ROOT)
    fleet.run("destroy", uid=1001, env=AS_CLIENT_OF_ROOT)
    reading = fleet.read(output)
    for program in programs:
        assert reading.numbers(pid=program.pid) == list(range(10))
    paths = [output, *output.rglob("*")]
    assert {path.stat().st_uid for path in paths} == {1001}
    assert {path.stat().st_gid for path in paths} == {1001}


@pytest.mark.root
def test_a_user_sees_and_touches_only_their_own_sessions(shared_daemon: Fleet) -> None:
    fleet = shared_daemon
    fleet.record("tf_emit:*", session="of-root")
    fleet.run("create", "of-1001", uid=1001, env=AS_CLIENT_OF_ROOT)
    assert "of-root" not in fleet.run("list", uid=1001, env=AS_CLIENT_OF_ROOT).stdout
    assert "of-1001" not in fleet.run("list", uid=1002, env=AS_CLIENT_OF_ROOT).stdout
    assert {"of-root", "of-1001"} == {session["name"] for session in fleet.json("list")["sessions"]}
    for command in (("stop", "of-root"), ("destroy", "of-root"), ("list", "of-root"), ("destroy", "-a")):
        result = fleet.run(*command, uid=1002, env=AS_CLIENT_OF_ROOT, is_checked=False)
        assert command == ("destroy", "-a") or result.returncode != 0, result
    assert {"of-root", "of-1001"} == {session["name"] for session in fleet.json("list")["sessions"]}


@pytest.mark.root
def test_a_user_cannot_have_root_write_where_they_may_not(shared_daemon: Fleet) -> None:
    fleet = shared_daemon
    forbidden = fleet.world.home_of(1002) / "not-yours"
    program = fleet.program(uid=1001)
    results = [
        fleet.run(*command, uid=1001, env=AS_CLIENT_OF_ROOT, is_checked=False)
        for command in (
            ("create", "s1", "--output", forbidden),
            ("enable-event", "-u", "-s", "s1", "tf_emit:*"),
            ("start", "s1"),
        )
    ]
    program.emit(100)
    assert any(result.returncode != 0 for result in results), results
    assert not forbidden.exists()


@pytest.mark.root
def test_an_ordinary_daemon_records_its_own_programs_only(
    make_fleet: Callable[..., Fleet], kind_under_test: object
) -> None:
    fleet = make_fleet(kind_under_test, is_root=False)
    fleet.start_daemon()
    output = fleet.record("tf_emit:*")
    mine, other = fleet.program(), fleet.program(uid=1001)
    mine.emit(5)
    other.emit(5)
    fleet.stop()
    reading = fleet.read(output)
    assert reading.numbers(pid=mine.pid) == list(range(5))
    assert reading.numbers(pid=other.pid) == []
    assert {path.stat().st_uid for path in [output, *output.rglob("*")]} == {fleet.world.uid}


def test_a_session_without_programs_leaves_no_files(both_kinds: tuple[Fleet, Fleet]) -> None:
    for fleet in both_kinds:
        output = fleet.record("tf_emit:*")
        fleet.stop()
        fleet.destroy()
        assert [path for path in output.rglob("*") if not path.is_dir()] == []


def test_a_session_without_output_writes_nothing(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(OURS)
    fleet.start_daemon()
    fleet.run("create", "s1", "--no-output")
    fleet.run("enable-event", "-u", "tf_emit:*")
    fleet.run("start")
    program = fleet.program()
    program.emit(1000)
    fleet.run("stop")
    fleet.run("destroy", "s1")
    assert not (fleet.world.home / "lttng-traces").exists()
