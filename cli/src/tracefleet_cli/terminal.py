"""What a command says, and where: messages to standard output; warnings and errors to standard error."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tracefleet_cli.error_texts import reason, text_of
from tracefleet_common.errors import ErrorCode, InvalidArgument, TracefleetError

if TYPE_CHECKING:
    import msgspec

STANDARD_OUTPUT, STANDARD_ERROR = 1, 2
ABORT_VARIABLE = "LTTNG_ABORT_ON_ERROR"


class Terminal:
    """Writes as `lttng` does: nothing when quiet; with JSON, standard output carries JSON values only."""

    def __init__(self, *, is_quiet: bool = False, is_json: bool = False) -> None:
        self.is_quiet = is_quiet
        self.is_json = is_json

    def message(self, text: str, end: str = "\n") -> None:
        """Text for people; not with JSON."""
        if not self.is_json and not self.is_quiet:
            _write(STANDARD_OUTPUT, text + end)

    def detail(self, text: str) -> None:
        """For --verbose; the caller knows whether that was asked for."""
        _write(STANDARD_ERROR, f"{text}\n")

    def warning(self, text: str) -> None:
        """The command went on."""
        if not self.is_quiet:
            _write(STANDARD_ERROR, f"Warning: {text}\n")

    def error(self, text: str, cause: TracefleetError | None = None) -> None:
        """`text` as it stands; the reason that `cause` adds to it, if any, on a line of its own."""
        if not self.is_quiet:
            why = None if cause is None else reason(cause)
            _write(STANDARD_ERROR, f"Error: {text}\n" + ("" if why is None else f"Reason: {why}\n"))
        if self.is_json:
            self._json_error(text, cause)
        if os.environ.get(ABORT_VARIABLE) == "1":
            os.abort()

    def refusal(self, text: str, cause: TracefleetError) -> None:
        """The command failed, but what was asked for is so already: people get a warning."""
        self.warning(text)
        if self.is_json:
            self._json_error(text, cause)

    def failure(self, cause: TracefleetError) -> None:
        """An error that needs no more words than its own."""
        self.error(text_of(cause), cause)

    def complaint(self, text: str) -> None:
        """An error worded as the C library would, without a prefix."""
        _write(STANDARD_ERROR, f"{text}\n")

    def output(self, text: str) -> None:
        """Text that was asked for as such (help, lists of options): in any mode, even when quiet."""
        _write(STANDARD_OUTPUT, text)

    def value(self, value: msgspec.Struct) -> None:
        """One line of JSON; nothing without it."""
        if self.is_json:
            import msgspec

            _write(STANDARD_OUTPUT, msgspec.json.encode(value).decode() + "\n")

    def _json_error(self, text: str, cause: TracefleetError | None) -> None:
        from tracefleet_common.transport.frames import reply_from_error

        self.value(reply_from_error(cause or InvalidArgument(text, ErrorCode.INVALID)))


def _write(descriptor: int, text: str) -> None:
    """Write all of it at once: so the order of the two streams is kept, and nothing waits in a buffer."""
    data = memoryview(os.fsencode(text))
    while data:
        data = data[os.write(descriptor, data) :]
