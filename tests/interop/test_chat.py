"""A page chats through a mixed chain: a tab, a stock petals server that listens on TCP only, and itself.

Real parts only: two Chromium processes, the relay with its open HOP as a process of its own, petals and p2pd.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from browser.tabs import open_tab
from browser.talking import ChatPage, generated, write_talking_model
from interop.running import free_port, petals_server, relay, tab

from kwaainet.native.chromium import Browser

PREFIX = "talking-llama"
TOKENS = 24
QUESTION = "What is it?"


def test_a_page_chats_through_a_tab_a_stock_server_and_itself(tmp_path: Path) -> None:
    model = write_talking_model(tmp_path / "talking")
    with (
        relay(tmp_path, "--model", model, "--prefix", PREFIX, "--open-hop-private") as ready,
        petals_server(tmp_path, model, PREFIX, "1:2", ready["tcp"], free_port()),
        tab(tmp_path, ready["http"], "--backend", "wasm", "--blocks", "0:1") as (_, first),
    ):
        asyncio.run(chat(model, ready, first["peer_id"]))


async def chat(model: Path, ready: dict[str, Any], first: str) -> None:
    """The page serves the last block and asks; three peers answer, and nothing tells them apart."""
    async with await Browser.launch() as browser:
        query = {"backend": "wasm", "blocks": "2:3", "max_tokens": str(TOKENS)}
        page = await open_tab(browser, ready["http"], **query)
        last = (await page.contribute())["peer_id"]
        chat = await ChatPage.of(page)
        answer = await chat.ask(QUESTION)
        hops = chat.chains()[-1]["hops"]
        assert [(hop["start"], hop["end"]) for hop in hops] == [(0, 1), (1, 2), (2, 3)]
        assert [hops[0]["peer"], hops[2]["peer"]] == [first, last]
        assert hops[1]["peer"] not in (first, last)
        assert answer == await generated(model, PREFIX, ready["tcp"], QUESTION, TOKENS)
        assert f"{hops[1]['peer'][-8:]}: block 1, through the relay" in await chat.text("chat-peers")
