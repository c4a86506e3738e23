"""GGML files written from their layouts alone are read as the model they hold, whatever their age."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from kwaainet.errors import KwaaiNetError, ModelFileError, UnsupportedModel
from kwaainet.formats import ggml, gguf_llama
from kwaainet.formats.gguf import GgufIndex
from kwaainet.formats.quants import dequantize
from kwaainet.formats.reading import drive

from . import ggml_files

TOKENS = [(b"", 0.0), (b"", 0.0), (b"", 0.0), *((bytes([i]), 0.0) for i in range(256))]
TOKENS += [(b" hello", -1.5), ("größe".encode(), -2.5), (b"", 0.0)]
HIDDEN, HEADS, BLOCKS, INNER = 32, 2, 2, 64
SIZES = (len(TOKENS), HIDDEN, 32, HEADS, BLOCKS, HIDDEN // HEADS, 2)
WRITTEN = [
    ("ggml", 0, "F32"), ("ggml", 0, "F16"), ("ggml", 0, "Q4_0"), ("ggml", 0, "Q4_1"),
    ("ggmf", 1, "Q4_0"), ("ggmf", 1, "Q4_1"),
    *(("ggjt", 1, dtype) for dtype in ggml_files.NUMBERS),
    *(("ggjt", 2, dtype) for dtype in ggml_files.NUMBERS if dtype[-2:] not in ("_2", "_3")),
    *(("ggjt", 3, dtype) for dtype in ggml_files.NUMBERS if dtype[-2:] not in ("_2", "_3")),
]  # fmt: skip


def weights() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(11)
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (len(TOKENS), HIDDEN)}
    for i in range(BLOCKS):
        shapes |= {f"model.layers.{i}.{name}.weight": (HIDDEN, HIDDEN) for name in (
            "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj")}  # fmt: skip
        shapes |= {f"model.layers.{i}.mlp.{name}_proj.weight": (INNER, HIDDEN) for name in ("gate", "up")}
        shapes[f"model.layers.{i}.mlp.down_proj.weight"] = (HIDDEN, INNER)
        for name in ("input_layernorm", "post_attention_layernorm"):
            shapes[f"model.layers.{i}.{name}.weight"] = (HIDDEN,)
    shapes |= {"model.norm.weight": (HIDDEN,), "lm_head.weight": (len(TOKENS), HIDDEN)}
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


WEIGHTS = weights()


def read(data: bytes, assumed: ggml.Assumed = ggml.ASSUMED) -> GgufIndex:
    return drive(ggml.read_index(len(data), assumed), lambda offset, length: data[offset : offset + length])


def written(
    form: str = "ggjt", version: int = 3, dtype: str = "Q4_0", sizes: tuple[int, ...] = SIZES
) -> tuple[bytes, Mapping[str, np.ndarray]]:
    return ggml_files.write(form, version, sizes, TOKENS, WEIGHTS, dtype)


@pytest.mark.parametrize(("form", "version", "dtype"), WRITTEN)
def test_every_age_and_type(form: str, version: int, dtype: str) -> None:
    data, meant = written(form, version, dtype)
    index = read(data)
    entries = gguf_llama.read_tensors(index, "old.bin")
    assert entries.keys() == meant.keys() == gguf_llama.read_config(index).tensor_shapes().keys()
    for name, entry in entries.items():
        stored = data[entry.offset : entry.offset + entry.length]
        assert entry.shape == meant[name].shape
        np.testing.assert_array_equal(
            dequantize(entry.dtype, stored, meant[name].size), meant[name].reshape(-1), name
        )
        assert entry.permuted == (".q_proj" in name or ".k_proj" in name)
        assert form != "ggjt" or entry.offset % 32 == 0


def test_config_and_vocabulary() -> None:
    index = read(written()[0], ggml.Assumed(4096, 1e-6, 1e5))
    config = gguf_llama.read_config(index)
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (HIDDEN, BLOCKS, INNER)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (HEADS, HEADS, 16)
    assert (config.max_position_embeddings, config.rms_norm_eps, config.rope_theta) == (4096, 1e-6, 1e5)
    assert (config.bos_token_id, config.eos_token_id, config.tie_word_embeddings) == (1, 2, False)
    said = {key.removeprefix("tokenizer.ggml."): value for key, value in index.metadata.items()}
    assert said["tokens"][:5] == ["<unk>", "<s>", "</s>", "<0x00>", "<0x01>"]
    assert said["tokens"][-3:] == ["\u2581hello", "größe", ""]
    assert said["token_type"] == [2, 3, 3] + [6] * 256 + [1, 1, 3]
    assert said["scores"][-3:] == [-1.5, -2.5, 0.0]


def test_without_options_the_references_guesses_hold() -> None:
    config = gguf_llama.read_config(read(written()[0]))
    assert (config.max_position_embeddings, config.rms_norm_eps, config.rope_theta) == (2048, 5e-6, 1e4)


def test_fewer_key_heads_are_seen_in_the_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(WEIGHTS):
        if "k_proj" in name or "v_proj" in name:
            monkeypatch.setitem(WEIGHTS, name, WEIGHTS[name][:16])
    assert gguf_llama.read_config(read(written()[0])).num_key_value_heads == 1


def test_only_the_heads_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ggml, "_WINDOW", 1 << 12)
    data, _ = written("ggjt", 3, "F32")
    seen = 0

    def ranges(offset: int, length: int) -> bytes:
        nonlocal seen
        seen += length
        return data[offset : offset + length]

    drive(ggml.read_index(len(data)), ranges)
    assert seen < len(data) / 4


HEAD = struct.pack("<II", ggml_files.MAGIC["ggjt"], 3)
END = len(written()[0])


def cut(at: int, *instead: Any, data: bytes = written()[0]) -> bytes:
    """The file with other bytes from ``at`` on, and nothing after them."""
    return data[:at] + b"".join(instead)


BROKEN, FOREIGN = ModelFileError, UnsupportedModel


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (b"", BROKEN, "truncated: the file ends at byte 0"),
        (b"GGUF" + bytes(40), BROKEN, "not a GGML file: it begins with b'GGUF'"),
        (struct.pack("<II", ggml_files.MAGIC["ggjt"], 4), FOREIGN, "version 4; supported are 1, 2, 3"),
        (struct.pack("<II", ggml_files.MAGIC["ggmf"], 2), FOREIGN, "version 2; supported are 1"),
        (b"algg\1\0\0\0", FOREIGN, "a LoRA adapter"),
        (HEAD + struct.pack("<7I", 1 << 31, 64, 1, 4, 2, 16, 0), BROKEN, f"claims {1 << 31} tokens"),
        (HEAD + struct.pack("<7I", 100, 64, 1, 0, 2, 16, 0), BROKEN, "in 0 heads"),
        (HEAD + struct.pack("<7I", 100, 64, 1, 4, 2, 99, 0), BROKEN, "heads of 99"),
        (HEAD + struct.pack("<8I", 100, 64, 1, 4, 2, 16, 0, 1 << 30), BROKEN, f"token 0 has {1 << 30}"),
        (cut(END, struct.pack("<3I", 5, 4, 0)), BROKEN, "5 dimensions"),
        (cut(END, struct.pack("<3I", 1, 1 << 20, 0)), BROKEN, f"a name of {1 << 20}"),
        (cut(END, struct.pack("<4I", 1, 12, 4, 16), b"norm2.weight"), FOREIGN, "'norm2.weight' does"),
        (cut(END, struct.pack("<4I", 1, 11, 4, 16), b"norm.weight"), FOREIGN, "number 4, which ggjt v3"),
        (cut(END, struct.pack("<4I", 1, 11, 2, 33), b"norm.weight"), BROKEN, "rows of 33 do not"),
        (cut(END, struct.pack("<4I", 1, 11, 0, 1 << 31), b"norm.weight"), BROKEN, "truncated: tensor"),
        (cut(END, ggml_files.tensor(b"norm.weight", (2,), 0, bytes(8), END, True)), BROKEN, "twice"),
        (cut(END - 1), BROKEN, "truncated: tensor output.weight ends"),
        (cut(END, b"\0"), BROKEN, "truncated"),
        (written(sizes=(*SIZES[:1], 64, 32, 2, 2, 32, 2))[0], FOREIGN, "one of 2 parts of a model"),
    ],
)  # fmt: skip
def test_broken_files_are_refused(data: bytes, error: type[KwaaiNetError], message: str) -> None:
    with pytest.raises(error, match=message):
        read(data)


def test_a_file_without_blocks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(WEIGHTS, "model.layers.0.mlp.gate_proj.weight")
    with pytest.raises(ModelFileError, match=r"no tensor blk\.0\.ffn_gate\.weight"):
        read(written()[0])


def test_their_magic_tells_them_from_other_files() -> None:
    assert all(ggml.is_ggml(struct.pack("<I", magic)) for magic in ggml_files.MAGIC.values())
    assert not ggml.is_ggml(b"GGUF")
