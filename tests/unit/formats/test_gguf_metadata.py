"""What is written of a model's settings reads back as the same settings."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from kwaainet.formats.config import ModelConfig
from kwaainet.formats.gguf import GgufIndex, GgufTensor
from kwaainet.formats.gguf_llama import read_config
from kwaainet.formats.gguf_metadata import as_read, rope_factors, write_config
from kwaainet.formats.rope import RopeScaling


def again(config: ModelConfig) -> ModelConfig:
    factors = rope_factors(config)
    shapes = {"token_embd.weight": (config.vocab_size, config.hidden_size), "output.weight": (1, 1)}
    shapes |= {name: array.shape for name, array in factors.items()}
    tensors = {name: GgufTensor("F32", shape, 0, 0) for name, shape in shapes.items()}
    tokens = {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1}
    return read_config(
        GgufIndex(3, write_config(config) | tokens, tensors), next(iter(factors.values()), None)
    )


@pytest.mark.parametrize(
    "scaling",
    [
        None,
        RopeScaling("linear", 4.0),
        RopeScaling("yarn", 4.0, 16.0, attention_factor=0.1 * float(np.log(4.0)) + 1),
        RopeScaling("llama3", 8.0, 8192.0),
        RopeScaling("longrope", attention_factor=1.0954451150103321, factors=(1.0, 1.1, 2.5, 4.0) * 2),
    ],
)
def test_rope_scalings_come_back(tiny_config: ModelConfig, scaling: RopeScaling | None) -> None:
    config = replace(tiny_config, rope_scaling=scaling, rope_theta=500000.0)
    assert again(config) == as_read(config)


def test_a_mistral_that_sees_everything_is_a_llama(tiny_config: ModelConfig) -> None:
    mistral = replace(tiny_config, architecture="mistral")
    assert again(mistral) == as_read(mistral) == tiny_config
    sliding = replace(mistral, sliding_window=5)
    assert again(sliding) == as_read(sliding) == sliding
