"""Takes one measurement of one peer, in namespaces of its own: no daemon outside is seen or disturbed.

`python -m bench.worker PEER MEASURE PARAMETERS` prints the figures as one line of JSON. `isolated` runs it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import measures, relay_measures
from bench.peers import PEERS, ROOT, running

_UNSHARE = ("unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc", "--propagation=private")
_DEADLINE_S = 80  # for a measurement; past it, it says where it hung and what its daemons said
_KILL_AFTER_S = 150.0  # its daemons may need time to end
_LOG_END_BYTES = 1500
_MEASURES = measures.MEASURES | relay_measures.MEASURES


def isolated(peer: str, measure: str, parameters: dict[str, Any]) -> dict[str, float]:
    """Run one measurement in a process and namespaces of its own and return its figures.

    Raises RuntimeError, with the end of what it printed, when it fails.
    """
    try:
        done = subprocess.run(
            [*_UNSHARE, sys.executable, "-m", "bench.worker", peer, measure, json.dumps(parameters)],
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=_KILL_AFTER_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{measure} of {peer} takes longer than {_KILL_AFTER_S} s") from None
    if done.returncode != 0:
        raise RuntimeError(f"{measure} of {peer} failed: {done.stderr[-8000:]}")
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


def _private_places(base: Path) -> None:
    Path("/run/lttng").mkdir(exist_ok=True)
    for place in ("/run/lttng", "/dev/shm"):
        subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    os.environ["LTTNG_HOME"] = str(base / "home")
    (base / "home").mkdir()
    (base / "logs").mkdir()
    os.environ["BENCH_LOGS"] = str(base / "logs")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


def _give_up(_signal_number: int, _frame: object) -> None:
    raise TimeoutError(f"The measurement takes longer than {_DEADLINE_S} s")


def main() -> int:
    """Take the measurement that the command line names."""
    peer, measure, parameters = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
    base = Path(tempfile.mkdtemp(prefix="bench-", dir=os.environ.get("BENCH_DIR")))
    signal.signal(signal.SIGALRM, _give_up)
    signal.alarm(_DEADLINE_S)
    try:
        _private_places(base)
        with running(PEERS[peer]) as tracer:
            print(json.dumps(_MEASURES[measure](tracer, base, **parameters)))
    except Exception:
        for log in sorted(base.glob("logs/*.log")):
            print(f"{log.stem} said:", log.read_text(errors="replace")[-_LOG_END_BYTES:], file=sys.stderr)
        raise
    finally:
        shutil.rmtree(base, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
