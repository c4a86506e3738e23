"""The graphs of one Llama block as training needs it: its output, and the gradient of its input.

Follows Hugging Face's ``LlamaDecoderLayer`` and its vector-Jacobian product by the chain rule: each
function below is beside its derivative (``_norm`` and ``_norm_back``, and so on). Rule of the file:
operators that any ONNX runtime has, and ``FusedMatMul`` for the products with a transposed matrix:
weights are read as they lie in the model file, [out, in], for both directions.

Inputs: ``x`` float [batch, tokens, hidden], for the gradient also ``dy`` of the same shape; ``cos``,
``sin`` float [tokens, head_dim] and ``mask`` float [tokens, tokens] (see ``tables``); the block's
weights under Hugging Face's names. Output: ``y`` or ``dx``, shaped like ``x``. Positions start at 0,
there is no cache: training sees each sequence whole. Weights get no gradient: they are frozen.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import NamedTuple

import numpy as np

from ..errors import UnsupportedModel
from ..formats.config import ModelConfig
from ..ports import Floats
from ..types import BlockRange
from .onnx import MICROSOFT, Attribute, ElementType, model, node, value
from .rope import rope_tables

MASKED = -1e30  # a score that softmax makes zero, and that stays finite whatever is added to it
LARGE_ACTIVATIONS = 6  # of the size of the attention's weights that live at once; measured, rounded up


def tables(config: ModelConfig, tokens: int) -> dict[str, Floats]:
    """``cos``, ``sin`` and the causal ``mask`` for so many positions, as the graphs' inputs."""
    halves = dict(rope_tables(replace(config, max_position_embeddings=tokens), BlockRange(0, 1)))
    result = {name: np.concatenate([half, half], axis=1) for name, half in halves.items()}
    result["mask"] = np.triu(np.full((tokens, tokens), MASKED, np.float32), 1)
    return result


_LIKE_LLAMA = """hidden_act qkv_bias qk_norm packed_projections post_norms norm_offset query_pre_attn_scalar
    attn_logit_softcapping sliding_window partial_rotary_factor num_local_experts"""


def _check_trainable(config: ModelConfig) -> None:
    """``UnsupportedModel`` names an architecture whose blocks compute something else than Llama's."""
    defaults = {field.name: field.default for field in fields(config)}
    if other := [name for name in _LIKE_LLAMA.split() if getattr(config, name) != defaults[name]]:
        raise UnsupportedModel(
            f"training through {config.architecture} is not supported ({other[0]}); only Llama's blocks are"
        )


def working_bytes(config: ModelConfig, batch: int, tokens: int) -> int:
    """About what one run of the gradient takes beside the weights."""
    attention = config.num_attention_heads * tokens * tokens
    wide = tokens * (6 * config.intermediate_size + 16 * config.hidden_size)
    return 4 * batch * (LARGE_ACTIVATIONS * attention + wide)


def forward_graph(config: ModelConfig) -> bytes:
    """``x`` -> ``y``."""
    graph = _Graph(config)
    graph.add("Identity", _forward(graph).y, output="y")
    return graph.model("y", ("x",))


def backward_graph(config: ModelConfig) -> bytes:
    """``x`` and the gradient ``dy`` of the block's output -> the gradient ``dx`` of its input."""
    graph = _Graph(config)
    at = _forward(graph)
    d_inner = graph.add("MatMul", "dy", _DOWN)
    d_up = graph.mul(d_inner, at.silu)
    d_gate = graph.mul(graph.mul(d_inner, at.up), _silu_slope(graph, at))
    d_normed = graph.sum(graph.add("MatMul", d_gate, _GATE), graph.add("MatMul", d_up, _UP))
    d_middle = graph.sum("dy", _norm_back(graph, at.post, d_normed))
    d_attended = graph.add("MatMul", d_middle, _O)
    d_input = _norm_back(graph, at.input, _attention_back(graph, at, d_attended))
    graph.add("Add", d_middle, d_input, output="dx")
    return graph.model("dx", ("x", "dy"))


_Q, _K, _V, _O = (f"self_attn.{letter}_proj.weight" for letter in "qkvo")
_GATE, _UP, _DOWN = (f"mlp.{name}_proj.weight" for name in ("gate", "up", "down"))


class _Graph:
    """Collects nodes; values are known by the names of their results."""

    def __init__(self, config: ModelConfig) -> None:
        _check_trainable(config)
        self.config = config
        self._nodes: list[bytes] = []
        self._constants: dict[tuple[int, ...] | float, str] = {}

    def add(
        self, operator: str, *inputs: str, output: str = "", domain: str = "", **attributes: Attribute
    ) -> str:
        """Append a node; the name of its result."""
        output = output or f"t{len(self._nodes)}"
        self._nodes.append(node(operator, inputs, [output], domain, **attributes))
        return output

    def constant(self, number: tuple[int, ...] | float) -> str:
        """A scalar float, or a list of int64."""
        if number not in self._constants:
            if isinstance(number, tuple):
                self._constants[number] = self.add("Constant", value_ints=number)
            else:
                self._constants[number] = self.add("Constant", value_float=number)
        return self._constants[number]

    def mul(self, one: str, other: str) -> str:
        return self.add("Mul", one, other)

    def sum(self, one: str, other: str) -> str:
        return self.add("Add", one, other)

    def product(self, a: str, b: str, *, transposed: str = "", scale: float = 1.0) -> str:
        """``scale * a @ b``; ``transposed`` names the one that is transposed first: "a" or "b"."""
        flags = int(transposed == "a"), int(transposed == "b")
        return self.add("FusedMatMul", a, b, domain=MICROSOFT, alpha=scale, transA=flags[0], transB=flags[1])

    def mean(self, x: str) -> str:
        return self.add("ReduceMean", x, self.constant((-1,)), keepdims=1)

    def heads(self, x: str, groups: int) -> str:
        """[batch, tokens, kv_heads * groups * dim] -> [batch, kv_heads, groups, tokens, dim]."""
        kv_heads, dim = self.config.num_key_value_heads, self.config.head_dim
        split = self.add("Reshape", x, self.constant((0, 0, kv_heads, groups, dim)))
        return self.add("Transpose", split, perm=(0, 2, 3, 1, 4))

    def joined(self, x: str, groups: int) -> str:
        """The inverse of ``heads``."""
        width = self.config.num_key_value_heads * groups * self.config.head_dim
        back = self.add("Transpose", x, perm=(0, 3, 1, 2, 4))
        return self.add("Reshape", back, self.constant((0, 0, width)))

    def model(self, output: str, states: tuple[str, ...]) -> bytes:
        config = self.config
        hidden: list[int | str] = ["batch", "tokens", config.hidden_size]
        inputs = [value(name, ElementType.FLOAT, hidden) for name in states]
        inputs += [value(name, ElementType.FLOAT, ["tokens", config.head_dim]) for name in ("cos", "sin")]
        inputs.append(value("mask", ElementType.FLOAT, ["tokens", "tokens"]))
        inputs += [value(name, ElementType.FLOAT, shape) for name, shape in config.block_shapes().items()]
        return model(self._nodes, [], inputs, [value(output, ElementType.FLOAT, hidden)])


class _Norm(NamedTuple):
    """An RMS norm: ``y = scaled * weight``, ``scaled = x * rate``."""

    scaled: str
    rate: str
    weight: str
    y: str


class _Values(NamedTuple):
    """What the gradient needs of the way forward."""

    input: _Norm
    query: str  # rotated, [batch, kv_heads, groups, tokens, dim]
    key: str  # rotated, groups is 1
    value: str
    weights: str  # of the attention, [batch, kv_heads, groups, tokens, tokens]
    post: _Norm
    gate: str
    sigmoid: str
    silu: str
    up: str
    y: str


def _forward(graph: _Graph) -> _Values:
    groups = graph.config.num_attention_heads // graph.config.num_key_value_heads
    normed = _norm(graph, "x", "input_layernorm.weight")
    query = _rotate(graph, graph.heads(graph.product(normed.y, _Q, transposed="b"), groups))
    key = _rotate(graph, graph.heads(graph.product(normed.y, _K, transposed="b"), 1))
    values = graph.heads(graph.product(normed.y, _V, transposed="b"), 1)
    scores = graph.product(query, key, transposed="b", scale=_scale(graph))
    weights = graph.add("Softmax", graph.sum(scores, "mask"), axis=-1)
    attended = graph.joined(graph.add("MatMul", weights, values), groups)
    middle = graph.sum("x", graph.product(attended, _O, transposed="b"))
    post = _norm(graph, middle, "post_attention_layernorm.weight")
    gate = graph.product(post.y, _GATE, transposed="b")
    up = graph.product(post.y, _UP, transposed="b")
    sigmoid = graph.add("Sigmoid", gate)
    silu = graph.mul(gate, sigmoid)
    y = graph.sum(middle, graph.product(graph.mul(silu, up), _DOWN, transposed="b"))
    return _Values(normed, query, key, values, weights, post, gate, sigmoid, silu, up, y)


def _scale(graph: _Graph) -> float:
    return float(graph.config.head_dim**-0.5)


def _norm(graph: _Graph, x: str, weight: str) -> _Norm:
    power = graph.sum(graph.mean(graph.mul(x, x)), graph.constant(float(graph.config.rms_norm_eps)))
    rate = graph.add("Reciprocal", graph.add("Sqrt", power))
    scaled = graph.mul(x, rate)
    return _Norm(scaled, rate, weight, graph.mul(scaled, weight))


def _norm_back(graph: _Graph, norm: _Norm, dy: str) -> str:
    """``rate * (ds - scaled * mean(ds * scaled))`` with ``ds = dy * weight``."""
    ds = graph.mul(dy, norm.weight)
    along = graph.mul(norm.scaled, graph.mean(graph.mul(ds, norm.scaled)))
    return graph.mul(norm.rate, graph.add("Sub", ds, along))


def _rotate(graph: _Graph, x: str) -> str:
    """The rotary embedding; the first half of a head pairs with the second."""
    return graph.sum(graph.mul(x, "cos"), graph.mul(_quarter_turn(graph, x), "sin"))


def _rotate_back(graph: _Graph, dy: str) -> str:
    """A rotation's transpose is the rotation backwards."""
    return graph.add("Sub", graph.mul(dy, "cos"), graph.mul(_quarter_turn(graph, dy), "sin"))


def _quarter_turn(graph: _Graph, x: str) -> str:
    """(a, b) -> (-b, a) of the halves of the last axis."""
    half, end, axis = graph.config.head_dim // 2, graph.config.head_dim, graph.constant((4,))
    first = graph.add("Slice", x, graph.constant((0,)), graph.constant((half,)), axis)
    second = graph.add("Slice", x, graph.constant((half,)), graph.constant((end,)), axis)
    return graph.add("Concat", graph.add("Neg", second), first, axis=-1)


def _silu_slope(graph: _Graph, at: _Values) -> str:
    """``s + silu * (1 - s)`` of ``silu = gate * s``, ``s = sigmoid(gate)``."""
    rest = graph.add("Sub", graph.constant(1.0), at.sigmoid)
    return graph.sum(at.sigmoid, graph.mul(at.silu, rest))


def _attention_back(graph: _Graph, at: _Values, d_attended: str) -> str:
    """The gradient of the attention's input, which went into its queries, keys and values."""
    groups = graph.config.num_attention_heads // graph.config.num_key_value_heads
    over_groups = graph.constant((2,))
    d_mixed = graph.heads(d_attended, groups)
    d_value = graph.add(
        "ReduceSum", graph.product(at.weights, d_mixed, transposed="a"), over_groups, keepdims=1
    )
    d_weights = graph.mul(graph.product(d_mixed, at.value, transposed="b"), at.weights)
    total = graph.add("ReduceSum", d_weights, graph.constant((-1,)), keepdims=1)
    d_scores = graph.add("Sub", d_weights, graph.mul(at.weights, total))
    d_query = _rotate_back(graph, graph.product(d_scores, at.key, scale=_scale(graph)))
    by_group = graph.product(d_scores, at.query, transposed="a", scale=_scale(graph))
    d_key = _rotate_back(graph, graph.add("ReduceSum", by_group, over_groups, keepdims=1))
    into_query = graph.add("MatMul", graph.joined(d_query, groups), _Q)
    into_key = graph.add("MatMul", graph.joined(d_key, 1), _K)
    into_value = graph.add("MatMul", graph.joined(d_value, 1), _V)
    return graph.sum(graph.sum(into_query, into_key), into_value)
