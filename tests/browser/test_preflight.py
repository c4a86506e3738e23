"""Whatever this browser lacks, the page says so before the click, and how to mend it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from browser.tabs import Tab, open_tab

from kwaainet.native.chromium import Browser

LACKS = {
    "the graphics card": (
        "Object.defineProperty(navigator, 'gpu', { value: undefined })",
        "graphics card (WebGPU): no. This browser has no WebGPU",
        "switch on hardware acceleration",
    ),
    "room": (
        "StorageManager.prototype.estimate = async () => ({ quota: 1e6, usage: 0 })",
        "room to keep weights: no.",
        "free space on the disk, leave a private window",
    ),
    "the relay": (
        "globalThis.WebSocket = class { constructor () { setTimeout(() => this.onerror()) } close () {} }",
        "relay: no. Its WebSocket cannot be reached.",
        "Try another network, or switch off the proxy, VPN or filter",
    ),
    "JSPI": (
        "delete WebAssembly.Suspending",
        "suspending WebAssembly (JSPI): no.",
        "it works without. A current Chrome or Edge has it",
    ),
    "isolation": (
        "Object.defineProperty(globalThis, 'crossOriginIsolated', { value: false })",
        "several threads: no. The page is not isolated",
        "must pass the headers Cross-Origin-Opener-Policy",
    ),
    "memory": (
        "Object.defineProperty(navigator, 'deviceMemory', { value: 0.001 })",
        "memory for all blocks: no.",
        "add ?blocks=auto:8 to the address",
    ),
    "WebRTC": (
        "delete globalThis.RTCPeerConnection",
        "direct connections (WebRTC): no.",
        "Allow WebRTC in the settings",
    ),
}
NEEDED = {
    "WebAssembly SIMD": ("WebAssembly.validate = () => false", "Use a current browser"),
    "locks": (
        "Object.defineProperty(Navigator.prototype, 'locks', { value: undefined }); "
        "delete Navigator.prototype.locks",
        "without Web Locks two tabs would fight",
    ),
}


async def looked_at(browser: Browser, url: str, first: str) -> tuple[Tab, str]:
    """A page whose browser is changed first, and what its checks say."""
    tab = await open_tab(browser, url, first=first)
    await tab.reads("preflight-summary", "This browser can")
    await tab.page.evaluate("document.getElementById('preflight').open = true")
    return tab, await tab.text("checks")


def test_everything_that_is_missing_is_named_with_its_fix(origin: dict[str, Any]) -> None:
    async def main() -> None:
        async with await Browser.launch() as browser:
            _, said = await looked_at(browser, origin["http"], "")
            for what, (_, missing, _) in LACKS.items():
                assert missing not in said, what
            every = ";".join(change for change, _, _ in LACKS.values())
            tab, said = await looked_at(browser, origin["http"], every)
            for what, (_, missing, fix) in LACKS.items():
                assert missing in said, what
                assert fix in said, what
            summary = await tab.text("preflight-summary")
            assert "This browser can contribute with its processor (WASM)" in summary
            assert not await tab.page.evaluate("document.getElementById('contribute').disabled")

    asyncio.run(main())


@pytest.mark.parametrize("what", NEEDED)
def test_what_cannot_be_done_without_leaves_nothing_to_click(origin: dict[str, Any], what: str) -> None:
    change, fix = NEEDED[what]

    async def main() -> None:
        async with await Browser.launch() as browser:
            tab, said = await looked_at(browser, origin["http"], change)
            assert await tab.text("preflight-summary") == "This browser cannot contribute."
            assert fix in said
            assert await tab.page.evaluate("document.getElementById('contribute').disabled")

    asyncio.run(main())
