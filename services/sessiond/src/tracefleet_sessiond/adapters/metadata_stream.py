"""The metadata of one trace on its way to the consumer daemon.

Text that comes while an append is under way goes with the next one, so many programs that register at once
cost few round trips. Whoever appended waits until its text is in the file: data that needs it must not come first.
"""

from __future__ import annotations

import asyncio

from tracefleet_common.errors import TracefleetError
from tracefleet_common.messages.consumerd_control import AppendMetadata, RecordLayout
from tracefleet_sessiond.adapters.consumer import Consumer


class MetadataStream:
    """Appends in order. After a failure every append fails: the text has a hole.

    Writing is a task of its own: the program that announced something may go away at any moment, and its
    waiting with it, but what it announced holds for others too.
    """

    def __init__(self, consumer: Consumer, registry_key: int) -> None:
        self._consumer = consumer
        self._registry_key = registry_key
        self._pending: list[tuple[str, RecordLayout | None]] = []
        self._appended_count = 0  # fragments handed to `append`
        self._written_count = 0
        self._writing: asyncio.Task[None] | None = None
        self._error: TracefleetError | None = None

    @property
    def position(self) -> int:
        """Fragments appended so far; `written` waits for one of these."""
        return self._appended_count

    async def append(self, text: str, layout: RecordLayout | None = None) -> None:
        """Append `text` and wait until it is in the file. Raises TransportError or what the consumer says.

        `layout`: of the records that `text` announces; None when it announces none, or no layout can say it.
        """
        self._pending.append((text, layout))
        self._appended_count += 1
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())
        await self.written(self._appended_count)

    async def written(self, position: int) -> None:
        """Wait until the first `position` fragments are in the file. Raises as `append`."""
        if self._written_count < position and self._writing is not None:
            await asyncio.shield(self._writing)
        if self._written_count < position:
            assert self._error is not None, "the writer ends with everything written, or with an error"
            raise self._error

    async def _write(self) -> None:
        try:
            while self._pending and self._error is None:
                fragments, self._pending = self._pending, []
                await self._consumer.request(
                    AppendMetadata(
                        registry_key=self._registry_key,
                        text="".join(text for text, _ in fragments),
                        record_layouts=tuple(layout for _, layout in fragments if layout is not None),
                    )
                )
                self._written_count += len(fragments)
        except TracefleetError as error:
            self._error = error
        finally:
            self._writing = None
