"""What serving viewers asks of sessions, streams and their files. The relay daemon's own domain has the shape of it.

A viewer's place in a data stream is a *position*: how many index entries of the stream come before it, counted from
the first one that was ever received, over all trace chunks and trace files. A *segment* is one data file with its index
file; it holds the entries of consecutive positions. Positions only grow; what is deleted (clear) or overwritten (trace
files in a ring) makes `first_position` jump.

Everything here is called on the event loop and answers at once.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractContextManager
from typing import Protocol


class ViewableFile(Protocol):
    """A file that is open for reading. It stays the same file when its name is moved, unlinked or given to another."""

    def size_bytes(self) -> int:
        """Raises OSError."""

    def read(self, offset_bytes: int, size_bytes: int) -> bytes:
        """Fewer bytes only at the end of the file. Raises OSError."""

    def use(self) -> AbstractContextManager[int]:
        """The descriptor, for about one system call: it may be another one, or closed, later. Raises OSError."""

    def close(self) -> None: ...


class ViewableSegment(Protocol):
    """One data file and its index file. Two segments are never equal, also when one reuses the names of the other."""

    @property
    def first_position(self) -> int:
        """Of the first entry of the index file."""

    def open_data(self) -> ViewableFile:
        """Raises OSError."""

    def open_index(self) -> ViewableFile:
        """Raises OSError."""


class ViewableStream(Protocol):
    """A published stream of a session."""

    @property
    def stream_id(self) -> int:
        """Unique in the relay daemon: the handle that the producer got."""

    @property
    def trace_id(self) -> int:
        """Unique in the relay daemon. The streams of one trace have the same path and share one metadata stream."""

    @property
    def is_metadata(self) -> bool: ...

    @property
    def path(self) -> str:
        """`ust/uid/0/64-bit`."""

    @property
    def channel_name(self) -> str:
        """As the producer named it: `ch_0`."""

    @property
    def is_closed(self) -> bool:
        """Nothing will be added any more. In the end it is true of every stream of a closed session."""

    @property
    def is_rotating(self) -> bool:
        """A rotation of this stream waits for packets before its position."""

    # Data streams

    @property
    def first_position(self) -> int:
        """The oldest entry that can be read. From here a viewer starts that wants everything."""

    @property
    def end_position(self) -> int:
        """One more than the newest entry: an entry counts once its data and itself are in their files."""

    @property
    def inactive_until(self) -> int | None:
        """Of the latest beacon, in clock cycles: no later packet begins before it. None: an index entry came since."""

    @property
    def stream_class_id(self) -> int:
        """As index entries and beacons gave it. 0 before."""

    def segment_at(self, position: int) -> ViewableSegment | None:
        """The one that holds the entry; None when it was deleted, or overwritten, or did not come yet."""

    def keep(self, reader: object, position: int) -> None:
        """Let `reader` find the segments from `position` on, also after a move to another trace chunk or the close.

        Called with a later position, it lets go of what is before. It prevents neither a clear nor overwriting.
        """

    def release(self, reader: object) -> None:
        """`reader` needs nothing any more. No error when it never asked to keep anything."""

    # Metadata streams

    @property
    def metadata_size_bytes(self) -> int:
        """Of the metadata file of the current trace chunk, whole packets only. 0 again in a new chunk."""

    @property
    def metadata_file(self) -> object:
        """Of the current trace chunk. In another chunk it is another object; it is only compared."""

    def open_metadata(self) -> ViewableFile:
        """The file that `metadata_size_bytes` is about. Raises OSError."""


class StreamWatcher(Protocol):
    """Wants to know of the streams of a session."""

    def stream_published(self, stream: ViewableStream) -> None: ...


class ViewableSession(Protocol):
    """A session of a producer: one per consumer daemon, so several may have the same names."""

    @property
    def session_id(self) -> int:
        """The relay session id that the producer got."""

    @property
    def host_name(self) -> str: ...

    @property
    def session_name(self) -> str:
        """The plain name, not the directory's."""

    @property
    def live_timer_us(self) -> int:
        """0: not live."""

    @property
    def stream_count(self) -> int:
        """Those that are not published yet are counted too."""

    @property
    def is_closed(self) -> bool:
        """A connection of the producer is gone. Streams may still get what was announced."""

    @property
    def is_rotating(self) -> bool:
        """This session, or another one of the same origin, is between the creation and the closing of a trace chunk."""

    def published_streams(self) -> Iterable[ViewableStream]:
        """Those that are not closed."""

    def watch(self, watcher: StreamWatcher) -> None:
        """Tell `watcher` of each stream that is published from now on."""

    def unwatch(self, watcher: StreamWatcher) -> None: ...


class ViewableSessions(Protocol):
    """All sessions of the relay daemon that are not closed, live or not."""

    def viewable_sessions(self) -> Iterable[ViewableSession]: ...

    def viewable_session(self, session_id: int) -> ViewableSession | None: ...
