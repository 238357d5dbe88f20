"""What happens to streams between commands, and who is told of it."""

from __future__ import annotations

import logging

from tracefleet_common.messages.consumerd_control import ChannelTrouble, ConsumerdNotice, JammedStream
from tracefleet_consumerd.application.draining import Drainer
from tracefleet_consumerd.application.ports import MonotonicClock, Notices, Report, ReportKind
from tracefleet_consumerd.application.registries import Channel, Registries
from tracefleet_consumerd.domain.troubles import Jams

log = logging.getLogger("tracefleet.consumerd.recording")

# A session daemon that was told once has time to look at its programs before it hears of it again.
JAM_REPORT_PERIOD_S = 5.0


class RecordingWatch:
    """Turns the reader's reports into log lines and notices."""

    def __init__(self, registries: Registries, notices: Notices, drainer: Drainer, clock: MonotonicClock) -> None:
        self._registries = registries
        self._notices = notices
        self._drainer = drainer
        self._clock = clock
        self._jams = Jams(JAM_REPORT_PERIOD_S)

    async def take(self, report: Report) -> None:
        """A report of a channel that was closed meanwhile means nothing any more."""
        channel = self._registries.find_channel(report.channel_key)
        if channel is None:
            self._jams.forget(report.channel_key)
            return
        if report.kind is ReportKind.JAMMED:
            await self._note_books(channel)
        notice = self._notice(channel, report)
        if notice is not None:
            await self._notices.notify(notice)

    async def remind(self) -> None:
        """Tell again of the streams that are jammed still, for example because their writer was only stopped."""
        for channel_key, cpu in self._jams.due(self._clock.now_s()):
            channel = self._registries.find_channel(channel_key)
            if channel is None:
                self._jams.forget(channel_key)
                continue
            await self._note_books(channel)
            packet_count = _packet_count(channel, cpu)
            if self._jams.is_over(channel_key, cpu, packet_count):
                continue
            if self._jams.begin(channel_key, cpu, packet_count, self._clock.now_s()):
                await self._notices.notify(JammedStream(channel_key=channel_key, cpu=cpu))

    async def _note_books(self, channel: Channel) -> None:
        """Unless somebody works on the channel, which may take long and notes them anyway."""
        if not channel.turn.locked():
            async with channel.turn:
                await self._drainer.note_books(channel)

    def _notice(self, channel: Channel, report: Report) -> ConsumerdNotice | None:
        name = channel.settings.name
        match report.kind:
            case ReportKind.JAMMED:
                packet_count = _packet_count(channel, report.cpu)
                if not self._jams.begin(channel.key, report.cpu, packet_count, self._clock.now_s()):
                    return None
                log.info("An event record stays incomplete: channel=%s, cpu=%d", name, report.cpu)
                return JammedStream(channel_key=channel.key, cpu=report.cpu)
            case ReportKind.WRITE_FAILED | ReportKind.BROKEN:
                text = f"Channel {name}, CPU {report.cpu}: {report.reason}"
                if not channel.troubles.begin(report.cpu, text):
                    return None
                log.error("A channel does not record as it should: channel=%s, reason=%s", name, report.reason)
                return ChannelTrouble(channel_key=channel.key, error=text)
            case ReportKind.WRITE_RECOVERED:
                if not channel.troubles.end(report.cpu):
                    return None
                log.warning("A channel records again: channel=%s", name)
                return ChannelTrouble(channel_key=channel.key, error=None)
            case ReportKind.HUNG_UP:
                # The session daemon is gone, and the last program too. Its registry is closed in due time.
                log.info("Nobody holds a channel any more: channel=%s", name)
                return None


def _packet_count(channel: Channel, cpu: int) -> int:
    return next((stream.packet_count for stream in channel.streams if stream.cpu == cpu), 0)
