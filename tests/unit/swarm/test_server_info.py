from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import KwaaiNetError, ProtocolError
from kwaainet.swarm.server_info import ModelInfo, ServerInfo, compute_spans
from kwaainet.types import BlockRange, PeerId, ServerState
from kwaainet.wire import msgpack

VECTORS = json.loads((Path(__file__).parents[2] / "vectors/hivemind.json").read_text())
GOLDEN = bytes.fromhex(VECTORS["server_info_value"])
PEERS = [PeerId(bytes.fromhex("002408011220") + bytes([n]) * 32) for n in range(4)]

REAL = ServerInfo(
    ServerState.ONLINE,
    12.5,
    start_block=0,
    end_block=6,
    public_name="me",
    version="2.2.0.post1",
    network_rps=100.0,
    forward_rps=50.0,
    inference_rps=10.0,
    torch_dtype="float32",
    quant_type="none",
    using_relay=True,
    cache_tokens_left=1024,
    next_pings={"12D3KooWx": 0.1},
)


def info(start=None, end=None, state=ServerState.ONLINE) -> ServerInfo:
    return ServerInfo(state, 1.0, start, end)


def test_the_value_is_byte_for_byte_what_petals_stores():
    assert REAL.encode() == GOLDEN


def test_petals_value_is_read_back():
    assert ServerInfo.decode(GOLDEN) == REAL


def test_the_model_value_is_byte_for_byte_what_petals_stores():
    model = ModelInfo(6, "https://huggingface.co/x/y")
    golden = bytes.fromhex(VECTORS["model_info_value"])
    assert model.encode() == golden
    assert ModelInfo.decode(golden) == model


def test_blocks_are_the_announced_span():
    assert REAL.blocks == BlockRange(0, 6)
    assert info().blocks is None
    assert info(5, 5).blocks is None
    assert info(0, 1 << 40).blocks is None


def test_an_offline_server_lists_no_pings():
    offline = REAL.with_state(ServerState.OFFLINE)
    assert (offline.state, offline.next_pings) == (ServerState.OFFLINE, None)
    assert offline.start_block == REAL.start_block


def test_unknown_keys_and_missing_ones_are_passed_over():
    value = msgpack.dumps((2, 1.0, {"start_block": 3, "end_block": 4, "invented": [1, 2]}))
    assert ServerInfo.decode(value) == info(3, 4)
    assert ServerInfo.decode(msgpack.dumps((2, 1.0))) == info()


def test_an_infinite_ping_is_what_petals_writes_for_silence():
    pings = {"12D3KooWx": float("inf")}
    assert ServerInfo.decode(replace(REAL, next_pings=pings).encode()).next_pings == pings


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        (2,),
        (3, 1.0, {}),
        (True, 1.0, {}),
        (2.0, 1.0, {}),
        ("2", 1.0, {}),
        (2, 1, {}),
        (2, -1.0, {}),
        (2, float("nan"), {}),
        (2, 1.0, []),
        (2, 1.0, {"start_block": -1}),
        (2, 1.0, {"start_block": 1.0}),
        (2, 1.0, {"end_block": True}),
        (2, 1.0, {"network_rps": 5}),
        (2, 1.0, {"inference_rps": float("inf")}),
        (2, 1.0, {"public_name": "x" * 257}),
        (2, 1.0, {"public_name": b"x"}),
        (2, 1.0, {"adapters": None}),
        (2, 1.0, {"adapters": ["a", 1]}),
        (2, 1.0, {"adapters": ["a"] * 65}),
        (2, 1.0, {"using_relay": 1}),
        (2, 1.0, {"next_pings": {"p": 1}}),
        (2, 1.0, {"next_pings": {str(n): 1.0 for n in range(257)}}),
        (2, 1.0, {"cache_tokens_left": 1 << 60}),
    ],
)
def test_what_petals_would_refuse_is_refused(value):
    with pytest.raises(ProtocolError, match="server info"):
        ServerInfo.from_value(value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        {},
        {"num_blocks": 0},
        {"num_blocks": 1.0},
        {"num_blocks": 1025},
        {"num_blocks": 1, "repository": 1},
    ],
)
def test_a_bad_model_value_is_refused(value):
    with pytest.raises(ProtocolError, match="model info"):
        ModelInfo.from_value(value)


@given(st.binary(max_size=300))
def test_any_bytes_raise_our_errors_only(data):
    for kind in (ServerInfo, ModelInfo):
        with contextlib.suppress(KwaaiNetError):
            kind.decode(data)


@given(st.integers(0, len(GOLDEN) - 1), st.integers(0, 255))
def test_a_damaged_value_raises_our_errors_only(position, byte):
    damaged = bytearray(GOLDEN)
    damaged[position] = byte
    with contextlib.suppress(KwaaiNetError):
        ServerInfo.decode(bytes(damaged))


def test_spans_come_from_what_servers_announce():
    records = [{PEERS[0]: info(0, 2)}, {PEERS[0]: info(0, 2), PEERS[1]: info(1, 3)}, {PEERS[1]: info(1, 3)}]
    spans = compute_spans(records)
    assert [(span.peer, span.blocks) for span in spans] == [
        (PEERS[0], BlockRange(0, 2)),
        (PEERS[1], BlockRange(1, 3)),
    ]


def test_spans_are_cut_to_the_blocks_asked_about():
    spans = compute_spans([{PEERS[0]: info(0, 9)}, {PEERS[0]: info(0, 9)}], first_block=4)
    assert [span.blocks for span in spans] == [BlockRange(4, 6)]


def test_without_a_range_a_span_is_what_its_records_cover():
    records = [{}, {PEERS[0]: info()}, {PEERS[0]: info()}, {}, {PEERS[0]: info()}]
    assert [span.blocks for span in compute_spans(records)] == [BlockRange(1, 3)]


def test_a_range_that_leaves_out_its_own_block_is_not_believed():
    assert [span.blocks for span in compute_spans([{PEERS[0]: info(5, 9)}])] == [BlockRange(0, 1)]


def test_servers_below_the_wanted_state_are_left_out():
    records = [{PEERS[0]: info(0, 1, ServerState.JOINING), PEERS[1]: info(0, 1)}]
    assert [span.peer for span in compute_spans(records)] == [PEERS[1]]
    joining = compute_spans(records, min_state=ServerState.JOINING)
    assert [span.peer for span in joining] == PEERS[:2]


def test_the_higher_state_of_a_server_counts():
    records = [{PEERS[0]: info(0, 2, ServerState.JOINING)}, {PEERS[0]: info(1, 2)}]
    (span,) = compute_spans(records, min_state=ServerState.JOINING)
    assert (span.blocks, span.info.state) == (BlockRange(1, 2), ServerState.ONLINE)
