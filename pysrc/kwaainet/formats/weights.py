"""A tensor as its model file holds it, and the two ways to use it: as float32, or as its own rows.

Follows llama.cpp's ``convert_hf_to_gguf.py`` (``permute``), undone here. Rule of the file: what a
caller gets lies in Hugging Face's order, whatever the file format the bytes came from.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from ..errors import ModelFileError
from ..ports import Floats
from .config import ModelConfig
from .manifest import TensorEntry
from .quants import STORAGE_TYPES, byte_length, dequantize

Number = TypeVar("Number", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Weight:
    """``data`` are the bytes of a tensor of ``shape`` (Hugging Face's, [out, in]) stored as ``dtype``.

    ``dtype`` is one of ``quants.STORAGE_TYPES``; ``permuted`` says that the rows are in GGUF's order
    for rotary embedding. Raises ``ModelFileError`` if ``data`` has another length than that takes.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes | bytearray | memoryview
    permuted: bool = False

    def __post_init__(self) -> None:
        expected = byte_length(self.dtype, prod(self.shape))
        if len(self.data) != expected:
            raise ModelFileError(
                f"{prod(self.shape)} numbers of {self.dtype} take {expected} bytes, "
                f"but {len(self.data)} were given"
            )

    @classmethod
    def stored(cls, entry: TensorEntry, data: bytes | bytearray | memoryview) -> Weight:
        """The tensor of a manifest's ``entry``; ``ModelFileError`` if ``data`` has another length."""
        if entry.strides:
            data = _in_rows(entry, data)
        return cls(entry.dtype, entry.shape, data, entry.permuted)

    @classmethod
    def of(cls, array: Floats) -> Weight:
        """float32 numbers as a file in Hugging Face's order would hold them."""
        return cls("F32", array.shape, np.ascontiguousarray(array, "<f4").tobytes())

    @property
    def has_whole_rows(self) -> bool:
        """Whether no block of numbers is shared by two rows, so that ``rows`` can be had."""
        return self.shape[-1] % STORAGE_TYPES[self.dtype].block == 0

    def floats(self, config: ModelConfig) -> Floats:
        """The numbers, float32 of ``shape``; for unpermuted F32 a view of ``data``.

        Raises ``ModelFileError`` for permuted rows that are not whole heads of ``config``.
        """
        flat = dequantize(self.dtype, self.data, prod(self.shape))
        columns = prod(self.shape[1:])
        return self._in_order(flat.reshape(-1, columns), config).reshape(self.shape)

    def rows(self, config: ModelConfig) -> NDArray[np.uint8]:
        """The stored bytes [out, bytes of a row], not dequantized; a view of ``data`` unless permuted.

        Raises as ``floats`` does, and for rows that share blocks.
        """
        columns = prod(self.shape[1:])
        width = byte_length(self.dtype, columns)
        return self._in_order(np.frombuffer(self.data, np.uint8).reshape(-1, width), config)

    def _in_order(self, rows: NDArray[Number], config: ModelConfig) -> NDArray[Number]:
        if not self.permuted:
            return rows
        count, width = rows.shape
        if count % config.head_dim:
            raise ModelFileError(f"{count} permuted rows are not whole heads of {config.head_dim}")
        # GGUF interleaves the two halves that rotary embedding turns together; put them apart again.
        heads = rows.reshape(count // config.head_dim, config.head_dim // 2, 2, width)
        return heads.swapaxes(1, 2).reshape(count, width)


def _in_rows(entry: TensorEntry, data: bytes | bytearray | memoryview) -> bytes:
    """The numbers of a strided tensor, row by row."""
    size = byte_length(entry.dtype, 1)
    if len(data) != size * entry.count:
        raise ModelFileError(f"{entry.count} numbers of {entry.dtype} are not {len(data)} bytes")
    steps = [size * step for step in entry.strides]
    view: NDArray[np.void] = np.ndarray(entry.shape, np.dtype(f"V{size}"), data, strides=steps)
    return view.tobytes()


def floats_of(weights: Mapping[str, Weight], config: ModelConfig) -> dict[str, Floats]:
    """All of them as float32; raises as ``Weight.floats`` does."""
    return {name: weight.floats(config) for name, weight in weights.items()}


def weights_of(arrays: Mapping[str, Floats]) -> dict[str, Weight]:
    """The other way round: as a float32 file would hold them."""
    return {name: Weight.of(array) for name, array in arrays.items()}
