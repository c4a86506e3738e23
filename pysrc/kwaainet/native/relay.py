"""The relay: HOP and STOP of circuit relay v2, as a server.

Follows the libp2p circuit-v2 spec. Circuits have no limit on time or bytes, those of open HOP a pace.
Every circuit is its own pair of streams and its own pair of pumps: what happens to one is not seen by
any other. Rule of the file: bytes are granted to one side when the other side took them, so a slow
reader slows its own sender and nobody's memory grows.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeAlias

from ..errors import CapacityError, KwaaiNetError, ProtocolError, StreamReset
from ..libp2p import circuit
from ..libp2p.admission import Kind, Origin, Priority
from ..libp2p.admission import Pace as Counted
from ..libp2p.circuit import HopMessage, HopType, ReservationTable, Status, StopMessage, StopType
from ..libp2p.multiaddr import Multiaddr
from ..types import PeerId
from .host import NativeHost
from .link import Link
from .open_hop import Lease, OpenHop, Refused
from .stream import RawStream

logger = logging.getLogger(__name__)

HOP_TIMEOUT = 15.0  # seconds for a request to arrive, and for the target to accept
LINGER = 1.0  # seconds for what came before a loss to be sent on
MAX_CIRCUITS = 4096
QUIET = 2.0  # seconds without a byte on any circuit: between two tokens it is far less

Policy: TypeAlias = Callable[[PeerId, PeerId], Status]  # (source, target) -> OK or why not
Pace: TypeAlias = Callable[[int], float]  # bytes carried -> seconds that the next ones should wait


class Relay:
    """Serves HOP on a host. ``policy`` decides who may open a circuit to whom; by default anybody to
    those who hold a reservation. Where it finds none, ``open_hop`` may find another way."""

    def __init__(
        self, host: NativeHost, *, policy: Policy | None = None, open_hop: OpenHop | None = None
    ) -> None:
        self._host = host
        self._network = host.network
        self._admission = host.network.admission
        self._slots: dict[PeerId, Origin] = {}  # of those who hold one
        self._table = ReservationTable()
        self._policy = policy or self.only_reserved
        self.open_hop = open_hop
        self._circuits: dict[Circuit, None] = {}
        self._past_bytes = 0
        self.opened = 0  # circuits, so far
        self.refused: Counter[str] = Counter()  # by the status they were refused with
        self.draining = False  # nothing new is begun; what there is goes on
        self._encoded: tuple[bytes, ...] | None = None  # our addresses, until they change
        self.elsewhere: Callable[[PeerId], bool] = lambda peer: False  # whether another relay holds it, too
        host.handle_raw(circuit.HOP_PROTOCOL, self._hop)
        host.on_peer_lost(self._peer_lost)
        host.network.on_changed(lambda: setattr(self, "_encoded", None))
        host.routing.add_source(self._addresses)

    @property
    def reservations(self) -> int:
        """Peers that hold a slot."""
        return len(self._table)

    @property
    def held(self) -> list[PeerId]:
        """Those who hold a slot."""
        return self._table.holders(time.time())

    @property
    def circuits(self) -> int:
        """Circuits open now."""
        return len(self._circuits)

    def circuits_by_peer(self) -> dict[PeerId, tuple[int, int]]:
        """Of everybody at an end of a circuit: how many, and the bytes they carried, both ways together."""
        found: dict[PeerId, tuple[int, int]] = {}
        for one in self._circuits:
            for peer in one.ends:
                count, carried = found.get(peer, (0, 0))
                found[peer] = (count + 1, carried + one.carried)
        return found

    @property
    def relayed_bytes(self) -> int:
        """Bytes carried so far, both directions together."""
        return self._past_bytes + sum(circuit.carried for circuit in self._circuits)

    def has_reservation(self, peer: PeerId) -> bool:
        """Whether a peer holds a slot, that is: can be reached through us."""
        return self._table.holds(peer)

    def only_reserved(self, source: PeerId, target: PeerId) -> Status:
        """The default policy."""
        return Status.OK if self.has_reservation(target) else Status.NO_RESERVATION

    def _addresses(self, peer: PeerId) -> list[Multiaddr]:
        """What kad tells about a peer that holds a slot."""
        if not self.has_reservation(peer):
            return []
        return [address / "/p2p-circuit" for address in self._own_addresses()]

    def _own_addresses(self) -> list[Multiaddr]:
        network = self._network
        return [address.with_peer(network.peer_id) for address in network.addresses if not address.is_circuit]

    def _encoded_addresses(self) -> tuple[bytes, ...]:
        if self._encoded is None:
            self._encoded = tuple(address.encode() for address in self._own_addresses())
        return self._encoded

    def resume(self) -> None:
        """Begin new things again, after a ``drain``."""
        self.draining = False
        self._network.show(circuit.HOP_PROTOCOL)

    async def drain(self, limit: float) -> None:
        """Begin nothing new; return when the rest is over, at the latest after ``limit`` seconds.

        Circuits of tabs that others reach through another relay are waited for: the tab ends them with their
        last session. Nobody else does, so of the others it counts whether a byte came within ``QUIET``.
        """
        self.draining = True
        self._network.hide(circuit.HOP_PROTOCOL)  # which identify tells tabs: they go over to other relays
        loop = asyncio.get_running_loop()
        began = since = loop.time()
        carried = self.relayed_bytes
        while self._circuits and loop.time() - began < limit:
            left = any(self.elsewhere(circuit.ends[1]) for circuit in self._circuits)
            if not left and loop.time() - since >= QUIET:
                break
            await asyncio.sleep(QUIET / 10)
            if self.relayed_bytes != carried:
                carried, since = self.relayed_bytes, loop.time()

    # --- HOP --------------------------------------------------------------------------------------

    async def _hop(self, stream: RawStream) -> None:
        async with asyncio.timeout(HOP_TIMEOUT):
            data = await stream.read_message(circuit.MAX_MESSAGE)
        try:
            message = HopMessage.decode(data or b"")
            if message.type == HopType.RESERVE:
                self._reserve(stream)
            elif message.type == HopType.CONNECT:
                await self._connect(stream, circuit.peer_of(message))
            else:
                self._refuse(stream, Status.UNEXPECTED_MESSAGE)
        except ProtocolError as error:
            logger.info("%s sent a malformed HOP message: %s", stream.remote_peer, error)
            self._refuse(stream, Status.MALFORMED_MESSAGE)

    def _reserve(self, stream: RawStream) -> None:
        peer = stream.remote_peer
        if stream.address.is_circuit:  # a slot reached through another relay would chain relays
            self._refuse(stream, Status.PERMISSION_DENIED)
            return
        if self.draining:
            self._refuse(stream, Status.RESERVATION_REFUSED)
            return
        try:
            self._take_slot(stream)
            expire = self._table.reserve(peer, time.time())
        except CapacityError as error:
            logger.warning("no slot for %s: %s", peer, error)
            self._give_back_slot(peer)
            self._refuse(stream, Status.RESERVATION_REFUSED)
            return
        signed = circuit.voucher(self._network.crypto, self._network.identity, peer, expire)
        stream.write_message(circuit.reserved(expire, self._encoded_addresses(), signed).encode())
        stream.close()

    def _take_slot(self, stream: RawStream) -> None:
        peer = stream.remote_peer
        if peer not in self._slots:
            origin = stream.origin
            if (reason := self._admission.take(Kind.RESERVATION, origin)) is not None:
                raise CapacityError(reason)
            self._slots[peer] = origin

    def _give_back_slot(self, peer: PeerId) -> None:
        if not self._table.holds(peer) and (origin := self._slots.pop(peer, None)) is not None:
            self._admission.release(Kind.RESERVATION, origin)

    def _peer_lost(self, peer: PeerId) -> None:
        self._table.release(peer)
        self._give_back_slot(peer)

    async def _connect(self, source: RawStream, target: PeerId) -> None:
        status = self._policy(source.remote_peer, target)
        full = self.draining or len(self._circuits) >= MAX_CIRCUITS
        if status in (Status.OK, Status.NO_RESERVATION) and full:
            status = Status.RESOURCE_LIMIT_EXCEEDED
        if status == Status.OK:
            await self._open(source, target, self._network.link(target))
        elif status == Status.NO_RESERVATION and self.open_hop is not None:
            await self._connect_openly(source, target, self.open_hop)
        else:
            self._refuse(source, status)

    async def _connect_openly(self, source: RawStream, target: PeerId, open_hop: OpenHop) -> None:
        peer = source.remote_peer
        if self._admission.hurry(Counted.DIAL, source.origin, time.monotonic()) is not None:
            self._refuse(source, Status.RESOURCE_LIMIT_EXCEEDED)
            return
        try:
            lease = await open_hop.admit(peer, target, holds_slot=self.has_reservation(peer))
        except Refused as refused:
            self._refuse(source, refused.reason.status)
            return
        opened = False
        try:
            opened = await self._open(source, target, lease.link, lease)
        finally:
            if not opened:
                lease.release()

    async def _open(
        self, source: RawStream, target: PeerId, link: Link | None, lease: Lease | None = None
    ) -> bool:
        """A circuit over a connection to its target; whether there is one now."""
        origin = source.origin
        if self._admission.take(Kind.CIRCUIT, origin) is not None:
            self._refuse(source, Status.RESOURCE_LIMIT_EXCEEDED)
            return False
        opened = False
        try:
            opened = await self._open_from(origin, source, target, link, lease)
        finally:
            if not opened:
                self._admission.release(Kind.CIRCUIT, origin)
        return opened

    async def _open_from(
        self, origin: Origin, source: RawStream, target: PeerId, link: Link | None, lease: Lease | None
    ) -> bool:
        try:
            stop = await self._stop(source.remote_peer, link)
        except (KwaaiNetError, TimeoutError) as error:
            logger.info("no circuit from %s to %s: %s", source.remote_peer, target, error or "timeout")
            self._refuse(source, Status.CONNECTION_FAILED)
            return False
        try:
            source.write_message(HopMessage(HopType.STATUS, status=Status.OK).encode())
        except StreamReset:  # the source left while the target was asked
            stop.reset()
            raise
        opened = Circuit(source, stop, self._circuit_ended, self._pace(origin, lease), origin, lease)
        self._circuits[opened] = None
        self.opened += 1
        logger.info("a circuit from %s to %s begins", *opened.ends)
        opened.start()
        return True

    def _pace(self, origin: Origin, lease: Lease | None) -> Pace:
        admission = self._admission
        priority = Priority.TAB if lease is None else Priority.OPEN_HOP

        def pace(size: int) -> float:
            wait = lease.pace(size) if lease is not None else 0.0
            if admission.paces_bytes:
                wait = max(wait, admission.carry(origin, size, priority, time.monotonic()))
            return wait

        return pace

    async def _stop(self, source: PeerId, link: Link | None) -> RawStream:
        """A stream on which the target has accepted the circuit. Raises ``KwaaiNetError``."""
        if link is None:
            raise ProtocolError("the target is not connected")
        stream = link.open_stream(circuit.STOP_PROTOCOL)
        try:
            stream.write_message(StopMessage(StopType.CONNECT, peer=circuit.Peer(source.data)).encode())
            async with asyncio.timeout(HOP_TIMEOUT):
                data = await stream.read_message(circuit.MAX_MESSAGE)
            reply = StopMessage.decode(data or b"")
            if reply.type != StopType.STATUS or reply.status != Status.OK:
                raise ProtocolError(f"the target answered with status {reply.status}")
        except BaseException:
            stream.reset()
            raise
        return stream

    def _refuse(self, stream: RawStream, status: Status) -> None:
        self.refused[status.name.lower()] += 1
        stream.write_message(HopMessage(HopType.STATUS, status=status).encode())
        stream.close()

    def _circuit_ended(self, ended: Circuit) -> None:
        if ended in self._circuits:
            del self._circuits[ended]
            logger.info("the circuit from %s to %s ends: %d bytes", *ended.ends, ended.carried)
            self._past_bytes += ended.carried
            self._admission.release(Kind.CIRCUIT, ended.origin)
            if ended.lease is not None:
                ended.lease.release()


class Circuit:
    """Two streams, each pumped into the other at a pace. ``origin``: who opened it."""

    def __init__(
        self,
        one: RawStream,
        other: RawStream,
        on_end: Callable[[Circuit], None],
        pace: Pace,
        origin: Origin,
        lease: Lease | None = None,
    ) -> None:
        self.lease, self.origin = lease, origin
        self.ends = (one.remote_peer, other.remote_peer)
        self._forth = _Pump(one, other, self._pump_ended, pace)
        self._back = _Pump(other, one, self._pump_ended, pace)
        self._forth.twin, self._back.twin = self._back, self._forth
        self._on_end = on_end

    @property
    def carried(self) -> int:
        """Bytes carried, both directions together."""
        return self._forth.carried + self._back.carried

    def start(self) -> None:
        """Deliver what has arrived already, then everything else."""
        self._forth.source.attach(self._forth)
        self._back.source.attach(self._back)

    def _pump_ended(self) -> None:
        if self._forth.ended and self._back.ended:
            self._on_end(self)


class _Pump:
    """One direction. Implements ``stream.Sink`` of its source."""

    twin: _Pump

    def __init__(self, source: RawStream, target: RawStream, on_end: Callable[[], None], pace: Pace) -> None:
        self.source = source
        self.carried = 0
        self.ended = False
        self._target = target
        self._on_end = on_end
        self._pace = pace
        self._waiting = 0  # bytes handed to the target that have not left yet
        self._reset: asyncio.TimerHandle | None = None  # of the target, once all has been sent

    def stream_data(self, data: bytes | memoryview) -> None:
        size = len(data)
        try:
            self._target.write(data)
        except KwaaiNetError:
            self.source.reset()
            return
        self.carried += size
        self._waiting += size

    def stream_sent(self) -> None:
        self.twin.target_sent()

    def target_sent(self) -> None:
        """Some bytes left on the target: as many may come from the source."""
        waiting = min(self._waiting, self._target.unsent)
        if waiting < self._waiting:
            taken = self._waiting - waiting
            self._waiting = waiting
            wait = self._pace(taken) if not self.ended else 0.0
            if wait > 0:
                asyncio.get_running_loop().call_later(wait, self.source.grant, taken)
            else:
                self.source.grant(taken)
        if self._reset is not None and not self._target.unsent:
            self._reset.cancel()
            self._reset = None
            self._target.reset()

    def stream_ended(self) -> None:
        self._target.finish()
        self._end()

    def stream_gone(self, error: KwaaiNetError) -> None:
        self._end()
        if self._target.unsent:  # a goodbye, perhaps, which a reset would overtake
            self._reset = asyncio.get_running_loop().call_later(LINGER, self._target.reset)
        else:
            self._target.reset()

    def _end(self) -> None:
        if not self.ended:
            self.ended = True
            self._on_end()
