"""Bytes become Hugging Face's layout, also where GGUF permutes rows, dequantized or not."""

from __future__ import annotations

import numpy as np
import pytest

from kwaainet.errors import ModelFileError
from kwaainet.formats.config import ModelConfig
from kwaainet.formats.manifest import TensorEntry
from kwaainet.formats.quants import STORAGE_TYPES, dequantize
from kwaainet.formats.weights import Weight, floats_of, weights_of

# One head of 16: GGUF stores rows 0, 8, 1, 9, ... because rotary embedding turns 0 with 8.
GGUF_ORDER = [row for pair in range(8) for row in (pair, pair + 8)]


def test_plain_tensor_keeps_its_rows(tiny_config: ModelConfig) -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    weight = Weight("F32", (3, 4), array.tobytes())
    np.testing.assert_array_equal(weight.floats(tiny_config), array)
    np.testing.assert_array_equal(weight.rows(tiny_config).view("<f4"), array)


def test_norms_are_one_dimensional(tiny_config: ModelConfig) -> None:
    array = np.arange(5, dtype=np.float32)
    np.testing.assert_array_equal(Weight("F32", (5,), array.tobytes()).floats(tiny_config), array)


def test_permuted_rows_come_back_in_order(tiny_config: ModelConfig) -> None:
    head = np.arange(16, dtype=np.float32)[:, None] * np.ones(3, np.float32)
    both = np.concatenate([head, head + 100])
    stored = np.concatenate([head[GGUF_ORDER], head[GGUF_ORDER] + 100])
    weight = Weight("F32", (32, 3), stored.tobytes(), permuted=True)
    np.testing.assert_array_equal(weight.floats(tiny_config), both)


@pytest.mark.parametrize("dtype", STORAGE_TYPES)
@pytest.mark.parametrize("permuted", [False, True])
def test_rows_hold_what_the_floats_say(dtype: str, permuted: bool, tiny_config: ModelConfig) -> None:
    storage = STORAGE_TYPES[dtype]
    columns = 2 * storage.block
    raw = np.random.default_rng(1).integers(0, 60, (32, 2 * storage.size), np.uint8)  # finite in any type
    weight = Weight(dtype, (32, columns), raw.tobytes(), permuted)
    rows = weight.rows(tiny_config)
    assert rows.shape == (32, len(weight.data) // 32)
    found = dequantize(dtype, rows.tobytes(), 32 * columns).reshape(32, columns)
    np.testing.assert_array_equal(found, weight.floats(tiny_config))
    first = [0, 2, 4, 6, 8, 10, 12, 14, 1] if permuted else range(9)
    np.testing.assert_array_equal(rows[:9], raw[list(first)])


def test_rows_that_share_blocks_are_known(tiny_config: ModelConfig) -> None:
    weight = Weight("Q8_0", (2, 16), bytes(34))
    assert not weight.has_whole_rows
    assert weight.floats(tiny_config).shape == (2, 16)
    with pytest.raises(ModelFileError, match="16 numbers do not fill Q8_0 blocks of 32"):
        weight.rows(tiny_config)
    assert Weight("Q8_0", (1, 32), bytes(34)).has_whole_rows


def test_rows_that_are_no_heads_and_data_of_another_length_are_refused(tiny_config: ModelConfig) -> None:
    with pytest.raises(ModelFileError, match="24 permuted rows are not whole heads of 16"):
        Weight("F32", (24, 2), bytes(4 * 48), permuted=True).floats(tiny_config)
    with pytest.raises(ModelFileError, match="12 numbers of F32 take 48 bytes, but 47 were given"):
        Weight("F32", (3, 4), bytes(47))


def test_a_manifests_entry_and_arrays_become_weights(tiny_config: ModelConfig) -> None:
    entry = TensorEntry("f", 0, 48, "", "F32", (3, 4), permuted=True)
    assert Weight.stored(entry, bytes(48)) == Weight("F32", (3, 4), bytes(48), permuted=True)
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(3, 2).T, "b": np.ones(4, np.float32)}
    back = floats_of(weights_of(arrays), tiny_config)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array)


@pytest.mark.parametrize("dtype", ["F64", "F32", "F16", "BF16", "F8_E4M3"])
def test_strided_views_are_put_in_rows(dtype: str, tiny_config: ModelConfig) -> None:
    size = STORAGE_TYPES[dtype].size
    raw = np.random.default_rng(2).integers(0, 60, (5, 7, size), np.uint8)
    for view, strides in (
        (raw[:, :5].swapaxes(0, 1), (1, 7)),
        (raw[::2, 1:6:2], (14, 2)),
        (np.broadcast_to(raw[0, :3], (4, 3, size)), (0, 1)),
    ):
        shape = view.shape[:2]
        entry = TensorEntry("f", 0, 0, "", dtype, shape, strides=strides)
        start = size if strides == (14, 2) else 0
        data = raw.tobytes()[start : start + size * entry.count]
        in_rows = Weight(dtype, shape, np.ascontiguousarray(view).tobytes())
        assert Weight.stored(entry, data) == in_rows
        with pytest.raises(ModelFileError, match="numbers of"):
            Weight.stored(entry, data[:-1])
