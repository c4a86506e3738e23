"""A real Chromium on a page that may, and on one whose relay is not there."""

import asyncio

import pytest

from kwaainet.errors import Ailment
from kwaainet.native.browser_probe import probe
from kwaainet.native.doctor import examine

from .doctored import patient, step


def test_a_browser_opens_the_relays_websocket() -> None:
    async def main() -> None:
        async with patient() as one:
            report = await examine(one.url, browser=True)
            assert report.reachable, report.why
            assert step(report, "browser").found.startswith("secure, isolated, ")
            assert step(report, "browser").found.endswith(", WebSocket")
            nobody = f"/ip4/127.0.0.1/tcp/9/ws/p2p/{one.host.peer_id}"
            with pytest.raises(Ailment, match="the browser refused or could not open the WebSocket"):
                await probe(one.url, nobody)
            with pytest.raises(Ailment, match=r"Chromium: the browser cannot open http://127\.0\.0\.1:9/"):
                await probe("http://127.0.0.1:9/", nobody)

    asyncio.run(asyncio.wait_for(main(), 120))
