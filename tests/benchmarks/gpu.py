"""The engine on a real graphics device, beside what that device's memory gives: decode and prefill.

``make bench ARGS=gpu`` on a machine with one writes the table between the two marks in README.md, with
the device's name and the date; anywhere else it says that there is none and README stays as it is.
Rule of the file: a device emulated in software is no device; blocks are TinyLlama's shape, weights random.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Iterator, Sequence
from datetime import date
from math import prod
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from interop.running import ROOT, Failed

from kwaainet.formats.config import ModelConfig
from kwaainet.inference.graph import OnnxWriter
from kwaainet.inference.matrices import Form
from kwaainet.native.chromium import Browser
from kwaainet.native.page import Page
from kwaainet.types import BlockRange

from . import gpu_capture
from .gpu_capture import plain
from .report import Result, Row, markdown
from .site import HERE, site

README = ROOT / "README.md"
BEGIN, END = "<!-- gpu: written by make bench ARGS=gpu -->", "<!-- end of gpu -->"
# Headless Chromium takes a graphics card by Vulkan, and only if told to.
FLAGS = (
    "--enable-features=Vulkan,VulkanFromANGLE,DefaultANGLEVulkan",
    "--use-angle=vulkan",
    "--use-vulkan=native",
    "--disable-vulkan-surface",
    "--ignore-gpu-blocklist",
)
TIMEOUT = 600.0
PROMPT = 128
TINYLLAMA = ModelConfig(
    num_hidden_layers=4,
    hidden_size=2048,
    intermediate_size=5632,
    num_attention_heads=32,
    num_key_value_heads=4,
    head_dim=64,
    vocab_size=32000,
    max_position_embeddings=2048,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=False,
)


def measure(folder: Path, rounds: int) -> Result:
    """Needs the built page and a Chromium; on a machine without a graphics device it only says so."""
    with site(folder, "gpu.html", HERE / "gpu.ts") as address:
        return asyncio.run(_measure(address, 10 * rounds))


async def _measure(address: str, rounds: int) -> Result:
    async with await Browser.launch(flags=FLAGS) as browser:
        page = await browser.open_page(f"{address}/gpu.html")
        device = await page.evaluate("device()")
        real = device is not None and not device["software"]
        if real:
            result = await timed(page, TINYLLAMA, device["half"], rounds)
            captured = await gpu_capture.measure(page, TINYLLAMA, False, rounds)
    if not real:
        return await _emulated(address, rounds)
    result = Result([*result.rows, *captured.rows], {**result.figures, **captured.figures})
    write_table(README, str(device["name"]), date.today(), result.rows)
    return Result(result.rows, {**result.figures, "device": device})


async def _emulated(address: str, rounds: int) -> Result:
    """Where there is no graphics device: what can be said of the one that the browser emulates."""
    async with await Browser.launch() as browser:
        page = await browser.open_page(f"{address}/gpu.html")
        device = await page.evaluate("device()")
        none = "none: nothing measured; README's table stays as dated"
        if device is None:
            return Result([Row("graphics device", none)])
        half = "shader-f16" if device["half"] else "no shader-f16, so no float16"
        row = Row("graphics device", none, f"emulated: {device['name']}, with {half}")
        captured = await gpu_capture.measure(page, TINYLLAMA, True, rounds)
    return Result([row, *captured.rows], captured.figures)


async def timed(page: Page, config: ModelConfig, half: bool, rounds: int, prompt: int = PROMPT) -> Result:
    """Every format on the page's device; ``half``: those of float16 too."""
    bandwidth = float(await page.evaluate(f"bandwidth({rounds})", TIMEOUT))
    rows = [Row("memory, read by a kernel", f"{bandwidth / 1e9:.0f} GB/s")]
    figures: dict[str, Any] = {"bandwidth": bandwidth}
    for name, writer in _writers(config, half):
        request = _request(writer, prompt, rounds)
        times = await page.evaluate(f"time({json.dumps(request)})", TIMEOUT)
        figures[name] = times
        size = sum(prod(shape) * np.dtype(dtype).itemsize for _, dtype, shape in writer.tensor_shapes())
        rows += _rows(name, times, config.num_hidden_layers, size, bandwidth, prompt)
    return Result(rows, figures)


def _writers(config: ModelConfig, half: bool) -> Iterator[tuple[str, OnnxWriter]]:
    blocks = BlockRange(0, config.num_hidden_layers)
    matrices = list(OnnxWriter(config, blocks).matrices())
    for real in ("float32", "float16") if half else ("float32",):
        for name, form in ((real, Form.FLOAT), (f"q4, {real}", Form.Q4), (f"q8, {real}", Form.Q8)):
            yield name, OnnxWriter(config, blocks, dict.fromkeys(matrices, form), real=real)


def _request(writer: OnnxWriter, prompt: int, rounds: int) -> dict[str, Any]:
    shape = writer.shape
    return {
        "graph": base64.b64encode(writer.graph()).decode(),
        "tensors": list(writer.tensor_shapes()),
        "shape": plain(shape),
        "prompt": prompt,
        "rounds": rounds,
    }


def _rows(
    name: str, times: dict[str, list[float]], blocks: int, size: int, bandwidth: float, prompt: int
) -> Iterator[Row]:
    decode, prefill = median(times["decode"]) / blocks, median(times["prefill"])
    bound = 1000 * size / blocks / bandwidth
    yield Row(f"{name}: one token", f"{decode:.3f} ms a block", f"{bound:.3f} ms to read it", bound / decode)
    yield Row(f"{name}: prompt of {prompt}", f"{1000 * blocks * prompt / prefill:.0f} blocks x tokens/s")


def write_table(readme: Path, device: str, today: date, rows: Sequence[Row]) -> None:
    """Replace what is between the marks; ``Failed`` if README has them not."""
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise Failed(f"{readme.name} has not the marks {BEGIN} and {END}; the table is\n{markdown(rows)}")
    table = f"{BEGIN}\nMeasured on {device}, {today.isoformat()}.\n\n{markdown(rows)}\n{END}"
    readme.write_text(before + table + after)
