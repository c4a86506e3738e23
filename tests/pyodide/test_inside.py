"""The portable half of the package, tested where it will run: the same unit tests inside Pyodide.

The wheel is installed there as a tab installs it (build/pyodide_pytest.mjs); only the place differs.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
NODE = ROOT / ".venv" / "bin" / "node"

# identity and libp2p are left to CPython: their tests need its cryptography package, and a tab has js-libp2p.
PORTABLE = ("wire", "compression", "formats", "dht", "swarm", "inference", "node", "testing")

# These hold ours against gguf, safetensors or tokenizers, which exist for CPython only.
AGAINST_NATIVE_REFERENCES = (
    "formats/test_gguf.py",
    "formats/test_gguf_llama.py",
    "formats/test_gguf_shards.py",
    "formats/test_quantize.py",
    "formats/test_quants.py",
    "formats/test_safetensors.py",
    "inference/test_pretokenizer.py",
    "inference/test_sentencepiece.py",
    "inference/test_tokenizer.py",
    "inference/test_vocabulary.py",
)

TIMEOUT = 900.0  # about a minute on a quiet machine


def test_the_portable_layers_pass_inside_pyodide() -> None:
    left_out = [f"--ignore=tests/unit/{name}" for name in AGAINST_NATIVE_REFERENCES]
    suites = [f"tests/unit/{name}" for name in PORTABLE]
    command = [
        NODE,
        "--experimental-wasm-jspi",
        ROOT / "build" / "pyodide_pytest.mjs",
        "-q",
        *left_out,
        *suites,
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT)
    said = (done.stdout + done.stderr)[-20_000:]
    assert done.returncode == 0, said
    counts = re.search(r"^=*\s*(\d+) passed(.*) in ", said, re.MULTILINE)
    assert counts is not None, said
    assert int(counts[1]) > 500
    assert not re.search(r"failed|error|skipped", counts[2]), said
