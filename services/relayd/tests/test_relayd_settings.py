"""What files, command line and environment make of the settings of a relay daemon."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tracefleet_common.errors import InvalidArgument
from tracefleet_relayd import settings as settings_module
from tracefleet_relayd.settings import KeepAlive, Listener, Settings, fd_capacity, load_settings, parse_command_line

USER_ID = 1000
NAMES = {("localhost", False): "127.0.0.1", ("localhost", True): "::1", ("relay", False): "10.0.0.7"}


@pytest.fixture(autouse=True)
def system_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system-wide configuration file of this machine is not part of a test."""
    path = tmp_path / "system.conf"
    monkeypatch.setattr(settings_module, "SYSTEM_CONFIG_FILE", str(path))
    return path


@pytest.fixture
def home(tmp_path: Path) -> Path:
    home = tmp_path / "home"
    (home / ".lttng").mkdir(parents=True)
    return home


def resolve(host: str, is_ipv6: bool) -> str | None:
    is_numeric = ":" in host if is_ipv6 else host.replace(".", "").isdigit()
    return host if is_numeric else NAMES.get((host, is_ipv6))


def settings_of(home: Path, *words: str, **environment: str) -> Settings:
    variables = {"LTTNG_HOME": str(home), **environment}
    return load_settings(parse_command_line(words), variables, resolve, user_id=USER_ID, open_file_limit=1024)


def config_file(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(("[relayd]", *lines, "[sessiond]", "output=/wrong", "")))
    return path


def test_defaults_of_a_user(home: Path) -> None:
    settings = settings_of(home)
    assert settings.control == Listener("0.0.0.0", 5342)
    assert settings.data == Listener("0.0.0.0", 5343)
    assert settings.live == Listener("127.0.0.1", 5344)
    assert settings.output_directory == f"{home}/lttng-traces"
    assert not settings.is_output_given
    assert not settings.is_grouped_by_session
    assert settings.is_clear_allowed
    assert settings.fd_pool_size is None
    assert settings.working_directory is None
    assert settings.keep_alive is None
    assert settings.tracing_group == "tracing"
    assert settings.run_directory == f"{home}/.lttng"
    assert settings.bus_socket(7) == f"{home}/.lttng/relayd/bus-7"
    assert settings.health_socket(7) == f"{home}/.lttng/relayd/health-7"


def test_root_has_one_run_directory_and_traces_in_its_home(home: Path) -> None:
    environment = {"LTTNG_HOME": str(home)}
    settings = load_settings(parse_command_line([]), environment, resolve, user_id=0, open_file_limit=1024)
    assert settings.is_root
    assert settings.relay_directory == "/var/run/lttng/relayd"
    assert settings.output_directory == f"{home}/lttng-traces"


def test_command_line(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_of(
        home,
        *(
            "-b",
            "-x",
            "-s",
            "-vv",
            "-g",
            "tracers",
            "-w",
            "work",
            "-o",
            "/data",
            "--fd-pool-size=256",
            "--bus-sock=bus",
        ),
        *("-C", "tcp://relay:1", "-D", "tcp6://[fe80::1]:2", "--live-port=net://localhost:3:4/x"),
        LTTNG_RELAYD_HEALTH="health",
    )
    assert settings.is_background
    assert not settings.is_daemonized
    assert not settings.is_clear_allowed
    assert settings.is_grouped_by_session
    assert settings.verbosity == 2
    assert settings.tracing_group == "tracers"
    assert settings.working_directory == f"{tmp_path}/work"
    assert (settings.output_directory, settings.is_output_given) == ("/data", True)
    assert settings.fd_pool_size == 256
    assert settings.bus_socket(7) == f"{tmp_path}/bus"
    assert settings.health_socket(7) == f"{tmp_path}/health"
    assert settings.control == Listener("10.0.0.7", 1)
    assert settings.data == Listener("fe80::1", 2)
    assert settings.live == Listener("127.0.0.1", 3)
    assert [listener.text for listener in settings[7:10]] == [
        "tcp://10.0.0.7:1",
        "tcp6://[fe80::1]:2",
        "tcp://127.0.0.1:3",
    ]


def test_what_is_read_later_overrides(home: Path, tmp_path: Path, system_file: Path) -> None:
    config_file(system_file, "output=/system", "live-port=tcp://0.0.0.0:1", "disallow-clear=yes", "group=system")
    config_file(home / ".lttng" / "lttng.conf", "output=/home", "disallow-clear=no", "control-port=tcp://relay")
    extra = config_file(tmp_path / "extra.conf", "output=/extra", "group-output-by-session=on", "verbose=2")
    settings = settings_of(home, f"--config={extra}", "--output=/line")
    assert settings.output_directory == "/line"
    assert settings.live == Listener("0.0.0.0", 1)
    assert settings.control == Listener("10.0.0.7", 5342)
    assert settings.is_clear_allowed
    assert settings.is_grouped_by_session
    assert settings.verbosity == 2
    assert settings.tracing_group == "system"


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("", "unknown protocol"),
        ("127.0.0.1:6000", "unknown protocol 127.0.0.1:6000"),
        ("udp://x:1", "unknown protocol udp://x:1"),
        ("tcp://", "Not a URL"),
        ("tcp://:5342", "Not a URL"),
        ("tcp6://[::1", "Not a URL"),
        ("tcp6://[::1]5342", "Not a URL"),
        ("tcp://0.0.0.0:0", "Invalid port number 0"),
        ("tcp://0.0.0.0:65536", "Invalid port number 65536"),
        ("tcp://0.0.0.0:-1", "Invalid port number -1"),
        ("tcp://0.0.0.0:http", "Invalid port number http"),
        ("tcp://nowhere.invalid", "bad hostname nowhere.invalid for af 2"),
        ("tcp://[::1]:1", "bad hostname ::1 for af 2"),
        ("tcp6://[nowhere]:1", "bad hostname nowhere for af 10"),
    ],
)
@pytest.mark.parametrize("what", ["control", "data", "live"])
def test_urls_that_are_refused(home: Path, url: str, reason: str, what: str) -> None:
    with pytest.raises(InvalidArgument, match=reason.replace("[", r"\[")) as caught:
        settings_of(home, f"--{what}-port={url}")
    assert caught.value.__notes__ == [f"Error: Invalid {what} URI specified"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["-o", "relative"], "Please specify an absolute path for -o, --output PATH"),
        (["-o", ""], "Please specify an absolute path"),
        (["-o", "/a\0b"], "null byte"),
        (["-p", "-s"], "Cannot set --group-output-by-session, another --group-output-by argument is present"),
        (["-s", "-p"], "Cannot set --group-output-by-host, another"),
        (["--fd-pool-size=99"], "File descriptor pool size must be set to at least 100"),
        (["--fd-pool-size=1025"], r"argument \(1025\) exceeds the process' soft limit \(1024\)"),
        (["--fd-pool-size=abc"], "Wrong value in --fd-pool-size parameter: abc"),
        (["--fd-pool-size=-5"], "Wrong value"),
        (["--fd-pool-size=" + "9" * 5000], "Wrong value"),
        (["-f", "/nonexistent"], "Failed to open daemon configuration file at /nonexistent"),
        (["operand"], "operand: unexpected argument"),
        (["--bogus"], "--bogus: unknown option"),
        (["--output"], "--output: missing argument"),
    ],
)
def test_what_is_refused(home: Path, words: list[str], reason: str) -> None:
    with pytest.raises(InvalidArgument, match=reason):
        settings_of(home, *words)


def test_groupings_of_file_and_command_line_contradict(home: Path) -> None:
    config_file(home / ".lttng" / "lttng.conf", "group-output-by-session=yes")
    assert settings_of(home, "-s").is_grouped_by_session
    with pytest.raises(InvalidArgument, match="Cannot set --group-output-by-host"):
        settings_of(home, "-p")


@pytest.mark.parametrize(
    ("value", "is_allowed"),
    [("1", False), ("2", False), ("YES", False), ("on", False), ("0", True), ("off", True), ("", True)],
)
def test_clearing_from_the_environment(home: Path, value: str, is_allowed: bool) -> None:
    assert settings_of(home, LTTNG_RELAYD_DISALLOW_CLEAR=value).is_clear_allowed is is_allowed
    assert not settings_of(home, "-x", LTTNG_RELAYD_DISALLOW_CLEAR=value).is_clear_allowed


@pytest.mark.parametrize("value", ["maybe", "-3", "1x"])
def test_clearing_from_a_wrong_environment(home: Path, value: str) -> None:
    with pytest.raises(InvalidArgument, match="Invalid value for LTTNG_RELAYD_DISALLOW_CLEAR specified"):
        settings_of(home, LTTNG_RELAYD_DISALLOW_CLEAR=value)
    assert not settings_of(home, "-x", LTTNG_RELAYD_DISALLOW_CLEAR=value).is_clear_allowed


KEEP_ALIVE = "LTTNG_RELAYD_TCP_KEEP_ALIVE"


@pytest.mark.parametrize(
    ("variables", "expected", "is_reported"),
    [
        ({}, None, False),
        ({"": "0"}, None, False),
        ({"_IDLE_TIME": "x"}, None, False),
        ({"": "1"}, KeepAlive(), False),
        ({"": "on", "_IDLE_TIME": "0", "_PROBE_INTERVAL": "-1"}, KeepAlive(), False),
        ({"": "1", "_IDLE_TIME": "7", "_PROBE_INTERVAL": "8", "_MAX_PROBE_COUNT": "9"}, KeepAlive(7, 8, 9), False),
        ({"": "x"}, None, True),
        ({"": "1", "_IDLE_TIME": "x"}, None, True),
        ({"": "1", "_MAX_PROBE_COUNT": "-2"}, None, True),
    ],
)
def test_keep_alive(
    home: Path,
    caplog: pytest.LogCaptureFixture,
    variables: dict[str, str],
    expected: KeepAlive | None,
    is_reported: bool,
) -> None:
    settings = settings_of(home, **{KEEP_ALIVE + name: value for name, value in variables.items()})
    assert settings.keep_alive == expected
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * is_reported


def test_a_variable_without_effect_is_warned_about(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    settings_of(home, LTTNG_NETWORK_SOCKET_TIMEOUT="")
    assert caplog.records == []
    settings_of(home, LTTNG_NETWORK_SOCKET_TIMEOUT="1500")
    assert "LTTNG_NETWORK_SOCKET_TIMEOUT has no effect" in caplog.text


def test_working_directory_from_the_environment(home: Path) -> None:
    assert settings_of(home, LTTNG_RELAYD_WORKING_DIRECTORY="/env").working_directory == "/env"
    assert settings_of(home, "-w", "/line", LTTNG_RELAYD_WORKING_DIRECTORY="/env").working_directory == "/line"


def test_a_limit_that_is_too_low_to_work_with() -> None:
    assert fd_capacity(100) == 90
    with pytest.raises(InvalidArgument, match=r"file number limit is too low \(90\).*at least 100\."):
        fd_capacity(90)


def test_a_user_without_any_home() -> None:
    with pytest.raises(InvalidArgument, match="HOME"):
        load_settings(parse_command_line([]), {}, resolve, user_id=2**31 - 7, open_file_limit=1024)
