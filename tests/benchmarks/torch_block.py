"""Time of one Llama block of random weights in PyTorch, float32; kernel.py's peer.

Processor time of one thread, or by the clock of more:

    python torch_block.py ROUNDS HIDDEN INNER HEADS KV_HEADS [THREADS]
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaModel


def main() -> None:
    rounds, hidden, inner, heads, kv_heads = map(int, sys.argv[1:6])
    threads = int(sys.argv[6]) if len(sys.argv) > 6 else 1
    torch.set_num_threads(threads)
    now = time.process_time if threads == 1 else time.perf_counter
    blocks = 4
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=inner,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        num_hidden_layers=blocks,
        vocab_size=8,
    )
    model = LlamaModel(config).eval()

    def run(past: Any, tokens: int) -> Any:
        with torch.inference_mode():
            x = torch.randn(1, tokens, hidden)
            return model(inputs_embeds=x, past_key_values=past, use_cache=True).past_key_values

    def median(work: Callable[[], Any]) -> float:
        work()
        times = []
        for _ in range(rounds):
            start = now()
            work()
            times.append((now() - start) * 1000 / blocks)
        return statistics.median(times)

    cache = run(None, 128)
    figures = {"decode": median(lambda: run(cache, 1)), "prefill": median(lambda: run(None, 128))}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
