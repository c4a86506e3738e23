"""The hyper-parameters of a Llama-family model, in Hugging Face's words (``LlamaConfig``).

Rule of the file: one immutable value, checked once when made; every reader produces it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from typing import Any

from ..errors import ModelFileError

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

    def to_json(self) -> dict[str, Any]:
        """As a JSON object, one key a field."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> LlamaConfig:
        """Inverse of ``to_json``; ``ModelFileError`` if a field is missing or of another type."""
        if not isinstance(value, dict):
            raise ModelFileError(f"model config: expected a JSON object, got {type(value).__name__}")
        known = {field.name for field in fields(cls)}
        floats = {"rms_norm_eps", "rope_theta"}
        arguments: dict[str, Any] = {}
        for name in known & value.keys():
            item = value[name]
            if name in floats and isinstance(item, int | float) and not isinstance(item, bool):
                arguments[name] = float(item)
            elif name == "tie_word_embeddings" and isinstance(item, bool):
                arguments[name] = item
            elif name in ("bos_token_id", "eos_token_id") and item is None:
                arguments[name] = None
            elif name not in floats and isinstance(item, int) and not isinstance(item, bool):
                arguments[name] = item
            else:
                raise ModelFileError(f"model config: {name} has the value {item!r} of the wrong type")
        missing = known - arguments.keys() - {"bos_token_id", "eos_token_id"}
        if missing:
            raise ModelFileError(f"model config: missing {', '.join(sorted(missing))}")
        return cls(**arguments)
