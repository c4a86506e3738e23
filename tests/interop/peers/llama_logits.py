"""Local Hugging Face's logits: ``llama_logits.py SPEC.json RESULT.json``.

SPEC: model (a Hugging Face directory), ids (of one text). RESULT: logits, [n, vocab].
"""

from answering import answer
import torch
from transformers import AutoModelForCausalLM


def run(spec):
    torch.set_num_threads(1)
    model = AutoModelForCausalLM.from_pretrained(spec["model"], torch_dtype=torch.float32)
    with torch.inference_mode():
        return {"logits": model(torch.tensor([spec["ids"]])).logits[0].tolist()}


answer(run)
