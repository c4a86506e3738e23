"""An unmodified petals client trains soft prompts: ``petals_training.py SPEC.json RESULT.json``.

SPEC: model, initial_peers, dht_prefix as for petals_client.py; modes (of ptune, deep_ptune), steps; go_on, a
file (optional): {"event": "forward"} is printed after the first forward, whose backward waits for the file.
RESULT: for each mode the losses of Adam's steps through the swarm and of the same training on local
Hugging Face, how far the first gradients lie apart, relative to the local ones, and the tokens that
each then generates.
"""

import time
from pathlib import Path

from answering import answer
import petals_shim  # noqa: F401  (before petals: it mends its imports)
import petals
import torch
from transformers import AutoModelForCausalLM

PREFIX = 4  # soft prompt tokens
RATE = 0.05
NEW = 6  # tokens generated with what was learnt
SMALL, LARGE = (2, 12), (10, 150)  # rows and tokens: the second is above 1 MiB, the stream variant


class Local:
    """The same training on Hugging Face: prompts before the embeddings, deep ones before each layer."""

    def __init__(self, model, remote):
        self.model = model.requires_grad_(False)
        self.prompts = remote.prompt_embeddings.weight.detach().clone().requires_grad_(True)
        self.deep = None
        if remote.config.tuning_mode == "deep_ptune":
            self.deep = remote.intermediate_prompt_embeddings.weight.detach().clone().requires_grad_(True)
        hooks = [layer.register_forward_pre_hook(self.add(at)) for at, layer in enumerate(model.model.layers)]
        self.hooks = hooks

    def add(self, at):
        def hook(layer, args):
            if self.deep is None:
                return None
            prompt = self.deep.view(PREFIX, len(self.hooks), -1)[:, at]
            hidden = torch.cat([args[0][:, :PREFIX] + prompt, args[0][:, PREFIX:]], dim=1)
            return (hidden, *args[1:])

        return hook

    def parameters(self):
        return [self.prompts] + ([self.deep] if self.deep is not None else [])

    def __call__(self, ids):
        embeds = self.model.model.embed_tokens(ids)
        prompts = self.prompts.expand(len(ids), -1, -1)
        return self.model(inputs_embeds=torch.cat([prompts, embeds], dim=1)).logits[:, PREFIX:]

    def close(self):
        for hook in self.hooks:
            hook.remove()


def loss_of(logits, ids):
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def gradients(forward, parameters, ids, before_backward=lambda: None):
    for parameter in parameters:
        parameter.grad = None
    loss = loss_of(forward(ids), ids)
    before_backward()
    loss.backward()
    return [parameter.grad.detach().clone() for parameter in parameters]


def wait_for(path):
    print('{"event": "forward"}', flush=True)
    while not Path(path).exists():
        time.sleep(0.02)


def train(forward, parameters, ids, steps):
    optimizer, losses = torch.optim.Adam(parameters, lr=RATE), []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_of(forward(ids), ids)
        loss.backward()
        optimizer.step()
        losses.append(float(loss))
    return losses


def compare(spec, mode, generator):
    model = AutoModelForCausalLM.from_pretrained(spec["model"], torch_dtype=torch.float32)
    remote = petals.AutoDistributedModelForCausalLM.from_pretrained(
        spec["model"],
        initial_peers=spec["initial_peers"],
        dht_prefix=spec["dht_prefix"],
        torch_dtype=torch.float32,
        request_timeout=60,
        max_retries=2,
        tuning_mode=mode,
        pre_seq_len=PREFIX,
    )
    local = Local(model, remote.transformer)
    theirs = [parameter for parameter in remote.parameters() if parameter.requires_grad]
    assert [tuple(one.shape) for one in theirs] == [tuple(one.shape) for one in local.parameters()]

    def through_swarm(ids):
        return remote(ids).logits

    def before_backward():
        if "go_on" in spec:
            wait_for(spec["go_on"])

    apart = []
    for shape in (SMALL, LARGE):
        ids = torch.randint(0, model.config.vocab_size, shape, generator=generator)
        got = gradients(through_swarm, theirs, ids, before_backward)
        expected = gradients(local, local.parameters(), ids)
        apart += [float((a - b).norm() / b.norm()) for a, b in zip(got, expected, strict=True)]
    ids = torch.randint(0, model.config.vocab_size, SMALL, generator=generator)
    swarm = train(through_swarm, theirs, ids, spec["steps"])
    alone = train(local, local.parameters(), ids, spec["steps"])
    ids, prompt = ids[:1], ids[:1]
    got = remote.generate(prompt, max_new_tokens=NEW, do_sample=False, eos_token_id=None, pad_token_id=0)
    with torch.inference_mode():
        for _ in range(NEW):
            ids = torch.cat([ids, local(ids)[:, -1:].argmax(-1)], dim=1)
    local.close()
    tokens = {"got": got[0].tolist(), "expected": ids[0].tolist()}
    return {"swarm": swarm, "local": alone, "gradients": apart, "tokens": tokens}


def run(spec):
    torch.set_num_threads(1)
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(4)
    return {mode: compare(spec, mode, generator) for mode in spec["modes"]}


if __name__ == "__main__":
    answer(run)
