"""The portable half of the package, tested where it will run: the same unit tests inside Pyodide.

The wheel is installed there as a tab installs it (build/pyodide_pytest.mjs); only the place differs. All of
it takes a minute and a half of a processor; ``make test`` leaves out what costs most and shows least of it.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from nightly.sizes import whole

ROOT = Path(__file__).parents[2]
NODE = ROOT / ".venv" / "bin" / "node"

# identity and libp2p are left to CPython: their tests need its cryptography package, and a tab has js-libp2p.
PORTABLE = ("wire", "compression", "formats", "dht", "swarm", "inference", "node")

# By night only: the tests of the tests' own parts (tests/browser/test_ports.py uses those in a real tab), and
# what takes seconds of bytes, rounds, examples (tests/interop/test_petals.py has tabs stream long replies),
# or of one type in files of several ages.
BY_NIGHT = ("testing",)
NOT_BY_DAY = (
    "dht/test_lookup.py::test_the_nearest_living_are_found",
    "formats/test_ggml.py::test_every_age_and_type[ggjt-1-Q5",
    "formats/test_ggml.py::test_every_age_and_type[ggjt-2-",
    "node/test_rpc.py::test_a_reply_that_unary_cannot_carry_points_at_the_stream",
    "node/test_rpc.py::test_a_large_reply_is_streamed_in_parts_of_4_mib",
    "node/test_turns.py::test_many_sessions_in_a_loop_all_get_on_at_one_pace",
    "wire/test_msgpack.py::test_round_trip_keeps_types",
)

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

TIMEOUT = 1800.0  # about a minute on a quiet machine


def test_the_portable_layers_pass_inside_pyodide() -> None:
    left_out = [f"--ignore=tests/unit/{name}" for name in AGAINST_NATIVE_REFERENCES]
    if not whole():
        left_out += [f"--deselect=tests/unit/{name}" for name in NOT_BY_DAY]
    suites = [f"tests/unit/{name}" for name in (*PORTABLE, *(BY_NIGHT if whole() else ()))]
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
