"""An index names plain files and each tensor once."""

from __future__ import annotations

import json

import pytest

from kwaainet.errors import ModelFileError, UnsupportedModel
from kwaainet.formats.quants import byte_length
from kwaainet.formats.stored import MAX_SHARDS, WEIGHT_TYPES, parse_index, stored_length


def test_an_index_groups_tensors_by_file() -> None:
    index = {"metadata": {}, "weight_map": {"a": "x.safetensors", "b": "y.safetensors", "c": "x.safetensors"}}
    assert parse_index(json.dumps(index).encode()) == {"x.safetensors": ["a", "c"], "y.safetensors": ["b"]}
    for broken in ({}, {"weight_map": []}, {"weight_map": {"a": 1}}):
        with pytest.raises(ModelFileError, match="weight_map must be"):
            parse_index(json.dumps(broken).encode())


def test_an_index_that_contradicts_itself_or_is_absurd_is_refused() -> None:
    with pytest.raises(ModelFileError, match="the key a twice"):
        parse_index(b'{"weight_map": {"a": "x", "a": "y"}}')
    many = {str(number): f"{number}.bin" for number in range(MAX_SHARDS + 1)}
    with pytest.raises(ModelFileError, match=f"names {MAX_SHARDS + 1} files"):
        parse_index(json.dumps({"weight_map": many}).encode())


def test_lengths_are_whole_bytes() -> None:
    assert [stored_length("F4", 2), stored_length("F6_E2M3", 4), stored_length("BF16", 3)] == [1, 3, 6]
    with pytest.raises(ModelFileError, match="do not end with a byte"):
        stored_length("F6_E3M2", 3)
    with pytest.raises(UnsupportedModel, match="type F7 is unknown"):
        stored_length("F7", 8)


def test_what_may_be_a_weight_can_be_decoded() -> None:
    for dtype in WEIGHT_TYPES:
        assert byte_length(dtype, 6) == stored_length(dtype, 6)
