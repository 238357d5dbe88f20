"""enable-channel: create channels, or enable those that were disabled."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from tracefleet_cli import exit_status, quantities
from tracefleet_cli.domains import TRACER_DOMAINS, require_user_space
from tracefleet_cli.error_texts import text_of
from tracefleet_cli.general_options import HELP, JSON, LIST_OPTIONS
from tracefleet_cli.name_lists import split_names
from tracefleet_common.errors import ErrorCode, TracefleetError
from tracefleet_common.model.event_rules import (
    NAME_SIZE_BYTES_MAX,
    BufferOwnership,
    ChannelAttributes,
    Domain,
    LossMode,
)
from tracefleet_common.options import Option, Parsed

if TYPE_CHECKING:
    from tracefleet_cli.context import Context

OPTIONS = (
    HELP,
    Option("session", "s", "SESSION", "Of the session SESSION, instead of the current one."),
    *TRACER_DOMAINS,
    Option("discard", None, None, "When there is no room, discard new event records (default)."),
    Option("overwrite", None, None, "When there is no room, overwrite the oldest sub-buffer."),
    Option(
        "subbuf-size",
        None,
        "SIZE",
        "Size of a sub-buffer in bytes (suffixes k, M, G), rounded up to a power of two, at least a page. "
        "Default: 512k with --buffers-uid, 16k with --buffers-pid.",
    ),
    Option("num-subbuf", None, "COUNT", "Sub-buffers per ring buffer, rounded up to a power of two. Default: 4."),
    Option("switch-timer", None, "PERIOD", "Switch sub-buffers every PERIOD (us, ms, s, m, h). Default: 0, never."),
    Option("monitor-timer", None, "PERIOD", "Sample the buffers every PERIOD. Default: 1 s; 0: never."),
    Option("read-timer", None, "PERIOD", "Look for full sub-buffers every PERIOD. Default: 0, when signalled."),
    LIST_OPTIONS,
    Option("output", None, "TYPE", "How full sub-buffers are read: mmap (default)."),
    Option("buffers-uid", None, None, "One set of ring buffers per user (default)."),
    Option("buffers-pid", None, None, "One set of ring buffers per process."),
    Option("buffers-global", None, None, "One set of ring buffers for all: Linux kernel domain only."),
    Option("tracefile-size", "C", "SIZE", "Begin a new trace file after SIZE bytes. Default: 0, unlimited."),
    Option("tracefile-count", "W", "COUNT", "Keep the newest COUNT trace files per stream. Default: 0, unlimited."),
    Option(
        "blocking-timeout",
        None,
        "TIMEOUT",
        "How long a program that allows it waits for room (us, ms, s, m, h), or inf. Default: 0, not at all.",
    ),
    JSON,
)
UNSUPPORTED_OPTIONS: frozenset[str] = frozenset()
OPERANDS = "CHANNEL[,CHANNEL]..."
DESCRIPTION = """\
Creates the channels CHANNEL, or enables those that exist and are disabled. All channels of a session and \
domain have the same buffering scheme."""

UST_SUB_BUFFER_SIZES = {
    BufferOwnership.PER_USER: 512 * 1024,
    BufferOwnership.PER_PROCESS: 16 * 1024,
}
OUTPUT_TYPES = ("mmap", "splice")
BLOCKING_FOR_EVER = -1
# The tracer passes it to poll(), in milliseconds.
BLOCKING_TIMEOUT_US_MAX = (2**31 - 1) * 1000 + 999


def run(context: Context, parsed: Parsed) -> int:
    """Enable the channels, each for itself."""
    attributes = _attributes(context, parsed)
    require_user_space(context, parsed, TRACER_DOMAINS)
    if attributes["loss_mode"] is LossMode.OVERWRITE and attributes.get("blocking_timeout_us"):
        raise context.end("You cannot specify --overwrite and --blocking-timeout=N, where N is different than 0")
    if not parsed.operands:
        raise context.end("Missing channel name.")
    context.at_most_operands(parsed, 1)
    names = split_names(parsed.operands[0])
    if not names:
        raise context.end("Missing channel name.")
    session = context.session(parsed.value("session"))
    ownership = _buffer_ownership(context, parsed)
    _settle_trace_files(context, attributes, ownership)
    settled = ChannelAttributes(**attributes)
    statuses = {_enable(context, session, name, ownership, settled) for name in names}
    for status in (exit_status.WARNING, exit_status.ERROR):
        if status in statuses:
            return status
    return exit_status.SUCCESS


def _enable(
    context: Context,
    session: str,
    name: str,
    ownership: BufferOwnership | None,
    attributes: ChannelAttributes,
) -> int:
    terminal = context.terminal
    if len(os.fsencode(name)) > NAME_SIZE_BYTES_MAX:
        terminal.error(f"Channel name is too long (max. {NAME_SIZE_BYTES_MAX} characters)")
        return exit_status.ERROR
    try:
        channel = context.client().enable_channel(
            session=session,
            domain=Domain.USER_SPACE,
            channel=name,
            buffer_ownership=ownership,
            attributes=attributes,
        )
    except TracefleetError as error:
        text = f"Channel {name}: {text_of(error)} (session {session})"
        if error.code == ErrorCode.UST_CHANNEL_EXISTS:
            terminal.refusal(text, error)
            return exit_status.WARNING
        if error.code == ErrorCode.INVALID_CHANNEL_NAME:
            text = f"Invalid channel name: \"{name}\". Channel names may not start with '.', and may not contain '/'."
        terminal.error(text, error)
        return exit_status.ERROR
    terminal.message(f"ust channel {name} enabled for session {session}")
    terminal.value(channel)
    return exit_status.SUCCESS


def _buffer_ownership(context: Context, parsed: Parsed) -> BufferOwnership | None:
    if parsed.has("buffers-pid"):
        return BufferOwnership.PER_PROCESS
    if parsed.has("buffers-global"):
        raise context.end("Buffer type not supported for domain -u")
    return BufferOwnership.PER_USER if parsed.has("buffers-uid") else None


def _attributes(context: Context, parsed: Parsed) -> dict[str, Any]:
    """Fields of ChannelAttributes, of the options that were given; a later option overrides."""
    attributes: dict[str, Any] = {"loss_mode": None}
    for name, value in parsed.occurrences:
        text = value or ""
        match name:
            case "discard":
                attributes["loss_mode"] = LossMode.DISCARD
            case "overwrite":
                attributes["loss_mode"] = LossMode.OVERWRITE
            case "subbuf-size":
                attributes["sub_buffer_size_bytes"] = _sub_buffer_size_bytes(context, text)
            case "num-subbuf":
                attributes["sub_buffer_count"] = _sub_buffer_count(context, text)
            case "switch-timer" | "read-timer":
                field = name.replace("-", "_") + "_period_us"
                attributes[field] = _duration_us(context, name, text, quantities.UINT32_MAX)
            case "monitor-timer":
                attributes["monitor_timer_period_us"] = _duration_us(context, name, text, quantities.UINT64_MAX)
            case "blocking-timeout":
                attributes["blocking_timeout_us"] = _blocking_timeout_us(context, text)
            case "tracefile-size":
                attributes["trace_file_size_bytes"] = _trace_file_size_bytes(context, text)
            case "tracefile-count":
                attributes["trace_file_count"] = _trace_file_count(context, text)
            case "output":
                attributes["output"] = _output(context, text)
    return attributes


def _sub_buffer_size_bytes(context: Context, text: str) -> int:
    try:
        size_bytes = quantities.size_bytes(text)
    except quantities.BadQuantity:
        size_bytes = 0
    if size_bytes == 0:
        raise context.end(f"Wrong value in --subbuf-size parameter: {text}")
    return _rounded(context, "subbuf size", size_bytes)


def _sub_buffer_count(context: Context, text: str) -> int:
    try:
        count = quantities.count(text)
    except quantities.BadQuantity:
        count = 0
    if count == 0:
        raise context.end(f"Wrong value in --num-subbuf parameter: {text}")
    return _rounded(context, "number of subbuffers", count)


def _rounded(context: Context, what: str, value: int) -> int:
    rounded = quantities.next_power_of_two(value)
    if rounded > quantities.UINT64_MAX:
        raise context.end(f"The {what} ({value}) is rounded and overflows!")
    if rounded != value:
        context.terminal.warning(f"The {what} ({value}) is rounded to the next power of 2 ({rounded})")
    return rounded


def _duration_us(context: Context, option: str, text: str, maximum_us: int) -> int:
    try:
        return quantities.duration_us(text, maximum_us)
    except quantities.TooLarge:
        raise context.end(f"32-bit overflow in --{option} parameter: {text}") from None
    except quantities.BadQuantity:
        raise context.end(f"Wrong value for --{option} parameter: {text}") from None


def _blocking_timeout_us(context: Context, text: str) -> int:
    if text == "inf":
        return BLOCKING_FOR_EVER
    try:
        return quantities.duration_us(text, BLOCKING_TIMEOUT_US_MAX)
    except quantities.TooLarge:
        raise context.end(f"32-bit milliseconds overflow in --blocking-timeout parameter: {text}") from None
    except quantities.BadQuantity:
        raise context.end(f"Wrong value for --blocking-timeout parameter: {text}") from None


def _trace_file_size_bytes(context: Context, text: str) -> int:
    try:
        return quantities.size_bytes(text)
    except quantities.BadQuantity:
        raise context.end(f"Wrong value in --tracefile-size parameter: {text}") from None


def _trace_file_count(context: Context, text: str) -> int:
    try:
        return quantities.count(text, quantities.UINT32_MAX)
    except quantities.TooLarge:
        raise context.end(f"32-bit overflow in --tracefile-count parameter: {text}") from None
    except quantities.BadQuantity:
        raise context.end(f"Wrong value in --tracefile-count parameter: {text}") from None


def _output(context: Context, text: str) -> str:
    for output_type in OUTPUT_TYPES:
        if text.startswith(output_type):
            return output_type
    raise context.end(f"Unknown output type {text}. Possible values are: {', '.join(OUTPUT_TYPES)}\n")


def _settle_trace_files(context: Context, attributes: dict[str, Any], ownership: BufferOwnership | None) -> None:
    """A trace file holds at least one sub-buffer; a count of files needs a size."""
    size_bytes = attributes.get("trace_file_size_bytes", 0)
    if size_bytes == 0 and attributes.get("trace_file_count"):
        raise context.end("Missing option --tracefile-size. A file count without a size won't do anything.")
    sub_buffer_size_bytes = attributes.get(
        "sub_buffer_size_bytes", UST_SUB_BUFFER_SIZES[ownership or BufferOwnership.PER_USER]
    )
    if 0 < size_bytes < sub_buffer_size_bytes:
        context.terminal.warning(
            f"Tracefile size rounded up from ({size_bytes}) to subbuffer size ({sub_buffer_size_bytes})"
        )
        attributes["trace_file_size_bytes"] = sub_buffer_size_bytes
