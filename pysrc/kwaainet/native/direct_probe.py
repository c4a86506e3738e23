"""Whether a WebRTC-Direct listener answers: a STUN check as a browser's first datagram, made by hand.

Follows RFC 8489 (binding request, MESSAGE-INTEGRITY, FINGERPRINT) and the libp2p spec
``webrtc/webrtc-direct.md`` (name and password are one). aiortc is not needed. Rule of the file: as
``probes``; what is behind the check, DTLS and noise, only a browser speaks, see ``browser_probe``.
"""

from __future__ import annotations

import asyncio
import hmac
import os
import struct
import time
import zlib

from ..errors import Ailment
from ..libp2p.multiaddr import Multiaddr
from .probes import Warned

TRIES, PAUSE = 5, 0.6  # datagrams may be lost
_HEADER = struct.Struct(">HHI12s")
_REQUEST, _RESPONSE, _COOKIE = 0x0001, 0x0101, 0x2112A442
_USERNAME, _INTEGRITY, _FINGERPRINT = 0x0006, 0x0008, 0x8028
_UFRAG = "libp2p+webrtc+v1/"


def binding_request(transaction: bytes, ufrag: str) -> bytes:
    """The check of a peer whose name and password are ``ufrag``; ``transaction``: 12 bytes."""
    name = f"{ufrag}:{ufrag}".encode()
    body = struct.pack(">HH", _USERNAME, len(name)) + name + bytes(-len(name) % 4)

    def headed(more: int) -> bytes:
        return _HEADER.pack(_REQUEST, len(body) + more, _COOKIE, transaction) + body

    proof = hmac.digest(ufrag.encode(), headed(24), "sha1")
    body += struct.pack(">HH", _INTEGRITY, len(proof)) + proof
    mark = zlib.crc32(headed(8)) ^ 0x5354554E
    body += struct.pack(">HHI", _FINGERPRINT, 4, mark)
    return headed(0)


async def knock(address: str, *, looked_into: bool) -> str:
    """The listener answers over UDP. ``looked_into``: a browser will try what is behind it."""
    host, port = Multiaddr.parse(address).parts[0][1], int(Multiaddr.parse(address).parts[1][1])
    began = time.monotonic()
    if not await _answers(host, port):
        raise Ailment(
            f"nothing answers at UDP port {port} of {host}, or a firewall drops it",
            "open the port for UDP in the firewall; a relay behind a NAT needs it forwarded",
        )
    found = f"{address} answers in {1000 * (time.monotonic() - began):.0f} ms"
    if not looked_into:
        raise Warned(
            found,
            "what is behind it (DTLS, noise, slot, circuit, DHT) was not tried: only browsers speak WebRTC",
            "kwaainet doctor --browser",
        )
    return found


async def _answers(host: str, port: int) -> bool:
    transaction, answered = os.urandom(12), asyncio.Event()

    class Listener(asyncio.DatagramProtocol):
        def datagram_received(self, data: bytes, addr: object) -> None:
            if len(data) >= _HEADER.size:
                kind, _, cookie, about = _HEADER.unpack_from(data)
                if (kind, cookie, about) == (_RESPONSE, _COOKIE, transaction):
                    answered.set()

    loop = asyncio.get_running_loop()
    try:
        transport, _ = await loop.create_datagram_endpoint(Listener, remote_addr=(host, port))
    except OSError:
        return False
    request = binding_request(transaction, _UFRAG + os.urandom(8).hex())
    try:
        for _ in range(TRIES):
            transport.sendto(request)
            try:
                async with asyncio.timeout(PAUSE):
                    await answered.wait()
                    return True
            except TimeoutError:
                continue
        return False
    finally:
        transport.close()
