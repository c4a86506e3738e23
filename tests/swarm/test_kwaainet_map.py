"""What KwaaiNet's nodes store at their bootstrap and what its map asks there, byte by byte as their code.

The questions and records are built from the published sources, with msgpack and protobuf by hand, not by our
codecs: Kwaai-AI-Lab/KwaaiNet core/crates/kwaai-cli/src/announce.rs (031d8d9) for who announces,
Kwaai-AI-Lab/KwaaiNetMap map-server/src/{crawler.rs (52988dc), dht.rs (98a4532)} for who asks.
"""

from __future__ import annotations

import hashlib
import struct
import time
from typing import Any

import msgpack
import pytest

from kwaainet.node.dht import DhtNode
from kwaainet.swarm.shapes import SwarmShapes
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.types import PeerId

PREFIX, BLOCKS = "Qwen/Qwen3-8B-hf", 4
MAX_BLOCKS = 512  # that the map asks for in one question
TTL = 360.0  # seconds
VPK = {"mode": "bob", "capacity_gb": 1.5, "tenant_count": 2, "vpk_version": "1", "public_name": "x"}


def field(number: int, data: bytes) -> bytes:
    size, out = len(data), bytearray([number << 3 | 2])
    while size > 127:
        out.append(size & 127 | 128)
        size >>= 7
    return bytes(out) + bytes([size]) + data


def fields(message: bytes) -> list[tuple[int, Any]]:
    """(number, value) of a protobuf message."""
    found, at = [], 0

    def varint() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = message[at]
            at += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value

    while at < len(message):
        tag = varint()
        if tag & 7 == 0:
            found.append((tag >> 3, varint()))
        else:
            size = 8 if tag & 7 == 1 else varint()
            found.append((tag >> 3, message[at : at + size]))
            at += size
    return found


def key(name: str) -> bytes:
    return hashlib.sha1(msgpack.packb(name)).digest()


def node_info(peer: PeerId) -> bytes:
    return field(1, hashlib.sha1(peer.data).digest())


def auth() -> bytes:
    """RequestAuthInfo as it is new: its time is no default value."""
    return b"\x19" + struct.pack("<d", time.time()) + field(4, b"nonce")


def server_info(peer: PeerId, state: int) -> bytes:
    told = {"start_block": 0, "end_block": BLOCKS, "public_name": "n", "version": "kwaai-0.4.1"}
    told |= {"torch_dtype": "float16", "using_relay": True, "cache_tokens_left": 100_000, "adapters": []}
    told |= {"next_pings": {}, "peer_id": str(peer), "trust_attestations": ["{}"], "vpk": VPK}
    value: bytes = msgpack.packb(msgpack.ExtType(64, msgpack.packb([state, 31.5, told])))
    return value


def store(peer: PeerId, keys: list[bytes], subkey: str, value: bytes, expiration: float) -> bytes:
    several = len(keys)
    request = field(1, auth()) + b"".join(field(2, one) for one in keys)
    request += field(3, msgpack.packb(subkey)) * several + field(4, value) * several
    request += field(5, struct.pack("<d", expiration) * several) + field(6, bytes(several))
    return request + field(7, node_info(peer))


def find(peer: PeerId, keys: list[bytes]) -> bytes:
    return field(1, auth()) + b"".join(field(2, one) for one in keys) + field(3, node_info(peer))


def entries(result: bytes) -> dict[str, bytes]:
    """A FindResult as the map reads it: ``Ext(80)`` of [_, _, [[subkey, bytes, expiration]]]."""
    told = dict(fields(result))
    assert told[1] == 2, "a dictionary"
    outer = msgpack.unpackb(told[2])
    assert outer.code == 80
    found = {}
    for subkey, value, _ in msgpack.unpackb(outer.data)[2]:
        assert isinstance(value, bytes)
        found[subkey if isinstance(subkey, str) else msgpack.unpackb(subkey)] = value
    return found


async def seed_and_guest() -> tuple[DhtNode, MemoryHost, MemoryHost]:
    network = MemoryNetwork(1)
    seed, guest = network.host(), network.host()
    await seed.listen()
    await guest.listen()
    node = DhtNode(seed, now=now, random_bytes=bytes)
    node.guard.shape_of = SwarmShapes().of
    return node, seed, guest


@pytest.mark.parametrize("state", [2, 0, -1], ids=["ready", "joining", "tombstone"])
def test_what_kwaainets_nodes_announce_is_taken_and_its_map_reads_it(state: int) -> None:
    async def main() -> None:
        node, seed, guest = await seed_and_guest()
        peer, name = guest.peer_id, str(guest.peer_id)
        info, until = server_info(peer, state), now() + TTL
        model = msgpack.packb({"repository": "https://huggingface.co/Qwen/Qwen3-8B", "num_blocks": BLOCKS})
        blocks = [key(f"{PREFIX}.{n}") for n in range(BLOCKS)]
        asked = [
            store(peer, blocks, name, info, until),
            store(peer, [key("_petals.models")], PREFIX, model, until),
            store(peer, [key("_kwaai.inference.nodes")], name, info, until),
            store(peer, [key("_kwaai.vpk.nodes")], name, msgpack.packb(VPK), until),
        ]
        for request in asked:
            told = await guest.call(seed.peer_id, "DHTProtocol.rpc_store", request, timeout=5)
            accepted = [value for number, value in fields(told) if number == 2]
            assert all(set(one) == {1} if isinstance(one, bytes) else one == 1 for one in accepted)
            assert accepted

        async def results(keys: list[bytes]) -> list[bytes]:
            told = await guest.call(seed.peer_id, "DHTProtocol.rpc_find", find(peer, keys), timeout=5)
            return [value for number, value in fields(told) if number == 2]

        [registry] = await results([key("_petals.models")])
        assert msgpack.unpackb(entries(registry)[PREFIX])["num_blocks"] == BLOCKS
        every = await results([key(f"{PREFIX}.{n}") for n in range(MAX_BLOCKS)])
        assert len(every) == MAX_BLOCKS, "answers stand where their questions did"
        assert [entries(one) for one in every[:BLOCKS]] == [{name: info}] * BLOCKS
        assert not any(dict(fields(one)).get(2) for one in every[BLOCKS:])
        [inference] = await results([key("_kwaai.inference.nodes")])
        ext = msgpack.unpackb(entries(inference)[name])
        assert ext.code == 64
        assert msgpack.unpackb(ext.data)[:2] == [state, 31.5]
        [vpk] = await results([key("_kwaai.vpk.nodes")])
        assert msgpack.unpackb(entries(vpk)[name]) == VPK
        assert not node.guard.refused
        await node.close()

    run(main())
