"""A disk that takes no more than so many bytes a second: a loop device, limited by the block I/O controller.

Only the first version of that controller limits every writer of a device, the kernel's write-back included;
the second limits groups, and write-back of the page cache is charged to whom it will.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_LIMIT = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")
_SIZE_BYTES = 2 << 30


def is_available() -> bool:
    """Say whether this machine can limit a device."""
    return os.access(_LIMIT, os.W_OK) and Path("/dev/loop-control").exists()


@contextmanager
def mounted(mount_point: Path, bytes_per_s: int) -> Iterator[Path]:
    """Mount an ext4 file system there that is written at most at that speed."""
    image = mount_point.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(_SIZE_BYTES)
    # Everything laid out now: else the kernel would do it in the background, during the measurement.
    options = "lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run(["mkfs.ext4", "-q", "-E", options, str(image)], check=True)
    device = _output("losetup", "--find", "--show", "--direct-io=on", str(image))
    number = Path(f"/sys/block/{Path(device).name}/dev").read_text().strip()
    try:
        mount_point.mkdir()
        subprocess.run(["mount", device, str(mount_point)], check=True)
        _LIMIT.write_text(f"{number} {bytes_per_s}")
        try:
            yield mount_point
        finally:
            _LIMIT.write_text(f"{number} 0")
            subprocess.run(["umount", "--lazy", str(mount_point)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
        image.unlink()


def _output(*arguments: str) -> str:
    return subprocess.run(arguments, check=True, capture_output=True, text=True).stdout.strip()
