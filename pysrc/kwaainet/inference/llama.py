"""The graph of a span of Llama blocks, and the tensors it needs.

Follows Hugging Face's ``LlamaDecoderLayer`` (RMS norm, rotary grouped-query attention, SwiGLU),
written with onnxruntime's fused operators. Rule of the file: names and shapes of a span's tensors
are listed once (``tensor_shapes``); graph and packing both follow that list.

Inputs of the graph: ``x`` float [batch, tokens, hidden]; ``seqlens_k`` int32 [batch], each row's
length after this run minus one; ``total_seq`` int32 scalar, the same without the minus one;
``past_k.I``, ``past_v.I`` float [batch, kv_heads, past, head_dim] and the weights of its norms,
``I.input_norm``, ``I.post_norm`` float [hidden], for every block I of the span.
Outputs: ``y`` like ``x``, ``present_k.I``, ``present_v.I``. When a past and its present are one
buffer of a fixed number of positions, the attention writes the new positions in place.

The norms are inputs, and not initializers like all other weights, so that a run can skip blocks. A
block whose norms are given as zeros adds exactly zero to the residual stream: Llama has no biases,
so that its queries, keys and values are zeros, and what it caches too. The whole span pays nothing
for this; the skipped blocks take the time they always take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeAlias

import numpy as np

from ..errors import ModelFileError
from ..formats.config import LlamaConfig
from ..ports import Floats
from ..types import SpanShape
from .onnx import MICROSOFT, ElementType, external, model, node, value

Shape: TypeAlias = tuple[int, ...]

# Each packed tensor: the Hugging Face weights [out, in] it holds side by side, transposed to
# [in, out] so that MatMul reads them as they lie.
_PACKED = {
    "input_norm": ("input_layernorm.weight",),
    "qkv": ("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight"),
    "o": ("self_attn.o_proj.weight",),
    "post_norm": ("post_attention_layernorm.weight",),
    "gate_up": ("mlp.gate_proj.weight", "mlp.up_proj.weight"),
    "down": ("mlp.down_proj.weight",),
}


def span_shape(config: LlamaConfig, blocks: int) -> SpanShape:
    """What an engine must know of a span of ``blocks`` blocks."""
    return SpanShape(
        blocks=blocks,
        hidden_size=config.hidden_size,
        kv_heads=config.num_key_value_heads,
        head_dim=config.head_dim,
        max_positions=config.max_position_embeddings,
    )


def _block_shapes(config: LlamaConfig) -> Iterator[tuple[str, Shape]]:
    weights = config.block_shapes()
    for name, parts in _PACKED.items():
        first, *rest = weights[parts[0]]
        out = sum(weights[part][0] for part in parts)
        yield name, (*rest, out) if rest else (first,)


def tensor_shapes(config: LlamaConfig, blocks: int) -> Iterator[tuple[str, Shape]]:
    """Every weight of the span, float32: rotary tables first, then block by block."""
    for name in ("cos", "sin"):
        yield name, (config.max_position_embeddings, config.head_dim // 2)
    for index in range(blocks):
        for name, shape in _block_shapes(config):
            yield f"{index}.{name}", shape


def norm_names(index: int) -> tuple[str, str]:
    """The tensors of the span's block ``index`` that are inputs of the graph; zeros skip the block."""
    return f"{index}.input_norm", f"{index}.post_norm"


def rope_tables(config: LlamaConfig) -> Iterator[tuple[str, Floats]]:
    """``cos`` and ``sin`` float32 [max_positions, head_dim/2] of the rotary embedding's angles."""
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float64) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponents
    angles = np.outer(np.arange(config.max_position_embeddings, dtype=np.float64), frequencies)
    yield "cos", np.cos(angles).astype(np.float32)
    yield "sin", np.sin(angles).astype(np.float32)


def pack_block(
    config: LlamaConfig, index: int, weights: Mapping[str, Floats]
) -> Iterator[tuple[str, Floats]]:
    """The tensors of the span's block ``index`` (counted from the span's start).

    ``weights`` maps Hugging Face suffixes (``self_attn.q_proj.weight``) to float32 arrays in Hugging
    Face's layout. Yields one tensor at a time, each a fresh contiguous float32 array, so that only
    one copy need live at once. Raises ``ModelFileError`` for a weight that is missing or misshapen.
    """
    for suffix, expected in config.block_shapes().items():
        found = weights[suffix].shape if suffix in weights else None
        if found != expected:
            raise ModelFileError(f"block {index}: {suffix} has shape {found}; the config asks for {expected}")
    for name, shape in _block_shapes(config):
        packed = np.empty(shape, np.float32)
        column = 0
        for suffix in _PACKED[name]:
            part = weights[suffix].T
            packed[..., column : column + part.shape[-1]] = part
            column += part.shape[-1]
        yield f"{index}.{name}", packed


def build_graph(config: LlamaConfig, blocks: int) -> bytes:
    """The ONNX model of ``blocks`` consecutive blocks; the same bytes for every span of that length."""
    nodes: list[bytes] = []
    stream, update = "x", ""  # the residual stream, and what is still to be added to it
    for index in range(blocks):
        stream, update = _block(nodes, config, index, stream, update)
    nodes.append(node("Add", [stream, update], ["y"]))
    hidden: list[int | str] = ["batch", "tokens", config.hidden_size]
    inputs = [
        value("x", ElementType.FLOAT, hidden),
        value("seqlens_k", ElementType.INT32, ["batch"]),
        value("total_seq", ElementType.INT32, []),
    ]
    outputs = [value("y", ElementType.FLOAT, hidden)]
    for index in range(blocks):
        for letter in "kv":
            inputs.append(_cache(config, f"past_{letter}.{index}", "past"))
            outputs.append(_cache(config, f"present_{letter}.{index}", "present"))
    shapes = dict(tensor_shapes(config, blocks))
    for name in [name for index in range(blocks) for name in norm_names(index)]:
        inputs.append(value(name, ElementType.FLOAT, shapes.pop(name)))
    weights = [external(name, ElementType.FLOAT, shape) for name, shape in shapes.items()]
    return model(nodes, weights, inputs, outputs)


def _cache(config: LlamaConfig, name: str, positions: str) -> bytes:
    dims: list[int | str] = ["batch", config.num_key_value_heads, positions, config.head_dim]
    return value(name, ElementType.FLOAT, dims)


def _block(nodes: list[bytes], config: LlamaConfig, index: int, stream: str, update: str) -> tuple[str, str]:
    """Append one block's nodes; returns the new stream and the update still to be added to it.

    Adding the update is left to the next norm, which onnxruntime fuses with the addition.
    """
    at = f"{index}."
    stream = _norm(nodes, config, stream, update, f"{at}input_norm")
    nodes.append(node("MatMul", [f"{at}input_norm.y", f"{at}qkv"], [f"{at}qkv.y"]))
    nodes.append(_attention(config, index))
    nodes.append(node("MatMul", [f"{at}attention.y", f"{at}o"], [f"{at}o.y"]))
    stream = _norm(nodes, config, stream, f"{at}o.y", f"{at}post_norm")
    nodes.append(node("MatMul", [f"{at}post_norm.y", f"{at}gate_up"], [f"{at}gate_up.y"]))
    nodes.append(node("Split", [f"{at}gate_up.y"], [f"{at}gate", f"{at}up"], axis=-1, num_outputs=2))
    # QuickGelu(x) is x * sigmoid(alpha * x): with alpha 1 it is SiLU in one kernel.
    nodes.append(node("QuickGelu", [f"{at}gate"], [f"{at}silu"], MICROSOFT, alpha=1.0))
    nodes.append(node("Mul", [f"{at}silu", f"{at}up"], [f"{at}inner"]))
    nodes.append(node("MatMul", [f"{at}inner", f"{at}down"], [f"{at}down.y"]))
    return stream, f"{at}down.y"


def _norm(nodes: list[bytes], config: LlamaConfig, stream: str, update: str, name: str) -> str:
    """RMS norm of stream + update as ``{name}.y``; returns the name of the sum."""
    epsilon = float(config.rms_norm_eps)
    if not update:
        inputs = [stream, name]
        nodes.append(
            node(
                "SimplifiedLayerNormalization", inputs, [f"{name}.y"], axis=-1, epsilon=epsilon, stash_type=1
            )
        )
        return stream
    outputs = [f"{name}.y", "", "", f"{name}.sum"]
    nodes.append(
        node("SkipSimplifiedLayerNormalization", [stream, update, name], outputs, MICROSOFT, epsilon=epsilon)
    )
    return f"{name}.sum"


def _attention(config: LlamaConfig, index: int) -> bytes:
    """Rotary embedding, cache update and causal grouped-query attention of the packed q, k, v."""
    past = [f"past_k.{index}", f"past_v.{index}"]
    return node(
        "GroupQueryAttention",
        [f"{index}.qkv.y", "", "", *past, "seqlens_k", "total_seq", "cos", "sin"],
        [f"{index}.attention.y", f"present_k.{index}", f"present_v.{index}"],
        MICROSOFT,
        num_heads=config.num_attention_heads,
        kv_num_heads=config.num_key_value_heads,
        do_rotary=1,
        rotary_interleaved=0,
        scale=config.head_dim**-0.5,
    )
