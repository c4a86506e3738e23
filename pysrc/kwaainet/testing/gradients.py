"""The Gradients port in numpy: a Llama block and its gradient written out by hand, in float64.

Follows Hugging Face's ``LlamaDecoderLayer``. Rule of the file: it reads no graph and shares no line
with ``inference.llama_gradients``, so that the two can be held against each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..errors import EngineError
from ..formats.config import ModelConfig
from ..ports import Floats


class NumpyGradients:
    """Runs blocks of a model of this shape in the caller's turn of the event loop; for small models.

    ``loaded`` are the blocks it holds; ``runs`` what it computed: (kind, block, batch).
    """

    def __init__(self, config: ModelConfig) -> None:
        self._config = config
        self._built = False
        self.loaded: dict[int, dict[str, Any]] = {}
        self.runs: list[tuple[str, int, int]] = []
        self.builds = 0

    async def build(self, forward: bytes, backward: bytes) -> None:
        """See ``ports.Gradients``."""
        self._built = True
        self.builds += 1

    async def add_block(self, block: int, weights: Mapping[str, Floats]) -> None:
        """See ``ports.Gradients``."""
        if {name: array.shape for name, array in weights.items()} != self._config.block_shapes():
            raise EngineError(f"the weights of block {block} are not those of a block, or of other shapes")
        self.loaded[block] = {name: np.float64(array) for name, array in weights.items()}

    async def drop_block(self, block: int) -> None:
        """See ``ports.Gradients``."""
        self.loaded.pop(block, None)

    async def forward(self, block: int, hidden: Floats, tables: Mapping[str, Floats]) -> Floats:
        """See ``ports.Gradients``."""
        self.runs.append(("forward", block, len(hidden)))
        return _single(_Block(self._config, self._block(block), tables, hidden).y)

    async def backward(
        self, block: int, hidden: Floats, grad: Floats, tables: Mapping[str, Floats]
    ) -> Floats:
        """See ``ports.Gradients``."""
        self.runs.append(("backward", block, len(hidden)))
        return _single(_Block(self._config, self._block(block), tables, hidden).back(np.float64(grad)))

    async def close(self) -> None:
        """See ``ports.Gradients``."""
        self.loaded, self._built = {}, False

    def _block(self, block: int) -> dict[str, Any]:
        if not self._built or block not in self.loaded:
            raise EngineError(f"block {block} is not loaded, or there is no graph")
        return self.loaded[block]


class _Block:
    """One run: ``y``, and what ``back`` needs of it."""

    def __init__(
        self, config: ModelConfig, weights: Mapping[str, Any], tables: Mapping[str, Floats], x: Any
    ) -> None:
        self._config, self._w, self._tables = config, weights, tables
        self._x = np.float64(x)
        self._n1 = self._norm(self._x, "input_layernorm")
        q, k, v = (self._split(self._n1 @ self._w[f"self_attn.{letter}_proj.weight"].T) for letter in "qkv")
        repeats = config.num_attention_heads // config.num_key_value_heads
        self._q = self._turn(q, 1)
        self._k, self._v = (np.repeat(part, repeats, axis=1) for part in (self._turn(k, 1), v))
        scores = self._q @ self._k.swapaxes(-1, -2) / np.sqrt(config.head_dim) + tables["mask"]
        powers = np.exp(scores - scores.max(-1, keepdims=True))
        self._p = powers / powers.sum(-1, keepdims=True)
        self._x2 = self._x + self._join(self._p @ self._v) @ self._w["self_attn.o_proj.weight"].T
        n2 = self._norm(self._x2, "post_attention_layernorm")
        self._g, self._u = (n2 @ self._w[f"mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        self._s = (1 + np.tanh(self._g / 2)) / 2
        self.y = self._x2 + (self._g * self._s * self._u) @ self._w["mlp.down_proj.weight"].T

    def back(self, dy: Any) -> Any:
        """dL/dx from dL/dy."""
        w = self._w
        inner = dy @ w["mlp.down_proj.weight"]
        dg = inner * self._u * self._s * (1 + self._g * (1 - self._s))
        du = inner * self._g * self._s
        dn2 = dg @ w["mlp.gate_proj.weight"] + du @ w["mlp.up_proj.weight"]
        dx2 = dy + self._norm_back(self._x2, "post_attention_layernorm", dn2)
        mixed = self._split(dx2 @ w["self_attn.o_proj.weight"])
        dp = mixed @ self._v.swapaxes(-1, -2)
        ds = self._p * (dp - (dp * self._p).sum(-1, keepdims=True)) / np.sqrt(self._config.head_dim)
        parts = {
            "q": self._turn(ds @ self._k, -1),
            "k": self._turn(self._grouped(ds.swapaxes(-1, -2) @ self._q), -1),
            "v": self._grouped(self._p.swapaxes(-1, -2) @ mixed),
        }
        dn1 = sum(self._join(part) @ w[f"self_attn.{letter}_proj.weight"] for letter, part in parts.items())
        return dx2 + self._norm_back(self._x, "input_layernorm", dn1)

    def _norm(self, x: Any, name: str) -> Any:
        return x / self._size(x) * self._w[f"{name}.weight"]

    def _norm_back(self, x: Any, name: str, dy: Any) -> Any:
        size, ds = self._size(x), dy * self._w[f"{name}.weight"]
        return ds / size - x * (ds * x).mean(-1, keepdims=True) / size**3

    def _size(self, x: Any) -> Any:
        return np.sqrt((x * x).mean(-1, keepdims=True) + self._config.rms_norm_eps)

    def _split(self, x: Any) -> Any:
        """[batch, tokens, heads * dim] -> [batch, heads, tokens, dim]."""
        return x.reshape(*x.shape[:2], -1, self._config.head_dim).swapaxes(1, 2)

    def _join(self, x: Any) -> Any:
        return x.swapaxes(1, 2).reshape(x.shape[0], x.shape[2], -1)

    def _grouped(self, x: Any) -> Any:
        """The sum over the heads that share a key and a value."""
        return x.reshape(x.shape[0], self._config.num_key_value_heads, -1, *x.shape[2:]).sum(2)

    def _turn(self, x: Any, direction: int) -> Any:
        """Each pair of a head's two halves as a complex number, turned by its position's angle."""
        half = self._config.head_dim // 2
        cos, sin = (self._tables[name][:, :half] for name in ("cos", "sin"))
        turned = (x[..., :half] + 1j * x[..., half:]) * (cos + direction * 1j * sin)
        return np.concatenate([turned.real, turned.imag], axis=-1)


def _single(array: Any) -> Floats:
    return np.asarray(array, np.float32)
