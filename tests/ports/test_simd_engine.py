"""The tab's engine on wasm, in Node: weights as files have them, and programs that do not fit.

The Python half is ``kwaainet.browser.engine`` over stand-ins for Pyodide, the other half the real one in
a Node process. The port's own suite runs in a real tab, in ``tests/browser/test_ports.py``.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import gguf
import numpy as np
import pytest
from unit.browser.javascript import JsError, TypedArray

from kwaainet.errors import EngineError
from kwaainet.formats.weights import Weight, weights_of
from kwaainet.inference.graph import OnnxWriter
from kwaainet.inference.program import ProgramWriter
from kwaainet.ports import Engine, Floats
from kwaainet.testing.architectures import Case
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.engine_compliance import CONFIG, fill, hidden_states, random_weights
from kwaainet.testing.span import assert_close, outputs_of
from kwaainet.types import BlockRange

HERE = Path(__file__).resolve().parent
NODE = HERE.parents[1] / ".venv" / "bin" / "node"
ONE = BlockRange(0, 1)


class NodeEngine:
    """What ``createEngine`` of ``web/bridge/engine.ts`` made, in a process of its own."""

    backend, graphs = "wasm", "program"

    def __init__(self) -> None:
        command = [NODE, HERE / "engine_calls.mjs"]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __getattr__(self, method: str) -> Any:
        def call(*arguments: Any) -> asyncio.Future[Any]:
            done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
            try:
                done.set_result(self._call(method, arguments))
            except JsError as error:
                done.set_exception(error)
                done.exception()  # somebody may not wait for it
            return done

        return call

    def runNow(self, *arguments: Any) -> Any:
        return self._call("runNow", arguments)

    def _call(self, method: str, arguments: tuple[Any, ...]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps([method, [_sent(one) for one in arguments]]), file=self._process.stdin, flush=True)
        answer = json.loads(self._process.stdout.readline())
        if "name" in answer:
            raise JsError(answer["name"], answer["message"])
        value = answer["value"]
        if isinstance(value, dict):
            return TypedArray(np.frombuffer(base64.b64decode(value["floats"]), np.float32))
        return value

    def stop(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(60) == 0


def _sent(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"bytes": base64.b64encode(value).decode()}
    if isinstance(value, np.ndarray):
        kind = "floats" if value.dtype == np.float32 else "bytes"
        return {kind: base64.b64encode(value.tobytes()).decode()}
    return value


@pytest.fixture(scope="module")
def make() -> Iterator[Any]:
    """Makes a BrowserEngine over the one Node process of these tests."""
    ours = ("kwaainet.browser.crossing", "kwaainet.browser.engine")
    names = ("js", "pyodide", "pyodide.ffi", *ours)
    saved = {name: sys.modules.pop(name, None) for name in names}
    js, ffi = ModuleType("js"), ModuleType("pyodide.ffi")
    js.__dict__["Object"] = type("Object", (), {"fromEntries": dict})
    ffi.__dict__.update(JsException=JsError, to_js=lambda value, dict_converter=None: value)
    sys.modules.update({"js": js, "pyodide": ModuleType("pyodide"), "pyodide.ffi": ffi})
    module = importlib.import_module("kwaainet.browser.engine")
    node = NodeEngine()
    yield lambda: module.BrowserEngine(node)
    node.stop()
    for name, one in saved.items():
        sys.modules.pop(name, None)
        if one is not None:
            sys.modules[name] = one


@asynccontextmanager
async def closing(engine: Engine) -> AsyncIterator[Engine]:
    try:
        yield engine
    finally:
        await engine.close()


def quantized(kind: str) -> dict[str, Weight]:
    """A block's matrices in a format, those of rows that are no whole blocks aside."""
    weights = weights_of(random_weights(CONFIG, 0))
    number = gguf.GGMLQuantizationType[kind]
    block = gguf.GGML_QUANT_SIZES[number][0]
    for name, weight in weights.items():
        if len(weight.shape) == 2 and weight.shape[1] % block == 0:
            data = gguf.quants.quantize(weight.floats(CONFIG), number)
            weights[name] = Weight(kind, weight.shape, data.tobytes())
    return weights


@pytest.mark.parametrize("kind", ["F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_weights_as_files_have_them_compute_what_their_numbers_do(make: Any, kind: str) -> None:
    async def run() -> None:
        weights = quantized(kind)
        assert {weight.dtype for weight in weights.values()} == {"F32", kind}
        writer, exact = ProgramWriter(CONFIG, BlockRange(0, 1)), NumpyEngine()
        async with closing(make()) as engine:
            for name, tensor in [*writer.constants(), *writer.pack_block(0, weights)]:
                await engine.add_tensor(name, tensor)
            await engine.build(writer.graph(), writer.shape)
            floats = {name: weight.floats(CONFIG) for name, weight in weights.items()}
            await fill_with(exact, floats)
            for tokens in (1, 40):
                hidden = hidden_states(1, tokens)
                assert_close(await outputs_of(engine, hidden), await outputs_of(exact, hidden))

    asyncio.run(run())


def test_long_prompts_are_rounded_to_16_bits_and_nothing_else_is(make: Any) -> None:
    async def ran(coarse_from: int | None, hidden: Floats) -> Floats:
        writer = ProgramWriter(CONFIG, BlockRange(0, 1), coarse_from)
        async with closing(make()) as engine:
            for name, tensor in [*writer.constants(), *writer.pack_block(0, quantized("Q4_0"))]:
                await engine.add_tensor(name, tensor)
            await engine.build(writer.graph(), writer.shape)
            return await outputs_of(engine, hidden)

    async def run() -> None:
        for tokens, rows in ((40, 1), (39, 1), (1, 40)):
            hidden = hidden_states(rows, tokens)
            fine, coarse = await ran(None, hidden), await ran(40, hidden)
            assert_close(coarse, fine)
            assert np.array_equal(fine, coarse) == (tokens < 40)

    asyncio.run(run())


async def fill_with(engine: NumpyEngine, weights: dict[str, Floats]) -> None:
    writer = OnnxWriter(CONFIG, BlockRange(0, 1))
    for name, tensor in [*writer.constants(), *writer.pack_block(0, weights_of(weights))]:
        await engine.add_tensor(name, tensor)
    await engine.build(writer.graph(), writer.shape)


def change(program: dict[str, Any], *path: Any, to: Any) -> bytes:
    """The program with one value replaced."""
    place: Any = program
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to
    return json.dumps(program).encode()


@pytest.mark.parametrize(
    ("path", "to", "words"),
    [
        (("buffers", "h"), 199, "199 wide, not 200"),
        (("buffers", "h"), -1, "not a whole number"),
        (("buffers", "q"), 1 << 30, "not a whole number"),
        (("tensors", "0.self_attn.q_proj.weight", 0), "Q9_9", "the format Q9_9"),
        (("tensors", "0.self_attn.q_proj.weight", 0), "Q4_0", "no whole blocks"),
        (("tensors", "0.self_attn.q_proj.weight", 1), 193, "the span needs 154400"),
        (("tensors", "0.input_layernorm.weight"), ["F32", 2, 100], "not one row"),
        (("tensors", "cos"), ["F16", 320, 16], "20480 bytes; the span needs 10240"),
        (("tensors",), [], "tensors should be an object"),
        (("blocks",), [], "0 blocks, not 1"),
        (("blocks", 0, 0, "op"), "system", "the step system is unknown"),
        (("blocks", 0, 0, "y"), "nowhere", "no buffer nowhere"),
        (("blocks", 0, 1, "weight"), "0.mlp.up_proj.weight", "is 192 wide, not 500"),
        (("blocks", 0, 1, "weight"), "toString", "no tensor toString"),
        (("blocks", 0, 0, "epsilon"), "much", "much, not a number"),
    ],
)
def test_a_program_that_does_not_fit_is_refused(make: Any, path: Any, to: Any, words: str) -> None:
    async def run() -> None:
        writer = ProgramWriter(CONFIG, BlockRange(0, 1))
        async with closing(make()) as engine:
            weights = weights_of(random_weights(CONFIG, 0))
            for name, tensor in [*writer.constants(), *writer.pack_block(0, weights)]:
                await engine.add_tensor(name, tensor)
            program = change(json.loads(writer.graph()), *path, to=to)
            with pytest.raises(EngineError, match=words):
                await engine.build(program, writer.shape)

    asyncio.run(run())


def test_what_is_no_program_is_refused(make: Any) -> None:
    async def run() -> None:
        async with closing(make()) as engine:
            with pytest.raises(EngineError, match="it is no JSON"):
                await engine.build(b"\x08\x07", ProgramWriter(CONFIG, BlockRange(0, 1)).shape)

    asyncio.run(run())


def test_a_span_can_be_filled_after_one_that_was_refused(make: Any) -> None:
    async def run() -> None:
        reference = await fill(NumpyEngine())
        async with closing(await fill(make())) as engine:
            assert_close(
                await outputs_of(engine, hidden_states(2, 3)),
                await outputs_of(reference, hidden_states(2, 3)),
            )

    asyncio.run(run())


CASES = json.loads((HERE.parent / "vectors" / "architectures.json").read_text())["cases"]


@pytest.mark.parametrize("name", CASES)
def test_every_architecture_computes_what_hugging_face_computes(make: Any, name: str) -> None:
    """At once, in chunks and steps beyond the window, and with blocks left out."""

    async def run() -> None:
        case = Case.read(CASES[name])
        async with closing(make()) as engine:
            await case.fill(engine)
            whole, steps, one = [await engine.open_cache(1, 32, blocks) for blocks in (None, None, ONE)]
            at_once, first = await engine.run(whole, case.hidden), await engine.run(one, case.hidden)
            parts = [await engine.run(steps, part) for part in np.split(case.hidden, [6, 11, 12, 13], axis=1)]
        for found in (at_once, np.concatenate(parts, axis=1)):
            np.testing.assert_allclose(found, case.expected, rtol=0, atol=5e-5)
        async with closing(make()) as engine:
            await case.fill(engine, ONE)
            np.testing.assert_array_equal(await outputs_of(engine, case.hidden), first)

    asyncio.run(run())
