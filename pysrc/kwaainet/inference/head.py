"""The client's share of a model: embedding, final norm and language head, in numpy.

Follows Hugging Face's ``LlamaForCausalLM`` and ``Gemma2ForCausalLM``. Rule of the file: float32
throughout, rows are tokens.

numpy in a tab has no BLAS, and yet this is used there: with SmolLM2's 49152 x 576 a token takes 25 ms
(20 to 32) in Pyodide and 15 in onnxruntime-web, which would cost 14 MB more to load and a second heap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import InputError, ModelFileError
from ..formats.config import EMBED, LM_HEAD, NORM, ModelConfig
from ..ports import Floats


@dataclass(frozen=True, slots=True)
class LanguageHead:
    """embed [vocab, hidden], norm [hidden], lm_head [vocab, hidden] (may be ``embed`` itself).

    ``norm`` is what is multiplied with, its offset added; see ``ModelConfig`` for the other numbers.
    """

    embedding: Floats
    norm: Floats
    lm_head: Floats
    rms_norm_eps: float
    embedding_scale: float = 1.0
    final_logit_softcapping: float | None = None

    @classmethod
    def of(cls, config: ModelConfig, tensors: Mapping[str, Floats]) -> LanguageHead:
        """From the model's float32 tensors by their full names; without ``lm_head.weight`` where tied."""
        return cls(
            tensors[EMBED],
            tensors[NORM] + np.float32(config.norm_offset),
            tensors[EMBED] if config.tie_word_embeddings else tensors[LM_HEAD],
            config.rms_norm_eps,
            config.embedding_scale,
            config.final_logit_softcapping,
        )

    def __post_init__(self) -> None:
        vocab, hidden = self.embedding.shape
        if self.norm.shape != (hidden,) or self.lm_head.shape != (vocab, hidden):
            raise ModelFileError(
                f"head does not fit: embedding {self.embedding.shape}, norm {self.norm.shape}, "
                f"lm_head {self.lm_head.shape}"
            )

    def embed(self, ids: Sequence[int]) -> Floats:
        """Token ids -> hidden states [1, n, hidden]; ``InputError`` names an id outside the vocabulary."""
        vocab = self.embedding.shape[0]
        for token in ids:
            if not 0 <= token < vocab:
                raise InputError(f"token id {token} is outside the vocabulary of {vocab}")
        rows = self.embedding[np.asarray(ids, dtype=np.int64)][None]
        return np.ascontiguousarray(rows * np.float32(self.embedding_scale))

    def logits(self, hidden: Floats) -> Floats:
        """Last block's output [hidden] of one position -> logits [vocab]."""
        variance = np.mean(np.square(hidden, dtype=np.float32), dtype=np.float32)
        normed = hidden * np.float32(1.0 / np.sqrt(variance + self.rms_norm_eps)) * self.norm
        logits = np.asarray(self.lm_head @ normed, dtype=np.float32)
        cap = self.final_logit_softcapping
        return logits if cap is None else np.asarray(np.float32(cap) * np.tanh(logits / np.float32(cap)))
