"""What a channel must be like before ring buffers are made for it."""

from __future__ import annotations

import mmap

import msgspec

from tracefleet_common.errors import InvalidArgument
from tracefleet_common.messages.consumerd_control import CONTEXT_FIELDS_EVENT_ID
from tracefleet_common.model.ctf_types import HeaderType
from tracefleet_common.model.event_rules import LossMode
from tracefleet_consumerd.domain.registry import FILE_NAME_SIZE_BYTES_MAX, check_key, encoded_name

# The longest file of a channel adds this to its name: CPU, file number, suffix of the index file.
CHANNEL_NAME_SIZE_BYTES_MAX = FILE_NAME_SIZE_BYTES_MAX - len("_8191_4294967295.idx")
CHANNEL_ID_MAX = 2**32 - 2  # 2^32 - 1 marks a metadata channel
TIMER_PERIOD_US_MAX = 2**32 - 1
# The tracer's library counts the bytes of a ring buffer, one spare sub-buffer included, in a C int.
BUFFER_SIZE_BYTES_MAX = 2**31 - 1
SUB_BUFFER_SIZE_BYTES_MAX = 2**30
SUB_BUFFER_COUNT_MAX = 2**18
TRACE_FILE_SIZE_BYTES_MAX = 2**62
TRACE_FILE_COUNT_MAX = 2**32 - 1
EVENT_ID_MAX = 2**32 - 2
RECORD_LAYOUT_SIZE_BYTES_MAX = 64 * 1024
BLOCK_FOR_EVER_US = -1
BLOCKING_TIMEOUT_US_MAX = 2**31 * 1000  # the tracer counts in signed milliseconds


class ChannelSettings(msgspec.Struct, frozen=True, kw_only=True):
    """As the session daemon asks for it; see CreateChannel for the meaning of each field."""

    channel_key: int
    name: str
    channel_id: int
    header_type: HeaderType
    trace_uuid: bytes
    loss_mode: LossMode
    sub_buffer_size_bytes: int
    sub_buffer_count: int
    switch_timer_period_us: int
    read_timer_period_us: int
    monitor_timer_period_us: int
    blocking_timeout_us: int
    trace_file_size_bytes: int
    trace_file_count: int
    live_timer_period_us: int = 0


def check_channel(settings: ChannelSettings) -> None:
    """Raises InvalidArgument for a name that is no file name, and for sizes that no ring buffer can have."""
    check_key("channel", settings.channel_key)
    _check_name(settings.name)
    _check_range("channel id", settings.channel_id, 0, CHANNEL_ID_MAX)
    _check_buffer(settings)
    for timer, period_us in (
        ("switch", settings.switch_timer_period_us),
        ("read", settings.read_timer_period_us),
        ("live", settings.live_timer_period_us),
        ("monitor", settings.monitor_timer_period_us),
    ):
        _check_range(f"{timer} timer period (us)", period_us, 0, TIMER_PERIOD_US_MAX)
    _check_range("blocking time-out (us)", settings.blocking_timeout_us, BLOCK_FOR_EVER_US, BLOCKING_TIMEOUT_US_MAX)
    if settings.blocking_timeout_us != 0 and settings.loss_mode is LossMode.OVERWRITE:
        raise InvalidArgument("A channel that overwrites never blocks: it cannot have a blocking time-out")
    _check_range("trace file count", settings.trace_file_count, 0, TRACE_FILE_COUNT_MAX)
    _check_range("trace file size (bytes)", settings.trace_file_size_bytes, 0, TRACE_FILE_SIZE_BYTES_MAX)
    if 0 < settings.trace_file_size_bytes < settings.sub_buffer_size_bytes:
        raise InvalidArgument(
            f"A trace file of {settings.trace_file_size_bytes} bytes cannot hold a sub-buffer of "
            f"{settings.sub_buffer_size_bytes} bytes"
        )


def check_record_layout(event_id: int, layout: bytes) -> None:
    """Raises InvalidArgument. What is in the layout is checked where it is used."""
    _check_range("event id", event_id, CONTEXT_FIELDS_EVENT_ID, EVENT_ID_MAX)
    _check_range("size of a record layout (bytes)", len(layout), 0, RECORD_LAYOUT_SIZE_BYTES_MAX)


def _check_name(name: str) -> None:
    size_bytes = len(encoded_name(name))
    if not 0 < size_bytes <= CHANNEL_NAME_SIZE_BYTES_MAX:
        raise InvalidArgument(
            f"A channel name of {size_bytes} bytes gives no file names; at most {CHANNEL_NAME_SIZE_BYTES_MAX} do"
        )
    if "/" in name or "\0" in name or name.startswith("."):
        raise InvalidArgument(f"A channel name with / or a null byte, or that begins with a dot: {name!r}")


def _check_buffer(settings: ChannelSettings) -> None:
    size_bytes, count = settings.sub_buffer_size_bytes, settings.sub_buffer_count
    if not _is_power_of_two(size_bytes) or not mmap.PAGESIZE <= size_bytes <= SUB_BUFFER_SIZE_BYTES_MAX:
        raise InvalidArgument(
            f"The size of a sub-buffer is a power of two from {mmap.PAGESIZE} to {SUB_BUFFER_SIZE_BYTES_MAX} bytes, "
            f"not {size_bytes}"
        )
    count_min = 2 if settings.loss_mode is LossMode.OVERWRITE else 1
    if not _is_power_of_two(count) or not count_min <= count <= SUB_BUFFER_COUNT_MAX:
        raise InvalidArgument(
            f"The number of sub-buffers is a power of two from {count_min} to {SUB_BUFFER_COUNT_MAX}, not {count}"
        )
    if size_bytes * (count + 1) > BUFFER_SIZE_BYTES_MAX:
        raise InvalidArgument(
            f"{count} + 1 sub-buffers of {size_bytes} bytes exceed the limit of {BUFFER_SIZE_BYTES_MAX} bytes"
        )


def _check_range(what: str, number: int, lowest: int, highest: int) -> None:
    if not lowest <= number <= highest:
        raise InvalidArgument(f"The {what} is between {lowest} and {highest}, not {number}")


def _is_power_of_two(number: int) -> bool:
    return number > 0 and number & (number - 1) == 0
