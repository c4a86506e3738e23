"""An unmodified petals client that generates again and again: ``petals_looper.py SPEC.json RESULT.json``.

SPEC: model, initial_peers, dht_prefix as for petals_client.py, and
  update_period  seconds between the client's readings of the DHT (stock: 60)
  tokens         a generation; absent: 6
  stock_retries  true: as often as stock clients try, which is for ever; else the first failure is raised
  until          a file: when it exists and `rounds_after` more generations are done, end
Prints the first outcome as a JSON line at once. RESULT: "rounds", one {"servers", "equal", "error"} a
generation; "equal" says whether the tokens are those of local Hugging Face.
"""

import json
import time
from pathlib import Path

from answering import answer
import petals_shim  # noqa: F401  (before petals: it mends its imports)
import petals
import torch
from transformers import AutoModelForCausalLM

OPTIONS = {"do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def run(spec):
    torch.set_num_threads(1)
    local = AutoModelForCausalLM.from_pretrained(spec["model"], torch_dtype=torch.float32)
    remote = petals.AutoDistributedModelForCausalLM.from_pretrained(
        spec["model"],
        initial_peers=spec["initial_peers"],
        dht_prefix=spec["dht_prefix"],
        torch_dtype=torch.float32,
        update_period=spec["update_period"],
        request_timeout=20,
        max_retries=None if spec.get("stock_retries") else 1,  # 0 would mean to try for ever, too
    )
    ids, tokens = torch.arange(1, 6)[None], spec.get("tokens", 6)
    options = {**OPTIONS, "max_new_tokens": tokens}
    expected = local.generate(ids, **options)[0].tolist()
    rounds, left = [], spec["rounds_after"]
    while left:
        left -= Path(spec["until"]).exists()
        try:
            with remote.inference_session(max_length=tokens + 10) as session:
                got = remote.generate(ids, **options)[0].tolist()
                servers = [hop.span.peer_id.to_base58() for hop in session._server_sessions]
            rounds.append({"servers": servers, "equal": got == expected, "error": None})
        except Exception as error:
            rounds.append({"servers": [], "equal": False, "error": repr(error)[:500]})
        if len(rounds) == 1:
            print(json.dumps({"event": "generating", **rounds[0]}), flush=True)
        time.sleep(0.05)
    return {"rounds": rounds}


if __name__ == "__main__":
    answer(run)
