"""A node whose host of files is gone loads its blocks from those that serve them, and computes the same."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from swarm.nodes import FILES, MANIFEST, NUM_BLOCKS, PREFIX

from kwaainet.errors import ModelFileError, Unreachable
from kwaainet.identity.keys import PrivateKey
from kwaainet.native.host import NativeHost
from kwaainet.node.config import NodeConfig
from kwaainet.node.server import ServerNode
from kwaainet.ports import BlobStore, Clock, Host, RangeSource
from kwaainet.swarm.announcement import Announcement
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.host import MemoryNetwork
from kwaainet.testing.model import TINY
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange, PeerId

HIDDEN = np.random.default_rng(3).standard_normal((1, 4, TINY.hidden_size), np.float32)


class GoneSource:
    """A host of files that answers ``good`` reads and no more."""

    def __init__(self, good: int = 0) -> None:
        self._files, self.left, self.asked = MemorySource(FILES), good, 0

    async def read(self, file: str, offset: int, length: int) -> bytes:
        self.asked += 1
        if self.left <= 0:
            raise Unreachable("the host of the files is gone")
        self.left -= 1
        return await self._files.read(file, offset, length)


class Board:
    """What a DHT would say."""

    def __init__(self, clock: Clock = now) -> None:
        self.clock = clock
        self.records: list[dict[PeerId, ServerInfo]] = [{} for _ in range(NUM_BLOCKS)]

    async def read(self, prefix: str, num_blocks: int) -> Sequence[Mapping[PeerId, ServerInfo]]:
        return self.records

    def node(self, host: Host, span: str, source: RangeSource, store: BlobStore) -> Node:
        return Node(self, host, BlockRange.parse(span), source, store)


class Node:
    def __init__(
        self, board: Board, host: Host, blocks: BlockRange, source: RangeSource, store: BlobStore
    ) -> None:
        self._board, self._host, self._blocks = board, host, blocks
        self.engine = NumpyEngine()
        self.node = ServerNode(
            NodeConfig(PREFIX, blocks),
            host=host,
            engine=self.engine,
            store=store,
            source=source,
            manifest=MANIFEST,
            announcer=self,
            now=board.clock,
            read_servers=board.read,
            chance=random.Random(1).random,
        )

    async def announce(self, announcement: Announcement) -> None:
        for block in range(self._blocks.start, self._blocks.end):
            self._board.records[block][self._host.peer_id] = announcement.server

    def farewell(self) -> bytes:
        return b""

    async def compute(self) -> np.ndarray:
        cache = await self.engine.open_cache(1, HIDDEN.shape[1])
        try:
            return await self.engine.run(cache, HIDDEN)
        finally:
            await self.engine.close_cache(cache)


async def lend_and_borrow(first: Host, second: Host, good: int, clock: Clock = now) -> GoneSource:
    """Whoever comes second gets ``good`` answers from the host; it must serve the same all the same."""
    board, store = Board(clock), MemoryStore()
    one = board.node(first, "0:4", MemorySource(FILES), MemoryStore())
    await one.node.start()
    source = GoneSource(good)
    two = board.node(second, "0:4", source, store)
    await two.node.start()
    np.testing.assert_array_equal(await two.compute(), await one.compute())
    loaded = two.node.status.loaded
    assert loaded is not None
    assert loaded.fetched == loaded.total
    assert store.blobs.keys() == {entry.sha256 for entry in MANIFEST.span(BlockRange(0, 4)).values()}
    await two.node.stop()
    await one.node.stop()
    return source


@pytest.mark.parametrize("good", [0, 1])
def test_blocks_come_from_another_node(good: int) -> None:
    async def main() -> None:
        network = MemoryNetwork(1, latency=0.002)
        source = await lend_and_borrow(network.host(), network.host(), good)
        assert source.asked <= good + 2  # the blocks under way; after that nobody asks it again

    run(main())


def test_blocks_come_over_a_real_connection() -> None:
    async def main() -> None:
        lender = await NativeHost.create(PrivateKey(os.urandom(32)), ["/ip4/127.0.0.1/tcp/0"])
        borrower = await NativeHost.create(PrivateKey(os.urandom(32)))
        await lender.listen()
        await borrower.connect(lender.addresses[0])
        await lend_and_borrow(lender, borrower, 0, time.time)

    asyncio.run(asyncio.wait_for(main(), 60))


def test_what_nobody_lends_either_is_said_with_both_reasons() -> None:
    async def main() -> None:
        network, board = MemoryNetwork(1), Board()
        node = board.node(network.host(), "0:2", GoneSource(), MemoryStore())
        with pytest.raises(Unreachable, match=r"host of the files is gone; and no server of block \d lends"):
            await node.node.start()
        empty = board.node(network.host(), "0:2", MemorySource({}), MemoryStore())
        with pytest.raises(ModelFileError, match=r"there is no file .*; and no server"):
            await empty.node.start()

    run(main())
