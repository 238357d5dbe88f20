"""Recording event rules and channel attributes, as they cross the wire and as the domain keeps them."""

from __future__ import annotations

from enum import Enum

import msgspec

NAME_SIZE_BYTES_MAX = 255  # LTTNG_UST_ABI_SYM_NAME_LEN is 256 with the NUL
PAGE_SIZE_BYTES = 4096


class Domain(Enum):
    """A tracing domain."""

    USER_SPACE = "ust"
    KERNEL = "kernel"
    JUL = "jul"
    LOG4J = "log4j"
    PYTHON = "python"


class BufferOwnership(Enum):
    """Who shares one set of ring buffers."""

    PER_USER = "uid"
    PER_PROCESS = "pid"


class LossMode(Enum):
    """What happens when a ring buffer is full: drop the new event record, or overwrite the oldest packet."""

    DISCARD = "discard"
    OVERWRITE = "overwrite"


class LogLevelMatch(Enum):
    """How `EventRule.log_level` restricts: not at all, at least as severe, exactly."""

    ALL = "all"
    RANGE = "range"
    SINGLE = "single"


# Severity falls as the number rises; the values are those of liblttng-ust (include/lttng/ust-events.h).
UST_LOG_LEVELS: dict[str, int] = {
    "EMERG": 0,
    "ALERT": 1,
    "CRIT": 2,
    "ERR": 3,
    "WARNING": 4,
    "NOTICE": 5,
    "INFO": 6,
    "DEBUG_SYSTEM": 7,
    "DEBUG_PROGRAM": 8,
    "DEBUG_PROCESS": 9,
    "DEBUG_MODULE": 10,
    "DEBUG_UNIT": 11,
    "DEBUG_FUNCTION": 12,
    "DEBUG_LINE": 13,
    "DEBUG": 14,
}
LOG_LEVEL_NONE = -1


class EventRule(msgspec.Struct, frozen=True, kw_only=True):
    """What makes an instrumentation point record: its identity is every field together."""

    pattern: str  # tracepoint name; `*` matches anything, anywhere; `\\*` is a star
    log_level_match: LogLevelMatch = LogLevelMatch.ALL
    log_level: int = LOG_LEVEL_NONE
    exclusions: tuple[str, ...] = ()


class ChannelAttributes(msgspec.Struct, frozen=True, kw_only=True):
    """How a channel's ring buffers work. None: the default of the domain and the buffer ownership."""

    loss_mode: LossMode | None = None
    sub_buffer_size_bytes: int | None = None
    sub_buffer_count: int | None = None
    switch_timer_period_us: int = 0
    read_timer_period_us: int = 0
    monitor_timer_period_us: int = 1_000_000
    blocking_timeout_us: int = 0  # -1: for ever
    trace_file_size_bytes: int = 0  # 0: unlimited
    trace_file_count: int = 0  # 0: unlimited
    output: str = "mmap"
