"""Readers get the bytes they ask for, no more, or a clear error."""

from __future__ import annotations

import time
import tracemalloc
from random import Random

import pytest

from kwaainet.errors import ModelFileError, Truncated
from kwaainet.formats import reading
from kwaainet.formats.reading import Reading, drive, read_head

from .mutations import bomb, damaged, samples, survives

SAMPLES = samples()
MAX_SECONDS = 5.0  # of a processor's time for one damaged file; a sound one takes some milliseconds
MAX_MEMORY = 32 << 20  # bytes for one of a hundred kB
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


@pytest.mark.parametrize("form", SAMPLES)
def test_sound_files_open(form: str) -> None:
    assert survives(SAMPLES[form].open, SAMPLES[form].data)


@pytest.mark.parametrize("form", SAMPLES)
def test_files_cut_anywhere_are_refused(form: str) -> None:
    sample = SAMPLES[form]
    for end in (*range(0, sample.head, 5), *range(sample.head, len(sample.data), 997)):
        cut = sample.data[:end]
        # what lies behind the last tensor but fills it up is nobody's
        assert not survives(sample.open, cut) or (form in ("gguf", "shard") and len(sample.data) - end < 64)


@pytest.mark.parametrize("form", SAMPLES)
def test_damaged_files_open_or_are_refused(form: str) -> None:
    """Nothing else may come out, soon, and no range outside the file be asked for."""
    sample, opened = SAMPLES[form], 0
    for data in damaged(Random(f"tests {form}"), sample, 250):
        began = time.process_time()
        opened += survives(sample.open, data)
        assert time.process_time() - began < MAX_SECONDS
    assert 0 < opened < 250  # some damage does nothing, most does


@pytest.mark.parametrize("form", SAMPLES)
def test_enormous_numbers_cost_no_memory(form: str) -> None:
    rng = Random(f"bombs {form}")
    tracemalloc.start()
    try:
        for _ in range(60):
            survives(SAMPLES[form].open, bomb(rng, SAMPLES[form]))
        assert tracemalloc.get_traced_memory()[1] < MAX_MEMORY
    finally:
        tracemalloc.stop()
