"""What people are shown of the swarm: all of it, within bounds, and one reading for many who look."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterator

import pytest

from kwaainet.dht.record import Dictionary, Record, Value
from kwaainet.errors import Unreachable
from kwaainet.node import overview as module
from kwaainet.node.overview import FRESH, Overview
from kwaainet.swarm.blocks import uid
from kwaainet.swarm.coverage import GATEWAY_MARK
from kwaainet.swarm.server_info import MODELS_KEY, ModelInfo, ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryNetwork
from kwaainet.types import BlockRange, PeerId, ServerState

NETWORK = MemoryNetwork(1)
A, B, C, D = (NETWORK.host().peer_id for _ in range(4))


class Records:
    """A DHT that holds what it is told."""

    def __init__(self) -> None:
        self.found: dict[str, dict[object, bytes]] = {}
        self.reads = 0
        self.broken = False

    def serve(
        self,
        peer: PeerId,
        start: int,
        end: int,
        *,
        model: str = "m",
        version: str = "1",
        joining: bool = False,
    ) -> None:
        state = ServerState.JOINING if joining else ServerState.ONLINE
        info = ServerInfo(state, 5.0, start_block=start, end_block=end, version=version, public_name="me")
        for block in range(start, end):
            self.found.setdefault(uid(model, block), {})[str(peer)] = info.encode()

    def name(self, model: str, blocks: int) -> None:
        self.found.setdefault(MODELS_KEY, {})[model] = ModelInfo(blocks).encode()

    async def get_many(self, keys: Collection[str], latest: bool = True) -> dict[str, Record | None]:
        await asyncio.sleep(0.01)
        self.reads += 1
        if self.broken:
            raise Unreachable("no peer of the DHT answers")
        return dict(self._records(keys))

    def _records(self, keys: Collection[str]) -> Iterator[tuple[str, Record | None]]:
        for key in keys:
            entries = {subkey: Value(data, 1e9) for subkey, data in self.found.get(key, {}).items()}
            yield key, Dictionary(entries) if entries else None  # type: ignore[arg-type]


def test_all_servers_of_all_models_are_shown_and_a_way_through_them() -> None:
    async def main() -> None:
        records = Records()
        records.serve(A, 0, 2)
        records.serve(B, 1, 4)
        records.serve(C, 0, 4, version="1" + GATEWAY_MARK)
        records.serve(D, 3, 4, joining=True)
        records.serve(A, 0, 1, model="other")
        records.name("other", 2)
        records.name("nobody", 3)
        records.found[MODELS_KEY]["a.b"] = b"nonsense"
        mine, other = await Overview(records, {"m": 4}, now).read()
        assert (mine.prefix, mine.offered, other.prefix, other.offered) == ("m", True, "other", False)
        assert list(mine.counts) == [1, 2, 1, 1], "neither who only forwards nor who is not there yet counts"
        shown = {one.peer: (one.blocks, one.state, one.gateway) for one in mine.servers}
        assert shown == {
            A: (BlockRange(0, 2), ServerState.ONLINE, False),
            B: (BlockRange(1, 4), ServerState.ONLINE, False),
            C: (BlockRange(0, 4), ServerState.ONLINE, True),
            D: (BlockRange(3, 4), ServerState.JOINING, False),
        }
        assert mine.servers[0].public_name == "me"
        assert [hop.peer for hop in mine.route] == [A, B]
        assert list(other.route) == [], "block 1 has no server"

    run(main())


def test_many_who_look_cost_one_reading(monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        records = Records()
        overview = Overview(records, {"m": 1}, now)
        await asyncio.gather(*(overview.read() for _ in range(50)))
        assert records.reads == 2
        records.serve(A, 0, 1)
        assert list((await overview.read())[0].counts) == [0]
        await asyncio.sleep(FRESH)
        assert list((await overview.read())[0].counts) == [1]
        assert records.reads == 4

    run(main())


def test_a_reading_that_failed_is_tried_again() -> None:
    async def main() -> None:
        records = Records()
        records.broken = True
        overview = Overview(records, {"m": 1}, now)
        with pytest.raises(Unreachable):
            await overview.read()
        records.broken = False
        assert len(await overview.read()) == 1

    run(main())


def test_what_anybody_may_write_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_SERVERS", 3)
    monkeypatch.setattr(module, "MAX_MODELS", 2)

    async def main() -> None:
        records = Records()
        for _ in range(5):
            records.serve(NETWORK.host().peer_id, 0, 2)
        for model in ("x", "y", "z"):
            records.name(model, 2)
            records.serve(A, 0, 2, model=model)
        first, second = await Overview(records, {"m": 2}, now).read()
        assert (len(first.servers), first.more, list(first.counts)) == (3, 2, [5, 5])
        assert (first.prefix, second.prefix) == ("m", "x")

    run(main())


def test_no_more_blocks_are_read_than_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_BLOCKS", 10)

    async def main() -> None:
        records = Records()
        records.serve(A, 0, 1, model="vast")
        records.name("vast", 11)
        assert [view.prefix for view in await Overview(records, {"m": 2}, now).read()] == ["m"]

    run(main())
