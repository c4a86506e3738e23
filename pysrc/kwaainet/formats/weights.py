"""From a tensor's bytes in a model file to float32 in Hugging Face's layout.

Follows llama.cpp's ``convert_hf_to_gguf.py`` (``permute``), undone here. Rule of the file: what a
caller gets never depends on the file format the bytes came from.
"""

from __future__ import annotations

from math import prod

from ..errors import ModelFileError
from ..ports import Floats
from .config import LlamaConfig
from .manifest import TensorEntry
from .quants import dequantize


def decode(entry: TensorEntry, data: bytes | bytearray | memoryview, config: LlamaConfig) -> Floats:
    """The tensor, float32 of shape ``entry.shape``; for unpermuted F32 a view of ``data``.

    Raises ``ModelFileError`` if ``data`` has another length than the entry says.
    """
    flat = dequantize(entry.dtype, data, prod(entry.shape))
    if not entry.permuted:
        return flat.reshape(entry.shape)
    rows, columns = entry.shape[0], prod(entry.shape[1:])
    if rows % config.head_dim:
        raise ModelFileError(f"{rows} permuted rows are not whole heads of {config.head_dim}")
    # GGUF interleaves the two halves that rotary embedding turns together; put them apart again.
    heads = flat.reshape(rows // config.head_dim, config.head_dim // 2, 2, columns)
    return heads.swapaxes(1, 2).reshape(entry.shape)
