"""How near our kernels come to what this processor can do, and PyTorch's product beside it, in one run.

``make bench ARGS="kernel --profile"``. Three peaks are measured with instructions that do nothing else:
bytes read, sums of 16 products of bytes (relaxed dot), and multiply-adds of four float32. A product of a
whole-number format takes three such sums for 16 numbers (four of one row with Q8_0; two of a long prompt,
but for Q8_0; in words of 16 bits a sum of 8 products for each word), one of floats a multiply-add for four:
what that allows is the most a kernel can reach.
Rule of the file: processor time, one thread, medians.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from interop.running import ROOT

from kwaainet.inference.program import COARSE_FROM

from .report import Result, Row

HERE = Path(__file__).parent
PEER = ROOT / ".cache" / "peers" / "bin" / "python"
ROWS_A_ROUND = 3  # turns of peaks and kernels


def measure(folder: Path, rounds: int) -> Result:
    """Needs Node; PyTorch where its environment is set up."""
    found = _run([ROOT / ".venv/bin/node", HERE / "kernel_profile.mjs", ROWS_A_ROUND * rounds, COARSE_FROM])
    torch = _run([PEER, HERE / "torch_product.py", rounds]) if PEER.exists() else {}
    return Result(_rows(found, torch), {**found, "PyTorch": torch})


def _rows(found: dict[str, Any], torch: dict[str, float]) -> list[Row]:
    dot, word, madd = found["dot"], found["word"], found["madd"]
    rows = [
        Row("plain read", f"{found['read']:.1f} GB/s"),
        Row(
            "sums of 16 products of bytes (relaxed dot)",
            f"{dot:.2f} G/s",
            f"{16 * dot / 2:.1f} GMAC/s in two digits",
        ),
        Row("sums of 8 products of 16 bits", f"{word:.2f} G/s", f"{8 * word:.1f} GMAC/s in words"),
        Row(
            "multiply-adds of four float32 (relaxed madd)", f"{madd:.2f} G/s", f"{4 * madd:.1f} GMAC/s of it"
        ),
    ]
    for name, kernel in found["kernels"].items():
        kind, count = name.rsplit(maxsplit=1)
        theirs = torch.get(count)
        share = f"{kernel['pace']:.1f} GMAC/s, {kernel['share']:.0%} of the most"
        label = f"{kind}, {count} row{'s' if count != '1' else ''}"
        if theirs is None:
            rows.append(Row(label, share))
        else:
            rows.append(Row(label, share, f"{theirs:.1f} (PyTorch float32)", kernel["pace"] / theirs))
    return rows


def _run(command: list[Any]) -> dict[str, Any]:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))
