"""Peers that misuse the relay's slots and circuits: HOP and STOP, many circuits, readers that stop."""

from __future__ import annotations

import asyncio
import hashlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator

import pytest
from robustness.caller import Caller
from robustness.swarm import MEGA, Swarm

from kwaainet.errors import KwaaiNetError, StreamReset
from kwaainet.identity.keys import PrivateKey
from kwaainet.libp2p import circuit
from kwaainet.libp2p.circuit import HopMessage, HopType, Peer, Status, StopMessage, StopType
from kwaainet.libp2p.delimited import delimit
from kwaainet.native.host import NativeHost
from kwaainet.native.stream import RawStream
from kwaainet.types import PeerId

SECONDS = 40.0
RELAYED = 64 * MEGA


class Member(Caller):
    """A peer of the relay that says of HOP what it likes."""

    def __init__(self, swarm: Swarm) -> None:
        super().__init__(swarm)
        self.relay = PeerId.parse(swarm.relay_id)

    async def hop(self, message: bytes) -> tuple[HopMessage, RawStream]:
        """The answer to one HOP message, and the stream it came on."""
        stream = await self.host.open_raw(self.relay, circuit.HOP_PROTOCOL, timeout=SECONDS)
        stream.write_message(message)
        answer = await stream.read_message(circuit.MAX_MESSAGE)
        return HopMessage.decode(answer or b""), stream

    async def status(self, message: bytes) -> int | None:
        answer, stream = await self.hop(message)
        stream.close()
        return answer.status

    async def circuit_to(self, target: PeerId) -> RawStream:
        """A circuit on which bytes go unencrypted, which is nobody's business but the two ends'."""
        answer, stream = await self.hop(connect(target))
        assert answer.status == Status.OK
        return stream


def connect(target: PeerId) -> bytes:
    return HopMessage(HopType.CONNECT, peer=Peer(target.data)).encode()


def reserve(peer: PeerId | None = None) -> bytes:
    return HopMessage(HopType.RESERVE, peer=Peer(peer.data) if peer else None).encode()


async def take(stream: RawStream) -> None:
    """Accept a circuit."""
    await stream.read_message(circuit.MAX_MESSAGE)
    stream.write_message(StopMessage(StopType.STATUS, status=Status.OK).encode())


async def echo(stream: RawStream) -> None:
    await take(stream)
    rest = stream._unsplit.take_rest() if stream._unsplit else b""  # what rode behind the message
    while data := rest or await stream.read():
        rest = b""
        stream.write(data)
        await stream.drain()
    stream.finish()


@pytest.fixture(scope="module")
def member(swarm: Swarm) -> Iterator[Member]:
    member = Member(swarm)
    yield member
    member.close()


def test_messages_that_make_no_sense_are_refused(swarm: Swarm, member: Member) -> None:
    cases = {
        b"\xff" * 20: Status.MALFORMED_MESSAGE,
        HopMessage(HopType.CONNECT).encode(): Status.MALFORMED_MESSAGE,
        HopMessage(HopType.CONNECT, peer=Peer(b"nobody")).encode(): Status.MALFORMED_MESSAGE,
        HopMessage(HopType.STATUS, status=100).encode(): Status.UNEXPECTED_MESSAGE,
        HopMessage(77).encode(): Status.UNEXPECTED_MESSAGE,
        b"": Status.UNEXPECTED_MESSAGE,
        connect(PeerId(b"\x00\x04none")): Status.NO_RESERVATION,
        connect(member.host.peer_id): Status.NO_RESERVATION,  # connected, but holds no slot
        connect(member.relay): Status.NO_RESERVATION,
    }
    for message, status in cases.items():
        assert member.run(member.status(message)) == status, message

    async def oversize() -> None:
        await member.hop(bytes(circuit.MAX_MESSAGE + 1))

    with pytest.raises(StreamReset):
        member.run(oversize())
    swarm.relay.logs("a message of 4097 bytes is over the 4096 allowed")


def test_a_slot_is_for_who_asks_whoever_is_named(swarm: Swarm, member: Member) -> None:
    greedy, victim = Member(swarm), member.host.peer_id
    answer, stream = greedy.run(greedy.hop(reserve(victim)))
    stream.close()
    assert answer.status == Status.OK
    assert answer.reservation is not None
    assert time.time() < answer.reservation.expire < time.time() + 2 * circuit.RESERVATION_SECONDS
    voucher = answer.reservation.voucher or b""
    assert greedy.host.peer_id.data in voucher
    assert greedy.relay.data in voucher
    assert victim.data not in voucher
    assert greedy.run(greedy.status(connect(victim))) == Status.NO_RESERVATION
    greedy.close()


def test_a_circuit_into_the_relay_itself_is_a_stranger_like_any_other(swarm: Swarm, member: Member) -> None:
    async def stop(message: StopMessage, behind: bytes) -> bytes:
        stream = await member.host.open_raw(member.relay, circuit.STOP_PROTOCOL, timeout=SECONDS)
        stream.write_message(message.encode())
        stream.write(behind)
        data = b""
        while more := await stream.read():
            data += bytes(more)
        stream.close()
        return data

    accepted = delimit(StopMessage(StopType.STATUS, status=Status.OK).encode())
    answer = member.run(stop(StopMessage(StopType.CONNECT, peer=Peer(b"\x00\x01x")), bytes(3000)))
    assert answer == accepted
    swarm.relay.logs("negotiation line b'' does not end in a newline")
    refused = StopMessage(StopType.STATUS, status=Status.UNEXPECTED_MESSAGE)
    assert member.run(stop(StopMessage(StopType.STATUS), b"")) == delimit(refused.encode())
    with pytest.raises(StreamReset):
        member.run(stop(StopMessage(StopType.CONNECT), b""))
    swarm.relay.logs("a circuit CONNECT names no peer")


def test_targets_that_refuse_or_never_answer(swarm: Swarm, member: Member) -> None:
    async def refuse(stream: RawStream) -> None:
        stream.write_message(StopMessage(StopType.STATUS, status=Status.PERMISSION_DENIED).encode())
        stream.close()

    async def garble(stream: RawStream) -> None:
        stream.write_message(b"\xff" * 9)

    async def leave(stream: RawStream) -> None:
        stream.reset()

    async def never(stream: RawStream) -> None:
        await asyncio.sleep(3600)

    behaviours = (refuse, garble, leave, never)

    async def attack() -> None:
        targets = [await target(swarm, accept) for accept in behaviours]
        asked = [member.status(connect(one.peer_id)) for one in targets]
        assert await asyncio.gather(*asked) == [Status.CONNECTION_FAILED] * len(behaviours)
        for one in targets:
            await one.close()

    member.run(attack())
    swarm.relay.logs("no circuit from")


Accept = Callable[[RawStream], Awaitable[None]]


async def target(swarm: Swarm, accept: Accept) -> NativeHost:
    """A host with a slot, on the loop that runs."""
    host = await NativeHost.create(PrivateKey(os.urandom(32)), [f"{swarm.tcp}/p2p-circuit"])
    await host.listen()
    host.handle_raw(circuit.STOP_PROTOCOL, accept)
    return host


def test_who_leaves_while_the_target_is_asked_leaves_nothing_behind(swarm: Swarm, member: Member) -> None:
    async def attack() -> None:
        asked, gone = asyncio.Event(), asyncio.Event()

        async def slow(stream: RawStream) -> None:
            asked.set()
            await left.wait()
            await take(stream)
            try:
                await stream.read()
            except KwaaiNetError:
                gone.set()

        left = asyncio.Event()
        host = await target(swarm, slow)
        stream = await member.host.open_raw(member.relay, circuit.HOP_PROTOCOL, timeout=SECONDS)
        stream.write_message(connect(host.peer_id))
        await asked.wait()
        stream.reset()
        assert await member.status(b"") == Status.UNEXPECTED_MESSAGE  # so the reset has arrived, too
        left.set()
        await gone.wait()
        await host.close()

    member.run(attack())


async def echoes(stream: RawStream, text: bytes) -> bool:
    stream.write(text)
    got = b""
    while len(got) < len(text):
        got += bytes(await stream.read())
    return got == text


def test_one_circuit_of_two_hundred_ends_alone(swarm: Swarm, member: Member) -> None:
    """Killed by its source, by its target, and by half-closing; the others carry on."""

    async def attack() -> None:
        taken: list[RawStream] = []

        async def accept(stream: RawStream) -> None:
            taken.append(stream)
            await echo(stream)

        host = await target(swarm, accept)
        circuits = [await member.circuit_to(host.peer_id) for _ in range(200)]
        assert all(await asyncio.gather(*(echoes(one, b"%d" % n) for n, one in enumerate(circuits))))
        circuits.pop(17).reset()
        circuits.pop(50).finish()
        taken[100].reset()  # whose it is, is seen by who can no longer echo
        outcomes = await asyncio.gather(*(echoes(one, b"on") for one in circuits), return_exceptions=True)
        assert sorted(map(str, map(type, outcomes))) == sorted([str(bool)] * 197 + [str(StreamReset)])
        await host.close()

    member.run(attack())


def test_a_reader_that_stops_stops_its_writer_and_nobody_else(swarm: Swarm, member: Member) -> None:
    """64 MB are written into a circuit whose target reads nothing, then everything."""

    async def attack() -> None:
        reads, digest, size = asyncio.Event(), hashlib.sha256(), 0
        whole = asyncio.Event()

        async def lazy(stream: RawStream) -> None:
            nonlocal size
            await take(stream)
            await reads.wait()
            while data := await stream.read():
                digest.update(data)
                size += len(data)
            whole.set()

        lazy_host, quick_host = await target(swarm, lazy), await target(swarm, echo)
        blocked = await member.circuit_to(lazy_host.peer_id)
        quick = await member.circuit_to(quick_host.peer_id)
        data = os.urandom(MEGA)
        blocked.write(data * (RELAYED // MEGA))
        sent = None
        while sent != (sent := blocked.unsent) or sent > RELAYED - 1:  # until no more is taken
            await asyncio.sleep(0.2)
        assert RELAYED - blocked.unsent < 8 * MEGA
        assert swarm.relay.growth < 16 * MEGA
        for _ in range(50):
            assert await echoes(quick, os.urandom(64 << 10))
        swarm.bystander.goes_on()
        assert swarm.bystander.slowest < 1.0
        reads.set()
        blocked.finish()
        await whole.wait()
        assert size == RELAYED
        assert digest.digest() == hashlib.sha256(data * (RELAYED // MEGA)).digest()
        assert swarm.relay.growth < 32 * MEGA
        for host in (lazy_host, quick_host):
            await host.close()

    member.run(attack())
