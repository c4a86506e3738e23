"""Open HOP over real sockets: a server without a slot is reached, and every refusal has its status."""

import asyncio
import os

import pytest

from kwaainet.errors import Unreachable
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p.admission import Limits, Origin
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.libp2p.open_hop import Quotas
from kwaainet.libp2p.yamux import WINDOW
from kwaainet.native import open_hop as module
from kwaainet.native.host import NativeHost
from kwaainet.native.open_hop import OpenHop
from kwaainet.native.relay import Relay
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.types import ServerState

ANY = "/ip4/127.0.0.1/tcp/0"
SERVER = ServerInfo(ServerState.ONLINE, 1.0, 0, 2, using_relay=False)


async def host(*listen):
    made = await NativeHost.create(PrivateKey(os.urandom(32)), listen)
    await made.listen()
    return made


class Scene:
    """A relay, a tab with a slot on it, and a server that has never heard of either."""

    def __init__(self, *, announced=SERVER, **options):
        self.announced = announced
        self.options = {"allow_private": True, **options}

    async def __aenter__(self):
        self.hub = await NativeHost.create(PrivateKey(os.urandom(32)), [ANY])
        self.relay = Relay(self.hub, open_hop=OpenHop(self.hub, self.find, **self.options))
        await self.hub.listen()
        self.tab = await host(self.hub.addresses[0] + "/p2p-circuit")
        self.server = await host(ANY)

        async def upper(peer, request):
            assert peer == self.tab.peer_id
            return request.upper()

        self.server.handle_unary("T.upper", upper)
        self.know(*self.server.network.addresses)
        return self

    async def __aexit__(self, *problem):
        for one in (self.tab, self.server, self.hub):
            await one.close()

    async def find(self, peer):
        return self.announced if peer == self.server.peer_id else None

    def know(self, *addresses):
        store = self.hub.network.peerstore
        store.forget(self.server.peer_id)
        store.add(self.server.peer_id, addresses)

    def through(self, target=None):
        return f"{self.hub.addresses[0]}/p2p-circuit/p2p/{(target or self.server).peer_id}"

    async def call(self):
        await self.tab.connect(self.through())
        return await self.tab.call(self.server.peer_id, "T.upper", b"hello", timeout=60)

    async def refusal(self, client=None):
        with pytest.raises(Unreachable) as caught:
            await (client or self.tab).connect(self.through())
        return str(caught.value).rpartition(": ")[2]

    @property
    def status(self):
        return self.relay.open_hop.status


def run(test, **options):
    async def main():
        async with Scene(**options) as scene:
            await test(scene)

    asyncio.run(asyncio.wait_for(main(), 60))


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


def test_the_relay_dials_a_server_and_hands_the_circuit_to_it():
    async def main(scene):
        assert await scene.call() == b"HELLO"
        assert scene.status["circuits"] == 1
        assert scene.status["bytes"] > 0
        assert scene.status["refused"] == {}
        await scene.tab.close()
        await until(lambda: scene.status["circuits"] == 0)

    run(main)


def test_a_server_is_found_by_its_name():
    async def main(scene):
        port = scene.server.network.addresses[0].parts[1][1]
        scene.know(Multiaddr.parse(f"/dns4/localhost/tcp/{port}"))
        assert await scene.call() == b"HELLO"

    run(main)


def test_a_connection_that_is_there_is_used():
    async def main(scene):
        scene.know()
        await scene.server.connect(scene.hub.addresses[0])
        assert await scene.call() == b"HELLO"

    run(main)


def test_without_a_slot_it_is_as_if_there_were_no_open_hop():
    async def main(scene):
        client = await host()
        assert await scene.refusal(client) == "NO_RESERVATION"
        assert scene.status["refused"] == {"no_slot": 1}
        await client.close()

    run(main)


def test_only_announced_servers_are_dialled():
    async def main(scene):
        assert await scene.refusal() == "NO_RESERVATION"
        assert scene.status == {"circuits": 0, "bytes": 0, "refused": {"not_announced": 1}}
        assert scene.server.peer_id not in scene.hub.connected_peers

    run(main, announced=None)


def test_the_relay_itself_is_no_target():
    async def main(scene):
        with pytest.raises(Unreachable, match="NO_RESERVATION"):
            await scene.tab._circuits.dial(scene.tab.network.link(scene.hub.peer_id), scene.hub.peer_id)

    run(main)


@pytest.mark.parametrize("by_name", [False, True])
def test_private_addresses_are_not_dialled(by_name):
    async def main(scene):
        if by_name:
            port = scene.server.network.addresses[0].parts[1][1]
            scene.know(Multiaddr.parse(f"/dns4/localhost/tcp/{port}"))
        assert await scene.refusal() == "PERMISSION_DENIED"
        assert scene.status["refused"] == {"private": 1}
        assert scene.server.peer_id not in scene.hub.connected_peers

    run(main, allow_private=False)


def test_a_connection_from_a_private_address_is_not_used_either():
    async def main(scene):
        await scene.server.connect(scene.hub.addresses[0])
        assert await scene.refusal() == "PERMISSION_DENIED"

    run(main, allow_private=False)


def test_a_server_that_is_gone_is_told_as_failed_and_its_place_is_free_again():
    async def main(scene):
        await scene.server.close()
        assert await scene.refusal() == "CONNECTION_FAILED"
        assert scene.status == {"circuits": 0, "bytes": 0, "refused": {"unreachable": 1}}

    run(main)


def test_a_place_to_which_too_many_ways_led_is_not_dialled_again():
    async def main(scene):
        admission = scene.hub.network.admission
        admission.change(Limits().changed("targets", "1,1,1"))
        admission.origin = lambda peer, host: Origin(peer, b"a place")
        assert await scene.call() == b"HELLO"
        scene.hub.network.link(scene.server.peer_id).close("enough")
        other = await host(scene.hub.addresses[0] + "/p2p-circuit")
        assert await scene.refusal(other) == "CONNECTION_FAILED"
        assert admission.refused == {"too many targets of one address a minute": 1}
        await other.close()

    run(main)


def test_a_server_nobody_knows_an_address_of_is_told_as_failed():
    async def main(scene):
        scene.know()
        assert await scene.refusal() == "CONNECTION_FAILED"

    run(main)


def test_a_server_behind_another_relay_is_not_looked_for():
    async def main(scene):
        assert await scene.refusal() == "CONNECTION_FAILED"
        assert scene.server.peer_id not in scene.hub.connected_peers

    run(main, announced=ServerInfo(ServerState.ONLINE, 1.0, 0, 2, using_relay=True))


@pytest.mark.parametrize(
    ("quotas", "reason"),
    [
        (Quotas(source_circuits=0), "source_circuits"),
        (Quotas(all_circuits=0), "all_circuits"),
        (Quotas(all_attempts=0.5), "all_attempts"),
    ],
)
def test_quotas_are_refused_as_such(quotas, reason):
    async def main(scene):
        assert await scene.refusal() == "RESOURCE_LIMIT_EXCEEDED"
        assert scene.status["refused"] == {reason: 1}

    run(main, quotas=quotas)


def test_a_lookup_that_takes_too_long_frees_the_place(monkeypatch):
    monkeypatch.setattr(module, "FIND_TIMEOUT", 0.01)

    async def main(scene):
        async def never(peer):
            await asyncio.Event().wait()

        scene.relay.open_hop = OpenHop(scene.hub, never, allow_private=True)
        assert await scene.refusal() == "NO_RESERVATION"
        assert scene.status["circuits"] == 0

    run(main)


def test_bytes_over_the_quota_are_carried_late_but_whole(monkeypatch):
    asked = []

    def pace(lease, size):
        asked.append(size)
        return 0.001

    monkeypatch.setattr(module.Lease, "pace", pace)

    async def main(scene):
        blob = os.urandom(3 * WINDOW)
        await scene.tab.connect(scene.through())
        assert await scene.tab.call(scene.server.peer_id, "T.upper", blob, timeout=60) == blob.upper()
        assert sum(asked) > 2 * len(blob) - 2 * WINDOW

    run(main)


def test_who_owes_bytes_can_send_no_more_than_a_window(monkeypatch):
    monkeypatch.setattr(module.Lease, "pace", lambda lease, size: 1e6)

    async def main(scene):
        arrived = bytearray()

        async def sink(stream):
            while data := await stream.read():
                arrived.extend(data)

        scene.server.handle_raw("sink", sink)
        await scene.tab.connect(scene.through())
        stream = await scene.tab.open_raw(scene.server.peer_id, "sink", timeout=60)
        stream.write(bytes(4 * WINDOW))
        await until(lambda: len(arrived) > WINDOW // 2)
        for _ in range(1000):
            await asyncio.sleep(0)
        assert len(arrived) <= WINDOW

    run(main)
