"""The same command lines given to `lttng` and to `tracefleet`: same words, same streams, same exit status."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable

import pytest
from fleet import OURS, Fleet
from world import Result

from tracefleet_common.client import AsyncClient, Client
from tracefleet_common.model.event_rules import Domain, EventRule

DATE = re.compile(r"\d{8}-\d{6}")
# Ours says more about some errors, on a line of its own.
REASON = re.compile(r"^Reason: .*\n", re.MULTILINE)
# How long a command waits, and so whether it says so and with how many dots, is nobody's promise.
WAITING = re.compile(r"^(Destroying session [^.\n]*|Waiting for data availability)\.*\n", re.MULTILINE)
LOG_LINE = re.compile(r"PERROR - .*\n")
NAME_AND_GENUINE_NAME = ("tracefleet", "lttng")


def words_of(fleet: Fleet, result: Result) -> tuple[int, str, str]:
    """Exit status, standard output and standard error, without what differs between two runs of one tool."""

    def settle(text: str) -> str:
        text = text.replace(str(fleet.world.home_of(fleet.world.uid)), "HOME").replace(*NAME_AND_GENUINE_NAME)
        for pattern in (REASON, WAITING, LOG_LINE):
            text = pattern.sub("", text)
        return DATE.sub("DATE", text)

    return result.returncode, settle(result.stdout), settle(result.stderr)


# Each conversation begins with a fresh session `s`, which is the current one.
CONVERSATIONS = {
    "sessions": """
        create s
        create t --no-output
        create auto
        create a/b
        create x y
        create --output=/tmp/out u
        list
        set-session s
        set-session nope
        list nope
        list -d s
        status
        destroy nope
        destroy t
        destroy s
        destroy -a
        destroy -a
        status
        start
        """,
    "network-output": """
        create n --set-url=net://localhost
        list n
        view -e echo
        create m --set-url=net6://[::1]:7:8/sub/dir
        create t -C tcp://localhost:1/x -D tcp://127.0.0.1:2/y
        list
        create u -U net://localhost:1:1
        create u -U net://localhost/a/../b
        create u -U net://localhost:0
        create u -U net://localhost:1:2:3
        create u -U net://[::1]
        create u -U tcp://localhost
        create u -U foo://x
        create u -C tcp://localhost
        create u -C tcp://localhost -D tcp://127.0.0.2
        create u -C net://localhost -D tcp://localhost
        create u --no-output -U net://localhost
        create v --live=2s -U net://localhost:9:8/x
        list v
        view -e echo
        create w --live -o /tmp/x
        create w --live=0
        create w --live=abc
        enable-event -u -s n a
        list
        destroy -a
        """,
    "control": """
        start
        stop
        enable-event -u tp
        start
        start
        enable-channel -u late
        enable-event -u late
        list -d s
        stop
        stop
        start nope
        stop nope
        start
        stop -n
        -q start
        -q start
        destroy
        """,
    "channels": """
        enable-channel -u c
        enable-channel -u c
        enable-channel -u d,e,c
        enable-channel -u .c
        enable-channel -u a/b
        enable-channel -u --buffers-pid f
        enable-channel -u --subbuf-size=5000 --num-subbuf=3 g
        enable-channel -u --subbuf-size=1k h
        enable-channel -u --num-subbuf=1 --overwrite h
        enable-channel -u --output=splice h
        disable-channel -u c
        disable-channel -u c
        disable-channel -u nope
        disable-channel -u nope,d
        enable-channel -u c
        """,
    "attributes": """
        enable-channel -u --overwrite --num-subbuf=0x8 --subbuf-size=0x4000 --switch-timer=1s --read-timer=2ms c
        list s
        """,
    "trace-files": """
        enable-channel -u -C 4096 -W 3 --blocking-timeout=inf --monitor-timer=0 c
        list s
        """,
    "buffers-per-process": """
        enable-channel -u --buffers-pid c
        enable-channel -u --buffers-uid d
        list s
        list s -d
        list s -c c
        list s -c nope
        list -u s
        """,
    "event-rules": """
        enable-event -u a
        enable-event -u a
        enable-event -u a*,b
        enable-event -u a* --loglevel=INFO
        enable-event -u a* --loglevel-only=trace_debug_unit
        enable-event -u -a
        enable-event -u -a --loglevel=unit --tracepoint
        disable-event -u b
        disable-event -u b
        disable-event -u nope
        disable-event -u nope,a
        disable-event -u a,nope
        disable-event -u -a
        enable-event -u b
        """,
    "exclusions": """
        enable-event -u d* -x demo:x,dd*
        enable-event -u d* -x e
        enable-event -u d*x -x d\\,e*f
        enable-event -u -a -x demo:q
        enable-event -u d* -x d*
        enable-event -u d -x d
        """,
    "named-channel": """
        enable-channel -u c
        enable-event -u a
        enable-event -u -a
        disable-event -u a
        enable-event -u a -c c
        enable-event -u a -c new
        enable-event -u a -c a/b
        """,
}


@pytest.mark.parametrize("name", CONVERSATIONS)
def test_both_tools_say_the_same(both_kinds: tuple[Fleet, Fleet], name: str) -> None:
    ours, genuine = both_kinds
    for fleet in both_kinds:
        fleet.run("create", "s")
    for line in CONVERSATIONS[name].strip().splitlines():
        words = line.split()
        said, expected = (words_of(fleet, fleet.run(*words, is_checked=False)) for fleet in (ours, genuine))
        assert said == expected, f"{OURS.command.name} {' '.join(words)}"


def test_a_script_with_the_name_exchanged(both_kinds: tuple[Fleet, Fleet]) -> None:
    """Recording real events, and what `stop` and `list` say about those lost."""
    said = []
    for fleet in both_kinds:
        output = fleet.record("tf_emit:*", channel=("--subbuf-size=4096", "--num-subbuf=2", "c"))
        program = fleet.program()
        fleet.wait_registered(program.pid)
        with fleet.paused_consumer():
            assert program.emit(5000) == 5000
        stopped = fleet.stop()
        assert re.search(
            r"^Warning: [1-9]\d* events were discarded, please refer to the documentation on channel configuration\.\n"
            r"Tracing stopped for session s1$",
            stopped.stdout,
            re.MULTILINE,
        )
        discarded, _ = fleet.books("s1", "c")
        assert len(fleet.read(output).events) + discarded == 5000
        said.append([words_of(fleet, fleet.destroy())])
    assert said[0] == said[1]


@pytest.mark.parametrize("loss_mode", ["--discard", "--overwrite"])
def test_verify_agrees_with_what_stop_reports(fleet: Fleet, loss_mode: str) -> None:
    output = fleet.record("tf_emit:*", channel=(loss_mode, "--subbuf-size=4096", "--num-subbuf=2", "c"))
    program = fleet.program()
    with fleet.paused_consumer():
        program.emit(5000)
    fleet.stop()
    discarded, lost = fleet.books("s1", "c")
    assert discarded + lost > 0
    arguments = ("verify", output, "--emitted=5000", f"--lost-packets={lost}", "--json")
    verification = json.loads(fleet.world.run([OURS.command, *arguments]).stdout)
    assert verification["is_balanced"], verification
    assert verification["discarded_event_count"] == discarded
    assert verification["recorded_event_count"] == len(fleet.read(output).events)


def test_verify_reads_on_beside_a_stream_that_is_cut(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:*", channel=("--subbuf-size=4096", "c"))
    program = fleet.program()
    program.emit(1000)
    fleet.destroy()
    outside = fleet.world.path(output)
    whole = max(outside.rglob("c_*"), key=lambda path: path.stat().st_size if path.suffix == "" else 0)
    with whole.open("r+b") as file:
        file.truncate(whole.stat().st_size - 100)
    result = fleet.verify(output)
    assert result.returncode == 1
    assert f"Problem: {whole.name}: the packet at byte" in result.stdout
    assert result.stdout.endswith("The books do not balance.\n")


def test_the_python_clients(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(OURS)
    fleet.start_daemon()
    address = f"ipc://{fleet.world.run_directory}/tracefleet-sessiond"
    with Client(address) as client:
        session = client.create_session(name="s", output_path=str(fleet.world.home / "out"))
        client.enable_event(session="s", domain=Domain.USER_SPACE, rule=EventRule(pattern="tf_emit:*"))
        client.start_session("s")
        fleet.program().emit(100)
        assert client.stop_session("s").was_active
        (domain,) = client.describe_session("s").domains
        assert [channel.name for channel in domain.channels] == ["channel0"]

    async def destroy() -> None:
        async with AsyncClient(address) as client:
            daemon, sessions = await asyncio.gather(client.describe_daemon(), client.list_sessions())
            assert daemon.session_count == len(sessions.sessions) == 1
            await client.destroy_session("s")

    asyncio.run(destroy())
    assert session.output_path is not None
    assert len(fleet.read(fleet.world.home / "out").events) == 100
