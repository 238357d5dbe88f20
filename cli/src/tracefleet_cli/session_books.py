"""What a session lost, as `stop` and `destroy` report it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracefleet_common.messages.sessiond_control import ChannelBooks

ADVICE = "please refer to the documentation on channel configuration."


def loss_warning(channels: Sequence[ChannelBooks]) -> str | None:
    """One sentence; None when nothing was lost."""
    discarded = sum(channel.discarded_event_count for channel in channels)
    lost = sum(channel.lost_packet_count for channel in channels)
    parts = []
    if discarded:
        parts.append(f"{discarded} events were discarded")
    if lost:
        parts.append(f"{lost} packets were lost")
    return f"Warning: {' and '.join(parts)}, {ADVICE}" if parts else None
