"""What all writers of spans share: which weights lie in which packed tensor, and what skips a block."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kwaainet.formats.config import FULL, SLIDING
from kwaainet.inference.writer import packed_parts, span_shape
from kwaainet.testing.span import CONFIG
from kwaainet.types import BlockRange, SpanShape

PLAIN = ["input_norm", "qkv", "o", "post_norm", "gate_up", "down"]


@pytest.mark.parametrize(
    ("change", "names", "switches"),
    [
        ({}, PLAIN, ("input_norm", "post_norm")),
        ({"packed_projections": True}, PLAIN, ("input_norm", "post_norm")),
        ({"qkv_bias": True}, [*PLAIN, "qkv_bias"], ("input_norm", "post_norm", "qkv_bias")),
        ({"qk_norm": True}, [*PLAIN, "q_norm", "k_norm"], ("input_norm", "post_norm")),
        ({"post_norms": True}, [*PLAIN, "attention_norm", "mlp_norm"], ("attention_norm", "mlp_norm")),
        (
            {"num_local_experts": 2, "num_experts_per_tok": 1},
            [*PLAIN[:4], "router", "0.gate_up", "0.down", "1.gate_up", "1.down"],
            ("input_norm", "post_norm"),
        ),
    ],
)
def test_every_weight_is_packed_once(
    change: dict[str, Any], names: list[str], switches: tuple[str, ...]
) -> None:
    config = replace(CONFIG, **change)
    parts = packed_parts(config)
    assert sorted(parts) == sorted(names)
    assert sorted(part for packed in parts.values() for part in packed) == sorted(config.block_shapes())
    assert span_shape(config, BlockRange(3, 5)) == SpanShape(2, 200, 2, 32, 320, switches)


def test_engines_are_told_what_the_attention_needs() -> None:
    types = (SLIDING, SLIDING, FULL)
    config = replace(CONFIG, sliding_window=7, layer_types=types, attn_logit_softcapping=50.0)
    assert [span_shape(config, BlockRange(at, at + 1)).window for at in range(3)] == [7, 7, 0]
    assert span_shape(config, BlockRange(0, 3)).softcap == 50.0


def test_the_norm_before_the_mlp_is_found_by_what_it_does() -> None:
    assert packed_parts(CONFIG)["post_norm"] == ("post_attention_layernorm.weight",)
    parts = packed_parts(replace(CONFIG, post_norms=True))
    assert parts["post_norm"] == ("pre_feedforward_layernorm.weight",)
    assert parts["attention_norm"] == ("post_attention_layernorm.weight",)
