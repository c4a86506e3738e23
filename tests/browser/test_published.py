"""Tabs fetch their blocks from a host of files that is not the relay; once it is gone, from each other."""

from __future__ import annotations

import asyncio
import shutil
from contextlib import AsyncExitStack, ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from aiohttp import web
from browser.peers import PREFIX, expected, hidden_states, joined
from browser.tabs import PATIENCE, open_tab
from interop.running import relay

from kwaainet.native.chromium import Browser
from kwaainet.native.model import open_model
from kwaainet.native.publish import publish


async def allow(request: web.Request, response: web.StreamResponse) -> None:
    response.headers["Access-Control-Allow-Origin"] = "*"


async def host_files(stack: AsyncExitStack, folder: Path) -> str:
    """Any static host that serves ranges and lets other origins read; its address."""
    app = web.Application()
    app.router.add_static("/models/", folder)
    app.on_response_prepare.append(allow)
    runner = web.AppRunner(app)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    return f"http://127.0.0.1:{runner.addresses[0][1]}/models/"


async def fetch_and_borrow(processes: ExitStack, base: Path, files: Path, model: Path) -> None:
    async with AsyncExitStack() as stack:
        url = await host_files(stack, files)
        running = relay(base, "--model-url", url, "--prefix", PREFIX)
        ready: dict[str, Any] = await asyncio.to_thread(processes.enter_context, running)
        first, second = [await stack.enter_async_context(await Browser.launch()) for _ in range(2)]
        one = await open_tab(first, ready["http"], backend="wasm")
        await one.contribute()
        assert {address for address in one.page.requests if "/blocks-" in address} == {
            f"{url}{path.name}" for path in files.glob("blocks-*.bin")
        }
        shutil.rmtree(files)  # from now on there is nothing there
        two = await open_tab(second, ready["http"], backend="wasm")
        server = (await two.contribute())["peer_id"]
        await one.stop()
        peer = await stack.enter_async_context(joined(ready["tcp"]))
        hidden = hidden_states(1, 5)
        session = await peer.session(server)
        assert np.abs(await session.step(hidden) - await expected(model, hidden)).max() < 1e-3


def test_a_second_tab_borrows_from_the_first(small_model: Path, tmp_path: Path) -> None:
    files = tmp_path / "files"
    publish(open_model(small_model, name=PREFIX), files, lambda progress: None, parts=0)
    with ExitStack() as processes:
        work = fetch_and_borrow(processes, tmp_path, files, small_model)
        asyncio.run(asyncio.wait_for(work, 2 * PATIENCE))
