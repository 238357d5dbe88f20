"""A relay daemon in memory that receives acknowledged sessions, and dies; its disk and its journals outlive it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from tracefleet_common.errors import TracefleetError
from tracefleet_common.messages.relay_streaming import (
    AddedStream,
    AddStreams,
    OpenStreaming,
    StreamingOpened,
    StreamRequest,
    StreamsAdded,
)
from tracefleet_common.model.relay_output import Durability
from tracefleet_relayd.application.ports import NoRoom
from tracefleet_relayd.application.receive_packets import ReceivePackets
from tracefleet_relayd.application.receive_streaming import ReceiveStreaming
from tracefleet_relayd.application.sessions import Sessions
from tracefleet_relayd.application.stream_files import StreamFiles
from tracefleet_relayd.domain.journal import Journal, JournalRecord, replay
from tracefleet_relayd.domain.names import Grouping

sys.path.insert(0, str(Path(__file__).parent))

from relay_fakes import CREATION_TIME_S, UUID, FakeClock, FakeDisk, FakeFile, FakeIntake

TOKEN = bytes(range(16))
OUTPUT = "h/s-20231114-221320"
DATA_PORT = 5341

Reply = TypeVar("Reply")


class Crash(BaseException):
    """The process is killed here."""


class Fate:
    """Kills the process at one of its next steps on the disk. `None`: not at all."""

    def __init__(self) -> None:
        self.step_count: int | None = None

    def step(self) -> None:
        if self.step_count is not None:
            self.step_count -= 1
            if self.step_count < 0:
                self.step_count = None
                raise Crash


class FakeJournals:
    def __init__(self, fate: Fate) -> None:
        self.records: dict[str, list[JournalRecord]] = {}
        self.synced: list[bool] = []
        self.disk: FakeDisk | None = None
        self.fate = fate

    def names(self) -> Sequence[str]:
        return list(self.records)

    def load(self, name: str) -> Journal | None:
        return replay(self.records[name]) if name in self.records else None

    def save(self, name: str, journal: Journal, *, is_synced: bool) -> None:
        self._write(name, [], list(journal.records()), is_synced)

    def append(self, name: str, journal: Journal, records: Sequence[JournalRecord], *, is_synced: bool) -> None:
        assert set(map(id, records)) <= set(map(id, journal.records()))
        self._write(name, self.records[name], records, is_synced)

    def _write(self, name: str, before: list[JournalRecord], records: Sequence[JournalRecord], is_synced: bool) -> None:
        self.fate.step()
        if self.disk is not None and self.disk.is_full:
            raise NoRoom
        self.records[name] = [*before, *records]
        self.synced.append(is_synced)
        self.fate.step()

    def remove(self, name: str) -> None:
        self.fate.step()
        self.records.pop(name, None)

    def is_output_there(self, path: str) -> bool:
        assert self.disk is not None
        return any(file.startswith(f"{path}/") for file in self.disk.files)


class MortalDisk(FakeDisk):
    def __init__(self, fate: Fate) -> None:
        super().__init__()
        self.fate = fate

    def make(self, path: str) -> FakeFile:
        self.fate.step()
        made = super().make(path)
        self.fate.step()
        return made


class FleetRelay:
    """`restart` is what happens after a kill."""

    def __init__(self) -> None:
        self.fate = Fate()
        self.journals = FakeJournals(self.fate)
        self.disk = MortalDisk(self.fate)
        self.journals.disk = self.disk
        self.clock = FakeClock()
        self.last_connection = 0
        self.restart()

    def restart(self) -> None:
        self.fate.step_count = None
        self.intake = self.disk.intake = FakeIntake()
        self.files = StreamFiles(self.disk, self.intake)
        self.sessions = Sessions(self.files, self.clock, Grouping.BY_HOST)
        self.packets = ReceivePackets(self.intake, self.files, self.sessions)
        self.streaming = ReceiveStreaming(
            self.intake,
            self.files,
            self.sessions,
            self.packets,
            self.journals,
            self.clock,
            lambda token: token.hex(),
            data_port=DATA_PORT,
        )

    def connect(self, token: bytes = TOKEN) -> int | None:
        """A data connection; None: nobody knows the session."""
        session_id = self.streaming.find_for_data(token)
        if session_id is None:
            return None
        self.last_connection += 1
        self.streaming.attach(session_id, self.last_connection)
        return self.last_connection


class FleetSender:
    def __init__(self, relay: FleetRelay, *, token: bytes = TOKEN, peer: str = "peer", **settings: Any) -> None:
        self.relay = relay
        self.token = token
        self.peer = peer
        self.settings = {
            "session_name": "s",
            "host_name": "h",
            "has_creation_time_in_name": False,
            "creation_time_s": CREATION_TIME_S,
            "sessiond_uuid": UUID,
            "session_id": 1,
            "live_timer_period_us": 0,
            "subdirectory": "",
            "durability": Durability.WRITTEN,
            **settings,
        }
        self.connection: int | None = None

    def ask(self, request: Any, reply: type[Reply]) -> Reply:
        answer = self.relay.streaming.execute(request, self.peer)
        assert isinstance(answer, reply)
        return answer

    def open(self) -> StreamingOpened:
        return self.ask(OpenStreaming(token=self.token, **self.settings), StreamingOpened)

    def add(self, *streams: StreamRequest) -> list[AddedStream]:
        return list(self.ask(AddStreams(token=self.token, streams=streams), StreamsAdded).streams)

    def connect(self) -> None:
        self.connection = self.relay.connect(self.token)
        assert self.connection is not None

    def send(self, handle: int, sequence: int, **numbers: int) -> None:
        assert self.connection is not None
        self.relay.intake.send_numbered(handle, sequence, token=self.connection, **numbers)
        self.relay.packets.take_reports()

    def is_refused(self, request: Any) -> bool:
        try:
            self.relay.streaming.execute(request, self.peer)
        except TracefleetError:
            return True
        return False


def a_stream(channel_name: str = "a_0", path: str = "ust", **settings: int) -> StreamRequest:
    return StreamRequest(path=path, channel_name=channel_name, **settings)
