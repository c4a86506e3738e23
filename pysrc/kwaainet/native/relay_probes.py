"""What the doctor tries over libp2p: noise, a slot, a circuit to it, its way by id, and the DHT.

Rule of the file: as ``probes``; each host here is a stranger to the others.
"""

from __future__ import annotations

import os
import time

from ..errors import Ailment, ClockSkew, HandshakeError, KwaaiNetError, Unreachable
from ..node.dht import DhtNode
from ..types import PeerId
from .host import NativeHost
from .probes import Relay

ECHO = "kwaainet.Doctor.echo"
CALL_TIMEOUT = 10.0  # seconds


async def greet(relay: Relay) -> str:
    """Noise and yamux, with the very peer that is announced."""
    guest = await relay.host()
    try:
        peer = await guest.connect(relay.address)
    except HandshakeError as error:
        raise Ailment(
            f"somebody else answers there: {error}",
            "announce the relay's own address, and keep its identity (--state-dir) over restarts",
        ) from None
    except KwaaiNetError as error:
        raise Ailment(f"no libp2p there: {error}", "see whether --listen ... /ws is that port") from None
    relay.guest = guest
    return str(peer)


async def reserve(relay: Relay) -> str:
    """A slot, as each tab takes one."""
    tenant = await relay.host(f"{relay.address}/p2p-circuit")

    async def echo(peer: PeerId, request: bytes) -> bytes:
        return request

    tenant.handle_unary(ECHO, echo)
    try:
        await tenant.listen()
    except KwaaiNetError as error:
        raise Ailment(
            f"no slot for a tab: {error}",
            "RESERVATION_REFUSED: it is full or draining; PERMISSION_DENIED: it is told to refuse; "
            "failed: it is no relay",
        ) from None
    relay.tenant = tenant
    return str(tenant.peer_id)


async def call_through(relay: Relay) -> str:
    """Somebody else calls who holds the slot, through the relay."""
    assert relay.tenant is not None
    took = await _call_tenant(
        relay,
        f"{relay.address}/p2p-circuit/p2p/{relay.tenant.peer_id}",
        "a tab with a slot cannot be called through the relay",
        "see the relay's limits (relay_circuits in /metrics) and its log",
    )
    return f"there and back in {1000 * took:.1f} ms"


async def look_up(relay: Relay) -> str:
    """Somebody who knows the relay alone finds the tab by its bare id, as Petals clients do."""
    await _call_tenant(
        relay,
        relay.address,
        "a tab is not found by its id",
        "the relay must serve kad: it does while it listens anywhere; see its log",
    )
    return "found by its id"


async def _call_tenant(relay: Relay, through: str, ailment: str, fix: str) -> float:
    """Seconds of a call there and back, by somebody connected to ``through`` alone."""
    assert relay.tenant is not None
    caller = await relay.host()
    try:
        await caller.connect(through)
        began = time.monotonic()
        await caller.call(relay.tenant.peer_id, ECHO, b"hello", timeout=CALL_TIMEOUT)
    except (KwaaiNetError, TimeoutError) as error:
        raise Ailment(f"{ailment}: {error or 'no answer'}", fix) from None
    return time.monotonic() - began


async def store_and_read(relay: Relay) -> str:
    """A record that one client announces is read by another."""
    assert relay.guest is not None
    key, value = f"kwaainet.doctor.{os.urandom(8).hex()}", b"\xa5hello"
    writer = await _joined(relay, relay.guest)
    if not await writer.store(key, None, value, time.time() + 60):
        raise Ailment("the swarm takes no record", "see the relay's log; a full table refuses")
    other = await relay.host()
    await other.connect(relay.address)
    reader = await _joined(relay, other)
    if await reader.get(key) is None:
        raise Ailment("a record that was announced is not found", "see whether the relay's swarm is split")
    return "announced and read back"


async def _joined(relay: Relay, host: NativeHost) -> DhtNode:
    dht = DhtNode(host, now=time.time, random_bytes=os.urandom, client_mode=True)
    relay.stack.push_async_callback(dht.close)
    try:
        await dht.join([relay.peer])
    except ClockSkew as error:
        raise Ailment(str(error), "set both clocks: timedatectl set-ntp true") from None
    except Unreachable as error:
        raise Ailment(
            f"the relay is in no DHT: {error}", "see the relay's log; kwaainet relay runs one"
        ) from None
    return dht
