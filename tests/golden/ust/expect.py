#!/usr/bin/env python3
"""Writes what the codecs now make of the golden notifications beside them, for a person to review: git diff."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec

from tracefleet_common.codecs.ust_notify import NotificationParser

GOLDEN = Path(__file__).resolve().parent


def dense(sparse: dict[str, Any]) -> bytes:
    data = bytearray(sparse["size"])
    for offset, run in sparse["bytes"].items():
        data[int(offset) : int(offset) + len(run) // 2] = bytes.fromhex(run)
    return bytes(data)


for case in (*GOLDEN.glob("notify/*.json"), *GOLDEN.glob("odd/notify/*.json")):
    parser = NotificationParser()
    parser.feed(dense(json.loads(case.read_text())["notification"]))
    rendered = msgspec.json.format(msgspec.json.encode(parser.next()), indent=1)
    case.with_suffix(".expect").write_bytes(rendered + b"\n")
