"""Every pair of consumer and relay daemons, stored and live, over one list of scenarios: what was emitted is read."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from deadlines import wait_until
from field_values import SEED_COUNT, expected_fields, seeds_of
from fleet import GENUINE, OURS, Fleet, Kind, has_genuine
from programs import Program
from relays import GENUINE_RELAY, OUR_RELAY, LiveViewer, Relay, RelayKind, wait_attached
from traces import Reading, text_of

PERIOD_US = 100_000
RULE = "tf_emit:numbered"
SMALL = ("--subbuf-size=4096", "--num-subbuf=256")


@dataclass(frozen=True)
class Pair:
    consumer: Kind
    relay: RelayKind
    url: str = "net://localhost"

    def __str__(self) -> str:
        return f"{self.consumer.name}-{self.relay.name}-{self.url.partition(':')[0]}"

    @property
    def is_ours(self) -> bool:
        return self.consumer is OURS and self.relay is OUR_RELAY


PAIRS = (
    Pair(GENUINE, GENUINE_RELAY),
    Pair(GENUINE, OUR_RELAY),
    Pair(OURS, GENUINE_RELAY),
    Pair(OURS, OUR_RELAY),
    Pair(OURS, OUR_RELAY, "fleet://localhost"),
)


class Site:
    """The daemons of a pair, for many tests: each makes sessions of its own, and leaves none."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.fleet = Fleet(pair.consumer)
        try:
            self.relay = Relay(self.fleet, kind=pair.relay)
            self.fleet.start_daemon()
        except BaseException:
            self.fleet.close()
            raise
        self.session_count = 0

    def check(self) -> None:
        assert self.fleet.daemon is not None
        assert self.fleet.daemon.is_running()
        assert self.relay.process.poll() is None, "the relay daemon has ended"
        log = self.relay.log.read_text(errors="replace")
        assert "Traceback" not in log, log

    def has_session(self) -> bool:
        """Whether a test that failed has left a session."""
        return re.search(r"^ +1\) ", self.fleet.run("list").stdout, re.MULTILINE) is not None


@pytest.fixture(scope="module")
def sites() -> Iterator[dict[Pair, Site]]:
    made: dict[Pair, Site] = {}
    yield made
    for site in made.values():
        site.fleet.close()


@pytest.fixture(params=PAIRS, ids=str)
def site(
    request: pytest.FixtureRequest, sites: dict[Pair, Site], show_logs_of: Callable[[Fleet], None]
) -> Iterator[Site]:
    """Daemons as the test before left them; new ones when it has not left them as they were."""
    pair = request.param
    if not pair.is_ours and not has_genuine():
        pytest.skip("lttng-tools is not installed: no genuine daemons")
    found = sites.pop(pair, None) or Site(pair)
    show_logs_of(found.fleet)
    is_reusable = False
    try:
        yield found
        found.fleet.end_programs()
        found.check()
        is_reusable = not found.has_session()
    finally:
        if is_reusable:
            sites[pair] = found
        else:
            found.fleet.close()


class Recording:
    """A session that streams, and what its trace has to hold."""

    def __init__(self, site: Site, is_live: bool, *channels: tuple[str, ...], rule: str = RULE) -> None:
        """`channels`: options and name for `enable-channel`."""
        site.session_count += 1
        self.site, self.is_live = site, is_live
        self.name = f"s{site.session_count}"
        self.channels = [channel[-1] for channel in channels]
        self.expected: dict[int, list[int]] = {}  # numbers by pid, in every channel
        self.viewer: LiveViewer | None = None
        run = site.fleet.run
        run("create", self.name, f"--set-url={site.pair.url}", *([f"--live={PERIOD_US}"] if is_live else []))
        for channel in channels:
            run("enable-channel", "-u", "-s", self.name, *channel)
            run("enable-event", "-u", "-s", self.name, rule, "-c", channel[-1])
        if is_live:
            self.viewer = LiveViewer(site.fleet.world, self.name)
            wait_attached(site.fleet.world, self.name)
        self.start()

    def start(self) -> None:
        self.site.fleet.run("start", self.name)

    def stop(self) -> None:
        self.site.fleet.stop(self.name)

    def wait_seen(self, condition: Callable[[str], bool], what: str) -> None:
        """Wait until what the live viewer has shown fulfils the condition."""
        if (viewer := self.viewer) is not None:
            wait_until(lambda: condition(viewer.text) or viewer.process.poll() is not None, what)
            assert condition(viewer.text), viewer.complaint

    def end(self) -> Reading:
        """Destroy the session; what its trace holds, which is what the live viewer has shown."""
        site = self.site
        site.fleet.destroy(self.name)
        directory = site.relay.session_directory(self.name)
        assert not list(directory.rglob(".*")), "what a rotation or a chunk left"
        reading = site.fleet.read(directory)
        if self.viewer is not None:
            assert self.viewer.wait() == 0, self.viewer.complaint
            assert sorted(self.viewer.text.splitlines()) == sorted(text_of(directory).splitlines())
        return reading

    def verify(self, *options: str) -> None:
        directory = self.site.relay.session_directory(self.name)
        verified = self.site.fleet.world.run([OURS.command, "verify", directory, *options])
        assert verified.returncode == 0, verified

    @property
    def expected_count(self) -> int:
        """Of records, in all channels."""
        return len(self.channels) * sum(map(len, self.expected.values()))

    def wait_seen_all(self) -> None:
        total = self.expected_count
        self.wait_seen(lambda text: text.count(f"{RULE}:") >= total, f"{total} records")

    def end_complete(self) -> None:
        """End it; every record that was emitted is there, in every channel, once and in order."""
        self.wait_seen_all()
        reading = self.end()
        for channel in self.channels:
            of_channel = [event for event in reading.events if event.channel == channel]
            for pid, numbers in self.expected.items():
                assert [event["number"] for event in of_channel if event["pid"] == pid] == numbers, (channel, pid)
        assert len(reading.events) == self.expected_count
        assert reading.discarded_event_count == reading.discarded_packet_count == 0
        self.verify(f"--emitted={self.expected_count}")


@dataclass
class Stage:
    """What a scenario plays on."""

    site: Site
    is_live: bool
    recordings: list[Recording] = field(default_factory=list)
    _next: dict[int, int] = field(default_factory=dict)

    def record(self, *channels: tuple[str, ...], rule: str = RULE) -> Recording:
        made = Recording(self.site, self.is_live, *channels, rule=rule)
        self.recordings.append(made)
        return made

    def program(self, name: str = "emit") -> Program:
        return self.site.fleet.program(name)

    def emit(self, program: Program, count: int, *into: Recording) -> None:
        """Emit numbered records, which the sessions `into` have to hold."""
        program.emit(count)
        first = self._next.get(program.pid, 0)
        self._next[program.pid] = first + count
        for recording in into:
            recording.expected.setdefault(program.pid, []).extend(range(first, first + count))


def user_buffers(stage: Stage) -> None:
    _programs_and_channels(stage, "--buffers-uid")


def process_buffers(stage: Stage) -> None:
    _programs_and_channels(stage, "--buffers-pid")


def _programs_and_channels(stage: Stage, buffers: str) -> None:
    """Channels of both loss modes, programs that come late, end and are killed, and a second start."""
    early, brief, doomed = stage.program(), stage.program(), stage.program()
    recording = stage.record((buffers, *SMALL, "small"), (buffers, "--overwrite", "usual"))
    for program, count in ((early, 400), (brief, 150), (doomed, 250)):
        stage.emit(program, count, recording)

    def is_shown(text: str) -> bool:
        stage.emit(early, 1, recording)  # a viewer is told of new streams with records only
        return all(text.count(f"pid = {pid},") == 2 * count for pid, count in ((brief.pid, 150), (doomed.pid, 250)))

    if stage.site.pair.relay is GENUINE_RELAY and buffers == "--buffers-pid":
        recording.wait_seen(is_shown, "programs that are about to end")  # their rest is not shown after that
    doomed.kill()
    assert brief.end() == 0
    recording.stop()
    stage.emit(early, 10)
    recording.start()
    programs = [early]
    # babeltrace2 2.0.4 hears of a new trace late, and ends when that begins before the beacons that it has shown.
    if not stage.is_live or buffers == "--buffers-uid":
        programs.append(stage.program())
    for program in programs:
        stage.emit(program, 100, recording)
    recording.stop()
    recording.end_complete()


def two_sessions(stage: Stage) -> None:
    """One stops and the other ends, while its neighbour goes on.

    The later one is destroyed first: of two genuine daemons, the relay daemon takes the chunk of the next session for
    that of the one asked about, and `lttng destroy` waits until that is gone as well.
    """
    program = stage.program()
    first, second = stage.record((*SMALL, "c1")), stage.record(("--buffers-pid", "c2"))
    stage.emit(program, 200, first, second)
    first.stop()
    stage.emit(program, 200, second)
    first.start()
    second.stop()
    second.end_complete()
    stage.emit(program, 100, first)
    first.stop()
    first.end_complete()


def field_types(stage: Stage) -> None:
    recording = stage.record(("c1",), rule="tf_fields:*")
    stage.program("allfields").ask(f"emit {SEED_COUNT}")
    recording.stop()
    recording.wait_seen(lambda text: text.count(" tf_fields:") == 10 * SEED_COUNT, "all events")
    reading = recording.end()
    assert len(reading.events) == 10 * SEED_COUNT
    for seed, event in seeds_of(reading.events):
        assert event.fields == expected_fields(event.name.removeprefix("tf_fields:"), seed), (event.name, seed)


def little_room(stage: Stage) -> None:
    """Programs that emit faster than anybody reads: what is missing is counted."""
    small = ("--subbuf-size=4096", "--num-subbuf=4")
    recording = stage.record(("--discard", *small, "c1"), ("--overwrite", *small, "c2"))
    program = stage.program()
    emitted = program.ask("threads 4 5000")
    recording.stop()
    recording.start()
    emitted += program.emit(10)  # fits into empty buffers
    recording.stop()
    last = re.compile(r"thread = 0, number = 9\b")
    recording.wait_seen(lambda text: len(last.findall(text)) == 2, "the last record of both channels")
    reading = recording.end()
    for channel in ("c1", "c2"):
        of_channel = [event for event in reading.events if event.channel == channel]
        for thread in range(5):
            numbers = [event["number"] for event in of_channel if event["thread"] == thread]
            assert numbers == sorted(set(numbers))
            assert thread or numbers == list(range(10))
        if channel == "c1":  # records in packets that were overwritten are not counted, the packets are
            discarded = reading.discarded_events_by_channel["c1"]
            if stage.site.pair.consumer is GENUINE:
                discarded %= 1 << 64  # its packets sometimes count fewer than those before: a negative difference
            assert len(of_channel) + discarded == emitted
    if stage.site.pair.consumer is OURS:
        recording.verify(f"--lost-packets={reading.discarded_packet_count}")


def trace_file_limits(stage: Stage) -> None:
    """Files in a ring keep the newest packets; a live viewer that is late jumps, so this is not for live sessions."""
    limits = ("--tracefile-size=8192", "--tracefile-count=2")
    recording = stage.record(("--subbuf-size=4096", "--num-subbuf=256", *limits, "c1"))
    program = stage.program()
    program.ask("cpu 0")
    program.emit(2000)
    recording.stop()
    numbers = recording.end().numbers()
    assert 0 < len(numbers) < 2000
    assert numbers == list(range(2000))[-len(numbers) :]
    directory = stage.site.relay.session_directory(recording.name)
    assert sorted(path.name for path in directory.rglob("c1_0_*") if path.suffix == "") == ["c1_0_0", "c1_0_1"]
    assert max(path.stat().st_size for path in directory.rglob("c1_0_*")) <= 8192
    recording.verify()


BOTH = (user_buffers, process_buffers, two_sessions, field_types, little_room)
STORED = (*BOTH, trace_file_limits)


@pytest.mark.parametrize("scenario", STORED, ids=lambda scenario: scenario.__name__)
def test_stored(site: Site, scenario: Callable[[Stage], None]) -> None:
    scenario(Stage(site, is_live=False))


@pytest.mark.parametrize("scenario", BOTH, ids=lambda scenario: scenario.__name__)
def test_live(site: Site, scenario: Callable[[Stage], None]) -> None:
    scenario(Stage(site, is_live=True))
