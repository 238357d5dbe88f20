"""Output URLs, read as lttng-tools 2.13.9 reads them; every line was compared with its `lttng create`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracefleet_common.codecs.output_url import BadUrl, output_from_url, output_from_urls, parse_url
from tracefleet_common.model.relay_output import FleetOutput, RelayOutput

ADDRESSES = {
    ("localhost", False): "127.0.0.1",
    ("localhost", True): "::1",
    ("::1", True): "::1",
    ("b", False): "10.0.0.2",
}


FLEET_ALONE = "The fleet[4|6]:// protocol has one URL, which --set-url takes"


def resolve(host: str, is_ipv6: bool) -> str | None:
    return ADDRESSES.get((host, is_ipv6))


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("net://localhost", "tcp4://127.0.0.1:5342/ [data: 5343]"),
        ("NET4://localhost/", "tcp4://127.0.0.1:5342/ [data: 5343]"),
        ("net://localhost:1234", "tcp4://127.0.0.1:1234/ [data: 5343]"),
        ("net://localhost:1234:1235/sub/dir", "tcp4://127.0.0.1:1234/sub/dir [data: 1235]"),
        ("net://localhost:", "tcp4://127.0.0.1:5342/ [data: 5343]"),
        ("net://localhost::12", "tcp4://127.0.0.1:5342/ [data: 12]"),
        ("net://localhost:12:", "tcp4://127.0.0.1:12/ [data: 5343]"),
        ("net://localhost:12x:13y", "tcp4://127.0.0.1:12/ [data: 13]"),
        ("net://localhost: +012", "tcp4://127.0.0.1:12/ [data: 5343]"),
        ("net://localhost:12/a:b", "tcp4://127.0.0.1:12/a:b [data: 5343]"),
        ("net://localhost//abs/ä", "tcp4://127.0.0.1:5342//abs/ä [data: 5343]"),
        ("net6://[::1]:5:6/x", "tcp6://[::1]:5/x [data: 6]"),
        ("net6://localhost", "tcp6://[::1]:5342/ [data: 5343]"),
        ("net6://[localhost]", "tcp6://[::1]:5342/ [data: 5343]"),
    ],
)
def test_a_network_url_names_a_relay_daemon(url: str, text: str) -> None:
    output = output_from_url(url, resolve)
    assert isinstance(output, RelayOutput)
    assert output.text == text


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("fleet://localhost", "fleet://127.0.0.1:5340/"),
        ("FLEET4://b:77/a/b", "fleet://10.0.0.2:77/a/b"),
        ("fleet6://[::1]:7/x", "fleet://[::1]:7/x"),
        ("fleet6://localhost", "fleet://[::1]:5340/"),
    ],
)
def test_a_fleet_url_names_a_relay_daemon_of_our_own(url: str, text: str) -> None:
    output = output_from_url(url, resolve)
    assert isinstance(output, FleetOutput)
    assert output.text == text


@pytest.mark.parametrize(("url", "path"), [("file:///tmp/x", "/tmp/x"), ("/tmp/x", "/tmp/x"), ("FILE:////x", "//x")])
def test_a_local_url_names_a_directory(url: str, path: str) -> None:
    assert output_from_url(url, resolve) == path


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("net://[::1]", "URI parse bad hostname ::1 for af 2"),
        ("net6://127.0.0.1", "URI parse bad hostname 127.0.0.1 for af 10"),
        ("net://", "No address or hostname detected."),
        ("net:///x", "No address or hostname detected."),
        ("net6://::1", "No address or hostname detected."),
        ("net6://[::1", "Broken IPv6 address ::1"),
        ("net6://[::1]x", "Unknown symbol after IPv6 address: x"),
        ("net://localhost:0", "Invalid port number 0"),
        ("net://localhost:65536", "Invalid port number 65536"),
        ("net://localhost:-1", "Invalid port number -1"),
        ("net://localhost:12:abc", "Invalid port number 0"),
        ("net://localhost:12:13:14", "Trailing characters not recognized: :14"),
        ("net://localhost:12:13:/x", "Trailing characters not recognized: :/x"),
        ("fleet://localhost:5:6", "Trailing characters not recognized: :6"),
        ("fleet://localhost:0", "Invalid port number 0"),
        ("fleet://nowhere", "URI parse bad hostname nowhere for af 2"),
        ("foo://x", "URI parse unknown protocol foo://x"),
        ("rel", "URI parse unknown protocol rel"),
        ("net:/localhost", "URI parse unknown protocol net:/localhost"),
        ("file://rel", "Missing destination full path."),
    ],
)
def test_a_url_that_cannot_be_is_refused_in_the_words_of_lttng(url: str, reason: str) -> None:
    with pytest.raises(BadUrl) as raised:
        output_from_url(url, resolve)
    assert raised.value.reasons == (reason, f"Unable to parse the URL {url}")


@pytest.mark.parametrize("url", ["", "tcp://localhost"])
def test_a_url_that_cannot_stand_alone_is_refused(url: str) -> None:
    with pytest.raises(BadUrl) as raised:
        output_from_url(url, resolve)
    assert raised.value.reasons == ()


@pytest.mark.parametrize(
    ("control", "data", "text"),
    [
        ("tcp://localhost", "tcp://localhost", "tcp4://127.0.0.1:5342/ [data: 5343]"),
        ("tcp://localhost:1/x", "tcp://localhost:2/y", "tcp4://127.0.0.1:1/x [data: 2]"),
        ("tcp6://[::1]", "tcp6://[::1]:9", "tcp6://[::1]:5342/ [data: 9]"),
        ("net://localhost:7", "net://localhost:7", "tcp4://127.0.0.1:7/ [data: 5343]"),
    ],
)
def test_two_urls_name_one_relay_daemon(control: str, data: str, text: str) -> None:
    assert output_from_urls(control, data, resolve).text == text


@pytest.mark.parametrize(
    ("control", "data", "reasons"),
    [
        ("tcp://localhost", "tcp://b", ("Control and data destination mismatch",)),
        ("tcp6://[::1]", "tcp://localhost", ("Control and data destination mismatch",)),
        ("tcp://localhost", "file:///x", ("Control and data destination mismatch",)),
        ("/x", "tcp://localhost", ("Cannot have a data URL when destination is file://",)),
        ("tcp://localhost", "net://localhost", ("Data URL can not be set with the net[4|6]:// protocol",)),
        ("fleet://localhost", "fleet://localhost", (FLEET_ALONE,)),
        ("tcp://localhost", "fleet://localhost", (FLEET_ALONE,)),
        (
            "net://localhost",
            "tcp://localhost",
            ("Control URL uses the net:// protocol and the data URL is different. Not allowed.",),
        ),
        ("tcp://localhost", "bar", ("URI parse unknown protocol bar", "Unable to parse the URL bar")),
        (
            "tcp://localhost:1:2",
            "tcp://localhost",
            ("Trailing characters not recognized: :2", "Unable to parse the URL tcp://localhost:1:2"),
        ),
    ],
)
def test_two_urls_that_do_not_belong_together_are_refused(control: str, data: str, reasons: tuple[str, ...]) -> None:
    with pytest.raises(BadUrl) as raised:
        output_from_urls(control, data, resolve)
    assert raised.value.reasons == reasons


@given(st.text(max_size=40), st.sampled_from(["", "net://", "net6://[", "tcp://h:", "file:///"]))
def test_any_text_is_a_url_or_refused(text: str, begin: str) -> None:
    try:
        parse_url(begin + text)
    except BadUrl as error:
        assert error.reasons
