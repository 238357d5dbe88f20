"""A fresh Debian root file system with git and sudo, and an ordinary user who may use sudo."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

USER = "demo"
_ENTER = Path(__file__).parent / "enter-root"
_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts", "--ipc")
_LOCAL_AUTHORITIES = Path("/usr/local/share/ca-certificates")


def privileged() -> list[str] | None:
    """Return what a command needs in front of it to run as root; None: there is no way."""
    if os.geteuid() == 0:
        return []
    sudo = ["sudo", "--non-interactive"]
    if shutil.which("sudo") and subprocess.run([*sudo, "true"], capture_output=True, check=False).returncode == 0:
        return sudo
    return None


class FreshDebian:
    """The root file system of one suite ("bookworm"), unpacked at `root`."""

    def __init__(self, suite: str, root: Path, as_root: list[str]) -> None:
        self.root = root
        self._as_root = as_root
        archive = _archive(suite, root.with_suffix(".new"), as_root)
        root.mkdir()
        self._run("tar", "--extract", "--file", str(archive), "--directory", str(root), "--numeric-owner")
        # In place of what the administrator of a network with its own authority does on every new machine.
        if _LOCAL_AUTHORITIES.is_dir():
            target = root / "usr/local/share/ca-certificates"
            self._run("cp", "--recursive", "--no-target-directory", str(_LOCAL_AUTHORITIES), str(target))
        self._run("chroot", str(root), "useradd", "--create-home", "--shell", "/bin/bash", USER)
        sudoers = root / f"etc/sudoers.d/{USER}"
        self._run("tee", str(sudoers), text=f"{USER} ALL=(ALL) NOPASSWD: ALL\n")
        self._run("tee", "--append", str(root / "etc/hosts"), text="127.0.0.1 localhost fresh-debian\n")

    def copy_repository(self, repository: Path) -> None:
        """Put the files of the work tree, as they are now, into the user's home as `tracefleet`."""
        names = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=repository,
            check=True,
            capture_output=True,
        ).stdout
        existing = b"\0".join(name for name in names.split(b"\0") if name and (repository / os.fsdecode(name)).exists())
        archive = subprocess.run(
            ["tar", "--create", "--null", "--files-from=-"],
            cwd=repository,
            input=existing,
            check=True,
            capture_output=True,
        ).stdout
        home = self.root / "home" / USER / "tracefleet"
        self._run("mkdir", str(home))
        subprocess.run(
            [*self._as_root, "tar", "--extract", "--no-same-owner", "--directory", str(home)], input=archive, check=True
        )
        self._run("chroot", str(self.root), "chown", "--recursive", f"{USER}:{USER}", f"/home/{USER}")

    def run(self, command: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
        """Run a shell command as the user, in his home, with a machine of its own around it."""
        return subprocess.run(
            [*self._as_root, *_UNSHARE, str(_ENTER), str(self.root), USER, command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout_s,
            check=False,
        )

    def remove(self) -> None:
        """Take the file system away."""
        self._run("rm", "--recursive", "--force", "--one-file-system", str(self.root))

    def _run(self, *arguments: str, text: str = "") -> None:
        subprocess.run([*self._as_root, *arguments], input=text, text=True, check=True, stdout=subprocess.DEVNULL)


def _archive(suite: str, scratch: Path, as_root: list[str]) -> Path:
    """Return a tar file of that suite with git and sudo, made once and kept for the next time."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tracefleet-tests"
    archive = cache / f"debian-{suite}-git-sudo.tar"
    if archive.exists():
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [*as_root, "debootstrap", "--variant=minbase", "--include=git,sudo", suite, str(scratch)],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    unfinished = archive.with_suffix(".unfinished")
    subprocess.run(
        [*as_root, "tar", "--create", "--file", str(unfinished), "--directory", str(scratch), "--numeric-owner", "."],
        check=True,
    )
    subprocess.run([*as_root, "rm", "--recursive", "--force", str(scratch)], check=True)
    unfinished.rename(archive)
    return archive
