"""Write one state dict as PyTorch does in each of its ways: ``save_torch.py FOLDER``.

Beside each file lies what it holds: ``expected.safetensors``, made of copies, each tensor on its own.
"""

import sys
from collections import OrderedDict
from pathlib import Path

import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

folder = Path(sys.argv[1])
torch.manual_seed(4)
base = torch.randn(6, 8)
state = OrderedDict(
    f32=base,
    shared=base[2:4],
    turned=base.t(),
    part=base[1:, 1:6:2],
    f16=torch.randn(3, 5).half(),
    bf16=torch.randn(3, 5).bfloat16(),
    f64=torch.randn(4).double(),
    e4m3=torch.randn(4, 4).to(torch.float8_e4m3fn),
    e5m2=torch.randn(4, 4).to(torch.float8_e5m2),
    u16=torch.arange(4).to(torch.uint16),
    i64=torch.arange(6).reshape(2, 3),
    flags=torch.tensor([True, False]),
    empty=torch.zeros(0, 3),
    scalar=torch.tensor(1.5),
    parameter=torch.nn.Parameter(torch.randn(2, 2)),
)
save_file(
    {name: one.detach().clone().contiguous() for name, one in state.items()}, folder / "expected.safetensors"
)
torch.save(state, folder / "zip.pt")
torch.save({"model": state, "epoch": 3}, folder / "nested.pth", pickle_protocol=4)
old = {name: one for name, one in state.items() if name not in ("e4m3", "e5m2", "u16")}
torch.save(old, folder / "legacy.pt", _use_new_zipfile_serialization=False)
torch.save(torch.nn.Linear(2, 2), folder / "module.pt")
config = LlamaConfig(
    hidden_size=64, intermediate_size=96, num_hidden_layers=3, num_attention_heads=4, vocab_size=200
)
model = LlamaForCausalLM(config).half()
model.save_pretrained(folder / "sharded", safe_serialization=False, max_shard_size="150KB")
model.save_pretrained(folder / "sharded-safe", safe_serialization=True, max_shard_size="150KB")
