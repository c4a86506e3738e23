"""An unmodified petals client, run in the real-peers environment: ``petals_client.py SPEC.json RESULT.json``.

SPEC: model (a Hugging Face directory), initial_peers, dht_prefix, and the checks to run:
  forward  [[batch, tokens], ...]  logits through the swarm against local Hugging Face
  generate [[prompt_tokens, new_tokens], ...]  greedy tokens against local Hugging Face
  prompt   text to complete with the model's own tokenizer (optional), new_tokens
  repeat   how often to time generation of 1 + N tokens (benchmarks)
RESULT: one list of outcomes a check, or {"error": "..."}; always written.
"""

import time

from answering import answer
import petals_shim  # noqa: F401  (before petals: it mends its imports)
import petals
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def forward(spec, local, remote, generator):
    for batch, tokens in spec.get("forward", []):
        ids = torch.randint(0, local.config.vocab_size, (batch, tokens), generator=generator)
        with torch.inference_mode():
            expected, got = local(ids).logits, remote(ids).logits
        yield {"batch": batch, "tokens": tokens, "max_abs": float((expected - got).abs().max())}


def generate(spec, local, remote, generator):
    for prompt_tokens, new_tokens in spec.get("generate", []):
        ids = torch.randint(0, local.config.vocab_size, (1, prompt_tokens), generator=generator)
        options = {"max_new_tokens": new_tokens, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
        expected = local.generate(ids, **options)[0].tolist()
        started = time.perf_counter()
        got = remote.generate(ids, **options)[0].tolist()
        seconds = time.perf_counter() - started
        yield {"expected": expected, "got": got, "tokens_per_second": new_tokens / seconds}


def complete(spec, local, remote, tokenizer):
    ids = tokenizer(spec["prompt"], return_tensors="pt")["input_ids"]
    options = {"max_new_tokens": spec["new_tokens"], "do_sample": False}
    expected = local.generate(ids, **options)[0]
    got = remote.generate(ids, **options)[0]
    return {"expected": tokenizer.decode(expected), "got": tokenizer.decode(got)}


def rate(spec, remote, generator):
    """Seconds per token after the first, one figure a run."""
    new_tokens = spec["repeat_tokens"]
    ids = torch.randint(0, remote.config.vocab_size, (1, 8), generator=generator)
    for _ in range(spec["repeat"]):
        with remote.inference_session(max_length=8 + new_tokens + 1):
            options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
            started = time.perf_counter()
            first = remote.generate(ids, max_new_tokens=1, **options)
            middle = time.perf_counter()
            remote.generate(None, max_new_tokens=new_tokens - 1, **options)
            ended = time.perf_counter()
        assert first.shape[1] == 9
        yield {"first": middle - started, "per_token": (ended - middle) / (new_tokens - 1)}


def run(spec):
    torch.set_num_threads(spec.get("threads", 1))
    generator = torch.Generator().manual_seed(spec.get("seed", 0))
    result = {}
    local = AutoModelForCausalLM.from_pretrained(spec["model"], torch_dtype=torch.float32)
    remote = petals.AutoDistributedModelForCausalLM.from_pretrained(
        spec["model"],
        initial_peers=spec["initial_peers"],
        dht_prefix=spec["dht_prefix"],
        torch_dtype=torch.float32,
        request_timeout=spec.get("request_timeout", 60),
        max_retries=spec.get("max_retries", 2),
    )
    result["forward"] = list(forward(spec, local, remote, generator))
    result["generate"] = list(generate(spec, local, remote, generator))
    if "prompt" in spec:
        result["prompt"] = complete(spec, local, remote, AutoTokenizer.from_pretrained(spec["model"]))
    if "repeat" in spec:
        result["rate"] = list(rate(spec, remote, generator))
    return result


if __name__ == "__main__":
    answer(run)
