"""The README's first command works on a fresh Debian: no install step is missing."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from .fresh_debian import FreshDebian, privileged

REPOSITORY = Path(__file__).resolve().parents[2]
SET_UP_DEADLINE_S = 900  # most of it waits for the package registries
DEADLINE_S = 120

pytestmark = [pytest.mark.clean_root, pytest.mark.timeout(SET_UP_DEADLINE_S + 4 * DEADLINE_S)]


@pytest.fixture(params=["bookworm", "trixie"])
def debian(request: pytest.FixtureRequest) -> Iterator[FreshDebian]:
    """A fresh Debian 12 or 13 with the repository in the home of an ordinary user."""
    as_root = privileged()
    if as_root is None:
        pytest.skip("making a Debian root needs root, or sudo without a password")
    # Not in /tmp, which may be mounted without devices or set-user-id programs; sudo is one.
    place = Path(tempfile.mkdtemp(prefix="clean-root-", dir=os.environ.get("CLEAN_ROOT_DIR", "/var/tmp")))
    fresh = FreshDebian(request.param, place / "root", as_root)
    try:
        fresh.copy_repository(REPOSITORY)
        yield fresh
    finally:
        fresh.remove()
        place.rmdir()


def test_the_demo_runs_on_a_fresh_debian(debian: FreshDebian) -> None:
    """As an ordinary user with sudo, then as root, and quick when nothing changed."""
    first = debian.run("cd tracefleet && script/demo", SET_UP_DEADLINE_S)
    assert first.returncode == 0, first.stdout[-4000:]
    assert_demo_output(first.stdout)

    again = debian.run("cd tracefleet && time -p script/setup", DEADLINE_S)
    assert again.returncode == 0, again.stdout
    # Time of the CPU: what it waited for it may have got late, on a machine that runs other tests meanwhile.
    took_s = [float(time) for time in re.findall(r"^(?:user|sys) ([0-9.]+)$", again.stdout, re.MULTILINE)]
    assert len(took_s) == 2 and sum(took_s) < 1, again.stdout

    as_root = debian.run("cd tracefleet && sudo script/demo", DEADLINE_S)
    assert as_root.returncode == 0, as_root.stdout[-4000:]
    assert_demo_output(as_root.stdout)


def assert_demo_output(output: str) -> None:
    """Check the 24 events of the example, one a line, and the books."""
    lines = output.splitlines()
    greetings = [line for line in lines if " hello:greeting: " in line]
    temperatures = [line for line in lines if " hello:temperature: " in line]
    assert len(greetings) == 20, output
    assert len(temperatures) == 4, output
    assert 'number = 3, name = "小明", politeness = ( "CIVIL" : container = 3 )' in greetings[3]
    assert "celsius = 22.375, _history_length = 4, history = [ [0] = 16, [1] = 17," in temperatures[3]
    books = [line.split() for line in lines if re.match(r"(emitted|recorded|lost) ", line)]
    assert books == [["emitted", "24"], ["recorded", "24"], ["lost", "0"]]
