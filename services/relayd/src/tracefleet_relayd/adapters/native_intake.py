"""The native library's intake as the application sees it, and the data connections that it has."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

from tracefleet_native import intake_binding as native
from tracefleet_relayd.application.ports import HoldReason, IntakeReport, ReportKind

_KINDS: dict[int, ReportKind] = {int(kind): ReportKind[kind.name] for kind in native.IntakeReportKind}
_REASONS: dict[int, HoldReason | None] = {
    reason: HoldReason[reason.name] for reason in native.HoldReason if reason.name in HoldReason.__members__
}
_REASONS[native.HoldReason.NONE] = None
_INTERRUPTIONS = frozenset({int(native.IntakeReportKind.HOLD), int(native.IntakeReportKind.CLOSED)})


class NativeIntake:
    """Tokens are numbered from 1, and never used twice."""

    def __init__(self, thread_count: int = 0) -> None:
        self._native = native.Intake(thread_count)
        self._tokens = itertools.count(1)
        self._reservations: dict[int, contextlib.ExitStack] = {}
        self._on_return: dict[int, Callable[[], None]] = {}  # of control connections

    def fileno(self) -> int:
        """Readable while there are reports."""
        return self._native.fileno()

    @property
    def connection_count(self) -> int:
        return len(self._reservations)

    def add(
        self, descriptor: int, reserve: Callable[[], AbstractContextManager[Any]], fleet_session_id: int | None = None
    ) -> int:
        """Read a data connection; its descriptor is the intake's on success. Returns the token. Raises OSError.

        `fleet_session_id`: it is of that session, and behind its greeting; None: it speaks LTTng's protocol.
        """
        token = next(self._tokens)
        with contextlib.ExitStack() as stack:
            stack.enter_context(reserve())
            framing = native.Framing.LTTNG if fleet_session_id is None else native.Framing.FLEET
            self._native.add(descriptor, token, framing, fleet_session_id or 0)
            self._reservations[token] = stack.pop_all()
        return token

    def take_reports(self) -> Sequence[IntakeReport]:
        """All there are."""
        found: list[IntakeReport] = []
        while True:
            reports = self._native.take_numbers()
            for kind, reason, error, _, token, *rest in reports:
                if kind in _INTERRUPTIONS and token in self._on_return:
                    self._on_return[token]()
                else:
                    found.append(IntakeReport(_KINDS[kind], _REASONS[reason], error, token, *rest))
            if len(reports) < native.REPORTS_PER_CALL:
                return found

    def lend(self, descriptor: int, session_id: int, on_return: Callable[[], None]) -> int:
        """Let index entries on a control connection be taken without us. Returns the token. Raises OSError.

        `on_return` is called when it is our turn again, with reports under way: leave for later what executes commands.
        Whoever lends it takes it back then, and lends it again with `resume`; and calls `close` before it closes the
        descriptor.
        """
        token = next(self._tokens)
        self._native.add(descriptor, token, native.Framing.CONTROL, session_id)
        self._on_return[token] = on_return
        return token

    def take_back(self, token: int) -> tuple[bytes, bytes]:
        """What to send before anything else, and what came and was not dealt with. Raises OSError."""
        return self._native.take_back(token)

    def resume(self, token: int) -> None:
        self._native.resume(token)

    def close(self, token: int) -> None:
        self._native.close(token)
        self._on_return.pop(token, None)
        reservation = self._reservations.pop(token, None)
        if reservation is not None:
            reservation.close()

    def set_target(
        self,
        handle: int,
        descriptor: int,
        *,
        offset_bytes: int | None,
        size_bytes_max: int,
        stop_sequence: int | None,
        session_id: int,
    ) -> None:
        """Raises OSError; the descriptor is the intake's otherwise."""
        self._native.set_target(
            handle,
            descriptor,
            offset=offset_bytes,
            size_limit=size_bytes_max,
            stop_net_seq=native.NO_STOP if stop_sequence is None else stop_sequence,
            group=session_id,
        )

    def join(self, handle: int, index_descriptor: int, *, index_offset_bytes: int, data_offset_bytes: int) -> None:
        """Raises OSError; the descriptor is the intake's otherwise."""
        self._native.join(handle, index_descriptor, index_offset=index_offset_bytes, data_offset=data_offset_bytes)

    def unjoin(self, handle: int) -> None:
        self._native.unjoin(handle)

    def set_acknowledged_target(
        self,
        handle: int,
        descriptors: Sequence[int],
        *,
        offset_bytes: int | None,
        index_offset_bytes: int | None,
        size_bytes_max: int,
        next_sequence: int | None,
        is_synced: bool,
        session_id: int,
    ) -> None:
        """`descriptors`: of the data file, and of the index file unless it is metadata. Raises as `set_target`."""
        self._native.set_target(
            handle,
            descriptors[0],
            offset=offset_bytes,
            size_limit=size_bytes_max,
            group=session_id,
            index_fd=descriptors[1] if len(descriptors) > 1 else -1,
            index_offset=index_offset_bytes,
            next_sequence=next_sequence,
            is_synced=is_synced,
        )

    def set_stop(self, handle: int, stop_sequence: int) -> None:
        self._native.set_stop(handle, stop_sequence)

    def revoke(self, handle: int) -> None:
        self._native.revoke(handle)

    def remove(self, handle: int) -> None:
        self._native.remove(handle)

    def free(self) -> None:
        """The last call."""
        self._native.free()
        for reservation in self._reservations.values():
            reservation.close()
        self._reservations.clear()
