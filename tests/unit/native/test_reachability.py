"""Whether a peer can be called, told by probes over real connections."""

import asyncio
import os
import time

import pytest

from kwaainet.errors import LimitExceeded, RpcError
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p.admission import Limits, Origin
from kwaainet.native import reachability
from kwaainet.native.host import NativeHost
from kwaainet.native.reachability import PROTOCOL, Reachability
from kwaainet.types import PeerId
from kwaainet.wire import messages

ANY = "/ip4/127.0.0.1/tcp/0"


async def host(*listen: str) -> NativeHost:
    made = await NativeHost.create(PrivateKey(os.urandom(32)), listen)
    await made.listen()
    return made


async def ask(caller: NativeHost, server: NativeHost, about: PeerId) -> bool:
    request = messages.PingRequest(peer=messages.NodeInfo(about.data)).encode()
    reply = await caller.call(server.peer_id, PROTOCOL, request, timeout=60)
    return messages.PingResponse.decode(reply).available


def test_who_listens_is_reached_and_who_does_not_is_not() -> None:
    async def main() -> None:
        server, listening, silent = await host(ANY), await host(ANY), await host()
        Reachability(server, time.time)
        for one in (listening, silent):
            Reachability(one, time.time)  # a starting server answers for itself
            await one.connect(server.addresses[0])
            while not server.network.peerstore.description(one.peer_id).protocols:
                await asyncio.sleep(0)
        assert await ask(silent, server, server.peer_id)
        assert await ask(listening, server, listening.peer_id)
        assert not await ask(silent, server, silent.peer_id)
        links = len(server.network.links_to(listening.peer_id))
        assert links == 1, "the probe is a stranger, and gone again"
        await asyncio.gather(*(one.close() for one in (server, listening, silent)))

    asyncio.run(asyncio.wait_for(main(), 60))


def test_who_comes_from_the_internet_has_nothing_private_dialled() -> None:
    async def main() -> None:
        server, one = await host(ANY), await host(ANY)
        checks = Reachability(server, time.time)
        await one.connect(server.addresses[0])
        while not server.network.peerstore.description(one.peer_id).protocols:
            await asyncio.sleep(0)
        assert checks._addresses(one.peer_id, one.peer_id) == [one.addresses[0]]
        stranger = PeerId(b"\x00\x02ab")
        assert checks._addresses(stranger, one.peer_id) == []
        await asyncio.gather(server.close(), one.close())

    asyncio.run(asyncio.wait_for(main(), 60))


def test_nobody_is_flooded_by_checks() -> None:
    async def main() -> None:
        server, one = await host(ANY), await host(ANY)
        checks, admission = Reachability(server, time.time), server.network.admission
        await one.connect(server.addresses[0])
        while not server.network.peerstore.description(one.peer_id).protocols:
            await asyncio.sleep(0)
        admission.change(Limits().changed("targets", "1,1,1"))
        admission.origin = lambda peer, host: Origin(peer, b"a place")  # type: ignore[method-assign]
        assert checks._addresses(one.peer_id, one.peer_id) == [one.addresses[0]]
        assert checks._addresses(one.peer_id, one.peer_id) == []
        assert admission.refused == {"too many targets of one address a minute": 1}
        await asyncio.gather(server.close(), one.close())

    asyncio.run(asyncio.wait_for(main(), 60))


def test_it_is_asked_so_often_and_about_peers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "MAX_PER_MINUTE", 2)

    async def main() -> None:
        server, one = await host(ANY), await host(ANY)
        checks = Reachability(server, lambda: 1.0)
        await one.connect(server.addresses[0])
        for _ in range(2):
            assert not await ask(one, server, PeerId(b"\x00\x02ab"))
        with pytest.raises(LimitExceeded, match="checks of reachability"):
            await checks.rpc_check(
                one.peer_id, messages.PingRequest(peer=messages.NodeInfo(b"\x00\x02ab")).encode()
            )
        with pytest.raises(RpcError, match="names no peer"):
            await one.call(server.peer_id, PROTOCOL, messages.PingRequest().encode(), timeout=60)
        await asyncio.gather(server.close(), one.close())

    asyncio.run(asyncio.wait_for(main(), 60))
