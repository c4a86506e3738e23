"""Peers, block ranges and states: known spellings, round trips, and refusals."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import InputError, KwaaiNetError
from kwaainet.types import (
    MAX_PEER_ID_BYTES,
    BlockRange,
    PeerId,
    Progress,
    ServerState,
    decode_base58,
    encode_base58,
)

ED25519 = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA"  # from the libp2p peer-id specification
RSA = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N"

multihashes = st.binary(max_size=MAX_PEER_ID_BYTES - 2).map(lambda digest: bytes([0, len(digest)]) + digest)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"", ""),
        (b"\0", "1"),
        (b"\0\0\x01", "112"),
        (b"Hello World!", "2NEpo7TZRRrLZSi2U"),
        (bytes.fromhex("0000287fb4cd"), "11233QC4"),
    ],
)
def test_base58_of_known_bytes(data: bytes, text: str) -> None:
    assert encode_base58(data) == text
    assert decode_base58(text) == data


@given(st.binary(max_size=70))
def test_base58_round_trip(data: bytes) -> None:
    assert decode_base58(encode_base58(data)) == data


@pytest.mark.parametrize("text", ["0", "O", "I", "l", "a b", "ä", "12D3-"])
def test_base58_names_foreign_characters(text: str) -> None:
    with pytest.raises(InputError, match="alphabet"):
        decode_base58(text)


@pytest.mark.parametrize("text", [ED25519, RSA])
def test_peer_ids_of_the_specification(text: str) -> None:
    peer = PeerId.parse(text)
    assert str(peer) == text
    assert repr(peer) == f"PeerId({text})"
    assert peer == PeerId(peer.data)


def test_peer_id_is_a_multihash() -> None:
    digest = hashlib.sha256(b"key").digest()
    assert str(PeerId(b"\x12\x20" + digest)).startswith("Qm")
    for data in (b"", b"\x12", b"\x12\x20" + digest[:-1], b"\x12\x20" + digest + b"x", b"\0\x50" + bytes(80)):
        with pytest.raises(InputError, match="not a peer id"):
            PeerId(data)


@given(multihashes)
def test_peer_id_round_trip(data: bytes) -> None:
    assert PeerId.parse(str(PeerId(data))).data == data


def test_peer_ids_hash_and_sort_by_their_bytes() -> None:
    low, high = PeerId(b"\0\x01a"), PeerId(b"\0\x01b")
    assert sorted([high, low]) == [low, high]
    assert len({low, PeerId(b"\0\x01a"), high}) == 2


def test_endless_peer_ids_are_refused_unread() -> None:
    with pytest.raises(InputError, match="too long"):
        PeerId.parse("1" * 10_000_000)


@given(st.text(max_size=60))
def test_arbitrary_text_is_a_peer_id_or_an_input_error(text: str) -> None:
    try:
        peer = PeerId.parse(text)
    except KwaaiNetError:
        return
    assert str(peer) == text


def test_block_range() -> None:
    blocks = BlockRange.parse("3:15")
    assert (blocks.start, blocks.end, len(blocks), str(blocks)) == (3, 15, 12, "3:15")
    assert 3 in blocks
    assert 14 in blocks
    assert 2 not in blocks
    assert 15 not in blocks


@pytest.mark.parametrize(
    "text", ["", ":", "3", "3:", ":3", "3:3", "4:3", "-1:3", "a:b", "1:2:3", "1.0:2", "²:³", " 1:2"]
)
def test_what_is_no_block_range(text: str) -> None:
    with pytest.raises(InputError, match="range of blocks"):
        BlockRange.parse(text)


@given(st.integers(0, 10**6), st.integers(1, 10**6))
def test_block_range_round_trip(start: int, length: int) -> None:
    blocks = BlockRange(start, start + length)
    assert BlockRange.parse(str(blocks)) == blocks
    assert len(blocks) == length


def test_server_states_are_petals_numbers() -> None:
    assert [state.name for state in sorted(ServerState)] == ["OFFLINE", "JOINING", "ONLINE"]
    assert ServerState(2) is ServerState.ONLINE


def test_progress_of_unknown_length() -> None:
    assert (Progress("fetching").done, Progress("fetching").total) == (0, 0)
