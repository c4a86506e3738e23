"""Write what Hugging Face computes for a tiny model of each architecture: ``architecture_vectors.py OUT``.

Made ``tests/vectors/architectures.json`` with transformers 5.23.0 and torch 2.13.0, in float64; newer ones
than the peers' own, so it is run by hand (``pip install --target`` them, and set PYTHONPATH). Weights
are not stored: each number is a hash of its place and of its tensor's number (``pseudo_random``).
"""

import base64
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.torch import load_file, save_file

SIZES = {
    "hidden_size": 48,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 37,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
TOKENS = [1, 5, 9, 36, 2, 17, 23, 8, 30, 11, 5, 5, 28, 19]
TYPES = ["sliding_attention", "sliding_attention", "full_attention"]
GEMMA = {"query_pre_attn_scalar": 24, "sliding_window": 5, "layer_types": TYPES}
LLAMA3 = {"rope_type": "llama3", "rope_theta": 100.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 24}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 1000.0, "factor": 4.0, "original_max_position_embeddings": 16}
LONG = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 32,
        "short_factor": [1.0, 1.1, 1.3, 1.5, 2.0, 2.5, 3.0, 4.0], "long_factor": [9.0] * 8}  # fmt: skip
LOCAL = {
    "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 10000.0},
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
}
LINEAR = {"rope_type": "linear", "factor": 4.0, "rope_theta": 100.0}
PHI = {"hidden_size": 64}  # whose heads are always its hidden_size / num_attention_heads
CASES = {
    "llama-linear": (
        "llama",
        {"rope_parameters": LINEAR},
    ),
    "llama-llama3": ("llama", {"rope_parameters": LLAMA3}),
    "llama-yarn": ("llama", {"rope_parameters": YARN}),
    "mistral": ("mistral", {"sliding_window": 5}),
    "qwen2": ("qwen2", {"use_sliding_window": True, "max_window_layers": 1, "sliding_window": 5}),
    "qwen3": ("qwen3", {}),
    "phi3": ("phi3", {**PHI, "sliding_window": 5}),
    "phi3-longrope": (
        "phi3",
        {**PHI, "rope_parameters": LONG, "original_max_position_embeddings": 32},
    ),
    "phi3-partial": (
        "phi3",
        {**PHI, "num_attention_heads": 2, "head_dim": 32, "partial_rotary_factor": 0.5},
    ),
    "gemma2": ("gemma2", {**GEMMA, "attn_logit_softcapping": 2.0, "final_logit_softcapping": 1.5}),
    "gemma3": ("gemma3_text", {**GEMMA, "rope_parameters": LOCAL, "tie_word_embeddings": True}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
}


def pseudo_random(shape: tuple[int, ...], seed: int) -> np.ndarray:
    """float32 between -1 and 1."""
    x = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(seed * 7919 + 1)
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = (x ^ (x >> np.uint32(shift))) * np.uint32(factor)
    x ^= x >> np.uint32(16)
    return (x / 2**31 - 1).astype(np.float32).reshape(shape)


def weights(shapes: dict[str, tuple[int, ...]]) -> dict[str, torch.Tensor]:
    found = {}
    for seed, (name, shape) in enumerate(sorted(shapes.items())):
        numbers = pseudo_random(shape, seed)
        if name.endswith("norm.weight"):
            numbers = 1 + numbers / 4
        elif len(shape) > 1 and "embed" not in name:
            numbers *= 2 * shape[1] ** -0.5
        found[name] = torch.from_numpy(numbers)
    return found


def packed(array: torch.Tensor) -> str:
    return base64.b64encode(array.detach().numpy().astype("<f4").tobytes()).decode()


def vector(model_type: str, change: dict) -> dict:
    config = transformers.AutoConfig.for_model(model_type, **{**SIZES, **change})
    config.dtype = "float32"
    with tempfile.TemporaryDirectory() as folder:
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(folder)
        file = Path(folder, "model.safetensors")
        shapes = {name: tuple(tensor.shape) for name, tensor in load_file(file).items()}
        save_file(weights(shapes), file, {"format": "pt"})
        written = json.loads(Path(folder, "config.json").read_text())
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float64, attn_implementation="eager", experts_implementation="eager"
        )
    outputs = []
    for layer in model.model.layers:
        layer.register_forward_hook(lambda module, inputs, output: outputs.append((inputs[0], output)))
    with torch.no_grad():
        logits = model(torch.tensor([TOKENS])).logits[0, -1]
    first, last = outputs[0][0], outputs[-1][1]
    last = last if torch.is_tensor(last) else last[0]
    return {
        "config": written,
        "shapes": {name: list(shape) for name, shape in sorted(shapes.items())},
        "tokens": TOKENS,
        "hidden": packed(first),
        "expected": packed(last),
        "logits": packed(logits),
    }


source = (
    f"transformers {transformers.__version__}, float64; made by tests/interop/peers/architecture_vectors.py"
)
cases = {name: vector(*case) for name, case in CASES.items()}
Path(sys.argv[1]).write_text(json.dumps({"source": source, "cases": cases}, separators=(",", ":")) + "\n")
