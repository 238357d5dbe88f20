"""What files, command line and environment make of the settings of a session daemon."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tracefleet_common.errors import InvalidArgument, Unsupported
from tracefleet_common.options import Option
from tracefleet_sessiond import settings as settings_module
from tracefleet_sessiond.settings import REFUSED_OPTIONS, Settings, load_settings, parse_command_line

USER_ID = 1000


@pytest.fixture(autouse=True)
def no_system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system-wide configuration file of this machine is not part of a test."""
    path = tmp_path / "system.conf"
    monkeypatch.setattr(settings_module, "SYSTEM_CONFIG_FILE", str(path))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / ".lttng").mkdir(parents=True)
    return home


def settings_of(words: str, home: Path, **environment: str) -> Settings:
    variables = {"LTTNG_HOME": str(home), **environment}
    return load_settings(parse_command_line(words.split()), variables, user_id=USER_ID)


def config_file(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("[sessiond]", *lines, "")))
    return path


def test_defaults_of_a_user(home: Path) -> None:
    settings = settings_of("", home)
    assert settings.run_directory == f"{home}/.lttng"
    assert settings.application_socket == f"{home}/.lttng/lttng-ust-sock-8"
    assert settings.bus_address == f"ipc://{home}/.lttng/tracefleet-sessiond"
    assert settings.pid_file == f"{home}/.lttng/lttng-sessiond.pid"
    assert settings.lock_file == f"{home}/.lttng/lttng-sessiond.lck"
    assert settings.application_timeout_s == 5
    assert settings.tracing_group == "tracing"
    assert settings.is_kernel_wanted
    assert not settings.is_root
    assert settings.consumer64.program is None
    assert settings.consumer64.command_socket == f"{home}/.lttng/ustconsumerd64/command"
    assert settings.consumer64.descriptor_socket == f"{home}/.lttng/ustconsumerd64/descriptors"


def test_root_has_one_run_directory_whatever_its_home(home: Path) -> None:
    settings = load_settings(parse_command_line([]), {"LTTNG_HOME": str(home)}, user_id=0)
    assert settings.is_root
    assert settings.run_directory == "/var/run/lttng"
    assert settings.home == str(home)


def test_home_stands_in_for_lttng_home(home: Path) -> None:
    assert load_settings(parse_command_line([]), {"HOME": str(home)}, user_id=USER_ID).home == str(home)


def test_a_user_without_any_home_is_told_so() -> None:
    with pytest.raises(InvalidArgument, match="LTTNG_HOME"):
        load_settings(parse_command_line([]), {}, user_id=2**31 - 7)


def test_command_line(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_of(
        "-b -S -g tracers -a apps -p pid -vv --no-kernel --verbose-consumer --consumerd64-path=bin/consumerd"
        " --consumerd64-libdir=/lib64 --ustconsumerd64-cmd-sock=/c --ustconsumerd64-descriptor-sock=/d",
        home,
    )
    assert settings.is_background
    assert settings.is_signalling_parent
    assert not settings.is_daemonized
    assert not settings.is_kernel_wanted
    assert settings.tracing_group == "tracers"
    assert settings.verbosity == 2
    assert settings.application_socket == f"{tmp_path}/apps"
    assert settings.pid_file == f"{tmp_path}/pid"
    consumer = settings.consumer64
    assert consumer.program == f"{tmp_path}/bin/consumerd"
    assert (consumer.library_directory, consumer.command_socket, consumer.descriptor_socket) == (
        "/lib64",
        "/c",
        "/d",
    )
    assert consumer.verbosity > 0


def test_what_is_read_later_overrides(home: Path, tmp_path: Path, no_system_file: Path) -> None:
    config_file(no_system_file, "group=system", "pidfile=/system", "apps-sock=/system", "daemonize=yes", "verbose=1")
    config_file(home / ".lttng" / "lttng.conf", "group=home", "pidfile=/home", "daemonize=off")
    extra = config_file(tmp_path / "extra.conf", "group=extra", "background=true", "verbose=3")
    settings = settings_of(f"--config={extra} --group=line", home)
    assert settings.tracing_group == "line"
    assert settings.pid_file == "/home"
    assert settings.application_socket == "/system"
    assert settings.is_background
    assert not settings.is_daemonized
    assert settings.verbosity == 3


def test_what_a_file_cannot_say_is_warned_about(home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    extra = config_file(tmp_path / "extra.conf", "bogus=1", "config=/x", "help=yes", "daemonize=maybe", "group=g")
    with caplog.at_level(logging.WARNING, "tracefleet"):
        settings = settings_of(f"-f {extra}", home)
    assert settings.tracing_group == "g"
    assert not settings.is_daemonized
    warnings = " ".join(record.getMessage() for record in caplog.records)
    for option in ("bogus", "config", "help", "daemonize"):
        assert f"option={option}" in warnings


def test_a_configuration_file_that_is_asked_for_must_be_there(home: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"Failed to open daemon configuration file at /nonexistent"):
        settings_of("-f /nonexistent", home)


@pytest.mark.parametrize(
    "option", [option for option, _ in REFUSED_OPTIONS], ids=[option.long for option, _ in REFUSED_OPTIONS]
)
def test_options_without_their_feature_are_refused(option: Option, home: Path) -> None:
    with pytest.raises(Unsupported, match=f"^--{option.long}: "):
        parse_command_line([f"--{option.long}=1"])
    config_file(home / ".lttng" / "lttng.conf", f"{option.long}=1")
    with pytest.raises(Unsupported, match=rf"lttng\.conf, line 2: {option.long}: "):
        settings_of("", home)


def test_operands_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="start: unexpected argument"):
        parse_command_line(["start"])


@pytest.mark.parametrize(("value", "timeout_s"), [("7", 7), ("0", None), ("-1", None), ("", 5), ("soon", 5), ("-2", 5)])
def test_application_timeout(home: Path, value: str, timeout_s: float | None) -> None:
    assert settings_of("", home, LTTNG_APP_SOCKET_TIMEOUT=value).application_timeout_s == timeout_s


def test_consumer_daemon_from_the_environment(home: Path) -> None:
    environment = {"LTTNG_CONSUMERD64_BIN": "/env/bin", "LTTNG_CONSUMERD64_LIBDIR": "/env/lib"}
    consumer = settings_of("", home, **environment).consumer64
    assert (consumer.program, consumer.library_directory) == ("/env/bin", "/env/lib")
    consumer = settings_of("--consumerd64-path=/line/bin", home, **environment).consumer64
    assert (consumer.program, consumer.library_directory) == ("/line/bin", "/env/lib")


def test_variables_without_effect_are_warned_about(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "tracefleet"):
        settings_of("", home, LTTNG_CONSUMERD32_BIN="/x", LTTNG_KMOD_PROBES="y")
    assert [record.args for record in caplog.records if "name=LTTNG_" in record.getMessage()] != []
    assert len(caplog.records) == 2


def test_an_empty_path_is_refused(home: Path) -> None:
    with pytest.raises(InvalidArgument):
        settings_of("--apps-sock=", home)
