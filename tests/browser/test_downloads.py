"""Downloads in a real browser that go wrong: a cut line, wrong bytes, no room, and room that others have."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from browser.peers import PREFIX, expected, hidden_states, joined
from browser.tabs import PATIENCE, POLL, Tab, eventually, open_tab
from interop.running import relay

from kwaainet.native.chromium import Browser
from kwaainet.native.model import open_model
from kwaainet.native.publish import publish

CUT = 1_000_000  # bytes of a block's file before which the line breaks,
PIECE = 501  # inside a tensor, and mostly of a number; a browser has 100 s to tell of the first

# One block after the other on a budget for two; what is kept, as the SDK tells, used last first.
TAKE_TURNS = """
(async () => {
  const { cacheEntries, createNode } = await import('/sdk/index.js')
  const kept = async () => (await cacheEntries()).map(({ block }) => block)
  for (const block of [0, 1, 2]) {
    const blocks = `${block}:${block + 1}`
    const node = createNode({ relay: location.origin, backend: 'wasm', blocks, cacheBytes: 3_500_000 })
    await node.start()
    while ((await kept())[0] !== block) await new Promise(resolve => setTimeout(resolve, 50))
    await node.stop()
  }
  return await kept()
})()
"""


class BadHost:
    """Serves ranges; the first answer of each of ``cut`` ends early, of each of ``spoilt`` is wrong."""

    def __init__(self, folder: Path, cut: set[str], spoilt: set[str]) -> None:
        self._folder, self._cut, self._spoilt = folder, cut, spoilt
        self.asked: list[tuple[str, int, int]] = []  # file, first byte, bytes
        self.arrived: Callable[[], bool] = lambda: False  # whether bytes of what is to be cut have

    async def answer(self, request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        if not (self._folder / name).is_file():
            raise web.HTTPNotFound
        whole = (self._folder / name).read_bytes()
        headers = {"Access-Control-Allow-Origin": "*", "Access-Control-Allow-Headers": "Range"}
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", request.headers.get("Range", ""))
        if found is None:
            return web.Response(body=b"" if request.method == "OPTIONS" else whole, headers=headers)
        first, last = int(found[1]), int(found[2])
        data = bytearray(whole[first : last + 1])
        self.asked.append((name, first, len(data)))
        headers["Content-Range"] = f"bytes {first}-{last}/{len(whole)}"
        if name in self._spoilt:
            self._spoilt.remove(name)
            data[len(data) // 2] ^= 1
        response = web.StreamResponse(status=206, headers=headers)
        response.content_length = len(data)
        await response.prepare(request)
        if name in self._cut and len(data) > CUT:
            self._cut.remove(name)
            for at in range(0, CUT, PIECE):  # until the browser says that something has come
                await response.write(data[at : at + PIECE])
                if self.arrived():
                    break
                await asyncio.sleep(POLL)
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(data)
        return response

    async def serve(self, stack: AsyncExitStack) -> str:
        """Until the stack ends; its address."""
        app = web.Application()
        app.router.add_route("*", "/{name}", self.answer)
        runner = web.AppRunner(app)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}/"


def _weights_have_come(tab: Tab) -> bool:
    told = [
        event["done"] for event in tab.events if event["event"] == "progress" and event["stage"] == "weights"
    ]
    return bool(told) and told[-1] > told[0]


async def load_from(host: BadHost, processes: ExitStack, base: Path, model: Path) -> None:
    async with AsyncExitStack() as stack:
        url = await host.serve(stack)
        running = relay(base, "--model-url", url, "--prefix", PREFIX)
        ready: dict[str, Any] = await asyncio.to_thread(processes.enter_context, running)
        browser = await stack.enter_async_context(await Browser.launch())
        tab = await open_tab(browser, ready["http"], backend="wasm")
        host.arrived = lambda: _weights_have_come(tab)
        server = (await tab.contribute())["peer_id"]
        peer = await stack.enter_async_context(joined(ready["tcp"]))
        hidden = hidden_states(1, 5)
        session = await peer.session(server)
        assert np.abs(await session.step(hidden) - await expected(model, hidden)).max() < 1e-3
        await tab.stop()


def test_a_cut_download_goes_on_inside_a_tensor_and_wrong_bytes_are_fetched_again(
    small_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = tmp_path / "files"
    publish(open_model(small_model, name=PREFIX), files, lambda progress: None, parts=0)
    cut, spoilt, sound = sorted(path.name for path in files.glob("blocks-*.bin"))
    host = BadHost(files, {cut}, {spoilt})
    with ExitStack() as processes:
        work = load_from(host, processes, tmp_path, small_model)
        asyncio.run(asyncio.wait_for(work, 2 * PATIENCE))
    asked = {
        name: [(first, size) for one, first, size in host.asked if one == name]
        for name in (cut, spoilt, sound)
    }
    size = (files / cut).stat().st_size
    (_, first_size), (second, second_size) = asked[cut]
    assert (first_size, second + second_size) == (size, size)
    assert 0 < second <= CUT, "what had come is not asked for again"
    (_, whole), (first, again), *rest = asked[spoilt]
    assert rest == []
    assert 0 < first <= whole // 2 < first + again, "what came before the wrong tensor is not fetched again"
    assert "fetching it again" in caplog.text
    assert asked[sound] == [(0, (files / sound).stat().st_size)]


def test_no_room_is_explained_with_what_it_means(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            tab = await open_tab(browser, origin["http"], backend="wasm")
            quota = {"origin": origin["http"].rstrip("/"), "quotaSize": 2_000_000}
            await tab.page.command("Storage.overrideQuotaForOrigin", quota)
            await tab.contribute()
            told = await tab.until("storage")
            assert not told["kept"]
            # its estimate stays as it was: it is the writing that fails
            refused = r"the browser refused to keep them \(.*gives [\d.]+ MB for the 4\.6 MB"
            assert re.search(refused, told["message"]), told["message"]

            async def read() -> bool:
                return "each start loads them again" in str(
                    await tab.page.evaluate("document.body.innerText")
                )

            await eventually(read)
            await tab.stop()

    asyncio.run(main())


def test_the_block_used_longest_ago_makes_room_for_the_next(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            tab = await open_tab(browser, origin["http"])
            assert await tab.page.evaluate(TAKE_TURNS, timeout=2 * PATIENCE) == [2, 1]
            await tab.page.reload()
            await tab.reads("kept-models", "2 blocks")

    asyncio.run(main())
