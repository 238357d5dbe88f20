"""The two frames of a control message."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracefleet_common.errors import (
    ErrorCode,
    LocalProtocolError,
    NotFound,
    RemoteProtocolError,
    TracefleetError,
)
from tracefleet_common.messages.consumerd_control import ConsumerdRequest, ResumeChannels
from tracefleet_common.messages.envelope import (
    FRAME_SIZE_BYTES_MAX,
    PROTOCOL_MAJOR,
    PROTOCOL_MINOR,
    ErrorReply,
    Hello,
    HelloReply,
)
from tracefleet_common.transport import frames

REQUESTS = frames.body_decoder(ConsumerdRequest)


def test_a_request_comes_out_as_it_went_in() -> None:
    header, body = frames.encode_request(7, 5000, ResumeChannels((1, 2)))
    assert frames.decode_request_header(header).request_id == 7
    assert frames.decode_request_header(header).deadline_ms == 5000
    assert frames.decode_body(REQUESTS, body) == ResumeChannels((1, 2))


def test_an_error_comes_out_with_its_class_code_text_and_notes() -> None:
    error = NotFound("Registry 5 does not exist", ErrorCode.CHANNEL_NOT_FOUND)
    error.add_note("while starting session s")
    header, body = frames.encode_reply(7, frames.reply_from_error(error))
    assert frames.decode_reply_header(header).is_error
    arrived = frames.decode_error(body)
    assert type(arrived) is NotFound
    assert (arrived.code, str(arrived)) == (ErrorCode.CHANNEL_NOT_FOUND, "Registry 5 does not exist")
    assert arrived.__notes__ == ["while starting session s"]


def test_a_class_unknown_to_the_wire_travels_as_its_base() -> None:
    class SpecialNotFoundError(NotFound):
        pass

    assert frames.reply_from_error(SpecialNotFoundError("x")).kind == "NotFound"


def test_an_error_of_a_later_version_keeps_its_text_and_number() -> None:
    arrived = frames.error_from_reply(ErrorReply(kind="Novelty", code=4711, message="New trouble"))
    assert type(arrived) is TracefleetError
    assert (arrived.code, str(arrived), arrived.__notes__) == (
        ErrorCode.UNKNOWN,
        "New trouble",
        ["error code 4711"],
    )


def test_a_hello_of_a_later_minor_version_settles_on_ours() -> None:
    reply = frames.answer_hello(Hello(PROTOCOL_MAJOR, PROTOCOL_MINOR + 3, "later"), "ours")
    assert (reply.protocol_major, reply.protocol_minor) == (PROTOCOL_MAJOR, PROTOCOL_MINOR)


def test_another_major_version_is_refused_with_both_named() -> None:
    both = rf"9\.2.*{PROTOCOL_MAJOR}\.{PROTOCOL_MINOR}"
    with pytest.raises(RemoteProtocolError, match=both):
        frames.answer_hello(Hello(9, 2, "tracefleet 9.2"), "ours")
    with pytest.raises(RemoteProtocolError, match=both):
        frames.check_hello_reply(HelloReply(9, 2, "tracefleet 9.2", pid=1, uid=0))


@pytest.mark.parametrize("request_id", [0, -1])
def test_a_request_needs_a_positive_id(request_id: int) -> None:
    header, _ = frames.encode_request(request_id, 1000, ResumeChannels(()))
    with pytest.raises(RemoteProtocolError, match="not positive"):
        frames.decode_request_header(header)


@pytest.mark.parametrize("deadline_ms", [0, -5, 2**40])
def test_a_request_needs_a_sane_deadline(deadline_ms: int) -> None:
    header, _ = frames.encode_request(1, deadline_ms, ResumeChannels(()))
    with pytest.raises(RemoteProtocolError, match="Deadline"):
        frames.decode_request_header(header)


def test_a_body_larger_than_a_frame_is_not_sent() -> None:
    class Large(msgspec.Struct, tag="large"):
        text: str

    with pytest.raises(LocalProtocolError, match="exceeds"):
        frames.encode_request(1, 1000, Large("x" * FRAME_SIZE_BYTES_MAX))


def test_a_long_message_of_an_error_is_cut() -> None:
    reply = frames.reply_from_error(TracefleetError("x" * 100_000))
    assert len(reply.message) == frames.ERROR_TEXT_CHARACTERS_MAX


@given(st.binary(max_size=200))
def test_no_bytes_do_more_than_raise_a_protocol_error(rubbish: bytes) -> None:
    for decode in (
        frames.decode_request_header,
        frames.decode_reply_header,
        frames.decode_error,
        lambda frame: frames.decode_body(REQUESTS, frame),
    ):
        with contextlib.suppress(RemoteProtocolError):
            decode(rubbish)
