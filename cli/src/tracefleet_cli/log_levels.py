"""Log levels of user-space tracepoints, as `lttng` reads and prints them."""

from __future__ import annotations

from tracefleet_common.model.event_rules import UST_LOG_LEVELS

_NAMES_BY_VALUE = {value: name for name, value in UST_LOG_LEVELS.items()}


def value_of(text: str) -> int | None:
    """INFO, info, TRACE_INFO; DEBUG_UNIT, TRACE_DEBUG_UNIT, UNIT; or a number. None: there is no such level."""
    if text.isascii() and text.isdecimal():
        return int(text) if int(text) in _NAMES_BY_VALUE else None
    name = text.upper().removeprefix("TRACE_")
    value = UST_LOG_LEVELS.get(name)
    if value is None and not text.upper().startswith("TRACE_"):
        value = UST_LOG_LEVELS.get(f"DEBUG_{name}")
    return value


def name_of(value: int) -> str:
    """`TRACE_INFO`."""
    name = _NAMES_BY_VALUE.get(value)
    return "<<UNKNOWN>>" if name is None else f"TRACE_{name}"
