"""Hivemind's messages against bytes that its own runtime wrote."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import KwaaiNetError, ProtocolError
from kwaainet.wire import messages
from kwaainet.wire.messages import (
    CallUnaryRequest,
    CallUnaryResponse,
    ExpertInfo,
    ExpertRequest,
    ExpertResponse,
    ExpertUID,
    FindRequest,
    FindResponse,
    FindResult,
    NodeInfo,
    PingRequest,
    PingResponse,
    ResultType,
    RPCError,
    StoreRequest,
    StoreResponse,
    Tensor,
    UnaryRequest,
    UnaryResponse,
)
from kwaainet.wire.protobuf import Message

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "hivemind.json").read_text())
TENSORS = [name for name, value in VECTORS.items() if name.startswith("tensor_") and "pb" in value]
ALL = [value for value in vars(messages).values() if isinstance(value, type) and issubclass(value, Message)]
ALL.remove(Message)
CALL_ID = bytes(range(16))


def test_first_inference_request_is_understood_and_written_back() -> None:
    data = bytes.fromhex(VECTORS["inference_request_first"])
    request = ExpertRequest.decode(data)
    assert request.uid == "m.0 m.1"
    hidden, prompts, hypo_ids = request.tensors
    assert (hidden.size, hidden.dtype, len(hidden.buffer)) == ((1, 2, 3), "float32", 24)
    assert (prompts.size, prompts.dtype, prompts.buffer) == ((0,), "float32", b"")
    assert (hypo_ids.size, hypo_ids.dtype) == ((0,), "int64")
    assert request.metadata.startswith(b"\x86\xaasession_id")
    assert request.encode() == data


@pytest.mark.parametrize("name", TENSORS)
def test_tensors_are_understood_and_written_back(name: str) -> None:
    data = bytes.fromhex(VECTORS[name]["pb"])
    tensor = Tensor.decode(data)
    assert len(tensor.buffer) == VECTORS[name]["buf_len"]
    assert tensor.dtype == VECTORS[name]["dtype"]
    assert tensor.size == (1, 2, 8)
    assert tensor.encode() == data


def test_int64_tensor_is_written_as_hivemind_does() -> None:
    tensor = Tensor((3).to_bytes(8, "little") + (1).to_bytes(8, "little"), (2,), dtype="int64")
    data = bytes.fromhex(VECTORS["tensor_int64"])
    assert tensor.encode() == data
    assert Tensor.decode(data) == tensor


def test_unary_envelopes_are_written_as_p2pd_does() -> None:
    request = UnaryRequest(CALL_ID, CallUnaryRequest(b"PPPP", "A.rpc_x", b"d"))
    response = UnaryResponse(CALL_ID, CallUnaryResponse(response=b"r"))
    assert request.encode() == bytes.fromhex(VECTORS["unary_req"])[1:]
    assert response.encode() == bytes.fromhex(VECTORS["unary_resp"])[1:]


def test_required_fields_of_a_call_go_out_even_if_empty() -> None:
    assert CallUnaryRequest(b"", "", b"").encode() == bytes.fromhex("0a00 1200 1a00")


@pytest.mark.parametrize("data", ["0a00 1200", "0a00 1a00", "1200 1a00"])
def test_calls_without_a_required_field_are_refused(data: str) -> None:
    with pytest.raises(ProtocolError, match="required"):
        CallUnaryRequest.decode(bytes.fromhex(data))


def test_both_directions_of_an_envelope_keep_apart() -> None:
    request = UnaryRequest(CALL_ID, CallUnaryRequest(b"", "", b"")).encode()
    assert UnaryResponse.decode(request) == UnaryResponse(CALL_ID)


@pytest.mark.parametrize(
    ("message", "data"),
    [
        (PingRequest(peer=NodeInfo(b"id"), validate=True), "12040a026964 1801"),
        (PingRequest(peer=NodeInfo()), "1200"),  # a client: present and empty
        (
            PingResponse(peer=NodeInfo(b"i"), dht_time=1.5, available=True),
            "12030a0169 21000000000000f83f 2801",
        ),
        (
            StoreRequest(
                keys=(b"k",),
                subkeys=(b"\xc0",),
                values=(b"v",),
                expiration_time=(1.0,),
                in_cache=(False,),
                peer=NodeInfo(),
            ),
            "12016b 1a01c0 220176 2a08000000000000f03f 320100 3a00",
        ),
        (StoreResponse(store_ok=(True, False)), "12020100"),
        (FindRequest(keys=(b"a", b"b"), peer=NodeInfo()), "120161 120162 1a00"),
        (
            FindResponse(
                results=(FindResult(ResultType.FOUND_REGULAR, b"v", 1.0, (b"n",), (b"p",)), FindResult())
            ),
            "1214 0801 120176 19000000000000f03f 22016e 2a0170 1200",
        ),
        (ExpertUID("m.0"), "0a036d2e30"),
        (ExpertInfo(b"\x80"), "0a0180"),
        (
            ExpertResponse((Tensor(b"\0" * 4, (1,), dtype="float32"),)),
            "1212 0a0400000000 120101 2207666c6f61743332",
        ),
        (RPCError("boom"), "0a04626f6f6d"),
        (RPCError(), ""),
    ],
)
def test_the_other_messages(message: Message, data: str) -> None:
    assert message.encode().hex() == data.replace(" ", "")
    assert type(message).decode(bytes.fromhex(data)) == message


def test_unknown_result_types_stay_numbers() -> None:
    assert FindResult.decode(b"\x08\x07").type == 7


@given(st.sampled_from(ALL), st.binary(max_size=100))
def test_arbitrary_bytes_raise_only_our_errors(cls: type[Message], data: bytes) -> None:
    try:
        message = cls.decode(data)
    except KwaaiNetError:
        return
    message.encode()


@given(st.data(), st.sampled_from(["inference_request_first", "tensor_int64", "unary_req"]))
def test_damaged_messages_raise_only_our_errors(data: st.DataObject, name: str) -> None:
    damaged = bytearray.fromhex(VECTORS[name])
    position = data.draw(st.integers(0, len(damaged) - 1))
    damaged[position] ^= data.draw(st.integers(1, 255))
    for cls in ALL:
        try:
            cls.decode(damaged)
        except KwaaiNetError:
            continue
