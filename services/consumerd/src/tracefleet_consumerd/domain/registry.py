"""What a registry (one CTF trace) must be like before anything is made for it."""

from __future__ import annotations

import msgspec

from tracefleet_common.errors import InvalidArgument

TRACE_UUID_SIZE_BYTES = 16
PATH_SIZE_BYTES_MAX = 4095  # PATH_MAX of Linux, less the terminating null byte
FILE_NAME_SIZE_BYTES_MAX = 255  # NAME_MAX
KEY_MAX = 2**63 - 1
USER_ID_MAX = 2**32 - 2  # 2^32 - 1 says "nobody" to the kernel


class RegistrySettings(msgspec.Struct, frozen=True, kw_only=True):
    """As the session daemon asks for it; see OpenRegistry for the meaning of each field."""

    registry_key: int
    trace_uuid: bytes
    output_root: str | None
    relative_path: str
    owner_uid: int
    owner_gid: int
    relay_key: int | None = None

    @property
    def path(self) -> str:
        """The directory of the trace, for people."""
        return f"{self.output_root}/{self.relative_path}" if self.relay_key is None else self.relative_path


def check_registry(settings: RegistrySettings) -> None:
    """Raises InvalidArgument for what cannot be right, and for a path that would leave the output."""
    check_key("registry", settings.registry_key)
    if len(settings.trace_uuid) != TRACE_UUID_SIZE_BYTES:
        raise InvalidArgument(f"A trace uuid has {TRACE_UUID_SIZE_BYTES} bytes, not {len(settings.trace_uuid)}")
    check_owner(settings.owner_uid, settings.owner_gid)
    if settings.output_root is not None:
        if settings.relay_key is not None:
            raise InvalidArgument("A trace goes into files or to a relay daemon, not both")
        check_output_root(settings.output_root)
    _check_path_text(settings.relative_path)
    for component in settings.relative_path.split("/"):
        if component in ("", ".", ".."):
            raise InvalidArgument(f"Not a path below the output: {settings.relative_path!r}")


def check_output_root(root: str) -> None:
    """Raises InvalidArgument unless it is an absolute path without `..`."""
    _check_path_text(root)
    if not root.startswith("/") or ".." in root.split("/"):
        raise InvalidArgument(f"Not an absolute path without ..: {root!r}")


def check_owner(uid: int, gid: int) -> None:
    """Raises InvalidArgument for numbers that are nobody's."""
    for what, number in (("user", uid), ("group", gid)):
        if not 0 <= number <= USER_ID_MAX:
            raise InvalidArgument(f"Not the id of a {what}: {number}")


def check_key(what: str, key: int) -> None:
    """Raises InvalidArgument."""
    if not 0 < key <= KEY_MAX:
        raise InvalidArgument(f"The key of a {what} is between 1 and {KEY_MAX}, not {key}")


def _check_path_text(path: str) -> None:
    if not path or "\0" in path or len(encoded_name(path)) > PATH_SIZE_BYTES_MAX:
        raise InvalidArgument(f"A path is empty, too long, or contains a null byte: {path[:80]!r}")
    for component in path.split("/"):
        if len(encoded_name(component)) > FILE_NAME_SIZE_BYTES_MAX:
            raise InvalidArgument(f"A part of a path is longer than {FILE_NAME_SIZE_BYTES_MAX} bytes: {path[:80]!r}")


def encoded_name(name: str) -> bytes:
    """A name as the file system gets it. Raises InvalidArgument for text that has no bytes."""
    try:
        return name.encode()
    except UnicodeEncodeError:
        raise InvalidArgument(f"Not a name that can be written: {name[:80]!r}") from None
