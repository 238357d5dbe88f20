"""JSON Schemas of everything that --json prints, one file per value, made from the structs.

Write them anew after a change: `python -m tracefleet_cli.json_schemas docs/schema`.
"""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec

from tracefleet_cli.commands.health import Health
from tracefleet_cli.commands.version import VersionInfo
from tracefleet_cli.verify.report import Verification
from tracefleet_common.messages.envelope import Done, ErrorReply
from tracefleet_common.messages.relayd_control import RelayInfo, RelaySessionDetails, RelaySessionList
from tracefleet_common.messages.sessiond_control import (
    ChannelInfo,
    DaemonInfo,
    EventRuleEnabled,
    EventRulesDisabled,
    SessionDetails,
    SessionInfo,
    SessionList,
    SessionStarted,
    SessionStopped,
    TracepointList,
)

# By the commands that print them, one value a line.
VALUES: dict[str, type[msgspec.Struct]] = {
    "create": SessionInfo,
    "destroy": SessionStopped,
    "disable-channel": Done,
    "disable-event": EventRulesDisabled,
    "enable-channel": ChannelInfo,
    "enable-event": EventRuleEnabled,
    "health": Health,
    "list": SessionList,
    "list SESSION": SessionDetails,
    "list --userspace": TracepointList,
    "list-relay": RelayInfo,
    "list-relay NAME": RelaySessionDetails,
    "set-session": SessionInfo,
    "start": SessionStarted,
    "status": SessionDetails,
    "stop": SessionStopped,
    "verify": Verification,
    "version": VersionInfo,
}
# Of any command that fails; of the Python client only; after each relay daemon of `list-relay`.
UNTIED: tuple[type[msgspec.Struct], ...] = (ErrorReply, DaemonInfo, RelaySessionList)


def tag_of(value_type: type[msgspec.Struct]) -> str:
    """The `type` field of such a value, which also names its file."""
    return str(value_type.__struct_config__.tag)


def schema_files() -> dict[str, str]:
    """Contents by file name."""
    values = [*VALUES.values(), *UNTIED]
    types = {tag_of(value): value for value in values}
    files = {}
    for tag, value_type in sorted(types.items()):
        schema = {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": tag,
            **msgspec.json.schema(value_type),
        }
        files[f"{tag}.json"] = msgspec.json.format(msgspec.json.encode(schema), indent=2).decode() + "\n"
    return files


def main() -> None:
    """Write all files into the directory given."""
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in schema_files().items():
        (directory / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
