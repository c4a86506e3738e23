"""What a tab asks of the swarm's directory, and what becomes of a reply that is none."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import LimitExceeded, ProtocolError
from kwaainet.swarm import directory
from kwaainet.swarm.directory import Query, collect, decode_reply, encode_reply, spread
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.types import BlockRange, PeerId, ServerState
from kwaainet.wire import msgpack

PEERS = [PeerId(bytes.fromhex("002408011220") + bytes([n]) * 32) for n in range(5)]
ASKED = BlockRange(2, 5)


def info(throughput: float = 1.0, state: ServerState = ServerState.ONLINE) -> ServerInfo:
    return ServerInfo(state, throughput, 0, 9)


def pairs(*numbers: int) -> list[tuple[object, bytes]]:
    return [(str(PEERS[number]), info(float(number)).encode()) for number in numbers]


def test_a_query_survives_its_trip() -> None:
    query = Query("SmolLM2-135M-hf", ASKED)
    assert Query.decode(query.encode()) == query


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"prefix": "m"},
        {"prefix": 1, "start": 0, "end": 1},
        {"prefix": "m", "start": 0, "end": 1025},
        {"prefix": "m", "start": 3, "end": 3},
        {"prefix": "m", "start": -1, "end": 3},
        {"prefix": "m", "start": 0.0, "end": 3},
        {"prefix": "a.b", "start": 0, "end": 1},
    ],
)
def test_a_query_that_makes_no_sense_is_refused(value: object) -> None:
    with pytest.raises(ProtocolError):
        Query.decode(msgpack.dumps(value))


def test_a_query_has_a_size() -> None:
    with pytest.raises(LimitExceeded, match="1025 bytes"):
        Query.decode(bytes(1025))


def test_records_survive_the_trip_through_a_reply() -> None:
    records = [pairs(0, 1), pairs(1), pairs(0, 2)]
    found = spread(decode_reply(encode_reply(collect(records, 2)), ASKED), ASKED)
    assert found == [
        {PEERS[0]: info(0.0), PEERS[1]: info(1.0)},
        {PEERS[1]: info(1.0)},
        {PEERS[0]: info(0.0), PEERS[2]: info(2.0)},
    ]


def test_the_records_own_bytes_travel_and_travel_once() -> None:
    value = info().encode() + b""
    reply = msgpack.loads(encode_reply(collect([[(str(PEERS[0]), value)]] * 3, 2)))
    assert reply == [[PEERS[0].data, value, [2, 5]]]


def test_what_is_no_server_and_what_is_offline_is_left_out() -> None:
    offline = (str(PEERS[1]), info(state=ServerState.OFFLINE).encode())
    joining = (str(PEERS[2]), info(state=ServerState.JOINING).encode())
    nonsense = [("not a peer", info().encode()), (7, info().encode()), (str(PEERS[3]), b"\xc1")]
    found = collect([[*nonsense, offline, joining]], 0)
    assert [entry.peer for entry in found] == [PEERS[2]]


def test_a_reply_keeps_the_fastest_within_its_caps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "MAX_SERVERS", 2)
    entries = collect([pairs(0, 1, 2)], 2)
    joining = collect([[(str(PEERS[4]), info(99.0, ServerState.JOINING).encode())]], 2)
    kept = decode_reply(encode_reply(entries + joining), ASKED)
    assert [entry.peer for entry in kept] == [PEERS[2], PEERS[1]]
    monkeypatch.setattr(directory, "MAX_REPLY_SIZE", len(encode_reply(entries[:1])) + 120)
    assert len(decode_reply(encode_reply(entries), ASKED)) == 1


@pytest.mark.parametrize(
    "reply",
    [
        {},
        [1],
        [[PEERS[0].data, info().encode()]],
        [[PEERS[0].data, info().encode(), [2]]],
        [[PEERS[0].data, info().encode(), [1, 3]]],
        [[PEERS[0].data, info().encode(), [2, 6]]],
        [[PEERS[0].data, info().encode(), [2, 4, 3, 5]]],
        [[PEERS[0].data, info().encode(), [2, "5"]]],
        [0] * 1025,
    ],
)
def test_a_reply_that_is_none_is_refused(reply: object) -> None:
    with pytest.raises(ProtocolError):
        decode_reply(msgpack.dumps(reply), ASKED)


def test_one_bad_entry_costs_no_other() -> None:
    bad = [[b"xx", info().encode(), [2, 3]], [PEERS[1].data, b"\xc1", [2, 3]]]
    good = [PEERS[0].data, info().encode(), [2, 3]]
    assert [entry.peer for entry in decode_reply(msgpack.dumps([*bad, good]), ASKED)] == [PEERS[0]]


def test_a_reply_has_a_size() -> None:
    with pytest.raises(LimitExceeded, match="directory of"):
        decode_reply(bytes((1 << 20) + 1), ASKED)


GOLDEN = encode_reply(collect([pairs(0, 1), pairs(1)], 2))


@given(st.integers(0, len(GOLDEN) - 1), st.integers(0, 255))
def test_a_damaged_reply_raises_our_errors_only(position: int, byte: int) -> None:
    damaged = bytearray(GOLDEN)
    damaged[position] = byte
    with contextlib.suppress(ProtocolError):
        spread(decode_reply(bytes(damaged), ASKED), ASKED)
