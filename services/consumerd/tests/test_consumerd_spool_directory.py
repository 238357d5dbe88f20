"""What lies on the disk of sessions whose relay daemon is away, beside their packets."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from tracefleet_common.errors import PermissionRefused, RemoteProtocolError, TracefleetError
from tracefleet_common.messages.relay_streaming import OpenStreaming, StreamRequest
from tracefleet_common.model.relay_output import Durability, FleetOutput
from tracefleet_consumerd.adapters import spool_directory
from tracefleet_consumerd.adapters.spool_directory import SpoolDirectory, SpooledSession, spooled_sessions

SESSION = SpooledSession(
    output=FleetOutput(address="::1", spool_size_bytes=2**20),
    opening=OpenStreaming(
        token=bytes(range(16)),
        session_name="s",
        host_name="h",
        has_creation_time_in_name=False,
        creation_time_s=1,
        sessiond_uuid=b"u" * 16,
        session_id=1,
        live_timer_period_us=0,
        subdirectory="",
        durability=Durability.WRITTEN,
    ),
    streams={3: StreamRequest(path="ust/uid/0/64-bit", channel_name="channel0_1")},
)


def test_a_session_is_found_again_by_who_comes_after(tmp_path: Path) -> None:
    root = str(tmp_path / "a" / "spool")
    spool = SpoolDirectory.make(root)
    assert spool.path.stat().st_mode & 0o777 == 0o700
    assert spool.read() is None
    spool.write(msgspec.structs.replace(SESSION, streams={}))
    spool.write(SESSION)
    (path,) = spooled_sessions(root)
    assert SpoolDirectory.take(path) is None  # somebody works on it
    spool.release()
    found = SpoolDirectory.take(path)
    assert found is not None
    assert found.read() == SESSION
    found.remove()
    assert list(spooled_sessions(root)) == []
    assert list(Path(root).iterdir()) == []
    assert SpoolDirectory.take(path) is None


def test_a_spool_that_was_given_up_is_rubbish(tmp_path: Path) -> None:
    spool = SpoolDirectory.make(str(tmp_path))
    spool.path.rename(f"{spool.path}.done")
    spool.release()
    (tmp_path / "other").mkdir()
    assert list(spooled_sessions(str(tmp_path))) == []
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xc1",
        msgspec.msgpack.encode(SESSION)[:-1],
        msgspec.msgpack.encode(msgspec.structs.replace(SESSION, version=2)),
        msgspec.msgpack.encode(
            msgspec.structs.replace(SESSION, opening=msgspec.structs.replace(SESSION.opening, token=b"t"))
        ),
        msgspec.msgpack.encode(msgspec.structs.replace(SESSION, output=FleetOutput(address="localhost"))),
        msgspec.msgpack.encode(msgspec.structs.replace(SESSION, output=FleetOutput(address="::1", port=0))),
    ],
)
def test_what_nobody_has_written_is_refused(tmp_path: Path, content: bytes) -> None:
    spool = SpoolDirectory.make(str(tmp_path))
    (spool.path / spool_directory.SESSION_FILE).write_bytes(content)
    with pytest.raises(RemoteProtocolError):
        spool.read()
    spool.release()


def test_what_another_user_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool = SpoolDirectory.make(str(tmp_path))
    spool.write(SESSION)
    monkeypatch.setattr("os.geteuid", lambda: 12345)
    with pytest.raises(PermissionRefused):
        spool.read()
    spool.release()


def test_no_room_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(TracefleetError, match="Cannot make a spool"):
        SpoolDirectory.make(str(tmp_path / "file" / "spool"))
    assert list(spooled_sessions(str(tmp_path / "nowhere"))) == []
