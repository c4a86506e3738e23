"""Our libp2p and the unmodified p2pd: connecting, finding by bare peer id, circuits, both identities."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from authority import Authority

from kwaainet.errors import HandshakeError, RequestError, RpcError
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.native.doors import Doors
from kwaainet.native.host import NativeHost
from kwaainet.native.relay import Relay
from kwaainet.native.tls import Tls
from kwaainet.ports import Stream
from kwaainet.types import PeerId
from kwaainet.wire.messages import ExpertInfo, ExpertUID

from .running import PEERS, PEERS_PYTHON, Running, started

ANY = "/ip4/127.0.0.1/tcp/0"
PATIENCE = 180.0  # seconds; a real daemon takes 1 to 3 to start on a quiet machine
SIZES = [0, 1, 70_000, 3_000_000]


@dataclass
class Scene:
    """A relay, a host that is reachable through it only, and its address for a real daemon."""

    hub: NativeHost
    relay: Relay
    server: NativeHost

    @property
    def tcp(self) -> str:
        return self.hub.addresses[0]


@contextlib.asynccontextmanager
async def scene() -> AsyncIterator[Scene]:
    hub = await NativeHost.create(PrivateKey(os.urandom(32)), [ANY, ANY + "/ws"])
    relay = Relay(hub)
    await hub.listen()
    server = await NativeHost.create(PrivateKey(os.urandom(32)), [hub.addresses[1] + "/p2p-circuit"])
    server.handle_unary("Echo.unary", _upper)
    server.handle_unary("Echo.refuse", _refuse)
    server.handle_stream("Echo.stream", _echo)
    server.handle_stream("Echo.refuse_stream", _refuse_stream)
    await server.listen()
    try:
        yield Scene(hub, relay, server)
    finally:
        await server.close()
        await hub.close()


async def _upper(peer: PeerId, request: bytes) -> bytes:
    return ExpertUID(ExpertUID.decode(request).uid.upper()).encode()


async def _refuse(peer: PeerId, request: bytes) -> bytes:
    raise RequestError("block 7 is not served")


async def _echo(stream: Stream) -> None:
    while (message := await stream.receive()) is not None:
        await stream.send(message)


async def _refuse_stream(stream: Stream) -> None:
    await stream.receive()
    raise RequestError("block 8 is not served")


@contextlib.contextmanager
def daemon(folder: Path, **spec: Any) -> Iterator[Running]:
    (folder / "peer.spec").write_text(json.dumps(spec))
    with started([PEERS_PYTHON, PEERS / "hivemind_p2p.py", folder / "peer.spec"], folder, "peer") as running:
        yield running


async def event(running: Running, name: str) -> dict[str, Any]:
    return await asyncio.to_thread(running.event, name, PATIENCE)


@pytest.mark.parametrize("identity", ["ed25519", "rsa"])
def test_p2pd_calls_a_host_behind_the_relay_by_bare_peer_id(tmp_path: Path, identity: str) -> None:
    async def main() -> None:
        async with scene() as s:
            spec: dict[str, Any] = {"initial_peers": [s.tcp], "target": str(s.server.peer_id)}
            if identity == "rsa":
                spec["identity_path"] = str(tmp_path / "identity.key")
            with daemon(tmp_path, **spec) as running:
                peer = (await event(running, "ready"))["peer_id"]
                assert peer.startswith("Qm" if identity == "rsa" else "12D3Koo")
                called = await event(running, "called")
                assert called["unary"] == "HELLO"
                assert called["stream"] == SIZES
                refused, nobody, refused_stream = called["errors"]
                assert "RequestError('block 7 is not served')" in refused
                assert "protocols not supported: [Echo.nobody]" in nobody
                assert refused_stream.endswith("block 8 is not served")
                assert s.relay.relayed_bytes > 2 * sum(SIZES)
                assert PeerId.parse(peer) in s.hub.connected_peers

    asyncio.run(main())


@pytest.mark.parametrize("form", ["wss", "tls/ws"])
def test_p2pd_joins_over_wss(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    """Go's libp2p takes the certificate, in the older and the newer writing of the address."""
    authority = Authority(tmp_path / "authority")
    issued = authority.issue("localhost")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.root))

    async def main() -> None:
        async with scene() as s:
            s.hub.network.doors = Doors(tls=Tls(issued.cert, issued.key))
            await s.hub.network.listen(Multiaddr.parse(f"{ANY}/{form}"))
            secure = next(address for address in s.hub.addresses if form in address)
            assert secure.startswith("/dns4/localhost/tcp/")
            with daemon(tmp_path, initial_peers=[secure], target=str(s.server.peer_id)) as running:
                peer = PeerId.parse((await event(running, "ready"))["peer_id"])
                assert (await event(running, "called"))["stream"] == SIZES
                [link] = s.hub.network.links_to(peer)
                assert link.address.names == ("ip4", "tcp", "ws")

    asyncio.run(main())


def test_we_call_p2pd_by_bare_peer_id(tmp_path: Path) -> None:
    """A client that knows only the relay finds the daemon through kad and dials it directly."""

    async def main() -> None:
        async with scene() as s:
            with daemon(tmp_path, initial_peers=[s.tcp], target=str(s.server.peer_id)) as running:
                peer = PeerId.parse((await event(running, "ready"))["peer_id"])
                client = await NativeHost.create(PrivateKey(os.urandom(32)))
                await client.connect(s.hub.addresses[1])
                reply = await client.call(peer, "Peer.unary", ExpertUID("abc").encode(), timeout=PATIENCE)
                assert ExpertInfo.decode(reply).serialized_info == b"cba"
                with pytest.raises(RpcError, match="boom"):
                    await client.call(peer, "Peer.unary", ExpertUID("boom").encode(), timeout=PATIENCE)
                with pytest.raises(HandshakeError, match=r"Peer\.nobody"):
                    await client.call(peer, "Peer.nobody", b"", timeout=PATIENCE)
                stream = await client.open_stream(peer, "Peer.stream", timeout=PATIENCE)
                for size in SIZES:
                    await stream.send(ExpertUID("y" * size).encode())
                    message = await stream.receive()
                    assert message is not None
                    assert len(ExpertUID.decode(message).uid) == size
                await stream.end()
                assert await stream.receive() is None
                await stream.close()
                await client.close()

    asyncio.run(main())
