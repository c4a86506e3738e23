"""web/examples, built from npm packages and served from another origin, under a strict policy.

Each one contributes a tab that answers the chat of the plain example.
"""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from browser.hosting import BUTTON, Host, frame_of, one_line, only_ours, shows, strict, visiting
from browser.talking import PREFIX, TALKING, generated
from interop.running import run_sdk_build

from kwaainet.native.chromium import Browser
from kwaainet.native.page import Page

QUESTION, TOKENS = "Hi", 16  # as in web/examples/vanilla
CLICK = BUTTON.format("start") + ".click()"
# What the host page gets of the frame's document and storage, and what is stored in its own name.
REACH = (
    "(async () => { const frame = document.querySelector('iframe'); let why = 'none';"
    "try { frame.contentWindow.indexedDB } catch (error) { why = error.name }"
    "return [frame.contentDocument, why, await indexedDB.databases(), localStorage.length] })()"
)
STATE = "document.querySelector('output').textContent"
# Of a greedy answer: the question in the template, a token a letter and special, and what was fed back.
COMPUTED = len(f".user\n{QUESTION}.\n.assistant\n") + TOKENS - 1
SAID = "globalThis.said = []; console.info = text => said.push(text)"
HEAR = "void addEventListener('kwaai-receipt', ({ detail }) => { globalThis.receipt = detail })"
RECEIPT = "globalThis.receipt === undefined ? '' : JSON.stringify(receipt)"


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_sdk_build(tmp_path_factory.mktemp("sdk")) / "examples"


async def contribute(page: Page, address: str) -> None:
    """Open an example and press its panel's button."""
    await page.goto(address)
    await shows(page, f"{BUTTON.format('start')}?.hidden", "False")
    await page.evaluate(CLICK)
    await shows(page, STATE, "serving")


async def ask(chat: Page) -> str:
    """The answer in the plain example."""
    await chat.evaluate(
        "delete document.querySelector('output').dataset.done; document.querySelector('button').click()"
    )
    await shows(chat, f"JSON.stringify([{STATE}, document.querySelector('output').dataset])", '"done":"true"')
    return str(await chat.evaluate(STATE))


def test_each_example_contributes_a_tab_that_answers_the_plain_one(
    talking_origin: dict[str, Any], examples: Path, talking_model: Path
) -> None:
    async def main() -> None:
        host = Host(strict(talking_origin), folder=examples, relay=talking_origin["http"])
        query = f"index.html?backend=wasm&relay={talking_origin['http']}"
        async with AsyncExitStack() as stack:
            await stack.enter_async_context(host.open())
            browser = await stack.enter_async_context(await Browser.launch())
            page, chat = [await browser.new_page(watch_network=True) for _ in range(2)]
            await chat.goto(f"{host.url}/vanilla/{query}")
            await contribute(page, f"{host.url}/react/{query}")
            answer = await ask(chat)
            assert answer == await generated(talking_model, PREFIX, talking_origin["tcp"], QUESTION, TOKENS)
            await contribute(page, f"{host.url}/vue/{query}")
            assert await ask(chat) == answer
            await contribute(page, f"{host.url}/svelte/{query}")
            assert await ask(chat) == answer
            await shows(page, "document.querySelector('p').textContent", f"{COMPUTED} tokens computed")
            for each in (page, chat):
                only_ours(each, host, talking_origin)

    asyncio.run(main())


def test_one_line_contributes_in_a_frame_of_the_relays_origin(
    talking_origin: dict[str, Any], examples: Path, talking_model: Path
) -> None:
    async def main() -> None:
        host = Host(one_line(talking_origin), folder=examples, relay=talking_origin["http"])
        async with visiting(host, "/script/index.html", SAID) as page:
            frame = await frame_of(page)
            asked = await page.evaluate_in(frame, "({ ...document.querySelector('kwaai-node').limits })")
            assert asked == {"duty": 0.5, "memoryBytes": 2048e6}
            assert page.workers == {}, "nothing runs before the visitor agrees"
            ignored = await page.evaluate("said")
            assert [text.split(" has no effect")[0] for text in ignored] == [
                f"KwaaiNet: data-{name}" for name in ("services", "privacy-compliant", "green-bonus")
            ], ignored
            assert "storage" in ignored[0], "by its name; compute applies"
            await page.evaluate_in(frame, CLICK)
            await shows(page, "document.querySelector('kwaai-node').status().state", "serving", frame)
            assert await page.evaluate(REACH) == [None, "SecurityError", [], 0], "its keys are out of reach"
            kept = "indexedDB.databases().then(all => all.map(({ name }) => name))"
            assert await page.evaluate_in(frame, kept) != [], "and there they are"
            asks = await page.evaluate("document.querySelector('iframe').allow")
            assert asks == "cross-origin-isolated; battery"
            await page.evaluate_in(frame, HEAR)
            assert await generated(talking_model, PREFIX, talking_origin["tcp"], QUESTION, TOKENS) != ""
            await shows(page, RECEIPT, "tokens", frame)
            receipt = json.loads(await page.evaluate_in(frame, RECEIPT))
            assert {name: receipt[name] for name in ("kind", "model", "blocks", "tokens")} == {
                "kind": "session",
                "model": PREFIX,
                "blocks": [0, TALKING.num_hidden_layers],
                "tokens": COMPUTED,
            }
            assert receipt["peer"].startswith("12D3KooW")
            assert "error" not in receipt, "it was asked to the end"
            assert min(receipt["bytesIn"], receipt["bytesOut"]) > COMPUTED * TALKING.hidden_size
            assert receipt["started"] < receipt["ended"]
            only_ours(page, host, talking_origin)

    asyncio.run(main())
