"""The default model as ``make setup`` fetched it: our reading of it against the reference packages'."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import tokenizers

from kwaainet.native.chat import render_chat
from kwaainet.native.model import Model, open_model

PATH = Path(__file__).parents[2] / ".cache" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
TEXTS = [
    "The capital of France is Paris.",
    "It's 2024, and 1234567 isn't a prime…\n\n\tdef f(x):\r\n\t    return x ** 2\n",
    "größe 😀👍🏽 これは日本語 \u200b\xa0 'LL 'ſ <|im_end|><|im_start|>user",
]


@pytest.fixture(scope="module")
def model() -> Model:
    return open_model(PATH)


def test_weights_equal_the_reference_readers(model: Model) -> None:
    theirs = {tensor.name: tensor for tensor in gguf.GGUFReader(PATH).tensors}
    for ours, name in {
        "model.embed_tokens.weight": "token_embd.weight",
        "model.norm.weight": "output_norm.weight",
        "model.layers.7.mlp.down_proj.weight": "blk.7.ffn_down.weight",
        "model.layers.29.self_attn.v_proj.weight": "blk.29.attn_v.weight",
    }.items():
        tensor = theirs[name]
        np.testing.assert_array_equal(
            model.read_tensor(ours), gguf.dequantize(tensor.data, tensor.tensor_type)
        )


def test_it_is_what_its_name_says(model: Model) -> None:
    assert model.name == "SmolLM2-135M-Instruct-hf"
    config = model.config
    assert (config.num_hidden_layers, config.hidden_size, config.head_dim) == (30, 576, 64)
    assert (config.rope_theta, config.rms_norm_eps, config.tie_word_embeddings) == (1e5, 1e-5, True)
    assert model.stop_tokens == {model.tokenizer.token_id("<|im_end|>")}


@pytest.mark.parametrize("text", TEXTS)
def test_tokens_equal_the_reference_tokenizers(model: Model, text: str) -> None:
    theirs = tokenizers.Tokenizer.from_str(model.tokenizer.vocabulary.to_json())
    ids = model.tokenizer.encode(text)
    assert ids == theirs.encode(text).ids
    assert model.tokenizer.decode(ids) == theirs.decode(ids, skip_special_tokens=False)


def test_a_question_becomes_the_prompt_transformers_makes(model: Model) -> None:
    prompt = render_chat(model, [{"role": "user", "content": "What is the capital of France?"}])
    assert model.tokenizer.encode(prompt) == [
        *(
            1,
            9690,
            198,
            2683,
            359,
            253,
            5356,
            5646,
            11173,
            3365,
            3511,
            308,
            34519,
            28,
            7018,
            411,
            407,
            19712,
            8182,
        ),
        *(2, 198, 1, 4093, 198, 1780, 314, 260, 3575, 282, 4649, 47, 2, 198, 1, 520, 9531, 198),
    ]  # by transformers 4.34.1 and 5.23.0 from an exported copy
