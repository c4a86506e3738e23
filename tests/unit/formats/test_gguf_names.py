"""One table serves both ways: each tensor of a model has one name, and it leads back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kwaainet.formats.config import block_name
from kwaainet.formats.gguf_names import OUTER, block_names, gguf_architecture, stored_tensors
from kwaainet.formats.huggingface import read_config

CASES = json.loads((Path(__file__).parents[2] / "vectors" / "architectures.json").read_text())["cases"]


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"gemma2"}))
def test_names_lead_back(name: str) -> None:
    config = read_config(CASES[name]["config"])
    stored, back = stored_tensors(config), block_names(gguf_architecture(config))
    assert sorted(part for parts in stored.values() for part in parts) == sorted(config.tensor_shapes())
    for written, parts in stored.items():
        if "_exps." in written:
            assert len(parts) == config.num_local_experts
            continue
        _, index, suffix = written.split(".", 2) if written.startswith("blk.") else ("", "", "")
        assert parts == [block_name(int(index), back[suffix]) if index else OUTER[written]]
