"""Multiaddrs: self-describing network addresses, as text and as bytes.

Follows the multiaddr spec and the protocol table of ``multiformats/multiaddr``. Rule of the file:
every protocol that today's go-libp2p and js-libp2p put into identify or kad is parsed, even where
nothing here can dial it, so that a foreign address is carried rather than choked on.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from dataclasses import dataclass

from ..errors import InputError, KwaaiNetError, ProtocolError
from ..types import PeerId
from ..wire import varint

MAX_MULTIADDR_SIZE = 1024  # a relayed WebTransport address with two certhashes takes about 200 bytes
MAX_PARTS = 32

_VARIABLE = -1
# name: (code, bytes of value; 0 = none, -1 = length-prefixed)
_PROTOCOLS: dict[str, tuple[int, int]] = {
    "ip4": (4, 4),
    "tcp": (6, 2),
    "dccp": (33, 2),
    "ip6": (41, 16),
    "ip6zone": (42, _VARIABLE),
    "ipcidr": (43, 1),
    "dns": (53, _VARIABLE),
    "dns4": (54, _VARIABLE),
    "dns6": (55, _VARIABLE),
    "dnsaddr": (56, _VARIABLE),
    "sctp": (132, 2),
    "udp": (273, 2),
    "p2p-webrtc-star": (275, 0),
    "p2p-webrtc-direct": (276, 0),
    "webrtc-direct": (280, 0),
    "webrtc": (281, 0),
    "p2p-circuit": (290, 0),
    "udt": (301, 0),
    "utp": (302, 0),
    "unix": (400, _VARIABLE),
    "p2p": (421, _VARIABLE),
    "https": (443, 0),
    "onion": (444, 12),
    "onion3": (445, 37),
    "garlic64": (446, _VARIABLE),
    "garlic32": (447, _VARIABLE),
    "tls": (448, 0),
    "sni": (449, _VARIABLE),
    "noise": (454, 0),
    "quic": (460, 0),
    "quic-v1": (461, 0),
    "webtransport": (465, 0),
    "certhash": (466, _VARIABLE),
    "ws": (477, 0),
    "wss": (478, 0),
    "p2p-websocket-star": (479, 0),
    "http": (480, 0),
    "http-path": (481, _VARIABLE),
    "memory": (777, 8),
}
_NAMES = {code: name for name, (code, _) in _PROTOCOLS.items()}
_ALIASES = {"ipfs": "p2p"}
_NUMBERS = {"tcp", "udp", "dccp", "sctp", "ipcidr", "memory"}
_TEXTS = {"dns", "dns4", "dns6", "dnsaddr", "ip6zone", "sni"}
_HOSTS = ("ip4", "ip6", "dns", "dns4", "dns6")


@dataclass(frozen=True, slots=True)
class Multiaddr:
    """A sequence of (protocol name, value as text); the value of e.g. ``ws`` is empty."""

    parts: tuple[tuple[str, str], ...]

    @classmethod
    def parse(cls, text: str) -> Multiaddr:
        """From ``/ip4/127.0.0.1/tcp/4001/ws``; ``InputError`` names the part that is wrong."""
        if not text.startswith("/") or len(text) > 2 * MAX_MULTIADDR_SIZE:
            raise InputError(f"{text[:80]!r} is not a multiaddr; give one such as /ip4/127.0.0.1/tcp/4001")
        words = text.rstrip("/").split("/")[1:]
        parts: list[tuple[str, str]] = []
        while words:
            name = words.pop(0)
            name = _ALIASES.get(name, name)
            if name not in _PROTOCOLS:
                raise InputError(f"{text[:200]!r} is not a multiaddr: {name[:40]!r} is not a known protocol")
            size = _PROTOCOLS[name][1]
            if size and not words:
                raise InputError(f"{text[:200]!r} is not a multiaddr: {name} needs a value after it")
            value = words.pop(0) if size else ""
            parts.append((name, _text_of(name, _bytes_of(name, value)) if size else ""))
        return cls(_checked(parts))

    @classmethod
    def decode(cls, data: bytes) -> Multiaddr:
        """From the binary form; ``ProtocolError`` for an unknown protocol or a cut-off value."""
        if len(data) > MAX_MULTIADDR_SIZE:
            raise ProtocolError(f"a multiaddr of {len(data)} bytes is over the {MAX_MULTIADDR_SIZE} allowed")
        parts: list[tuple[str, str]] = []
        offset = 0
        while offset < len(data):
            code, offset = varint.decode(data, offset)
            name = _NAMES.get(code)
            if name is None:
                raise ProtocolError(f"multiaddr {data[:64].hex()} has unknown protocol {code}")
            size = _PROTOCOLS[name][1]
            if size == _VARIABLE:
                size, offset = varint.decode(data, offset)
            if size > len(data) - offset:
                raise ProtocolError(f"multiaddr {data[:64].hex()} ends inside its {name}")
            value = data[offset : offset + size]
            offset += size
            try:
                parts.append((name, _text_of(name, value)))
            except InputError as error:
                raise ProtocolError(f"multiaddr {data[:64].hex()}: {error}") from error
        try:
            return cls(_checked(parts))
        except InputError as error:
            raise ProtocolError(str(error)) from error

    def encode(self) -> bytes:
        """The binary form, as identify, kad and circuit messages carry it."""
        out = bytearray()
        for name, text in self.parts:
            code, size = _PROTOCOLS[name]
            value = _bytes_of(name, text) if size else b""
            out += varint.encode(code)
            if size == _VARIABLE:
                out += varint.encode(len(value))
            out += value
        return bytes(out)

    def __str__(self) -> str:
        return "".join(f"/{name}/{value}" if value else f"/{name}" for name, value in self.parts)

    def __truediv__(self, other: Multiaddr | str) -> Multiaddr:
        """Encapsulate: ``address / "/p2p-circuit"``."""
        tail = Multiaddr.parse(other) if isinstance(other, str) else other
        return Multiaddr(self.parts + tail.parts)

    @property
    def names(self) -> tuple[str, ...]:
        """The protocol names, in order."""
        return tuple(name for name, _ in self.parts)

    @property
    def peer(self) -> PeerId | None:
        """The peer this address leads to (``None`` if it does not end in ``/p2p/...``)."""
        if self.parts and self.parts[-1][0] == "p2p":
            return PeerId.parse(self.parts[-1][1])
        return None

    def with_peer(self, peer: PeerId) -> Multiaddr:
        """The same address ending in ``/p2p/peer``."""
        return self if self.peer == peer else Multiaddr((*self.parts, ("p2p", str(peer))))

    def without_peer(self) -> Multiaddr:
        """The same address without a final ``/p2p/...``."""
        return Multiaddr(self.parts[:-1]) if self.peer is not None else self

    @property
    def is_circuit(self) -> bool:
        """Whether the way leads through a relay."""
        return "p2p-circuit" in self.names

    def split_circuit(self) -> tuple[Multiaddr, Multiaddr]:
        """(address of the relay, what follows its ``/p2p-circuit``); the last relay if several."""
        names = self.names
        if "p2p-circuit" not in names:
            raise InputError(f"{self} has no /p2p-circuit in it")
        at = len(names) - 1 - names[::-1].index("p2p-circuit")
        return Multiaddr(self.parts[:at]), Multiaddr(self.parts[at + 1 :])

    @property
    def transport(self) -> str | None:
        """``tcp``, ``ws`` or ``wss`` for an address that can be dialled directly, else ``None``."""
        names = tuple(name for name in self.without_peer().names if name != "sni")
        if len(names) < 2 or names[0] not in _HOSTS or names[1] != "tcp":
            return None
        kinds = {(): "tcp", ("ws",): "ws", ("wss",): "wss", ("tls", "ws"): "wss"}
        return kinds.get(names[2:])

    @property
    def host_port(self) -> tuple[str, int]:
        """(host, TCP port); ``InputError`` unless ``transport`` is set."""
        if self.transport is None:
            raise InputError(f"{self} is not a TCP or WebSocket address")
        return self.parts[0][1], int(self.parts[1][1])


def _checked(parts: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    if not 0 < len(parts) <= MAX_PARTS:
        raise InputError(f"a multiaddr has 1 to {MAX_PARTS} parts, this one {len(parts)}")
    return tuple(parts)


def _bytes_of(name: str, text: str) -> bytes:
    size = _PROTOCOLS[name][1]
    try:
        if name in ("ip4", "ip6"):
            return (ipaddress.IPv4Address if name == "ip4" else ipaddress.IPv6Address)(text).packed
        if name in _NUMBERS:
            return _number(text).to_bytes(size, "big")
        if name == "p2p":
            return PeerId.parse(text).data
        if name in _TEXTS:
            return text.encode()
        if text[:1] == "u":
            return base64.b64decode(text[1:] + "=" * (-len(text[1:]) % 4), b"-_", validate=True)
    except (ValueError, OverflowError, binascii.Error, KwaaiNetError) as error:
        raise InputError(f"{text[:80]!r} is not a value for /{name}: {error}") from error
    raise InputError(f"{text[:80]!r} is not a value for /{name}: multibase base64url (u...) is expected")


def _text_of(name: str, value: bytes) -> str:
    try:
        if name == "ip4":
            return str(ipaddress.IPv4Address(value))
        if name == "ip6":
            return str(ipaddress.IPv6Address(value))
        if name in _NUMBERS:
            return str(int.from_bytes(value, "big"))
        if name == "p2p":
            return str(PeerId(value))
        if name in _TEXTS:
            return _clean(value)
    except (ValueError, KwaaiNetError) as error:
        raise InputError(f"{value[:80].hex()} is not a value for /{name}: {error}") from error
    if not _PROTOCOLS[name][1]:
        return ""
    return "u" + base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def _clean(value: bytes) -> str:
    text = value.decode("ascii")
    if not text or "/" in text or not text.isprintable():
        raise ValueError("it is empty or has characters that no name has")
    return text


def _number(text: str) -> int:
    if not (text.isascii() and text.isdigit()):
        raise ValueError("a whole number is expected")
    return int(text)
