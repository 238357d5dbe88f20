"""Run the benchmark: `script/bench`, or `python -m bench` where everything is installed and built."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

from bench import report, slow_disk
from bench.peers import PEERS
from bench.plan import CASES
from bench.worker import isolated

RESULTS = Path(__file__).parent / "results"


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="script/bench", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="only these, or those that begin so; see --list")
    parser.add_argument("--rounds", type=int, default=5, help="how often each peer is measured, in turn (%(default)s)")
    parser.add_argument("--peer", action="append", choices=tuple(PEERS), help="only this one")
    parser.add_argument("--list", action="store_true", help="print the names of the cases")
    return parser.parse_args()


def machine() -> str:
    """Describe the machine in one line."""
    processor = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return f"{os.cpu_count()} × {processor}, Linux {platform.release()}, Python {platform.python_version()}"


def main() -> int:
    """Measure, print the table, keep the samples. Exit status 1 when a measurement failed."""
    arguments = parse_arguments()
    cases = [case for case in CASES if not arguments.cases or case.name.startswith(tuple(arguments.cases))]
    if arguments.list:
        print("\n".join(case.name for case in cases))
        return 0
    peers = arguments.peer or list(PEERS)
    samples: report.Samples = {}
    failures: list[str] = []
    if not slow_disk.is_available() and any(case.needs_slow_disk for case in cases):
        print("Left out: the slow disk, which this machine has no way to make.", file=sys.stderr)
        cases = [case for case in cases if not case.needs_slow_disk]
    for round_number in range(1, arguments.rounds + 1):
        for case in cases:
            # The order changes every round, so that none is always the one that runs on a warmer machine.
            for peer in peers if round_number % 2 else list(reversed(peers)):
                if peer not in case.peers:
                    continue
                print(f"round {round_number}: {case.name}: {peer}", file=sys.stderr)
                try:
                    figures = isolated(peer, case.measure, case.parameters)
                except RuntimeError as error:
                    print(error, file=sys.stderr)
                    failures.append(f"{case.name} of {peer} in round {round_number}")
                    continue
                samples.setdefault(case.name, {}).setdefault(peer, []).append(figures)
    RESULTS.mkdir(exist_ok=True)
    result = RESULTS / time.strftime("%Y%m%d-%H%M%S.json")
    result.write_text(json.dumps({"machine": machine(), "rounds": arguments.rounds, "samples": samples}, indent=1))
    print(f"{machine()}; {arguments.rounds} rounds, median (least … most), ratio tracefleet / LTTng-tools\n")
    print(report.tables(cases, samples))
    for failure in failures:
        print(f"failed: {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
