"""Every type of field: the values that the program computed, and the descriptions that LTTng gives them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from field_values import SEED_COUNT, expected_fields, seeds_of
from fleet import OURS, Fleet
from traces import Reading, metadata_text, trace_directories


def record_all_fields(fleet: Fleet) -> tuple[Path, Reading]:
    output = fleet.record("tf_fields:*")
    assert fleet.program("allfields").ask(f"emit {SEED_COUNT}") == 10 * SEED_COUNT
    fleet.stop()
    return output, fleet.read(output)


def test_every_value_is_what_the_program_computed(any_fleet: Fleet) -> None:
    _, reading = record_all_fields(any_fleet)
    assert set(reading.names().values()) == {SEED_COUNT}
    assert len(reading.names()) == 10
    for seed, event in seeds_of(reading.events):
        expected = expected_fields(event.name.removeprefix("tf_fields:"), seed)
        assert event.fields == expected, (event.name, seed)
        assert list(event.fields) == list(expected), event.name


def normalised(text: str) -> str:
    """Metadata without what may differ: ids of this trace, its time, and which event header it chose."""
    text = re.sub(r"struct event_header_(compact|large);", "struct event_header_…;", text)
    text = re.sub(r'uuid = "[0-9a-f-]{36}"', 'uuid = "…"', text, count=1)  # the trace's; the clock's is the boot's
    text = re.sub(r"offset = \d+;", "offset = …;", text)
    return re.sub(r'trace_creation_datetime = "\d{8}T\d{6}[+-]\d{4}"', 'trace_creation_datetime = "…"', text)


def test_descriptions_and_records_equal_those_of_the_genuine_tracer(both_kinds: tuple[Fleet, Fleet]) -> None:
    (our_output, ours), (genuine_output, genuine) = map(record_all_fields, both_kinds)

    def classes_of(reading: Reading) -> dict[str, Any]:
        return {found.name: (found.id, found.log_level, found.emf_uri, found.payload) for found in reading.classes}

    assert classes_of(ours) == classes_of(genuine)
    assert [(event.name, event.fields, event.context) for event in ours.events] == [
        (event.name, event.fields, event.context) for event in genuine.events
    ]

    def environment_of(reading: Reading) -> dict[str, Any]:
        (environment,) = reading.environments()
        return {name: value for name, value in environment.items() if name != "trace_creation_datetime"}

    assert environment_of(ours) == environment_of(genuine)
    (our_trace,), (genuine_trace,) = trace_directories(our_output), trace_directories(genuine_output)
    assert our_trace.relative_to(our_output) == genuine_trace.relative_to(genuine_output)
    assert normalised(metadata_text(our_trace)) == normalised(metadata_text(genuine_trace))


def test_per_process_environment_equals_that_of_the_genuine_tracer(both_kinds: tuple[Fleet, Fleet]) -> None:
    texts = []
    for fleet in both_kinds:
        output = fleet.record("tf_emit:numbered", channel=("--buffers-pid", "c"))
        program = fleet.program()
        program.emit(1)
        fleet.stop()
        (directory,) = trace_directories(output)
        text = re.sub(r'vpid_datetime = "\d{8}T\d{6}[+-]\d{4}"', 'vpid_datetime = "…"', metadata_text(directory))
        texts.append(normalised(text).replace(str(program.pid), "PID"))
    assert texts[0] == texts[1]


def test_a_model_uri_with_quotes_leaves_the_trace_readable(make_fleet: Callable[..., Fleet]) -> None:
    """lttng-tools 2.13.9 writes it without escapes, and no reader accepts that trace."""
    fleet = make_fleet(OURS)
    fleet.start_daemon()
    output = fleet.record("tf_odd:*")
    fleet.program("allfields").ask("odd 3")
    fleet.stop()
    reading = fleet.read(output)
    assert [event["number"] for event in reading.events] == [0, 1, 2]
    assert reading.classes[0].emf_uri == 'http://example.com/a"b\\c'


@pytest.mark.parametrize("level", ["WARNING", "DEBUG_LINE"])
def test_log_levels_reach_the_trace(fleet: Fleet, level: str) -> None:
    output = fleet.record("tf_levels:*")
    fleet.program().ask("levels 1")
    fleet.stop()
    levels = {found.name: found.log_level for found in fleet.read(output).classes}
    assert len(levels) == 16
    assert levels[f"tf_levels:{level.lower()}"] is not None
    if level == "DEBUG_LINE":
        assert levels["tf_levels:undeclared"] == levels["tf_levels:debug_line"]
