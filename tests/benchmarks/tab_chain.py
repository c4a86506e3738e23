"""What a token through two tabs costs a third: directly or by relay, steps pushed on or sent back between.

Two swarms of the same small model, one whose pages may use WebRTC and one whose pages may not, each with
two serving tabs in two browsers. Four pages chat in turns, each timing its answers from the first token to
the last. The model is tiny, so that the way is compared and not the engine.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import AsyncExitStack, ExitStack
from itertools import product
from pathlib import Path
from statistics import median

from browser.tabs import open_tab
from browser.talking import ChatPage, write_talking_model
from interop.running import relay

from kwaainet.native.chromium import Browser

from .report import Result, Row

PREFIX = "talking-llama"
SPANS = ("0:1", "1:3")
TOKENS = 48
QUESTION = "What is it?"
WAYS = {"auto": "WebRTC", "off": "circuit"}


def measure(folder: Path, rounds: int) -> Result:
    """Milliseconds a token, by way and push. Needs the headless Chromium."""
    model = write_talking_model(folder / "talking")
    with ExitStack() as stack:
        urls = {}
        for way in WAYS:
            place = folder / way
            place.mkdir()
            ready = stack.enter_context(relay(place, "--model", model, "--prefix", PREFIX))
            urls[way] = ready["http"]
        figures = asyncio.run(_chat(urls, rounds))
    return Result(_rows(figures), figures)


async def _chat(urls: dict[str, str], rounds: int) -> dict[str, list[float]]:
    """Milliseconds a token of each answer, by way and push, the first answer of each left out."""
    async with AsyncExitStack() as stack:
        browsers = [await stack.enter_async_context(await Browser.launch()) for _ in SPANS]
        pages: dict[str, ChatPage] = {}
        servers = [
            await open_tab(browser, url, backend="wasm", blocks=span, webrtc=way)
            for way, url in urls.items()
            for browser, span in zip(browsers, SPANS, strict=True)
        ]
        await asyncio.gather(*(server.contribute() for server in servers))
        for (way, url), push in product(urls.items(), ("on", "off")):
            query = {"webrtc": way, "push": push, "max_tokens": str(TOKENS)}
            pages[f"{WAYS[way]}, push {push}"] = await ChatPage.of(await open_tab(browsers[0], url, **query))
        figures: dict[str, list[float]] = {name: [] for name in pages}
        for turn in range(rounds + 1):
            for name, page in pages.items():
                time = await _answer(page)
                if turn > 0:
                    figures[name].append(time)
        return figures


async def _answer(page: ChatPage) -> float:
    """Milliseconds a token of one answer to the same question, as the page says it."""
    await page.page.evaluate("document.getElementById('chat-new').click()")
    await page.ask(QUESTION)
    rate = re.search(r"([\d.]+) tokens a second", await page.text("chat-status"))
    assert rate is not None, await page.text("chat-status")
    return 1e3 / float(rate[1])


def _rows(figures: dict[str, list[float]]) -> list[Row]:
    middle = {name: median(times) for name, times in figures.items()}
    slowest = "circuit, push off"
    return [
        Row(
            f"a token through two tabs, {name}",
            f"{middle[name]:.1f} ms",
            "" if name == slowest else f"{middle[slowest]:.1f} ms ({slowest})",
            None if name == slowest else middle[slowest] / middle[name],
        )
        for name in figures
    ]
