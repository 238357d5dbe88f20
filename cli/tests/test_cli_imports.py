"""A command starts in milliseconds because of what it does not import."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = {
    "argparse",
    "asyncio",
    "inspect",
    "logging",
    "pathlib",
    "shutil",
    "socket",
    "subprocess",
    "tempfile",
    "tenacity",
    "threading",
    "typing_extensions",
    "zmq",
}
# As `main` does, but for the end: it prints what was imported instead of leaving at once.
SCRIPT = """
import sys
before = set(sys.modules)
import os
def print_imports(status):
    sys.stdout.write("\\n".join(name for name in set(sys.modules) - before if sys.modules[name] is not None))
    sys.stdout.flush()
    leave(status)
leave, os._exit = os._exit, print_imports
from tracefleet_cli.__main__ import main
main()
"""


@pytest.mark.parametrize("line", ["list", "create x", "enable-event -u -a", "enable-channel -u c", "stop x", "--help"])
def test_slow_modules_are_not_imported(line: str) -> None:
    # -I -S: without what `site` and its .pth files import, for these are not ours to choose.
    command = [sys.executable, "-c", f"import sys; sys.path[:] = {sys.path!r}\n{SCRIPT}", *line.split()]
    command[1:1] = ["-I", "-S"]
    environment = {"TRACEFLEET_SESSIOND": "ipc:///nonexistent/bus", "LTTNG_HOME": "/nonexistent"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    imported = set(done.stdout.splitlines())
    assert "tracefleet_cli.run" in imported, done.stderr
    assert not imported & SLOW
