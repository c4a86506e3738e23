"""The way of a step through the whole chain, beside an echo of the same bytes between two stock p2pd.

Both are asked by one hivemind client, in turns: through its p2pd to the relay, into a tab with an engine that
computes next to nothing, and back; and through the same p2pd to a Python handler behind another.
"""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
from browser.peers import Session
from interop.running import ask, relay, tab

from kwaainet.ports import Stream
from kwaainet.swarm import blocks
from kwaainet.types import BlockRange

from .echo_model import ECHO, PREFIX, write_echo_model
from .model import HIDDEN_SIZE
from .report import Result, Row

HANDLER = "TransformerConnectionHandler.rpc_inference"
STEPS_A_ROUND = 100
WARM_UP = 30


def measure(folder: Path, rounds: int) -> Result:
    """Needs the real peers and the headless Chromium."""
    model = write_echo_model(folder / "echo")
    messages = _messages(STEPS_A_ROUND * rounds + WARM_UP)
    with (
        relay(folder, "--model", model, "--prefix", PREFIX) as ready,
        tab(folder, ready["http"], "--backend", "wasm") as (_, online),
    ):
        spec = {
            "initial_peers": [ready["tcp"]],
            "target": online["peer_id"],
            "handler": HANDLER,
            "messages": [message.hex() for message in messages],
            "warm_up": WARM_UP,
        }
        figures = ask(folder, "p2pd_echo", spec)
    return Result([_row(figures, len(messages[-1]))], figures)


def _messages(count: int) -> list[bytes]:
    nowhere = cast(Stream, None)  # the peer sends them
    session = Session(nowhere, blocks.join(PREFIX, BlockRange(0, ECHO.num_hidden_layers)), count)
    hidden = np.random.default_rng(0).standard_normal((1, 1, HIDDEN_SIZE), np.float32)
    return [session.request(hidden) for _ in range(count)]


def _row(figures: dict[str, Any], size: int) -> Row:
    ours, theirs = median(figures["target"]), median(figures["echo"])
    what = f"a step of {size / 1000:.1f} kB, stock p2pd client: tab whose engine computes next to nothing"
    return Row(what, f"{ours:.1f} ms", f"{theirs:.1f} ms (echo behind a stock p2pd)", theirs / ours)
