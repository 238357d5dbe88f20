"""Which session daemon serves whom."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tracefleet_common.client import run_directory
from tracefleet_common.client.run_directory import (
    bus_address,
    candidate_addresses,
    candidate_run_directories,
    home_directory,
    relay_bus_sockets,
)
from tracefleet_common.errors import InvalidArgument

GLOBAL = "ipc:///var/run/lttng/tracefleet-sessiond"
OWN = "ipc:///home/u/.lttng/tracefleet-sessiond"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACEFLEET_SESSIOND", raising=False)
    monkeypatch.delenv("LTTNG_HOME", raising=False)
    monkeypatch.setenv("HOME", "/home/u")


def be(monkeypatch: pytest.MonkeyPatch, uid: int, *, is_in_group: bool = False) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(run_directory, "is_in_group", lambda name: is_in_group and name == "tracing")


def test_root_uses_the_daemon_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 0)
    assert candidate_addresses() == (GLOBAL,)


def test_a_user_uses_the_own_daemon(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 1000)
    assert candidate_addresses() == (OWN,)


def test_a_member_of_the_tracing_group_tries_both(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 1000, is_in_group=True)
    assert candidate_addresses() == (GLOBAL, OWN)
    assert candidate_addresses("another") == (OWN,)


def test_lttng_home_comes_before_home(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 1000)
    monkeypatch.setenv("LTTNG_HOME", "/elsewhere")
    assert candidate_addresses() == ("ipc:///elsewhere/.lttng/tracefleet-sessiond",)


def test_an_explicit_address_overrides_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    be(monkeypatch, 0)
    monkeypatch.setenv("TRACEFLEET_SESSIOND", "tcp://host:1")
    assert candidate_addresses() == ("tcp://host:1",)


def test_relay_daemons_are_found_in_the_run_directories(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TRACEFLEET_SESSIOND", "tcp://host:1")  # has nothing to say about them
    be(monkeypatch, 1000, is_in_group=True)
    assert candidate_run_directories() == ("/var/run/lttng", "/home/u/.lttng")
    assert relay_bus_sockets(str(tmp_path)) == []
    (tmp_path / "relayd").mkdir()
    for name in ("bus-20", "bus-10", "health-10", "other"):
        (tmp_path / "relayd" / name).touch()
    assert relay_bus_sockets(str(tmp_path)) == [f"{tmp_path}/relayd/bus-10", f"{tmp_path}/relayd/bus-20"]


def test_a_path_too_long_for_a_socket_is_named() -> None:
    assert bus_address("/" + "x" * 86) == f"ipc:///{'x' * 86}/tracefleet-sessiond"
    with pytest.raises(InvalidArgument, match="Socket path too long, at most 107 bytes"):
        bus_address("/" + "x" * 87)
    with pytest.raises(InvalidArgument, match="too long"):
        bus_address("/" + "ü" * 50)


def test_no_home_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    with pytest.raises(InvalidArgument, match="HOME"):
        home_directory()


def test_a_group_that_does_not_exist() -> None:
    assert not run_directory.is_in_group("no such group")
    assert not run_directory.is_in_group("bad\0name")
