"""The relay: slots, circuits, and that no circuit feels another's end."""

import asyncio
import os

import pytest

from kwaainet.errors import StreamReset, Unreachable
from kwaainet.libp2p import circuit
from kwaainet.libp2p.admission import Limits, Origin
from kwaainet.libp2p.circuit import HopMessage, HopType, Status, StopMessage, StopType
from kwaainet.libp2p.multiaddr import Multiaddr
from kwaainet.libp2p.open_hop import Reason
from kwaainet.libp2p.yamux import WINDOW
from kwaainet.native import relay as module
from kwaainet.native.open_hop import Refused

from .relay_scene import Scene, hop, host, passing, raw, read_exactly, until


def run(test, limit=60, **options):
    async def main():
        async with Scene(**options) as scene:
            await test(scene)

    return asyncio.run(asyncio.wait_for(main(), limit))


def test_a_slot_is_granted_with_voucher_and_addresses():
    async def main(scene):
        stream = await hop(scene, scene.client, HopMessage(HopType.RESERVE))
        reply = HopMessage.decode(await stream.read_message(circuit.MAX_MESSAGE))
        assert (reply.type, reply.status) == (HopType.STATUS, Status.OK)
        assert scene.relay.has_reservation(scene.client.peer_id)
        assert len(reply.reservation.addresses) == 2
        envelope = circuit._Envelope.decode(reply.reservation.voucher)
        voucher = circuit._Voucher.decode(envelope.payload)
        assert voucher.peer == scene.client.peer_id.data
        assert voucher.expiration == reply.reservation.expire
        assert await stream.read() == b""
        assert scene.relay.reservations == 2
        await scene.relay._network.listen(Multiaddr.parse("/ip4/127.0.0.1/tcp/0"))
        stream = await hop(scene, scene.client, HopMessage(HopType.RESERVE))
        renewed = HopMessage.decode(await stream.read_message(circuit.MAX_MESSAGE))
        assert len(renewed.reservation.addresses) == 3, "those of now"

    run(main)


def test_a_slot_ends_with_the_connection():
    async def main(scene):
        assert scene.relay.has_reservation(scene.server.peer_id)
        await scene.server.close()
        await until(lambda: not scene.relay.has_reservation(scene.server.peer_id))
        assert scene.relay.reservations == 0

    run(main)


def test_a_full_relay_refuses_slots(monkeypatch):
    async def main(scene):
        monkeypatch.setattr(circuit, "MAX_RESERVATIONS", 1)
        with pytest.raises(Unreachable, match="RESERVATION_REFUSED"):
            await host(scene.hub.addresses[0] + "/p2p-circuit")

    run(main)


def test_who_holds_no_slot_cannot_be_reached():
    async def main(scene):
        other = await scene.join()
        with pytest.raises(Unreachable, match="NO_RESERVATION"):
            await other.connect(scene.through(scene.client))

    run(main)


def test_the_policy_decides():
    asked = []

    def policy(source, target):
        asked.append((source, target))
        return Status.PERMISSION_DENIED

    async def main(scene):
        with pytest.raises(Unreachable, match="PERMISSION_DENIED"):
            await scene.client.connect(scene.through())
        assert asked == [(scene.client.peer_id, scene.server.peer_id)]

    run(main, policy=policy)


def test_a_target_that_refuses_is_told_as_failed():
    async def main(scene):
        async def refuse(stream):
            stream.write_message(StopMessage(StopType.STATUS, status=Status.PERMISSION_DENIED).encode())
            stream.close()

        scene.server.handle_raw(circuit.STOP_PROTOCOL, refuse)
        with pytest.raises(Unreachable, match="CONNECTION_FAILED"):
            await scene.client.connect(scene.through())
        assert scene.relay.circuits == 0

    run(main)


def test_circuits_have_a_cap(monkeypatch):
    async def main(scene):
        monkeypatch.setattr(module, "MAX_CIRCUITS", 0)
        with pytest.raises(Unreachable, match="RESOURCE_LIMIT_EXCEEDED"):
            await scene.client.connect(scene.through())

    run(main)


@pytest.mark.parametrize(
    ("message", "status"),
    [
        (b"\xff\xff", Status.MALFORMED_MESSAGE),
        (HopMessage(HopType.STATUS), Status.UNEXPECTED_MESSAGE),
        (HopMessage(HopType.CONNECT), Status.MALFORMED_MESSAGE),
        (HopMessage(HopType.CONNECT, peer=circuit.Peer(b"x")), Status.MALFORMED_MESSAGE),
    ],
)
def test_nonsense_is_answered_with_its_status(message, status):
    async def main(scene):
        stream = await hop(scene, scene.client, message)
        reply = HopMessage.decode(await stream.read_message(circuit.MAX_MESSAGE))
        assert reply.status == status

    run(main)


def test_bytes_pass_both_ways_and_are_counted():
    async def main(scene):
        near, far = await raw(scene)
        near.write(b"ping")
        assert await far.read() == b"ping"
        far.write(b"pong!")
        assert await near.read() == b"pong!"
        assert scene.relay.circuits == 1
        assert scene.relay.relayed_bytes == 9
        near.finish()
        far.finish()
        await until(lambda: scene.relay.circuits == 0)
        assert scene.relay.relayed_bytes == 9

    run(main)


def test_half_close_is_passed_on_and_the_other_half_lives():
    async def main(scene):
        near, far = await raw(scene)
        near.write(b"question")
        near.finish()
        assert await far.read() == b"question"
        assert await far.read() == b""
        far.write(b"answer")
        assert await near.read() == b"answer"
        far.finish()
        assert await near.read() == b""

    run(main)


@pytest.mark.parametrize("side", ["near", "far"])
def test_a_reset_is_passed_on(side):
    async def main(scene):
        near, far = await raw(scene)
        one, other = (near, far) if side == "near" else (far, near)
        one.reset()
        with pytest.raises(StreamReset):
            await other.read()
        await until(lambda: scene.relay.circuits == 0)

    run(main)


def test_what_came_before_a_loss_is_passed_on_before_the_reset():
    async def main(scene):
        near, far = await raw(scene)
        (passing,) = scene.relay._circuits
        passing._back.stream_data(b"goodbye")  # both within one turn of the loop, as a page's end brings them
        passing._back.stream_gone(StreamReset("the connection is gone"))
        assert await near.read() == b"goodbye"
        with pytest.raises(StreamReset):
            await near.read()
        far.reset()
        await until(lambda: scene.relay.circuits == 0)

    run(main)


def test_one_circuits_end_touches_no_other():
    async def main(scene):
        other_client = await scene.join()
        first, first_far = await raw(scene)
        second, second_far = await raw(scene)
        third, third_far = await raw(scene, other_client)
        first.reset()
        with pytest.raises(StreamReset):
            await first_far.read()
        await scene.client.close()
        with pytest.raises(StreamReset):
            await second_far.read()
        third.write(b"still here")
        assert await third_far.read() == b"still here"
        third_far.write(b"so am I")
        assert await third.read() == b"so am I"
        assert second is not third

    run(main)


def test_a_reader_that_sleeps_stops_its_own_sender_and_nobody_else():
    async def main(scene):
        slow, slow_far = await raw(scene)
        lively, lively_far = await raw(scene)
        slow.write(bytes(8 * WINDOW))
        lively.write(b"hello")
        assert await lively_far.read() == b"hello"
        for _ in range(20):
            lively.write(bytes(WINDOW // 4))
            await read_exactly(lively_far, WINDOW // 4)
        # what is under way: a window at the reader, a window at the relay
        assert slow.unsent >= 8 * WINDOW - 2 * WINDOW - 100
        held = sum(link.machine._mux._unread for link in scene.hub.network.links())
        assert held <= WINDOW
        assert len(await read_exactly(slow_far, 8 * WINDOW)) == 8 * WINDOW

    run(main)


def test_many_circuits_carry_large_data_whole():
    async def main(scene):
        pairs = [await raw(scene) for _ in range(4)]
        blobs = [os.urandom(3 * WINDOW + 17) for _ in pairs]
        for (near, _), blob in zip(pairs, blobs, strict=True):
            near.write(blob)
            near.finish()
        found = await asyncio.gather(
            *(read_exactly(far, len(blob)) for (_, far), blob in zip(pairs, blobs, strict=True))
        )
        assert found == blobs

    run(main)


def test_calls_by_bare_peer_id_go_through_the_relay():
    async def main(scene):
        async def upper(peer, request):
            assert peer == scene.client.peer_id
            return request.upper()

        scene.server.handle_unary("T.upper", upper)
        await until(lambda: scene.client.network.peerstore.description(scene.hub.peer_id).protocols)
        assert await scene.client.call(scene.server.peer_id, "T.upper", b"hello", timeout=60) == b"HELLO"
        assert scene.relay.circuits == 1

    run(main)


def test_a_relay_that_drains_begins_nothing_and_ends_when_it_is_quiet(monkeypatch):
    monkeypatch.setattr(module, "QUIET", 1000.0)  # of a clock that is set: however long this machine takes

    async def main(scene):
        let_pass = passing(monkeypatch)
        stream, far = await raw(scene)
        draining = asyncio.ensure_future(scene.relay.drain(1e6))
        await asyncio.sleep(0)
        refused = await hop(scene, scene.client, HopMessage(HopType.RESERVE))
        reply = HopMessage.decode(await refused.read_message(circuit.MAX_MESSAGE))
        assert reply.status == Status.RESERVATION_REFUSED
        second = HopMessage(HopType.CONNECT, peer=circuit.Peer(scene.server.peer_id.data))
        refused = await hop(scene, scene.client, second)
        reply = HopMessage.decode(await refused.read_message(circuit.MAX_MESSAGE))
        assert reply.status == Status.RESOURCE_LIMIT_EXCEEDED
        for _ in range(10):  # longer than QUIET together: what is in use goes on
            for one, other in ((stream, far), (far, stream)):
                one.write(b"step")
                assert await read_exactly(other, 4) == b"step"
            await let_pass(module.QUIET / 2)
            assert not draining.done()
        await let_pass(module.QUIET)
        await draining
        assert scene.relay.circuits == 1

    run(main, limit=None)


def test_a_circuit_of_a_tab_that_is_held_elsewhere_is_waited_for_though_it_is_quiet(monkeypatch):
    monkeypatch.setattr(module, "QUIET", 0.01)

    async def main(scene):
        stream, _ = await raw(scene)
        scene.relay.elsewhere = lambda peer: peer == scene.server.peer_id
        draining = asyncio.ensure_future(scene.relay.drain(3600))
        await asyncio.sleep(0.1)  # ten times QUIET
        assert not draining.done()
        stream.reset()
        await asyncio.wait_for(draining, 60)

    run(main)


def test_draining_takes_no_longer_than_it_may_nor_than_there_are_circuits():
    async def main(scene):
        stream, _ = await raw(scene)
        await scene.relay.drain(0)
        stream.reset()
        await until(lambda: not scene.relay.circuits)
        await scene.relay.drain(3600)

    run(main)


def test_slots_of_one_subnet_have_a_cap_and_are_free_again():
    async def test(scene):
        scene.hub.network.admission.change(Limits().changed("reservations", "1,1,1"))
        scene.hub.network.admission.origin = lambda peer, host: Origin(peer, b"\xc0\0\x02\1", b"\xc0\0\x02")
        first = await host(scene.hub.addresses[0] + "/p2p-circuit")
        with pytest.raises(Unreachable, match="RESERVATION_REFUSED"):
            await host(scene.hub.addresses[0] + "/p2p-circuit")
        assert scene.hub.network.admission.refused == {"too many reservations of one address": 1}
        await first.close()
        await until(lambda: not scene.relay.has_reservation(first.peer_id))
        await (await host(scene.hub.addresses[0] + "/p2p-circuit")).close()

    run(test)


def test_circuits_of_one_peer_have_a_cap():
    async def test(scene):
        scene.hub.network.admission.change(Limits().changed("circuits", "1,9,9"))
        await raw(scene)
        message = HopMessage(HopType.CONNECT, peer=circuit.Peer(scene.server.peer_id.data))
        stream = await hop(scene, scene.client, message)
        reply = HopMessage.decode(await stream.read_message(circuit.MAX_MESSAGE))
        assert reply.status == Status.RESOURCE_LIMIT_EXCEEDED
        await raw(scene, await scene.join())  # another peer is not concerned
        assert scene.relay.circuits == 2

    run(test)


def test_bytes_are_carried_at_the_pace_of_their_peer():
    async def test(scene):
        scene.hub.network.admission.change(Limits().changed("peer_bandwidth", "1000000"))
        one, other = await raw(scene)
        loop = asyncio.get_running_loop()
        began, size = loop.time(), 2_200_000
        sending = asyncio.ensure_future(send(one, size))
        scene.tasks.append(sending)
        await read_exactly(other, size)
        assert loop.time() - began > 0.1, "a second's worth and a window come at once, the rest does not"

    run(test)


async def send(stream, size):
    for _ in range(size // 100_000):
        stream.write(bytes(100_000))
        await stream.drain()


def test_ways_out_of_one_peer_have_a_pace():
    class Nowhere:
        async def admit(self, source, target, *, holds_slot):
            raise Refused(Reason.NOT_ANNOUNCED)

    async def test(scene):
        scene.relay.open_hop = Nowhere()
        scene.hub.network.admission.change(Limits().changed("dials", "1,9,9"))
        message = HopMessage(HopType.CONNECT, peer=circuit.Peer(scene.client.peer_id.data))
        told = []
        for _ in range(2):
            stream = await hop(scene, scene.client, message)
            told.append(HopMessage.decode(await stream.read_message(circuit.MAX_MESSAGE)).status)
        assert told == [Status.NO_RESERVATION, Status.RESOURCE_LIMIT_EXCEEDED]
        assert scene.hub.network.admission.refused == {"too many dials of one peer a minute": 1}

    run(test)


@pytest.mark.parametrize("said", [b"", b"\x20half"], ids=["nothing", "half a request"])
def test_a_request_that_does_not_come_ends_its_stream_alone(monkeypatch, said):
    async def main(scene):
        near, far = await raw(scene)
        monkeypatch.setattr(
            module, "HOP_TIMEOUT", 0.05
        )  # from here on: what is asked in order takes its time
        silent = await scene.client.open_raw(scene.hub.peer_id, circuit.HOP_PROTOCOL, timeout=60)
        silent.write(said)
        with pytest.raises(StreamReset):
            await silent.read()
        near.write(b"goes on")
        assert await read_exactly(far, 7) == b"goes on"

    run(main)
