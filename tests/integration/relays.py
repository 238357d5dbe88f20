"""Relay daemons, ours and the genuine one, and viewers of live sessions."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from deadlines import DEADLINE_S, wait_until
from fleet import Fleet
from world import VENV_BIN, World

from tracefleet_common.codecs import lttng_live as live
from tracefleet_common.codecs.lttng_live_replies import ReplyDecoder
from tracefleet_common.codecs.lttng_live_requests import encode_request

LIVE_PORT = 5344
URL = "net://localhost"  # of a relay daemon in the same world
HOST_NAME = os.uname().nodename
LISTENING = "0A"  # state of a socket in /proc/net/tcp
NUMBERED = re.compile(r"tf_emit:numbered:.*\{ pid = (\d+), thread = (\d+), number = (\d+)")
# Connects inside the world, hands the socket out over its standard input.
CONNECT = """
import socket, sys
connected = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
socket.send_fds(socket.socket(fileno=0), [b"x"], [connected.fileno()])
"""


@dataclass(frozen=True)
class RelayKind:
    name: str
    program: Path


OUR_RELAY = RelayKind("ours", VENV_BIN / "tracefleet-relayd")
GENUINE_RELAY = RelayKind("genuine", Path("/usr/bin/lttng-relayd"))


class Relay:
    """A relay daemon in the world of a fleet, on the usual ports."""

    def __init__(
        self, fleet: Fleet, *options: str, kind: RelayKind = OUR_RELAY, env: Mapping[str, str] | None = None
    ) -> None:
        self.world = fleet.world
        self.output = self.world.directory / "relay-output"
        self.log = self.world.directory / f"relayd-{kind.name}.log"
        with self.log.open("ab") as stream:
            self.process = self.world.popen(
                [kind.program, "-v", f"--output={self.output}", *options],
                env=env,
                stdout=stream.fileno(),
                stderr=stream.fileno(),
            )
        self.pid = self.process.pid
        wait_until(lambda: self.process.poll() is not None or is_listening(self.world, LIVE_PORT), "a relay daemon")
        assert self.process.poll() is None, f"the relay daemon ended at once:\n{self.log.read_text()}"

    def session_directory(self, session: str = "s1") -> Path:
        """The only directory of a session below the output directory."""
        found = list((self.output / HOST_NAME).glob(f"{session}-*"))
        assert len(found) == 1, found
        return found[0]

    def stop(self) -> int:
        """Orderly stop; the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def memory_bytes(self) -> int:
        """What the process holds in memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def create_streamed(
    fleet: Fleet,
    session: str = "s1",
    *options: str,
    channel: tuple[str, ...] = (),
    rule: str = "tf_emit:*",
    url: str = URL,
    is_started: bool = True,
) -> None:
    """A session that streams to a relay daemon. `channel`: as for `Fleet.record`."""
    fleet.run("create", session, f"--set-url={url}", *options)
    if channel:
        fleet.run("enable-channel", "-u", "-s", session, *channel)
    into = ("-c", channel[-1]) if channel else ()
    fleet.run("enable-event", "-u", "-s", session, rule, *into)
    if is_started:
        fleet.run("start", session)


def is_listening(world: World, port: int) -> bool:
    """Whether something in the world listens on a TCP port."""
    table = Path(f"/proc/{world.holder_pid}/net/tcp").read_text().splitlines()[1:]
    return any(row.split()[1].endswith(f":{port:04X}") and row.split()[3] == LISTENING for row in table)


def connect_inside(world: World, port: int = LIVE_PORT) -> socket.socket:
    """A connection to a port of the world, made by a process inside it."""
    here, there = socket.socketpair()
    with here, there:
        helper = world.popen(["/usr/bin/python3", "-c", CONNECT, str(port)], stdin=there.fileno())
        there.close()
        here.settimeout(DEADLINE_S)
        _, descriptors, _, _ = socket.recv_fds(here, 1, 1)
        helper.wait(DEADLINE_S)
    assert descriptors, f"cannot connect to port {port}"
    connection = socket.socket(fileno=descriptors[0])
    connection.settimeout(DEADLINE_S)
    return connection


class RawViewer:
    """Speaks the live protocol word by word."""

    def __init__(self, world: World) -> None:
        self.connection = connect_inside(world)
        self._replies = ReplyDecoder()

    def __enter__(self) -> RawViewer:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def ask(self, request: live.Request) -> tuple[live.Reply, bytes]:
        """The reply, and the bytes of the stream after it. EOFError when the relay daemon hangs up."""
        self._replies.expect(request)
        self.connection.sendall(encode_request(request))
        while (reply := self._replies.next_reply()) is None:
            self._receive()
        payload = self._replies.take_payload()
        while self._replies.payload_size_bytes:
            self._receive()
            payload += self._replies.take_payload()
        return reply, payload

    def _receive(self) -> None:
        data = self.connection.recv(65536)
        if not data:
            raise EOFError("the relay daemon has hung up")
        self._replies.receive(data)

    def begin(self) -> RawViewer:
        self.ask(live.Connect())
        self.ask(live.CreateViewerSession())
        return self

    def sessions(self) -> dict[str, live.LiveSession]:
        reply, _ = self.ask(live.ListSessions())
        assert isinstance(reply, live.SessionList)
        return {session.session_name: session for session in reply.sessions}

    def attach(self, session_id: int, seek: live.Seek = live.Seek.BEGINNING) -> live.AttachReply:
        reply, _ = self.ask(live.AttachSession(session_id=session_id, seek=seek))
        assert isinstance(reply, live.AttachReply)
        return reply

    def new_streams(self, session_id: int) -> live.NewStreamsReply:
        reply, _ = self.ask(live.GetNewStreams(session_id=session_id))
        assert isinstance(reply, live.NewStreamsReply)
        return reply

    def next_index(self, stream_id: int) -> live.NextIndexReply:
        reply, _ = self.ask(live.GetNextIndex(stream_id=stream_id))
        assert isinstance(reply, live.NextIndexReply)
        return reply

    def packet(self, stream_id: int, offset_bytes: int, size_bytes: int) -> tuple[live.PacketReply, bytes]:
        request = live.GetPacket(stream_id=stream_id, offset_bytes=offset_bytes, size_bytes=size_bytes)
        reply, data = self.ask(request)
        assert isinstance(reply, live.PacketReply)
        return reply, data

    def is_hung_up_on(self, deadline_s: float = DEADLINE_S) -> bool:
        """Wait until the relay daemon closes the connection; what it sent before is thrown away."""
        end = time.monotonic() + deadline_s
        with contextlib.suppress(ConnectionError):
            while select.select([self.connection], [], [], max(0.0, end - time.monotonic()))[0]:
                if not self.connection.recv(1 << 20):
                    return True
            return False
        return True


def wait_attached(world: World, session: str, count: int = 1) -> None:
    """Until so many viewers have attached a live session of the relay daemon in this world."""
    with RawViewer(world).begin() as lister:

        def is_so() -> bool:
            found = lister.sessions().get(session)
            return found is not None and found.viewer_count == count

        wait_until(is_so, f"{count} viewers of {session}")


class LiveViewer:
    """babeltrace2 on a live session, writing each event as a line.

    `is_patient`: it waits for a session that is not there yet, or no longer, and ends only when told to.
    """

    def __init__(
        self, world: World, session: str, *, is_patient: bool = False, number: int = 0, address: str = "localhost"
    ) -> None:
        self.log = world.directory / f"viewer-{session}-{number}.txt"
        self.error_log = self.log.with_suffix(".err")
        source = [] if is_patient else ["-i", "lttng-live"]
        url = f"net://{address}/host/{HOST_NAME}/{session}"
        with self.log.open("wb") as stdout, self.error_log.open("wb") as stderr:
            self.process = world.popen(
                ["stdbuf", "-oL", "babeltrace2", "--no-delta", *source, url],
                stdout=stdout.fileno(),
                stderr=stderr.fileno(),
            )

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def numbers(self, pid: int | None = None) -> list[int]:
        """Of the numbered event records of one program (None: of all), as they came."""
        found = NUMBERED.findall(self.text)
        return [int(number) for of_pid, _, number in found if pid is None or int(of_pid) == pid]

    def wait_for_number(self, number: int, pid: int | None = None) -> None:
        wait_until(lambda: number in self.numbers(pid) or self._has_failed(), f"record {number} in {self.log.name}")
        assert number in self.numbers(pid), self.complaint

    def _has_failed(self) -> bool:
        return self.process.poll() not in (None, 0)

    @property
    def complaint(self) -> str:
        return f"babeltrace2: {self.process.poll()}\n{self.error_log.read_text(errors='replace')}"

    def wait(self, deadline_s: float = DEADLINE_S) -> int:
        """Wait until the session has ended for it; the exit status."""
        try:
            return self.process.wait(deadline_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"babeltrace2 does not end:\n{self.complaint}") from None

    def interrupt(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.wait()
