"""What a tab holds: the JavaScript of page and workers, their WebAssembly memories, the objects of Python.

Rule of the file: garbage is collected first, so that what is counted is held by something.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kwaainet.native.page import Page

# Runs ahead of the workers: the node worker keeps Pyodide to itself, which sets a property of this name;
# memories are made by scripts or by modules of WebAssembly.
CATCH = """
(() => {
  globalThis.caughtMemories = new Set()
  const { Memory, instantiate, instantiateStreaming } = WebAssembly
  WebAssembly.Memory = new Proxy(Memory, {
    construct (target, words) {
      const memory = Reflect.construct(target, words)
      caughtMemories.add(memory)
      return memory
    }
  })
  const seen = made => {
    const { exports } = made.instance ?? made
    for (const one of Object.values(exports)) if (one instanceof Memory) caughtMemories.add(one)
    return made
  }
  WebAssembly.instantiate = async (...words) => seen(await instantiate.apply(WebAssembly, words))
  WebAssembly.instantiateStreaming =
    async (...words) => seen(await instantiateStreaming.apply(WebAssembly, words))
  Object.defineProperty(Object.prototype, 'public_api', {
    configurable: true,
    set (value) {
      globalThis.caughtPython = value
      Object.defineProperty(this, 'public_api', { value, writable: true, configurable: true })
    }
  })
})()
"""
PYTHON_OBJECTS = "caughtPython.runPython('import gc; gc.collect(); len(gc.get_objects())')"
BYTES = "[...caughtMemories].reduce((sum, memory) => sum + memory.buffer.byteLength, 0)"


@dataclass(frozen=True, slots=True)
class Memory:
    """After so many ``sessions``: bytes of JavaScript held by ``page``, ``network`` and ``node``, of the node
    worker's WebAssembly memories, and how many objects its Python tracks."""

    sessions: int
    page: int
    network: int
    node: int
    wasm: int
    python: int


async def measure(page: Page, sessions: int) -> Memory:
    """As of now; ``CATCH`` must have run first in the page's workers."""
    workers = {url.split("/")[-1].split(".")[0]: session for session, url in page.workers.items()}
    node = workers["node"]
    return Memory(
        sessions,
        await _heap(page, None),
        await _heap(page, workers["network"]),
        await _heap(page, node),
        await _number(page, node, BYTES),
        await _number(page, node, PYTHON_OBJECTS),
    )


async def _command(page: Page, worker: str | None, method: str, params: dict[str, Any]) -> dict[str, Any]:
    if worker is None:
        return await page.command(method, params)
    return await page.worker_command(worker, method, params)


async def _heap(page: Page, worker: str | None) -> int:
    for _ in range(2):  # what the first frees may free more
        await _command(page, worker, "HeapProfiler.collectGarbage", {})
    return int((await _command(page, worker, "Runtime.getHeapUsage", {}))["usedSize"])


async def _number(page: Page, worker: str, expression: str) -> int:
    answer = await page.worker_command(worker, "Runtime.evaluate", {"expression": expression})
    found = answer["result"].get("value")
    assert isinstance(found, int), answer
    assert found > 0, f"nothing was caught: {expression}"
    return found
