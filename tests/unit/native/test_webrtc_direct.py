"""A browser's stand-in, made of aiortc, reaches a host by WebRTC-Direct; tests/browser has the real one."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aioice import Candidate, stun
from aioice import Connection as Ice
from aiortc import RTCCertificate, RTCDtlsTransport, RTCSctpTransport
from aiortc.rtcdatachannel import RTCDataChannel, RTCDataChannelParameters
from aiortc.rtcdtlstransport import RTCDtlsFingerprint, RTCDtlsParameters
from aiortc.rtcsctptransport import RTCSctpCapabilities

from kwaainet.errors import ConfigError, InputError, Unreachable
from kwaainet.identity.keys import PrivateKey, peer_id
from kwaainet.libp2p import noise
from kwaainet.libp2p.channels import Message, prologue
from kwaainet.libp2p.delimited import DelimitedReader, delimit
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.libp2p.multistream import Proposer
from kwaainet.native import webrtc_direct
from kwaainet.native.crypto import NativeCrypto
from kwaainet.native.host import NativeHost
from kwaainet.native.stream import RawStream
from kwaainet.native.webrtc_direct import UFRAG, _Dtls, certhash, digest_of, load_certificate
from kwaainet.types import PeerId

CRYPTO = NativeCrypto()
ANY = "/ip4/127.0.0.1/udp/0/webrtc-direct"


def run(test: Awaitable[None]) -> None:
    async def main() -> None:
        await asyncio.wait_for(test, 300)  # SCTP in Python, which took 16 of them on a loaded machine

    asyncio.run(main())


async def until(condition: Callable[[], bool]) -> None:
    while not condition():
        await asyncio.sleep(0.01)


class _OverIce:
    """What aiortc's DTLS wants of ICE."""

    role = "controlling"

    def __init__(self, ice: Ice) -> None:
        self._recv, self._send = ice.recv, ice.send


class Browser:
    """Dials as a browser does, the relay's description made up from its address."""

    def __init__(self) -> None:
        self.identity = PrivateKey(os.urandom(32))
        self.certificate = RTCCertificate.generateCertificate()
        ufrag = UFRAG + os.urandom(8).hex()
        self.ice = Ice(ice_controlling=True, local_username=ufrag, local_password=ufrag)
        self.dtls = _Dtls(_OverIce(self.ice), [self.certificate])  # type: ignore[arg-type]
        self.dtls._set_role("client")
        self.sctp = RTCSctpTransport(self.dtls)
        self.peer: PeerId | None = None

    async def dial(self, address: Multiaddr, server: RTCCertificate) -> None:
        await self.ice.gather_candidates()
        port = int(address.parts[1][1])
        candidate = Candidate("1", 1, "udp", 1, "127.0.0.1", port, "host")
        await self.ice.add_remote_candidate(candidate)
        await self.ice.add_remote_candidate(None)
        self.ice.remote_username = self.ice.remote_password = self.ice.local_username
        self.ice._remote_is_lite = True
        await self.ice.connect()
        await RTCDtlsTransport.start(
            self.dtls, RTCDtlsParameters([RTCDtlsFingerprint("sha-256", "")], "server")
        )
        zero = RTCDataChannel(self.sctp, RTCDataChannelParameters(negotiated=True, id=0), False)
        context = prologue(digest_of(self.certificate._cert), digest_of(server._cert))
        own = noise.Credentials.create(CRYPTO, self.identity, os.urandom(32))
        shaking = noise.Handshake(CRYPTO, own, os.urandom(32), initiator=False, prologue=context)
        reader = DelimitedReader(1 << 16)

        def take(data: bytes) -> None:
            reader.receive_data(data)
            while (found := reader.next_message()) is not None:
                shaking.receive_data(Message.decode(found).message or b"")
            if back := shaking.data_to_send():
                zero.send(delimit(Message(message=back).encode()))

        zero.on("message", take)
        await self.sctp.start(RTCSctpCapabilities(maxMessageSize=1 << 16), 5000)
        await until(lambda: shaking.result is not None)
        assert shaking.result is not None
        self.peer = peer_id(shaking.result.public_key)

    def open(self, protocol: str, received: bytearray) -> RTCDataChannel:
        """A stream, as a channel; what comes on it, multistream included, goes to ``received``."""
        channel = RTCDataChannel(self.sctp, RTCDataChannelParameters(label=""))
        reader = DelimitedReader(1 << 16)

        def take(data: bytes) -> None:
            reader.receive_data(data)
            while (found := reader.next_message()) is not None:
                received.extend(Message.decode(found).message or b"")

        channel.on("message", take)
        channel.on("open", lambda: put(channel, Proposer([protocol]).data_to_send()))
        return channel

    async def close(self) -> None:
        await self.sctp.stop()
        await self.dtls.stop()
        await self.ice.close()


def put(channel: RTCDataChannel, data: bytes) -> None:
    channel.send(delimit(Message(message=data).encode()))


async def listening(folder: Path | None = None) -> tuple[NativeHost, RTCCertificate]:
    host = await NativeHost.create(PrivateKey(os.urandom(32)), [ANY])
    path = None if folder is None else folder / "webrtc.pem"
    host.network.doors.webrtc_key = path
    certificate = load_certificate(path)
    if path is None:
        webrtc = webrtc_direct.DirectListener
        listener = await webrtc.open(host.network, Multiaddr.parse(ANY), certificate)
        host.network._listeners.append(listener)
        host.network._bound.append(listener.address)
    else:
        await host.listen()
    return host, certificate


async def echo(stream: RawStream) -> None:
    while data := await stream.read():
        stream.write(data)
        await stream.drain()
    stream.finish()


def test_streams_both_ways_and_an_end_that_is_seen(tmp_path: Path) -> None:
    async def main() -> None:
        host, certificate = await listening(tmp_path)
        host.handle_raw("echo", echo)
        lost: list[PeerId] = []
        host.on_peer_lost(lost.append)
        [address] = host.network.addresses
        assert str(address).endswith(f"/webrtc-direct/certhash/{certhash(certificate)}")
        browser = Browser()
        await browser.dial(address, certificate)
        assert browser.peer == host.peer_id
        own = peer_id(browser.identity.public(CRYPTO))
        await until(lambda: own in host.connected_peers)
        received = bytearray()
        channel = browser.open("echo", received)
        await until(lambda: b"echo\n" in received)
        began = len(received)
        data = os.urandom(300_000)
        for begin in range(0, len(data), 16_000):
            put(channel, data[begin : begin + 16_000])
        await until(lambda: len(received) - began == len(data))
        assert received[began:] == data

        ours: list[Any] = []
        browser.sctp.on("datachannel", ours.append)
        link = host.network.link(own)
        assert link is not None
        stream = link.open_stream("nobody")
        stream.write(b"hello")
        await until(lambda: bool(ours))
        assert ours[0].id % 2 == 1

        await browser.close()
        await until(lambda: lost == [own])
        await host.close()

    run(main())


def test_the_address_survives_a_restart(tmp_path: Path) -> None:
    kept = tmp_path / "webrtc.pem"
    first, second = load_certificate(kept), load_certificate(kept)
    assert certhash(first) == certhash(second)
    assert certhash(first) != certhash(load_certificate(None))
    assert kept.stat().st_mode & 0o777 == 0o600
    kept.write_text("broken")
    with pytest.raises(ConfigError, match=r"cannot be used: .*; remove it"):
        load_certificate(kept)


def test_an_announced_address_gets_the_hash(tmp_path: Path) -> None:
    async def main() -> None:
        announce = ["/ip4/203.0.113.7/udp/4003/webrtc-direct", "/dns4/relay.example/tcp/4001"]
        host = await NativeHost.create(PrivateKey(os.urandom(32)), [ANY], announce)
        host.network.doors.webrtc_key = tmp_path / "webrtc.pem"
        await host.listen()
        hashed = certhash(load_certificate(tmp_path / "webrtc.pem"))
        assert [str(one) for one in host.network.addresses] == [
            f"{announce[0]}/certhash/{hashed}",
            announce[1],
        ]
        await host.close()

    run(main())


def test_strangers_cost_nothing_and_the_silent_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(webrtc_direct, "SILENCE", 0.2)
    monkeypatch.setattr(webrtc_direct, "MAX_OPENING", 1)

    async def main() -> None:
        host, _ = await listening()
        listener = host.network._listeners[0]
        assert isinstance(listener, webrtc_direct.DirectListener)
        for noise_ in (
            b"",
            b"\x00",
            b"\x00\x01" + os.urandom(40),
            b"\x16" + os.urandom(60),
            os.urandom(1400),
        ):
            listener.datagram_received(noise_, ("127.0.0.1", 9))
        assert listener._sessions == {}
        for index in range(2):
            listener.datagram_received(check_of(UFRAG + "abcd"), ("127.0.0.1", 9 + index))
        assert len(listener._sessions) == 1, "one is opening, and that is the cap"
        await until(lambda: not listener._sessions)
        await host.close()

    run(main())


@pytest.mark.parametrize(
    "text", ["/dns4/relay.example/udp/1/webrtc-direct", "/ip4/1.2.3.4/tcp/1/webrtc-direct"]
)
def test_what_cannot_be_listened_on_is_refused(text: str) -> None:
    async def main() -> None:
        host = await NativeHost.create(PrivateKey(os.urandom(32)), [text])
        with pytest.raises(InputError, match="/udp/PORT/webrtc-direct"):
            await host.listen()
        await host.close()

    run(main())


def test_a_hardened_unit_is_named_where_it_is_in_the_way(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: RTCCertificate, srtp_profiles: object) -> None:
        raise MemoryError("Cannot allocate write+execute memory for ffi.callback()")

    monkeypatch.setattr(RTCCertificate, "_create_ssl_context", refuse)
    with pytest.raises(Unreachable, match="install-service --webrtc"):
        run(listening())  # type: ignore[arg-type]


def test_a_port_in_use() -> None:
    async def main() -> None:
        host, certificate = await listening()
        taken = Multiaddr(host.network.addresses[0].parts[:3])
        with pytest.raises(Unreachable, match="cannot listen on"):
            await webrtc_direct.DirectListener.open(host.network, taken, certificate)
        await host.close()

    run(main())


def check_of(ufrag: str) -> bytes:
    message = stun.Message(stun.Method.BINDING, stun.Class.REQUEST)
    message.attributes["USERNAME"] = f"{ufrag}:{ufrag}"
    message.add_message_integrity(ufrag.encode())
    message.add_fingerprint()
    return bytes(message)
