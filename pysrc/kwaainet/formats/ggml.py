"""GGML files of Llama models, from before GGUF: ``ggml``, ``ggmf`` v1 and ``ggjt`` v1 to v3.

Follows llama.cpp's ``llama.cpp`` of May and June 2023 and ``convert_llama_ggml_to_gguf.py``. Rule of
the file: what it finds is told in GGUF's words, so that whoever understands GGUF understands it.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Generator
from dataclasses import dataclass
from math import prod
from typing import Any

from ..errors import ModelFileError, UnsupportedModel
from .gguf import GgufIndex, GgufTensor
from .quants import STORAGE_TYPES, byte_length
from .reading import Reading

MAX_VOCABULARY = 1 << 19  # tokens
MAX_TOKEN_BYTES = 1 << 12
MAX_VOCABULARY_BYTES = 16 << 20
MAX_TENSORS = 1 << 13
MAX_NAME_BYTES = 256
MAX_DIMENSIONS = 2
CONTEXT_LENGTH, RMS_EPS, ROPE_THETA = 2048, 5e-6, 10000.0  # what the files leave out, as llama.cpp takes it

_ALIGNMENT = 32
_WINDOW = 1 << 16  # bytes read at once of the vocabulary
_TENSOR_WINDOW = 12 + 4 * MAX_DIMENSIONS + MAX_NAME_BYTES
_FORMATS = {  # magic as it stands in the file -> name, and the epoch of block layouts by version
    b"lmgg": ("ggml", {0: 1}),  # has no version
    b"fmgg": ("ggmf", {1: 1}),
    b"tjgg": ("ggjt", {1: 1, 2: 2, 3: 3}),
}
_OTHERS = {b"algg": "a LoRA adapter", b"nsgg": "a saved session"}
_FIRST_TYPES = {  # by epoch: what each number of a type means there
    1: {2: "GGJT1_Q4_0", 3: "GGJT1_Q4_1", 4: "GGJT1_Q4_2", 5: "GGJT1_Q4_3", 6: "GGJT1_Q5_0", 7: "GGJT1_Q5_1"},
    2: {2: "GGJT2_Q4_0", 3: "GGJT2_Q4_1", 6: "Q5_0", 7: "Q5_1"},
    3: {2: "Q4_0", 3: "Q4_1", 6: "Q5_0", 7: "Q5_1", 8: "Q8_0"}
    | {10: "Q2_K", 11: "Q3_K", 12: "Q4_K", 13: "Q5_K", 14: "Q6_K"},
}
_TYPES = {epoch: {0: "F32", 1: "F16", 8: "GGJT2_Q8_0"} | types for epoch, types in _FIRST_TYPES.items()}
_OUTER = {"tok_embeddings": "token_embd", "norm": "output_norm", "output": "output"}
_BLOCK = {
    "attention_norm": "attn_norm",
    "attention.wq": "attn_q",
    "attention.wk": "attn_k",
    "attention.wv": "attn_v",
    "attention.wo": "attn_output",
    "ffn_norm": "ffn_norm",
    "feed_forward.w1": "ffn_gate",
    "feed_forward.w2": "ffn_down",
    "feed_forward.w3": "ffn_up",
}
_NAME = re.compile(r"layers\.(0|[1-9][0-9]{0,3})\.(.+)\.weight|(.+)\.weight", re.DOTALL)
_NORMAL, _UNKNOWN, _CONTROL, _BYTE = 1, 2, 3, 6  # llama.cpp's token types


@dataclass(frozen=True, slots=True)
class Assumed:
    """What GGML files do not say of a model."""

    context_length: int = CONTEXT_LENGTH
    rms_eps: float = RMS_EPS
    rope_theta: float = ROPE_THETA


ASSUMED = Assumed()


@dataclass(frozen=True, slots=True)
class _Sizes:
    """The file's hyper-parameters, in its order."""

    vocabulary: int
    hidden: int
    multiple: int
    heads: int
    blocks: int
    rotated: int
    kind: int


def is_ggml(start: bytes) -> bool:
    """Whether a file that begins so is one of these, or of their family and refused by name."""
    return start[:4] in _FORMATS or start[:4] in _OTHERS


def read_index(size: int, assumed: Assumed = ASSUMED) -> Reading[GgufIndex]:
    """What a file of ``size`` bytes holds, by byte range: its head, then each tensor's.

    Raises ``ModelFileError`` for a broken file, ``UnsupportedModel`` for a format, a type or a tensor
    that is not known, or a file that is one of several.
    """
    source = _Source(size)
    name, version, epoch = yield from _format(source)
    numbers = struct.unpack("<7I", (yield from source.take(28)))
    sizes = _Sizes(*numbers)
    _check(sizes)
    metadata = yield from _vocabulary(source, sizes, scored=name != "ggml")
    tensors: dict[str, GgufTensor] = {}
    while source.position < size:
        if len(tensors) == MAX_TENSORS:
            raise ModelFileError(f"GGML file has more than the {MAX_TENSORS} tensors allowed")
        tensor_name, tensor = yield from _tensor(source, epoch, aligned=name == "ggjt")
        if tensor_name in tensors:
            raise ModelFileError(f"GGML file has the tensor {tensor_name:.80} twice")
        tensors[tensor_name] = tensor
    return GgufIndex(version, {**_settings(sizes, tensors, assumed), **metadata}, tensors)


def _format(source: _Source) -> Generator[tuple[int, int], bytes, tuple[str, int, int]]:
    magic = yield from source.take(4)
    if magic in _OTHERS:
        raise UnsupportedModel(f"the file is {_OTHERS[magic]}, not a model")
    if magic not in _FORMATS:
        raise ModelFileError(f"not a GGML file: it begins with {magic!r}")
    name, epochs = _FORMATS[magic]
    version = 0 if 0 in epochs else int.from_bytes((yield from source.take(4)), "little")
    if version not in epochs:
        raise UnsupportedModel(f"{name} version {version}; supported are {', '.join(map(str, epochs))}")
    return name, version, epochs[version]


def _check(sizes: _Sizes) -> None:
    if not 3 <= sizes.vocabulary <= MAX_VOCABULARY:
        raise ModelFileError(f"GGML file claims {sizes.vocabulary} tokens; 3 to {MAX_VOCABULARY} are allowed")
    if sizes.heads < 1 or sizes.hidden % sizes.heads or sizes.rotated != sizes.hidden // sizes.heads:
        raise ModelFileError(
            f"GGML file: {sizes.hidden} numbers in {sizes.heads} heads of {sizes.rotated}, which is no Llama"
        )


def _vocabulary(
    source: _Source, sizes: _Sizes, *, scored: bool
) -> Generator[tuple[int, int], bytes, dict[str, Any]]:
    tokens: list[str] = []
    scores: list[float] = []
    types: list[int] = []
    start = source.position
    for number in range(sizes.vocabulary):
        length = int.from_bytes((yield from source.take(4)), "little")
        if length > MAX_TOKEN_BYTES or source.position - start > MAX_VOCABULARY_BYTES:
            raise ModelFileError(
                f"GGML token {number} has {length} bytes; {MAX_TOKEN_BYTES} are allowed, "
                f"and {MAX_VOCABULARY_BYTES} for all"
            )
        token, kind = _token(number, (yield from source.take(length)))
        tokens.append(token)
        types.append(kind)
        scores.append(struct.unpack("<f", (yield from source.take(4)))[0] if scored else 0.0)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
    }


def _token(number: int, data: bytes) -> tuple[str, int]:
    """As GGUF spells it, and its type; the files have neither, but Llama's vocabulary begins alike."""
    if number < 3:
        return ("<unk>", "<s>", "</s>")[number], _UNKNOWN if number == 0 else _CONTROL
    if not data:
        return "", _CONTROL
    if len(data) == 1 and number < 259:
        return f"<0x{data[0]:02X}>", _BYTE
    return data.decode(errors="replace").replace(" ", "\u2581"), _NORMAL


def _tensor(
    source: _Source, epoch: int, *, aligned: bool
) -> Generator[tuple[int, int], bytes, tuple[str, GgufTensor]]:
    dimensions, length, kind = struct.unpack("<3I", (yield from source.take(12, _TENSOR_WINDOW)))
    if not 0 < dimensions <= MAX_DIMENSIONS or not 0 < length <= MAX_NAME_BYTES:
        raise ModelFileError(
            f"GGML tensor at byte {source.position - 12} has {dimensions} dimensions and a name of {length} "
            f"bytes; up to {MAX_DIMENSIONS} and {MAX_NAME_BYTES} are allowed"
        )
    shape = struct.unpack(f"<{dimensions}I", (yield from source.take(4 * dimensions)))[::-1]
    raw = yield from source.take(length)
    name = _gguf_name(raw.decode(errors="replace"))
    dtype = _TYPES[epoch].get(kind)
    if dtype is None:
        raise UnsupportedModel(f"tensor {name} is of type number {kind}, which ggjt v{epoch} does not have")
    if shape[-1] % STORAGE_TYPES[dtype].block:
        raise ModelFileError(f"tensor {name}: rows of {shape[-1]} do not fill {dtype} blocks")
    offset = source.position + (-source.position % _ALIGNMENT if aligned else 0)
    tensor = GgufTensor(dtype, shape, offset, byte_length(dtype, prod(shape)))
    source.skip_to(offset + tensor.length, f"tensor {name}")
    return name, tensor


def _gguf_name(name: str) -> str:
    match = _NAME.fullmatch(name)
    if match and match[3] in _OUTER:
        return f"{_OUTER[match[3]]}.weight"
    if match and match[2] in _BLOCK:
        return f"blk.{match[1]}.{_BLOCK[match[2]]}.weight"
    raise UnsupportedModel(f"tensor {name!r:.80} does not belong to a plain Llama model")


def _settings(sizes: _Sizes, tensors: dict[str, GgufTensor], assumed: Assumed) -> dict[str, Any]:
    """The metadata that a GGUF file of this model has; sizes that the file leaves out from its tensors."""
    for name in ("token_embd.weight", "blk.0.ffn_gate.weight", "blk.0.attn_k.weight"):
        if name not in tensors:
            raise ModelFileError(f"GGML file has no tensor {name} (by GGUF's name)")
    width = tensors["token_embd.weight"].shape[-1]
    if width != sizes.hidden:
        parts = f"one of {sizes.hidden // width} parts of" if 0 < width < sizes.hidden else "not"
        raise UnsupportedModel(
            f"the embedding has rows of {width}, not {sizes.hidden}: the file is {parts} a model"
        )
    return {
        "general.architecture": "llama",
        "llama.block_count": sizes.blocks,
        "llama.context_length": assumed.context_length,
        "llama.embedding_length": sizes.hidden,
        "llama.feed_forward_length": tensors["blk.0.ffn_gate.weight"].shape[0],
        "llama.attention.head_count": sizes.heads,
        "llama.attention.head_count_kv": tensors["blk.0.attn_k.weight"].shape[0] // sizes.rotated,
        "llama.attention.layer_norm_rms_epsilon": assumed.rms_eps,
        "llama.rope.dimension_count": sizes.rotated,
        "llama.rope.freq_base": assumed.rope_theta,
    }


class _Source:
    """A position in the file, and the bytes read ahead of it."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._data = b""
        self._start = 0
        self.position = 0

    def take(self, length: int, window: int = 0) -> Reading[bytes]:
        """The next bytes; reads ``window`` at once (``_WINDOW`` unless said) if they are not there yet."""
        end = self.position + length
        if end > self._size:
            raise ModelFileError(f"truncated: the file ends at byte {self._size} inside its head")
        if not self._start <= self.position <= end <= self._start + len(self._data):
            wanted = min(max(length, window or _WINDOW), self._size - self.position)
            self._data = yield self.position, wanted
            self._start = self.position
        at, self.position = self.position - self._start, end
        return self._data[at : at + length]

    def skip_to(self, position: int, what: str) -> None:
        if position > self._size:
            raise ModelFileError(f"truncated: {what} ends at byte {position}, the file at {self._size}")
        self.position = position
