"""The same in a real Chromium: does the page load as it should, and may it reach the relay from there.

Rule of the file: the page's own origin, policy and trust decide; nothing of the browser is loosened.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode
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


# WebRTC-Direct from the page, both descriptions made up from the address; the relay says noise's first word.
DIRECT_SCRIPT = """new Promise(async (resolve) => {
  const told = { secure: isSecureContext, isolated: crossOriginIsolated, gpu: 'gpu' in navigator }
  const connection = new RTCPeerConnection()
  const end = (relay) => { connection.close(); resolve({ ...told, relay }) }
  setTimeout(() => end(`no answer within 15 s (${connection.connectionState})`), 15000)
  connection.onconnectionstatechange = () => {
    if (connection.connectionState === 'failed') end('no connection, or another certificate')
  }
  try {
    const channel = connection.createDataChannel('', { negotiated: true, id: 0 })
    channel.binaryType = 'arraybuffer'
    channel.onmessage = ({ data }) => end(data.byteLength >= 32 ? 'ok' : 'it does not speak libp2p')
    const ufrag = `libp2p+webrtc+v1/${crypto.randomUUID().replaceAll('-', '')}`
    const offer = await connection.createOffer()
    const sdp = offer.sdp.replace(/a=ice-ufrag:.*/g, `a=ice-ufrag:${ufrag}`)
      .replace(/a=ice-pwd:.*/g, `a=ice-pwd:${ufrag}`)
    await connection.setLocalDescription({ type: 'offer', sdp })
    await connection.setRemoteDescription({ type: 'answer', sdp: ANSWER_HERE.replaceAll('UFRAG', ufrag) })
  } catch (error) { end(String(error)) }
})"""
ANSWER = """v=0\r
o=- 0 0 IN {family} {host}\r
s=-\r
c=IN {family} {host}\r
t=0 0\r
a=ice-lite\r
m=application {port} UDP/DTLS/SCTP webrtc-datachannel\r
a=mid:0\r
a=setup:passive\r
a=ice-ufrag:UFRAG\r
a=ice-pwd:UFRAG\r
a=fingerprint:SHA-256 {fingerprint}\r
a=sctp-port:5000\r
a=max-message-size:16384\r
a=candidate:1 1 UDP 1 {host} {port} typ host\r
a=end-of-candidates\r
"""


async def probe(url: str, address: str, flags: Sequence[str] = ()) -> str:
    """What the browser says, or an ``Ailment``. ``ConfigError`` without a browser."""
    target = Multiaddr.parse(address)
    way = "WebRTC-Direct" if target.transport is None else "WebSocket"
    async with await Browser.launch(flags=flags) as browser:
        page = await browser.new_page()
        try:
            await page.goto(url)
            told: dict[str, Any] = await page.evaluate(_script(target))
        except LocalError as error:
            raise Ailment(
                f"Chromium: {error}", "open the page by hand and read the browser's own words"
            ) from None
    if told["relay"] != "ok":
        raise Ailment(
            f"the page opens in Chromium, its {way} does not: {told['relay']}",
            "an https page needs a wss address with a certificate that the browser trusts"
            if way == "WebSocket"
            else "the address must have the certhash of the certificate that the relay has now",
        )
    if not told["secure"]:
        raise Ailment("Chromium gives the page no secure context", "serve it by https")
    parts = ["secure", "isolated" if told["isolated"] else "not isolated: one thread"]
    return ", ".join([*parts, "WebGPU" if told["gpu"] else "no WebGPU", way])


def _script(target: Multiaddr) -> str:
    if target.transport is None:
        return DIRECT_SCRIPT.replace("ANSWER_HERE", json.dumps(_answer(target)))
    host, port = target.host_port
    shown = f"[{host}]" if ":" in host else host
    return SCRIPT.replace("URL_HERE", json.dumps(f"{target.transport}://{shown}:{port}/"))


def _answer(target: Multiaddr) -> str:
    """What the relay would answer, if it were asked: all of it stands in its address."""
    (family, host), (_, port) = target.parts[:2]
    hashed = dict(target.parts)["certhash"][1:]
    digest = urlsafe_b64decode(hashed + "=" * (-len(hashed) % 4))[2:]
    return ANSWER.format(
        family="IP6" if family == "ip6" else "IP4",
        host=host,
        port=port,
        fingerprint=digest.hex(":").upper(),
    )
