"""Names from outside: what is refused is refused with a reason, and no name leads out of its directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from fleet import GENUINE, OURS, Fleet, has_genuine
from world import Result, remove_tree

pytestmark = pytest.mark.fault

# Refused everywhere: nothing, too long, or a path.
BAD_NAMES = ["", "x" * 256, "x" * 5000, "a/b", "/", "/etc", "..", ".", "../out", "../../../../tmp/out", "a/../../b"]
# Whatever is done with these, it must be whole: recorded under this name, or refused.
ODD_NAMES = [
    "x" * 200,
    "grüße",
    "名前",
    "a b",
    " ",
    "a\nb",
    "a\tb\x1b[31m",
    "‮abc",
    "a\u0301",
    "'; rm -rf $HOME; '",
    '"quoted\\"',
    "%s%n%d",
    "*",
    "a,b",
    "-",
    "é" * 127,
    "\N{PILE OF POO}" * 40,
    b"\xff\xfe\xc3\x28".decode(errors="surrogateescape"),
    "CON",
    "metadata",
    "index",
]


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """Our daemon: not the one under test elsewhere, because lttng-tools takes some of these names."""
    made = make_fleet(OURS)
    made.start_daemon()
    return made


def files_outside(fleet: Fleet) -> set[Path]:
    """Everything in the world's directory and the parents of where traces go, traces excepted."""
    home = fleet.world.home
    places = [fleet.world.directory, home, Path("/tmp"), fleet.world.run_directory]
    found = {path for place in places for path in place.iterdir()}
    return {path for path in found if path.suffix != ".log" and path.name not in (".lttngrc", "lttng-traces")}


def assert_whole(fleet: Fleet) -> None:
    assert fleet.daemon is not None
    assert fleet.daemon.is_running()
    assert fleet.run("list").returncode == 0
    output = fleet.record("tf_emit:*", session="sound")
    fleet.program().emit(3)
    fleet.stop("sound")
    assert fleet.read(output).numbers() == [0, 1, 2]


def session_names(fleet: Fleet) -> list[str]:
    return [session["name"] for session in fleet.json("list")["sessions"]]


def assert_refused(result: Result) -> None:
    assert result.returncode != 0, result
    assert result.stderr.strip(), f"refused without a reason: {result}"
    assert "Traceback" not in result.stderr, result


def test_bad_session_names_are_refused(fleet: Fleet) -> None:
    before = files_outside(fleet)
    for name in BAD_NAMES:
        assert_refused(fleet.run("create", name, is_checked=False))
        assert_refused(fleet.run("create", name, "--output", fleet.world.home / "named", is_checked=False))
        for command in ("start", "stop", "destroy", "set-session"):
            assert_refused(fleet.run(command, name, is_checked=False))
    assert session_names(fleet) == []
    assert {path for path in files_outside(fleet) - before if path.name.startswith("out")} == set()
    assert_whole(fleet)


@pytest.mark.parametrize("names", [ODD_NAMES[::2], ODD_NAMES[1::2]], ids=["even", "odd"])
def test_odd_session_names_are_refused_or_recorded_whole(fleet: Fleet, names: list[str]) -> None:
    program = fleet.program()
    emitted = 0
    for name in names:
        created = fleet.run("create", "--", name, is_checked=False)
        if created.returncode != 0:
            assert_refused(created)
            assert session_names(fleet) == []
            continue
        assert session_names(fleet) == [name]
        fleet.run("enable-event", "-u", "tf_emit:*")
        fleet.run("start")
        emitted += program.emit(2)
        fleet.run("stop")
        (output,) = (fleet.world.home / "lttng-traces").iterdir()
        reading = fleet.read(output)
        assert reading.numbers() == [emitted - 2, emitted - 1], name
        assert reading.environments()[0]["trace_name"] == name
        fleet.run("destroy")
        remove_tree(output)
    assert_whole(fleet)


def test_bad_channel_names_are_refused(fleet: Fleet) -> None:
    fleet.run("create", "s1", "--output", fleet.world.home / "trace")
    for name in BAD_NAMES:
        assert_refused(fleet.run("enable-channel", "-u", name, is_checked=False))
        assert_refused(fleet.run("enable-event", "-u", "-c", name, "tf_emit:*", is_checked=False))
    assert fleet.json("list", "s1")["domains"] == []
    assert_whole(fleet)


def test_odd_channel_names_are_refused_or_recorded_whole(fleet: Fleet) -> None:
    output = fleet.world.home / "trace"
    fleet.run("create", "s1", "--output", output)
    accepted = []
    for name in ODD_NAMES:
        small = ("--subbuf-size=4k", "--num-subbuf=2")
        enabled = fleet.run("enable-channel", "-u", *small, "--", name, is_checked=False)
        if enabled.returncode != 0:
            assert_refused(enabled)
            continue
        for channel in name.split(","):
            fleet.run("enable-event", "-u", "-c", channel, "tf_emit:*")
            accepted.append(channel)
    assert accepted
    fleet.run("start")
    fleet.program().emit(2)
    fleet.run("stop")
    reading = fleet.read(output)
    assert reading.numbers() == sorted([0, 1] * len(accepted))
    assert {event.channel for event in reading.events} == set(accepted)
    assert_whole(fleet)


def test_bad_event_names_are_refused(fleet: Fleet) -> None:
    fleet.run("create", "s1", "--output", fleet.world.home / "trace")
    for name in ("", "x" * 256, "x" * 70_000, "a" * 300 + "*", "lttng_ust_x" * 30):
        assert_refused(fleet.run("enable-event", "-u", name, is_checked=False))
        assert_refused(fleet.run("enable-event", "-u", "tf_*", "-x", name or ",", is_checked=False))
    assert_whole(fleet)


def test_odd_event_names_select_nothing_and_hurt_nothing(fleet: Fleet) -> None:
    output = fleet.record("tf_levels:err", is_started=False)
    for name in ("/", "..", "a/../b", "grüße:*", "a\nb", "\\*", "a\\", "%s", " ", "tf_emit:numbere?", "[a-z]*"):
        enabled = fleet.run("enable-event", "-u", "--", name, is_checked=False)
        assert "Traceback" not in enabled.stderr
    fleet.run("start")
    program = fleet.program()
    program.emit(2)
    program.ask("levels 1")
    fleet.run("stop")
    assert fleet.read(output).names() == {"tf_levels:err": 1}
    assert_whole(fleet)


def test_what_lttng_refuses_is_refused_with_its_status(make_fleet: Callable[..., Fleet]) -> None:
    if not has_genuine():
        pytest.skip("lttng-tools is not installed: nothing to compare with")
    statuses = []
    for kind in (OURS, GENUINE):
        fleet = make_fleet(kind)
        fleet.start_daemon()
        fleet.run("create", "good")
        commands: list[tuple[str, ...]] = []
        for name in ("a/b", "/", "x" * 256, "auto", "auto-1"):
            commands.append(("create", name))
        for name in ("a/b", ".x", "x" * 256, ".."):
            commands.append(("enable-channel", "-u", name))
        commands.append(("enable-event", "-u", "lttng_ust_x"))
        commands.append(("enable-event", "-u", "exact:name", "-x", "other"))
        commands.append(("enable-event", "-u", "tf_*", "-x", "other"))
        commands.append(("enable-event", "-u", "tf_*", "--loglevel=LOUD"))
        commands.append(("create", "good"))
        statuses.append({command: fleet.run(*command, is_checked=False).returncode for command in commands})
    assert statuses[0] == statuses[1]
