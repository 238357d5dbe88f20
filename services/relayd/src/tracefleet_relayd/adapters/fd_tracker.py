"""Keeps the open descriptors of the process at or below a capacity, however many files are in use.

Files are *suspendable*: when room is needed, the one that was used longest ago is closed, and opened again at its
next use. Sockets, pipes and directories are not; who opens one reserves room for it *before*, which closes files.
Renaming and removing go through the tracker too, because a file that is closed is found again by its path only.

One lock serialises everything, so that any thread may use it; nothing here waits longer than a call on a file.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import NamedTuple

from tracefleet_common.errors import InvalidArgument, LocalProtocolError
from tracefleet_relayd.adapters.beneath import KeptParents, components, open_beneath, opened_parent, stat_beneath
from tracefleet_relayd.adapters.unlinked_files import UNLINKED_DIRECTORY, UnlinkedFiles

log = logging.getLogger("tracefleet.relayd.fd-tracker")

LEAKS_LOGGED_MAX = 20
# Directories that are kept open, so that closing and opening again costs two system calls and not one per component.
# Not counted, like what is open for a moment within a call: the capacity is to leave a margin of ten.
KEPT_PARENTS_MAX = 4
_ONLY_AT_FIRST = os.O_CREAT | os.O_EXCL | os.O_TRUNC


class FdCounts(NamedTuple):
    """`suspended_count`: handles; `use_count`: since the start; `miss_count`: uses that had to open the file again."""

    capacity: int
    reserved_count: int
    active_count: int
    suspended_count: int
    use_count: int
    miss_count: int
    error_count: int


class _Inode:
    """One file, whatever the number of handles on it. `path`: below the base, as it is now."""

    def __init__(self, key: tuple[int, int], path: str) -> None:
        self.key = key
        self.path = path
        self.handle_count = 0
        self.is_unlinked = False


class _File(NamedTuple):
    """A file of a handle; `flags`: of the next opening."""

    inode: _Inode
    flags: int


class NewFile(NamedTuple):
    """A file to open, as open(2)."""

    path: str  # below the base
    flags: int
    mode: int = 0o666


class Reservation:
    """Room for descriptors that cannot be suspended. Ends with `release`, or as a context manager."""

    def __init__(self, tracker: FdTracker, count: int, name: str) -> None:
        self.count = count
        self.name = name
        self._tracker = tracker

    def release(self) -> None:
        """After the descriptors are closed. A second call does nothing."""
        self._tracker._release(self)

    def __enter__(self) -> Reservation:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class Handle:
    """Files of the tracker that are open, or suspended, together. Close it; nobody else does before the tracker."""

    def __init__(self, tracker: FdTracker) -> None:
        self._tracker = tracker
        self._files: tuple[_File, ...] = ()
        self._is_closed = False

    @property
    def is_suspended(self) -> bool:
        """Whether it has no descriptors at the moment."""
        return self not in self._tracker._active

    def close(self) -> None:
        """Forget the files, in use or not. A second call does nothing."""
        self._tracker._close(self)

    def _is_in_use(self) -> bool:
        raise NotImplementedError

    def _give_up_descriptors(self, *, is_for_good: bool) -> None:
        raise NotImplementedError


class FileHandle(Handle):
    """A file for reading or writing by us: `with handle as descriptor:` for about one system call at a time.

    In between it can be suspended, which keeps the position but not locks. Uses may overlap, also across threads.
    """

    def __init__(self, tracker: FdTracker, file: _File, descriptor: int) -> None:
        super().__init__(tracker)
        self._files = (file,)
        self._descriptor = descriptor
        self._offset = 0
        self._use_count = 0

    @property
    def path(self) -> str:
        """Where the file is now, below the base directory."""
        return self._files[0].inode.path

    def get_fd(self) -> int:
        """The descriptor, good until `put_fd`. OSError: EMFILE without room, or why it cannot be opened again."""
        return self._tracker._get_fd(self)

    def put_fd(self) -> None:
        """One for every `get_fd`."""
        self._tracker._put_fd(self)

    def __enter__(self) -> int:
        return self.get_fd()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.put_fd()

    def unlink(self) -> None:
        """Remove the name; this handle and all others on the file go on. FileNotFoundError when it is gone already."""
        self._tracker._unlink_inode(self._files[0].inode)

    def _is_in_use(self) -> bool:
        return self._use_count > 0

    def _give_up_descriptors(self, *, is_for_good: bool) -> None:
        if not is_for_good:
            self._offset = os.lseek(self._descriptor, 0, os.SEEK_CUR)
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


class TargetHandle(Handle):
    """Where the native intake writes a stream: its file, or two with the index. The intake owns the descriptors.

    The tracker takes them back with `revoke` for want of room; the intake then holds the connection, and who hears
    of that lends them again. `take` gets the descriptors in the order of the files; they are the intake's when it
    returns, and those of before are closed, as tf_intake_set_target() does; when it raises, nothing has changed.
    """

    def __init__(self, tracker: FdTracker, revoke: Callable[[], None]) -> None:
        super().__init__(tracker)
        self._revoke = revoke
        self._is_moving = False

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the files are now, below the base directory."""
        return tuple(file.inode.path for file in self._files)

    def move(self, files: Sequence[NewFile], take: Callable[[list[int]], None]) -> None:
        """Go over to other files. The former ones are not revoked: the intake may take a packet along from them.

        OSError: EMFILE, or why a file cannot be opened; and whatever `take` raises.
        """
        self._tracker._move(self, files, take)

    def lend(self, take: Callable[[list[int]], None]) -> None:
        """The same files once more: they were revoked, or what is to happen to them changed. Raises as `move`."""
        self._tracker._lend(self, take)

    def touch(self) -> None:
        """Used just now (packets arrived): others are to be suspended before it."""
        self._tracker._touch(self)

    def _is_in_use(self) -> bool:
        return self._is_moving  # revoking waits for a write that is under way

    def _give_up_descriptors(self, *, is_for_good: bool) -> None:
        del is_for_good  # the intake knows the position
        self._revoke()


class FdTracker:
    """`base`: the output directory, absolute; every path is relative to it. `capacity`: descriptors at most."""

    def __init__(self, base: str, capacity: int) -> None:
        if not os.path.isabs(base) or capacity < 1:
            raise InvalidArgument(f"No room for files: base={base}, capacity={capacity}")
        self._base = base
        self._capacity = capacity
        self._lock = threading.RLock()
        self._active: OrderedDict[Handle, None] = OrderedDict()  # the one used longest ago is first
        self._active_count = 0  # their descriptors
        self._handles: set[Handle] = set()
        self._inodes: dict[tuple[int, int], _Inode] = {}
        self._reservations: set[Reservation] = set()
        self._reserved_count = 0
        self._use_count = self._miss_count = self._error_count = 0
        self._parents = KeptParents(base, KEPT_PARENTS_MAX)
        self._unlinked = UnlinkedFiles(base)
        self._unlinked.remove_left_over()

    # ---- what others ask ----

    def open(self, path: str, flags: int, mode: int = 0o666) -> FileHandle:
        """As open(2), never through a symbolic link. OSError(EMFILE) when nothing can be suspended."""
        with self._lock:
            self._make_room(1)
            descriptor, file = self._open_first(NewFile(path, flags, mode))
            self._hold(file)
            handle = FileHandle(self, file, descriptor)
            self._handles.add(handle)
            self._activate(handle)
            return handle

    def target(self, revoke: Callable[[], None]) -> TargetHandle:
        """For one stream of the intake, without a file yet.

        `revoke` takes the descriptors back: when it returns, the intake has closed them. It must not call the tracker.
        """
        with self._lock:
            handle = TargetHandle(self, revoke)
            self._handles.add(handle)
            return handle

    def reserve(self, count: int, name: str) -> Reservation:
        """Make room for `count` descriptors that will be opened after this returns. OSError(EMFILE): no room.

        `name` is for the report of leaks, for example "control connection of 10.0.0.7".
        """
        with self._lock:
            self._make_room(count)
            reservation = Reservation(self, count, name)
            self._reservations.add(reservation)
            self._reserved_count += count
            return reservation

    def has_room(self, count: int) -> bool:
        """Whether so many more can be open without one that is closed for them."""
        with self._lock:
            return self._reserved_count + self._active_count + count <= self._capacity

    def reserve_what_is_open(self, name: str) -> Reservation:
        """Count the descriptors of the process that the tracker does not know of yet. OSError(EMFILE), as `reserve`."""
        with self._lock:
            open_count = len(os.listdir("/proc/self/fd")) - 1  # without the one that reads the directory
            return self.reserve(max(0, open_count - self._reserved_count - self._active_count), name)

    def rename(self, old: str, new: str) -> None:
        """Rename a file or a directory with all that is open in it. FileExistsError rather than replace anything."""
        with self._lock:
            self._check(old)
            self._check(new)
            with (
                opened_parent(self._base, old) as (old_parent, old_name),
                opened_parent(self._base, new) as (new_parent, new_name),
            ):
                _see_that_nothing_is_there(new_parent, new_name, new)
                os.rename(old_name, new_name, src_dir_fd=old_parent, dst_dir_fd=new_parent)
            self._parents.forget()
            for inode in self._inodes.values():
                if inode.path == old or inode.path.startswith(old + "/"):
                    inode.path = new + inode.path[len(old) :]

    def unlink(self, path: str) -> None:
        """Remove a file's name. Open handles on the file go on, whether they are suspended or not."""
        with self._lock:
            self._check(path)
            there = stat_beneath(self._base, path)
            inode = self._inodes.get((there.st_dev, there.st_ino))
            if inode is not None and inode.path == path:
                self._unlink_inode(inode)
            else:
                with opened_parent(self._base, path) as (parent, name):
                    os.unlink(name, dir_fd=parent)

    def counts(self) -> FdCounts:
        with self._lock:
            return FdCounts(
                capacity=self._capacity,
                reserved_count=self._reserved_count,
                active_count=self._active_count,
                suspended_count=len(self._handles) - len(self._active),
                use_count=self._use_count,
                miss_count=self._miss_count,
                error_count=self._error_count,
            )

    def close(self) -> tuple[str, ...]:
        """At the end of the process: close what was forgotten. Returns, and logs, what that was."""
        with self._lock:
            leaks = [
                f"{type(handle).__name__} {' '.join(file.inode.path for file in handle._files)}"
                for handle in self._handles
            ]
            leaks += [f"{reservation.count} for {reservation.name}" for reservation in self._reservations]
            leaks.sort()
            for leak in leaks[:LEAKS_LOGGED_MAX]:
                log.warning("Still open at the end: what=%s", leak)
            if len(leaks) > LEAKS_LOGGED_MAX:
                log.warning("Still open at the end: more-count=%d", len(leaks) - LEAKS_LOGGED_MAX)
            for handle in list(self._handles):
                self._close(handle)
            for reservation in list(self._reservations):
                self._release(reservation)
            self._parents.forget()
            self._unlinked.close()
            return tuple(leaks)

    # ---- for the handles ----

    def _get_fd(self, handle: FileHandle) -> int:
        with self._lock:
            self._use_count += 1
            if handle in self._active:
                self._active.move_to_end(handle)
            else:
                (descriptor,) = self._reopen(handle)
                os.lseek(descriptor, handle._offset, os.SEEK_SET)
                handle._descriptor = descriptor
                self._activate(handle)
            handle._use_count += 1
            return handle._descriptor

    def _put_fd(self, handle: FileHandle) -> None:
        with self._lock:
            if handle._use_count == 0:
                raise LocalProtocolError(f"Given back without a use: {handle.path}")
            handle._use_count -= 1

    def _move(self, handle: TargetHandle, files: Sequence[NewFile], take: Callable[[list[int]], None]) -> None:
        with self._lock, _moving(handle):
            self._see_that_it_is_open(handle)
            self._use_count += 1
            self._make_room(len(files))
            opened: list[tuple[int, _File]] = []
            try:
                for new in files:
                    opened.append(self._open_first(new))
                take([descriptor for descriptor, _ in opened])
            except BaseException:
                for descriptor, _ in opened:
                    os.close(descriptor)
                raise
            self._deactivate(handle)
            former, handle._files = handle._files, tuple(file for _, file in opened)
            for file in handle._files:
                self._hold(file)
            for file in former:
                self._let_go(file)
            self._activate(handle)

    def _lend(self, handle: TargetHandle, take: Callable[[list[int]], None]) -> None:
        with self._lock, _moving(handle):
            self._use_count += 1
            descriptors = self._reopen(handle)
            try:
                take(descriptors)
            except BaseException:
                _close_all(descriptors)
                raise
            self._deactivate(handle)
            self._activate(handle)

    def _touch(self, handle: TargetHandle) -> None:
        with self._lock:
            self._use_count += 1
            if handle in self._active:
                self._active.move_to_end(handle)

    def _close(self, handle: Handle) -> None:
        with self._lock:
            if handle._is_closed:
                return
            handle._is_closed = True
            self._handles.remove(handle)
            try:
                if self._deactivate(handle):
                    handle._give_up_descriptors(is_for_good=True)
            finally:
                for file in handle._files:
                    self._let_go(file)

    def _unlink_inode(self, inode: _Inode) -> None:
        with self._lock:
            if inode.is_unlinked:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), inode.path)
            with opened_parent(self._base, inode.path) as (parent, name):
                there = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if (there.st_dev, there.st_ino) != inode.key:
                    raise FileNotFoundError(errno.ENOENT, "Another file has this name now", inode.path)
                inode.path = self._unlinked.take_in(parent, name)
            inode.is_unlinked = True

    def _release(self, reservation: Reservation) -> None:
        with self._lock:
            if reservation in self._reservations:
                self._reservations.remove(reservation)
                self._reserved_count -= reservation.count

    # ---- inside ----

    def _check(self, path: str) -> None:
        if components(path)[0] == UNLINKED_DIRECTORY:
            raise InvalidArgument(f"This name is the relay daemon's own: {path!r}")

    def _open_first(self, new: NewFile) -> tuple[int, _File]:
        self._check(new.path)
        # A FIFO that somebody put there must not stop us: without O_NONBLOCK, opening it would wait.
        descriptor = open_beneath(self._base, new.path, new.flags | os.O_NONBLOCK, new.mode)
        there = os.fstat(descriptor)
        if not stat.S_ISREG(there.st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "Not a plain file", new.path)
        key = (there.st_dev, there.st_ino)
        inode = self._inodes.get(key)
        if inode is None or (inode.path != new.path and not self._is_there(inode)):
            # Not where it was: somebody else removed the file, and the number of the inode was used again.
            # Handles that are open keep theirs; those that are suspended must not come back as the new file.
            inode = _Inode(key, new.path)
        return descriptor, _File(inode, new.flags & ~_ONLY_AT_FIRST)

    def _hold(self, file: _File) -> None:
        self._inodes[file.inode.key] = file.inode
        file.inode.handle_count += 1

    def _let_go(self, file: _File) -> None:
        inode = file.inode
        inode.handle_count -= 1
        if inode.handle_count == 0:
            if self._inodes.get(inode.key) is inode:
                del self._inodes[inode.key]
            if inode.is_unlinked:
                self._unlinked.discard(inode.path)

    def _activate(self, handle: Handle) -> None:
        self._active[handle] = None
        self._active_count += len(handle._files)

    def _deactivate(self, handle: Handle) -> bool:
        """Whether it was active."""
        if handle not in self._active:
            return False
        del self._active[handle]
        self._active_count -= len(handle._files)
        return True

    def _is_there(self, inode: _Inode) -> bool:
        try:
            there = self._parents.stat(inode.path)
        except OSError:
            return False
        return (there.st_dev, there.st_ino) == inode.key

    def _see_that_it_is_open(self, handle: Handle) -> None:
        if handle._is_closed:
            raise LocalProtocolError("A file is used after it was closed")

    def _reopen(self, handle: Handle) -> list[int]:
        self._see_that_it_is_open(handle)
        self._miss_count += 1
        descriptors: list[int] = []
        try:
            self._make_room(len(handle._files))
            for inode, flags in handle._files:
                descriptors.append(self._parents.open(inode.path, flags | os.O_NONBLOCK))
                there = os.fstat(descriptors[-1])
                if (there.st_dev, there.st_ino) != inode.key:
                    raise FileNotFoundError(errno.ENOENT, "Another file has this name now", inode.path)
        except OSError:
            self._error_count += 1
            _close_all(descriptors)
            raise
        return descriptors

    def _make_room(self, count: int) -> None:
        while self._reserved_count + self._active_count + count > self._capacity:
            if not self._suspend_one():
                raise OSError(
                    errno.EMFILE,
                    f"All {self._capacity} descriptors are in use, {self._reserved_count} of them not by files",
                )

    def _suspend_one(self) -> bool:
        for _ in range(len(self._active)):
            handle = next(iter(self._active))
            # One that could not be opened again stays open, as long as it takes.
            if not handle._is_in_use() and all(self._is_there(file.inode) for file in handle._files):
                self._deactivate(handle)
                handle._give_up_descriptors(is_for_good=False)
                return True
            self._active.move_to_end(handle)
        return False


def _see_that_nothing_is_there(parent: int, name: str, path: str) -> None:
    try:
        os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)


def _close_all(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)


@contextlib.contextmanager
def _moving(handle: TargetHandle) -> Iterator[None]:
    """Its files are not revoked to make room for the next ones."""
    handle._is_moving = True
    try:
        yield
    finally:
        handle._is_moving = False
