"""The `tracefleet` command. What counts here is how soon it starts: everything else is imported when needed."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line of this process, and end it with its exit status."""
    import _signal  # type: ignore[import-not-found]
    import gc
    import os

    # As in any C program: Ctrl-C and a closed pipe end it at once, with nothing to print about it.
    _signal.signal(_signal.SIGINT, _signal.SIG_DFL)
    _signal.signal(_signal.SIGPIPE, _signal.SIG_DFL)
    # A command lives some milliseconds: collecting cycles would take some of them, and free nothing.
    gc.disable()
    # msgspec prefers this module when it is installed, and would spend 13 ms on it; `typing` does as well.
    sys.modules.setdefault("typing_extensions", None)  # type: ignore[arg-type]

    from tracefleet_cli.run import run

    # Everything was written by system calls, so nothing is lost; taking the interpreter down takes 6 ms.
    os._exit(run(sys.argv[1:]) % 256)


if __name__ == "__main__":
    main()
