"""Bytes become Hugging Face's layout, also where GGUF permutes rows."""

from __future__ import annotations

import numpy as np
import pytest

from kwaainet.errors import ModelFileError
from kwaainet.formats.config import LlamaConfig
from kwaainet.formats.manifest import TensorEntry
from kwaainet.formats.weights import decode


def entry(shape: tuple[int, ...], permuted: bool = False) -> TensorEntry:
    return TensorEntry("f", 0, 4 * int(np.prod(shape)), "", "F32", shape, permuted)


def test_plain_tensor_keeps_its_rows(tiny_config: LlamaConfig) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    np.testing.assert_array_equal(decode(entry((3, 4)), array.tobytes(), tiny_config), array)


def test_permuted_rows_come_back_in_order(tiny_config: LlamaConfig) -> None:
    # one head of 16: GGUF stores rows 0, 8, 1, 9, ... because rotary embedding turns 0 with 8
    head = np.arange(16, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    stored = np.concatenate([head[[i, i + 8]] for i in range(8)])
    both = np.concatenate([stored, stored + 100])
    got = decode(entry((32, 3), permuted=True), both.tobytes(), tiny_config)
    np.testing.assert_array_equal(got, np.concatenate([head, head + 100]))


def test_rows_that_are_no_heads_and_short_data_are_refused(tiny_config: LlamaConfig) -> None:
    with pytest.raises(ModelFileError, match="24 permuted rows are not whole heads of 16"):
        decode(entry((24, 2), permuted=True), bytes(4 * 48), tiny_config)
    with pytest.raises(ModelFileError, match="take 48 bytes, but 47 were given"):
        decode(entry((3, 4)), bytes(47), tiny_config)
