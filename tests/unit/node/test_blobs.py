"""Tensors are lent in parts, within limits, and believed only by their hash."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from hashlib import sha256

import pytest

from kwaainet.errors import RpcError, Unreachable
from kwaainet.formats.manifest import ModelManifest, TensorEntry
from kwaainet.node import blobs
from kwaainet.node.blobs import Borrower, Lender
from kwaainet.swarm.blobs import PROTOCOL, BlobPart
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.testing.model import FILE, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import PeerId, ServerState

MANIFEST, FILES = random_model()
NAME = "model.layers.1.mlp.down_proj.weight"
ENTRY = MANIFEST.tensors[NAME]
DATA = FILES[FILE][ENTRY.offset : ENTRY.offset + ENTRY.length]


class CountingStore(MemoryStore):
    reads = 0

    async def get(self, digest: str) -> bytes | None:
        self.reads += 1
        return await super().get(digest)


class Swarm:
    def __init__(self) -> None:
        self.network = MemoryNetwork(1, latency=0.001)
        self.me = self.network.host()
        self.records: list[dict[PeerId, ServerInfo]] = [{} for _ in range(5)]
        self.looked = 0
        self.borrower = Borrower(self.me, self.read_servers, "tiny", 5)

    async def read_servers(self, prefix: str, num_blocks: int) -> Sequence[Mapping[PeerId, ServerInfo]]:
        self.looked += 1
        return self.records

    async def lender(
        self, store: MemoryStore, files: bool = False, manifest: ModelManifest = MANIFEST
    ) -> MemoryHost:
        host, lender = self.network.host(), Lender(store, now)
        lender.offer(manifest, MemorySource(FILES) if files else None)
        lender.register(host)
        await self.announce(host)
        return host

    async def announce(self, host: MemoryHost, state: ServerState = ServerState.ONLINE) -> None:
        await host.listen()
        self.records[1][host.peer_id] = ServerInfo(state, 1.0, 1, 2)

    async def part(
        self, host: MemoryHost, offset: int = 0, length: int = 16, digest: str = ENTRY.sha256
    ) -> bytes:
        request = BlobPart(bytes.fromhex(digest), offset, length).encode()
        return await self.me.call(host.peer_id, PROTOCOL, request, timeout=5.0)


async def filled() -> CountingStore:
    store = CountingStore()
    await store.put(ENTRY.sha256, DATA)
    return store


@pytest.mark.parametrize("files", [True, False])
def test_a_tensor_comes_in_parts(files: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "MAX_LENGTH", 100)

    async def main() -> None:
        swarm, store = Swarm(), await filled()
        await swarm.lender(store, files)
        assert await swarm.borrower.borrow(1, ENTRY) == DATA
        assert store.reads == (0 if files else 1)  # all parts of one reading
        assert await swarm.borrower.borrow(1, ENTRY) == DATA
        assert swarm.looked == 1

    run(main())


def test_who_lies_or_has_nothing_is_passed_over() -> None:
    async def main() -> None:
        swarm = Swarm()
        lies: list[PeerId] = []

        async def lie(peer: PeerId, request: bytes) -> bytes:
            lies.append(peer)
            return bytes(BlobPart.decode(request).length)

        liar = swarm.network.host()
        liar.handle_unary(PROTOCOL, lie)
        await swarm.announce(liar)
        await swarm.announce(swarm.network.host())  # a Petals server, say: it does not know the protocol
        joining = swarm.network.host()
        joining.handle_unary(PROTOCOL, lie)
        await swarm.announce(joining, ServerState.JOINING)
        await swarm.lender(MemoryStore())
        with pytest.raises(
            Unreachable, match=f"(?s)no server of block 1 lends .*{liar.peer_id}: bytes of another"
        ):
            await swarm.borrower.borrow(1, ENTRY)
        await swarm.lender(await filled())
        for _ in range(3):
            assert await swarm.borrower.borrow(1, ENTRY) == DATA
        assert len(lies) == 1
        with pytest.raises(Unreachable, match=r"no server of block 2 .*no other server of it"):
            await swarm.borrower.borrow(2, ENTRY)

    run(main())


def test_only_tensors_of_models_served_are_lent() -> None:
    async def main() -> None:
        swarm, store, secret = Swarm(), await filled(), b"another model's"
        await store.put(sha256(secret).hexdigest(), secret)
        host = await swarm.lender(store)
        for message, part in (
            ("is no tensor of a model served here", {"digest": sha256(secret).hexdigest(), "length": 4}),
            ("is not kept here", {"digest": MANIFEST.tensors["model.norm.weight"].sha256}),
            (f"the tensor has {ENTRY.length} bytes", {"offset": ENTRY.length - 4}),
        ):
            with pytest.raises(RpcError, match=message):
                await swarm.part(host, **part)  # type: ignore[arg-type]
        assert await swarm.part(host, 4) == DATA[4:20]

    run(main())


def test_a_peer_in_a_hurry_waits_and_harms_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "MAX_PER_MINUTE", 3)
    monkeypatch.setattr(blobs, "MAX_LENGTH", ENTRY.length // 5)

    async def main() -> None:
        swarm = Swarm()
        host = await swarm.lender(await filled())
        began = now()
        assert (
            await swarm.borrower.borrow(1, ENTRY) == DATA
        )  # six parts: the second half comes a minute later
        assert 55 < now() - began < 80
        with pytest.raises(RpcError, match="more than 3 parts within a minute"):
            await asyncio.gather(*(swarm.part(host) for _ in range(4)))
        other = swarm.network.host()
        request = BlobPart(bytes.fromhex(ENTRY.sha256), 0, 4).encode()
        assert await other.call(host.peer_id, PROTOCOL, request, timeout=5.0) == DATA[:4]

    run(main())


def test_memory_between_parts_is_bounded_and_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blobs, "MAX_HELD", ENTRY.length)
    second: TensorEntry = MANIFEST.tensors[NAME.replace("down", "up")]

    async def main() -> None:
        store = await filled()
        await store.put(second.sha256, FILES[FILE][second.offset : second.offset + second.length])
        lender = Lender(store, now)
        lender.offer(MANIFEST, None)
        peer = MemoryNetwork().host().peer_id
        for digest in (ENTRY.sha256, second.sha256, ENTRY.sha256):
            await lender.rpc_read(peer, BlobPart(bytes.fromhex(digest), 0, 4).encode())
        assert store.reads == 3
        assert len(lender._held) == 1
        lender.forget()
        assert not lender._held

    run(main())


def test_an_entry_with_a_wrong_length_is_not_believed() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.lender(await filled())
        with pytest.raises(Unreachable, match="bytes of another hash"):
            await swarm.borrower.borrow(1, replace(ENTRY, length=ENTRY.length - 4))

    run(main())
