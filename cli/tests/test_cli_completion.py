"""What a word can become."""

from __future__ import annotations

import pytest

from tracefleet_cli.completion import DaemonNames, candidates

NAMES = DaemonNames(lambda: ["s1", "s2"], lambda session: {"s2": ["other"], None: ["c1", "c2"]}.get(session, []))


@pytest.mark.parametrize(
    ("words", "found"),
    [
        (["sta"], ["start", "status"]),
        (["-q", "sta"], ["start", "status"]),
        (["-g", "tracing", "sta"], ["start", "status"]),
        (["--group=x", "--verb"], ["--verbose"]),
        (["create", "--no-"], ["--no-output", "--no-consumer"]),
        (["create", "--output"], ["--output="]),
        (["start", ""], ["s1", "s2"]),
        (["stop", "-n", "s"], ["s1", "s2"]),
        (["enable-event", "-u", "-c", ""], ["c1", "c2"]),
        (["enable-event", "-u", "-s", "s2", "-c", ""], ["other"]),
        (["enable-event", "--session=s2", "--channel="], ["--channel=other"]),
        (["enable-event", "--channel", "=", "c1"], ["c1"]),
        (["enable-event", "--channel", "="], ["c1", "c2"]),
        (["disable-channel", "-u", ""], ["c1", "c2"]),
        (["enable-event", "--loglevel", "ERR"], ["ERR"]),
        (["view", "-t", ""], [":directories"]),
        (["create", "--output="], [":directories"]),
        (["create", "--durability", ""], ["written", "synced"]),
        (["verify", ""], [":directories"]),
        (["help", "set"], ["set-session"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["health", "sessiond", "r"], ["relayd"]),
        (["track", ""], []),
        (["nope", ""], []),
        (["version", ""], []),
    ],
)
def test_candidates(words: list[str], found: list[str]) -> None:
    assert [candidate.word for candidate in candidates(words, NAMES)] == found


def test_every_command_that_works_is_offered() -> None:
    words = [candidate.word for candidate in candidates([""], NAMES)]
    assert "verify" in words
    assert "track" not in words
