"""Varints: known bytes, round trips, and everything that is not one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kwaainet.errors import ProtocolError, UsageError
from kwaainet.wire import varint


@pytest.mark.parametrize(
    ("number", "data"),
    [
        (0, "00"),
        (1, "01"),
        (127, "7f"),
        (128, "8001"),
        (300, "ac02"),
        (16384, "808001"),
        (2**64 - 1, "ffffffffffffffffff01"),
    ],
)
def test_known_bytes(number: int, data: str) -> None:
    assert varint.encode(number) == bytes.fromhex(data)
    assert varint.decode(bytes.fromhex(data)) == (number, len(data) // 2)


@given(st.integers(0, 2**64 - 1), st.binary(max_size=5), st.binary(max_size=5))
def test_round_trip_between_other_bytes(number: int, before: bytes, after: bytes) -> None:
    encoded = varint.encode(number)
    data = before + encoded + after
    end = len(before) + len(encoded)
    assert varint.decode(data, len(before)) == (number, end)
    assert varint.peek(memoryview(data), len(before)) == (number, end)


@given(st.integers(0, 2**64 - 1))
def test_every_truncation_waits_or_fails(number: int) -> None:
    encoded = varint.encode(number)
    for end in range(len(encoded)):
        assert varint.peek(encoded[:end]) is None
        with pytest.raises(ProtocolError, match="cut short"):
            varint.decode(encoded[:end])


@pytest.mark.parametrize("number", [-1, 2**64])
def test_numbers_outside_64_bits_are_ours_to_avoid(number: int) -> None:
    with pytest.raises(UsageError, match=str(number)):
        varint.encode(number)


def test_eleven_bytes_and_sixty_five_bits_are_refused() -> None:
    with pytest.raises(ProtocolError, match="10 bytes"):
        varint.peek(b"\x80" * 10)
    with pytest.raises(ProtocolError, match="64 bits"):
        varint.peek(b"\xff" * 9 + b"\x02")


def test_longer_spellings_are_read_as_protobuf_does() -> None:
    assert varint.decode(b"\x81\x80\x00") == (1, 3)


def test_offset_past_the_end_is_cut_short() -> None:
    with pytest.raises(ProtocolError, match="byte 5"):
        varint.decode(b"\x01", 5)


@given(st.binary(max_size=12), st.integers(0, 14))
def test_arbitrary_bytes(data: bytes, offset: int) -> None:
    try:
        number, end = varint.decode(data, offset)
    except ProtocolError:
        return
    assert 0 <= number < 2**64
    assert offset < end <= len(data)
