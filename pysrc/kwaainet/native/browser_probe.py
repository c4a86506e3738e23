"""The same in a real Chromium: does the page load as it should, and may it open the relay's WebSocket.

Rule of the file: the page's own origin, policy and trust decide; nothing of the browser is loosened.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..errors import Ailment, LocalError
from ..libp2p.multiaddr import Multiaddr
from .chromium import Browser

# A WebSocket from the page; multistream's greeting comes back from whoever speaks libp2p.
SCRIPT = """new Promise((resolve) => {
  const told = { secure: isSecureContext, isolated: crossOriginIsolated, gpu: 'gpu' in navigator }
  const end = (relay) => resolve({ ...told, relay })
  try {
    const socket = new WebSocket(URL_HERE)
    socket.binaryType = 'arraybuffer'
    setTimeout(() => end('no answer within 15 s'), 15000)
    socket.onerror = () => end('the browser refused or could not open the WebSocket')
    socket.onclose = (event) => end(`closed with ${event.code}`)
    socket.onopen = () => socket.send(new TextEncoder().encode('\\x13/multistream/1.0.0\\n'))
    socket.onmessage = ({ data }) => {
      socket.onclose = null
      socket.close()
      end(new TextDecoder().decode(data).includes('/multistream/1.0.0') ? 'ok' : 'it does not speak libp2p')
    }
  } catch (error) { end(String(error)) }
})"""


async def probe(url: str, address: str, flags: Sequence[str] = ()) -> str:
    """What the browser says, or an ``Ailment``. ``ConfigError`` without a browser."""
    target = Multiaddr.parse(address)
    host, port = target.host_port
    shown = f"[{host}]" if ":" in host else host
    script = SCRIPT.replace("URL_HERE", json.dumps(f"{target.transport}://{shown}:{port}/"))
    async with await Browser.launch(flags=flags) as browser:
        page = await browser.new_page()
        try:
            await page.goto(url)
            told: dict[str, Any] = await page.evaluate(script)
        except LocalError as error:
            raise Ailment(
                f"Chromium: {error}", "open the page by hand and read the browser's own words"
            ) from None
    if told["relay"] != "ok":
        raise Ailment(
            f"the page opens in Chromium, its WebSocket does not: {told['relay']}",
            "an https page needs a wss address with a certificate that the browser trusts",
        )
    if not told["secure"]:
        raise Ailment("Chromium gives the page no secure context", "serve it by https")
    parts = ["secure", "isolated" if told["isolated"] else "not isolated: one thread"]
    return ", ".join([*parts, "WebGPU" if told["gpu"] else "no WebGPU", "WebSocket"])
