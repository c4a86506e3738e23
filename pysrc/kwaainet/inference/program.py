"""The program of a span of transformer blocks for the kernels of ``web/kernels``, and the tensors it needs.

Follows Hugging Face's decoder layers, as ``formats.config`` lists what differs between them. Rule of the
file: weights go as the model file holds them; a block is a list of steps, and what only some models have is
a step that is there if its tensor is.

A program is JSON: ``buffers`` {name: floats a token}, beside ``x``, the residual stream; ``tensors``
{name: [format, rows, columns]}, formats by ggml's names; ``blocks``, for each block its steps, run in order
on all rows and positions of a run; ``coarse_from``, if it is there, from how many positions on a run may
round activations to 16 bits where weights are whole numbers. A step names buffers and tensors:

* ``rms_norm`` x, weight, y, epsilon: y is x normed, in parts as long as the weight is (a head, for qk norms);
* ``matmul`` x, weight, y, add: y is x times the weight [out, in] transposed, or has that added;
* ``bias`` y, bias: y has bias added;
* ``rope`` x, cos, sin: x's heads are turned in place, half against half, as far as the tables are wide;
* ``attention`` q, k, v, y, scale, window, softcap: k and v are appended to the block's caches, and y is what
  each query finds in the last ``window`` positions up to its own (0: all); 0 caps no scores;
* ``gated`` gate, up, activation (silu, gelu_tanh): gate becomes activation(gate) * up;
* ``add`` x, y: x has y added;
* ``experts`` x, y, router, top, experts [[gate, up, down]...], activation and buffers: y has what the ``top``
  experts of each token give added, as much as the softmax over their logits says.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from ..formats.config import ModelConfig
from ..formats.quants import STORAGE_TYPES
from ..formats.weights import Weight
from ..types import BlockRange, SpanShape
from .rope import rope_tables, table_names
from .writer import Tensor, TensorShape, check_weights, span_shape

Step: TypeAlias = dict[str, Any]

_LEGACY, _K = ("Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"), ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K")
FORMATS = ("F32", "F16", "BF16", *_LEGACY, *_K)
_ACTIVATIONS = {"silu": "silu", "gelu_pytorch_tanh": "gelu_tanh"}
# Positions of a prompt that is long enough for its time to matter; what is shorter, and every step, is
# computed as finely as float32 has numbers. Logits then differ by some 1e-3 (KL 5e-8 on SmolLM2's Q4_1).
COARSE_FROM = 64
_ATTENTION, _MLP = "self_attn.", "mlp."


def kept_as_stored(dtype: str, shape: Sequence[int]) -> bool:
    """Whether the kernels read a tensor as a file has it; they do not where rows share a block."""
    return len(shape) == 2 and dtype in FORMATS and shape[1] % STORAGE_TYPES[dtype].block == 0


class ProgramWriter:
    """``blocks`` of a model for our own kernels (see ``writer.SpanWriter``).

    ``graph`` knows the formats of what ``constants`` and ``pack_block`` gave, so it comes last.
    ``coarse_from``: how many positions a run must have for its activations to be rounded to 16 bits;
    ``None``: none ever are.
    """

    def __init__(
        self, config: ModelConfig, blocks: BlockRange, coarse_from: int | None = COARSE_FROM
    ) -> None:
        self._config, self._blocks, self._coarse_from = config, blocks, coarse_from
        self._tensors: dict[str, tuple[str, int, int]] = {}

    @property
    def shape(self) -> SpanShape:
        """See ``writer.SpanWriter``."""
        return span_shape(self._config, self._blocks)

    def tensor_shapes(self) -> Iterator[TensorShape]:
        """See ``writer.SpanWriter``: those given so far, by ggml's names of their formats."""
        for name, (kind, rows, columns) in self._tensors.items():
            yield name, kind, (rows, columns)

    def constants(self) -> Iterator[Tensor]:
        """See ``writer.SpanWriter``."""
        for name, table in rope_tables(self._config, self._blocks):
            self._tensors[name] = "F32", *table.shape
            yield name, table

    def pack_block(self, index: int, weights: Mapping[str, Weight]) -> Iterator[Tensor]:
        """See ``writer.SpanWriter``; matrices are bytes [out, bytes of a row], norms and biases float32.

        What the kernels cannot read as it is stored becomes float32.
        """
        check_weights(self._config, index, weights)
        for suffix, weight in weights.items():
            place, _, last = suffix.rpartition(".")
            kind, columns, rows = self._rows(suffix, weight)
            at = 0
            for name, count in self._projections(place, len(rows)).items():
                full, part = f"{index - self._blocks.start}.{name}.{last}", rows[at : at + count]
                at += count
                shape = (count, columns) if len(weight.shape) == 2 else (1, count)
                self._tensors[full] = kind, *shape
                yield full, part

    def _rows(self, suffix: str, weight: Weight) -> tuple[str, int, NDArray[Any]]:
        """(format, numbers in a row, the rows as they are to lie) of a weight; of a vector, its numbers."""
        config = self._config
        if len(weight.shape) == 1:
            offset = config.norm_offset if "norm" in suffix else 0.0
            return "F32", 1, weight.floats(config) + np.float32(offset)
        if kept_as_stored(weight.dtype, weight.shape):
            return weight.dtype, weight.shape[1], weight.rows(config)
        return "F32", weight.shape[1], weight.floats(config)

    def _projections(self, place: str, rows: int) -> dict[str, int]:
        """The projections whose rows lie one after another in one weight, and how many rows each has."""
        config = self._config
        if place == f"{_ATTENTION}qkv_proj":
            keys = config.num_key_value_heads * config.head_dim
            sizes = {"q": config.num_attention_heads * config.head_dim, "k": keys, "v": keys}
            return {f"{_ATTENTION}{letter}_proj": size for letter, size in sizes.items()}
        if place == f"{_MLP}gate_up_proj":
            return {f"{_MLP}{name}_proj": config.intermediate_size for name in ("gate", "up")}
        return {place: rows}

    def graph(self) -> bytes:
        """See ``writer.SpanWriter``."""
        indices = range(self._blocks.start, self._blocks.end)
        blocks = [_Block(self._config, index, f"{index - self._blocks.start}.") for index in indices]
        program = {
            "buffers": _buffers(self._config),
            "tensors": self._tensors,
            "blocks": [list(block.steps()) for block in blocks],
        }
        if self._coarse_from is not None:
            program["coarse_from"] = self._coarse_from
        return json.dumps(program, separators=(",", ":")).encode()


def _buffers(config: ModelConfig) -> dict[str, int]:
    queries, keys = (
        heads * config.head_dim for heads in (config.num_attention_heads, config.num_key_value_heads)
    )
    inner = config.intermediate_size
    sizes = {
        "h": config.hidden_size,
        "q": queries,
        "k": keys,
        "v": keys,
        "a": queries,
        "gate": inner,
        "up": inner,
    }
    if config.num_local_experts:
        sizes |= {"logits": config.num_local_experts, "own": config.hidden_size, "said": config.hidden_size}
    return sizes


class _Block:
    """Writes one block's steps; ``at`` is what its tensors' names start with."""

    def __init__(self, config: ModelConfig, index: int, at: str) -> None:
        self._config, self._index, self._at = config, index, at

    def steps(self) -> Iterator[Step]:
        """In the order they are run."""
        config = self._config
        norms = ("pre_feedforward" if config.post_norms else "post_attention", "post_feedforward")
        yield self._norm("x", "input_layernorm", "h")
        yield from self._attention()
        yield from self._answer("a", f"{_ATTENTION}o_proj", "post_attention_layernorm")
        yield self._norm("x", f"{norms[0]}_layernorm", "h")
        if config.num_local_experts:
            yield from self._experts(f"{norms[1]}_layernorm")
            return
        yield self._product("h", f"{_MLP}gate_proj", "gate")
        yield self._product("h", f"{_MLP}up_proj", "up")
        activation = _ACTIVATIONS[config.hidden_act]
        yield {"op": "gated", "gate": "gate", "up": "up", "activation": activation}
        yield from self._answer("gate", f"{_MLP}down_proj", f"{norms[1]}_layernorm")

    def _attention(self) -> Iterator[Step]:
        config, cos_sin = self._config, table_names(self._config, self._index)
        for letter in "qkv":
            yield self._product("h", f"{_ATTENTION}{letter}_proj", letter)
            if config.qkv_bias:
                yield {"op": "bias", "y": letter, "bias": f"{self._at}{_ATTENTION}{letter}_proj.bias"}
        for letter in "qk":
            if config.qk_norm:
                yield self._norm(letter, f"{_ATTENTION}{letter}_norm", letter)
            yield {"op": "rope", "x": letter, "cos": cos_sin[0], "sin": cos_sin[1]}
        yield {
            "op": "attention",
            **{name: name for name in "qkv"},
            "y": "a",
            "scale": config.attention_scale,
            "window": config.window(self._index) or 0,
            "softcap": config.attn_logit_softcapping or 0.0,
        }

    def _answer(self, x: str, projection: str, norm: str) -> Iterator[Step]:
        """The stream has what comes out of a projection added, through a norm of its own if it has one."""
        if not self._config.post_norms:
            yield self._product(x, projection, "x", add=True)
            return
        yield self._product(x, projection, "h")
        yield self._norm("h", norm, "h")
        yield {"op": "add", "x": "x", "y": "h"}

    def _experts(self, norm: str) -> Iterator[Step]:
        config, at = self._config, f"{self._at}block_sparse_moe."
        experts = [
            [f"{at}experts.{expert}.w{number}.weight" for number in (1, 3, 2)]
            for expert in range(config.num_local_experts)
        ]
        yield self._product("h", "block_sparse_moe.gate", "logits")
        yield {
            "op": "experts",
            "x": "h",
            "y": "x",
            "logits": "logits",
            "top": config.num_experts_per_tok,
            "experts": experts,
            "activation": _ACTIVATIONS[config.hidden_act],
            **{name: name for name in ("gate", "up", "own", "said")},
        }

    def _norm(self, x: str, name: str, y: str) -> Step:
        weight = f"{self._at}{name}.weight"
        return {"op": "rms_norm", "x": x, "weight": weight, "y": y, "epsilon": self._config.rms_norm_eps}

    def _product(self, x: str, name: str, y: str, add: bool = False) -> Step:
        return {"op": "matmul", "x": x, "weight": f"{self._at}{name}.weight", "y": y, "add": add}
