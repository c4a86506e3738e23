"""A writer of GGML files, made from the layouts alone: nothing of the package's is used here.

Follows llama.cpp's ``llama_file_saver`` of May 2023 and the ``quantize_row_*_reference`` of its ``ggml.c``.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

import numpy as np

NUMBERS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q4_2": 4, "Q4_3": 5, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8}
MAGIC = {"ggml": 0x67676D6C, "ggmf": 0x67676D66, "ggjt": 0x67676A74}
NAMES = {
    "model.embed_tokens.weight": "tok_embeddings.weight",
    "model.norm.weight": "norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attention_norm.weight",
    "self_attn.q_proj.weight": "attention.wq.weight",
    "self_attn.k_proj.weight": "attention.wk.weight",
    "self_attn.v_proj.weight": "attention.wv.weight",
    "self_attn.o_proj.weight": "attention.wo.weight",
    "post_attention_layernorm.weight": "ffn_norm.weight",
    "mlp.gate_proj.weight": "feed_forward.w1.weight",
    "mlp.down_proj.weight": "feed_forward.w2.weight",
    "mlp.up_proj.weight": "feed_forward.w3.weight",
}


def encode(dtype: str, version: int, numbers: np.ndarray) -> tuple[bytes, np.ndarray]:
    """The bytes of rows in the layout of ggjt ``version``, and the numbers that they stand for."""
    if dtype in ("F32", "F16"):
        stored = numbers.astype("<f4" if dtype == "F32" else "<f2")
        return stored.tobytes(), stored.astype(np.float32)
    size = 16 if dtype in ("Q4_2", "Q4_3") else 32
    wide = version < 3 and dtype in ("Q4_0", "Q4_1", "Q8_0")
    scale_type = "<f4" if wide else "<f2"
    data, meant = [], []
    for block in numbers.reshape(-1, size):
        bits = int(dtype[1])
        least = float(block.min()) if dtype[-1] in "13" else 0.0
        if dtype[-1] in "13":
            step = (float(block.max()) - least) / (2**bits - 1)
        else:
            step = float(np.abs(block).max()) / (127 if bits == 8 else 2 ** (bits - 1))
        d, m = np.array([step, least], scale_type)
        middle = 0 if dtype[-1] in "13" or bits == 8 else 2 ** (bits - 1)
        low, high = (-127, 127) if bits == 8 else (0, 2**bits - 1)
        quants = np.clip(np.rint((block - least) / (step or 1)) + middle, low, high).astype(int)
        data.append(_block(dtype, version, d, m, quants))
        number = (quants - middle).astype(np.float32) * np.float32(d)
        meant.append(number + np.float32(m) if dtype[-1] in "13" else number)
    return b"".join(data), np.concatenate(meant).reshape(numbers.shape)


def _block(dtype: str, version: int, d: np.ndarray, m: np.ndarray, quants: np.ndarray) -> bytes:
    if dtype == "Q8_0":
        return d.tobytes() + quants.astype(np.int8).tobytes()
    head = d.tobytes() + (m.tobytes() if dtype[-1] in "13" else b"")
    if dtype[1] == "5":
        head += struct.pack("<I", sum(int(quant) >> 4 << i for i, quant in enumerate(quants)))
    nibbles = [int(quant) & 15 for quant in quants]
    half = len(nibbles) // 2
    low, high = (slice(0, None, 2), slice(1, None, 2)) if version == 1 else (slice(half), slice(half, None))
    return head + bytes(a | b << 4 for a, b in zip(nibbles[low], nibbles[high], strict=True))


def tensor(name: bytes, shape: Sequence[int], kind: int, data: bytes, at: int, aligned: bool) -> bytes:
    """One tensor as it stands at byte ``at``; ``shape`` as in the file, fastest dimension first."""
    head = struct.pack(f"<3I{len(shape)}I", len(shape), len(name), kind, *shape) + name
    return head + bytes(-(at + len(head)) % 32 if aligned else 0) + data


def write(
    form: str,
    version: int,
    sizes: Sequence[int],
    tokens: Sequence[tuple[bytes, float]],
    weights: Mapping[str, np.ndarray],
    dtype: str,
) -> tuple[bytes, dict[str, np.ndarray]]:
    """A whole file, and the numbers its tensors stand for by Hugging Face's names.

    ``sizes`` are n_vocab, n_embd, n_mult, n_head, n_layer, n_rot, ftype. Weights are written as they
    come: queries and keys in the order that ggml's rope wants.
    """
    file = bytearray(struct.pack("<I", MAGIC[form]))
    if form != "ggml":
        file += struct.pack("<I", version)
    file += struct.pack("<7I", *sizes)
    for token, score in tokens:
        file += struct.pack("<I", len(token)) + token
        if form != "ggml":
            file += struct.pack("<f", score)
    meant = {}
    for name, array in weights.items():
        kind = dtype if array.ndim > 1 else "F32"
        data, meant[name] = encode(kind, version if form == "ggjt" else 1, array)
        parts = name.split(".", 3)
        short = f"layers.{parts[2]}.{NAMES[parts[3]]}" if parts[1] == "layers" else NAMES[name]
        file += tensor(short.encode(), array.shape[::-1], NUMBERS[kind], data, len(file), form == "ggjt")
    return bytes(file), meant
