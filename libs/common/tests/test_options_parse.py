"""The option parser, case by case as popt 1.19 (the parser of `lttng`) answers them."""

from __future__ import annotations

import pytest

from tracefleet_common.options import (
    MISSING_ARGUMENT,
    UNKNOWN_OPTION,
    UNWANTED_ARGUMENT,
    Option,
    OptionError,
    parse,
    render_help_section,
    render_option_list,
)

OPTIONS = (
    Option("str", "s", "TEXT", "A text.", is_repeatable=True),
    Option("opt", "o", "TEXT", "A text or none.", is_argument_optional=True),
    Option("flag", "f", None, "A switch."),
    Option("bare", None, None, "Without a short spelling."),
)


@pytest.mark.parametrize(
    ("words", "occurrences", "operands"),
    [
        ("", [], ""),
        ("-s 3", [("str", "3")], ""),
        ("-s3", [("str", "3")], ""),
        ("-s=3", [("str", "3")], ""),
        ("--str=3", [("str", "3")], ""),
        ("--str 3", [("str", "3")], ""),
        ("--str=", [("str", "")], ""),
        ("--str=a=b", [("str", "a=b")], ""),
        ("-s -f", [("str", "-f")], ""),
        ("--str -- x", [("str", "--")], "x"),
        ("-str 4", [("str", "tr")], "4"),
        ("-fs 3", [("flag", None), ("str", "3")], ""),
        ("-ff", [("flag", None), ("flag", None)], ""),
        ("a -f b -- -f", [("flag", None)], "a b -f"),
        ("- -f", [("flag", None)], "-"),
        ("-o 3", [("opt", "3")], ""),
        ("-o3", [("opt", "3")], ""),
        ("-o", [("opt", None)], ""),
        ("-o -f", [("opt", None), ("flag", None)], ""),
        ("--opt=", [("opt", "")], ""),
        ("--opt --bare x", [("opt", None), ("bare", None)], "x"),
        ("-s x -s y", [("str", "x"), ("str", "y")], ""),
    ],
)
def test_words_that_popt_accepts(words: str, occurrences: list[tuple[str, str | None]], operands: str) -> None:
    parsed = parse(OPTIONS, words.split())
    assert list(parsed.occurrences) == occurrences
    assert " ".join(parsed.operands) == operands


@pytest.mark.parametrize(
    ("words", "text"),
    [
        ("-s", f"-s: {MISSING_ARGUMENT}"),
        ("-fs", f"-fs: {MISSING_ARGUMENT}"),
        ("--str", f"--str: {MISSING_ARGUMENT}"),
        ("-fz", f"-fz: {UNKNOWN_OPTION}"),
        ("--zz=4", f"--zz=4: {UNKNOWN_OPTION}"),
        ("--fla", f"--fla: {UNKNOWN_OPTION}"),
        ("-o -3", f"-3: {UNKNOWN_OPTION}"),
        ("-f=3", f"-f=3: {UNWANTED_ARGUMENT}"),
        ("--flag=3", f"--flag=3: {UNWANTED_ARGUMENT}"),
    ],
)
def test_words_that_popt_refuses(words: str, text: str) -> None:
    with pytest.raises(OptionError) as refusal:
        parse(OPTIONS, words.split())
    assert str(refusal.value) == text


def test_options_before_a_sub_command_end_at_its_name() -> None:
    parsed = parse(OPTIONS, ["-f", "create", "-f", "--", "--unknown"], is_ending_at_operand=True)
    assert parsed.given_count("flag") == 1
    assert parsed.operands == ("create", "-f", "--", "--unknown")


def test_the_last_value_rules_and_none_is_forgotten() -> None:
    parsed = parse(OPTIONS, ["-s", "x", "--str=y", "-f"])
    assert parsed.value("str") == "y"
    assert parsed.values("str") == ("x", "y")
    assert parsed.has("flag")
    assert not parsed.has("bare")
    assert parsed.value("bare") is None


def test_help_and_option_list() -> None:
    assert render_option_list(OPTIONS) == "--str\n-s\n--opt\n-o\n--flag\n-f\n--bare\n"
    assert render_help_section("OPTIONS", OPTIONS) == (
        "OPTIONS\n"
        "    -s TEXT, --str=TEXT\n        A text. Can be given several times.\n\n"
        "    -o[TEXT], --opt[=TEXT]\n        A text or none.\n\n"
        "    -f, --flag\n        A switch.\n\n"
        "    --bare\n        Without a short spelling.\n\n"
    )
