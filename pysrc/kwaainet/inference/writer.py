"""What turns a model's blocks into what an engine runs: a graph or a program, and the tensors it names.

Rule of the file: no format of an engine is known here, and no engine knows a model: between them are
names, arrays and bytes. Names are ``{position}.{tensor}``, the block's position counted from the span's
start, and the tables that all blocks share.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeAlias

from numpy.typing import NDArray

from ..errors import ModelFileError
from ..formats.config import ModelConfig
from ..formats.weights import Weight
from ..types import BlockRange, SpanShape

Shape: TypeAlias = tuple[int, ...]
Tensor: TypeAlias = tuple[str, NDArray[Any]]
TensorShape: TypeAlias = tuple[str, str, Shape]  # name, numpy's dtype such as "float32", shape


class SpanWriter(Protocol):
    """Writes one span of one model; made of a ``ModelConfig`` and the model's blocks."""

    @property
    def shape(self) -> SpanShape:
        """What the engine must know of the span beside the graph."""

    def tensor_shapes(self) -> Iterator[TensorShape]:
        """Every tensor of the span, in the order of ``constants`` and then block by block."""

    def constants(self) -> Iterator[Tensor]:
        """What no file holds, such as the tables of the rotary embedding."""

    def pack_block(self, index: int, weights: Mapping[str, Weight]) -> Iterator[Tensor]:
        """The tensors of the model's block ``index``.

        ``weights`` has them by Hugging Face's suffixes (``config.block_shapes``). Yields one at a time,
        each a fresh contiguous array, so that only one copy need live at once. Raises
        ``ModelFileError`` for a weight that is missing or misshapen.
        """

    def graph(self) -> bytes:
        """The graph, or the program, that the engine builds."""


def switches(config: ModelConfig) -> tuple[str, ...]:
    """The tensors of a block that skip it when they are zeros: it then adds exactly zero to the stream.

    Without weights for its norm the attention has no values to mix, as the MLP has no gate, unless
    something is added after the products; where each has a norm at its end, that one decides.
    """
    if config.post_norms:
        return ("attention_norm", "mlp_norm")
    return ("input_norm", "post_norm", *(["qkv_bias"] if config.qkv_bias else []))


def span_shape(config: ModelConfig, blocks: BlockRange, half: bool = False) -> SpanShape:
    """What an engine must know of a span of ``blocks``; ``half``: see ``SpanShape``."""
    return SpanShape(
        blocks=len(blocks),
        hidden_size=config.hidden_size,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        max_positions=config.max_position_embeddings,
        switches=switches(config),
        half=half,
        window=max(config.window(index) or 0 for index in range(blocks.start, blocks.end)),
        softcap=config.attn_logit_softcapping or 0.0,
    )


def check_weights(config: ModelConfig, index: int, weights: Mapping[str, Weight]) -> None:
    """``ModelFileError`` unless ``weights`` are those of block ``index`` and have their shapes."""
    for suffix, expected in config.block_shapes().items():
        found = weights[suffix].shape if suffix in weights else None
        if found != expected:
            raise ModelFileError(f"block {index}: {suffix} has shape {found}; the config asks for {expected}")


# Each packed tensor and the weights whose rows it holds one after another: the first choice of which a
# block has all weights, none of them used before. A tensor without any is not in the block.
_CHOICES: tuple[tuple[str, tuple[tuple[str, ...], ...]], ...] = (
    ("input_norm", (("input_layernorm.weight",),)),
    ("qkv", (tuple(f"self_attn.{one}_proj.weight" for one in "qkv"), ("self_attn.qkv_proj.weight",))),
    ("qkv_bias", (tuple(f"self_attn.{one}_proj.bias" for one in "qkv"), ("self_attn.qkv_proj.bias",))),
    ("q_norm", (("self_attn.q_norm.weight",),)),
    ("k_norm", (("self_attn.k_norm.weight",),)),
    ("o", (("self_attn.o_proj.weight",),)),
    ("post_norm", (("pre_feedforward_layernorm.weight",), ("post_attention_layernorm.weight",))),
    ("attention_norm", (("post_attention_layernorm.weight",),)),
    ("router", (("block_sparse_moe.gate.weight",),)),
    ("gate_up", (("mlp.gate_proj.weight", "mlp.up_proj.weight"), ("mlp.gate_up_proj.weight",))),
    ("down", (("mlp.down_proj.weight",),)),
    ("mlp_norm", (("post_feedforward_layernorm.weight",),)),
)


def packed_parts(config: ModelConfig) -> dict[str, tuple[str, ...]]:
    """The packed tensors of a block, and the suffixes of the weights that each holds side by side.

    Those of experts are ``E.gate_up`` and ``E.down``, E from 0.
    """
    left = set(config.block_shapes())
    parts: dict[str, tuple[str, ...]] = {}
    for name, choices in _CHOICES:
        for choice in choices:
            if left.issuperset(choice):
                parts[name] = choice
                left.difference_update(choice)
                break
    for expert in range(config.num_local_experts):
        w1, w2, w3 = (f"block_sparse_moe.experts.{expert}.w{number}.weight" for number in (1, 2, 3))
        parts[f"{expert}.gate_up"] = (w1, w3)
        parts[f"{expert}.down"] = (w2,)
        left.difference_update((w1, w2, w3))
    assert not left, f"no packed tensor has {left}"
    return parts


def is_norm(name: str) -> bool:
    """Whether a packed tensor is a norm's weights, to which ``norm_offset`` is added."""
    return name.endswith("_norm")
