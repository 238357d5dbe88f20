"""Waiting for conditions inside an asyncio loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from deadlines import DEADLINE_S, POLL_PERIOD_S


async def until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds; TimeoutError after the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - what is waited for tells nobody that it happened
            await asyncio.sleep(POLL_PERIOD_S)
