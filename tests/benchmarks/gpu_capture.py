"""What a decode step gains where onnxruntime-web records its commands and replays them, by ``gpu.py``'s page.

A session that captures has its caches bound for good, so that each slab needs one of its own. They share
weights where these are inputs of the graph, as they are here. Rule of the file: an emulated device computes
too slowly for a tab's blocks; small ones stand for the work around the kernels, which is what capture saves.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from dataclasses import replace
from statistics import median
from typing import Any
from unittest.mock import patch

from kwaainet.formats.config import ModelConfig
from kwaainet.inference import graph, onnx
from kwaainet.inference.graph import OnnxWriter
from kwaainet.inference.matrices import Form
from kwaainet.native.page import Page
from kwaainet.types import BlockRange, SpanShape

from .report import Result, Row

TIMEOUT = 600.0
CAPACITY = 256
SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 1,
    "num_key_value_heads": 1,
    "max_position_embeddings": CAPACITY,
    "num_hidden_layers": 2,
}


async def measure(page: Page, config: ModelConfig, software: bool, rounds: int) -> Result:
    """Three kinds of step in turns; ``config``'s blocks in 4 bits, or small ones on what is ``software``."""
    size, form = (replace(config, **SMALL), Form.FLOAT) if software else (config, Form.Q4)
    blocks = BlockRange(0, size.num_hidden_layers)
    forms = dict.fromkeys(OnnxWriter(size, blocks).matrices(), form)
    writer = OnnxWriter(size, blocks, forms)
    request = {
        "graph": base64.b64encode(_with_weights_as_inputs(writer)).decode(),
        "tensors": list(writer.tensor_shapes()),
        "shape": plain(writer.shape),
        "capacity": CAPACITY,
        "rounds": rounds,
    }
    found: dict[str, Any] = await page.evaluate(f"capture({json.dumps(request)})", TIMEOUT)
    return Result(_rows(found, len(blocks), size.hidden_size), {"capture": found})


def _with_weights_as_inputs(writer: OnnxWriter) -> bytes:
    def model(
        nodes: Iterable[bytes], weights: Iterable[bytes], inputs: Iterable[bytes], outputs: Iterable[bytes]
    ) -> bytes:
        return onnx.model(nodes, [], [*inputs, *weights], outputs)

    with patch.object(graph, "external", onnx.value), patch.object(graph, "model", model):
        return writer.graph()


def _rows(found: dict[str, Any], blocks: int, width: int) -> list[Row]:
    times, (first, second) = found["times"], found["ready"]
    plain_step, one, two = (median(times[kind]) for kind in ("without", "one", "two"))
    what = f"{blocks} blocks {width} wide, a decode step captured, and as it is"
    exact = f"answers differ by {found['difference']:.1e}, states change by up to {found['largest']:.1e}"
    return [
        Row(what, f"{one:.1f} ms", f"{plain_step:.1f} ms", plain_step / one),
        Row(
            "· the same on a second slab, by a session of its own over the same weights",
            f"{two:.1f} ms",
            exact,
        ),
        Row(
            "· until the first slab's session has captured, and the second's", f"{first:.0f}, {second:.0f} ms"
        ),
    ]


def plain(shape: SpanShape) -> dict[str, Any]:
    """As ``web/bridge/engine.ts`` takes it."""
    return {
        "blocks": shape.blocks,
        "hiddenSize": shape.hidden_size,
        "kvHeads": shape.kv_heads,
        "headDim": shape.head_dim,
        "switches": shape.switches,
        "half": shape.half,
    }
