"""The ONNX graph of a span of transformer blocks, and the tensors it needs.

Follows Hugging Face's decoder layers (``LlamaDecoderLayer`` and those that differ from it in what
``formats.config`` lists), written with onnxruntime's fused operators. Rule of the file: names and
shapes of a span's tensors are listed once (``tensor_shapes``); graph and packing both follow that list.

Inputs of the graph: ``x`` float [batch, tokens, hidden]; ``seqlens_k`` int32 [batch], each row's
length after this run minus one; ``total_seq`` int32 scalar, the same without the minus one;
``past_k.I``, ``past_v.I`` float [batch, kv_heads, past, head_dim] and the block's switches,
``I.input_norm``, ``I.post_norm`` float [hidden] or others (``SpanShape``), for every block I of the span.
Outputs: ``y`` like ``x``, ``present_k.I``, ``present_v.I``. When a past and its present are one
buffer of a fixed number of positions, the attention writes the new positions in place.

The switches are inputs, and not initializers like all other weights, so that a run can skip blocks: a
block whose switches are given as zeros adds exactly zero to the residual stream. The whole span pays
nothing for this; the skipped blocks take the time they always take.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from ..formats.config import ModelConfig
from ..formats.weights import Weight
from ..types import BlockRange, SpanShape
from .block import Block
from .matrices import Form, Matrix
from .onnx import ElementType, external, model, node, value
from .rope import rope_tables, table_names
from .writer import Shape, Tensor, TensorShape, check_weights, is_norm, packed_parts, span_shape


class OnnxWriter:
    """``blocks`` of a model for onnxruntime (see ``writer.SpanWriter``).

    ``forms`` says by ``{position}.{tensor}`` how matrices are kept that are not plain; ``real`` is the
    type of all that is not quantized: float32, or float16 for half of everything but ``x`` and ``y``;
    ``accuracy_level`` is that of ``matrices.Matrix.product``.
    """

    def __init__(
        self,
        config: ModelConfig,
        blocks: BlockRange,
        forms: Mapping[str, Form] | None = None,
        *,
        real: str = "float32",
        accuracy_level: int = 0,
    ) -> None:
        self._config, self._blocks = config, blocks
        self._real, self._level = real, accuracy_level
        self._parts = packed_parts(config)
        self._matrices = dict(self._matrices_of(forms or {}))

    @property
    def shape(self) -> SpanShape:
        """See ``writer.SpanWriter``."""
        return span_shape(self._config, self._blocks, half=self._real == "float16")

    def tensor_shapes(self) -> Iterator[TensorShape]:
        """See ``writer.SpanWriter``: rotary tables first, then block by block."""
        for name, shape in self._constant_shapes():
            yield name, self._real, shape
        for position in range(len(self._blocks)):
            for name, shape in self._block_shapes():
                matrix = self._matrices.get(f"{position}.{name}")
                if matrix is None:
                    yield f"{position}.{name}", self._real, shape
                else:
                    yield from matrix.tensors()

    def constants(self) -> Iterator[Tensor]:
        """See ``writer.SpanWriter``."""
        for name, table in rope_tables(self._config, self._blocks):
            yield name, table.astype(self._real, copy=False)

    def pack_block(self, index: int, weights: Mapping[str, Weight]) -> Iterator[Tensor]:
        """See ``writer.SpanWriter``."""
        check_weights(self._config, index, weights)
        for name, suffixes in self._parts.items():
            parts = [weights[suffix] for suffix in suffixes]
            full_name = f"{index - self._blocks.start}.{name}"
            if full_name in self._matrices:
                yield from self._matrices[full_name].pack(parts, self._config)
                continue
            packed = np.concatenate([part.floats(self._config) for part in parts])
            if is_norm(name):
                packed += np.float32(self._config.norm_offset)
            yield full_name, packed.astype(self._real, copy=False)

    def matrices(self) -> Mapping[str, tuple[str, ...]]:
        """The matrices of the span by ``{position}.{tensor}``, and the weights whose rows each holds."""
        return {name: self._parts[name.partition(".")[2]] for name in self._matrices}

    def graph(self) -> bytes:
        """See ``writer.SpanWriter``."""
        config, blocks = self._config, self._blocks
        real = ElementType.of(self._real)
        nodes: list[bytes] = []
        stream, update = "x", ""  # the residual stream, and what is still to be added to it
        if real is not ElementType.FLOAT:
            nodes.append(node("Cast", [stream], [stream := "stream"], to=int(real)))
        for position in range(len(blocks)):
            tensors = frozenset(self._parts)
            block = Block(nodes, config, blocks.start + position, position, tensors, self._product, real)
            stream, update = block.write(stream, update)
        if real is ElementType.FLOAT:
            nodes.append(node("Add", [stream, update], ["y"]))
        else:
            nodes.append(node("Add", [stream, update], ["sum"]))
            nodes.append(node("Cast", ["sum"], ["y"], to=int(ElementType.FLOAT)))
        hidden: list[int | str] = ["batch", "tokens", config.hidden_size]
        inputs = [
            value("x", ElementType.FLOAT, hidden),
            value("seqlens_k", ElementType.INT32, ["batch"]),
            value("total_seq", ElementType.INT32, []),
        ]
        outputs = [value("y", ElementType.FLOAT, hidden)]
        for position in range(len(blocks)):
            for letter in "kv":
                inputs.append(_cache(config, f"past_{letter}.{position}", "past", real))
                outputs.append(_cache(config, f"present_{letter}.{position}", "present", real))
        described = {name: (ElementType.of(dtype), shape) for name, dtype, shape in self.tensor_shapes()}
        for position in range(len(blocks)):
            for name in self.shape.switches_of(position):
                inputs.append(value(name, *described.pop(name)))
        weights = [external(name, *what) for name, what in described.items()]
        return model(nodes, weights, inputs, outputs)

    def _product(self, x: str, tensor: str, output: str) -> bytes:
        return self._matrices[tensor].product(x, output, self._level)

    def _matrices_of(self, forms: Mapping[str, Form]) -> Iterator[tuple[str, Matrix]]:
        for position in range(len(self._blocks)):
            for tensor, shape in self._block_shapes():
                if len(shape) == 2:
                    name = f"{position}.{tensor}"
                    yield name, Matrix(name, shape[1], shape[0], forms.get(name, Form.FLOAT), self._real)

    def _constant_shapes(self) -> Iterator[tuple[str, Shape]]:
        shape = self._config.max_position_embeddings, self._config.rotary_dim // 2
        indices = range(self._blocks.start, self._blocks.end)
        tables = dict.fromkeys(name for index in indices for name in table_names(self._config, index))
        for name in sorted(tables, key=lambda table: table.endswith("_local")):
            yield name, shape

    def _block_shapes(self) -> Iterator[tuple[str, Shape]]:
        weights = self._config.block_shapes()
        for name, parts in self._parts.items():
            first, *rest = weights[parts[0]]
            out = sum(weights[part][0] for part in parts)
            yield name, (*rest, out) if rest else (out if len(parts) > 1 else first,)


def _cache(config: ModelConfig, name: str, positions: str, real: ElementType) -> bytes:
    dims: list[int | str] = ["batch", config.num_key_value_heads, positions, config.head_dim]
    return value(name, real, dims)
