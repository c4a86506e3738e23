"""Heads that we write read back with every value as it was."""

from __future__ import annotations

import pytest

from kwaainet.errors import InputError
from kwaainet.formats import gguf
from kwaainet.formats.gguf_writer import ALIGNMENT, Value, head_bytes, padded

METADATA: dict[str, Value] = {
    "text": "ü",
    "flag": True,
    "count": 7,
    "number": 0.5,
    "texts": ["a", ""],
    "types": [1, -3],
    "scores": [0.0, -2.5],
}


def test_metadata_and_places_come_back() -> None:
    tensors = {"a": ("F32", (3, 5)), "b": ("Q8_0", (2, 64)), "c": ("F32", (1,))}
    head = head_bytes(METADATA, tensors)
    assert len(head) % ALIGNMENT == 0
    index = gguf.parse(head, len(head) + 1000)
    assert index.metadata == METADATA
    assert {name: (one.dtype, one.shape) for name, one in index.tensors.items()} == tensors
    places = [one.offset - len(head) for one in index.tensors.values()]
    assert places == [0, 64, 64 + padded(2 * 68)]


def test_numbers_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="cannot hold a number"):
        head_bytes({"count": 1 << 40}, {})
