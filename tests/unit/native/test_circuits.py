"""The client side of circuits: slots kept, dials made, strangers refused."""

import asyncio
import os

import pytest

from kwaainet.errors import HandshakeError, InputError, Unreachable
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p import circuit
from kwaainet.libp2p.circuit import HopMessage, HopType, Reservation, Status, StopMessage, StopType
from kwaainet.native import circuits as module
from kwaainet.native.host import NativeHost
from kwaainet.native.relay import Relay

ANY = "/ip4/127.0.0.1/tcp/0/ws"


async def host(*listen):
    made = await NativeHost.create(PrivateKey(os.urandom(32)), listen)
    await made.listen()
    return made


async def relay():
    hub = await NativeHost.create(PrivateKey(os.urandom(32)), [ANY])
    served = Relay(hub)
    await hub.listen()
    return hub, served


async def until(condition):
    while not condition():
        await asyncio.sleep(0)


def run(test):
    return asyncio.run(asyncio.wait_for(test, 60))


def test_a_host_listens_behind_a_relay_and_says_so():
    async def main():
        hub, served = await relay()
        server = await host(hub.addresses[0] + "/p2p-circuit")
        assert server.addresses == [f"{hub.addresses[0]}/p2p-circuit/p2p/{server.peer_id}"]
        assert served.has_reservation(server.peer_id)
        client = await host()
        assert await client.connect(server.addresses[0]) == server.peer_id
        for one in (client, server, hub):
            await one.close()

    run(main())


def test_no_slot_no_listening():
    async def main():
        plain = await host(ANY)
        with pytest.raises(Unreachable):
            await host(plain.addresses[0] + "/p2p-circuit")
        with pytest.raises(InputError, match="another peer"):
            await host(f"{plain.addresses[0]}/p2p-circuit/p2p/{plain.peer_id}")
        await plain.close()

    run(main())


def test_a_slot_is_renewed(monkeypatch):
    async def main():
        monkeypatch.setattr(module, "_MAX_RENEWAL", 0.01)
        hub = await host(ANY)
        renewed = asyncio.Queue()

        async def grant(stream):
            await stream.read_message(circuit.MAX_MESSAGE)
            reply = HopMessage(HopType.STATUS, reservation=Reservation(2**40), status=Status.OK)
            stream.write_message(reply.encode())
            stream.close()
            renewed.put_nowait(1)

        hub.handle_raw(circuit.HOP_PROTOCOL, grant)
        server = await host(hub.addresses[0] + "/p2p-circuit")
        for _ in range(3):
            await renewed.get()
        assert len(server.addresses) == 1
        await server.close()
        await hub.close()

    run(main())


def test_a_lost_slot_is_not_announced_and_is_sought_again(monkeypatch):
    async def main():
        monkeypatch.setattr(module, "_RETRY", 0.01)
        hub, served = await relay()
        server = await host(hub.addresses[0] + "/p2p-circuit")
        for link in list(hub.network.links()):
            link.close("a cut cable")
        await until(lambda: not server.addresses)
        await until(lambda: server.addresses and served.has_reservation(server.peer_id))
        await server.close()
        await hub.close()

    run(main())


def test_a_relay_that_leads_elsewhere_is_noticed():
    """Noise runs end to end: the relay can not put another peer in the target's place."""

    async def main():
        hub = await host(ANY)
        server, impostor, client = await host(), await host(), await host()
        for one in (impostor, client):
            await one.connect(hub.addresses[0])

        async def misdirect(stream):
            await stream.read_message(circuit.MAX_MESSAGE)
            stop = await hub.open_raw(impostor.peer_id, circuit.STOP_PROTOCOL, timeout=60)
            source = circuit.Peer(stream.remote_peer.data)
            stop.write_message(StopMessage(StopType.CONNECT, peer=source).encode())
            await stop.read_message(circuit.MAX_MESSAGE)
            stream.write_message(HopMessage(HopType.STATUS, status=Status.OK).encode())
            stop.write(await stream.read())
            stream.write(await stop.read())

        hub.handle_raw(circuit.HOP_PROTOCOL, misdirect)
        with pytest.raises((HandshakeError, Unreachable), match="answered"):
            await client.connect(f"{hub.addresses[0]}/p2p-circuit/p2p/{server.peer_id}")
        for one in (server, impostor, client, hub):
            await one.close()

    run(main())


def test_a_relay_that_does_not_answer_is_given_up(monkeypatch):
    async def main():
        monkeypatch.setattr(module, "_ANSWER_TIMEOUT", 0.05)
        hub, client = await host(ANY), await host()

        async def silence(stream):
            await stream.read()

        hub.handle_raw(circuit.HOP_PROTOCOL, silence)
        with pytest.raises(Unreachable, match="did not answer"):
            await client.connect(
                f"{hub.addresses[0]}/p2p-circuit/p2p/{client.peer_id}".replace(
                    str(client.peer_id), "12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7"
                )
            )
        await client.close()
        await hub.close()

    run(main())


@pytest.mark.parametrize("reply", [b"", b"\xff\xff", HopMessage(HopType.STATUS, status=777).encode()])
def test_nonsense_from_a_relay_is_told_as_unreachable(reply):
    async def main():
        hub, client = await host(ANY), await host()

        async def answer(stream):
            await stream.read_message(circuit.MAX_MESSAGE)
            stream.write_message(reply)
            stream.close()

        hub.handle_raw(circuit.HOP_PROTOCOL, answer)
        with pytest.raises(Unreachable, match="relay"):
            await client.connect(
                f"{hub.addresses[0]}/p2p-circuit/p2p/12D3KooWRawPbxPtP1eZaJpumGnyWX2DcUyd3RQnydr3eAto4Az7"
            )
        await client.close()
        await hub.close()

    run(main())


def test_a_stop_that_is_no_connect_is_refused():
    async def main():
        server, client = await host(ANY), await host()
        await client.connect(server.addresses[0])
        stream = await client.open_raw(server.peer_id, circuit.STOP_PROTOCOL, timeout=60)
        stream.write_message(StopMessage(StopType.STATUS).encode())
        reply = StopMessage.decode(await stream.read_message(circuit.MAX_MESSAGE))
        assert reply.status == Status.UNEXPECTED_MESSAGE
        await client.close()
        await server.close()

    run(main())
