"""How a session is streamed, as `list` shows it below the session's heading."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracefleet_common.messages.sessiond_control import StreamingInfo


def streaming_text(info: StreamingInfo) -> str:
    """Only what there is to say."""
    lines = [f"    Streaming: {'connected' if info.is_connected else 'not connected'}"]
    if info.trouble is not None:
        lines.append(f"      Error:        {info.trouble}")
    lines.append(f"      Sent:         {amount(info.sent_packet_count, info.sent_bytes)}")
    if info.acknowledged_packet_count is not None:
        lines.append(f"      Acknowledged: {amount(info.acknowledged_packet_count, info.acknowledged_bytes or 0)}")
        under_way_count = info.sent_packet_count - info.acknowledged_packet_count
        if under_way_count > 0:
            lines.append(f"      Under way:    {under_way_count} packets")
    if info.reconnect_count:
        lines.append(f"      Reconnected:  {info.reconnect_count} times, {info.resent_packet_count} packets sent again")
    if info.spooled_packet_count:
        lines.append(f"      Spooled:      {amount(info.spooled_packet_count, info.spooled_bytes)}")
    return "\n".join(lines) + "\n"


def amount(packet_count: int, size_bytes: int) -> str:
    """Packets and bytes."""
    return f"{packet_count} packets, {size_bytes} bytes"
