"""Certificates: read, checked, and replaced while connections go on.

Follows RFC 5280 (names and validity) and RFC 8737 (a challenge is answered by a certificate of its own).
Rule of the file: a certificate that cannot be served is refused in words and the one in use stays; a
connection keeps what it began with.
"""

from __future__ import annotations

import asyncio
import ipaddress
import itertools
import logging
import os
import socket
import ssl
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import NameOID

from ..errors import ConfigError
from ..libp2p.multiaddr import Multiaddr
from .client_hello import MAX_HELLO, hello_of

log = logging.getLogger(__name__)

WATCH_PERIOD = 10.0  # seconds between looks at the files
SOON = 14 * 86400.0  # seconds before its end from which on a certificate is warned of
MAX_FILE_BYTES = 1 << 20
HELLO_TIMEOUT = 10.0  # seconds for a first message to arrive, where it must be looked at
ACME_ALPN = "acme-tls/1"


@dataclass(frozen=True, slots=True)
class Certificate:
    """What a file says: the names it is for, and when (unix seconds)."""

    names: tuple[str, ...]
    not_before: float
    not_after: float

    @classmethod
    def read(cls, cert: Path, key: Path) -> Certificate:
        """Of a chain and its key in PEM; ``ConfigError`` says what is wrong with them."""
        try:
            chain = x509.load_pem_x509_certificates(_read("--tls-cert", cert))
        except ValueError as error:
            raise ConfigError(f"--tls-cert {cert} holds no certificate in PEM: {error}") from None
        secret = _read("--tls-key", key)
        try:
            private = load_pem_private_key(secret, None)
        except TypeError:
            raise ConfigError(
                f"--tls-key {key} is locked with a passphrase; give it without: openssl pkey -in {key}"
            ) from None
        except Exception as error:  # cryptography has several, one for each part that is unknown
            raise ConfigError(f"--tls-key {key} holds no private key in PEM: {error}") from None
        form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        if chain[0].public_key().public_bytes(*form) != private.public_key().public_bytes(*form):
            raise ConfigError(f"{key} is not the key of the first certificate in {cert}")
        for below, above in itertools.pairwise(chain):
            if below.issuer != above.subject:
                raise ConfigError(
                    f"the certificates in {cert} are out of order: {above.subject.rfc4514_string()} did not "
                    f"sign {below.subject.rfc4514_string()}; the server's own comes first"
                )
        return cls.of(chain[0])

    @classmethod
    def of(cls, leaf: x509.Certificate) -> Certificate:
        """What a certificate says."""
        begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
        return cls(tuple(_names(leaf)), begin.timestamp(), end.timestamp())

    def covers(self, host: str) -> bool:
        """Whether a browser takes it for ``host``, a name or an IP address."""
        host = host.lower().rstrip(".")
        parent = "*." + host.partition(".")[2]
        return host in self.names or ("." in host and not _is_ip(host) and parent in self.names)

    def check(self, addresses: Iterable[Multiaddr], now: float) -> None:
        """Raises ``ConfigError`` if it is not valid now, or not for a wss address among ``addresses``."""
        if not self.not_before <= now < self.not_after:
            when = f"from {_day(self.not_before)} to {_day(self.not_after)}"
            raise ConfigError(f"the certificate holds {when}, not now; renew it, or set the clock")
        for address in addresses:
            if address.transport == "wss" and not self.covers(host := address.host_port[0]):
                raise ConfigError(
                    f"the certificate is for {', '.join(self.names) or 'no name'}, not for {host} of "
                    f"{address}: browsers would refuse it; announce one of its names"
                )


class Tls:
    """The certificate in use and the context of new connections; ``reload`` replaces both.

    Raises ``ConfigError`` if the files cannot be used.
    """

    def __init__(self, cert: Path, key: Path) -> None:
        self._cert, self._key = cert, key
        self._seen = self._stamp()
        self.certificate = Certificate.read(cert, key)
        self.context = server_context(cert, key)
        self.challenges: Mapping[str, ssl.SSLContext] = {}  # by name, while an authority asks (RFC 8737)
        self.reloads = 0
        self.failed = ""  # why the files in place are not used, empty if they are

    def reload(self) -> bool:
        """Read the files anew; whether they are in use now. What is wrong with them is logged."""
        self._seen = self._stamp()
        try:
            certificate = Certificate.read(self._cert, self._key)
            certificate.check((), time.time())
            context = server_context(self._cert, self._key)
        except ConfigError as error:
            self.failed = str(error)
            log.error("the certificate in use stays: %s", error)
            return False
        self.certificate, self.context, self.failed = certificate, context, ""
        self.reloads += 1
        log.info(
            "the certificate for %s until %s is in use", _words(certificate), _day(certificate.not_after)
        )
        return True

    async def watch(self, period: float = WATCH_PERIOD) -> NoReturn:
        """Reload whenever the files change; warn each day of an end that is near."""
        warned = 0.0
        while True:
            if self._stamp() != self._seen:
                self.reload()
            left = self.certificate.not_after - time.time()
            if left < SOON and time.time() - warned >= 86400:
                warned = time.time()
                log.warning(
                    "the certificate for %s ends in %.1f days", _words(self.certificate), left / 86400
                )
            await asyncio.sleep(period)

    async def context_for(self, sock: socket.socket) -> ssl.SSLContext:
        """The context of a connection that has just come in; its first message is only looked at while a
        certificate authority may be asking. Raises ``OSError``, ``TimeoutError``."""
        if self.challenges:
            hello = hello_of(await _peek(sock))
            if hello is not None and ACME_ALPN in hello.protocols:
                return self.challenges.get(hello.name.lower(), self.context)
        return self.context

    def named(self, addresses: Iterable[Multiaddr]) -> list[Multiaddr]:
        """The addresses under which a browser takes the certificate: wss ones by its names."""
        found: dict[Multiaddr, None] = {}
        for address in addresses:
            if address.transport != "wss" or self.certificate.covers(address.parts[0][1]):
                found[address] = None
            else:
                kind = "dns6" if address.names[0] == "ip6" else "dns4"
                names = [name for name in self.certificate.names if not _is_ip(name) and "*" not in name]
                found |= dict.fromkeys(Multiaddr(((kind, name), *address.parts[1:])) for name in names)
        return list(found)

    def _stamp(self) -> tuple[object, ...]:
        return tuple(_stat(path) for path in (self._cert, self._key))


def server_context(cert: Path, key: Path, protocols: Iterable[str] = ("http/1.1",)) -> ssl.SSLContext:
    """A server's context with a certificate. ``ConfigError`` if OpenSSL refuses it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(list(protocols))
    try:
        context.load_cert_chain(cert, key, password=lambda: b"")
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"{cert} and {key} cannot be served: {error}") from None
    return context


def _read(flag: str, path: Path) -> bytes:
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ConfigError(f"{flag} {path} has over {MAX_FILE_BYTES} bytes and is no certificate or key")
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{flag} {path} cannot be read: {error.strerror}") from None


def _names(leaf: x509.Certificate) -> list[str]:
    """Of its subjectAltName, as browsers do; those of the subject alone count for nothing."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    hosts = [name.lower() for name in names.get_values_for_type(x509.DNSName)]
    return hosts + [str(address) for address in names.get_values_for_type(x509.IPAddress)]


def subject(leaf: x509.Certificate) -> str:
    """Whose certificate it is, for people."""
    common = leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return ", ".join(_names(leaf)) or (str(common[0].value) if common else "nobody")


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _stat(path: Path) -> tuple[int, ...]:
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_mtime_ns, found.st_size, found.st_ino


def _day(when: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(when))


def _words(certificate: Certificate) -> str:
    return ", ".join(certificate.names) or "no name"


async def _peek(sock: socket.socket) -> bytes:
    """The first message of a connection, left where it is; as much as there is after ``HELLO_TIMEOUT``."""
    data = b""
    deadline = asyncio.get_running_loop().time() + HELLO_TIMEOUT
    while not _is_whole(data) and asyncio.get_running_loop().time() < deadline:
        before = len(data)
        await _readable(sock)
        data = sock.recv(MAX_HELLO, socket.MSG_PEEK)
        if not data:
            break
        if len(data) == before:
            await asyncio.sleep(0.02)  # what is there already stays readable
    return data


def _is_whole(data: bytes) -> bool:
    return len(data) >= MAX_HELLO or (len(data) >= 5 and len(data) >= 5 + int.from_bytes(data[3:5], "big"))


async def _readable(sock: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def readable() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(sock.fileno(), readable)
    try:
        async with asyncio.timeout(HELLO_TIMEOUT):
            await ready
    finally:
        loop.remove_reader(sock.fileno())
