"""Tokens per second of a stock petals client: through a tab, and through a stock petals server.

One client process asks both in turns, so that client, machine and moment are the same. Everything
computes with one thread: the client's torch, the server's, and onnxruntime-web in the tab.
"""

from __future__ import annotations

import socket
from pathlib import Path
from statistics import median
from typing import Any

from interop.running import ask, petals_server, relay, tab

from .model import BLOCKS, GGUF, PREFIX, exported
from .report import Result, Row

STOCK_PREFIX = "stock-hf"  # the stock server's name for the same weights, so that no client mixes them
NEW_TOKENS = 33


def measure(folder: Path, rounds: int) -> Result:
    """Needs the default model, the real peers and the headless Chromium."""
    model = exported()
    with (
        relay(folder, "--model", GGUF, "--prefix", PREFIX) as ready,
        petals_server(folder, model, STOCK_PREFIX, f"0:{BLOCKS}", ready["tcp"], free_port()),
        tab(folder, ready["http"] + "?threads=1", "--backend", "wasm"),
    ):
        servers = {"tab": PREFIX, "petals": STOCK_PREFIX}
        spec = {
            "model": str(model),
            "threads": 1,
            "rounds": rounds,
            "repeat_tokens": NEW_TOKENS,
            "servers": {
                name: {"initial_peers": [ready["tcp"]], "dht_prefix": prefix}
                for name, prefix in servers.items()
            },
        }
        figures = ask(folder, "petals_rates", spec, timeout=900)
    return Result(_rows(figures), figures)


def _rows(figures: dict[str, list[dict[str, float]]]) -> list[Row]:
    def middle(name: str, key: str) -> float:
        return median(outcome[key] for outcome in figures[name])

    def own(name: str) -> float:  # the client's work between two steps, by pairs of one generation
        return median(outcome["per_token"] - outcome["waited"] for outcome in figures[name])

    rates = {name: 1 / middle(name, "per_token") for name in figures}
    firsts = {name: middle(name, "first") for name in figures}
    return [
        Row(
            "stock petals client, SmolLM2-135M, 1 thread: tokens per second",
            f"{rates['tab']:.1f} (tab, wasm)",
            f"{rates['petals']:.1f} (stock petals server)",
            rates["tab"] / rates["petals"],
            "≥ 2.5",
        ),
        Row(
            "· of a token's time the client's own, between two steps",
            f"{1000 * own('tab'):.1f} of {1000 / rates['tab']:.1f} ms",
            f"{1000 * own('petals'):.1f} of {1000 / rates['petals']:.1f} ms",
        ),
        Row(
            "the same: seconds to the first token of 8",
            f"{firsts['tab']:.2f}",
            f"{firsts['petals']:.2f}",
            firsts["petals"] / firsts["tab"],
        ),
    ]


def free_port() -> int:
    """A TCP port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: Any = probe.getsockname()[1]
        return int(port)
