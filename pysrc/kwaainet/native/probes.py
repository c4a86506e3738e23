"""What a browser's tab does to reach a relay, one piece at a time, with words for each way it can fail.

Rule of the file: a probe returns what it found in a line, or raises ``Ailment`` (or ``Warned``) with the
cause and a remedy; it leaves nothing behind on the relay that does not go within a minute.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import socket
import ssl
import time
from collections.abc import Iterable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import urlsplit

import aiohttp
from cryptography import x509

from ..errors import Ailment, ConfigError, KwaaiNetError
from ..identity.keys import PrivateKey
from ..libp2p.multiaddr import Multiaddr
from ..types import PeerId
from .host import NativeHost
from .openai_access import is_loopback
from .tls import SOON

MAX_PAGE = 1 << 20  # bytes of /kwaainet.json
SKEW_WARNED, SKEW_REFUSED = 1.5, 3.0  # seconds; the swarm refuses the second, and Date tells whole seconds
_SELF_SIGNED, _UNKNOWN, _EXPIRED, _EARLY, _NAME = (18, 19), (2, 20, 21), 10, 9, (62, 64)  # X509_V_ERR_*


class Warned(Ailment):
    """It works, but somebody should look at it; ``found`` is what was found."""

    def __init__(self, found: str, cause: str, remedy: str) -> None:
        super().__init__(cause, remedy)
        self.found = found


@dataclass(frozen=True, slots=True)
class Place:
    """A host and port, and whether TLS is spoken there."""

    host: str
    port: int
    secure: bool

    @classmethod
    def of_url(cls, url: str) -> Place:
        """Of a page. ``ConfigError`` if it is no http address."""
        try:
            parts = urlsplit(url)
            if parts.scheme in ("http", "https") and parts.hostname:
                secure = parts.scheme == "https"
                return cls(parts.hostname, parts.port or (443 if secure else 80), secure)
        except ValueError:
            pass
        raise ConfigError(f"{url!r:.200} is no address of a page; give for example https://relay.example/")

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(slots=True)
class Relay:
    """What is known of the relay so far, and the hosts that were made to try it."""

    stack: AsyncExitStack
    said: dict[str, Any] = field(default_factory=dict)
    date: tuple[float, float, float] | None = (
        None  # its clock; ours when the page was asked for, and when it came
    )
    address: str = ""
    direct: str = ""  # its WebRTC-Direct address, where that is the only way in
    guest: NativeHost | None = None  # connected to it
    tenant: NativeHost | None = None  # holds a slot

    @property
    def place(self) -> Place | None:
        """Where its WebSockets are."""
        if not self.address:
            return None
        address = Multiaddr.parse(self.address)
        return Place(*address.host_port, address.transport == "wss")

    @property
    def peer(self) -> PeerId:
        """Who it says it is."""
        peer = Multiaddr.parse(self.address).peer
        assert peer is not None
        return peer

    async def host(self, listen: str = "") -> NativeHost:
        """Another host, closed at the end."""
        made = await NativeHost.create(PrivateKey(os.urandom(32)), [listen] if listen else [])
        self.stack.push_async_callback(made.close)
        return made


async def resolve(place: Place) -> str:
    """The name, if it is one, has addresses."""
    try:
        found = await _addresses(place)
    except socket.gaierror as error:
        raise Ailment(
            f"the name {place.host} has no address: {error.strerror}",
            f"add an A record (and AAAA for IPv6) for {place.host}, and wait for old answers to expire",
        ) from None
    return " ".join(found)


async def connect(place: Place) -> str:
    """Something listens, on every address that the name has: a browser may try any."""
    worked, failed = [], {}
    for host in await _addresses(place):
        try:
            async with asyncio.timeout(5):
                _, writer = await asyncio.open_connection(host, place.port)
            writer.close()
            worked.append(host)
        except (OSError, TimeoutError) as error:
            failed[host] = _reason(error)
    why = "; ".join(f"{host}: {reason}" for host, reason in failed.items())
    if not worked:
        raise Ailment(
            f"nobody answers at port {place.port} of {place.host} ({why})",
            "start the relay, have it listen on 0.0.0.0 and [::], and open the port in the firewall",
        )
    if failed:
        remedy = "have the relay listen there too ([::] for IPv6), or remove that address from the name"
        raise Warned(" ".join(worked), f"not every address of the name answers ({why})", remedy)
    return " ".join(worked)


async def handshake(place: Place) -> str:
    """TLS, as strict as a browser's."""
    try:
        async with asyncio.timeout(10):
            _, writer = await asyncio.open_connection(
                place.host, place.port, ssl=ssl.create_default_context(), server_hostname=place.host
            )
    except ssl.SSLCertVerificationError as error:
        raise _certificate_ailment(place, error) from None
    except (OSError, TimeoutError) as error:
        raise Ailment(
            f"no TLS at {place}: {_reason(error)}",
            "give the relay --tls-cert and --tls-key or --acme, or a proxy in front of it a certificate",
        ) from None
    session = writer.get_extra_info("ssl_object")
    leaf = x509.load_der_x509_certificate(session.getpeercert(True))
    writer.close()
    days = (leaf.not_valid_after_utc.timestamp() - time.time()) / 86400
    found = f"{session.version()}, a certificate of {leaf.issuer.rfc4514_string()} for {days:.0f} more days"
    if days * 86400 < SOON:
        remedy = "see in the log why it was not renewed"
        raise Warned(found, f"the certificate ends in {days:.1f} days", remedy)
    return found


def _certificate_ailment(place: Place, error: ssl.SSLCertVerificationError) -> Ailment:
    code, said = error.verify_code, error.verify_message
    if code == _EXPIRED:
        return Ailment("the certificate has expired", "renew it; a relay with --acme says in its log why not")
    if code == _EARLY:
        return Ailment("the certificate is not valid yet", "set the clocks, of the relay and of this machine")
    if code in _NAME:
        remedy = f"get a certificate for {place.host}, or announce a name that the certificate has"
        return Ailment(f"the certificate is for another name: {said}", remedy)
    if code in _SELF_SIGNED:
        return Ailment(
            f"browsers do not trust who signed the certificate: {said}",
            "use one of a public authority (--acme); if --acme is on, its first certificate is still to come",
        )
    if code in _UNKNOWN:
        return Ailment(
            f"no chain leads from the certificate to an authority that is known here: {said}",
            "serve the whole chain (fullchain.pem), not the server's own certificate alone; an authority of "
            "your own must be made known to each browser, and to doctor by SSL_CERT_FILE",
        )
    return Ailment(f"browsers refuse the certificate: {said}", "use one of a public authority")


async def read_page(place: Place, relay: Relay) -> str:
    """The origin answers as a relay's."""
    url = f"{'https' if place.secure else 'http'}://{place}/"
    asked = time.time()
    try:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(15)) as session:
            connector_ssl: Any = ssl.create_default_context() if place.secure else False
            async with session.get(f"{url}kwaainet.json", ssl=connector_ssl) as answer:
                body = await answer.content.read(MAX_PAGE)
                relay.said = _json(answer, body, place)
                said = answer.headers.get("Date")
                date = parsedate_to_datetime(said).timestamp() if said else None
                relay.date = (date, asked, time.time()) if date is not None else None
            async with session.get(url, ssl=connector_ssl) as page:
                opener = page.headers.get("Cross-Origin-Opener-Policy", "")
                embedder = page.headers.get("Cross-Origin-Embedder-Policy", "")
                status = page.status
    except (aiohttp.ClientError, TimeoutError, ValueError) as error:
        remedy = "see the relay's log, and the proxy's"
        if isinstance(error, aiohttp.ServerDisconnectedError) and not place.secure:
            remedy = f"ask https://{place}/ if a certificate is served there; else {remedy}"
        raise Ailment(f"the page cannot be read: {error or 'no answer'}", remedy) from None
    if status != 200:
        raise Ailment(
            f"the page answers with {status}", "see whether a proxy in front passes / on to the relay"
        )
    if not place.secure and not is_loopback(place.host):
        raise Ailment(
            "the page is served by plain HTTP, where browsers give no threads, no storage and no WebGPU",
            "serve it by https: --tls-cert, --acme, or a proxy with a certificate (build/proxy)",
        )
    found = f"version {relay.said.get('version')}"
    if (opener, embedder) != ("same-origin", "require-corp"):
        raise Warned(
            found,
            "the page is not cross-origin isolated, so tabs have one thread",
            "have the proxy pass the headers Cross-Origin-Opener-Policy and -Embedder-Policy on",
        )
    return found


def _json(answer: aiohttp.ClientResponse, body: bytes, place: Place) -> dict[str, Any]:
    wrong = f"{place} is no relay: /kwaainet.json answers with {answer.status}"
    remedy = "give the address that the relay printed, or have the proxy pass everything on to it"
    if answer.status >= 500:
        raise Ailment(
            f"the page answers with {answer.status}: a proxy does not reach the relay", "start the relay"
        )
    try:
        said = json.loads(body)
    except ValueError:
        raise Ailment(wrong, remedy) from None
    if answer.status != 200 or not isinstance(said, dict) or not isinstance(said.get("relay"), list):
        raise Ailment(wrong, remedy)
    return said


async def compare_clocks(relay: Relay) -> str:
    """Hivemind refuses peers whose clock is over 3 s off."""
    if relay.date is None:
        remedy = "have the proxy pass the header Date on"
        raise Warned("", "the page does not say what time it is", remedy)
    theirs, asked, came = relay.date
    theirs += 0.5  # Date is cut to whole seconds
    skew = theirs - min(max(theirs, asked), came)  # how slowly the page came says nothing of clocks
    found = f"{skew:+.1f} s, give or take 0.5"
    if abs(skew) > SKEW_REFUSED:
        raise Ailment(
            f"its clock and ours differ by {skew:+.1f} s; the swarm refuses more than 3 s",
            "set both clocks: timedatectl set-ntp true",
        )
    if abs(skew) > SKEW_WARNED:
        raise Warned(found, "the clocks differ", "set both clocks: timedatectl set-ntp true")
    return found


async def choose_address(page: Place, relay: Relay) -> str:
    """The relay announces an address that a tab of this page may dial: a WebSocket, or else WebRTC-Direct."""
    told = [str(text) for text in relay.said["relay"]]
    named = [one for one in _parsed(told) if one.peer is not None]
    sockets = [one for one in named if one.transport in (("wss",) if page.secure else ("ws", "wss"))]
    usable = sockets or [one for one in named if "certhash" in one.names]
    if not usable:
        wanted = "wss address, as pages under https need" if page.secure else "WebSocket address"
        raise Ailment(
            f"the relay announces no {wanted}: {' '.join(told) or 'nothing'}",
            f"give the relay --announce {_wished(page)}",
        )
    elsewhere = not is_loopback(page.host)
    public = [one for one in usable if not (elsewhere and is_loopback(one.parts[0][1]))]
    if not public:
        raise Ailment(
            f"the relay announces itself at its own machine only: {usable[0]}",
            f"give the relay --announce {_wished(page)}, and --listen to fit",
        )
    best = next((one for one in public if one.parts[0][1] == page.host), public[0])
    if sockets:
        relay.address = str(best)
    else:
        relay.direct = str(best)
    return str(best)


def _parsed(told: Iterable[str]) -> Iterator[Multiaddr]:
    for text in told:
        try:
            yield Multiaddr.parse(text)
        except KwaaiNetError:
            continue


async def upgrade(relay: Relay) -> str:
    """A WebSocket's handshake, by hand, so that what answers instead can be told."""
    place = relay.place
    assert place is not None
    context = ssl.create_default_context() if place.secure else None
    key = base64.b64encode(os.urandom(16)).decode()
    request = f"GET / HTTP/1.1\r\nHost: {place}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    request += f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\r\n"
    try:
        reader, writer = await asyncio.open_connection(place.host, place.port, ssl=context)
        writer.write(request.encode())
        line = (await reader.readline()).decode("latin-1").strip()
        writer.close()
    except (OSError, ValueError) as error:
        raise Ailment(f"no WebSocket at {place}: {_reason(error)}", "see what listens there") from None
    words = line.split(" ", 2)
    if words[:2] == ["HTTP/1.1", "101"]:
        return "101"
    answered = " ".join(words[1:]) if line.startswith("HTTP/") else "no HTTP" if line else "nothing"
    raise Ailment(
        f"{place} answers {answered} to a WebSocket",
        "have the proxy pass Upgrade on (build/proxy/nginx.conf), to a port with /ws in --listen",
    )


def _wished(page: Place) -> str:
    """What a relay should announce so that this page can dial it."""
    name = "/dns4/relay.example" if is_loopback(page.host) else f"/dns4/{page.host}"
    return f"{name}/tcp/443/tls/ws"


async def _addresses(place: Place) -> list[str]:
    rows = await asyncio.get_running_loop().getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(row[4][0]) for row in rows))


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError) and not error.args:
        return "no answer, as behind a firewall that drops"
    return str(getattr(error, "strerror", None) or error or type(error).__name__)
