"""Doors for tests with several users."""

from __future__ import annotations

from pathlib import Path


def let_others_pass(path: Path) -> None:
    """Let every user reach what is below the directory `path`. Temporary directories are their owner's only."""
    for directory in (path, *path.parents):
        mode = directory.stat().st_mode
        if mode & 0o011 != 0o011:
            directory.chmod(mode | 0o011)
