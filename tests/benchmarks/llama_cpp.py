"""Our wasm kernels beside llama.cpp itself: the same random Q4_0 blocks, one thread, in turns.

llama.cpp comes built in the npm package of node-llama-cpp, with the code for this processor chosen as it
loads. What a block takes is the difference between a model of many blocks and one of few: vocabulary, head
and what a call costs cancel out. Rule of the file: processor time, and the package is fetched only by
whoever measures this.
"""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from interop.running import ROOT, Failed

from kwaainet.formats.config import ModelConfig
from kwaainet.formats.gguf_writer import head_bytes, padded
from kwaainet.formats.quantize import quantize

from .kernel import HERE, SMOL, TINY, config, write_span
from .report import Result, Row

VERSION = "3.22.1"  # carries llama.cpp of October 2026
FOLDER = ROOT / ".cache" / "bench-llama-cpp"
NODE = ROOT / ".venv" / "bin" / "node"
NPM = ROOT / ".venv" / "bin" / "npm"
DTYPE = "Q4_0"
FEW = (
    1  # blocks; without an answer to give, llama.cpp leaves the last block's second half out, of both models
)
GOAL = 0.4  # our share of its speed: 2.5 times its milliseconds
TOKENS = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]  # the least it takes
KINDS = [2, 3, 3] + [6] * 256  # unknown, control, bytes
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def measure(folder: Path, rounds: int) -> Result:
    """Needs Node, and npm's registry the first time."""
    install()
    rows: list[Row] = []
    figures: dict[str, Any] = {}
    for name, sizes, formats in (TINY, SMOL):
        blocks = formats[DTYPE]
        write_span(folder / "span", sizes, DTYPE, blocks)
        models = [_write_model(folder / f"{count}.gguf", config(count, *sizes)) for count in (FEW, blocks)]
        found: dict[str, list[dict[str, float]]] = {"ours": [], "llama.cpp": []}
        for _ in range(rounds):
            found["ours"].append(_run(HERE / "kernel_runs.mjs", 3, folder / "span"))
            few, many = _run(HERE / "llama_cpp_runs.mjs", FOLDER, 3, *models)
            found["llama.cpp"].append({key: (many[key] - few[key]) / (blocks - FEW) for key in few})
        figures[name] = found
        rows += _rows(name, found)
    return Result(rows, figures)


def _rows(name: str, found: dict[str, list[dict[str, float]]]) -> list[Row]:
    def row(key: str, label: str, goal: str) -> Row:
        ours, theirs = (median(figures[key] for figures in found[who]) for who in ("ours", "llama.cpp"))
        return Row(label, f"{ours:.2f} ms", f"{theirs:.2f} ms (llama.cpp)", theirs / ours, goal)

    return [
        row("decode", f"{name}, {DTYPE}, wasm, 1 thread: decode", f"≥ {GOAL}"),
        row("prefill", "· prefill of 128", ""),
    ]


def install() -> None:
    """node-llama-cpp with its prebuilt llama.cpp; ``Failed`` with npm's words if it cannot be had."""
    done = FOLDER / VERSION
    if done.exists():
        return
    system = {"Linux": "linux", "Darwin": "mac"}.get(platform.system(), "")
    machine = {"x86_64": "x64", "AMD64": "x64", "aarch64": "arm64", "arm64": "arm64"}.get(
        platform.machine(), ""
    )
    built = f"@node-llama-cpp/{system}-{machine}" + (
        "-metal" if (system, machine) == ("mac", "arm64") else ""
    )
    print(f"installing node-llama-cpp {VERSION} into {FOLDER} (85 MB, once)", file=sys.stderr, flush=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "package.json").write_text('{"private": true}\n')
    command = [NPM, "install", "--ignore-scripts", "--omit=optional", "--no-audit", "--no-fund"]
    packages = [f"{name}@{VERSION}" for name in ("node-llama-cpp", built)]
    said = subprocess.run(
        [*command, *packages], cwd=FOLDER, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if said.returncode != 0:
        raise Failed(f"node-llama-cpp {VERSION} cannot be installed; npm says:\n{said.stdout[-3000:]}")
    done.touch()


def _write_model(path: Path, model: ModelConfig) -> Path:
    """A GGUF file of random weights; every block has the same numbers."""
    random = np.random.default_rng(1)
    width = model.hidden_size
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (len(TOKENS), width)}
    data = {"token_embd.weight": random.standard_normal((len(TOKENS), width), np.float32).tobytes()}
    for name, shape in model.block_shapes().items():
        numbers = random.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)
        dtype = DTYPE if len(shape) == 2 else "F32"
        stored = quantize(dtype, numbers)
        for block in range(model.num_hidden_layers):
            known = f"blk.{block}.{NAMES[name.removesuffix('.weight')]}.weight"
            shapes[known], data[known] = shape, stored
    shapes["output_norm.weight"] = (width,)
    data["output_norm.weight"] = np.ones(width, np.float32).tobytes()
    types = {
        name: DTYPE if len(shape) == 2 and name[:3] == "blk" else "F32" for name, shape in shapes.items()
    }
    with path.open("wb") as file:
        file.write(head_bytes(_metadata(model), {name: (types[name], shapes[name]) for name in shapes}))
        for name in shapes:
            file.write(data[name] + bytes(padded(len(data[name])) - len(data[name])))
    return path


def _metadata(model: ModelConfig) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "llama.block_count": model.num_hidden_layers,
        "llama.context_length": model.max_position_embeddings,
        "llama.embedding_length": model.hidden_size,
        "llama.feed_forward_length": model.intermediate_size,
        "llama.attention.head_count": model.num_attention_heads,
        "llama.attention.head_count_kv": model.num_key_value_heads,
        "llama.attention.layer_norm_rms_epsilon": model.rms_norm_eps,
        "llama.rope.dimension_count": model.head_dim,
        "llama.rope.freq_base": model.rope_theta,
        "llama.vocab_size": len(TOKENS),
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.token_type": KINDS,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }


def _run(script: Path, *arguments: Any) -> Any:
    done = subprocess.run([str(part) for part in (NODE, script, *arguments)], capture_output=True, text=True)
    if done.returncode != 0:
        raise Failed(f"{script.name} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])
