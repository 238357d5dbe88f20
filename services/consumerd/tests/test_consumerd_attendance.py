"""Who looks after which registry."""

from __future__ import annotations

from tracefleet_consumerd.domain.attendance import Attendance

FIRST, SECOND = b"first", b"second"


def an_attendance() -> Attendance:
    return Attendance(patience_s=10.0, now_s=0.0)


def test_a_registry_is_overdue_some_time_after_its_keeper_left() -> None:
    attendance = an_attendance()
    attendance.peer_arrived(FIRST)
    attendance.registry_used(1, FIRST, 1.0)
    assert attendance.overdue_registries(100.0) == []
    attendance.peer_left(FIRST, 100.0)
    assert attendance.overdue_registries(109.9) == []
    assert attendance.overdue_registries(110.0) == [1]
    attendance.registry_closed(1)
    assert attendance.overdue_registries(200.0) == []


def test_whoever_speaks_of_a_registry_takes_it_up() -> None:
    attendance = an_attendance()
    for peer in (FIRST, SECOND):
        attendance.peer_arrived(peer)
    attendance.registry_used(1, FIRST, 0.0)
    attendance.registry_used(2, FIRST, 0.0)
    attendance.peer_left(FIRST, 5.0)
    attendance.registry_used(1, SECOND, 6.0)
    assert attendance.overdue_registries(50.0) == [2]
    attendance.peer_left(SECOND, 60.0)
    assert attendance.overdue_registries(70.0) == [1, 2]


def test_work_that_ends_after_its_peer_left_is_abandoned_at_once() -> None:
    attendance = an_attendance()
    attendance.peer_arrived(FIRST)
    attendance.peer_left(FIRST, 5.0)
    attendance.registry_used(1, FIRST, 6.0)
    assert attendance.overdue_registries(16.0) == [1]


def test_the_daemon_is_deserted_when_nobody_was_there_for_too_long() -> None:
    attendance = an_attendance()
    assert not attendance.is_deserted(9.9)
    assert attendance.is_deserted(10.0)  # nobody ever came
    attendance.peer_arrived(FIRST)
    attendance.peer_arrived(SECOND)
    assert not attendance.is_deserted(1000.0)
    attendance.peer_left(FIRST, 1000.0)
    assert not attendance.is_deserted(2000.0)
    attendance.peer_left(SECOND, 2000.0)
    assert not attendance.is_deserted(2009.0)
    assert attendance.is_deserted(2010.0)
