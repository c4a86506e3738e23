"""Readers get the bytes they ask for, no more, or a clear error."""

from __future__ import annotations

import pytest

from kwaainet.errors import ModelFileError, Truncated
from kwaainet.formats import reading
from kwaainet.formats.reading import Reading, drive, read_head

DATA = bytes(range(256)) * 64


def parse(needed: int) -> reading.Callable[[bytes, int], int]:
    def parsed(prefix: bytes, size: int) -> int:
        if len(prefix) < needed:
            raise Truncated("more", min(needed, len(prefix) + 1))
        assert prefix == DATA[: len(prefix)]
        return size

    return parsed


def test_a_head_is_read_in_steps_that_double(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "FIRST_READ", 16)
    asked: list[tuple[int, int]] = []

    def read(offset: int, length: int) -> bytes:
        asked.append((offset, length))
        return DATA[offset : offset + length]

    assert drive(read_head(parse(100), len(DATA), 1 << 20), read) == len(DATA)
    assert asked == [(0, 16), (16, 16), (32, 32), (64, 64)]


@pytest.mark.parametrize(("size", "cap"), [(50, 1 << 20), (1 << 14, 50)])
def test_a_head_beyond_the_file_or_the_cap_is_refused(
    monkeypatch: pytest.MonkeyPatch, size: int, cap: int
) -> None:
    monkeypatch.setattr(reading, "FIRST_READ", 16)
    with pytest.raises(ModelFileError, match="inside its head"):
        drive(read_head(parse(100), size, cap), lambda offset, length: DATA[offset : offset + length])


def test_a_short_answer_is_refused() -> None:
    def one() -> Reading[None]:
        yield 3, 4

    with pytest.raises(ModelFileError, match="has not the 4 bytes at 3"):
        drive(one(), lambda offset, length: b"123")
