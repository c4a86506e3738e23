"""Peers that misuse the relay's DHT node: what they store, ask, claim and announce."""

from __future__ import annotations

import asyncio
import math
import os
import re
import time
from collections.abc import Sequence
from typing import Any

import pytest
from robustness.caller import Caller
from robustness.small_model import PREFIX
from robustness.swarm import MEGA, Swarm

from kwaainet.dht.guard import MAX_BURST, PER_SECOND
from kwaainet.dht.key import DHTID
from kwaainet.dht.protocol import RPC_FIND, RPC_PING, RPC_STORE, Find, Found, Ping, Stored
from kwaainet.dht.record import Dictionary
from kwaainet.dht.storage import MAX_KEYS, MAX_LIFETIME, MAX_SUBKEY_SIZE, MAX_VALUE_SIZE
from kwaainet.errors import ClockSkew, RpcError, Unreachable
from kwaainet.node.announce import MAX_PER_MINUTE
from kwaainet.node.dht import DhtNode
from kwaainet.swarm.announcement import PROTOCOL
from kwaainet.types import PeerId
from kwaainet.wire import messages, msgpack

PLAIN = msgpack.dumps(None)
VALUE = msgpack.dumps("x")
FULL_STORE = 4096  # keys of one request


def store_request(
    keys: Sequence[bytes],
    value: bytes = VALUE,
    lifetime: float = 60.0,
    subkeys: Sequence[bytes] = (),
    **fields: Any,
) -> bytes:
    """A store of the same value under all keys, unless told otherwise."""
    count = len(keys)
    rows = {
        "keys": tuple(keys),
        "subkeys": tuple(subkeys) or (PLAIN,) * count,
        "values": (value,) * count,
        "expiration_time": (time.time() + lifetime,) * count,
        "in_cache": (False,) * count,
        "peer": messages.NodeInfo(b""),
    }
    return messages.StoreRequest(**{**rows, **fields}).encode()


def key(name: str) -> bytes:
    return DHTID.of(name).encode()


class Node(Caller):
    """An evil peer of the relay's DHT node."""

    def __init__(self, swarm: Swarm, listen: Sequence[str] = ()) -> None:
        super().__init__(swarm, listen)
        self.relay = PeerId.parse(swarm.relay_id)

    def ask(self, protocol: str, request: bytes) -> bytes:
        return bytes(self.run(self.host.call(self.relay, protocol, request, timeout=60)))

    def store(self, request: bytes, count: int = 1) -> tuple[bool, ...]:
        return Stored.decode(self.ask(RPC_STORE, request), count).accepted

    def words(self, protocol: str, request: bytes) -> str:
        """Of the error that the call ends in."""
        with pytest.raises(RpcError) as error:
            self.ask(protocol, request)
        return str(error.value)

    def get(self, name: str) -> Any:
        return Found.decode(self.ask(RPC_FIND, Find(None, (DHTID.of(name),)).encode()), 1).results[0].record


@pytest.fixture(scope="module")
def node(swarm: Swarm):  # type: ignore[no-untyped-def]
    node = Node(swarm)
    yield node
    node.close()


REFUSED: dict[str, dict[str, Any]] = {
    "expired": {"lifetime": -1.0},
    "expired long ago": {"expiration_time": (1.0,)},
    "far future": {"lifetime": MAX_LIFETIME + 3600},
    "for ever": {"expiration_time": (math.inf,)},
    "never": {"expiration_time": (math.nan,)},
    "oversize value": {"value": bytes(MAX_VALUE_SIZE + 1)},
    "oversize subkey": {"subkeys": [msgpack.dumps("s" * (MAX_SUBKEY_SIZE + 1))]},
    "for a cache": {"in_cache": (True,)},
}
WRONG = {
    "another list": (store_request([key("a")], values=()), "1 keys come with 1, 0, 1, 1 items"),
    "no key": (store_request([b"abc"]), "is not a DHTID: 3 bytes, not 20"),
    "endless subkey": (store_request([key("a")], subkeys=[bytes(5000)]), "a subkey of 5000 bytes"),
    "subkey of a list": (store_request([key("a")], subkeys=[msgpack.dumps([1])]), "a subkey of type"),
    "subkey bomb": (store_request([key("a")], subkeys=[b"\x91" * 4000]), "nested too deep"),
    "no dictionary": (store_request([key("a")], subkeys=[b""]), "a dictionary was expected, not str"),
    "too many": (store_request([key("a")] * (FULL_STORE + 1)), "4097 keys in one store; at most 4096"),
    "node id": (store_request([key("a")], peer=messages.NodeInfo(b"short")), "is not a DHTID"),
    "garbage": (b"\xff" * 30, "varint"),
}


def test_records_that_make_no_sense_are_not_kept(node: Node) -> None:
    for name, fields in REFUSED.items():  # of now: what was made when tests were collected has expired
        assert node.store(store_request([key("a")], **fields)) == (False,), name
    assert node.get("a") is None


def test_stores_that_make_no_sense_say_why(node: Node) -> None:
    for name, (request, words) in WRONG.items():
        assert words in node.words(RPC_STORE, request), name
    text = node.words(RPC_FIND, messages.FindRequest(keys=(key("a"),) * 1025).encode())
    assert "1025 keys in one find; at most 1024" in text
    assert "is not a DHTID" in node.words(RPC_FIND, messages.FindRequest(keys=(b"",)).encode())
    assert "varint" in node.words(RPC_PING, b"\xff" * 30)


def test_a_store_of_everything_at_once_keeps_nobody_waiting(swarm: Swarm, node: Node) -> None:
    """4,096 subkeys of one key; asked for a thousand times in one request."""
    subkeys = [msgpack.dumps(f"peer {n}") for n in range(FULL_STORE)]
    for lifetime in (60.0, 61.0):
        request = store_request([key("crowd")] * FULL_STORE, lifetime=lifetime, subkeys=subkeys)
        assert all(node.store(request, FULL_STORE))
    one_more = store_request([key("crowd")], subkeys=[msgpack.dumps("one more")])
    assert node.store(one_more) == (False,)
    crowd = node.get("crowd")
    assert isinstance(crowd, Dictionary)
    assert len(crowd.entries) == FULL_STORE
    reply = node.ask(RPC_FIND, Find(None, (DHTID.of("crowd"),) * 1024).encode())
    assert len(reply) < 4 * MEGA
    swarm.bystander.goes_on()
    assert swarm.bystander.slowest < 3.0


def flood(node: Node, until: float) -> int:
    """A full request of new keys; how many were kept."""
    keys = [os.urandom(20) for _ in range(FULL_STORE)]
    return sum(node.store(store_request(keys, expiration_time=(until,) * FULL_STORE), FULL_STORE))


def test_a_flood_of_one_peer_is_refused_before_it_takes_much(swarm: Swarm) -> None:
    evil, began = Node(swarm), time.time()
    kept = sum(flood(evil, time.time() + 2.0) for _ in range(4))
    evil.close()
    assert kept <= MAX_BURST + PER_SECOND * (time.time() - began + 1)


def test_a_flood_of_keys_by_many_is_bounded_and_passes(swarm: Swarm, node: Node) -> None:
    lifetime, kept = 15.0, 0
    until = time.time() + lifetime
    for _ in range(MAX_KEYS // FULL_STORE + 2):
        evil = Node(swarm)
        kept += flood(evil, until)
        evil.close()
    assert FULL_STORE < kept <= MAX_KEYS
    assert swarm.relay.growth < 64 * MEGA
    assert swarm.bystander.slowest < 3.0
    while not node.store(store_request([key("after the flood")]))[0]:
        assert time.time() < until + 30, "what expired stands in the way"
        time.sleep(0.2)


def test_a_clock_ten_seconds_off_joins_nobody(node: Node) -> None:
    async def join(seconds: float) -> str:
        late = DhtNode(
            node.host, now=lambda: time.time() + seconds, random_bytes=os.urandom, client_mode=True
        )
        with pytest.raises(ClockSkew) as error:
            await late.join([node.relay])
        return str(error.value)

    assert re.search(r"clock is -1\d\.", node.run(join(10.0)))  # ten, and what its answer took
    assert "set the clock" in node.run(join(-10.0))


def test_who_does_not_answer_pings_takes_no_places_of_others(swarm: Swarm) -> None:
    """Two hundred requests to be pinged back, by a peer that never answers. The relay's own calls, here
    those that an announcement needs, would wait 3 s for each 64 of them if they stood in one queue."""
    silent, honest = Node(swarm), Node(swarm, [f"{swarm.tcp}/p2p-circuit"])
    honest.run(honest.host.listen())

    asked = asyncio.Event()

    async def never(peer: PeerId, request: bytes) -> bytes:
        asked.set()
        await asyncio.sleep(3600)
        return b""

    async def flood() -> list[asyncio.Future[bytes]]:
        silent.host.handle_unary(RPC_PING, never)
        asked.clear()
        calls = []
        for _ in range(200):  # more at once would be refused
            request = Ping(DHTID.decode(os.urandom(20)), validate=True).encode()
            calls.append(asyncio.ensure_future(silent.host.call(silent.relay, RPC_PING, request, timeout=60)))
        await asked.wait()  # the relay waits for our answers now
        return calls

    def announced_meanwhile() -> bool:
        calls = silent.run(flood())
        assert honest.ask(PROTOCOL, msgpack.dumps({**ANNOUNCEMENT, "prefix": "honest-hf"})) == b""
        meanwhile = not any(call.done() for call in calls)
        silent.run(asyncio.wait(calls))
        assert not any(call.exception() for call in calls)
        return meanwhile

    # A machine that stands still for 3 s proves nothing; an announcement that waits comes late each time.
    assert any(announced_meanwhile() for _ in range(4))
    silent.close()
    honest.close()


def test_claiming_the_node_ids_of_others_moves_nobody(swarm: Swarm, node: Node) -> None:
    """The server stands in the relay's table under its own id, whoever claims it."""
    before = Found.decode(node.ask(RPC_FIND, Find(None, (DHTID.of("a"),)).encode()), 1).results[0].nearest
    assert str(before[0].peer_id) == swarm.server_id
    for _ in range(50):
        node.ask(RPC_PING, Ping(before[0].node_id, validate=False).encode())
    after = Found.decode(node.ask(RPC_FIND, Find(None, (DHTID.of("a"),)).encode()), 1).results[0].nearest
    assert after[0] == before[0]


# --- announcing through the relay ---------------------------------------------------------------------

SERVER = (2, 1.0, {"start_block": 0, "end_block": 3, "version": "1"})
ANNOUNCEMENT = {"prefix": "evil-hf", "server": SERVER, "ttl": 60.0, "model": None}
MALFORMED = {
    "garbage": (b"\xff\xff", "follow|bytes|ends|MessagePack|msgpack|truncated"),
    "no map": (msgpack.dumps([1]), "expected a map, got list"),
    "no prefix": (msgpack.dumps({**ANNOUNCEMENT, "prefix": None}), "prefix is 'None', not a text"),
    "dotted prefix": (msgpack.dumps({**ANNOUNCEMENT, "prefix": "a.b"}), "delimits block uids"),
    "whole seconds": (msgpack.dumps({**ANNOUNCEMENT, "ttl": 60}), "ttl is '60', not a float"),
    "a day": (msgpack.dumps({**ANNOUNCEMENT, "ttl": 86400.0}), "5 to 900 are allowed"),
    "no time": (msgpack.dumps({**ANNOUNCEMENT, "ttl": math.nan}), "ttl is nan"),
    "no server": (msgpack.dumps({**ANNOUNCEMENT, "server": None}), "server|tuple|NoneType"),
    "no blocks": (msgpack.dumps({**ANNOUNCEMENT, "server": (2, 1.0, {})}), "are no range of at most"),
    "many blocks": (
        msgpack.dumps({**ANNOUNCEMENT, "server": (2, 1.0, {"start_block": 0, "end_block": 1 << 30})}),
        "are no range of at most 1024 blocks",
    ),
    "oversize": (msgpack.dumps({**ANNOUNCEMENT, "more": "x" * 70_000}), "at most 65536 are allowed"),
}


def test_only_who_holds_a_slot_is_announced(node: Node) -> None:
    assert "reserve a slot before announcing" in node.words(PROTOCOL, msgpack.dumps(ANNOUNCEMENT))
    assert node.get("evil-hf.0") is None


def test_announcements_are_checked_counted_and_ones_own(swarm: Swarm) -> None:
    node = Node(swarm, [f"{swarm.tcp}/p2p-circuit"])
    node.run(node.host.listen())
    for name, (request, words) in MALFORMED.items():
        text = node.words(PROTOCOL, request)
        assert any(one in text for one in words.split("|")), f"{name}: {text}"
    claimed = {**ANNOUNCEMENT, "peer": swarm.server_id, "subkey": swarm.server_id, "peer_id": swarm.server_id}
    assert node.ask(PROTOCOL, msgpack.dumps(claimed)) == b""
    record = node.get("evil-hf.0")
    assert isinstance(record, Dictionary)
    assert list(record.entries) == [str(node.host.peer_id)]
    for _ in range(MAX_PER_MINUTE - 1):
        node.ask(PROTOCOL, msgpack.dumps(ANNOUNCEMENT))
    assert "within a minute; slow down" in node.words(PROTOCOL, msgpack.dumps(ANNOUNCEMENT))
    served = node.get(f"{PREFIX}.0")
    assert isinstance(served, Dictionary)
    assert swarm.server_id in served.entries
    node.close()  # and the relay takes it down
    reader = Node(swarm)
    with pytest.raises(Unreachable):
        reader.run(reader.host.call(node.host.peer_id, RPC_PING, b"", timeout=60))
    reader.close()
