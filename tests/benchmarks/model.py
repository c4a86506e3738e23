"""The default model, as our relay serves it and as stock peers load it.

Rule of the file: the Hugging Face folder is written once, by the command a person would use.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from interop.running import KWAAINET, ROOT

GGUF = ROOT / ".cache" / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"
PREFIX = "SmolLM2-135M-Instruct-hf"
BLOCKS = 30
HIDDEN_SIZE = 576


def exported() -> Path:
    """The folder with float32 weights (650 MB), written if it is not there."""
    folder = ROOT / ".cache" / "benchmarks" / "SmolLM2-135M-Instruct"
    if not (folder / "config.json").exists():
        subprocess.run([KWAAINET, "model", "export", GGUF, folder], check=True)
    return folder
