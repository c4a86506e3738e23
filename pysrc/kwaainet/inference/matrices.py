"""The forms in which a matrix of a span is kept for onnxruntime, and the product that reads each.

Follows onnx's ``MatMul`` and onnxruntime's ``MatMulNBits`` (ContribOperators.md). Rule of the file: the
graph around a matrix knows no form. ``Form.FLOAT`` is of the graph's own element type; the others hold
the file's numbers, but for ``Form.Q8`` of a weight whose blocks are of another type.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from ..formats.config import ModelConfig
from ..formats.quantize import quantize
from ..formats.weights import Weight
from .nbits import BITS, BLOCK, Blocks, repack, side_by_side
from .onnx import MICROSOFT, node
from .writer import Tensor, TensorShape


class Form(Enum):
    """How the matrix of one product is kept."""

    FLOAT = "float"
    Q4 = "q4"
    Q4_WITH_ZEROS = "q4 with zeros"
    Q8 = "q8"

    @classmethod
    def exact(cls, types: Sequence[str], columns: int) -> Form:
        """The smallest that keeps every number of weights of these storage types, side by side."""
        if columns % BLOCK:
            return cls.FLOAT
        bits = {BITS.get(dtype) for dtype in types}
        if bits == {4}:
            return cls.Q4_WITH_ZEROS if "Q4_1" in types else cls.Q4
        return cls.Q8 if bits == {8} else cls.FLOAT


@dataclass(frozen=True, slots=True)
class Matrix:
    """The matrix [out, columns] ``name``; ``real`` is numpy's name of the graph's element type."""

    name: str
    out: int
    columns: int
    form: Form = Form.FLOAT
    real: str = "float32"

    def tensors(self) -> Iterator[TensorShape]:
        """What it consists of. A plain one is [columns, out], so that MatMul reads it as it lies."""
        if self.form is Form.FLOAT:
            yield self.name, self.real, (self.columns, self.out)
            return
        blocks = self.columns // BLOCK
        yield f"{self.name}.quants", "uint8", (self.out, blocks, BLOCK * self.bits // 8)
        yield f"{self.name}.scales", self.real, (self.out, blocks)
        if self.form is Form.Q4_WITH_ZEROS:
            yield f"{self.name}.zeros", self.real, (self.out, blocks)

    @property
    def bits(self) -> int:
        """Of a quant."""
        return 8 if self.form is Form.Q8 else 4

    def pack(self, weights: Sequence[Weight], config: ModelConfig) -> Iterator[Tensor]:
        """The tensors, filled with the rows of all ``weights``; each a fresh contiguous array."""
        if self.form is Form.FLOAT:
            packed = np.empty((self.columns, self.out), self.real)
            row = 0
            for weight in weights:
                packed[:, row : row + weight.shape[0]] = weight.floats(config).T
                row += weight.shape[0]
            yield self.name, packed
            return
        blocks = side_by_side([self._blocks(weight, config) for weight in weights])
        yield f"{self.name}.quants", blocks.quants
        yield f"{self.name}.scales", blocks.scales.astype(self.real, copy=False)
        if blocks.zeros is not None:
            yield f"{self.name}.zeros", blocks.zeros.astype(self.real, copy=False)

    def _blocks(self, weight: Weight, config: ModelConfig) -> Blocks:
        exact = BITS.get(weight.dtype) == self.bits and weight.has_whole_rows
        return repack(weight if exact else _rounded(weight, config), config)

    def product(self, x: str, output: str, accuracy_level: int = 0) -> bytes:
        """The node ``output = x @ matrix.T``.

        MatMulNBits' ``accuracy_level`` 0 multiplies what it is given, 4 may round ``x`` to 8 bits.
        """
        inputs = [x, *(name for name, _, _ in self.tensors())]
        if self.form is Form.FLOAT:
            return node("MatMul", inputs, [output])
        sizes = {"K": self.columns, "N": self.out, "bits": self.bits, "block_size": BLOCK}
        return node("MatMulNBits", inputs, [output], MICROSOFT, **sizes, accuracy_level=accuracy_level)


def _rounded(weight: Weight, config: ModelConfig) -> Weight:
    """To 8 bits, as a file of those would have it."""
    return Weight("Q8_0", weight.shape, quantize("Q8_0", weight.floats(config)))
