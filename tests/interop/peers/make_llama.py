"""Write a small random Llama of odd shape as a Hugging Face directory: ``make_llama.py OUT``.

Grouped-query heads, an untied head, sizes that are no powers of two; seeded, always the same weights.
"""

import sys

import torch
from transformers import LlamaConfig, LlamaForCausalLM

torch.manual_seed(20)
config = LlamaConfig(
    hidden_size=192,
    intermediate_size=520,
    num_hidden_layers=5,
    num_attention_heads=6,
    num_key_value_heads=2,
    vocab_size=1031,
    max_position_embeddings=512,
    rope_theta=50000.0,
    rms_norm_eps=1e-5,
    tie_word_embeddings=False,
    initializer_range=0.12,  # wide enough that greedy choices are not near ties
    bos_token_id=1,
    eos_token_id=2,
    torch_dtype=torch.float32,
)
LlamaForCausalLM(config).to(torch.float32).save_pretrained(sys.argv[1], safe_serialization=True)
