"""Circuit relay v2: the messages of HOP and STOP, vouchers, and who holds a reservation.

Follows the libp2p circuit-v2 spec. No limit is ever put on a circuit: clients would take it for a
transient one, and a stream cut by a limit leaves its caller hanging. Rule of the file: times are
unix seconds and come as arguments.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from ..errors import CapacityError, KwaaiNetError, ProtocolError
from ..identity.keys import PrivateKey, peer_id
from ..ports import Crypto
from ..types import PeerId
from ..wire import protobuf
from .delimited import delimit

HOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/hop"
STOP_PROTOCOL = "/libp2p/circuit/relay/0.2.0/stop"

MAX_MESSAGE = 4096  # bytes, as go-libp2p
MAX_RESERVATIONS = 16384
RESERVATION_SECONDS = 3600  # clients renew some minutes before
_VOUCHER_DOMAIN = b"libp2p-relay-rsvp"
_VOUCHER_TYPE = b"\x03\x02"  # multicodec libp2p-relay-rsvp


class HopType(IntEnum):
    """What a HOP message is."""

    RESERVE = 0
    CONNECT = 1
    STATUS = 2


class StopType(IntEnum):
    """What a STOP message is."""

    CONNECT = 0
    STATUS = 1


class Status(IntEnum):
    """How a request ended."""

    OK = 100
    RESERVATION_REFUSED = 200
    RESOURCE_LIMIT_EXCEEDED = 201
    PERMISSION_DENIED = 202
    CONNECTION_FAILED = 203
    NO_RESERVATION = 204
    MALFORMED_MESSAGE = 400
    UNEXPECTED_MESSAGE = 401


@dataclass(frozen=True, slots=True)
class Peer(protobuf.Message):
    """The peer a message is about."""

    id: bytes = protobuf.required(1, protobuf.BYTES)
    addresses: tuple[bytes, ...] = protobuf.many(2, protobuf.BYTES)


@dataclass(frozen=True, slots=True)
class Reservation(protobuf.Message):
    """A slot on a relay: until when, and under which addresses of the relay."""

    expire: int = protobuf.required(1, protobuf.UINT)
    addresses: tuple[bytes, ...] = protobuf.many(2, protobuf.BYTES)
    voucher: bytes | None = protobuf.optional(3, protobuf.BYTES)


@dataclass(frozen=True, slots=True)
class HopMessage(protobuf.Message):
    """Between a client and a relay."""

    type: int | None = protobuf.optional(1, protobuf.UINT)
    peer: Peer | None = protobuf.optional(2, Peer)
    reservation: Reservation | None = protobuf.optional(3, Reservation)
    status: int | None = protobuf.optional(5, protobuf.UINT)


@dataclass(frozen=True, slots=True)
class StopMessage(protobuf.Message):
    """Between a relay and the target of a circuit."""

    type: int | None = protobuf.optional(1, protobuf.UINT)
    peer: Peer | None = protobuf.optional(2, Peer)
    status: int | None = protobuf.optional(4, protobuf.UINT)


@dataclass(frozen=True, slots=True)
class _Voucher(protobuf.Message):
    relay: bytes = protobuf.required(1, protobuf.BYTES)
    peer: bytes = protobuf.required(2, protobuf.BYTES)
    expiration: int = protobuf.required(3, protobuf.UINT)


@dataclass(frozen=True, slots=True)
class _Key(protobuf.Message):
    type: int = protobuf.required(1, protobuf.UINT)
    data: bytes = protobuf.required(2, protobuf.BYTES)


@dataclass(frozen=True, slots=True)
class _Envelope(protobuf.Message):
    """A signed envelope (libp2p RFC 0002)."""

    public_key: _Key = protobuf.required(1, _Key)
    payload_type: bytes = protobuf.required(2, protobuf.BYTES)
    payload: bytes = protobuf.required(3, protobuf.BYTES)
    signature: bytes = protobuf.required(5, protobuf.BYTES)


def peer_of(message: HopMessage | StopMessage) -> PeerId:
    """The peer a CONNECT names. Raises ``ProtocolError``."""
    if message.peer is None:
        raise ProtocolError("a circuit CONNECT names no peer")
    try:
        return PeerId(message.peer.id)
    except KwaaiNetError as error:
        raise ProtocolError(f"a circuit CONNECT names no peer: {error}") from error


def voucher(crypto: Crypto, relay: PrivateKey, peer: PeerId, expire: int) -> bytes:
    """The relay's signed statement that ``peer`` holds a slot until ``expire``."""
    public = relay.public(crypto)
    payload = _Voucher(peer_id(public).data, peer.data, expire).encode()
    signed = delimit(_VOUCHER_DOMAIN) + delimit(_VOUCHER_TYPE) + delimit(payload)
    key = _Key(public.key_type, public.data)
    return _Envelope(key, _VOUCHER_TYPE, payload, relay.sign(crypto, signed)).encode()


def reserved(expire: int, addresses: tuple[bytes, ...], signed_voucher: bytes) -> HopMessage:
    """The answer to a RESERVE that was granted; ``addresses`` are encoded multiaddrs of the relay."""
    return HopMessage(
        HopType.STATUS, reservation=Reservation(expire, addresses, signed_voucher), status=Status.OK
    )


class ReservationTable:
    """Who may be reached through this relay: who reserved and has not been released since.

    The time at which a slot expires is told, so that its holder renews it, and decides who makes room in a
    full table; nothing else. A holder whose clock is an hour slow renews an hour late, and a relay whose
    clock jumps ahead would lose all of them at once, while every connection stands.
    """

    def __init__(self) -> None:
        self._expires: dict[PeerId, int] = {}

    def reserve(self, peer: PeerId, now: float) -> int:
        """Grant or renew; returns when it expires. Raises ``CapacityError`` if the table is full."""
        if peer not in self._expires and len(self._expires) >= MAX_RESERVATIONS:
            self.expire(now)
            if len(self._expires) >= MAX_RESERVATIONS:
                raise CapacityError(f"all {MAX_RESERVATIONS} slots of this relay are taken")
        self._expires[peer] = int(now) + RESERVATION_SECONDS
        return self._expires[peer]

    def holders(self, now: float) -> list[PeerId]:
        """All who hold a slot."""
        return [peer for peer, until in self._expires.items() if until > now]

    def holds(self, peer: PeerId) -> bool:
        """Whether the peer has a slot."""
        return peer in self._expires

    def release(self, peer: PeerId) -> None:
        """The peer is gone."""
        self._expires.pop(peer, None)

    def expire(self, now: float) -> list[PeerId]:
        """Drop what was not renewed in time; returns those peers."""
        gone = [peer for peer, expires in self._expires.items() if expires <= now]
        for peer in gone:
            del self._expires[peer]
        return gone

    def __len__(self) -> int:
        return len(self._expires)
