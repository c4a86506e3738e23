"""The Engine port in numpy: reads the span's graph and computes it operator by operator, float32.

Follows the ONNX operator documents and onnxruntime's ContribOperators.md. Rule of the file: exact
before fast, and independent of the adapters: it knows the operators of ``inference.block`` and no
execution provider, so that it can tell which of two engines is wrong.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..errors import EngineError
from ..inference.batching import check_steps
from ..inference.cache import CacheTable
from ..inference.selftest import self_test
from ..ports import Floats, StepResult
from ..types import BlockRange, SpanShape
from ..wire import varint

Attributes: TypeAlias = dict[str, Any]
Values: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of a graph."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Attributes = field(default_factory=dict)


class NumpyEngine:
    """Runs spans in the caller's turn of the event loop; for small models."""

    backend = "cpu"
    half = False
    graphs = "onnx"

    def __init__(self) -> None:
        self._tensors: Values = {}
        self._nodes: list[Node] = []
        self._weights: Values = {}
        self._caches: CacheTable[Values] | None = None

    async def add_tensor(self, name: str, array: NDArray[Any]) -> None:
        """See ``ports.Engine``."""
        self._tensors[name] = np.array(array)

    async def build(self, graph: bytes, shape: SpanShape) -> None:
        """See ``ports.Engine``."""
        weights, self._tensors = self._tensors, {}
        self._nodes, wanted = read_graph(graph)
        switches = {name for index in range(shape.blocks) for name in shape.switches_of(index)}
        if not switches <= weights.keys() or wanted != {
            name: array.shape for name, array in weights.items() if name not in switches
        }:
            raise EngineError("the tensors added are not those the graph asks for, or of other shapes")
        self._weights = weights
        self._caches = CacheTable(shape)
        await self_test(self, shape)

    async def open_cache(self, batch: int, max_length: int, blocks: BlockRange | None = None) -> int:
        """See ``ports.Engine``."""
        caches = self._built()
        blocks = caches.check(batch, max_length, blocks)
        shape = caches.shape
        empty = np.zeros((batch, shape.kv_heads, 0, shape.head_dim), np.float32)
        names = [f"{letter}.{index}" for index in range(shape.blocks) for letter in "kv"]
        return caches.add(batch, max_length, blocks, {f"present_{name}": empty for name in names})

    async def run(self, cache: int, hidden: Floats) -> Floats:
        """See ``ports.Engine``."""
        caches = self._built()
        entry = caches[cache]
        if not caches.plan(entry, hidden):
            return hidden.copy()
        past = {
            name.replace("present", "past"): array[:, :, : entry.length]
            for name, array in entry.storage.items()
        }
        skipped = [index for index in range(caches.shape.blocks) if index not in entry.blocks]
        switches = [name for index in skipped for name in caches.shape.switches_of(index)]
        zeros = {name: np.zeros_like(self._weights[name]) for name in switches}
        values = {"x": hidden, **past, **self._weights, **zeros}
        for node in self._nodes:
            inputs = [values.get(name) for name in node.inputs]
            results = OPERATORS[node.operator](inputs, node.attributes)
            values.update(zip(node.outputs, results, strict=False))
        entry.storage = {name: values[name] for name in entry.storage}
        entry.length += hidden.shape[1]
        result: Floats = values["y"]
        return result

    async def run_many(self, steps: Sequence[tuple[int, Floats]]) -> list[StepResult]:
        """See ``ports.Engine``; one after another, so that what is batched elsewhere has a reference."""
        results, sound = check_steps(self._built(), steps)
        for index, _ in sound:
            results[index] = await NumpyEngine.run(self, *steps[index])
        return results

    async def truncate(self, cache: int, length: int) -> None:
        """See ``ports.Engine``."""
        self._built()[cache].truncate(length)

    async def reorder(self, cache: int, rows: Sequence[int]) -> None:
        """See ``ports.Engine``."""
        entry = self._built()[cache]
        entry.check_rows(rows)
        entry.storage = {name: array[list(rows)] for name, array in entry.storage.items()}

    async def close_cache(self, cache: int) -> None:
        """See ``ports.Engine``."""
        if self._caches is not None:
            self._caches.remove(cache)

    async def close(self) -> None:
        """See ``ports.Engine``."""
        self._tensors, self._nodes, self._weights, self._caches = {}, [], {}, None

    def _built(self) -> CacheTable[Values]:
        if self._caches is None:
            raise EngineError("the engine has no graph; build() it first")
        return self._caches


# --- reading a graph ----------------------------------------------------------------------------


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Field numbers and values: int, 4 bytes as float, or bytes."""
    at = 0
    while at < len(message):
        key, at = varint.decode(message, at)
        if key & 7 == 0:
            value: Any
            value, at = varint.decode(message, at)
        elif key & 7 == 5:
            value, at = struct.unpack_from("<f", message, at)[0], at + 4
        else:
            size, at = varint.decode(message, at)
            value, at = message[at : at + size], at + size
        yield key >> 3, value


def _all(message: bytes, number: int) -> list[Any]:
    return [value for field_number, value in _fields(message) if field_number == number]


def read_graph(model: bytes) -> tuple[list[Node], dict[str, tuple[int, ...]]]:
    """The nodes of an ONNX model, in order, and the shapes of its initializers by name."""
    (graph,) = _all(model, 7)
    shapes = {_all(tensor, 8)[0].decode(): tuple(_all(tensor, 1)) for tensor in _all(graph, 5)}
    return [_read_node(message) for message in _all(graph, 1)], shapes


def _read_node(message: bytes) -> Node:
    attributes: Attributes = {}
    for raw in _all(message, 5):
        attribute = dict(_fields(raw))
        value: Any = {1: attribute.get(2), 2: attribute.get(3), 7: tuple(_all(raw, 8))}[attribute[20]]
        if attribute[20] == 2 and value >= 1 << 63:
            value -= 1 << 64
        attributes[attribute[1].decode()] = value
    inputs, outputs = (tuple(name.decode() for name in _all(message, number)) for number in (1, 2))
    return Node(_all(message, 4)[0].decode(), inputs, outputs, attributes)


# --- the operators --------------------------------------------------------------------------------


def _rms_norm(x: Floats, weight: Floats, epsilon: float) -> Floats:
    mean: Floats = np.mean(x * x, axis=-1, keepdims=True)
    result: Floats = x / np.sqrt(mean + np.float32(epsilon)) * weight
    return result


def _skip_norm(inputs: Sequence[Any], attributes: Attributes) -> tuple[Any, ...]:
    total = inputs[0] + inputs[1]
    return _rms_norm(total, inputs[2], attributes["epsilon"]), None, None, total


def _quick_gelu(inputs: Sequence[Any], attributes: Attributes) -> tuple[Any, ...]:
    x = inputs[0]
    # Written with tanh, because exp overflows for inputs far below zero.
    return (x * np.float32(0.5) * (1 + np.tanh(x * np.float32(0.5 * attributes["alpha"]))),)


def _rotate(x: Floats, cos: Floats, sin: Floats) -> Floats:
    """x [batch, heads, positions, head_dim]; the first half of what turns pairs with its second."""
    half = cos.shape[-1]
    left, right, still = np.split(x, [half, 2 * half], axis=-1)
    return np.concatenate([left * cos - right * sin, right * cos + left * sin, still], axis=-1)


def _attention(inputs: Sequence[Any], attributes: Attributes) -> tuple[Any, ...]:
    """GroupQueryAttention of q, k, v, packed or apart, with rotary tables; every row is equally long."""
    # The lengths are not looked at: the pasts of the cache are exactly as long as they should be.
    packed, keys, values, past_k, past_v, _, _, cos, sin = inputs
    heads, kv_heads = attributes["num_heads"], attributes["kv_num_heads"]
    if keys is not None:
        packed = np.concatenate([packed, keys, values], axis=-1)
    batch, tokens, width = packed.shape
    dim = width // (heads + 2 * kv_heads)
    split = packed.reshape(batch, tokens, -1, dim).transpose(0, 2, 1, 3)
    q, k, v = np.split(split, [heads, heads + kv_heads], axis=1)
    start = past_k.shape[2]
    angles = cos[start : start + tokens], sin[start : start + tokens]
    k = np.concatenate([past_k, _rotate(k, *angles)], axis=2)
    v = np.concatenate([past_v, v], axis=2)
    grouped = _rotate(q, *angles).reshape(batch, kv_heads, heads // kv_heads, tokens, dim)
    scores = grouped @ k[:, :, None].swapaxes(-1, -2) * np.float32(attributes["scale"])
    if cap := attributes.get("softcap"):
        scores = np.float32(cap) * np.tanh(scores / np.float32(cap))
    distance = start + np.arange(tokens)[:, None] - np.arange(start + tokens)
    unseen = (distance < 0) | (distance >= attributes.get("local_window_size", start + tokens))
    scores = np.where(unseen, np.float32(-np.inf), scores)
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    mixed = weights / weights.sum(axis=-1, keepdims=True) @ v[:, :, None]
    result = mixed.reshape(batch, heads, tokens, dim).transpose(0, 2, 1, 3)
    return result.reshape(batch, tokens, heads * dim), k, v


def _matmul_n_bits(inputs: Sequence[Any], attributes: Attributes) -> tuple[Any, ...]:
    """The matrix [N, K] in blocks of 32: 4 bits (element 2j in byte j's low half) or 8, around a zero."""
    x, quants, scales, *zeros = inputs
    if attributes["bits"] == 4:
        quants = np.stack([quants & 15, quants >> 4], axis=-1).reshape(*scales.shape, 32)
    zero = zeros[0][..., None] if zeros else np.float32(2 ** (attributes["bits"] - 1))
    matrix = (quants.astype(np.float32) - zero) * scales[..., None]
    return (x @ matrix.reshape(attributes["N"], attributes["K"]).T,)


def _split(inputs: Sequence[Any], attributes: Attributes) -> tuple[Any, ...]:
    x, sizes = inputs[0], inputs[1] if len(inputs) > 1 else attributes["num_outputs"]
    return tuple(np.split(x, sizes if isinstance(sizes, int) else np.cumsum(sizes)[:-1], axis=-1))


def _constant(inputs: Sequence[Any], attributes: Attributes) -> tuple[Any, ...]:
    if "value_float" in attributes:
        return (np.float32(attributes["value_float"]),)
    return (np.array([size - (1 << 64) * (size >> 63) for size in attributes["value_ints"]], np.int64),)


def _reshape(inputs: Sequence[Any], attributes: Attributes) -> tuple[Any, ...]:
    x, dims = inputs
    return (x.reshape([x.shape[axis] if dim == 0 else dim for axis, dim in enumerate(dims)]),)


def _fast_gelu(inputs: Sequence[Any], attributes: Attributes) -> tuple[Any, ...]:
    x = inputs[0]
    inner = np.float32(0.7978845608) * (x + np.float32(0.044715) * x * x * x)
    return (np.float32(0.5) * x * (1 + np.tanh(inner)),)


def _softmax(inputs: Sequence[Any], attributes: Attributes) -> tuple[Any, ...]:
    x = np.exp(inputs[0] - inputs[0].max(axis=-1, keepdims=True))
    return (x / x.sum(axis=-1, keepdims=True),)


def _top_k(inputs: Sequence[Any], attributes: Attributes) -> tuple[Any, ...]:
    x, count = inputs[0], int(inputs[1][0])
    places = np.argsort(-x, axis=-1, kind="stable")[..., :count]
    return np.take_along_axis(x, places, axis=-1), places


OPERATORS: dict[str, Callable[[Sequence[Any], Attributes], tuple[Any, ...]]] = {
    "Add": lambda inputs, attributes: (inputs[0] + inputs[1],),
    "Mul": lambda inputs, attributes: (inputs[0] * inputs[1],),
    "MatMul": lambda inputs, attributes: (inputs[0] @ inputs[1],),
    "MatMulNBits": _matmul_n_bits,
    "Constant": _constant,
    "GreaterOrEqual": lambda inputs, attributes: (inputs[0] >= inputs[1],),
    "ReduceMin": lambda inputs, attributes: (inputs[0].min(axis=-1, keepdims=True),),
    "Reshape": _reshape,
    "Softmax": _softmax,
    "Split": _split,
    "TopK": _top_k,
    "Where": lambda inputs, attributes: (np.where(*inputs),),
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
    "SimplifiedLayerNormalization": lambda inputs, attributes: (
        _rms_norm(inputs[0], inputs[1], attributes["epsilon"]),
    ),
    "SkipSimplifiedLayerNormalization": _skip_norm,
    "GroupQueryAttention": _attention,
}
