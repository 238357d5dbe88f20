"""Private worlds: a mount and a network namespace with a run directory and shared memory of their own.

A session daemon owns fixed names (`/run/lttng`, `/dev/shm/lttng-ust-wait-8`, TCP ports), so each test that
starts one does it in a world. A world is held by one process; everything else enters its namespaces.
"""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deadlines import DEADLINE_S, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
VENV_BIN = REPOSITORY / ".venv" / "bin"
ORDINARY_UID = 65534  # the ordinary user of a world that root made
SHM_SIZE = "256m"

# The mounts hide what is there only from processes of the world. When the world belongs to an ordinary user,
# /run itself is covered: nobody but root may make a directory in it.
SET_UP = """
set -e
if [ "$TF_COVER_RUN" = 1 ]; then mount -t tmpfs -o mode=0755 none /run; fi
mkdir -p /run/lttng
mount -t tmpfs -o mode=0755 none /run/lttng
mount -t tmpfs -o mode=1777,size="$TF_SHM_SIZE" none /dev/shm
ip link set lo up 2>/dev/null || true
echo ready
exec cat
"""


@dataclass(frozen=True)
class Result:
    """What a program left behind."""

    command: tuple[str, ...]
    returncode: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"$ {' '.join(self.command)}\nexit status {self.returncode}\n{self.stdout}{self.stderr}"


class World:
    """One private world. `is_root`: its programs run as root (of the machine, or of a user namespace)."""

    def __init__(self, is_root: bool = True, shm_size: str = SHM_SIZE) -> None:
        self.is_root = is_root
        self._is_real_root = os.geteuid() == 0
        self.uid = 0 if is_root else (ORDINARY_UID if self._is_real_root else os.geteuid())
        self.directory = Path(tempfile.mkdtemp(prefix="tf-world-"))
        self.directory.chmod(0o755)
        self.home = self.home_of(self.uid)
        self._holder = self._start_holder(shm_size)
        self._children: list[subprocess.Popen[bytes]] = []

    def _start_holder(self, shm_size: str) -> subprocess.Popen[bytes]:
        unshare = ["unshare", "-m", "-n"]
        if not self._is_real_root:
            unshare += ["--map-root-user"] if self.is_root else ["--map-current-user", "--keep-caps"]
        environment = dict(os.environ, TF_SHM_SIZE=shm_size, TF_COVER_RUN="0" if self._is_real_root else "1")
        holder = subprocess.Popen(
            [*unshare, "sh", "-c", SET_UP],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
        assert holder.stdout is not None
        if holder.stdout.readline() != b"ready\n":
            raise AssertionError("cannot make a mount namespace: the tests need root or user namespaces")
        return holder

    @property
    def holder_pid(self) -> int:
        return self._holder.pid

    def home_of(self, uid: int) -> Path:
        """The home directory of a user of this world; it is made when it is not there."""
        home = self.directory / f"home-{uid}"
        if not home.exists():
            home.mkdir(mode=0o755)
            if self._is_real_root:
                os.chown(home, uid, uid)
        return home

    def path(self, inside: str | Path) -> Path:
        """Where a path of the world is seen from outside."""
        return Path(f"/proc/{self.holder_pid}/root") / str(inside).lstrip("/")

    @property
    def run_directory(self) -> Path:
        """The run directory of the world's own daemon, as seen from outside."""
        return self.run_directory_of(self.uid)

    def run_directory_of(self, uid: int) -> Path:
        return self.path("/run/lttng") if uid == 0 else self.home_of(uid) / ".lttng"

    def spool_directory(self, uid: int | None = None) -> Path:
        """Where the world's consumer daemons keep what relay daemons do not take."""
        return self.home_of(self.uid if uid is None else uid) / "spool"

    def environment(self, extra: Mapping[str, str] | None = None, uid: int | None = None) -> dict[str, str]:
        home = str(self.home_of(self.uid if uid is None else uid))
        environment = {
            "PATH": f"{VENV_BIN}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": home,
            "LTTNG_HOME": home,
            # For root it would be outside of the world.
            "TRACEFLEET_SPOOL_DIRECTORY": str(self.spool_directory(uid)),
            "LANG": "C.UTF-8",
            "TZ": "UTC",
        }
        for name in ("ASAN_OPTIONS", "UBSAN_OPTIONS", "LD_LIBRARY_PATH"):
            if name in os.environ:
                environment[name] = os.environ[name]
        environment.update(extra or {})
        return environment

    def inside(self, command: Sequence[str | Path], uid: int | None = None) -> list[str]:
        """The command line that runs `command` in the world (cwd is `/`)."""
        uid = self.uid if uid is None else uid
        enter = ["nsenter", "-t", str(self.holder_pid), "-m", "-n"]
        if not self._is_real_root:
            assert uid == self.uid, "a world in a user namespace knows one user only"
            enter += ["-U", "--preserve-credentials"]
        elif uid != 0:
            enter += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        return [*enter, *map(str, command)]

    def popen(
        self,
        command: Sequence[str | Path],
        *,
        uid: int | None = None,
        env: Mapping[str, str] | None = None,
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program in the world. Its pid is that of the program itself: every step before it execs."""
        process = subprocess.Popen(
            self.inside(command, uid),
            env=self.environment(env, uid),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        self._children.append(process)
        return process

    def run(
        self,
        command: Sequence[str | Path],
        *,
        uid: int | None = None,
        env: Mapping[str, str] | None = None,
        deadline_s: float = 2 * DEADLINE_S,
        input_text: str | None = None,
    ) -> Result:
        """Run a program in the world to its end; subprocess.TimeoutExpired after the deadline.

        Output goes through files: a daemon that the program left behind would keep pipes open.
        """
        with tempfile.TemporaryFile() as stdout, tempfile.TemporaryFile() as stderr:
            process = self.popen(
                command,
                uid=uid,
                env=env,
                stdin=subprocess.DEVNULL if input_text is None else subprocess.PIPE,
                stdout=stdout.fileno(),
                stderr=stderr.fileno(),
            )
            if input_text is not None:
                assert process.stdin is not None
                process.stdin.write(input_text.encode())
                process.stdin.close()
            try:
                wait_end(process, deadline_s)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                raise
            stdout.seek(0)
            stderr.seek(0)
            return Result(
                tuple(map(str, command)),
                process.returncode,
                stdout.read().decode(errors="replace"),
                stderr.read().decode(errors="replace"),
            )

    def mount_tmpfs(self, size: str, name: str = "small", uid: int | None = None) -> Path:
        """Mount a small file system in the world; the path is good inside, `path()` of it outside."""
        target = self.directory / name
        target.mkdir()
        uid = self.uid if uid is None else uid
        owner = f",uid={uid},gid={uid}" if self._is_real_root else ""
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0755{owner}", "none", str(target)]
        result = self.run(mount, uid=0)
        assert result.returncode == 0, result
        return target

    def pids(self) -> list[int]:
        """Processes of the world, its holder excepted: those in its mount namespace."""
        namespace = Path(f"/proc/{self.holder_pid}/ns/mnt").readlink()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != self.holder_pid:
                with contextlib.suppress(OSError):
                    if (entry / "ns/mnt").readlink() == namespace:
                        found.append(int(entry.name))
        return found

    def pids_of(self, program: str) -> list[int]:
        """Processes of the world whose command line names `program` (a file name, in argv[0] or argv[1])."""
        found = []
        for pid in self.pids():
            with contextlib.suppress(OSError):
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
                if any(Path(argument).name == program for argument in arguments[:2] if argument):
                    found.append(pid)
        return found

    def close(self) -> None:
        """Kill what still runs in the world, and forget its files. A second call does nothing."""
        if self._holder.poll() is not None:
            return

        def is_empty() -> bool:
            for child in self._children:
                child.poll()  # reap: a zombie of ours has left the namespace already, but keeps its pid
            pids = self.pids()
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return not pids

        try:
            wait_until(is_empty, "the processes of a world to end")
        finally:
            for child in self._children:
                for stream in (child.stdin, child.stdout, child.stderr):
                    if stream is not None:
                        with contextlib.suppress(OSError):
                            stream.close()
                child.poll()
            self._holder.kill()
            self._holder.wait()
            for pipe in (self._holder.stdin, self._holder.stdout):
                assert pipe is not None
                pipe.close()
            remove_tree(self.directory)


def wait_end(process: subprocess.Popen[bytes], deadline_s: float) -> int:
    """As `process.wait(deadline_s)`, which looks every 50 ms only."""
    descriptor = os.pidfd_open(process.pid)
    try:
        ended = select.poll()
        ended.register(descriptor, select.POLLIN)
        ended.poll(1000 * deadline_s)
    finally:
        os.close(descriptor)
    return process.wait(0)


def remove_tree(directory: Path) -> None:
    """Remove a tree in which a test may have taken permissions away."""
    for root, _, _ in os.walk(directory):
        with contextlib.suppress(OSError):
            Path(root).chmod(stat.S_IRWXU)
    shutil.rmtree(directory, ignore_errors=True)


def is_stopped(pid: int) -> bool:
    """Whether every thread of the process stands still: SIGSTOP reaches them one after the other."""
    states = [stat.read_text().rpartition(")")[2].split()[0] for stat in Path(f"/proc/{pid}/task").glob("*/stat")]
    return all(state in "Tt" for state in states)


def is_alive(pid: int) -> bool:
    """Whether the process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
