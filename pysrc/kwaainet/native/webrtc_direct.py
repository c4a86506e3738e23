"""WebRTC-Direct: browsers reach a relay over UDP without a certificate of any authority.

Follows the libp2p spec ``webrtc/webrtc-direct.md``: the address has the hash of our certificate, the browser
makes both descriptions up, we answer its STUN checks as ICE-lite, DTLS and SCTP are aiortc's, and noise on
channel 0 proves who both sides are. Rule of the file: nothing is kept for an address that has not passed a
STUN check, and whoever is silent is forgotten.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from base64 import urlsafe_b64encode
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from aioice import stun
from aiortc import RTCCertificate, RTCDtlsTransport, RTCSctpTransport
from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcdtlstransport import SRTP_PROFILES, RTCDtlsFingerprint, RTCDtlsParameters
from aiortc.rtcsctptransport import RTCSctpCapabilities
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from ..errors import CapacityError, ConfigError, InputError, KwaaiNetError, Unreachable
from ..identity.keys import peer_id
from ..libp2p.channels import (
    CLOSE,
    FRAME,
    MAX_MESSAGE,
    OPEN,
    ChannelHandshake,
    DirectConnection,
    fingerprint_hash,
    prologue,
)
from ..libp2p.multiaddr import Multiaddr
from .link import Link
from .network import Network

log = logging.getLogger(__name__)

UFRAG = "libp2p+webrtc+v1/"
MAX_SESSIONS = 512  # aiortc is Python: about a core for 100 busy ones
MAX_OPENING = 64  # of them that have not proved who they are
OPEN_TIMEOUT = 15.0  # seconds until noise is through
SILENCE = 30.0  # seconds without a STUN check (browsers send one every few seconds) after which one is gone
MAX_WAITING = 256  # datagrams of one session that are not handled yet
HIGH_WATER = 1 << 20  # bytes SCTP holds at which the link is paused
SCTP_PORT = 5000
LIFETIME = timedelta(days=3650)  # nobody checks it: the address has its hash


def load_certificate(path: Path | None) -> RTCCertificate:
    """The certificate kept at ``path``, made if there is none, so that the address survives restarts.
    ``ConfigError`` if it cannot be kept."""
    try:
        if path is not None and path.exists():
            data = path.read_bytes()
            key = cast(ec.EllipticCurvePrivateKey, load_pem_private_key(data, None))
            return RTCCertificate(key=key, cert=x509.load_pem_x509_certificate(data))
        made = _make()
        if path is not None:
            pem = made._key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            path.touch(mode=0o600)
            path.write_bytes(pem + made._cert.public_bytes(Encoding.PEM))
        return made
    except (OSError, ValueError) as error:
        raise ConfigError(f"the WebRTC certificate {path} cannot be used: {error}; remove it") from None


def _make() -> RTCCertificate:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "kwaainet")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + LIFETIME)
    return RTCCertificate(key=key, cert=builder.sign(key, hashes.SHA256()))


def digest_of(certificate: x509.Certificate) -> bytes:
    """Its SHA-256, of which fingerprint, certhash and prologue are made."""
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).digest()


def certhash(certificate: RTCCertificate) -> str:
    """As it stands in the address."""
    return "u" + urlsafe_b64encode(fingerprint_hash(digest_of(certificate._cert))).rstrip(b"=").decode()


class DirectListener(asyncio.DatagramProtocol):
    """One UDP port; ``address`` is ours, with the certhash."""

    def __init__(self, network: Network, certificate: RTCCertificate, family: str) -> None:
        self.network, self.certificate, self._family = network, certificate, family
        self._sessions: dict[Any, _Session] = {}
        self._transport: asyncio.DatagramTransport | None = None
        self.address = Multiaddr(((family, "0.0.0.0" if family == "ip4" else "::"),))

    @classmethod
    async def open(cls, network: Network, address: Multiaddr, certificate: RTCCertificate) -> DirectListener:
        """Bind ``/ip4/HOST/udp/PORT/webrtc-direct``. Raises ``InputError``, ``Unreachable``."""
        if address.names[0] not in ("ip4", "ip6") or address.names[1:] != ("udp", "webrtc-direct"):
            raise InputError(f"cannot listen on {address}; give /ip4/HOST/udp/PORT/webrtc-direct")
        (family, host), (_, port) = address.parts[:2]
        try:
            certificate._create_ssl_context(srtp_profiles=SRTP_PROFILES)
        except MemoryError:
            raise Unreachable(
                f"cannot listen on {address}: DTLS may not make code here (MemoryDenyWriteExecute); "
                "write the unit anew: kwaainet relay install-service --webrtc"
            ) from None
        loop = asyncio.get_running_loop()
        one = cls(network, certificate, family)
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: one, (host, int(port)))
        except OSError as error:
            raise Unreachable(f"cannot listen on {address}: {error}") from error
        bound = str(transport.get_extra_info("sockname")[1])
        tail = (("webrtc-direct", ""), ("certhash", certhash(certificate)))
        one.address = Multiaddr(((family, host), ("udp", bound), *tail))
        return one

    def close(self) -> None:
        """Take no more connections; those there are end."""
        for session in list(self._sessions.values()):
            session.close()
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        if data[:1] and data[0] < 4:
            self._check(data, addr)
        elif (session := self._sessions.get(addr)) is not None:
            session.receive(data)

    def send(self, data: bytes, addr: Any) -> None:
        """One datagram."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.sendto(data, addr)

    def forget(self, addr: Any) -> None:
        """A session is over."""
        self._sessions.pop(addr, None)

    def remote(self, addr: Any) -> Multiaddr:
        """Where somebody is, as seen from here."""
        host = str(addr[0]).partition("%")[0]
        return Multiaddr(((self._family, host), ("udp", str(addr[1])), ("webrtc-direct", "")))

    def _check(self, data: bytes, addr: Any) -> None:
        """A STUN check: name and password are one, which the browser made up."""
        try:
            message = stun.parse_message(data)
            if message.message_method != stun.Method.BINDING or message.message_class != stun.Class.REQUEST:
                return
            ours, _, theirs = str(message.attributes["USERNAME"]).partition(":")
            if ours != theirs or not ours.startswith(UFRAG) or len(ours) > 256:
                return
            message.check_message_integrity(ours.encode())
        except (ValueError, KeyError, UnicodeDecodeError):
            return
        answer = stun.Message(stun.Method.BINDING, stun.Class.RESPONSE, message.transaction_id)
        answer.attributes["XOR-MAPPED-ADDRESS"] = (str(addr[0]).partition("%")[0], addr[1])
        answer.add_message_integrity(ours.encode())
        answer.add_fingerprint()
        self.send(bytes(answer), addr)
        session = self._sessions.get(addr)
        if session is not None:
            session.alive()
        elif self._has_room():
            self._sessions[addr] = _Session(self, addr)

    def _has_room(self) -> bool:
        opening = sum(1 for one in self._sessions.values() if one.link is None)
        return len(self._sessions) < MAX_SESSIONS and opening < MAX_OPENING and not self.network.closed


class _Ice:
    """What aiortc's DTLS wants of ICE: datagrams, and a role."""

    role = "controlled"

    def __init__(self, session: _Session) -> None:
        self._session = session

    async def _recv(self) -> bytes:
        data = await self._session.datagrams.get()
        if not data:
            raise ConnectionError
        return data

    async def _send(self, data: bytes) -> None:
        self._session.listener.send(data, self._session.addr)


class _Dtls(RTCDtlsTransport):
    """Takes whoever has a certificate: noise proves that it is theirs. Carries no media."""

    def _validate_peer_identity(self, remoteParameters: RTCDtlsParameters) -> None:
        pass

    def _setup_srtp(self) -> None:
        pass


class _Session:
    """One browser, from its first STUN check. A ``Wire`` of its link."""

    def __init__(self, listener: DirectListener, addr: Any) -> None:
        self.listener, self.addr = listener, addr
        self.datagrams: asyncio.Queue[bytes] = asyncio.Queue(MAX_WAITING)
        self.link: Link | None = None
        self._loop = asyncio.get_running_loop()
        self._dtls = _Dtls(cast(Any, _Ice(self)), [listener.certificate])
        self._dtls._set_role("server")
        self._dtls.on("statechange", self._dtls_changed)
        self._sctp = RTCSctpTransport(self._dtls, SCTP_PORT)
        self._channels: dict[int, RTCDataChannel] = {}
        self._early: dict[int, list[bytes]] = {}  # what came before noise was through here
        self._paused = self._closed = False
        self._silence = self._loop.call_later(SILENCE, self.close)
        self._task = asyncio.ensure_future(self._open())
        self._task.add_done_callback(self._opened)

    # --- the way in ---------------------------------------------------------------------------------

    def alive(self) -> None:
        """It is still there."""
        self._silence.cancel()
        self._silence = self._loop.call_later(SILENCE, self.close)

    def _dtls_changed(self) -> None:
        if self._dtls.state in ("closed", "failed"):
            self.close()

    def receive(self, data: bytes) -> None:
        """A datagram; what is too much is lost, as it may be on any way."""
        if not self.datagrams.full():
            self.datagrams.put_nowait(data)

    async def _open(self) -> None:
        async with asyncio.timeout(OPEN_TIMEOUT):
            nobody = RTCDtlsParameters([RTCDtlsFingerprint("sha-256", "")], "client")
            await self._dtls.start(nobody)
            if self._dtls.state != "connected":
                raise Unreachable("no DTLS")
            zero = RTCDataChannel(
                self._sctp, RTCDataChannelParameters(label="", negotiated=True, id=0), False
            )
            await self._shake_hands(zero)

    async def _shake_hands(self, zero: RTCDataChannel) -> None:
        network = self.listener.network
        secured = self._dtls._ssl
        assert secured is not None
        theirs = secured.get_peer_certificate(as_cryptography=True)
        assert isinstance(theirs, x509.Certificate)  # a handshake without one fails
        ours = self.listener.certificate._cert
        context = prologue(digest_of(theirs), digest_of(ours))
        noise = ChannelHandshake(network.crypto, network.credentials, os.urandom(32), context)
        incoming: asyncio.Queue[bytes] = asyncio.Queue(16)

        def take(data: bytes) -> None:
            if not incoming.full():
                incoming.put_nowait(data)

        zero.on("message", take)
        opened = asyncio.Event()
        zero.on("open", opened.set)
        self._sctp.on("datachannel", self._take)
        await self._sctp.start(RTCSctpCapabilities(maxMessageSize=MAX_MESSAGE), SCTP_PORT)
        await opened.wait()
        while True:
            if data := noise.data_to_send():
                zero.send(data)
            if (result := noise.result) is not None:
                break
            noise.receive_data(await incoming.get())
        machine = DirectConnection(
            network.crypto,
            network.credentials,
            supports=network.supports,
            now=self._loop.time(),
            peer=peer_id(result.public_key),
            public_key=result.public_key,
        )
        address = self.listener.remote(self.addr)
        self.link = network.connect(self, address, initiator=False, machine=machine)
        for channel_id in list(self._channels):  # that came while noise was being finished
            self.link.receive(FRAME.pack(OPEN, channel_id, 0))
            for data in self._early.pop(channel_id, []):
                self._deliver(channel_id, data)

    def _opened(self, task: asyncio.Task[None]) -> None:
        if task.cancelled():
            return
        error = task.exception()
        if isinstance(error, KwaaiNetError | TimeoutError | ConnectionError | CapacityError):
            log.info("no WebRTC connection with %s: %s", self.addr, error or "timeout")
            self.close()
        elif error is not None:
            log.error("a WebRTC connection failed", exc_info=error)
            self.close()

    # --- channels ---------------------------------------------------------------------------------

    def _take(self, channel: RTCDataChannel) -> None:
        channel_id = int(channel.id or 0)
        self._add(channel_id, channel)
        if self.link is not None:
            self.link.receive(FRAME.pack(OPEN, channel_id, 0))

    def _add(self, channel_id: int, channel: RTCDataChannel) -> None:
        self._channels[channel_id] = channel
        channel.on("message", lambda data: self._deliver(channel_id, data))
        channel.on("close", lambda: self._gone(channel_id))
        channel.on("bufferedamountlow", self._drained)

    def _deliver(self, channel_id: int, data: Any) -> None:
        if not isinstance(data, bytes) or len(data) > 2 * MAX_MESSAGE:
            self.close()
        elif self.link is not None:
            self.link.receive(FRAME.pack(1, channel_id, len(data)) + data)
        elif sum(map(len, self._early.setdefault(channel_id, []))) < 4 * MAX_MESSAGE:
            self._early[channel_id].append(data)

    def _gone(self, channel_id: int) -> None:
        if self._channels.pop(channel_id, None) is not None and self.link is not None:
            self.link.receive(FRAME.pack(CLOSE, channel_id, 0))

    # --- the link's side --------------------------------------------------------------------------

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while len(view):
            kind, channel_id, size = FRAME.unpack_from(view)
            body, view = bytes(view[FRAME.size : FRAME.size + size]), view[FRAME.size + size :]
            if kind == OPEN:
                parameters = RTCDataChannelParameters(label="", id=channel_id)
                self._add(channel_id, RTCDataChannel(self._sctp, parameters))
            elif kind == CLOSE:
                if (channel := self._channels.pop(channel_id, None)) is not None:
                    channel.close()
            elif (channel := self._channels.get(channel_id)) is not None:
                self._send(channel, body)
        if self.link is not None and not self._paused and self._held() > HIGH_WATER:
            self._paused = True
            self.link.pause()

    def _send(self, channel: RTCDataChannel, body: bytes) -> None:
        if channel.readyState == "open":
            channel.send(body)
        elif channel.readyState == "connecting":  # ours: SCTP keeps the order behind its opening
            channel.on("open", lambda: self._send(channel, body))

    def _held(self) -> int:
        return sum(channel.bufferedAmount for channel in self._channels.values())

    def _drained(self) -> None:
        if self._paused and self.link is not None and self._held() < HIGH_WATER // 2:
            self._paused = False
            self.link.resume()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._silence.cancel()
        self._task.cancel()
        self.listener.forget(self.addr)
        ending = asyncio.ensure_future(self._stop())
        ending.add_done_callback(lambda done: done.cancelled() or done.exception())
        if self.link is not None:
            self.link.lost("its WebRTC connection ended")

    async def _stop(self) -> None:
        if self._sctp.state != "new":
            await self._sctp.stop()
        await self._dtls.stop()
