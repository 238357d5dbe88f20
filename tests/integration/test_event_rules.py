"""Which tracepoints a recording event rule selects: by name, exclusions and log level, as LTTng does."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

import pytest
from fleet import GENUINE, OURS, Fleet, has_genuine

LEVELS = [
    "emerg",
    "alert",
    "crit",
    "err",
    "warning",
    "notice",
    "info",
    "debug_system",
    "debug_program",
    "debug_process",
    "debug_module",
    "debug_unit",
    "debug_function",
    "debug_line",
    "debug",
]
LEVEL_OF = {f"tf_levels:{name}": number for number, name in enumerate(LEVELS)} | {
    "tf_levels:undeclared": LEVELS.index("debug_line"),
    "tf_emit:numbered": LEVELS.index("debug_line"),
    "tf_emit:bulky": LEVELS.index("debug_line"),
}
EMITTED = Counter({name: 2 for name in LEVEL_OF if name.startswith("tf_levels")}) + Counter(
    {"tf_emit:numbered": 3, "tf_emit:bulky": 1}
)


@dataclass(frozen=True)
class Case:
    """Arguments of `enable-event -u`, and what they mean."""

    arguments: tuple[str, ...]
    pattern: str
    exclusions: tuple[str, ...] = ()
    at_most: int = 14  # the log level's number
    at_least: int = 0

    def selects(self, name: str) -> bool:
        def matches(pattern: str) -> bool:
            return re.fullmatch(".*".join(map(re.escape, pattern.split("*"))), name) is not None

        is_level = self.at_least <= LEVEL_OF[name] <= self.at_most
        return matches(self.pattern) and is_level and not any(map(matches, self.exclusions))


CASES = [
    Case(("tf_emit:numbered",), "tf_emit:numbered"),
    Case(("tf_emit:missing",), "tf_emit:missing"),
    Case(("-a",), "*"),
    Case(("*",), "*"),
    Case(("tf_*",), "tf_*"),
    Case(("tf_emit:*",), "tf_emit:*"),
    Case(("*:numbered",), "*:numbered"),
    Case(("tf_*:*b*",), "tf_*:*b*"),
    Case(("*m*e*",), "*m*e*"),
    Case(("tf_levels:debug*",), "tf_levels:debug*"),
    Case(("tf_levels:debug?line",), "tf_levels:debug?line"),
    Case(("tf_*", "-x", "tf_emit:numbered"), "tf_*", ("tf_emit:numbered",)),
    Case(("tf_*", "-x", "tf_levels:*"), "tf_*", ("tf_levels:*",)),
    Case(("tf_*", "-x", "*debug*,tf_emit:b*"), "tf_*", ("*debug*", "tf_emit:b*")),
    Case(("-a", "-x", "lttng_ust*,tf_levels:*e*"), "*", ("tf_levels:*e*",)),
    Case(("tf_levels:*", "--loglevel=WARNING"), "tf_levels:*", at_most=4),
    Case(("tf_*", "--loglevel=TRACE_DEBUG_LINE"), "tf_*", at_most=13),
    Case(("tf_levels:*", "--loglevel=emerg"), "tf_levels:*", at_most=0),
    Case(("tf_levels:*", "--loglevel-only=ERR"), "tf_levels:*", at_least=3, at_most=3),
    Case(("tf_*", "--loglevel-only=DEBUG_LINE"), "tf_*", at_least=13, at_most=13),
    Case(("tf_*", "--loglevel=INFO", "-x", "*err"), "tf_*", ("*err",), at_most=6),
]


def record_with_every_rule(fleet: Fleet) -> list[Counter[str]]:
    """One channel per case, all over the same program; what each of them recorded of tf_*."""
    fleet.start_daemon()
    output = fleet.record(is_started=False)
    program = fleet.program()
    for index, case in enumerate(CASES):
        fleet.run("enable-channel", "-u", "--subbuf-size=16k", f"case{index}")
        fleet.run("enable-event", "-u", "-c", f"case{index}", *case.arguments)
    fleet.run("start")
    program.ask("levels 2")
    program.emit(3)
    program.ask("bulky 1 100")
    fleet.stop()
    recorded: list[Counter[str]] = [Counter() for _ in CASES]
    for event in fleet.read(output).events:
        if event.name.startswith("tf_"):
            recorded[int(event.channel.removeprefix("case"))][event.name] += 1
    return recorded


def test_rules_select_by_name_exclusion_and_log_level(make_fleet: Callable[..., Fleet]) -> None:
    """As computed here, and as lttng-tools does with the same program."""
    for kind in (OURS, GENUINE) if has_genuine() else (OURS,):
        recorded = record_with_every_rule(make_fleet(kind))
        for case, names in zip(CASES, recorded, strict=True):
            expected = {name: count for name, count in EMITTED.items() if case.selects(name)}
            assert names == expected, (kind.name, case)


def test_overlapping_rules_record_an_event_once(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:numbered", "tf_emit:*", "tf_*", "*:numbered")
    fleet.program().emit(10)
    fleet.run("disable-event", "-u", "tf_emit:numbered")
    fleet.run("disable-event", "-u", "tf_*")
    fleet.program().emit(10)
    fleet.stop()
    assert fleet.read(output).names() == {"tf_emit:numbered": 20}


def test_one_rule_of_several_names_is_several_rules(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:numbered,tf_levels:err,tf_levels:a*")
    program = fleet.program()
    program.emit(1)
    program.ask("levels 1")
    fleet.stop()
    assert fleet.read(output).names() == {
        "tf_emit:numbered": 1,
        "tf_levels:err": 1,
        "tf_levels:alert": 1,
    }


def test_disabling_all_rules_silences_the_channel(fleet: Fleet) -> None:
    output = fleet.record("tf_emit:numbered", "tf_levels:*")
    program = fleet.program()
    program.emit(2)
    fleet.run("disable-event", "-u", "-a")
    program.emit(2)
    program.ask("levels 1")
    fleet.stop()
    assert fleet.read(output).names() == {"tf_emit:numbered": 2}


@pytest.mark.fault
def test_a_session_whose_rules_have_exclusions_can_be_listed(make_fleet: Callable[..., Fleet]) -> None:
    """The genuine daemon of lttng-tools 2.13.9 crashes here."""
    fleet = make_fleet(OURS)
    daemon = fleet.start_daemon()
    output = fleet.record(is_started=False)
    fleet.run("enable-event", "-u", "tf_*", "-x", "tf_emit:b*,tf_levels:err", "--loglevel=INFO")
    fleet.run("enable-event", "-u", "*", "-x", "lttng_ust*")
    fleet.run("start")
    for arguments in (("list", "s1"), ("status",), ("list",), ("list", "s1", "-c", "channel0")):
        assert fleet.run(*arguments).returncode == 0
    listed = fleet.run("list", "s1").stdout
    assert "tf_emit:b*" in listed
    assert "tf_levels:err" in listed
    assert daemon.is_running()
    fleet.program().emit(4)
    fleet.stop()
    assert fleet.read(output).names()["tf_emit:numbered"] == 4
