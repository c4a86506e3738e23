"""The client side of circuit relay v2: dialling through a relay, and being dialled through one.

Follows the libp2p circuit-v2 spec. A circuit is an ordinary connection over a stream of the relay's:
noise runs end to end, the relay carries ciphertext. Rule of the file: a slot that a relay granted is
renewed for as long as the host lives, and nothing is announced that is not granted.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from ..errors import KwaaiNetError, Unreachable
from ..libp2p import circuit
from ..libp2p.circuit import HopMessage, HopType, Status, StopMessage, StopType
from ..libp2p.multiaddr import Multiaddr
from ..types import PeerId
from .link import Link
from .network import Network
from .stream import RawStream
from .transport import CircuitWire

logger = logging.getLogger(__name__)

_ANSWER_TIMEOUT = 15.0  # seconds for a relay to answer; it has to reach the target meanwhile
_MIN_RENEWAL, _MAX_RENEWAL = 5.0, 1800.0
_RETRY = 5.0  # seconds between attempts to get a lost slot back; what p2pd's dial back-off takes


class Circuits:
    """Dials and accepts circuits, and keeps slots on relays."""

    def __init__(self, network: Network) -> None:
        self._network = network
        network.handle(circuit.STOP_PROTOCOL, self._accept)

    async def dial(self, relay: Link, target: PeerId) -> Link:
        """A connection to ``target`` through a connected relay. Raises ``Unreachable``."""
        message = HopMessage(HopType.CONNECT, peer=circuit.Peer(target.data))
        stream, reply = await self._ask(relay, message)
        if reply.status != Status.OK:
            stream.reset()
            raise Unreachable(f"relay {relay.remote_peer} cannot reach {target}: {_spell(reply.status)}")
        wire = CircuitWire(
            stream,
            _through(relay),
            lambda wire, address: self._network.connect(wire, address, initiator=True, expected_peer=target),
        )
        assert wire.link is not None  # connect raises instead
        return wire.link

    async def keep_slot(self, address: Multiaddr, connect: Callable[[Multiaddr], Awaitable[Link]]) -> None:
        """Reserve a slot on the relay at ``address`` and keep it renewed in the background.

        Raises ``Unreachable`` if it is not granted at first.
        """
        seconds, granted = await self._reserve(await connect(address))
        self._network.add_circuit(granted)
        self._network.spawn(self._renew(address, connect, seconds, granted))

    async def _renew(
        self,
        address: Multiaddr,
        connect: Callable[[Multiaddr], Awaitable[Link]],
        seconds: float,
        granted: Multiaddr,
    ) -> None:
        relay = granted.split_circuit()[0].peer
        lost = asyncio.Event()
        self._network.on_lost(lambda peer: lost.set() if peer == relay else None)
        while True:
            try:
                async with asyncio.timeout(seconds):
                    await lost.wait()
                self._network.remove_circuit(granted)
                await asyncio.sleep(_RETRY)
            except TimeoutError:
                pass
            try:
                seconds, granted = await self._reserve(await connect(address))
                self._network.add_circuit(granted)
                lost.clear()
            except KwaaiNetError as error:
                logger.warning("lost the slot on %s: %s", address, error)
                self._network.remove_circuit(granted)
                seconds = _RETRY

    async def _reserve(self, relay: Link) -> tuple[float, Multiaddr]:
        """(seconds until it should be renewed, the address it is good for). Raises ``Unreachable``."""
        stream, reply = await self._ask(relay, HopMessage(HopType.RESERVE))
        stream.close()
        if reply.status != Status.OK or reply.reservation is None:
            raise Unreachable(f"relay {relay.remote_peer} gave no slot: {_spell(reply.status)}")
        seconds = (reply.reservation.expire - time.time()) / 2
        return min(max(seconds, _MIN_RENEWAL), _MAX_RENEWAL), _through(relay)

    async def _ask(self, relay: Link, message: HopMessage) -> tuple[RawStream, HopMessage]:
        stream = relay.open_stream(circuit.HOP_PROTOCOL)
        try:
            async with asyncio.timeout(_ANSWER_TIMEOUT):
                stream.write_message(message.encode())
                data = await stream.read_message(circuit.MAX_MESSAGE)
            return stream, HopMessage.decode(data or b"")
        except TimeoutError as error:
            stream.reset()
            raise Unreachable(f"relay {relay.remote_peer} did not answer") from error
        except KwaaiNetError as error:
            stream.reset()
            raise Unreachable(f"relay {relay.remote_peer} failed: {error}") from error
        except BaseException:
            stream.reset()
            raise

    async def _accept(self, stream: RawStream) -> None:
        """STOP: a relay hands us a circuit that somebody opened to us."""
        async with asyncio.timeout(_ANSWER_TIMEOUT):
            data = await stream.read_message(circuit.MAX_MESSAGE)
        message = StopMessage.decode(data or b"")
        if message.type != StopType.CONNECT:
            stream.write_message(StopMessage(StopType.STATUS, status=Status.UNEXPECTED_MESSAGE).encode())
            stream.close()
            return
        source = circuit.peer_of(message)
        relay = self._network.link(stream.remote_peer)
        address = _through(relay) if relay is not None else stream.address
        stream.write_message(StopMessage(StopType.STATUS, status=Status.OK).encode())
        CircuitWire(stream, address, self._network.accept)
        logger.debug("a circuit of %s through %s", source, stream.remote_peer)


def _through(relay: Link) -> Multiaddr:
    return relay.address.with_peer(relay.remote_peer) / "/p2p-circuit"


def _spell(status: int | None) -> str:
    try:
        return Status(status or 0).name
    except ValueError:
        return f"status {status}"
