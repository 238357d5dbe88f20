"""The descriptor tracker, on real files in a directory of the test."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracefleet_common.errors import InvalidArgument, LocalProtocolError
from tracefleet_relayd.adapters.beneath import make_directories
from tracefleet_relayd.adapters.fd_tracker import KEPT_PARENTS_MAX, FdTracker, FileHandle, NewFile, TargetHandle

NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL
APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "traces"
    base.mkdir()
    return base


@pytest.fixture
def small(base: Path) -> Iterator[FdTracker]:
    """Room for two descriptors. What a test left open is its own mistake, unless it looked at it."""
    tracker = FdTracker(str(base), 2)
    yield tracker
    tracker.close()


class Intake:
    """Owns the descriptors that it was lent, as the native one does. Streams have names here."""

    def __init__(self, tracker: FdTracker) -> None:
        self._tracker = tracker
        self.descriptors: dict[str, list[int]] = {}
        self.revoked: list[str] = []

    def stream(self, name: str) -> TargetHandle:
        return self._tracker.target(lambda: self.revoke(name))

    def move(self, stream: TargetHandle, name: str, *paths: str) -> None:
        stream.move([NewFile(path, NEW, 0o660) for path in paths], lambda given: self.set_target(name, given))

    def lend(self, stream: TargetHandle, name: str) -> None:
        stream.lend(lambda given: self.set_target(name, given))

    def set_target(self, name: str, descriptors: list[int]) -> None:
        for former in self.descriptors.get(name, []):
            os.close(former)
        self.descriptors[name] = descriptors

    def revoke(self, name: str) -> None:
        self.set_target(name, [])
        del self.descriptors[name]
        self.revoked.append(name)


def open_descriptors_below(base: Path) -> list[str]:
    """The files of the process that lie below the base, by asking the kernel."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        try:
            path = str(entry.readlink())
        except FileNotFoundError:  # the one that lists the directory
            continue
        if path.startswith(f"{base}/"):
            found.append(path)
    return sorted(found)


def write(handle: FileHandle, data: bytes) -> None:
    with handle as descriptor:
        assert os.write(descriptor, data) == len(data)


def test_the_one_used_longest_ago_is_closed_for_the_next(small: FdTracker, base: Path) -> None:
    a, b = (small.open(name, NEW) for name in "ab")
    write(a, b"1")
    c = small.open("c", NEW)
    assert [handle.is_suspended for handle in (a, b, c)] == [False, True, False]
    assert open_descriptors_below(base) == [f"{base}/a", f"{base}/c"]
    for handle in (a, b, c):
        handle.close()
    assert open_descriptors_below(base) == []
    assert small.close() == ()


def test_a_suspended_file_goes_on_where_it_was(small: FdTracker, base: Path) -> None:
    handles = [small.open(name, NEW | os.O_TRUNC) for name in "abc"]
    for part in (b"one ", b"two ", b"three"):
        for handle in handles:
            write(handle, part)
    assert {(base / name).read_bytes() for name in "abc"} == {b"one two three"}
    counts = small.counts()
    assert (counts.active_count, counts.suspended_count, counts.error_count) == (2, 1, 0)
    assert counts.use_count == 9
    assert counts.miss_count == 9  # three files in turn, room for two: each was closed before its turn
    for handle in handles:
        handle.close()


def test_what_is_in_use_is_never_closed(small: FdTracker, base: Path) -> None:
    a, b = (small.open(name, NEW) for name in "ab")
    with a as first, a as again, b:
        assert first == again
        with pytest.raises(OSError) as caught:
            small.open("c", NEW)
        assert caught.value.errno == errno.EMFILE
        assert not (base / "c").exists()
        with pytest.raises(OSError):
            small.reserve(1, "a socket")
    small.open("c", NEW).close()
    a.close()
    b.close()


def test_reservations_close_files_and_give_room_back(small: FdTracker, base: Path) -> None:
    handle = small.open("a", NEW)
    with small.reserve(2, "a connection") as reservation:
        assert handle.is_suspended
        assert open_descriptors_below(base) == []
        with pytest.raises(OSError, match="2 of them not by files"):
            handle.get_fd()
        assert small.counts().error_count == 1
    reservation.release()  # a second time: nothing
    assert small.counts().reserved_count == 0
    write(handle, b"x")
    handle.close()


def test_what_the_process_has_open_anyway_is_counted(base: Path) -> None:
    open_count = len(os.listdir("/proc/self/fd")) - 1
    tracker = FdTracker(str(base), open_count + 3)
    handle = tracker.open("a", NEW)
    others = tracker.reserve_what_is_open("the process")
    assert others.count == open_count
    with tracker.reserve(2, "connections"), pytest.raises(OSError):
        tracker.reserve(2, "one too many, and one of the file")
    others.release()
    handle.close()
    with pytest.raises(OSError):
        FdTracker(str(base), open_count - 1).reserve_what_is_open("the process")


def test_a_file_that_could_not_come_back_stays_open(small: FdTracker, base: Path) -> None:
    gone, replaced = small.open("gone", NEW), small.open("replaced", NEW)
    (base / "gone").unlink()
    (base / "other").write_bytes(b"other")
    (base / "other").rename(base / "replaced")
    with pytest.raises(OSError) as caught:
        small.open("c", NEW)
    assert caught.value.errno == errno.EMFILE
    write(gone, b"x")
    write(replaced, b"x")
    assert (base / "replaced").read_bytes() == b"other"
    gone.close()
    replaced.close()


def test_a_suspended_file_never_comes_back_as_another(small: FdTracker, base: Path) -> None:
    handle = small.open("a", NEW)
    with small.reserve(2, "room"):
        assert handle.is_suspended
    (base / "b").write_bytes(b"other")
    (base / "b").rename(base / "a")
    with pytest.raises(FileNotFoundError):
        handle.get_fd()
    (base / "a").unlink()
    with pytest.raises(FileNotFoundError):
        handle.get_fd()
    handle.close()


def test_unlink_while_open_and_suspended(small: FdTracker, base: Path) -> None:
    writer = small.open("a", NEW)
    reader = small.open("a", os.O_RDONLY)
    write(writer, b"seen")
    small.unlink("a")
    assert not (base / "a").exists()
    again = small.open("a", NEW)  # the next file of that name is another one
    write(again, b"new")
    with small.reserve(2, "room"):
        assert writer.is_suspended and reader.is_suspended and again.is_suspended
    write(writer, b" and read")
    with reader as descriptor:
        assert os.read(descriptor, 100) == b"seen and read"
    with pytest.raises(FileNotFoundError):
        reader.unlink()
    assert (base / "a").read_bytes() == b"new"
    assert (base / ".unlinked").stat().st_mode & 0o777 == 0o770 & ~_mask()
    writer.close()
    assert (base / ".unlinked").exists()
    reader.close()
    assert not (base / ".unlinked").exists()
    again.unlink()
    again.close()
    assert list(base.iterdir()) == []


def _mask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def test_unlink_of_a_file_that_nobody_holds(small: FdTracker, base: Path) -> None:
    (base / "a").write_bytes(b"")
    small.unlink("a")
    assert list(base.iterdir()) == []
    with pytest.raises(FileNotFoundError):
        small.unlink("a")


def test_rename_takes_everything_inside_along(small: FdTracker, base: Path) -> None:
    make_directories(str(base), "host/session/chunk/ust", 0o770)
    (base / "host/session/chunk2").write_bytes(b"")
    inside = small.open("host/session/chunk/ust/c_0", NEW)
    beside = small.open("host/session/chunk2", os.O_RDWR)
    small.rename("host/session/chunk", "host/session/archived")
    with small.reserve(2, "room"):
        pass
    write(inside, b"in")
    write(beside, b"beside")
    assert inside.path == "host/session/archived/ust/c_0"
    assert beside.path == "host/session/chunk2"
    assert (base / inside.path).read_bytes() == b"in"
    with pytest.raises(FileExistsError):
        small.rename(inside.path, beside.path)
    inside.close()
    beside.close()


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/etc/passwd",
        "..",
        "../x",
        "a/../../x",
        "a//b",
        "a/",
        "./a",
        "a/.",
        "a\0b",
        ".unlinked/x",
        "/".join("a" * 65),
    ],
)
def test_no_path_leads_out_of_the_base(small: FdTracker, base: Path, path: str) -> None:
    (base / "a").mkdir()
    for call in (
        lambda: small.open(path, APPEND),
        lambda: small.target(lambda: None).move([NewFile(path, APPEND)], lambda _: None),
        lambda: small.unlink(path),
        lambda: small.rename("a", path),
        lambda: small.rename(path, "b"),
    ):
        with pytest.raises(InvalidArgument):
            call()
    assert [entry.name for entry in base.iterdir()] == ["a"]


def test_symbolic_links_are_not_followed(small: FdTracker, base: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_bytes(b"precious")
    (base / "directory").symlink_to(outside)
    (base / "file").symlink_to(outside / "file")
    with pytest.raises(OSError):
        small.open("directory/file", os.O_RDWR | os.O_TRUNC)
    with pytest.raises(OSError):
        small.open("file", os.O_RDWR | os.O_TRUNC)
    with pytest.raises(OSError):
        small.unlink("directory/file")
    with pytest.raises(OSError):
        make_directories(str(base), "directory/new", 0o770)
    small.unlink("file")  # the link itself
    assert (outside / "file").read_bytes() == b"precious"
    assert [entry.name for entry in outside.iterdir()] == ["file"]


def test_only_plain_files_are_opened(small: FdTracker, base: Path) -> None:
    os.mkfifo(base / "fifo")
    with pytest.raises(OSError, match="Not a plain file"):
        small.open("fifo", os.O_RDONLY)
    (base / "directory").mkdir()
    with pytest.raises(OSError):
        small.open("directory", os.O_RDONLY)
    assert small.counts().active_count == 0


def test_a_failed_opening_leaves_nothing(small: FdTracker, base: Path) -> None:
    with pytest.raises(FileNotFoundError):
        small.open("no/such/directory", NEW)
    with pytest.raises(FileNotFoundError):
        small.open("none", os.O_RDONLY)
    assert open_descriptors_below(base.parent) == []
    assert small.close() == ()


def test_targets_are_lent_and_taken_back(small: FdTracker, base: Path) -> None:
    intake = Intake(small)
    a, b, c = (intake.stream(name) for name in "abc")
    intake.move(a, "a", "file-a")
    intake.move(b, "b", "file-b")
    a.touch()
    intake.move(c, "c", "file-c")
    assert intake.revoked == ["b"]
    assert [target.is_suspended for target in (a, b, c)] == [False, True, False]
    assert open_descriptors_below(base) == [f"{base}/file-a", f"{base}/file-c"]
    intake.lend(b, "b")
    assert intake.revoked == ["b", "a"]
    assert open_descriptors_below(base) == [f"{base}/file-b", f"{base}/file-c"]
    for target in (a, b, c):
        target.close()
    assert open_descriptors_below(base) == []
    assert small.close() == ()


def test_a_target_moves_on_without_being_revoked(small: FdTracker, base: Path) -> None:
    intake = Intake(small)
    target = intake.stream("s")
    intake.move(target, "s", "0")
    intake.move(target, "s", "1")
    intake.lend(target, "s")  # with another stop number, for example
    assert intake.revoked == []
    assert target.paths == ("1",)
    assert open_descriptors_below(base) == [f"{base}/1"]
    assert small.counts().active_count == 1
    small.unlink("1")
    target.close()
    assert sorted(entry.name for entry in base.iterdir()) == ["0"]


def test_a_target_with_its_index_counts_twice(base: Path) -> None:
    tracker = FdTracker(str(base), 4)
    intake = Intake(tracker)
    handle = tracker.open("a", NEW)
    target = intake.stream("s")
    intake.move(target, "s", "data", "index")
    assert tracker.counts().active_count == 3
    with tracker.reserve(1, "room"), pytest.raises(OSError) as caught:
        # The next two need room beside the former two, which must stay: a packet of theirs may be under way.
        intake.move(target, "s", "data1", "index1")
    assert caught.value.errno == errno.EMFILE
    assert intake.revoked == []
    assert handle.is_suspended
    intake.move(target, "s", "data1", "index1")
    assert target.paths == ("data1", "index1")
    (base / "index1").unlink()
    with pytest.raises(OSError):
        tracker.reserve(3, "more than there is while it cannot be opened again")
    target.close()
    handle.close()
    assert tracker.close() == ()


def test_an_intake_that_refuses_a_target(small: FdTracker, base: Path) -> None:
    def refuse(_descriptors: list[int]) -> None:
        raise OSError(errno.ENOMEM, "no memory")

    intake = Intake(small)
    target = intake.stream("s")
    with pytest.raises(OSError, match="no memory"):
        target.move([NewFile("a", NEW)], refuse)
    assert target.is_suspended
    assert not target.paths
    assert open_descriptors_below(base) == []
    intake.move(target, "s", "b")
    with pytest.raises(OSError, match="no memory"):
        target.lend(refuse)
    with pytest.raises(FileNotFoundError):
        intake.move(target, "s", "no/such/directory")
    assert target.paths == ("b",)
    assert open_descriptors_below(base) == [f"{base}/b"]
    target.close()


def test_what_was_forgotten_is_reported_and_closed(small: FdTracker, base: Path) -> None:
    intake = Intake(small)
    intake.move(intake.stream("s"), "s", "target")
    small.open("file", NEW).unlink()
    small.reserve(3 - 2, "the port of viewers")
    leaks = small.close()
    assert len(leaks) == 3
    assert leaks[0] == "1 for the port of viewers"
    assert leaks[1].startswith("FileHandle .unlinked/")
    assert leaks[2] == "TargetHandle target"
    assert open_descriptors_below(base) == []
    assert [entry.name for entry in base.iterdir()] == ["target"]


def test_mistakes_of_ours(small: FdTracker) -> None:
    handle = small.open("a", NEW)
    with pytest.raises(LocalProtocolError):
        handle.put_fd()
    handle.close()
    handle.close()
    with pytest.raises(LocalProtocolError):
        handle.get_fd()
    for base, capacity in (("relative", 10), ("/tmp", 0)):
        with pytest.raises(InvalidArgument):
            FdTracker(base, capacity)


def test_what_a_killed_daemon_left_is_removed_and_a_living_ones_is_not(base: Path) -> None:
    left = base / ".unlinked" / "0011223344556677"
    left.mkdir(parents=True)
    (left / "0").write_bytes(b"forgotten")
    other = FdTracker(str(base), 2)
    assert not left.exists()
    handle = other.open("a", NEW)
    handle.unlink()
    FdTracker(str(base), 2).close()
    assert (base / handle.path).exists()
    handle.close()
    other.close()
    assert list(base.iterdir()) == []


def test_the_directory_of_unlinked_files_is_locked(base: Path) -> None:
    tracker = FdTracker(str(base), 2)
    handle = tracker.open("a", NEW)
    handle.unlink()
    directory = os.open((base / handle.path).parent, os.O_RDONLY)
    with pytest.raises(BlockingIOError):
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(directory)
    handle.close()
    tracker.close()


def test_the_base_may_come_late_and_go(tmp_path: Path) -> None:
    base = tmp_path / "late"
    tracker = FdTracker(str(base), 2)
    for _ in range(2):
        make_directories(str(base), "host", 0o770)
        tracker.open("host/a", NEW).close()
        (base / "host/a").unlink()
        (base / "host").rmdir()
        base.rmdir()
    assert tracker.close() == ()


def test_directories_that_are_removed_and_made_again(small: FdTracker, base: Path) -> None:
    for turn in range(2):
        make_directories(str(base), "host/session", 0o770)
        handle = small.open("host/session/a", NEW)
        with small.reserve(2, "room"):
            assert handle.is_suspended
        write(handle, b"%d" % turn)
        assert (base / "host/session/a").read_bytes() == b"%d" % turn
        small.unlink("host/session/a")
        handle.close()
        (base / "host/session").rmdir()
    assert small.close() == ()
    assert open_descriptors_below(base) == []


def test_more_directories_than_are_kept_open(base: Path) -> None:
    tracker = FdTracker(str(base), 1)
    handles = []
    for number in range(3 * KEPT_PARENTS_MAX):
        make_directories(str(base), f"h/{number}", 0o770)
        handles.append(tracker.open(f"h/{number}/a", NEW))
    for number, handle in enumerate(handles):
        write(handle, b"%d" % number)
        assert (base / f"h/{number}/a").read_bytes() == b"%d" % number
    assert len(open_descriptors_below(base)) <= 1 + KEPT_PARENTS_MAX
    tracker.rename("h", "i")
    assert open_descriptors_below(base) == [f"{base}/i/{len(handles) - 1}/a"]
    for handle in handles:
        write(handle, b"!")
        handle.close()
    assert (base / "i/0/a").read_bytes() == b"0!"
    assert tracker.close() == ()
    assert open_descriptors_below(base.parent) == []


def test_thousands_of_streams_with_a_few_descriptors(base: Path) -> None:
    """5,000 streams, each with a data file in the intake and an index file of ours, and a limit of 256."""
    stream_count, limit, capacity = 5000, 256, 246
    before = len(os.listdir("/proc/self/fd"))
    tracker = FdTracker(str(base), capacity)
    intake = Intake(tracker)
    sockets = tracker.reserve(40, "connections")
    make_directories(str(base), "host/session/ust/uid/0/64-bit/index", 0o770)
    directory = "host/session/ust/uid/0/64-bit"
    targets = [intake.stream(str(number)) for number in range(stream_count)]
    indexes = [tracker.open(f"{directory}/index/c_{number}.idx", NEW | os.O_APPEND) for number in range(stream_count)]
    for packet in range(2):
        for number in range(stream_count):
            name = str(number)
            if packet == 0:
                intake.move(targets[number], name, f"{directory}/c_{number}")
            elif name not in intake.descriptors:  # the intake holds the connection, and says so
                intake.lend(targets[number], name)
            os.pwrite(intake.descriptors[name][0], b"%06d" % number, packet * 6)
            write(indexes[number], b"%06d" % number)
            if number % 500 == 0:
                assert len(os.listdir("/proc/self/fd")) - before <= limit - 40
                counts = tracker.counts()
                assert counts.reserved_count + counts.active_count <= capacity
    for number in range(stream_count):
        expected = b"%06d" % number * 2
        assert (base / directory / f"c_{number}").read_bytes() == expected
        assert (base / directory / "index" / f"c_{number}.idx").read_bytes() == expected
    sockets.release()
    for handle in (*targets, *indexes):
        handle.close()
    assert tracker.close() == ()
    assert tracker.counts().error_count == 0
    assert len(os.listdir("/proc/self/fd")) == before


def test_threads_share_it(base: Path) -> None:
    tracker = FdTracker(str(base), 8)
    handles = [tracker.open(str(number), NEW | os.O_APPEND) for number in range(20)]
    failures: list[BaseException] = []

    def append(letter: bytes) -> None:
        try:
            for turn in range(2000):
                write(handles[turn % 20], letter)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=append, args=(letter,)) for letter in (b"a", b"b", b"c", b"d")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for number, handle in enumerate(handles):
        content = (base / str(number)).read_bytes()
        assert [content.count(letter) for letter in (b"a", b"b", b"c", b"d")] == [100] * 4
        handle.close()
    assert tracker.close() == ()
