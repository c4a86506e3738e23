"""Figures for the guard that a relay's processor time follows: lines of Python for a circuit's bytes, and for
a connection with its slot.

The relay's own links are fed by hand; what is at their other ends is ``libp2p.Connection``, not counted. Rule
of the file: nothing here knows of sockets or time, so that a figure changes only with the code it counts.
"""

from __future__ import annotations

import asyncio

from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p import circuit, identify, noise
from kwaainet.libp2p.circuit import HopMessage, HopType
from kwaainet.libp2p.connection import Connection, StreamOpened
from kwaainet.libp2p.delimited import delimit
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.libp2p.yamux import StreamData
from kwaainet.native.crypto import NativeCrypto
from kwaainet.native.host import NativeHost
from kwaainet.native.link import Link
from kwaainet.native.relay import Relay

from .counted import lines_of

CRYPTO = NativeCrypto()
ADDRESS = Multiaddr.parse("/ip4/192.0.2.1/tcp/4001/ws")
FRAME = noise.MAX_PLAINTEXT - 12  # bytes of a stream in the largest message
READ, READS = 4, 2  # messages that come at once, and how often; less than the half of a window in all
TURNS = 12  # of the loop and of both ends, until nobody has anything to say


class _Wire:
    """Keeps what the relay sends."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.sent.append(data)

    def close(self) -> None:
        """Nobody is behind it."""


class _Peer:
    """The other end of one of the relay's links: answers identify, accepts circuits."""

    def __init__(self, host: NativeHost, name: bytes) -> None:
        self.wire = _Wire()
        link = host.network.accept(self.wire, ADDRESS)
        assert link is not None
        self.link: Link = link
        identity = PrivateKey(name * 32)
        self.about = identify.Identify(identity.public(CRYPTO).encode(), agent_version="counted").encode()
        self.accepted = 0  # the stream of a circuit to this peer
        self.machine = Connection(
            crypto=CRYPTO,
            credentials=noise.Credentials.create(CRYPTO, identity, name * 32),
            ephemeral=name * 32,
            initiator=True,
            supports=lambda protocol: True,
            now=0.0,
        )

    async def turns(self) -> int:
        """Say all there is to say, both sides; returns the lines that the relay took."""
        taken = 0
        for _ in range(TURNS):
            said = b"".join(iter(self.machine.data_to_send, b""))
            with lines_of() as lines:
                if said:
                    self.link.receive(said)
                await asyncio.sleep(0)
            taken += lines.count
            self.hear()
        return taken

    def hear(self) -> None:
        """What the relay sent."""
        sent, self.wire.sent = self.wire.sent, []
        for data in sent:
            self.machine.receive_data(data)
        while (event := self.machine.next_event()) is not None:
            if isinstance(event, StreamData):
                self.machine.grant(event.stream_id, len(event.data))
            elif isinstance(event, StreamOpened) and event.inbound:
                self.answer(event)

    def answer(self, opened: StreamOpened) -> None:
        """Of identify and STOP."""
        if opened.protocol == identify.PROTOCOL:
            self.machine.send(opened.stream_id, delimit(self.about))
            self.machine.end(opened.stream_id)
        else:
            accepted = circuit.StopMessage(circuit.StopType.STATUS, status=circuit.Status.OK)
            self.accepted = opened.stream_id
            self.machine.send(opened.stream_id, delimit(accepted.encode()))


def relay() -> dict[str, float]:
    """Lines for a connection, handshake, identify and slot included; and for 64 kB through a circuit."""
    return asyncio.run(_relay())


async def _relay() -> dict[str, float]:
    host = await NativeHost.create(PrivateKey(b"r" * 32))
    Relay(host)
    one, other = _Peer(host, b"1"), _Peer(host, b"2")
    await _with_slot(other)
    connection = await _with_slot(one)
    stream = one.machine.open_stream(circuit.HOP_PROTOCOL)
    wanted = HopMessage(HopType.CONNECT, peer=circuit.Peer(other.link.remote_peer.data))
    one.machine.send(stream, delimit(wanted.encode()))
    for peer in (one, other, one):
        await peer.turns()
    assert other.accepted
    carried = await _carried(one, stream, other)
    await host.close()
    return {
        "lines of Python for a relay's connection and slot": connection,
        "lines of Python to relay a message of 64 kB": carried,
    }


async def _with_slot(peer: _Peer) -> int:
    lines = await peer.turns()
    peer.machine.open_stream(identify.PROTOCOL)
    stream = peer.machine.open_stream(circuit.HOP_PROTOCOL)
    peer.machine.send(stream, delimit(HopMessage(HopType.RESERVE).encode()))
    return lines + await peer.turns()


async def _carried(one: _Peer, stream: int, other: _Peer) -> float:
    taken, before = 0, len(other.wire.sent)
    for _ in range(READS):
        one.machine.send(stream, bytes(READ * FRAME))
        data = b"".join(iter(one.machine.data_to_send, b""))
        with lines_of() as lines:
            one.link.receive(data)
            await asyncio.sleep(0)
        taken += lines.count
    assert sum(map(len, other.wire.sent[before:])) > READS * READ * FRAME
    return taken / (READS * READ)
