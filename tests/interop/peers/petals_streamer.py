"""An unmodified petals client that says when each token comes: ``petals_streamer.py SPEC.json RESULT.json``.

SPEC: model, initial_peers, dht_prefix as for petals_client.py, and
  generations    how many at most, each in one call of generate()
  until          a file (optional): when it exists, the generation under way is the last
  pause          a file (optional): while it exists, no generation begins
  hold           [index, file] (optional): the first generation waits at that token until the file exists
  prompt_tokens, new_tokens
  request_timeout  seconds (20)
  beams          of one more generation, by beam search (optional)
Prints {"event": "token", "generation", "index"} with every token and, at its end, of every generation
{"event": "generation", "equal", "servers", "times", "error"}: whether the tokens are those of local Hugging
Face, and the unix times at which they came. RESULT: "generations", the same of all; "beams", whether that
generation's tokens are equal.
"""

import json
import time
from pathlib import Path

from answering import answer
import petals_shim  # noqa: F401  (before petals: it mends its imports)
import petals
import torch
from transformers import AutoModelForCausalLM


class Streamer:
    """What generate() calls with the prompt, and then with every token."""

    def __init__(self, generation, hold):
        self.generation, self.hold = generation, hold
        self.times = []

    def put(self, tokens):
        self.times.append(time.time())
        event = {"event": "token", "generation": self.generation, "index": len(self.times) - 1}
        print(json.dumps(event), flush=True)
        if self.generation == 0 and self.hold and event["index"] == self.hold[0]:
            while not Path(self.hold[1]).exists():
                time.sleep(0.02)

    def end(self):
        pass


def run(spec):
    torch.set_num_threads(1)
    local = AutoModelForCausalLM.from_pretrained(spec["model"], torch_dtype=torch.float32)
    remote = petals.AutoDistributedModelForCausalLM.from_pretrained(
        spec["model"],
        initial_peers=spec["initial_peers"],
        dht_prefix=spec["dht_prefix"],
        torch_dtype=torch.float32,
        request_timeout=spec.get("request_timeout", 20),
        max_retries=0,
    )
    options = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    options["max_new_tokens"] = spec["new_tokens"]
    ids = (torch.arange(spec["prompt_tokens"]) % 50 + 1)[None]
    expected = local.generate(ids, **options)[0].tolist()
    generations = []
    for generation in range(spec["generations"]):
        while "pause" in spec and Path(spec["pause"]).exists():
            time.sleep(0.02)
        streamer, servers, error, got = Streamer(generation, spec.get("hold")), [], None, None
        try:
            with remote.inference_session(max_length=spec["prompt_tokens"] + spec["new_tokens"]) as session:
                got = remote.generate(ids, streamer=streamer, **options)[0].tolist()
                servers = [hop.span.peer_id.to_base58() for hop in session._server_sessions]
        except Exception as failure:
            error = repr(failure)[:500]
        outcome = {"equal": got == expected, "servers": servers, "times": streamer.times, "error": error}
        generations.append(outcome)
        print(json.dumps({"event": "generation", "generation": generation, **outcome}), flush=True)
        if "until" in spec and Path(spec["until"]).exists():
            break
    result = {"generations": generations}
    if "beams" in spec:
        wide = {**options, "num_beams": spec["beams"], "max_new_tokens": 8}
        result["beams"] = remote.generate(ids, **wide).tolist() == local.generate(ids, **wide).tolist()
    return result


if __name__ == "__main__":
    answer(run)
