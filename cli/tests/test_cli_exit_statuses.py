"""Command lines that end before any daemon is asked: their words, where these go, and the exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tracefleet_cli.command_table import COMMANDS, load
from tracefleet_cli.run import run

NO_DAEMON = "No session daemon is available"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, whose current session is `s`, and an address where nobody listens."""
    (tmp_path / ".lttngrc").write_text("session=s\n")
    monkeypatch.setenv("LTTNG_HOME", str(tmp_path))
    monkeypatch.setenv("TRACEFLEET_SESSIOND", f"ipc://{tmp_path}/nobody")
    return tmp_path


# Statuses and words are those of lttng 2.13.9.
@pytest.mark.parametrize(
    ("line", "status", "words"),
    [
        ("list", 1, f"Error: {NO_DAEMON}"),
        ("list -u", 1, f"Error: Unable to list UST events: {NO_DAEMON}"),
        ("list -u -f", 1, f"Error: Unable to list UST event fields: {NO_DAEMON}"),
        ("start x", 19, f"Error: {NO_DAEMON}"),
        ("stop x", 19, f"Error: {NO_DAEMON}"),
        ("destroy x", 1, f"Error: {NO_DAEMON}"),
        ("set-session x", 1, f"Error: {NO_DAEMON}"),
        ("enable-channel -u x", 1, f"Error: Channel x: {NO_DAEMON} (session s)"),
        ("disable-channel -u x", 4, f"Error: Channel x: {NO_DAEMON} (session s)"),
        ("enable-event -u x", 19, f"Error: Event x: {NO_DAEMON} (channel channel0, session s)"),
        ("enable-event -u -a", 1, f"Error: Events: {NO_DAEMON} (channel channel0, session s)"),
        ("disable-event -u x", 19, f"Error: x of type any : {NO_DAEMON} (channel channel0, session s)"),
        ("disable-event -u -a", 19, f"Error: {NO_DAEMON}"),
        ("view x", 1, "Error: Unable to list sessions. Session name x not found."),
        ("-n create x", 1, f"Error: {NO_DAEMON}"),
        ("create auto", 1, "Error: auto is a reserved keyword for default session(s)"),
        ("create auto-1", 1, "Error: auto is a reserved keyword for default session(s)"),
        (f"create {'x' * 256}", 1, "Error: Session name too long. Length must be lower or equal to 255"),
        ("create a b", 1, "Error: Unknown argument: b"),
        ("create -U foo x", 1, "Error: URI parse unknown protocol foo\nError: Unable to parse the URL foo\nError: Unr"),
        ("create -C tcp://localhost x", 1, "Error: Both control and data URLs must be specified."),
        ("create -U net://localhost:0 x", 1, "Error: Invalid port number 0"),
        ("create -U tcp://localhost x", 1, "Error: Unrecognized URL format."),
        ("create -U fleet://localhost:5340:5341 x", 1, "Error: Trailing characters not recognized: :5341"),
        ("create -C fleet://localhost -D fleet://localhost x", 1, "Error: The fleet[4|6]:// protocol has one URL"),
        ("create -C tcp://localhost -D fleet://localhost x", 1, "Error: The fleet[4|6]:// protocol has one URL"),
        ("create --spool=1M x", 1, "Error: The option --spool needs a fleet:// URL."),
        ("create --durability=synced -U net://localhost x", 1, "Error: The option --durability needs a fleet:// URL."),
        ("create --durability=maybe -U fleet://localhost x", 1, "Error: Unknown durability maybe: written or synced"),
        ("create --spool=much -U fleet://localhost x", 1, "Error: Wrong value in --spool parameter: much"),
        ("create --spool=0 -U fleet://localhost x", 1, "Error: Wrong value in --spool parameter: 0"),
        ("create --spool=9000000000G -U fleet://localhost x", 1, "Error: Wrong value in --spool parameter: 90000"),
        ("create --live=0 x", 1, "Error: Live timer interval must be greater than zero"),
        ("create --live=5000000000 x", 1, "Error: 32-bit overflow in --live parameter: 5000000000"),
        ("create --live --no-output x", 1, "Error: Unsupported output type specified for live session."),
        ("create -o /a -U file:///b x", 1, "Error: Only one of the --set-url, --ctrl-url/data-url, or"),
        ("create --bogus", 2, "Error: Unrecognized argument used with 'create' command"),
        ("create --output", 2, "Error: Unrecognized argument used with 'create' command"),
        ("start a b", 1, "Error: Unknown argument: b"),
        ("set-session", 1, "Error: Missing session name"),
        ("enable-channel -u", 1, "Error: Missing channel name."),
        ("enable-channel -u ,", 1, "Error: Missing channel name."),
        ("enable-channel c", 1, "Error: Please specify a domain (--kernel/--userspace)."),
        ("enable-channel -u -k c", 1, "Error: Only one domain must be specified."),
        ("enable-channel -u --buffers-global c", 1, "Error: Buffer type not supported for domain -u"),
        ("enable-channel -u --subbuf-size=zz c", 1, "Error: Wrong value in --subbuf-size parameter: zz"),
        ("enable-channel -u --subbuf-size=0 c", 1, "Error: Wrong value in --subbuf-size parameter: 0"),
        ("enable-channel -u --num-subbuf=0 c", 1, "Error: Wrong value in --num-subbuf parameter: 0"),
        (
            "enable-channel -u --num-subbuf=18446744073709551615 c",
            1,
            "Error: The number of subbuffers (18446744073709551615) is rounded and overflows!",
        ),
        ("enable-channel -u --switch-timer=-1 c", 1, "Error: Wrong value for --switch-timer parameter: -1"),
        (
            "enable-channel -u --read-timer=5000000000 c",
            1,
            "Error: 32-bit overflow in --read-timer parameter: 5000000000",
        ),
        (
            "enable-channel -u --blocking-timeout=99999999999999 c",
            1,
            "Error: 32-bit milliseconds overflow in --blocking-timeout parameter: 99999999999999",
        ),
        ("enable-channel -u -W 3 c", 1, "Error: Missing option --tracefile-size. A file count without"),
        ("enable-channel -u -C -1 c", 1, "Error: Wrong value in --tracefile-size parameter: -1"),
        (
            "enable-channel -u -C 1M -W 99999999999 c",
            1,
            "Error: 32-bit overflow in --tracefile-count parameter: 99999999999",
        ),
        (
            "enable-channel -u --overwrite --blocking-timeout=100 c",
            1,
            "Error: You cannot specify --overwrite and --blocking-timeout=N, where N is different than 0",
        ),
        ("enable-channel -u --output=foo c", 1, "Error: Unknown output type foo. Possible values are: mmap,"),
        (f"enable-channel -u {'x' * 256}", 1, "Error: Channel name is too long (max. 255 characters)"),
        ("disable-channel -u", 1, "Error: Missing channel name(s)."),
        ("enable-event x", 1, "Error: Please specify a domain (--kernel/--userspace/--jul/--log4j/--python)."),
        ("enable-event -u", 1, "Error: Missing event name(s)."),
        ("enable-event -u x y", 1, "Error: Unknown argument: y"),
        ("enable-event -u x --syscall", 5, "Error: Event type not available for user-space tracing"),
        ("enable-event -u x --syscall --tracepoint", 1, "Error: Multiple event type not supported."),
        ("enable-event -u x --loglevel=NOPE", 97, "Error: Unknown loglevel NOPE"),
        ("enable-event -u d -x d", 1, "Error: Event d: Exclusions can only be used with a globbing pattern"),
        ("enable-event -u d* -x d*", 1, "Error: Event d*: d* excludes all events from d*"),
        ("disable-event -u", 1, "Error: Missing event name(s)."),
        ("disable-event -u --syscall x", 1, "Error: Disabling userspace and agent (-j | -l | -p) event(s)"),
        ("list -S", 1, "Warning: --syscall will only work with the Kernel domain (-k)"),
        ("list a b", 1, "Error: Unknown argument: b"),
        ("status x", 2, "Error: This command does not accept positional arguments."),
        ("help nope", 1, 'Error: Unknown command "nope"'),
        ("-m json list", 165, "Error: MI output format not supported"),
        ("--bogus list", 1, "tracefleet: unrecognized option '--bogus'"),
        ("-z list", 1, "tracefleet: invalid option -- 'z'"),
        ("-g", 1, "tracefleet: option requires an argument -- 'g'"),
        # Not of lttng: what is still to come is refused.
        ("-m xml list", 5, "Error: Machine interface output is not supported yet"),
        ("track -u -p 1", 5, "Error: Command track is not supported yet"),
        ("create --snapshot x", 5, "Error: Option --snapshot is not supported yet"),
        ("enable-event -u x --filter a==1", 5, "Error: Option --filter is not supported yet"),
        ("enable-event -k x", 5, "Error: Domain --kernel is not supported yet"),
        ("list -k", 5, "Error: Option --kernel is not supported yet"),
        ("verify", 1, "Error: Missing trace directory."),
        ("verify /nonexistent", 3, "Error: Cannot read /nonexistent: No such file or directory"),
        ("completion tcsh", 1, "Error: Unknown shell tcsh."),
    ],
)
def test_errors(line: str, status: int, words: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert run(line.split()) % 256 == status
    out, err = capfd.readouterr()
    assert err.startswith(words)
    assert not out or "Is there a session daemon running?" in out


def test_an_unknown_command(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["nope"]) == 2
    out, err = capfd.readouterr()
    assert (out, err) == ("tracefleet: nope is not a tracefleet command. See 'tracefleet --help'.\n", "")


def test_no_command_shows_them_all(capfd: pytest.CaptureFixture[str]) -> None:
    assert run([]) == 1
    assert "  enable-channel    Create or enable a channel\n" in capfd.readouterr().out


def test_quiet_keeps_the_status(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["-q", "start", "x"]) == 19
    assert capfd.readouterr() == ("", "")


def test_an_error_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--json", "start", "x"]) == 19
    out, err = capfd.readouterr()
    value = json.loads(out)
    assert (value["type"], value["kind"], value["code"]) == ("error", "TransportError", 19)
    assert err.startswith(f"Error: {NO_DAEMON}\n")


def test_an_error_of_the_command_itself_as_json(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["create", "auto", "--json"]) == 1
    assert json.loads(capfd.readouterr().out)["code"] == 97


def test_without_a_current_session(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (home / ".lttngrc").unlink()
    assert run(["start"]) == 1
    out, err = capfd.readouterr()
    assert err == f"Error: Can't find valid lttng config {home}/.lttngrc\n"
    assert out.startswith("Did you create a session?")


def test_a_current_session_that_is_not_one(home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (home / ".lttngrc").write_bytes(b"\xff\xfe\0garbage=\nsession=\n")
    assert run(["status"]) == 1
    assert capfd.readouterr().err == "Error: Missing session=NAME in config file.\n"


def test_words_that_are_not_utf_8(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["create", "\udcff"]) == 1
    assert capfd.readouterr().err == "Error: The command line is not valid UTF-8\n"


def test_sizes_are_rounded_up_with_a_warning(capfd: pytest.CaptureFixture[str]) -> None:
    run(["enable-channel", "-u", "--subbuf-size=5000", "--num-subbuf=3", "-C", "4096", "c"])
    assert capfd.readouterr().err.splitlines()[:3] == [
        "Warning: The subbuf size (5000) is rounded to the next power of 2 (8192)",
        "Warning: The number of subbuffers (3) is rounded to the next power of 2 (4)",
        "Warning: Tracefile size rounded up from (4096) to subbuffer size (8192)",
    ]


def test_a_daemon_that_cannot_be_started(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("TRACEFLEET_SESSIOND")
    monkeypatch.setattr("tracefleet_common.client.run_directory.GLOBAL_RUN_DIRECTORY", str(home))
    assert run(["--sessiond-path=/nonexistent", "create", "x"]) == 1
    assert run(["--sessiond-path=/bin/false", "create", "x"]) == 1
    out, err = capfd.readouterr()
    assert out == "Spawning a session daemon\n"
    assert err == (
        "Error: No such file or access denied: /nonexistent\n"
        "Error: Problem occurred while launching session daemon (/nonexistent)\n"
        "Error: Session daemon terminated with an error (exit status: 1)\n"
        "Error: Problem occurred while launching session daemon (/bin/false)\n"
    )


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_help(command: object, capfd: pytest.CaptureFixture[str]) -> None:
    name = command.name  # type: ignore[attr-defined]
    assert run([name, "--help"]) == 0
    assert f"tracefleet-{name} - " in capfd.readouterr().out
    assert run(["help", name]) == 0


def test_options_are_listed_in_the_order_of_lttng(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "--list-options"]) == 0
    spellings = "--help -h --kernel -k --jul -j --log4j -l --python -p --userspace -u --channel -c --domain -d"
    expected = [*spellings.split(), *["--fields", "-f", "--syscall", "-S", "--list-options", "--json"]]
    assert capfd.readouterr().out.split() == expected


def test_commands_are_listed_as_by_lttng(capfd: pytest.CaptureFixture[str]) -> None:
    assert run(["--list-commands"]) == 0
    names = capfd.readouterr().out.split()
    assert names[:4] == ["add-context", "add-trigger", "create", "clear"]
    assert names[-4:] == ["version", "view", "verify", "completion"]


@pytest.mark.parametrize("command", [command for command in COMMANDS if command.module], ids=lambda c: c.name)
def test_refused_options_exist(command: object) -> None:
    module = load(command.module)  # type: ignore[attr-defined]
    longs = [option.long for option in module.OPTIONS]
    assert set(longs) >= module.UNSUPPORTED_OPTIONS
    assert len(longs) == len(set(longs))
