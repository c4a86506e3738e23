"""The kernels of web/kernels compute what numpy computes: every format, odd sizes, windows, ragged rows.

One Node process for each of the two builds makes all calls; the formats' reference is the ``gguf`` package.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from numpy.typing import NDArray

HERE = Path(__file__).resolve().parent
NODE = HERE.parents[1] / ".venv" / "bin" / "node"

Array = NDArray[Any]
Call = Callable[..., list[Array]]
RANDOM = np.random.default_rng(5)


def floats(*shape: int) -> Array:
    return RANDOM.standard_normal(shape).astype(np.float32)


class Calls:
    """Kernels to be called, each with the check of what it answers."""

    def __init__(self) -> None:
        self.requests: list[dict[str, Any]] = []
        self.checks: list[tuple[str, Callable[[list[Array]], None]]] = []

    def add(self, name: str, kernel: str, args: list[Any], check: Callable[..., None], *results: int) -> None:
        self.requests.append({"kernel": kernel, "args": [_argument(one) for one in args], "results": results})
        shapes = [args[index].shape for index in results]

        def checked(answers: list[str]) -> None:
            arrays = [np.frombuffer(base64.b64decode(one), np.float32) for one in answers]
            check(*(array.reshape(shape) for array, shape in zip(arrays, shapes, strict=True)))

        self.checks.append((name, checked))

    def run(self, plain: bool) -> Iterator[tuple[str, Callable[[], None]]]:
        done = subprocess.run(
            [NODE, HERE / "kernel_calls.mjs"],
            input=json.dumps(self.requests),
            env={**os.environ, "PLAIN": str(int(plain))},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        for (name, check), answer in zip(self.checks, json.loads(done.stdout), strict=True):
            yield name, lambda check=check, answer=answer: check(answer)


def _argument(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {"bytes": base64.b64encode(np.ascontiguousarray(value).tobytes()).decode()}
    return value


def close(expected: Array, tolerance: float = 2e-6) -> Callable[[Array], None]:
    """Within ``tolerance`` of the largest value."""

    def check(found: Array) -> None:
        error = float(np.abs(found - expected).max()) / max(1.0, float(np.abs(expected).max()))
        assert error <= tolerance, f"off by {error:.1e} of the largest value"

    return check


FORMATS = {
    "F32": (0, 1), "F16": (1, 1), "BF16": (30, 1), "Q4_0": (2, 32), "Q4_1": (3, 32), "Q5_0": (6, 32),
    "Q5_1": (7, 32), "Q8_0": (8, 32), "Q2_K": (10, 256), "Q3_K": (11, 256), "Q4_K": (12, 256),
    "Q5_K": (13, 256), "Q6_K": (14, 256),
}  # fmt: skip

SINGLE = ("Q4_0", "Q4_1", "Q8_0")  # of which one row is never rounded to 16 bits
COARSE = 256
WORDS = 512


def stored(name: str, rows: int, columns: int) -> tuple[Array, Array]:
    """(the bytes of random weights in a format, the numbers they stand for by the reference reader)."""
    kind = gguf.GGMLQuantizationType[name]
    block, size = gguf.GGML_QUANT_SIZES[kind]
    if name in ("F32", "F16", "BF16"):
        data = gguf.quants.quantize(floats(rows, columns), kind)
        return data, gguf.quants.dequantize(data, kind).reshape(rows, columns)
    raw = RANDOM.integers(0, 256, (rows * columns // block, size), dtype=np.uint8)
    two = dict.fromkeys(("Q4_1", "Q5_1", "Q4_K", "Q5_K"), (0, 2))
    halves = {**two, "Q2_K": (80, 82), "Q3_K": (108,), "Q6_K": (208,)}
    for at in halves.get(name, (0,)):  # any bytes are quants; scales must be numbers
        scales = RANDOM.standard_normal(len(raw)).astype(np.float16) / np.float16(30)
        raw[:, at : at + 2] = scales.view(np.uint8).reshape(-1, 2)
    data = raw.reshape(rows, -1)
    return data, gguf.quants.dequantize(data, kind).reshape(rows, columns)


def rounded(name: str, x: Array, weights: Array, expected: Array) -> Callable[[Array], None]:
    """No error is larger than 16 bits of the largest of 32 activations allow (21 for weights of 8)."""
    steps = 63 * 2**14 if name == "Q8_0" else 127 * 2**8
    largest = np.abs(x).reshape(len(x), -1, 32).max(-1).astype(np.float64)
    sizes = np.abs(weights).reshape(len(weights), -1, 32).sum(-1)
    allowed = largest @ sizes.T / (2 * steps) + 2e-6 * max(1.0, float(np.abs(expected).max()))

    def check(found: Array) -> None:
        worst = float((np.abs(found - expected) / allowed).max())
        assert worst <= 1, f"off by {worst:.2f} times what rounding allows"

    return check


def alike(check: Callable[[Array], None]) -> tuple[Callable[[Array], None], Callable[[Array], None]]:
    """``check`` of the first result, and that of the next: the same bits."""
    seen: list[Array] = []

    def first(found: Array) -> None:
        seen.append(found)
        check(found)

    def second(found: Array) -> None:
        assert np.array_equal(seen[0], found), "other bits than in digits"

    return first, second


def matmuls(calls: Calls, plain: bool) -> None:
    for name, (number, block) in FORMATS.items():
        sizes = ((7, 3), (9, 577), (5, 64)) if block == 1 else ((7, block), (6, 3 * block), (9, 1280))
        for outputs, columns in sizes:
            data, weights = stored(name, outputs, columns)
            for rows in (1, 2, 5, 17):
                x, y = floats(rows, columns), floats(rows, outputs)
                expected = x.astype(np.float64) @ weights.T.astype(np.float64)
                args = [number, data, columns, x, rows, y, outputs, 0, outputs]
                label = f"{name} {outputs}x{columns} by {rows}"
                digits, words = alike(close(expected))
                calls.add(label, "matmul", args, digits, 5)
                calls.add(f"{label}, in words", "matmul", [number + WORDS, *args[1:]], words, 5)
                exact = plain or block == 1 or (rows == 1 and name in SINGLE)
                check = close(expected) if exact else rounded(name, x, weights, expected)
                digits, words = alike(check)
                calls.add(f"{label}, coarse", "matmul", [number + COARSE, *args[1:]], digits, 5)
                calls.add(f"{label}, coarse words", "matmul", [number + COARSE + WORDS, *args[1:]], words, 5)
    data, weights = stored("Q4_0", 8, 64)
    for rows in (1, 3):
        x, y = floats(rows, 64), floats(rows, 8)
        expected = x.astype(np.float64) @ weights.T.astype(np.float64)
        part = np.where(np.arange(8) // 3 == 1, expected, y)
        calls.add("some outputs", "matmul", [2, data, 64, x, rows, y, 8, 3, 6], close(part), 5)
        x = np.repeat(np.float32([1e-30, 3e30]), 32)[None].repeat(rows, 0)
        expected = x.astype(np.float64) @ weights.T.astype(np.float64)
        calls.add("large and small", "matmul", [2, data, 64, x, rows, y, 8, 0, 8], close(expected), 5)
        x = np.full((rows, 64), np.nan, np.float32)
        calls.add("not a number", "matmul", [2, data, 64, x, rows, y, 8, 0, 8], _all_nan, 5)
    for name in ("Q4_0", "Q3_K", "Q6_K"):
        extremes(calls, name)


def extremes(calls: Calls, name: str) -> None:
    """Largest weights times largest activations, of one sign: what sums must have room for."""
    number, block = FORMATS[name]
    data, _ = stored(name, 8, 2 * block)
    quants = {"Q4_0": slice(2, 18), "Q3_K": slice(0, 96), "Q6_K": slice(0, 192)}[name]
    for fill in (0, 255):
        raw = data.reshape(-1, gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]][1]).copy()
        raw[:, quants] = fill
        kind = gguf.GGMLQuantizationType[name]
        weights = gguf.quants.dequantize(raw.reshape(8, -1), kind).reshape(8, -1)
        x = np.full((3, 2 * block), 1.7, np.float32)
        expected = x.astype(np.float64) @ weights.T.astype(np.float64)
        args = [raw.reshape(8, -1), 2 * block, x, 3, np.zeros((3, 8), np.float32), 8, 0, 8]
        calls.add(f"{name} of {fill}", "matmul", [number, *args], close(expected), 5)
        calls.add(f"{name} of {fill}, in words", "matmul", [number + WORDS, *args], close(expected), 5)
        check = rounded(name, x, weights, expected)
        calls.add(f"{name} of {fill}, coarse words", "matmul", [number + COARSE + WORDS, *args], check, 5)


def _all_nan(found: Array) -> None:
    assert np.isnan(found).all()


def attentions(calls: Calls) -> None:
    for heads, kv_heads, head_dim, lengths, tokens, window, softcap in (
        (3, 1, 64, [0], 1, 0, 0.0),
        (9, 3, 64, [0, 5, 140], 1, 0, 0.0),
        (4, 2, 6, [3], 40, 0, 0.0),
        (8, 1, 16, [0, 130], 7, 0, 0.0),
        (4, 4, 20, [10, 0], 9, 4, 0.0),
        (2, 1, 32, [300], 3, 33, 5.0),
    ):
        capacity = max(lengths) + tokens + 2
        rows = len(lengths)
        q = floats(rows, tokens, heads, head_dim)
        k, v = floats(rows, tokens, kv_heads, head_dim), floats(rows, tokens, kv_heads, head_dim)
        caches = [floats(rows, kv_heads, capacity, head_dim) for _ in range(2)]
        expected, after = attend(q, k, v, caches, lengths, window, softcap)
        scratch = np.zeros(16 * (capacity + 8), np.float32)
        args = [
            q, k, v, np.empty_like(q), *caches, np.array(lengths, np.int32), rows, tokens, heads, kv_heads,
            head_dim, capacity, head_dim**-0.5, window, softcap, scratch,
        ]  # fmt: skip

        def check(
            y: Array, keys: Array, values: Array, expected: Array = expected, after: Any = after
        ) -> None:
            close(expected)(y)
            np.testing.assert_array_equal(keys, after[0])
            np.testing.assert_array_equal(values, after[1])

        name = f"{heads}/{kv_heads} heads of {head_dim}, {lengths} + {tokens}, window {window}, cap {softcap}"
        calls.add(name, "attention", args, check, 3, 4, 5)


def attend(
    q: Array, k: Array, v: Array, caches: list[Array], lengths: list[int], window: int, softcap: float
) -> tuple[Array, list[Array]]:
    """(attention in float64, the caches with the new positions in them)."""
    _, tokens, heads, head_dim = q.shape
    y, after = np.zeros(q.shape), [cache.copy() for cache in caches]
    for row, past in enumerate(lengths):
        for cache, new in zip(after, (k, v), strict=True):
            cache[row, :, past : past + tokens] = new[row].swapaxes(0, 1)
        for head in range(heads):
            keys, values = (cache[row, head * k.shape[2] // heads].astype(np.float64) for cache in after)
            for token in range(tokens):
                seen = slice(max(0, past + token + 1 - window) if window else 0, past + token + 1)
                scores = keys[seen] @ q[row, token, head] * head_dim**-0.5
                scores = softcap * np.tanh(scores / softcap) if softcap else scores
                weights = np.exp(scores - scores.max())
                y[row, token, head] = weights @ values[seen] / weights.sum()
    return y, after


def each_row(calls: Calls) -> None:
    for width in (3, 64, 577):
        x, weight, y = floats(5, width), floats(width), np.zeros((5, width), np.float32)
        wide = x.astype(np.float64)
        expected = wide / np.sqrt((wide**2).mean(-1, keepdims=True) + 1e-5) * weight
        calls.add(f"norm {width}", "rms_norm", [x, weight, y, 5, width, 1e-5], close(expected), 2)
        up = floats(5, width)
        calls.add(
            "silu", "gated", [10 * x, up, x.size, 0], close(10 * wide / (1 + np.exp(-10 * wide)) * up), 0
        )
        inner = np.tanh(np.sqrt(2 / np.pi) * (wide + 0.044715 * wide**3))
        calls.add("gelu", "gated", [x, up, x.size, 1], close(wide * (1 + inner) / 2 * up), 0)
        calls.add("add", "add", [x, up, x.size], close(x + up), 0)
        calls.add("bias", "add_bias", [x, weight, 5, width], close(x + weight), 0)
    for head_dim, turned in ((8, 8), (20, 12), (64, 64)):
        x, angles = floats(3, 2, head_dim), floats(10, turned // 2)
        cos, sin, at = np.cos(angles), np.sin(angles), np.array([4, 0, 9], np.int32)
        a, b = x[..., : turned // 2], x[..., turned // 2 : turned]
        c, s = cos[at][:, None], sin[at][:, None]
        expected = np.concatenate([a * c - b * s, b * c + a * s, x[..., turned:]], -1)
        calls.add(f"rope {turned}", "rope", [x, cos, sin, at, 3, 2, head_dim, turned], close(expected), 0)


@pytest.mark.parametrize("plain", [False, True], ids=["relaxed", "plain"])
def test_kernels_compute_what_numpy_computes(plain: bool) -> None:
    calls = Calls()
    matmuls(calls, plain)
    attentions(calls)
    each_row(calls)
    wrong = []
    for name, check in calls.run(plain):
        try:
            check()
        except AssertionError as error:
            wrong.append(f"{name}: {error}")
    assert not wrong, "\n".join(wrong)
