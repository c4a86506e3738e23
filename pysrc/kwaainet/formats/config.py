"""The hyper-parameters of a decoder-only transformer, in Hugging Face's words; Llama's are the defaults.

Follows ``transformers``' config classes. All that differs between the architectures served here is a
field of this one value. Rule of the file: one immutable value, checked once when made; every reader
produces it, and whatever writes a program or a graph asks it, and never ``architecture``.

What each field changes in a block (``x`` is the residual stream; names as in ``block_shapes``):

* plain Llama: ``x += o(attention(rope(q), rope(k), v))`` with q, k, v of ``rms(x) * input_layernorm``,
  then ``x += down(act(gate) * up)`` of ``rms(x) * post_attention_layernorm``;
* ``hidden_act``: ``act``; "silu" is ``x * sigmoid(x)``, "gelu_pytorch_tanh" is GELU by its tanh formula;
* ``qkv_bias``: q, k and v get ``self_attn.{q,k,v}_proj.bias`` added, before anything else is done to them;
* ``qk_norm``: then each head of q and of k passes an RMS norm over ``head_dim`` (the same epsilon) with
  the weights ``self_attn.q_norm`` and ``self_attn.k_norm``, and only then the rotary embedding;
* ``packed_projections``: the rows of q, k, v are one tensor ``self_attn.qkv_proj``, in that order, and those
  of gate and up are one tensor ``mlp.gate_up_proj``; what is computed is the same;
* ``post_norms``: attention's and the MLP's outputs pass an RMS norm each (``post_attention_layernorm``,
  ``post_feedforward_layernorm``) before they are added; the MLP's input then has the norm
  ``pre_feedforward_layernorm``;
* ``norm_offset``: to be added to the weights of every norm (of q, k and the head's too) as they are stored;
* ``query_pre_attn_scalar``: scores are ``q . k / sqrt`` of it, instead of ``head_dim``;
* ``attn_logit_softcapping``: scores become ``cap * tanh(scores / cap)``, before the mask;
* ``sliding_window``, ``layer_types``: a block whose type is "sliding_attention" sees, from position p, the
  positions p - window + 1 to p only; without types, all blocks slide if there is a window (see ``window``);
* ``rope_scaling``, ``rope_local_base_freq``, ``partial_rotary_factor``: see ``inference.rope``; a block
  that slides uses the local base, unscaled, where there is one;
* ``num_local_experts``, ``num_experts_per_tok``: the MLP is the best of so many experts: the router
  ``block_sparse_moe.gate`` gives a logit for each; the softmax over the best few weighs what these
  give (w1 is gate, w3 is up, w2 is down);
* outside the blocks, for a client's head: ``embedding_scale``, ``final_logit_softcapping``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from math import isfinite
from typing import Any

from ..errors import ModelFileError, UnsupportedModel
from .rope import RopeScaling

EMBED = "model.embed_tokens.weight"
NORM = "model.norm.weight"
LM_HEAD = "lm_head.weight"

SLIDING, FULL = "sliding_attention", "full_attention"
ACTIVATIONS = ("silu", "gelu_pytorch_tanh")
MAX_EXPERTS = 256

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
_POSITIVE = (  # numbers, where they are not None
    "rms_norm_eps",
    "rope_theta",
    "query_pre_attn_scalar",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "embedding_scale",
    "rope_local_base_freq",
    "partial_rotary_factor",
)


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Sizes are element counts; ``architecture`` is Hugging Face's ``model_type``.

    Raises ``ModelFileError`` where a value is impossible or above its cap.
    """

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
    architecture: str = "llama"
    hidden_act: str = "silu"
    qkv_bias: bool = False
    qk_norm: bool = False
    packed_projections: bool = False
    post_norms: bool = False
    norm_offset: float = 0.0
    query_pre_attn_scalar: float | None = None
    attn_logit_softcapping: float | None = None
    final_logit_softcapping: float | None = None
    embedding_scale: float = 1.0
    sliding_window: int | None = None
    layer_types: tuple[str, ...] = ()
    rope_scaling: RopeScaling | None = None
    rope_local_base_freq: float | None = None
    partial_rotary_factor: float = 1.0
    num_local_experts: int = 0
    num_experts_per_tok: int = 0

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
        for name in _POSITIVE:
            value = getattr(self, name)
            if value is not None and not (isfinite(value) and value > 0):
                raise ModelFileError(f"model config: {name} is {value!r}; it must be a number above 0")
        if self.norm_offset not in (0.0, 1.0):
            raise ModelFileError(f"model config: norm_offset is {self.norm_offset!r}; it is 0 or 1")
        if self.hidden_act not in ACTIVATIONS:
            raise UnsupportedModel(
                f"model config: hidden_act {self.hidden_act!r:.80} is not one of {ACTIVATIONS}"
            )
        self._check_attention()
        self._check_experts()

    def _check_attention(self) -> None:
        window, types = self.sliding_window, self.layer_types
        if window is not None and not 0 < window <= _CAPS["max_position_embeddings"]:
            raise ModelFileError(f"model config: sliding_window is {window!r}; it must be above 0")
        if types and len(types) != self.num_hidden_layers:
            raise ModelFileError(
                f"model config: {len(types)} layer_types do not fit {self.num_hidden_layers} layers"
            )
        for kind in types:
            if kind not in (SLIDING, FULL):
                raise UnsupportedModel(f"model config: a layer of type {kind!r:.80} is not known here")
        if SLIDING in types and window is None:
            raise ModelFileError("model config: layers slide, yet there is no sliding_window")
        if not 2 <= self.rotary_dim <= self.head_dim or self.rotary_dim % 2:
            raise ModelFileError(
                f"model config: partial_rotary_factor is {self.partial_rotary_factor!r}; an even number of "
                f"a head's {self.head_dim} must turn"
            )

    def _check_experts(self) -> None:
        experts, active = self.num_local_experts, self.num_experts_per_tok
        if not 0 <= active <= experts <= MAX_EXPERTS or bool(active) != bool(experts):
            raise ModelFileError(
                f"model config: {active} of {experts} experts a token; at most {MAX_EXPERTS} are allowed"
            )

    @property
    def rotary_dim(self) -> int:
        """How many of a head's numbers, the first ones, the rotary embedding turns."""
        return int(self.head_dim * self.partial_rotary_factor)

    @property
    def attention_scale(self) -> float:
        """What the scores ``q . k`` are multiplied by."""
        return float((self.query_pre_attn_scalar or self.head_dim) ** -0.5)

    def window(self, index: int) -> int | None:
        """How many positions, its own the last, block ``index`` sees; ``None``: all before it."""
        sliding = self.layer_types[index] == SLIDING if self.layer_types else True
        return self.sliding_window if sliding else None

    def local_rope(self, index: int) -> bool:
        """Whether block ``index`` turns by ``rope_local_base_freq``."""
        return self.rope_local_base_freq is not None and self.window(index) is not None

    def block_shapes(self) -> dict[str, tuple[int, ...]]:
        """The tensors of every block: Hugging Face's suffix -> shape [out, in] (or [size])."""
        return dict(self._block_shapes())

    def _block_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden = self.hidden_size
        queries, keys = self.num_attention_heads * self.head_dim, self.num_key_value_heads * self.head_dim
        rows = {"q": queries, "k": keys, "v": keys}
        yield "input_layernorm.weight", (hidden,)
        if self.packed_projections:
            rows = {"qkv": queries + 2 * keys}
        for letter, size in rows.items():
            yield f"self_attn.{letter}_proj.weight", (size, hidden)
        if self.qkv_bias:
            for letter, size in rows.items():
                yield f"self_attn.{letter}_proj.bias", (size,)
        if self.qk_norm:
            yield "self_attn.q_norm.weight", (self.head_dim,)
            yield "self_attn.k_norm.weight", (self.head_dim,)
        yield "self_attn.o_proj.weight", (hidden, queries)
        yield "post_attention_layernorm.weight", (hidden,)
        if self.post_norms:
            yield "pre_feedforward_layernorm.weight", (hidden,)
        yield from self._mlp_shapes()
        if self.post_norms:
            yield "post_feedforward_layernorm.weight", (hidden,)

    def _mlp_shapes(self) -> Iterator[tuple[str, tuple[int, ...]]]:
        hidden, inner = self.hidden_size, self.intermediate_size
        if self.num_local_experts:
            yield "block_sparse_moe.gate.weight", (self.num_local_experts, hidden)
            for expert in range(self.num_local_experts):
                for name, shape in (
                    ("w1", (inner, hidden)),
                    ("w3", (inner, hidden)),
                    ("w2", (hidden, inner)),
                ):
                    yield f"block_sparse_moe.experts.{expert}.{name}.weight", shape
        elif self.packed_projections:
            yield "mlp.gate_up_proj.weight", (2 * inner, hidden)
            yield "mlp.down_proj.weight", (hidden, inner)
        else:
            yield "mlp.gate_proj.weight", (inner, hidden)
            yield "mlp.up_proj.weight", (inner, hidden)
            yield "mlp.down_proj.weight", (hidden, inner)

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
        """As a JSON object; what has Llama's value is left out, the sizes and tokens aside."""
        value: dict[str, Any] = {}
        for field in fields(self):
            item = getattr(self, field.name)
            if field.default is MISSING or field.name in _TOKENS or item != field.default:
                value[field.name] = item
        if self.layer_types:
            value["layer_types"] = list(self.layer_types)
        if self.rope_scaling is not None:
            value["rope_scaling"] = self.rope_scaling.to_json()
        return value

    @classmethod
    def from_json(cls, value: Any) -> ModelConfig:
        """Inverse of ``to_json``; ``ModelFileError`` if a field is missing or of another type."""
        if not isinstance(value, dict):
            raise ModelFileError(f"model config: expected a JSON object, got {type(value).__name__}")
        known = {field.name: field for field in fields(cls)}
        if unknown := value.keys() - known.keys():
            raise UnsupportedModel(f"model config: {min(unknown):.80} is not known here")
        arguments = {name: _typed(name, str(known[name].type), item) for name, item in value.items()}
        missing = {name for name, field in known.items() if field.default is MISSING} - arguments.keys()
        if missing:
            raise ModelFileError(f"model config: missing {', '.join(sorted(missing))}")
        return cls(**arguments)


_TOKENS = ("bos_token_id", "eos_token_id")


def _typed(name: str, kind: str, item: Any) -> Any:
    """``item`` as the field's ``kind``, its annotation; a number may be written as an integer."""
    kinds = kind.split(" | ")
    if item is None and "None" in kinds:
        return None
    if kinds[0] == "float":
        if type(item) is float or (type(item) is int and abs(item) < 1 << 53):
            return float(item)
    elif kinds[0] == "RopeScaling":
        return RopeScaling.from_json(item)
    elif kinds[0].startswith("tuple"):
        if isinstance(item, list) and all(isinstance(each, str) for each in item):
            return tuple(item)
    elif type(item).__name__ == kinds[0]:
        return item
    raise ModelFileError(f"model config: {name} is {item!r:.80}, which is of the wrong type")


def block_name(index: int, suffix: str) -> str:
    """Full name of block ``index``'s tensor ``suffix``, as Hugging Face writes it."""
    return f"model.layers.{index}.{suffix}"
