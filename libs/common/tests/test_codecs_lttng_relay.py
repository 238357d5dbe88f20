"""LTTng's relay protocol against recorded conversations, in both directions."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from tracefleet_common.codecs import lttng_relay as relay
from tracefleet_common.codecs.lttng_relay_data import (
    DATA_HEADER_SIZE_BYTES,
    DataHeader,
    DataHeaderDecoder,
    decode_data_header,
    encode_data_header,
)
from tracefleet_common.codecs.lttng_relay_replies import ReplyDecoder, encode_reply
from tracefleet_common.codecs.lttng_relay_requests import RequestDecoder, encode_metadata_header, encode_request
from tracefleet_common.codecs.lttng_wire import RefusedCommand, TraceFormat
from tracefleet_common.errors import LocalProtocolError, RemoteProtocolError
from tracefleet_common.testing.lttng_vectors import Row, read_vectors

HEADER_SIZE = 24
# What lttng-relayd refuses because of its layout, and whether it sends a reply.
BROKEN = {"short VERSION": False, "add stream truncated": True, "rotate header 17 bytes": False}
BROKEN |= {"unknown command": True, "reserved command 4": True, "close invalid command": True}
CUT_NOTE_SIZE = 140


def relay_rows() -> Iterator[tuple[Row, int]]:
    """All messages with the minor that was agreed on before them; the probes leave the usual VERSION out."""
    for (_, _), rows in itertools.groupby(read_vectors("relay-*.jsonl"), lambda row: (row.file, row.connection)):
        minor = relay.MINOR
        for row in rows:
            yield row, minor
            if row.label == "VERSION" and len(row.data) == 32 and row.data[27] == relay.MAJOR:
                minor = min(row.data[31], relay.MINOR)
            elif row.label == "VERSION reply":
                minor = min(row.data[7], minor)


ROWS = [(row, minor) for row, minor in relay_rows() if row.data]
REQUESTS = [(row, minor) for row, minor in ROWS if row.direction == "c2s" and row.label != "DATA"]
IS_BROKEN = [row.connection in BROKEN and row.label != "CREATE_SESSION" for row, _ in REQUESTS]
GOOD_REQUESTS = [request for request, is_broken in zip(REQUESTS, IS_BROKEN, strict=True) if not is_broken]
BROKEN_REQUESTS = list(itertools.compress(REQUESTS, IS_BROKEN))
REPLIES = [(row, minor) for row, minor in ROWS if row.direction == "s2c" and row.label.endswith(" reply")]
REPLIES = [(row, minor) for row, minor in REPLIES if row.connection not in ("unknown command", "reserved command 4")]
DATA = [row for row, _ in ROWS if row.label == "DATA"]


def parametrize(rows: list[tuple[Row, int]]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize(("row", "minor"), rows, ids=[str(row) for row, _ in rows])


def decode_one(data: bytes, minor: int) -> relay.Request:
    decoder = RequestDecoder(minor)
    decoder.receive(data)
    request = decoder.next_command()
    assert request is not None
    assert decoder.next_command() is None
    assert decoder.buffered_size_bytes == 0
    return request


def decode_one_reply(command: relay.Command, data: bytes, minor: int) -> relay.Reply:
    decoder = ReplyDecoder(minor)
    decoder.expect(command)
    decoder.receive(data)
    reply = decoder.next_reply()
    assert reply is not None
    assert decoder.next_reply() is None
    assert decoder.buffered_size_bytes == 0
    return reply


def signed(number: int | None) -> int:
    return -1 if number is None else number


def names(*texts: str) -> str:
    return repr("".join(text + "\0" for text in texts).encode())


def noted(request: relay.Request, minor: int) -> list[str]:
    """The fields of a request as the recorder noted them."""
    match request:
        case relay.Version():
            return [f"major={request.major} minor={request.minor}"]
        case relay.CreateSession() if minor < 4:
            return [""]
        case relay.CreateSession() if minor < 11:
            live_and_snapshot = f"live={request.live_timer_us} snap={request.is_snapshot:d}"
            return [f"name={request.session_name} host={request.host_name} {live_and_snapshot}"]
        case relay.CreateSession():
            assert request.sessiond_uuid is not None
            chunk = request.current_chunk_id
            fields = (
                f"sn_len={len(request.session_name) + 1} hn_len={len(request.host_name) + 1}",
                f"bp_len={len(request.base_path) + 1} live={request.live_timer_us} snap={request.is_snapshot:d}",
                f"ncct={request.has_creation_time_in_name:d} uuid={request.sessiond_uuid.hex()}",
                f"sid={request.sessiond_session_id} ctime={request.creation_time_s}",
                f"chunk=({chunk is not None:d},{chunk or 0})",
                f"names={names(request.session_name, request.host_name, request.base_path)}",
            )
            return [" ".join(fields)]
        case relay.AddStream() if minor < 11:
            tail = b"" if minor == 1 else b"%016x%016x" % (request.trace_file_size_bytes, request.trace_file_count)
            return [f"chan={request.channel_name} path={request.path} tail={tail.decode()}"]
        case relay.AddStream():
            return [
                f"cn_len={len(request.channel_name) + 1} pn_len={len(request.path) + 1}",
                f"tfsize={request.trace_file_size_bytes} tfcount={request.trace_file_count}",
                f"chunk={request.trace_chunk_id} names={names(request.channel_name, request.path)}",
            ]
        case relay.StartData() | relay.StreamsSent():
            return [""]
        case relay.SendMetadata():
            return [f"stream={request.stream_handle} pad={request.padding_size_bytes} len={len(request.content)}"]
        case relay.CloseStream() | relay.DataPending():
            return [f"stream={request.stream_handle} last_seq={signed(request.last_sequence_number)}"]
        case relay.BeginDataPending() | relay.EndDataPending():
            return [f"id={request.session_id}"]
        case relay.QuiescentControl():
            return [f"id={request.stream_handle}"]
        case relay.SendIndex():
            index = [
                f"stream={request.stream_handle} seq={signed(request.sequence_number)} psz={request.packet_size_bits}",
                f"csz={request.content_size_bits} tb={request.timestamp_begin} te={request.timestamp_end}",
                f"disc={request.discarded_event_count} sid={request.stream_class_id}",
            ]
            if minor >= 8:
                index.append(f"inst={request.stream_instance_id} pseq={request.packet_sequence_number}")
            return index
        case relay.ResetMetadata():
            return [f"stream={request.stream_handle} version={request.version}"]
        case relay.RotateStreams():
            positions = [(position.stream_handle, position.packet_sequence_number) for position in request.positions]
            return [f"n={len(positions)}", f"pos={positions}"]
        case relay.CreateTraceChunk():
            name = "" if request.override_name is None else request.override_name + "\0"
            stamp = f"id={request.chunk_id} ts={request.creation_time_s}"
            return [f"{stamp} nlen={len(name)} name={name.encode()!r}"]
        case relay.CloseTraceChunk():
            command = request.close_command
            stamp = f"id={request.chunk_id} ts={request.close_time_s}"
            return [f"{stamp} cmd=(set {command is not None:d}, {command or 0:d}) len=21"]
        case relay.TraceChunkExists():
            return [f"id={request.chunk_id}"]
        case relay.GetConfiguration():
            return [f"flags={request.query_flags}"]


def noted_reply(reply: relay.Reply, minor: int) -> str:
    match reply:
        case relay.Version():
            return f"major={reply.major} minor={reply.minor}"
        case relay.StatusReply():
            return f"ret={reply.return_code}"
        case relay.PendingReply():
            return f"ret={reply.status:d}"
        case relay.CreateSessionReply() if minor < 11:
            return f"sid={reply.session_id} ret={reply.return_code}"
        case relay.CreateSessionReply():
            path = names(reply.output_path) if reply.output_path else "b''"
            size = len(reply.output_path) + 1 if reply.output_path else 0
            return f"sid={reply.session_id} ret={reply.return_code} plen={size} path={path}"
        case relay.AddStreamReply():
            return f"handle={signed(reply.stream_handle)} ret={reply.return_code}"
        case relay.CloseTraceChunkReply():
            path = names(reply.path) if reply.path else "b''"
            return f"ret={reply.return_code} plen={len(reply.path) + 1 if reply.path else 0} path={path}"
        case relay.TraceChunkExistsReply():
            return f"ret={reply.return_code} exists={reply.is_there:d}"
        case relay.GetConfigurationReply():
            return f"ret={reply.return_code} flags={reply.is_clear_allowed:d}"


def without_garbage(data: bytes, request: relay.Request, minor: int) -> bytes:
    """Zero what genuine peers leave uninitialised: padding, and arrays after their NUL."""
    clean = bytearray(data)
    arrays: list[tuple[int, int]] = []
    if isinstance(request, relay.RotateStreams):
        clean[HEADER_SIZE + 5 : HEADER_SIZE + 12] = bytes(7)
    elif isinstance(request, relay.CreateSession) and 4 <= minor < 11:
        arrays = [(0, 255), (255, 64)]
    elif isinstance(request, relay.AddStream) and minor < 11:
        arrays = [(0, 264), (264, 4096)]
    for offset, size in arrays:
        start = HEADER_SIZE + offset
        text = bytes(clean[start : start + size]).partition(b"\0")[0]
        clean[start : start + size] = text.ljust(size, b"\0")
    return bytes(clean)


def test_there_are_vectors_of_every_command() -> None:
    """Otherwise the tests below would pass because there is nothing to test."""
    assert {command.name for command in relay.Command} <= {row.label for row, _ in GOOD_REQUESTS}
    # SEND_METADATA is not answered.
    answered = {f"{command.name} reply" for command in relay.Command if command is not relay.Command.SEND_METADATA}
    assert answered == {row.label for row, _ in REPLIES}
    assert {minor for _, minor in GOOD_REQUESTS} == {1, 2, 3, 4, 10, 13}
    assert {row.connection for row, _ in BROKEN_REQUESTS} == set(BROKEN)


@parametrize(GOOD_REQUESTS)
def test_recorded_request(row: Row, minor: int) -> None:
    request = decode_one(row.data, minor)
    assert request.command.name == row.label
    if row.note != "data present, index missing":
        for field in noted(request, minor):
            is_cut = len(row.note) == CUT_NOTE_SIZE  # by the recorder
            assert field in row.note or (is_cut and field.startswith(row.note))
    encoded = encode_request(request, minor)
    assert decode_one(encoded, minor) == request
    if row.connection not in ("rotate header 13 bytes", "rotate header 16 bytes"):  # read, never written
        assert encoded == without_garbage(row.data, request, minor)


@parametrize(BROKEN_REQUESTS)
def test_recorded_request_that_is_refused(row: Row, minor: int) -> None:
    decoder = RequestDecoder(minor)
    decoder.receive(row.data)
    with pytest.raises(RemoteProtocolError) as refusal:
        decoder.next_command()
    if not BROKEN[row.connection]:
        assert not isinstance(refusal.value, RefusedCommand)
        return
    assert isinstance(refusal.value, RefusedCommand)
    assert refusal.value.must_close
    (answer,) = [other.data for other, _ in ROWS if (other.file, other.number) == (row.file, row.number + 1)]
    assert refusal.value.reply == with_path_of_one_byte(row.label, answer)


def with_path_of_one_byte(label: str, answer: bytes) -> bytes:
    """What we send where lttng-relayd announces a path of 0 bytes, for which its own client waits for ever."""
    has_path = label.startswith("CLOSE_TRACE_CHUNK") or (label.startswith("CREATE_SESSION") and len(answer) == 16)
    return answer[:-4] + b"\0\0\0\1\0" if has_path and answer.endswith(bytes(4)) else answer


@parametrize(REPLIES)
def test_recorded_reply(row: Row, minor: int) -> None:
    command = relay.Command[row.label.removesuffix(" reply")]
    reply = decode_one_reply(command, row.data, minor)
    assert noted_reply(reply, minor) in row.note
    encoded = encode_reply(reply, minor)
    assert encoded == with_path_of_one_byte(row.label, row.data)
    assert decode_one_reply(command, encoded, minor) == reply


@pytest.mark.parametrize("row", DATA, ids=str)
def test_recorded_data(row: Row) -> None:
    decoder = DataHeaderDecoder()
    decoder.receive(row.data[: decoder.missing_size_bytes])
    header = decoder.next_header()
    assert header is not None
    size_and_padding = f"size={header.payload_size_bytes} pad={header.padding_size_bytes}"
    assert row.note == f"circ=0 stream={header.stream_handle} seq={header.sequence_number} {size_and_padding}"
    assert DATA_HEADER_SIZE_BYTES + header.payload_size_bytes == len(row.data)
    assert encode_data_header(header) == row.data[:DATA_HEADER_SIZE_BYTES]


@pytest.mark.parametrize("piece_size", [1, 7, 1000, 100_000])
def test_messages_do_not_depend_on_the_pieces_they_come_in(piece_size: int) -> None:
    requests = [row.data for row, minor in GOOD_REQUESTS if minor == relay.MINOR]
    whole = [decode_one(data, relay.MINOR) for data in requests]
    decoder = RequestDecoder(relay.MINOR)
    received: list[relay.Request] = []
    stream = b"".join(requests)
    for start in range(0, len(stream), piece_size):
        decoder.receive(stream[start : start + piece_size])
        while (request := decoder.next_command()) is not None:
            received.append(request)
    assert received == whole


# ── What no vector shows ─────────────────────────────────────────────────────────────────────────────────────────────

SESSION = relay.CreateSession(
    session_name="sitzung-ä",
    host_name="host",
    base_path="a/b",
    live_timer_us=1_000_000,
    is_snapshot=True,
    has_creation_time_in_name=True,
    sessiond_uuid=bytes(range(16)),
    sessiond_session_id=3,
    creation_time_s=1_700_000_000,
    current_chunk_id=5,
)


def header(command: int, payload_size: int) -> bytes:
    return bytes(8) + payload_size.to_bytes(8, "big") + command.to_bytes(4, "big") + bytes(4)


def refusal_of(data: bytes, minor: int = relay.MINOR) -> RemoteProtocolError:
    decoder = RequestDecoder(minor)
    decoder.receive(data)
    with pytest.raises(RemoteProtocolError) as refusal:
        decoder.next_command()
    return refusal.value


@pytest.mark.parametrize("minor", [11, 12, 13, 14])
def test_session_with_a_current_chunk(minor: int) -> None:
    encoded = encode_request(SESSION, minor)
    assert decode_one(encoded, minor) == SESSION
    assert len(encoded) == HEADER_SIZE + 59 + len("sitzung-ä".encode()) + 1 + 5 + 4


def test_session_of_minor_15_says_its_trace_format() -> None:
    encoded = encode_request(SESSION, 15)
    assert encoded[HEADER_SIZE + 59 : HEADER_SIZE + 63] == bytes([0, 0, 0, 1])
    request = decode_one(encoded, 15)
    assert isinstance(request, relay.CreateSession)
    assert request.trace_format is TraceFormat.CTF_1_8
    unknown = encoded[: HEADER_SIZE + 62] + b"\3" + encoded[HEADER_SIZE + 63 :]
    assert isinstance(refusal_of(unknown, 15), RefusedCommand)


def test_index_of_minor_7_has_no_instance() -> None:
    index = relay.SendIndex(
        stream_handle=1,
        sequence_number=None,
        packet_size_bits=0,
        content_size_bits=0,
        timestamp_begin=0,
        timestamp_end=999,
        discarded_event_count=0,
        stream_class_id=2,
    )
    assert index.is_beacon
    assert len(encode_request(index, 7)) == HEADER_SIZE + 64
    assert decode_one(encode_request(index, 7), 7) == index
    assert len(encode_request(index, 8)) == HEADER_SIZE + 80
    # A peer that does not keep to the minor it announced.
    assert not isinstance(refusal_of(encode_request(index, 7), 8), RefusedCommand)


@pytest.mark.parametrize(
    ("request_", "minor"),
    [
        (SESSION, 0),
        (relay.StreamsSent(), 3),
        (relay.ResetMetadata(stream_handle=1, version=1), 7),
        (relay.TraceChunkExists(chunk_id=0), 10),
    ],
)
def test_command_that_the_minor_does_not_know(request_: relay.Request, minor: int) -> None:
    with pytest.raises(LocalProtocolError, match=request_.command.name):
        encode_request(request_, minor)
    error = refusal_of(encode_request(request_, relay.MINOR), minor)
    assert request_.command.name in str(error)
    assert not isinstance(error, RefusedCommand)


@pytest.mark.parametrize("request_", [relay.Version(), relay.GetConfiguration(), relay.StartData()])
def test_commands_before_version(request_: relay.Request) -> None:
    assert decode_one(encode_request(request_, 0), 0) == request_


@pytest.mark.parametrize(
    "damage",
    [
        {59 + 8: 0},  # a NUL in the middle of the session name
        {59 + 10: 0xFF},  # no NUL at the end of the session name
        {59 + 1: 0xFF},  # not UTF-8
        {2: 1},  # a session name of 256 and more bytes
        {3: 200},  # longer than the payload
        {6: 1},  # host name
        {10: 0x11},  # base path
    ],
)
def test_session_with_a_lying_string_is_refused_and_the_connection_goes_on(damage: dict[int, int]) -> None:
    data = bytearray(encode_request(SESSION))
    for at, value in damage.items():
        data[HEADER_SIZE + at] = value
    decoder = RequestDecoder(relay.MINOR)
    decoder.receive(bytes(data) + encode_request(relay.StartData()))
    with pytest.raises(RefusedCommand) as refusal:
        decoder.next_command()
    assert not refusal.value.must_close
    reply = decode_one_reply(relay.Command.CREATE_SESSION, refusal.value.reply, relay.MINOR)
    assert reply == relay.CreateSessionReply(session_id=0, return_code=relay.ReturnCode.FATAL, output_path="")
    assert decoder.next_command() == relay.StartData()


def test_session_of_minor_4_without_a_nul_is_refused() -> None:
    data = bytearray(encode_request(relay.CreateSession(session_name="s", host_name="h"), 4))
    data[HEADER_SIZE : HEADER_SIZE + 255] = b"x" * 255
    error = refusal_of(bytes(data), 4)
    assert isinstance(error, RefusedCommand)
    assert error.reply == bytes(11) + b"\x19"


@pytest.mark.parametrize("minor", [1, 2, 10, 11, 13])
def test_stream_with_names_that_are_too_long(minor: int) -> None:
    longest = relay.AddStream(channel_name="c" * 263, path="p" * 254, trace_chunk_id=0 if minor >= 11 else None)
    assert decode_one(encode_request(longest, minor), minor) == longest
    with pytest.raises(LocalProtocolError, match="channel name"):
        encode_request(relay.AddStream(channel_name="c" * 264, path="p"), minor)
    with pytest.raises(LocalProtocolError, match="path"):
        encode_request(relay.AddStream(channel_name="c", path="p" * (4096 if minor < 11 else 255)), minor)


@pytest.mark.parametrize(("name_size", "path_size"), [(265, 2), (2, 256)])
def test_stream_whose_names_are_longer_than_allowed_is_refused(name_size: int, path_size: int) -> None:
    texts = b"c" * (name_size - 1) + b"\0" + b"p" * (path_size - 1) + b"\0"
    payload = name_size.to_bytes(4, "big") + path_size.to_bytes(4, "big") + bytes(24) + texts
    error = refusal_of(header(relay.Command.ADD_STREAM, len(payload)) + payload)
    assert isinstance(error, RefusedCommand)
    assert error.must_close
    assert error.reply == b"\xff" * 8 + b"\0\0\0\x0b"
    assert "at most" in str(error)


@pytest.mark.parametrize("sizes", [(256, 2, 1), (2, 257, 1), (2, 2, 4097)])
def test_session_whose_names_are_longer_than_allowed_is_refused(sizes: tuple[int, int, int]) -> None:
    lengths = b"".join(size.to_bytes(4, "big") for size in sizes)
    payload = lengths + bytes(47) + b"".join(b"x" * (size - 1) + b"\0" for size in sizes)
    error = refusal_of(header(relay.Command.CREATE_SESSION, len(payload)) + payload)
    assert isinstance(error, RefusedCommand)
    assert "at most" in str(error)


@pytest.mark.parametrize("name", [b"\0", b"chunk", b"x" * 254 + b"\0", b"a\0b\0", b"\xff\0"])
def test_chunk_with_a_bad_override_name_is_refused(name: bytes) -> None:
    payload = bytes(16) + len(name).to_bytes(4, "big") + name
    error = refusal_of(header(relay.Command.CREATE_TRACE_CHUNK, len(payload)) + payload)
    assert isinstance(error, RefusedCommand)
    assert error.reply == relay.ReturnCode.INVALID.to_bytes(4, "big")


def test_surplus_of_a_payload_is_ignored_and_not_kept() -> None:
    size = 100_000_000
    decoder = RequestDecoder()
    decoder.receive(header(relay.Command.VERSION, size) + bytes([0, 0, 0, 2, 0, 0, 0, 13]))
    assert decoder.next_command() == relay.Version(major=2, minor=13)
    chunk = bytes(1 << 20)
    left = size - 8
    while left:
        decoder.receive(chunk[: min(left, len(chunk))])
        left -= min(left, len(chunk))
        assert decoder.next_command() is None
        assert decoder.buffered_size_bytes == 0
    decoder.receive(encode_request(relay.StartData(), 0))
    assert decoder.next_command() == relay.StartData()


@pytest.mark.parametrize(
    ("command", "size"),
    [
        (relay.Command.VERSION, (128 << 20) + 1),
        (relay.Command.SEND_METADATA, 12 + 4097),
        (relay.Command.ROTATE_STREAMS, 20 + 16 * (relay.ROTATED_STREAM_COUNT_MAX + 1)),
    ],
)
def test_payload_that_is_too_large_is_refused_at_its_header(command: relay.Command, size: int) -> None:
    decoder = RequestDecoder(relay.MINOR, metadata_size_bytes_max=4096)
    decoder.receive(header(command, size))
    with pytest.raises(RemoteProtocolError, match="announces"):
        decoder.next_command()
    decoder.receive(bytes(1000))
    assert decoder.buffered_size_bytes == 0
    with pytest.raises(RemoteProtocolError, match="announces"):
        decoder.next_command()


def test_metadata_is_counted_with_its_padding() -> None:
    fits = relay.SendMetadata(stream_handle=3, content=b"x" * 100, padding_size_bytes=3996)
    data = encode_request(fits)
    assert data == encode_metadata_header(stream_handle=3, content_size_bytes=100, padding_size_bytes=3996) + b"x" * 100
    decoder = RequestDecoder(relay.MINOR, metadata_size_bytes_max=4096)
    decoder.receive(data)
    assert decoder.next_command() == fits
    decoder.receive(encode_metadata_header(stream_handle=3, content_size_bytes=100, padding_size_bytes=3997))
    decoder.receive(b"x" * 100)
    with pytest.raises(RemoteProtocolError, match="4097 bytes"):
        decoder.next_command()


def test_most_streams_that_can_be_rotated_at_once() -> None:
    positions = tuple(
        relay.RotationPosition(stream_handle=handle, packet_sequence_number=2 * handle)
        for handle in range(relay.ROTATED_STREAM_COUNT_MAX)
    )
    rotation = relay.RotateStreams(new_chunk_id=1, positions=positions)
    assert decode_one(encode_request(rotation), relay.MINOR) == rotation
    with pytest.raises(LocalProtocolError):
        encode_request(relay.RotateStreams(new_chunk_id=1, positions=(*positions, positions[0])))


def test_rotation_garbage_in_the_padding_does_not_set_a_chunk() -> None:
    data = bytearray(encode_request(relay.RotateStreams(new_chunk_id=None, positions=())))
    data[HEADER_SIZE + 5 : HEADER_SIZE + 12] = b"\xff" * 7
    assert decode_one(bytes(data), relay.MINOR) == relay.RotateStreams(new_chunk_id=None, positions=())


@pytest.mark.parametrize(
    "request_",
    [
        relay.BeginDataPending(session_id=-1),
        relay.BeginDataPending(session_id=1 << 64),
        relay.CreateTraceChunk(chunk_id=0, creation_time_s=0, override_name="a\0b"),
        relay.CreateTraceChunk(chunk_id=0, creation_time_s=0, override_name="\ud800"),
        relay.CreateSession(session_name="s", host_name="h"),
    ],
)
def test_what_cannot_be_encoded_is_our_error(request_: relay.Request) -> None:
    with pytest.raises(LocalProtocolError):
        encode_request(request_)


def test_replies_come_in_the_order_of_the_requests() -> None:
    decoder = ReplyDecoder(relay.MINOR)
    decoder.expect(relay.Command.SEND_METADATA)  # none
    decoder.expect(relay.Command.ADD_STREAM)
    decoder.expect(relay.Command.SEND_INDEX)
    replies: list[relay.Reply] = []
    for byte in encode_reply(relay.AddStreamReply(stream_handle=7)) + encode_reply(relay.StatusReply()):
        decoder.receive(bytes([byte]))
        reply = decoder.next_reply()
        if reply is not None:
            replies.append(reply)
    assert replies == [relay.AddStreamReply(stream_handle=7), relay.StatusReply(return_code=10)]
    decoder.receive(b"\0")
    with pytest.raises(RemoteProtocolError, match="nobody asked"):
        decoder.next_reply()


@pytest.mark.parametrize(
    ("command", "data"),
    [
        (relay.Command.CREATE_SESSION, bytes(12) + b"\0\0\x10\0"),  # 4096 bytes of path
        (relay.Command.CREATE_SESSION, bytes(12) + b"\0\0\0\2ab"),  # no NUL
        (relay.Command.CLOSE_TRACE_CHUNK, bytes(4) + b"\0\0\x10\0"),
        (relay.Command.CLOSE_TRACE_CHUNK, bytes(4) + b"\0\0\0\2\xff\0"),
        (relay.Command.DATA_PENDING, b"\0\0\0\2"),
    ],
)
def test_reply_that_cannot_be(command: relay.Command, data: bytes) -> None:
    decoder = ReplyDecoder(relay.MINOR)
    decoder.expect(command)
    decoder.receive(data)
    with pytest.raises(RemoteProtocolError):
        decoder.next_reply()


def test_the_lower_minor_counts() -> None:
    assert relay.agreed_minor(relay.MINOR, 99) == relay.MINOR
    assert relay.agreed_minor(relay.MINOR, 4) == 4


def test_data_header_that_announces_too_much() -> None:
    largest = DataHeader(stream_handle=1, sequence_number=2, payload_size_bytes=1000, padding_size_bytes=24)
    assert largest.packet_size_bytes == 1024
    assert decode_data_header(encode_data_header(largest), packet_size_bytes_max=1024) == largest
    with pytest.raises(RemoteProtocolError, match="1000 \\+ 24"):
        decode_data_header(encode_data_header(largest), packet_size_bytes_max=1023)
    with pytest.raises(RemoteProtocolError, match="31 bytes"):
        decode_data_header(bytes(31))


def test_data_header_in_pieces_takes_no_payload() -> None:
    headers = [DataHeader(stream_handle=1, sequence_number=number, payload_size_bytes=0) for number in range(2)]
    decoder = DataHeaderDecoder()
    for expected in headers:
        for byte in encode_data_header(expected):
            assert decoder.next_header() is None
            decoder.receive(bytes([byte]))
        assert decoder.missing_size_bytes == 0
        assert decoder.next_header() == expected
        assert decoder.missing_size_bytes == DATA_HEADER_SIZE_BYTES
    with pytest.raises(LocalProtocolError, match="33 bytes"):
        decoder.receive(bytes(33))
