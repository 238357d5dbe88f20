"""A channel of a recording session: settled attributes, and the event rules that feed it."""

from __future__ import annotations

from dataclasses import dataclass, field

import msgspec

from tracefleet_common.errors import AlreadyExists, ErrorCode, InvalidArgument, NotFound, Unsupported
from tracefleet_common.model.event_rules import (
    PAGE_SIZE_BYTES,
    BufferOwnership,
    ChannelAttributes,
    EventRule,
    LossMode,
)
from tracefleet_sessiond.domain import names

DEFAULT_CHANNEL_NAME = "channel0"
SUB_BUFFER_COUNT_DEFAULT = 4
SUB_BUFFER_SIZE_BYTES_DEFAULT = {BufferOwnership.PER_USER: 524_288, BufferOwnership.PER_PROCESS: 16_384}
# Larger ones cannot be mapped, and their sum over the CPUs must fit 64 bits.
BUFFER_SIZE_BYTES_MAX = 1 << 40
TIMER_PERIOD_US_MAX = 0xFFFFFFFF  # the tracer keeps switch and read timers in 32 bits
TRACE_FILE_SIZE_BYTES_MAX = 1 << 62
EXCLUSION_COUNT_MAX = 1024


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0


def settled(attributes: ChannelAttributes, ownership: BufferOwnership) -> ChannelAttributes:
    """`attributes` with every default filled in. Raises InvalidArgument or Unsupported for what cannot work."""
    loss_mode = attributes.loss_mode or LossMode.DISCARD
    size = attributes.sub_buffer_size_bytes
    size_bytes = SUB_BUFFER_SIZE_BYTES_DEFAULT[ownership] if size is None else size
    count = SUB_BUFFER_COUNT_DEFAULT if attributes.sub_buffer_count is None else attributes.sub_buffer_count
    if attributes.output != "mmap":
        raise Unsupported(f"User-space channels are read with mmap only, not with {attributes.output!r}")
    if not _is_power_of_two(size_bytes) or size_bytes < PAGE_SIZE_BYTES:
        raise InvalidArgument(
            f"The sub-buffer size {size_bytes} is not a power of two of at least {PAGE_SIZE_BYTES} bytes"
        )
    if not _is_power_of_two(count):
        raise InvalidArgument(f"The sub-buffer count {count} is not a power of two")
    if loss_mode is LossMode.OVERWRITE and count < 2:
        raise InvalidArgument("An overwrite channel needs at least two sub-buffers")
    if size_bytes * count > BUFFER_SIZE_BYTES_MAX:
        raise InvalidArgument(f"{count} sub-buffers of {size_bytes} bytes are more than can be mapped")
    for name in ("switch_timer_period_us", "read_timer_period_us", "monitor_timer_period_us"):
        if not 0 <= getattr(attributes, name) <= TIMER_PERIOD_US_MAX:
            raise InvalidArgument(f"{name} must lie between 0 and {TIMER_PERIOD_US_MAX}")
    if attributes.blocking_timeout_us < -1 or attributes.blocking_timeout_us > TIMER_PERIOD_US_MAX:
        raise InvalidArgument(f"The blocking timeout {attributes.blocking_timeout_us} us is out of range")
    if attributes.blocking_timeout_us != 0 and loss_mode is LossMode.OVERWRITE:
        raise InvalidArgument("A blocking timeout makes no sense in overwrite mode: nothing ever waits")
    if not 0 <= attributes.trace_file_size_bytes <= TRACE_FILE_SIZE_BYTES_MAX:
        raise InvalidArgument(f"The trace file size {attributes.trace_file_size_bytes} is out of range")
    if 0 < attributes.trace_file_size_bytes < size_bytes:
        raise InvalidArgument(
            f"A trace file of {attributes.trace_file_size_bytes} bytes cannot hold one sub-buffer of {size_bytes}"
        )
    if not 0 <= attributes.trace_file_count <= 0xFFFFFFFF:
        raise InvalidArgument(f"The trace file count {attributes.trace_file_count} is out of range")
    if attributes.trace_file_count and not attributes.trace_file_size_bytes:
        raise InvalidArgument("A trace file count needs a trace file size")
    return msgspec.structs.replace(
        attributes, loss_mode=loss_mode, sub_buffer_size_bytes=size_bytes, sub_buffer_count=count
    )


def checked_rule(rule: EventRule) -> EventRule:
    """`rule` with its patterns normalised. Raises InvalidArgument."""
    names.check_event_pattern(rule.pattern)
    if len(rule.exclusions) > EXCLUSION_COUNT_MAX:
        raise InvalidArgument(
            f"{len(rule.exclusions)} exclusions are too many; {EXCLUSION_COUNT_MAX} is the most",
            ErrorCode.EXCLUSION_INVALID,
        )
    for exclusion in rule.exclusions:
        names.check_exclusion(exclusion)
    if rule.exclusions and not names.is_pattern(rule.pattern):
        raise InvalidArgument(
            f"Exclusions need a pattern to exclude from: {rule.pattern!r} has no '*'",
            ErrorCode.EXCLUSION_INVALID,
        )
    if not -(2**31) <= rule.log_level < 2**31:
        raise InvalidArgument(f"The log level {rule.log_level} is out of range")
    return msgspec.structs.replace(
        rule,
        pattern=names.normalised_pattern(rule.pattern),
        exclusions=tuple(names.normalised_pattern(exclusion) for exclusion in rule.exclusions),
    )


@dataclass(eq=False)
class Channel:
    """One channel. `rules` maps each event rule, in order of creation, to whether it is enabled."""

    name: str
    attributes: ChannelAttributes
    is_enabled: bool = True
    rules: dict[EventRule, bool] = field(default_factory=dict)
    error: str | None = None  # why it does not record as it should now

    @property
    def loss_mode(self) -> LossMode:
        """Settled at creation."""
        assert self.attributes.loss_mode is not None
        return self.attributes.loss_mode

    def enable_rule(self, rule: EventRule) -> None:
        """Raises AlreadyExists when the very same rule is enabled."""
        if self.rules.get(rule):
            raise AlreadyExists(
                f"The event rule {rule.pattern!r} is already enabled in channel {self.name}",
                ErrorCode.UST_EVENT_ENABLED,
            )
        self.rules[rule] = True

    def disable_rules(self, pattern: str | None) -> int:
        """Disable the rules named `pattern`, or all; the number that were enabled. Raises NotFound."""
        matching = [rule for rule in self.rules if pattern is None or rule.pattern == pattern]
        if not matching and pattern is not None:
            raise NotFound(f"Channel {self.name} has no event rule {pattern!r}", ErrorCode.UST_EVENT_NOT_FOUND)
        count = sum(self.rules[rule] for rule in matching)
        for rule in matching:
            self.rules[rule] = False
        return count
