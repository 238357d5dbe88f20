"""The consumer daemon as a process, driven by a small session daemon of these tests."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bus_permissions import let_others_pass
from bus_waiting import until
from deadlines import DEADLINE_S, wait_until

from tracefleet_common.errors import (
    AlreadyExists,
    InvalidArgument,
    NotFound,
    PermissionRefused,
    ResourceExhausted,
    TransportError,
)
from tracefleet_common.messages import consumerd_control as control
from tracefleet_common.messages.envelope import Done
from tracefleet_common.model.ctf_types import HeaderType
from tracefleet_common.model.event_rules import LossMode
from tracefleet_common.transport.control_link import ControlLink
from tracefleet_common.transport.descriptors import DescriptorLink
from tracefleet_common.transport.metadata_memory import MetadataMemory

PROGRAM = Path(sys.executable).parent / "tracefleet-consumerd"
METADATA = "/* CTF 1.8 */\n"


class Daemon:
    """One consumer daemon process with its sockets in `directory`."""

    def __init__(self, directory: Path, *options: str, prefix: Sequence[str] = ()) -> None:
        self.directory = directory
        self.process = subprocess.Popen(
            [*prefix, str(PROGRAM), f"--directory={directory}", *options], stderr=subprocess.PIPE, text=True
        )

    def end(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        assert self.process.stderr is not None
        self.process.stderr.close()


def run_program(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROGRAM, *words], capture_output=True, text=True, timeout=DEADLINE_S)


class SessionDaemon:
    """What a session daemon is to a consumer daemon."""

    def __init__(self, directory: Path) -> None:
        self.notices: list[control.ConsumerdNotice] = []
        self.link = ControlLink(
            f"ipc://{directory}/command",
            control.ConsumerdReply,
            notice_type=control.ConsumerdNotice,
            on_notice=self.notices.append,
            software="test",
        )
        self.descriptors = DescriptorLink(directory / "descriptors")
        self._ticket = 0

    async def ask(self, request: msgspec.Struct) -> Any:
        return await self.link.request(request, deadline_s=DEADLINE_S)

    async def open_registry(self, output_root: Path | None, key: int = 1, metadata: str = METADATA) -> None:
        """Open it, and publish its metadata."""
        self._ticket += 1
        await self.ask(
            control.OpenRegistry(
                registry_key=key,
                ticket=self._ticket,
                trace_uuid=uuid.uuid4().bytes,
                output_root=None if output_root is None else str(output_root),
                relative_path="ust/uid/0/64-bit",
                owner_uid=os.geteuid(),
                owner_gid=os.getegid(),
            )
        )
        with closing(MetadataMemory(*await self.descriptors.receive(self._ticket, 1, DEADLINE_S))) as memory:
            memory.append(metadata)

    async def create_channel(self, *, key: int = 10, registry_key: int = 1, **changes: Any) -> control.ChannelCreated:
        """Make it, and let go of its descriptors at once."""
        self._ticket += 1
        attributes: dict[str, Any] = {
            "name": f"channel{key}",
            "channel_id": 0,
            "header_type": HeaderType.LARGE,
            "loss_mode": LossMode.DISCARD,
            "sub_buffer_size_bytes": 65536,
            "sub_buffer_count": 4,
            "switch_timer_period_us": 0,
            "read_timer_period_us": 0,
            "monitor_timer_period_us": 1_000_000,
            "blocking_timeout_us": 0,
            "trace_file_size_bytes": 0,
            "trace_file_count": 0,
        }
        created: control.ChannelCreated = await self.ask(
            control.CreateChannel(
                registry_key=registry_key, channel_key=key, ticket=self._ticket, **attributes | changes
            )
        )
        count = 1 + 2 * len(created.stream_sizes_bytes)
        descriptors = await self.descriptors.receive(self._ticket, count, DEADLINE_S)
        sizes = [os.fstat(descriptor).st_size for descriptor in descriptors[1::2]]
        for descriptor in descriptors:
            os.close(descriptor)
        assert tuple(sizes) == created.stream_sizes_bytes
        return created


@asynccontextmanager
async def connected(directory: Path) -> AsyncIterator[SessionDaemon]:
    session_daemon = SessionDaemon(directory)
    await session_daemon.link.connect(DEADLINE_S)
    await session_daemon.descriptors.connect(DEADLINE_S)
    # As session daemons do. Once it is answered, descriptors go to this connection, not to one that the process had.
    await session_daemon.ask(control.DescribeConsumer())
    try:
        yield session_daemon
    finally:
        await session_daemon.link.close()
        await session_daemon.descriptors.close()


def converse(directory: Path, conversation: Callable[[SessionDaemon, Daemon], Awaitable[None]], *options: str) -> None:
    async def scenario(daemon: Daemon) -> None:
        async with connected(directory) as session_daemon:
            await conversation(session_daemon, daemon)

    with closing(Daemon(directory, *options)) as daemon:
        asyncio.run(scenario(daemon))


@pytest.fixture
def run_directory(tmp_path: Path) -> Path:
    return tmp_path / "run"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "output"


def trace_directory(output: Path) -> Path:
    return output / "ust" / "uid" / "0" / "64-bit"


def test_a_channel_from_its_making_to_its_end(run_directory: Path, output: Path) -> None:
    async def conversation(sessiond: SessionDaemon, daemon: Daemon) -> None:
        owner = {"owner_uid": os.geteuid(), "owner_gid": os.getegid()}
        assert await sessiond.ask(control.PrepareOutput(output_root=str(output), **owner)) == Done()
        assert output.stat().st_mode & 0o777 == 0o770
        await sessiond.open_registry(output)
        created = await sessiond.create_channel()
        cpu_count = len(created.stream_sizes_bytes)
        # A final flush closes the packet under way, once: an empty packet a stream.
        for _ in range(2):
            drain = control.DrainChannels(channel_keys=(10,), is_final_flush=True, is_quiescent=True)
            (state,) = (await sessiond.ask(drain)).channels
            assert state.error is None
            assert [stream.cpu for stream in state.streams] == list(range(cpu_count))
            assert {stream.packet_count for stream in state.streams} == {1}
            assert METADATA.encode() in (trace_directory(output) / "metadata").read_bytes()
        (state,) = (await sessiond.ask(control.CloseChannels(channel_keys=(10,), is_quiescent=True))).channels
        await sessiond.ask(control.CloseRegistry(1))
        for stream in state.streams:
            size_bytes = (trace_directory(output) / f"channel10_{stream.cpu}").stat().st_size
            assert size_bytes == stream.bytes > 0
            assert stream.unwritten_packet_count == 0
        info = await sessiond.ask(control.DescribeConsumer())
        assert (info.pid, info.registry_count, info.channel_count) == (daemon.process.pid, 0, 0)
        assert info.cpu_count == cpu_count

    converse(run_directory, conversation)


def test_nothing_is_left_open_by_channels_that_came_and_went(run_directory: Path, output: Path) -> None:
    async def conversation(sessiond: SessionDaemon, daemon: Daemon) -> None:
        def resources() -> tuple[int, int]:
            process = Path("/proc") / str(daemon.process.pid)
            maps = (process / "maps").read_text().splitlines()
            return len(list((process / "fd").iterdir())), sum("shm" in line or "memfd" in line for line in maps)

        async def come_and_go(key: int) -> None:
            await sessiond.open_registry(output / str(key), key)
            await sessiond.create_channel(key=key, registry_key=key, switch_timer_period_us=10_000)
            await sessiond.ask(control.CloseChannels(channel_keys=(key,), is_quiescent=True))
            await sessiond.ask(control.CloseRegistry(key))

        await come_and_go(1)
        before = resources()
        for key in range(2, 12):
            await come_and_go(key)
        assert resources() == before

    converse(run_directory, conversation)


def test_a_trace_without_channels_has_its_metadata(run_directory: Path, output: Path) -> None:
    async def conversation(sessiond: SessionDaemon, daemon: Daemon) -> None:
        await sessiond.open_registry(output, metadata="x" * 5000)
        assert not output.exists()
        await sessiond.ask(control.CloseRegistry(1))
        assert (trace_directory(output) / "metadata").stat().st_size == 2 * 4096

    converse(run_directory, conversation)


def test_what_cannot_be_right_is_refused_and_leaves_nothing(run_directory: Path, output: Path) -> None:
    async def conversation(sessiond: SessionDaemon, daemon: Daemon) -> None:
        with pytest.raises(NotFound):
            await sessiond.create_channel()
        await sessiond.open_registry(output)
        with pytest.raises(AlreadyExists):
            await sessiond.open_registry(output)
        for changes in ({"name": "../x"}, {"sub_buffer_size_bytes": 5000}, {"sub_buffer_count": 2**30}):
            with pytest.raises(InvalidArgument):
                await sessiond.create_channel(**changes)
        await sessiond.create_channel()
        with pytest.raises(AlreadyExists):
            await sessiond.create_channel()
        assert (await sessiond.ask(control.DescribeConsumer())).channel_count == 1

    converse(run_directory, conversation)


@pytest.mark.root
def test_buffers_larger_than_shared_memory_are_refused_with_the_numbers(run_directory: Path, output: Path) -> None:
    async def scenario() -> None:
        async with connected(run_directory) as sessiond:
            await sessiond.open_registry(output)
            with pytest.raises(ResourceExhausted, match=r"need \d+ bytes .* /dev/shm has \d+ bytes"):
                await sessiond.create_channel(sub_buffer_size_bytes=2**24, sub_buffer_count=4)
            await sessiond.create_channel()  # for a smaller one there is room still

    small = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=8m none /dev/shm && exec "$@"', "sh"]
    with closing(Daemon(run_directory, prefix=small)):
        asyncio.run(scenario())


@pytest.mark.root
def test_an_output_that_its_owner_may_not_write_is_refused(run_directory: Path, tmp_path: Path) -> None:
    let_others_pass(tmp_path)

    async def conversation(sessiond: SessionDaemon, daemon: Daemon) -> None:
        owner = {"owner_uid": 65534, "owner_gid": 65534}
        with pytest.raises(PermissionRefused, match="Permission denied"):
            await sessiond.ask(control.PrepareOutput(output_root=f"{tmp_path}/theirs", **owner))
        tmp_path.chmod(0o777)
        await sessiond.ask(control.PrepareOutput(output_root=f"{tmp_path}/theirs/deep", **owner))
        made = (tmp_path / "theirs" / "deep").stat()
        assert (made.st_uid, made.st_gid, made.st_mode & 0o777) == (65534, 65534, 0o770)

    converse(run_directory, conversation)


@pytest.mark.root
def test_another_user_may_not_command_it(run_directory: Path, tmp_path: Path) -> None:
    program = (
        "import asyncio, os, sys\n"
        "from tracefleet_common.errors import PermissionRefused\n"
        "from tracefleet_common.messages.consumerd_control import ConsumerdReply, DescribeConsumer\n"
        "from tracefleet_common.transport.control_link import ControlLink\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "async def main():\n"
        "    link = ControlLink(f'ipc://{sys.argv[1]}/command', ConsumerdReply, software='other')\n"
        "    await link.connect(30)\n"
        "    try:\n"
        "        await link.request(DescribeConsumer(), deadline_s=30)\n"
        "    except PermissionRefused:\n"
        "        sys.exit(7)\n"
        "asyncio.run(main())\n"
    )

    async def conversation(sessiond: SessionDaemon, daemon: Daemon) -> None:
        assert run_directory.stat().st_mode & 0o777 == 0o750
        assert (run_directory / "command").stat().st_mode & 0o777 == 0o600
        # Even if somebody opened the doors:
        let_others_pass(run_directory)
        (run_directory / "command").chmod(0o666)
        other = await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(run_directory))
        assert await other.wait() == 7

    converse(run_directory, conversation)


def test_it_writes_everything_and_tidies_up_when_told_to_end(run_directory: Path, output: Path) -> None:
    async def conversation(sessiond: SessionDaemon, daemon: Daemon) -> None:
        await sessiond.open_registry(output)
        await sessiond.create_channel()
        assert await asyncio.to_thread(daemon.end) == 0
        assert not list(run_directory.iterdir())
        assert (trace_directory(output) / "channel10_0").stat().st_size > 0
        await asyncio.wait_for(sessiond.link.lost.wait(), DEADLINE_S)
        await until(lambda: not sessiond.descriptors.is_connected)

    converse(run_directory, conversation)


def test_abandoned_buffers_are_written_and_closed(run_directory: Path, output: Path) -> None:
    async def conversation(sessiond: SessionDaemon, daemon: Daemon) -> None:
        async with connected(run_directory) as other:
            await other.open_registry(output)
            await other.create_channel()
        async with asyncio.timeout(DEADLINE_S):
            while (await sessiond.ask(control.DescribeConsumer())).registry_count:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert (trace_directory(output) / "channel10_0").stat().st_size > 0

    converse(run_directory, conversation, "--orphan-timeout=0.1")


def test_a_session_daemon_that_comes_back_finds_its_buffers(run_directory: Path, output: Path) -> None:
    async def conversation(sessiond: SessionDaemon, daemon: Daemon) -> None:
        await sessiond.open_registry(output)
        await sessiond.create_channel()
        await sessiond.link.close()
        await sessiond.link.connect(DEADLINE_S)
        (state,) = (await sessiond.ask(control.CloseChannels(channel_keys=(10,), is_quiescent=True))).channels
        assert state.error is None

    converse(run_directory, conversation)


def test_it_ends_when_nobody_comes_and_that_was_asked_for(run_directory: Path) -> None:
    with closing(Daemon(run_directory, "--orphan-timeout=0.1", "--exit-when-orphaned")) as daemon:
        assert daemon.process.wait(DEADLINE_S) == 0
        assert not list(run_directory.iterdir())


def test_there_is_one_consumer_daemon_at_a_place(run_directory: Path) -> None:
    async def conversation(sessiond: SessionDaemon, daemon: Daemon) -> None:
        second = await asyncio.to_thread(run_program, f"--directory={run_directory}")
        assert second.returncode == 1
        assert "already running" in second.stderr
        assert (await sessiond.ask(control.DescribeConsumer())).pid == daemon.process.pid

    converse(run_directory, conversation)


def test_what_a_killed_one_left_does_not_hinder_the_next(run_directory: Path) -> None:
    async def say_hello() -> None:
        async with connected(run_directory):
            pass

    with closing(Daemon(run_directory)) as killed:
        asyncio.run(say_hello())
        killed.process.kill()
        killed.process.wait()
    assert (run_directory / "command").exists()
    with closing(Daemon(run_directory)) as daemon:
        asyncio.run(say_hello())
        assert daemon.end() == 0


@pytest.mark.parametrize("option", ["--daemonize", "--background"])
def test_as_a_unix_daemon_it_returns_when_it_serves(run_directory: Path, option: str) -> None:
    # Not with pipes: --background keeps them open.
    started = subprocess.run([PROGRAM, f"--directory={run_directory}", option], timeout=DEADLINE_S)
    assert started.returncode == 0

    async def its_pid() -> int:
        async with connected(run_directory) as sessiond:
            return int((await sessiond.ask(control.DescribeConsumer())).pid)

    pid = asyncio.run(its_pid())
    assert os.getsid(pid) == pid
    os.kill(pid, signal.SIGTERM)
    wait_until(lambda: not list(run_directory.iterdir()), "the daemon to end")


def test_the_kernel_domain_is_refused() -> None:
    refused = run_program("-k")
    assert refused.returncode == 1
    assert "kernel tracing domain is not available" in refused.stderr


def test_descriptors_for_nobody_are_not_waited_for_long(run_directory: Path, output: Path) -> None:
    async def conversation(sessiond: SessionDaemon, daemon: Daemon) -> None:
        await sessiond.open_registry(output)
        await sessiond.descriptors.close()
        with pytest.raises(TransportError, match="did not take the descriptors"):
            await sessiond.create_channel()
        assert (await sessiond.ask(control.DescribeConsumer())).channel_count == 0

    converse(run_directory, conversation)
