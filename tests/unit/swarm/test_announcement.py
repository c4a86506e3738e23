from __future__ import annotations

import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.dht.record import StoreItem
from kwaainet.errors import InputError, KwaaiNetError, LimitExceeded, ProtocolError
from kwaainet.swarm.announcement import MAX_MESSAGE_SIZE, Announcement
from kwaainet.swarm.server_info import ModelInfo, ServerInfo
from kwaainet.types import BlockRange, PeerId, ServerState
from kwaainet.wire import msgpack

PEER = PeerId(bytes.fromhex("002408011220") + b"\1" * 32)
SERVER = ServerInfo(ServerState.ONLINE, 5.0, start_block=2, end_block=4, public_name="tab")
REAL = Announcement("m", SERVER, 150.0, ModelInfo(5, "https://huggingface.co/a/b"))


def changed(**fields: object) -> bytes:
    return msgpack.dumps(msgpack.loads(REAL.encode()) | fields)


def test_the_message_survives_the_round_trip():
    assert Announcement.decode(REAL.encode()) == REAL
    bare = replace(REAL, model=None)
    assert Announcement.decode(bare.encode()) == bare


def test_it_stands_for_one_record_a_block_and_the_model():
    assert REAL.records(PEER, 1000.0) == [
        StoreItem("m.2", str(PEER), SERVER.encode(), 1000.0),
        StoreItem("m.3", str(PEER), SERVER.encode(), 1000.0),
        StoreItem("_petals.models", "m", REAL.model.encode(), 1000.0),
    ]


def test_a_private_prefix_does_not_list_its_model():
    private = replace(REAL, prefix="_m")
    assert [record.key for record in private.records(PEER, 1.0)] == ["_m.2", "_m.3"]


def test_going_offline_takes_down_the_server_and_not_the_model():
    offline = REAL.with_state(ServerState.OFFLINE)
    assert [record.key for record in offline.records(PEER, 1.0)] == ["m.2", "m.3"]
    assert offline.span == BlockRange(2, 4)
    states = {ServerInfo.decode(record.value).state for record in offline.records(PEER, 1.0)}
    assert states == {ServerState.OFFLINE}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"prefix": "a.b"}, "prefix"),
        ({"prefix": 1}, "prefix"),
        ({"prefix": None}, "prefix"),
        ({"ttl": 150}, "ttl"),
        ({"ttl": 4.0}, "ttl"),
        ({"ttl": 1e9}, "ttl"),
        ({"ttl": float("nan")}, "ttl"),
        ({"server": None}, "server info"),
        ({"server": (2, 1.0, {})}, "no range"),
        ({"server": (2, 1.0, {"start_block": 3, "end_block": 3})}, "no range"),
        ({"server": (2, 1.0, {"start_block": 0, "end_block": 1025})}, "no range"),
        ({"server": (2, 1.0, {"start_block": 0, "end_block": 6})}, "0:6 of a model of 5"),
        ({"model": {"num_blocks": 0}}, "num_blocks"),
        ({"model": 3}, "model info"),
    ],
)
def test_a_bad_field_is_named(fields, reason):
    with pytest.raises(ProtocolError, match=reason):
        Announcement.decode(changed(**fields))


def test_an_oversize_message_is_not_even_unpacked():
    with pytest.raises(LimitExceeded, match="65537 bytes"):
        Announcement.decode(b"\xc1" * (MAX_MESSAGE_SIZE + 1))


def test_what_is_no_map_is_refused():
    with pytest.raises(ProtocolError, match="expected a map"):
        Announcement.decode(msgpack.dumps([1]))


def test_our_own_bad_announcement_is_our_own_input_error():
    with pytest.raises(InputError, match="no range"):
        Announcement("m", ServerInfo(ServerState.ONLINE, 1.0), 150.0)


@given(st.binary(max_size=200))
def test_any_bytes_raise_our_errors_only(data):
    with contextlib.suppress(KwaaiNetError):
        Announcement.decode(data)


@given(st.integers(0, len(REAL.encode()) - 1), st.integers(0, 255))
def test_a_damaged_message_raises_our_errors_only(position, byte):
    damaged = bytearray(REAL.encode())
    damaged[position] = byte
    with contextlib.suppress(KwaaiNetError):
        Announcement.decode(bytes(damaged)).records(PEER, 1.0)


@given(st.integers(0, len(REAL.encode()) - 1))
def test_a_truncated_message_is_refused(length):
    with pytest.raises(KwaaiNetError):
        Announcement.decode(REAL.encode()[:length])
