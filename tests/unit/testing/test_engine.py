"""The reference engine's operators against formulas written differently, position by position."""

from __future__ import annotations

from math import cos, exp, sin, sqrt

import numpy as np
import pytest

from kwaainet.errors import EngineError
from kwaainet.inference.graph import OnnxWriter
from kwaainet.testing import clock
from kwaainet.testing.engine import OPERATORS, NumpyEngine
from kwaainet.testing.engine_compliance import CONFIG, fill, hidden_states
from kwaainet.types import BlockRange

RANDOM = np.random.default_rng(3)


def _random(*shape: int) -> np.ndarray:
    return RANDOM.standard_normal(shape, np.float32)


def _rotated(head: np.ndarray, position: int, theta: float) -> np.ndarray:
    half = len(head) // 2
    out = np.empty(len(head))
    for pair in range(half):
        angle = position / theta ** (2 * pair / len(head))
        left, right = head[pair], head[pair + half]
        out[pair] = left * cos(angle) - right * sin(angle)
        out[pair + half] = right * cos(angle) + left * sin(angle)
    return out


def test_attention_looks_back_only_and_shares_keys_among_heads() -> None:
    heads, kv_heads, dim, past, tokens, theta = 4, 2, 6, 3, 2, 100.0
    packed = _random(1, tokens, (heads + 2 * kv_heads) * dim)
    past_k, past_v = _random(1, kv_heads, past, dim), _random(1, kv_heads, past, dim)
    angles = np.outer(np.arange(8), theta ** (-np.arange(0, dim, 2) / dim)).astype(np.float32)
    attributes = {"num_heads": heads, "kv_num_heads": kv_heads, "scale": dim**-0.5}
    inputs = [packed, None, None, past_k, past_v, None, None, np.cos(angles), np.sin(angles)]
    result, present_k, present_v = OPERATORS["GroupQueryAttention"](inputs, attributes)

    split = packed.reshape(tokens, -1, dim)
    for token in range(tokens):
        for head in range(heads):
            group = head // (heads // kv_heads)
            query = _rotated(split[token, head], past + token, theta)
            keys = [*past_k[0, group]] + [
                _rotated(split[t, heads + group], past + t, theta) for t in range(token + 1)
            ]
            values = [*past_v[0, group]] + [split[t, heads + kv_heads + group] for t in range(token + 1)]
            weights = [exp(float(query @ key) / sqrt(dim)) for key in keys]
            expected = sum(w * value for w, value in zip(weights, values, strict=True)) / sum(weights)
            found = result[0, token, head * dim : (head + 1) * dim]
            np.testing.assert_allclose(found, expected, atol=1e-5)
    assert present_k.shape == present_v.shape == (1, kv_heads, past + tokens, dim)
    np.testing.assert_array_equal(present_k[:, :, :past], past_k)


def test_norms_divide_by_the_root_of_the_mean_square() -> None:
    x, skip, weight = _random(2, 3, 5), _random(2, 3, 5), _random(5)
    (plain,) = OPERATORS["SimplifiedLayerNormalization"]([x, weight], {"epsilon": 0.5})
    expected = x / np.sqrt((x.astype(float) ** 2).sum(-1, keepdims=True) / 5 + 0.5) * weight
    np.testing.assert_allclose(plain, expected, atol=1e-6)
    normed, _, _, total = OPERATORS["SkipSimplifiedLayerNormalization"]([x, skip, weight], {"epsilon": 0.5})
    np.testing.assert_array_equal(total, x + skip)
    (again,) = OPERATORS["SimplifiedLayerNormalization"]([total, weight], {"epsilon": 0.5})
    np.testing.assert_array_equal(normed, again)


def test_quick_gelu_is_silu_and_does_not_overflow() -> None:
    x = np.array([-1e4, -3.0, 0.0, 2.0, 1e4], np.float32)
    (found,) = OPERATORS["QuickGelu"]([x], {"alpha": 1.0})
    np.testing.assert_allclose(found[1:4], [-3 / (1 + exp(3)), 0, 2 / (1 + exp(-2))], atol=1e-6)
    assert (found[0], found[4]) == (0, 1e4)


def test_float32_stays_float32() -> None:
    async def run() -> None:
        engine = NumpyEngine()
        await fill(engine)
        cache = await engine.open_cache(2, 4)
        assert (await engine.run(cache, hidden_states(2, 4))).dtype == np.float32

    clock.run(run())


def test_tensors_must_be_exactly_those_of_the_graph() -> None:
    async def run() -> None:
        engine = NumpyEngine()
        await engine.add_tensor("cos", np.zeros((2, 2), np.float32))
        writer = OnnxWriter(CONFIG, BlockRange(0, 1))
        await engine.build(writer.graph(), writer.shape)

    with pytest.raises(EngineError, match="tensors added are not those"):
        clock.run(run())
