"""A case is read whole; its weights are neither all alike nor large."""

import json
from pathlib import Path

import numpy as np

from kwaainet.testing.architectures import Case

CASES = json.loads((Path(__file__).parents[2] / "vectors" / "architectures.json").read_text())["cases"]


def test_weights_are_made_from_their_names() -> None:
    case = Case.read(CASES["qwen3"])
    block = case.block(1)
    assert block.keys() == case.config.block_shapes().keys()
    for suffix, array in block.items():
        assert array.dtype == np.float32
        assert 0.01 < array.std() < 1
        assert abs(array.mean() - suffix.endswith("norm.weight")) < 0.2
    assert not np.array_equal(block["mlp.gate_proj.weight"], block["mlp.up_proj.weight"])
