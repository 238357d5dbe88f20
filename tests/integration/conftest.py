"""Fixtures: worlds with daemons, built programs, and their logs in the report of a failure."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from fleet import GENUINE, OURS, Fleet, Kind, has_genuine, is_real_root
from networks import Link
from programs import build_programs
from world import World

# With TRACEFLEET_TEST_KIND=genuine, scenarios that any implementation must pass run on lttng-tools: a test
# that fails there expects something else than LTTng does.
KIND_UNDER_TEST = GENUINE if os.environ.get("TRACEFLEET_TEST_KIND") == "genuine" else OURS
FLEETS = pytest.StashKey[list[Fleet]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if not is_real_root():
        for item in items:
            if item.get_closest_marker("root") is not None:
                item.add_marker(pytest.mark.skip(reason="needs root: several users at once"))


@pytest.fixture(scope="session", autouse=True)
def _programs() -> None:
    build_programs()


@pytest.fixture
def make_fleet(request: pytest.FixtureRequest, _programs: None) -> Iterator[Callable[..., Fleet]]:
    """Makes fleets (arguments as `Fleet`), without a daemon; ends them after the test."""
    fleets = request.node.stash.setdefault(FLEETS, [])

    def make(kind: Kind = OURS, *, is_root: bool = True, shm_size: str | None = None) -> Fleet:
        made = Fleet(kind, is_root=is_root, shm_size=shm_size)
        fleets.append(made)
        return made

    yield make
    errors = []
    for made in fleets:
        try:
            made.close()
        except AssertionError as error:
            errors.append(error)
    if errors:
        raise errors[0]


@pytest.fixture
def show_logs_of(request: pytest.FixtureRequest) -> Callable[[Fleet], None]:
    """Puts the logs of a fleet that outlives the test into the report when it fails."""
    fleets: list[Fleet] = request.node.stash.setdefault(FLEETS, [])
    return fleets.append


@pytest.fixture
def make_link(make_fleet: Callable[..., Fleet]) -> Iterator[Callable[..., Link]]:
    """Joins the worlds of two fleets (arguments as `Link`); the links end with the test, before the worlds."""
    links: list[Link] = []

    def make(near: World, far: World, *, seed: int = 1) -> Link:
        links.append(Link(near, far, seed=seed))
        return links[-1]

    yield make
    for link in links:
        link.close()


@pytest.fixture
def kind_under_test() -> Kind:
    return KIND_UNDER_TEST


@pytest.fixture
def fleet(make_fleet: Callable[..., Fleet]) -> Fleet:
    """The daemon under test, running as root."""
    made = make_fleet(KIND_UNDER_TEST)
    made.start_daemon()
    return made


@pytest.fixture(params=["root", "ordinary"])
def any_fleet(request: pytest.FixtureRequest, make_fleet: Callable[..., Fleet]) -> Fleet:
    """The daemon under test, running as root and as an ordinary user in turn."""
    made = make_fleet(KIND_UNDER_TEST, is_root=request.param == "root")
    made.start_daemon()
    return made


@pytest.fixture
def both_kinds(make_fleet: Callable[..., Fleet]) -> tuple[Fleet, Fleet]:
    """Our daemon and the genuine one, each in a world of its own, both running."""
    if not has_genuine():
        pytest.skip("lttng-tools is not installed: nothing to compare with")
    ours, genuine = make_fleet(OURS), make_fleet(GENUINE)
    ours.start_daemon()
    genuine.start_daemon()
    return ours, genuine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Attach the daemons' logs while their worlds still exist."""
    report = yield
    if call.when in ("setup", "call") and report.failed:
        for made in item.stash.get(FLEETS, []):
            report.sections.append((f"daemons ({made.kind.name})", made.logs()))
    return report
