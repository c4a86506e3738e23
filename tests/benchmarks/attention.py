"""What a long context costs the wasm engine: attention beside a plain read of keys and values, and the rest.

Rule of the file: short and long steps and reads take turns in one process, on one thread; medians.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from interop.running import ROOT

from .kernel import HERE, SMOL, TINY, write_span
from .report import Result, Row

SHORT, LONG = 128, 4096
STEPS_A_ROUND = 10
FLOAT32 = 4  # bytes; what keys and values are kept in


def measure(folder: Path, rounds: int) -> Result:
    """Needs Node only."""
    rows: list[Row] = []
    figures: dict[str, Any] = {}
    for name, sizes, formats in (TINY, SMOL):
        path = folder / "span"
        write_span(path, sizes, "Q4_0", formats["Q4_0"])
        command = [
            ROOT / ".venv/bin/node",
            HERE / "attention_runs.mjs",
            rounds * STEPS_A_ROUND,
            path,
            SHORT,
            LONG,
        ]
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=True)
        found = figures[name] = json.loads(done.stdout.splitlines()[-1])
        kv_heads = sizes[3]
        found["read"] = found["msPerByte"] * 2 * LONG * kv_heads * 64 * FLOAT32
        rows += _rows(name, found)
    return Result(rows, figures)


def _rows(name: str, found: dict[str, Any]) -> list[Row]:
    short, long, read = found[str(SHORT)], found[str(LONG)], found["read"]
    return [
        Row(
            f"{name}, Q4_0, wasm, 1 thread: decode at position {LONG} without its attention",
            f"{long['rest']:.2f} ms",
            f"{short['rest']:.2f} ms (at {SHORT})",
            short["rest"] / long["rest"],
            "≥ 0.87",
        ),
        Row(
            f"· its attention, and a plain read of {LONG} keys and values",
            f"{long['attention']:.2f} ms",
            f"{read:.2f} ms",
            read / long["attention"],
            "≥ 0.5",
        ),
    ]
