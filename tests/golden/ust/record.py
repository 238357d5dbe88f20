#!/usr/bin/env python3
"""Records the golden files of this directory: a real program under the genuine lttng-sessiond.

    sudo unshare --mount --pid --fork --kill-child --mount-proc tests/golden/ust/record.py

Needs lttng-tools, liblttng-ust-dev and a C compiler. A relay between the program and the session daemon notes
every byte of both connections, so the files hold what liblttng-ust and lttng-sessiond really say. See README.md.
"""

from __future__ import annotations

import array
import contextlib
import itertools
import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

GOLDEN = Path(__file__).resolve().parent
ROOT = GOLDEN.parents[2]
NOBODY = 65534
DEADLINE_S = 20.0
CONTEXTS = (
    *("vpid", "vtid", "pthread_id", "procname", "ip", "perf:thread:task-clock"),
    *("cgroup_ns", "ipc_ns", "mnt_ns", "net_ns", "pid_ns", "user_ns", "uts_ns", "time_ns"),
    *("vuid", "veuid", "vsuid", "vgid", "vegid", "vsgid", "$app.golden:context"),
)
LIST_COMMANDS = (0x90, 0x91)  # tracepoint list get, field list get: hundreds of exchanges, a few are enough
REGISTRATION_SIZE_BYTES = 136

Line = dict[str, object]


class Relay(threading.Thread):
    """Carries one connection between the program and the daemon, and keeps what passed, in order."""

    def __init__(self, program: socket.socket, daemon: socket.socket) -> None:
        super().__init__(daemon=True)
        self.messages: list[tuple[str, bytes, int]] = []  # sender, bytes, descriptors after them
        self._lock = threading.Lock()
        self._ends = {"program": program, "daemon": daemon}

    def run(self) -> None:
        back = threading.Thread(target=self._carry, args=("daemon", "program"), daemon=True)
        back.start()
        self._carry("program", "daemon")
        back.join()

    def _carry(self, sender: str, receiver: str) -> None:
        source, sink = self._ends[sender], self._ends[receiver]
        while True:
            try:
                data, ancillary, _, _ = source.recvmsg(1 << 20, socket.CMSG_SPACE(16))
            except OSError:
                data = b""
            if not data:
                for end in (source, sink):
                    with contextlib.suppress(OSError):
                        end.shutdown(socket.SHUT_RDWR)
                return
            descriptors = array.array("i")
            for _, _, rights in ancillary:
                descriptors.frombytes(rights)
            with self._lock:
                self._note(sender, data, len(descriptors))
            # Descriptors always ride on the last byte, which is a message of its own.
            plain = data[:-1] if descriptors else data
            if plain:
                sink.sendall(plain)
            if descriptors:
                sink.sendmsg([data[-1:]], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)])
                for descriptor in descriptors:
                    os.close(descriptor)

    def _note(self, sender: str, data: bytes, descriptor_count: int) -> None:
        if self.messages and self.messages[-1][0] == sender and not self.messages[-1][2]:
            data = self.messages.pop()[1] + data
        self.messages.append((sender, data, descriptor_count))


class Relays:
    """Listens where the program looks for its session daemon."""

    def __init__(self, program_home: Path, daemon_home: Path) -> None:
        self.relays: list[Relay] = []
        self._daemon_path = str(daemon_home / ".lttng/lttng-ust-sock-8")
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(program_home / ".lttng/lttng-ust-sock-8"))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            program, _ = self._listener.accept()
            daemon = socket.socket(socket.AF_UNIX)
            daemon.connect(self._daemon_path)
            relay = Relay(program, daemon)
            self.relays.append(relay)
            relay.start()


def sparse(data: bytes) -> Line:
    """Return `data` without its long runs of zeros: offset -> hex of what is between them."""
    runs = {str(match.start()): match[0].hex() for match in re.finditer(rb"[^\0](?:\0{0,7}[^\0])*", data)}
    return {"size": len(data), "bytes": runs}


def wait_for(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"gave up waiting for {what}")
        time.sleep(0.02)


def main() -> None:
    work = Path(tempfile.mkdtemp(prefix="golden-"))
    for directory in ("program-home/.lttng", "daemon-home/.lttng", "traces"):
        (work / directory).mkdir(parents=True)
    Path("/run/lttng").mkdir(exist_ok=True)
    for mount_point in ("/run/lttng", "/dev/shm"):
        subprocess.run(["mount", "-t", "tmpfs", "none", mount_point], check=True)
    Path("/dev/shm").chmod(0o1777)
    subprocess.run(
        ["make", "-s", "-C", str(ROOT / "tests/apps"), f"BUILD_DIR={work}/apps", f"{work}/apps/allfields"], check=True
    )
    odd = ["cc", "-I", str(GOLDEN / "program"), str(GOLDEN / "program/odd.c"), "-o", str(work / "odd")]
    subprocess.run([*odd, "-llttng-ust", "-ldl"], check=True)
    subprocess.run(["chown", "-R", f"{NOBODY}:{NOBODY}", str(work)], check=True)
    result = work / "golden"
    child = os.fork()
    if child == 0:
        os.setgroups([])
        os.setresgid(NOBODY, NOBODY, NOBODY)
        os.setresuid(NOBODY, NOBODY, NOBODY)
        result.mkdir()
        record(work, result)
        os._exit(0)
    if os.waitpid(child, 0)[1]:
        raise SystemExit("recording failed")
    for part in result.iterdir():
        shutil.rmtree(GOLDEN / part.name, ignore_errors=True)
        shutil.copytree(part, GOLDEN / part.name)
    shutil.rmtree(work)


def record(work: Path, result: Path) -> None:
    daemon_home, program_home = work / "daemon-home", work / "program-home"
    environment = {**os.environ, "LTTNG_HOME": str(daemon_home), "HOME": str(daemon_home)}

    def lttng(*words: str) -> None:
        subprocess.run(
            ["lttng", "--no-sessiond", *words],
            env=environment,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=DEADLINE_S,
        )

    sessiond = subprocess.Popen(["lttng-sessiond", "--no-kernel"], env=environment)
    wait_for((daemon_home / ".lttng/client-lttng-sessiond").exists, "the session daemon")
    wait_for((daemon_home / ".lttng/lttng-ust-sock-8").exists, "the session daemon")
    relays = Relays(program_home, daemon_home)

    lttng("create", "per-user", f"--output={work}/traces/uid")
    lttng("enable-channel", "-u", "plain", "--subbuf-size=4096", "--num-subbuf=4")
    lttng("enable-channel", "-u", "contexts", "--subbuf-size=16384", "--num-subbuf=4", "--overwrite")
    for context in CONTEXTS:
        lttng("add-context", "-u", "-c", "contexts", "-t", context)
    lttng("enable-event", "-u", "-c", "plain", "tf_fields:*,lttng_ust_statedump:*")
    lttng("enable-event", "-u", "-c", "contexts", "tf_fields:*", "--exclude=*:integers,tf_fields:a*")
    lttng("start")
    lttng("create", 'per-"process"\\quoted', f"--output={work}/traces/pid")
    lttng("enable-channel", "-u", "plain", "--buffers-pid", "--subbuf-size=4096", "--num-subbuf=4")
    lttng("enable-event", "-u", "-c", "plain", "tf_*", "--loglevel=WARNING")
    lttng("enable-event", "-u", "-c", "plain", "tf_fields:enums", "--loglevel-only=DEBUG_LINE")
    lttng("start")

    program = subprocess.Popen(
        [str(work / "apps/allfields")],
        env={**os.environ, "LTTNG_HOME": str(program_home), "HOME": str(program_home)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert program.stdin and program.stdout
    program.stdout.readline()
    lttng("list", "-u", "-f")
    lttng("list", "-u")
    program.stdin.write("emit 12\n")
    program.stdin.flush()
    program.stdout.readline()
    lttng("disable-event", "-u", "-c", "plain", "tf_fields:enums")
    for session in ('per-"process"\\quoted', "per-user"):
        lttng("set-session", session)
        lttng("stop")
    lttng("destroy", "--all")
    program.stdin.write("exit\n")
    program.stdin.flush()
    program.wait()
    # One CPU, so that one stream holds every event record.
    lttng("create", "odd", f"--output={work}/traces/odd")
    lttng("enable-channel", "-u", "plain", "--subbuf-size=4096", "--num-subbuf=4")
    lttng("enable-event", "-u", "-c", "plain", "odd:*")
    lttng("start")
    odd_environment = {**os.environ, "LTTNG_HOME": str(program_home), "HOME": str(program_home)}
    subprocess.run(["taskset", "-c", "0", str(work / "odd")], env=odd_environment, check=True, timeout=DEADLINE_S)
    lttng("destroy", "--all")
    for relay in relays.relays:
        relay.join()
    sessiond.terminate()
    sessiond.wait()
    write_connections(relays.relays[:2], result)
    write_connections(relays.relays[2:], result / "odd")
    for scheme, pattern in (("uid", "ust/uid/*/64-bit"), ("pid", "ust/pid/*")):
        (trace,) = (work / "traces" / scheme).glob(pattern)
        write_trace(trace, result / f"trace-{scheme}")
    (trace,) = (work / "traces/odd").glob("ust/uid/*/64-bit")
    write_trace(trace, result / "odd/trace")


def write_connections(relays: list[Relay], result: Path) -> None:
    for directory in ("registration", "command", "notify"):
        (result / directory).mkdir(parents=True)
    for relay in relays:
        sender, first, _ = relay.messages[0]
        assert sender == "program"
        registration, rest = first[:REGISTRATION_SIZE_BYTES], first[REGISTRATION_SIZE_BYTES:]
        kind = "notify" if registration[52] else "command"
        (result / f"registration/{kind}.bin").write_bytes(registration)
        messages = [("program", rest, 0)] if rest else []
        messages += relay.messages[1:]
        if kind == "notify":
            write_notifications(messages, result / kind)
        else:
            lines = [json.dumps({"from": who, "descriptors": n, **sparse(data)}) for who, data, n in thin(messages)]
            (result / "command/commands.jsonl").write_text("\n".join(lines) + "\n")


def thin(messages: list[tuple[str, bytes, int]]) -> Iterator[tuple[str, bytes, int]]:
    """Yield the exchanges, of the long lists only the first five and the end."""
    counts = dict.fromkeys(LIST_COMMANDS, 0)
    for request, reply in itertools.pairwise(messages):
        if request[0] != "daemon" or reply[0] != "program":
            if request[0] == "daemon":
                yield request
            continue
        command = int.from_bytes(request[1][4:8], "little")
        is_end = int.from_bytes(reply[1][8:12], "little", signed=True) != 0
        if command in counts:
            counts[command] += 1
        if counts.get(command, 0) <= 5 or is_end:
            yield request
            yield reply


def write_notifications(messages: list[tuple[str, bytes, int]], directory: Path) -> None:
    for index, (notification, reply) in enumerate(zip(messages[::2], messages[1::2], strict=True)):
        assert (notification[0], reply[0]) == ("program", "daemon")
        line = {"notification": sparse(notification[1]), "reply": sparse(reply[1])}
        (directory / f"{index:03}.json").write_text(json.dumps(line) + "\n")


def write_trace(trace: Path, target: Path) -> None:
    """Keep the metadata, and of each channel the fullest stream with its index."""
    target.mkdir()
    shutil.copy(trace / "metadata", target / "metadata")
    for channel in ("plain", "contexts"):
        streams = sorted(trace.glob(f"{channel}_*"), key=lambda path: path.stat().st_size)
        if streams:
            shutil.copy(streams[-1], target / f"{channel}.stream")
            shutil.copy(trace / "index" / f"{streams[-1].name}.idx", target / f"{channel}.idx")


if __name__ == "__main__":
    main()
