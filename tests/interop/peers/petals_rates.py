"""One unmodified petals client of several servers, timed in turns: ``petals_rates.py SPEC.json RESULT.json``.

SPEC: model, threads, rounds, repeat_tokens, and servers: {name: {initial_peers, dht_prefix}}.
RESULT: {name: [{"first": seconds of the prefill, "per_token": seconds of each later token, "waited": those of
them between petals' handing a step to its server and its having the answer}, ...]}.
"""

import gc
import time

from answering import answer
import petals_client  # its first import mends petals'
import petals
from petals.client.inference_session import _ServerInferenceSession as ServerSession
import torch


def timed_steps():
    """The seconds of every step of petals' sessions from now on, in order."""
    times, step = [], ServerSession.step

    def timed(*args, **kwargs):
        started = time.perf_counter()
        try:
            return step(*args, **kwargs)
        finally:
            times.append(time.perf_counter() - started)

    ServerSession.step = timed
    return times


def run(spec):
    torch.set_num_threads(spec.get("threads", 1))
    times = timed_steps()
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
            later = times[1 - spec["repeat_tokens"] :]
            outcome["waited"] = sum(later) / len(later)
            gc.collect()
            if turn:  # the first warms up: routes, caches, the server's first steps
                result[name].append(outcome)
    return result


if __name__ == "__main__":
    answer(run)
