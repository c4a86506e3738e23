"""Damages small sound files of every format, and opens what is left: nothing but our errors may come out.

For longer than the tests do, with tests on the path: python -m unit.formats.mutations --rounds 100000
"""

from __future__ import annotations

import argparse
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
from unit.formats import ggml_files, torch_files

from kwaainet.errors import ModelFileError, UnsupportedModel
from kwaainet.formats import ggml, gguf_llama, gguf_shards, huggingface, pytorch, safetensors
from kwaainet.formats.config import ModelConfig
from kwaainet.formats.gguf import GgufIndex
from kwaainet.formats.gguf_names import stored_tensors
from kwaainet.formats.manifest import ModelManifest, TensorEntry
from kwaainet.formats.quantize import quantize
from kwaainet.formats.reading import Reading, drive
from kwaainet.formats.weights import Weight

CONFIG = ModelConfig(
    num_hidden_layers=1, hidden_size=32, intermediate_size=32, num_attention_heads=2, num_key_value_heads=2,
    head_dim=16, vocab_size=8, max_position_embeddings=64, rms_norm_eps=1e-5, rope_theta=1e4,
    tie_word_embeddings=False,
)  # fmt: skip
MAX_ASKED = 1 << 20  # bytes beyond the file's own size that a reader may ask for, again and again included


@dataclass(frozen=True)
class Sample:
    """A sound file: where its head ends, and what opens it, to the last number of the last tensor."""

    data: bytes
    head: int
    open: Callable[[bytes], None]


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in CONFIG.tensor_shapes().items()}


def read(data: bytes, begin: Callable[[int], Reading[Any]]) -> Any:
    """What a reader makes of ``data``; it may ask for nothing outside, and not for ever."""
    asked = 0

    def ranges(offset: int, length: int) -> bytes:
        nonlocal asked
        assert 0 <= offset <= offset + length <= len(data), (offset, length)
        asked += length
        assert asked <= 2 * len(data) + MAX_ASKED
        return data[offset : offset + length]

    return drive(begin(len(data)), ranges)


def decode(files: Mapping[str, bytes], config: ModelConfig, entries: Mapping[str, TensorEntry]) -> None:
    manifest = ModelManifest(
        "m", config, {name: replace(entry, sha256="0" * 64) for name, entry in entries.items()}
    )
    for entry in manifest.tensors.values():
        data = files[entry.file][entry.offset : entry.offset + entry.length]
        assert Weight.stored(entry, data).floats(config).shape == entry.shape


def gguf_file(tensors: Mapping[str, np.ndarray], more: Mapping[str, Any]) -> bytes:
    """Version 3 with an alignment of its own; the shapes of ``more``'s values say their types."""
    said: dict[str, Any] = {"general.architecture": "llama", "general.alignment": 64, **more}
    head = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(said)))
    for key, value in said.items():
        head += _text(key) + _value(value)
    offset, bodies = 0, []
    for name, array in tensors.items():
        kind = 8 if array.ndim > 1 else 0
        body = quantize("Q8_0" if kind else "F32", array)
        head += _text(name) + struct.pack(f"<I{array.ndim}QIQ", array.ndim, *array.shape[::-1], kind, offset)
        bodies.append(body + bytes(-len(body) % 64))
        offset += len(bodies[-1])
    return bytes(head) + bytes(-len(head) % 64) + b"".join(bodies)


def _text(value: str) -> bytes:
    return struct.pack("<Q", len(value.encode())) + value.encode()


def _value(value: Any) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    return struct.pack("<IIQ", 9, 8, len(value)) + b"".join(map(_text, value))


METADATA = {
    "llama.block_count": 1, "llama.embedding_length": 32, "llama.feed_forward_length": 32,
    "llama.attention.head_count": 2, "llama.context_length": 64, "llama.rope.freq_base": 1e4,
    "llama.attention.layer_norm_rms_epsilon": 1e-5, "tokenizer.ggml.tokens": list("abcdefgh"),
}  # fmt: skip


def open_index(files: Mapping[str, bytes], index: GgufIndex) -> None:
    decode(files, gguf_llama.read_config(index), gguf_llama.read_tensors(index, next(iter(files))))


def open_shards(files: Mapping[str, bytes]) -> None:
    shards = {name: read(data, gguf_shards.read_index) for name, data in files.items()}
    open_index(files, gguf_shards.join(shards))


def open_stored(data: bytes, begin: Callable[[int], Reading[Any]]) -> None:
    decode({"f": data}, CONFIG, huggingface.read_tensors(read(data, begin), "f", CONFIG))


def samples() -> dict[str, Sample]:
    arrays = weights()
    named = {stored: arrays[name] for stored, (name,) in stored_tensors(CONFIG).items()}
    whole = gguf_file(named, METADATA)
    parts = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    split = {"split.count": 2, "split.tensors.count": len(named)}
    first = gguf_file(dict(list(named.items())[:5]), {**METADATA, **split, "split.no": 0})
    second = gguf_file(dict(list(named.items())[5:]), {**split, "split.no": 1})
    old, _ = ggml_files.write(
        "ggjt", 1, (8, 32, 32, 2, 1, 16, 2), [(bytes([97 + i]), 0.5) for i in range(8)], arrays, "Q4_1"
    )
    safe = safetensors.header_bytes({name: array.shape for name, array in arrays.items()})
    torch = OrderedDict((name, torch_files.tensor(array)) for name, array in arrays.items())
    zipped, legacy = torch_files.zip_file(torch), torch_files.legacy_file(torch)
    return {
        "gguf": Sample(whole, 1600, lambda data: open_shards({"f.gguf": data})),
        "shard": Sample(second, 900, lambda data: open_shards(dict(zip(parts, (first, data), strict=True)))),
        "ggml": Sample(old, 1400, lambda data: open_index({"f": data}, read(data, ggml.read_index))),
        "safetensors": Sample(
            safe + b"".join(array.tobytes() for array in arrays.values()),
            len(safe),
            lambda data: open_stored(data, safetensors.read_tensors),
        ),
        "zip": Sample(zipped, 1500, lambda data: open_stored(data, pytorch.read_tensors)),
        "legacy": Sample(legacy, 1500, lambda data: open_stored(data, pytorch.read_tensors)),
    }


def flip(rng: Random, sample: Sample) -> bytes:
    """A few bytes of the head, or of anywhere, are others."""
    data = bytearray(sample.data)
    for _ in range(rng.randint(1, 4)):
        at = rng.randrange(sample.head if rng.random() < 0.8 else len(data))
        data[at] = rng.choice((rng.randrange(256), data[at] ^ 1 << rng.randrange(8), 0, 255))
    return bytes(data)


def bomb(rng: Random, sample: Sample) -> bytes:
    """A number somewhere is enormous, negative or just too large."""
    data = bytearray(sample.data)
    width = rng.choice((1, 2, 4, 8))
    value = rng.choice((-1, 1 << 8 * width - 1, (1 << 8 * width - 1) - 1, len(data), 1 << 4 * width))
    at = rng.randrange(sample.head)
    data[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "little")
    return bytes(data[: len(sample.data)])


def shuffle(rng: Random, sample: Sample) -> bytes:
    """A piece is missing, there twice, or in another's place."""
    data = sample.data
    start, length, to = rng.randrange(sample.head), rng.randint(1, 64), rng.randrange(sample.head)
    piece = data[start : start + length]
    return rng.choice(
        (
            data[:start] + data[start + length :],
            data[:to] + piece + data[to:],
            data[:to] + piece + data[to + length :],
        )
    )


def damaged(rng: Random, sample: Sample, rounds: int) -> Iterator[bytes]:
    for _ in range(rounds):
        yield rng.choice((flip, flip, bomb, bomb, shuffle))(rng, sample)


def survives(open_: Callable[[bytes], None], data: bytes) -> bool:
    """Whether the file still opens; raises what no file may bring about."""
    try:
        open_(data)
    except (ModelFileError, UnsupportedModel):
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=10_000, help="damaged files of each format")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    for name, sample in samples().items():
        began, opened = time.process_time(), 0
        for number, data in enumerate(damaged(Random(f"{arguments.seed} {name}"), sample, arguments.rounds)):
            try:
                opened += survives(sample.open, data)
            except BaseException:
                print(f"{name}: round {number} of seed {arguments.seed}")
                raise
        print(f"{name}: {arguments.rounds} damaged, {opened} still open, {time.process_time() - began:.0f} s")


if __name__ == "__main__":
    main()
