"""RPC machines: golden bytes, whole calls in arbitrary pieces, cancellation rules, caps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import process_time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import KwaaiNetError, LimitExceeded, ProtocolError, UsageError
from kwaainet.wire import varint
from kwaainet.wire.messages import CallUnaryResponse, RPCError, UnaryRequest, UnaryResponse
from kwaainet.wire.rpc import (
    MAX_ERROR_TEXT,
    MAX_FRAME_SIZE,
    MAX_UNARY_SIZE,
    Cancelled,
    Ended,
    Event,
    Failed,
    Message,
    StreamAnswerer,
    StreamCaller,
    UnaryAnswerer,
    UnaryCaller,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "hivemind.json").read_text())
CALL_ID = bytes(range(16))
Machine = UnaryCaller | UnaryAnswerer | StreamCaller | StreamAnswerer
MACHINES: list[Callable[[], Machine]] = [
    lambda: UnaryCaller(CALL_ID, b"PPPP", "A.rpc_x", b"d"),
    UnaryAnswerer,
    StreamCaller,
    StreamAnswerer,
]


def golden(name: str) -> bytes:
    return bytes.fromhex(VECTORS[name])


def caller() -> UnaryCaller:
    machine = UnaryCaller(CALL_ID, b"PPPP", "A.rpc_x", b"d")
    machine.data_to_send()
    return machine


def events(machine: Machine) -> list[Event]:
    return list(iter(machine.next_event, None))


def feed(machine: Machine, data: bytes, cuts: list[int]) -> None:
    """Give ``data`` to the machine in pieces of the lengths ``cuts``, then the rest."""
    for cut in cuts:
        machine.receive_data(data[:cut])
        data = data[cut:]
    machine.receive_data(data)


def envelope(message: UnaryRequest | UnaryResponse) -> bytes:
    encoded = message.encode()
    return varint.encode(len(encoded)) + encoded


# --- unary ------------------------------------------------------------------------------------


def test_unary_call_is_hiveminds_bytes_both_ways() -> None:
    calling = UnaryCaller(CALL_ID, b"PPPP", "A.rpc_x", b"d")
    answering = UnaryAnswerer()
    request = calling.data_to_send()
    assert request == golden("unary_req")
    assert calling.data_to_send() == b""

    answering.receive_data(request)
    assert events(answering) == [Message(b"d")]
    answering.respond(b"r")
    reply = answering.data_to_send()
    assert reply == golden("unary_resp")

    calling.receive_data(reply)
    calling.receive_eof()
    assert events(calling) == [Message(b"r")]


@given(st.binary(max_size=300), st.binary(max_size=300), st.lists(st.integers(0, 50), max_size=20))
def test_unary_call_survives_any_fragmentation(request: bytes, reply: bytes, cuts: list[int]) -> None:
    calling, answering = UnaryCaller(CALL_ID, b"", "", request), UnaryAnswerer()
    feed(answering, calling.data_to_send(), cuts)
    assert events(answering) == [Message(request)]
    answering.respond(reply)
    feed(calling, answering.data_to_send(), cuts)
    assert events(calling) == [Message(reply)]


@given(st.text(max_size=100))
def test_unary_error_reaches_the_caller_as_text(text: str) -> None:
    answering, calling = UnaryAnswerer(), caller()
    answering.receive_data(golden("unary_req"))
    answering.fail(text)
    calling.receive_data(answering.data_to_send())
    assert events(calling) == [Failed(text.encode("utf-8", "replace").decode())]


def test_error_bytes_that_are_not_utf8_are_still_shown() -> None:
    machine = caller()
    machine.receive_data(envelope(UnaryResponse(CALL_ID, CallUnaryResponse(error=b"\xffno"))))
    assert events(machine) == [Failed("\ufffdno")]


def test_caller_leaving_early_cancels_and_leaving_late_does_not() -> None:
    early = UnaryAnswerer()
    early.receive_data(golden("unary_req"))
    early.receive_eof()
    early.receive_eof()
    assert events(early) == [Message(b"d"), Cancelled()]
    with pytest.raises(UsageError, match="cancelled"):
        early.respond(b"too late")

    late = UnaryAnswerer()
    late.receive_data(golden("unary_req"))
    late.respond(b"r")
    late.receive_eof()
    assert events(late) == [Message(b"d")]


def test_callee_leaving_without_a_reply_cancels() -> None:
    machine = caller()
    machine.receive_data(golden("unary_resp")[:-1])
    machine.receive_eof()
    machine.receive_eof()
    assert events(machine) == [Cancelled()]


def test_foreign_call_id_is_refused() -> None:
    machine = caller()
    with pytest.raises(ProtocolError, match="call id"):
        machine.receive_data(envelope(UnaryResponse(bytes(16), CallUnaryResponse(response=b"r"))))


@pytest.mark.parametrize("reply", [None, CallUnaryResponse(), CallUnaryResponse(response=b"", error=b"")])
def test_reply_must_hold_exactly_one_of_response_and_error(reply: CallUnaryResponse | None) -> None:
    with pytest.raises(ProtocolError, match="exactly one"):
        caller().receive_data(envelope(UnaryResponse(CALL_ID, reply)))


def test_empty_response_is_a_response() -> None:
    machine = caller()
    machine.receive_data(envelope(UnaryResponse(CALL_ID, CallUnaryResponse(response=b""))))
    assert events(machine) == [Message(b"")]


@pytest.mark.parametrize("request_", [UnaryRequest(CALL_ID), UnaryRequest(b"short")])
def test_request_without_a_call_or_with_a_short_id_is_refused(request_: UnaryRequest) -> None:
    with pytest.raises(ProtocolError, match="call"):
        UnaryAnswerer().receive_data(envelope(request_))


@pytest.mark.parametrize("split", [0, 3])
def test_bytes_after_the_request_are_refused(split: int) -> None:
    machine, data = UnaryAnswerer(), golden("unary_req") + b"xyz"
    end = len(data) - split
    with pytest.raises(ProtocolError, match="follow"):
        feed(machine, data, [end])


def test_unary_length_bomb_is_refused_at_its_header() -> None:
    with pytest.raises(LimitExceeded, match=str(MAX_UNARY_SIZE)):
        UnaryAnswerer().receive_data(varint.encode(MAX_UNARY_SIZE + 1))
    UnaryAnswerer().receive_data(varint.encode(MAX_UNARY_SIZE))


def test_own_envelopes_keep_the_cap() -> None:
    with pytest.raises(UsageError, match="stream RPC"):
        UnaryCaller(CALL_ID, b"", "", bytes(MAX_UNARY_SIZE))


def test_own_call_id_must_have_16_bytes() -> None:
    with pytest.raises(UsageError, match="5 bytes"):
        UnaryCaller(b"short", b"", "", b"")


def test_answering_needs_a_request_and_happens_once() -> None:
    machine = UnaryAnswerer()
    with pytest.raises(UsageError, match="after its request"):
        machine.respond(b"")
    machine.receive_data(golden("unary_req"))
    machine.respond(b"")
    with pytest.raises(UsageError, match="once"):
        machine.fail("again")


def test_too_large_answer_can_still_be_turned_into_an_error() -> None:
    machine, calling = UnaryAnswerer(), caller()
    machine.receive_data(golden("unary_req"))
    with pytest.raises(UsageError, match="exceeds"):
        machine.respond(bytes(MAX_UNARY_SIZE))
    machine.fail("too large")
    calling.receive_data(machine.data_to_send())
    assert events(calling) == [Failed("too large")]


# --- streams ----------------------------------------------------------------------------------


def test_frames_are_hiveminds_bytes() -> None:
    calling = StreamCaller()
    calling.send(b"abc")
    assert calling.data_to_send() == golden("frame_message")
    calling.end()
    calling.end()
    assert calling.data_to_send() == golden("frame_end")

    answering = StreamAnswerer()
    answering.send(b"abc")
    assert answering.data_to_send() == golden("frame_message")
    answering.fail("boom")
    assert answering.data_to_send() == golden("frame_error")


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(0, 30), max_size=30))
def test_stream_call_survives_any_fragmentation(messages: list[bytes], cuts: list[int]) -> None:
    calling, answering = StreamCaller(), StreamAnswerer()
    for message in messages:
        calling.send(message)
    calling.end()
    feed(answering, calling.data_to_send(), cuts)
    assert events(answering) == [*map(Message, messages), Ended()]
    for message in messages:
        answering.send(message)
    answering.finish()
    feed(calling, answering.data_to_send(), cuts)
    calling.receive_eof()
    assert events(calling) == [*map(Message, messages), Ended()]


def test_empty_message_is_a_message_and_not_the_end() -> None:
    machine = StreamAnswerer()
    machine.receive_data(bytes(9))
    assert events(machine) == [Message(b"")]


def test_error_frame_fails_the_caller() -> None:
    machine = StreamCaller()
    machine.receive_data(golden("frame_message") + golden("frame_error"))
    machine.receive_eof()
    assert events(machine) == [Message(b"abc"), Failed("boom")]


def test_any_error_frame_from_the_caller_ends_its_input() -> None:
    machine = StreamAnswerer()
    machine.receive_data(golden("frame_error"))
    assert events(machine) == [Ended()]


def test_caller_eof_cancels_even_after_its_end_frame_but_not_after_ours() -> None:
    machine = StreamAnswerer()
    machine.receive_data(golden("frame_end"))
    machine.receive_eof()
    machine.receive_eof()
    assert events(machine) == [Ended(), Cancelled()]

    finished = StreamAnswerer()
    finished.receive_data(golden("frame_end"))
    finished.finish()
    finished.receive_eof()
    assert events(finished) == [Ended()]


def test_callee_eof_inside_a_frame_is_no_end() -> None:
    machine = StreamCaller()
    machine.receive_data(golden("frame_message")[:-1])
    machine.receive_eof()
    assert events(machine) == [Cancelled()]


@pytest.mark.parametrize("machine", [StreamCaller(), StreamAnswerer()])
def test_frames_after_the_last_are_refused(machine: StreamCaller | StreamAnswerer) -> None:
    with pytest.raises(ProtocolError, match="follow"):
        machine.receive_data(golden("frame_end") + b"\0")


def test_unknown_marker_is_refused() -> None:
    with pytest.raises(ProtocolError, match="0x02"):
        StreamCaller().receive_data(b"\x02" + bytes(8))


@pytest.mark.parametrize("header", [b"\0" + (MAX_FRAME_SIZE + 1).to_bytes(8, "big"), b"\1" + b"\xff" * 8])
def test_frame_length_bomb_is_refused_at_its_header(header: bytes) -> None:
    with pytest.raises(LimitExceeded, match="exceeds"):
        StreamAnswerer().receive_data(header)


def test_largest_frame_header_is_accepted_and_allocates_nothing() -> None:
    machine = StreamAnswerer()
    machine.receive_data(b"\0" + MAX_FRAME_SIZE.to_bytes(8, "big"))
    assert events(machine) == []


def test_own_frames_keep_the_cap() -> None:
    with pytest.raises(UsageError, match="in parts"):
        StreamCaller().send(bytes(MAX_FRAME_SIZE + 1))


def test_long_error_texts_are_cut_at_a_character() -> None:
    machine, calling = StreamAnswerer(), StreamCaller()
    machine.fail("ä" + "€" * MAX_ERROR_TEXT)
    calling.receive_data(machine.data_to_send())
    (failed,) = events(calling)
    assert isinstance(failed, Failed)
    assert failed.text.startswith("ä€")
    assert set(failed.text[1:]) == {"€"}
    assert MAX_ERROR_TEXT - 3 < len(failed.text.encode()) <= MAX_ERROR_TEXT


def test_malformed_error_frame_is_a_protocol_error() -> None:
    payload = RPCError("boom").encode()[:-1]
    with pytest.raises(ProtocolError, match="claims"):
        StreamCaller().receive_data(b"\1" + len(payload).to_bytes(8, "big") + payload)


def test_sending_after_the_end_is_a_bug() -> None:
    calling, answering = StreamCaller(), StreamAnswerer()
    calling.end()
    with pytest.raises(UsageError, match="after end"):
        calling.send(b"")
    answering.finish()
    with pytest.raises(UsageError, match="over"):
        answering.send(b"")
    with pytest.raises(UsageError, match="over"):
        answering.fail("late")


# --- all machines -----------------------------------------------------------------------------


@given(st.sampled_from(MACHINES), st.lists(st.binary(max_size=60), max_size=6))
def test_arbitrary_bytes_raise_only_our_errors(make: Callable[[], Machine], pieces: list[bytes]) -> None:
    machine = make()
    try:
        for piece in pieces:
            machine.receive_data(piece)
        machine.receive_eof()
    except KwaaiNetError:
        return
    assert len(events(machine)) <= sum(map(len, pieces)) + 1


def spent(work: Callable[[], None]) -> float:
    """Seconds of the processor, of the clock inside Pyodide: compared only with as much work, that a loaded
    machine makes as slow."""
    started = process_time()
    work()
    return process_time() - started


def test_large_bodies_in_small_pieces_take_linear_time() -> None:
    def bodies(count: int, size: int) -> None:
        body = memoryview(bytes(size))
        for _ in range(count):
            machine = StreamAnswerer()
            machine.receive_data(b"\0" + size.to_bytes(8, "big"))
            for start in range(0, size, 4096):
                machine.receive_data(body[start : start + 4096])
            assert events(machine) == [Message(bytes(size))]

    one = min(spent(lambda: bodies(1, 16 << 20)) for _ in range(3))
    many = min(spent(lambda: bodies(64, 1 << 18)) for _ in range(3))
    assert one < 32 * many, "one body took over 32 times as long as the same bytes in 64; squared were 64"


def test_many_small_frames_in_one_piece_take_linear_time() -> None:
    def pieces(count: int, frames: int) -> None:
        machine, piece = StreamAnswerer(), golden("frame_message") * frames
        for _ in range(count):
            machine.receive_data(piece)
            assert len(events(machine)) == frames

    one, many = spent(lambda: pieces(1, 50_000)), spent(lambda: pieces(100, 500))
    assert one < 10 * many, "one piece took over ten times as long as the same frames in 100"
