"""A GGUF model with every type of tensor computes what Hugging Face does with the numbers they stand for."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import safetensors.numpy
from interop.running import ask

from kwaainet.native.engine import NativeEngine
from kwaainet.native.model import Model, open_model
from kwaainet.node.model import load_span
from kwaainet.ports import Floats
from kwaainet.testing.store import MemoryStore
from kwaainet.types import BlockRange

TYPES = ("Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "F16", "BF16", "F32")
SCALES = {
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q6_K": (208,),
}  # bytes of float16
BLOCKS, HIDDEN, INNER, HEADS, KEY_HEADS, VOCABULARY = 2, 256, 512, 4, 2, 96
HEAD = HIDDEN // HEADS
IDS = [5, 17, 95, 3, 3, 60, 41]
NAMES = {
    "attn_q": ("self_attn.q_proj", (HIDDEN, HIDDEN)),
    "attn_k": ("self_attn.k_proj", (KEY_HEADS * HEAD, HIDDEN)),
    "attn_v": ("self_attn.v_proj", (KEY_HEADS * HEAD, HIDDEN)),
    "attn_output": ("self_attn.o_proj", (HIDDEN, HIDDEN)),
    "ffn_gate": ("mlp.gate_proj", (INNER, HIDDEN)),
    "ffn_up": ("mlp.up_proj", (INNER, HIDDEN)),
    "ffn_down": ("mlp.down_proj", (HIDDEN, INNER)),
}


def stored(rng: np.random.Generator, dtype: str, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Random numbers as ``dtype``, and what they are for the reference; K types from random bits."""
    kind = gguf.GGMLQuantizationType[dtype]
    if dtype not in SCALES:
        raw = gguf.quants.quantize(rng.standard_normal(shape, np.float32) * np.float32(0.06), kind)
        return raw, gguf.dequantize(raw, kind)
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = rng.integers(0, 256, (shape[0] * shape[1] // block, size), np.uint8)
    spread = 0.06
    for _ in range(2):  # first to see how far the numbers spread, then to bring them into range
        for at in SCALES[dtype]:
            raw[:, at : at + 2] = np.array([0.06 / spread], "<f2").view(np.uint8)
        numbers = gguf.dequantize(raw.reshape(shape[0], -1), kind)
        spread = float(numbers.std())
    return raw.reshape(shape[0], -1), numbers


def write_plain(folder: Path, plain: dict[str, np.ndarray]) -> Path:
    """Hugging Face's directory of these weights."""
    folder.mkdir()
    safetensors.numpy.save_file(plain, folder / "model.safetensors", {"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": HIDDEN,
        "intermediate_size": INNER, "num_hidden_layers": BLOCKS, "num_attention_heads": HEADS,
        "num_key_value_heads": KEY_HEADS, "vocab_size": VOCABULARY, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 64, "tie_word_embeddings": False, "torch_dtype": "float32",
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Model, Path]:
    """The model as GGUF, opened, and as Hugging Face's directory of float32."""
    folder, rng = tmp_path_factory.mktemp("types"), np.random.default_rng(8)
    writer = gguf.GGUFWriter(folder / "types.gguf", "llama")
    for key, value in {"block_count": BLOCKS, "context_length": 64, "embedding_length": HIDDEN}.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_uint32("llama.feed_forward_length", INNER)
    writer.add_uint32("llama.attention.head_count", HEADS)
    writer.add_uint32("llama.attention.head_count_kv", KEY_HEADS)
    writer.add_float32("llama.attention.layer_norm_rms_epsilon", 1e-5)
    plain: dict[str, np.ndarray] = {}
    turn = 0

    def add(name: str, canonical: str, shape: tuple[int, ...], heads: int = 0) -> None:
        nonlocal turn
        dtype = TYPES[turn % len(TYPES)]
        turn += 1
        raw, numbers = stored(rng, dtype, shape)
        writer.add_tensor(name, raw, raw_dtype=gguf.GGMLQuantizationType[dtype])
        if heads:  # GGUF interleaves the halves that rotary embedding turns
            numbers = numbers.reshape(heads, HEAD // 2, 2, -1).swapaxes(1, 2).reshape(shape)
        plain[canonical] = np.ascontiguousarray(numbers, np.float32)

    def norm(name: str, canonical: str) -> None:
        plain[canonical] = 1 + rng.standard_normal(HIDDEN, np.float32) * np.float32(0.1)
        writer.add_tensor(name, plain[canonical])

    add("token_embd.weight", "model.embed_tokens.weight", (VOCABULARY, HIDDEN))
    for i in range(BLOCKS):
        for short, (long, shape) in NAMES.items():
            heads = {"attn_q": HEADS, "attn_k": KEY_HEADS}.get(short, 0)
            add(f"blk.{i}.{short}.weight", f"model.layers.{i}.{long}.weight", shape, heads)
        norm(f"blk.{i}.attn_norm.weight", f"model.layers.{i}.input_layernorm.weight")
        norm(f"blk.{i}.ffn_norm.weight", f"model.layers.{i}.post_attention_layernorm.weight")
    norm("output_norm.weight", "model.norm.weight")
    add("output.weight", "lm_head.weight", (VOCABULARY, HIDDEN))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return open_model(folder / "types.gguf"), write_plain(folder / "plain", plain)


async def logits(model: Model) -> Floats:
    """The whole model on the native engine: the prompt at once, then its last token as a step."""
    engine, head = NativeEngine(threads=1), model.load_head()
    await load_span(model.manifest, BlockRange(0, BLOCKS), model.source, MemoryStore(), engine)
    cache = await engine.open_cache(1, len(IDS))
    hidden = head.embed(IDS)
    first, last = await engine.run(cache, hidden[:, :-1]), await engine.run(cache, hidden[:, -1:])
    await engine.close()
    return np.stack([head.logits(row) for row in np.concatenate([first, last], axis=1)[0]])


def test_logits_are_hugging_faces(written: tuple[Model, Path], tmp_path: Path, peers_python: Path) -> None:
    model, plain = written
    assert {entry.dtype for entry in model.manifest.tensors.values()} == set(TYPES)
    theirs = np.array(ask(tmp_path, "llama_logits", {"model": str(plain), "ids": IDS})["logits"])
    ours = asyncio.run(logits(model))
    assert np.ptp(theirs) > 1
    np.testing.assert_allclose(ours, theirs, atol=1e-4 * float(np.abs(theirs).max()))
