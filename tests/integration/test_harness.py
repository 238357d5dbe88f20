"""The harness itself, on the genuine daemons: what it starts, counts and reads is what there is."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from fleet import GENUINE, Fleet, has_genuine

pytestmark = pytest.mark.skipif(not has_genuine(), reason="lttng-tools is not installed")


@pytest.mark.parametrize("is_root", [True, False], ids=["root", "ordinary"])
def test_the_genuine_daemon_records_what_a_program_emits(make_fleet: Callable[..., Fleet], is_root: bool) -> None:
    fleet = make_fleet(GENUINE, is_root=is_root)
    daemon = fleet.start_daemon()
    output = fleet.record("tf_emit:*")
    program = fleet.program()
    assert program.emit(1000) == 1000
    assert fleet.registered_pids() == {program.pid}
    fleet.stop()

    reading = fleet.read(output)
    assert reading.numbers(pid=program.pid) == list(range(1000))
    assert reading.events[7]["text"] == "record 7"
    assert reading.events[7].channel == "channel0"
    assert reading.environments()[0]["tracer_buffering_id"] == fleet.world.uid
    assert daemon.stop() == 0


def test_a_world_ends_with_everything_in_it(make_fleet: Callable[..., Fleet]) -> None:
    fleet = make_fleet(GENUINE)
    fleet.start_daemon()
    fleet.record("tf_emit:*")
    program = fleet.program()
    assert fleet.daemon is not None
    assert {program.pid, fleet.daemon.pid} < set(fleet.world.pids())
    fleet.close()
    assert not fleet.world.directory.exists()
    assert program.process.poll() is not None
