"""One unmodified petals client of several servers, timed in turns: ``petals_rates.py SPEC.json RESULT.json``.

SPEC: model, threads, rounds, repeat_tokens, and servers: {name: {initial_peers, dht_prefix}}.
RESULT: {name: [{"first": seconds of the prefill, "per_token": seconds of each later token}, ...]}.
"""

import gc

from answering import answer
import petals_client  # its first import mends petals'
import petals
import torch


def run(spec):
    torch.set_num_threads(spec.get("threads", 1))
    gc.disable()  # a finished session that is collected on petals' own loop waits for that loop for ever
    remotes = {
        name: petals.AutoDistributedModelForCausalLM.from_pretrained(
            spec["model"], torch_dtype=torch.float32, request_timeout=60, max_retries=2, **server
        )
        for name, server in spec["servers"].items()
    }
    result = {name: [] for name in remotes}
    for turn in range(spec["rounds"] + 1):
        for name, remote in remotes.items():
            generator = torch.Generator().manual_seed(turn)
            [outcome] = petals_client.rate({**spec, "repeat": 1}, remote, generator)
            gc.collect()
            if turn:  # the first warms up: routes, caches, the server's first steps
                result[name].append(outcome)
    return result


if __name__ == "__main__":
    answer(run)
