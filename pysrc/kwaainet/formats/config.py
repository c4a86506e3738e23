"""The hyper-parameters of a Llama-family model, in Hugging Face's words (``LlamaConfig``).

Rule of the file: one immutable value, checked once when made; every reader produces it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from math import isfinite
from typing import Any

from ..errors import ModelFileError

EMBED = "model.embed_tokens.weight"
NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"

_CAPS = {
    "num_hidden_layers": 1024,
    "hidden_size": 65536,
    "intermediate_size": 1 << 20,
    "num_attention_heads": 1024,
    "num_key_value_heads": 1024,
    "head_dim": 4096,
    "vocab_size": 1 << 22,
    "max_position_embeddings": 1 << 22,
}


@dataclass(frozen=True, slots=True)
class LlamaConfig:
    """Sizes are element counts; ``rope_theta`` and ``rms_norm_eps`` as in the paper's code."""

    num_hidden_layers: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope_theta: float
    tie_word_embeddings: bool
    bos_token_id: int | None = None
    eos_token_id: int | None = None

    def __post_init__(self) -> None:
        for name, cap in _CAPS.items():
            value = getattr(self, name)
            if not 0 < value <= cap:
                raise ModelFileError(f"model config: {name} is {value!r}; 1 to {cap} is allowed")
        if self.num_attention_heads % self.num_key_value_heads:
            raise ModelFileError(
                f"model config: {self.num_attention_heads} heads do not divide among "
                f"{self.num_key_value_heads} key-value heads"
            )
        if self.head_dim % 2:
            raise ModelFileError(f"model config: head_dim is {self.head_dim}; it must be even")
        for name in ("rms_norm_eps", "rope_theta"):
            value = getattr(self, name)
            if not (isfinite(value) and value > 0):
                raise ModelFileError(f"model config: {name} is {value!r}; it must be a number above 0")

    def block_shapes(self) -> dict[str, tuple[int, ...]]:
        """The nine tensors of every block: Hugging Face's suffix -> shape [out, in] (or [size])."""
        hidden, inner = self.hidden_size, self.intermediate_size
        queries = self.num_attention_heads * self.head_dim
        keys = self.num_key_value_heads * self.head_dim
        return {
            "input_layernorm.weight": (hidden,),
            "self_attn.q_proj.weight": (queries, hidden),
            "self_attn.k_proj.weight": (keys, hidden),
            "self_attn.v_proj.weight": (keys, hidden),
            "self_attn.o_proj.weight": (hidden, queries),
            "post_attention_layernorm.weight": (hidden,),
            "mlp.gate_proj.weight": (inner, hidden),
            "mlp.up_proj.weight": (inner, hidden),
            "mlp.down_proj.weight": (hidden, inner),
        }

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor of the model by its full name; no ``lm_head.weight`` where it is tied."""
        block = self.block_shapes()
        shapes: dict[str, tuple[int, ...]] = {EMBED: (self.vocab_size, self.hidden_size)}
        for index in range(self.num_hidden_layers):
            shapes.update({block_name(index, suffix): shape for suffix, shape in block.items()})
        shapes[NORM] = (self.hidden_size,)
        if not self.tie_word_embeddings:
            shapes[LM_HEAD] = (self.vocab_size, self.hidden_size)
        return shapes

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, one key a field."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> LlamaConfig:
        """Inverse of ``to_json``; ``ModelFileError`` if a field is missing or of another type."""
        if not isinstance(value, dict):
            raise ModelFileError(f"model config: expected a JSON object, got {type(value).__name__}")
        known = {field.name for field in fields(cls)}
        arguments = {name: _typed(name, value[name]) for name in known & value.keys()}
        missing = known - arguments.keys() - {"bos_token_id", "eos_token_id"}
        if missing:
            raise ModelFileError(f"model config: missing {', '.join(sorted(missing))}")
        return cls(**arguments)


def _typed(name: str, item: Any) -> Any:
    """``item`` if it is of the type that field ``name`` has; a number may be written as an integer."""
    if name in ("rms_norm_eps", "rope_theta"):
        if type(item) is float or (type(item) is int and abs(item) < 1 << 53):
            return float(item)
    elif name == "tie_word_embeddings":
        if isinstance(item, bool):
            return item
    elif type(item) is int or (item is None and name in ("bos_token_id", "eos_token_id")):
        return item
    raise ModelFileError(f"model config: {name} is {item!r:.80}, which is of the wrong type")


def block_name(index: int, suffix: str) -> str:
    """Full name of block ``index``'s tensor ``suffix``, as Hugging Face writes it."""
    return f"model.layers.{index}.{suffix}"
