"""The command line of the consumer daemon."""

from __future__ import annotations

import pytest

from tracefleet_common.errors import InvalidArgument, Unsupported
from tracefleet_consumerd.settings import Settings, load_settings, parse_command_line


def settings_of(*words: str, user_id: int = 0, **environment: str) -> Settings:
    return load_settings(parse_command_line(words), environment, user_id=user_id)


def test_root_has_its_sockets_in_the_run_directory() -> None:
    settings = settings_of(LTTNG_HOME="/elsewhere")
    assert settings.command_socket == "/var/run/lttng/ustconsumerd64/command"
    assert settings.descriptor_socket == "/var/run/lttng/ustconsumerd64/descriptors"
    assert settings.health_socket == "/var/run/lttng/ustconsumerd64/health"


@pytest.mark.parametrize(
    ("environment", "home"),
    [({"HOME": "/home/u"}, "/home/u"), ({"HOME": "/home/u", "LTTNG_HOME": "/other"}, "/other")],
)
def test_a_user_has_them_below_the_home_directory(environment: dict[str, str], home: str) -> None:
    settings = settings_of(user_id=1000, **environment)
    assert settings.command_socket == f"{home}/.lttng/ustconsumerd64/command"


def test_sockets_can_be_put_elsewhere() -> None:
    assert settings_of("--directory=/d").descriptor_socket == "/d/descriptors"
    settings = settings_of("-c", "/a/cmd", "--descriptor-sock=/b/fds", "-u", "-vv", user_id=1000)
    assert (settings.command_socket, settings.descriptor_socket) == ("/a/cmd", "/b/fds")
    assert settings.health_socket == "/a/health"
    assert settings.verbosity == 2
    assert settings_of("--directory=/d", "--health-sock=/h").health_socket == "/h"


@pytest.mark.parametrize("words", [["-k"], ["--kernel"], ["-e", "/socket"]])
def test_what_is_still_to_come_is_refused(words: list[str]) -> None:
    with pytest.raises(Unsupported):
        settings_of(*words)


@pytest.mark.parametrize(
    "words",
    [
        ["operand"],
        ["--no-such-option"],
        ["--directory=/" + "d" * 100],
        ["--orphan-timeout=soon"],
        ["--orphan-timeout=-1"],
        ["--orphan-timeout=nan"],
        ["--orphan-timeout=inf"],
    ],
)
def test_what_cannot_be_right_is_refused(words: list[str]) -> None:
    with pytest.raises(InvalidArgument):
        settings_of(*words)


def test_a_user_without_a_home_must_name_the_sockets() -> None:
    with pytest.raises(InvalidArgument, match="HOME"):
        settings_of(user_id=1000)
    assert settings_of("--directory=/d", user_id=1000).command_socket == "/d/command"


@pytest.mark.parametrize(
    ("words", "user_id", "environment", "directory"),
    [
        ((), 0, {"HOME": "/root"}, "/var/lib/tracefleet/spool"),
        ((), 1000, {"HOME": "/home/u", "LTTNG_HOME": "/other"}, "/other/.tracefleet/spool"),
        ((), 0, {"TRACEFLEET_SPOOL_DIRECTORY": "/s"}, "/s"),
        (("--spool-directory=/o",), 0, {"TRACEFLEET_SPOOL_DIRECTORY": "/s"}, "/o"),
        (("--directory=/d",), 1000, {}, None),
    ],
)
def test_spools_have_a_directory(
    words: tuple[str, ...], user_id: int, environment: dict[str, str], directory: str | None
) -> None:
    assert settings_of(*words, user_id=user_id, **environment).spool_directory == directory
