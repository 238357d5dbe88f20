"""The native pump, whose own threads read every channel; one thread of ours waits for what it has to say."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Awaitable, Callable

import tracefleet_native
from tracefleet_consumerd.adapters.native_buffers import NativeChannel
from tracefleet_consumerd.application.ports import ChannelBuffers, Report, ReportKind

log = logging.getLogger("tracefleet.consumerd.pump")

_KINDS = {
    tracefleet_native.ReportKind.JAMMED: ReportKind.JAMMED,
    tracefleet_native.ReportKind.WRITE_FAILED: ReportKind.WRITE_FAILED,
    tracefleet_native.ReportKind.WRITE_RECOVERED: ReportKind.WRITE_RECOVERED,
    tracefleet_native.ReportKind.HUNG_UP: ReportKind.HUNG_UP,
    tracefleet_native.ReportKind.BROKEN: ReportKind.BROKEN,
}
BROKEN_REASON = "a program damaged the shared memory of its ring buffer, the stream is given up"


class PumpReader:
    """Reads channels from `add` to `remove`."""

    def __init__(self) -> None:
        self._pump = tracefleet_native.Pump()
        self._channels: dict[int, NativeChannel] = {}
        self._is_ending = False

    def listen(self, on_report: Callable[[Report], Awaitable[None]]) -> None:
        """Hand every report to `on_report`, on the running loop."""
        loop = asyncio.get_running_loop()
        reports: asyncio.Queue[Report] = asyncio.Queue()

        async def deliver() -> None:
            while True:
                report = await reports.get()
                try:
                    await on_report(report)
                except Exception:  # the next ones shall be heard all the same
                    log.exception("Cannot take a report: kind=%s, channel-key=%d", report.kind, report.channel_key)

        def wait_for_reports() -> None:
            while not self._is_ending:
                for report in self._pump.run(-1):
                    try:
                        loop.call_soon_threadsafe(reports.put_nowait, self._translate(report))
                    except RuntimeError:
                        return  # the loop has ended

        self._delivering = loop.create_task(deliver())
        threading.Thread(target=wait_for_reports, name="pump-reports", daemon=True).start()

    def add(self, buffers: ChannelBuffers, channel_key: int) -> None:
        assert isinstance(buffers, NativeChannel), "made by the native library"
        self._channels[channel_key] = buffers
        self._pump.add(buffers.native, channel_key)

    def remove(self, buffers: ChannelBuffers) -> None:
        assert isinstance(buffers, NativeChannel), "made by the native library"
        self._pump.remove(buffers.native)
        for key in [key for key, channel in self._channels.items() if channel is buffers]:
            del self._channels[key]

    def close(self) -> None:
        """No more reports. The channels are removed by now."""
        self._is_ending = True
        self._pump.wake()
        self._delivering.cancel()

    def _translate(self, report: tracefleet_native.Report) -> Report:
        kind = _KINDS[report.kind]
        channel = self._channels.get(report.token)
        reason = ""
        if kind is ReportKind.BROKEN:
            reason = BROKEN_REASON
        elif kind is ReportKind.WRITE_FAILED and channel is not None:
            reason = channel.describe(report.error, report.cpu)
        return Report(kind, report.token, report.cpu, reason)
