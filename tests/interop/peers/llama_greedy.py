"""Local Hugging Face's greedy tokens: ``llama_greedy.py SPEC.json RESULT.json``.

SPEC: model (a Hugging Face directory), prompts (lists of token ids), new_tokens.
RESULT: completions, the new tokens of each prompt up to the one that ends it.
"""

from answering import answer
import torch
from transformers import AutoModelForCausalLM


def run(spec):
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(spec["model"], torch_dtype=torch.float32)
    completions = []
    for prompt in spec["prompts"]:
        options = {"max_new_tokens": spec["new_tokens"], "do_sample": False, "pad_token_id": 0}
        output = model.generate(torch.tensor([prompt]), **options)[0].tolist()
        completions.append(output[len(prompt) :])
    return {"completions": completions}


answer(run)
