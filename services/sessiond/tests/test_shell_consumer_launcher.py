"""Where the program of the consumer daemon is looked for."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tracefleet_common.errors import NotFound
from tracefleet_sessiond.adapters.consumer_launcher import PROGRAM_NAME, find_program
from tracefleet_sessiond.settings import ConsumerSettings


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Three empty places: beside the daemon, beside the interpreter, and in PATH."""
    for name in ("own", "interpreter", "path"):
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "interpreter" / "python"))
    monkeypatch.setenv("PATH", f"relative:{tmp_path / 'path'}")
    return tmp_path


def consumer(places: Path, program: str | None = None) -> ConsumerSettings:
    return ConsumerSettings(
        bits_per_word=64,
        program=program,
        own_directory=str(places / "own"),
        library_directory=None,
        directory="/run",
        command_socket="/run/command",
        descriptor_socket="/run/descriptors",
        health_socket="/run/health",
        verbosity=0,
        is_quiet=False,
    )


def program_in(directory: Path) -> str:
    path = directory / PROGRAM_NAME
    path.touch(0o755)
    return str(path)


def test_the_nearest_program_is_taken(places: Path) -> None:
    for name in ("path", "interpreter", "own"):
        expected = program_in(places / name)
        assert find_program(consumer(places)) == expected


def test_a_file_that_cannot_be_executed_is_passed_over(places: Path) -> None:
    (places / "own" / PROGRAM_NAME).touch(0o644)
    expected = program_in(places / "path")
    assert find_program(consumer(places)) == expected


def test_a_program_that_was_set_is_the_only_one(places: Path) -> None:
    program_in(places / "own")
    with pytest.raises(NotFound, match="/nonexistent/consumerd"):
        find_program(consumer(places, "/nonexistent/consumerd"))


def test_no_program_anywhere(places: Path) -> None:
    with pytest.raises(NotFound, match="--consumerd64-path"):
        find_program(consumer(places))
