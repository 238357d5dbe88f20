"""What a registry and a channel must be like."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from tracefleet_common.errors import InvalidArgument
from tracefleet_common.model.ctf_types import HeaderType
from tracefleet_common.model.event_rules import LossMode
from tracefleet_consumerd.domain.channel import ChannelSettings, check_channel
from tracefleet_consumerd.domain.registry import RegistrySettings, check_registry

REGISTRY = RegistrySettings(
    registry_key=1,
    trace_uuid=bytes(16),
    output_root="/output",
    relative_path="ust/uid/0/64-bit",
    owner_uid=0,
    owner_gid=0,
)
CHANNEL = ChannelSettings(
    channel_key=1,
    name="channel0",
    channel_id=0,
    header_type=HeaderType.LARGE,
    trace_uuid=bytes(16),
    loss_mode=LossMode.DISCARD,
    sub_buffer_size_bytes=524_288,
    sub_buffer_count=4,
    switch_timer_period_us=0,
    read_timer_period_us=0,
    monitor_timer_period_us=1_000_000,
    blocking_timeout_us=0,
    trace_file_size_bytes=0,
    trace_file_count=0,
)


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"output_root": None},
        {"relative_path": "ust/pid/ab-12-20260101-000000"},
        {"relative_path": "ein/Verzeichnis/für/ℕ"},
        {"output_root": "/"},
    ],
)
def test_a_right_registry_is_taken(change: dict[str, Any]) -> None:
    check_registry(msgspec.structs.replace(REGISTRY, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"registry_key": 0},
        {"registry_key": -1},
        {"registry_key": 2**63},
        {"trace_uuid": b"short"},
        {"output_root": "relative"},
        {"output_root": ""},
        {"output_root": "/a/../b"},
        {"output_root": "/a\0b"},
        {"output_root": "/" + "a" * 5000},
        {"relative_path": ""},
        {"relative_path": "/absolute"},
        {"relative_path": ".."},
        {"relative_path": "ust/../../etc"},
        {"relative_path": "ust//uid"},
        {"relative_path": "ust/./uid"},
        {"relative_path": "ust/"},
        {"relative_path": "ust\0"},
        {"relative_path": "a" * 256},
        {"relative_path": "\udc80"},
        {"owner_uid": -1},
        {"owner_uid": 2**32 - 1},
        {"owner_gid": 2**40},
    ],
)
def test_a_wrong_registry_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        check_registry(msgspec.structs.replace(REGISTRY, **change))


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"name": "a b.c:*ℕ"},
        {"name": "n" * 235},
        {"sub_buffer_size_bytes": 4096, "sub_buffer_count": 1},
        {"sub_buffer_size_bytes": 2**29, "sub_buffer_count": 2, "trace_file_size_bytes": 2**29},
        {"loss_mode": LossMode.OVERWRITE, "sub_buffer_count": 2},
        {"blocking_timeout_us": -1},
        {"blocking_timeout_us": 100_000},
        {"trace_file_size_bytes": 524_288, "trace_file_count": 3},
        {"switch_timer_period_us": 2**32 - 1, "read_timer_period_us": 1},
    ],
)
def test_a_right_channel_is_taken(change: dict[str, Any]) -> None:
    check_channel(msgspec.structs.replace(CHANNEL, **change))


@pytest.mark.parametrize(
    "change",
    [
        {"channel_key": 0},
        {"name": ""},
        {"name": "."},
        {"name": ".."},
        {"name": ".hidden"},
        {"name": "../channel"},
        {"name": "a/b"},
        {"name": "a\0b"},
        {"name": "n" * 236},
        {"name": "ℕ" * 80},
        {"name": "\ud800"},
        {"channel_id": -1},
        {"channel_id": 2**32 - 1},
        {"sub_buffer_size_bytes": 0},
        {"sub_buffer_size_bytes": -4096},
        {"sub_buffer_size_bytes": 2048},
        {"sub_buffer_size_bytes": 5000},
        {"sub_buffer_size_bytes": 2**31},
        {"sub_buffer_size_bytes": 2**30, "sub_buffer_count": 2},
        {"sub_buffer_count": 0},
        {"sub_buffer_count": 3},
        {"sub_buffer_count": 2**40},
        {"loss_mode": LossMode.OVERWRITE, "sub_buffer_count": 1},
        {"switch_timer_period_us": -1},
        {"read_timer_period_us": 2**32},
        {"monitor_timer_period_us": -1},
        {"blocking_timeout_us": -2},
        {"blocking_timeout_us": 2**50},
        {"blocking_timeout_us": 5, "loss_mode": LossMode.OVERWRITE},
        {"trace_file_size_bytes": 524_287},
        {"trace_file_size_bytes": -1},
        {"trace_file_count": -1},
        {"trace_file_count": 2**32},
    ],
)
def test_a_wrong_channel_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        check_channel(msgspec.structs.replace(CHANNEL, **change))
