"""Dots for somebody who waits."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tracefleet_cli.terminal import Terminal


class Progress:
    """A line that begins with `text` and gets a dot at every tick; nothing before `begin` or the first tick."""

    def __init__(self, terminal: Terminal, text: str) -> None:
        self._terminal = terminal
        self._text = text
        self._has_begun = False

    def begin(self) -> None:
        """Print the text, once."""
        if not self._has_begun:
            self._has_begun = True
            self._terminal.message(self._text, end="")

    def tick(self) -> None:
        """Still waiting."""
        self.begin()
        self._terminal.message(".", end="")

    def end(self) -> None:
        """End the line, if there is one."""
        if self._has_begun:
            self._has_begun = False
            self._terminal.message("")
