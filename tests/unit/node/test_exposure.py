"""Hidden models stay out of the DHT and are read beside it; others pass through."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from kwaainet.dht.key import DHTID
from kwaainet.dht.record import Dictionary, Record, StoreItem, Value
from kwaainet.dht.storage import Storage
from kwaainet.node.exposure import HiddenRecords, announced_reader
from kwaainet.swarm.announcement import Announcement
from kwaainet.swarm.server_info import MODELS_KEY, ModelInfo, ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.types import PeerId, ServerState

ALICE, BOB = (PeerId(b"\x00\x24\x08\x01\x12\x20" + bytes([number]) * 32) for number in (1, 2))


class OneNode:
    """A DHT of one node."""

    def __init__(self) -> None:
        self.storage = Storage()

    async def store_many(self, items: Sequence[StoreItem]) -> list[bool]:
        return [
            self.storage.store_subkey(
                DHTID.of(item.key), item.subkey, Value(item.value, item.expiration), now()
            )
            for item in items
        ]

    async def get_many(self, keys: Collection[str], latest: bool = True) -> dict[str, Record | None]:
        return {key: self.storage.get(DHTID.of(key), now()) for key in keys}


def records(prefix: str, peer: PeerId) -> list[StoreItem]:
    info = ServerInfo(ServerState.ONLINE, 1.0, start_block=0, end_block=2)
    return Announcement(prefix, info, 100.0, ModelInfo(3)).records(peer, now() + 100)


def readers(record: Record | None) -> set[object]:
    return set(record.entries) if isinstance(record, Dictionary) else set()


def test_hidden_records_reach_no_node_but_are_read() -> None:
    async def main() -> None:
        dht = OneNode()
        seen = HiddenRecords(dht, ["secret"], now)
        mixed = [
            item
            for pair in zip(records("secret", ALICE), records("open", ALICE), strict=True)
            for item in pair
        ]
        assert await seen.store_many(mixed) == [True] * 6
        keys = ["secret.0", "open.0", MODELS_KEY, "nothing", "secret"]
        in_dht, for_us = await dht.get_many(keys), await seen.get_many(keys)
        assert in_dht["secret.0"] is None
        assert readers(in_dht[MODELS_KEY]) == {"open"}
        assert readers(for_us["secret.0"]) == readers(for_us["open.0"]) == {str(ALICE)}
        assert readers(for_us[MODELS_KEY]) == {"open", "secret"}
        assert for_us["nothing"] is None

    run(main())


def test_servers_of_a_hidden_model_in_the_dht_are_read_too() -> None:
    async def main() -> None:
        dht = OneNode()
        seen = HiddenRecords(dht, ["secret"], now)
        await seen.store_many(records("secret", ALICE))
        await dht.store_many(records("secret", BOB))
        assert readers((await seen.get_many(["secret.1"]))["secret.1"]) == {str(ALICE), str(BOB)}

    run(main())


def test_the_later_word_wins_here_as_there() -> None:
    async def main() -> None:
        seen = HiddenRecords(OneNode(), ["secret"], now)
        item = StoreItem("secret.0", str(ALICE), b"\x01", now() + 10)
        assert await seen.store_many([item]) == [True]
        assert await seen.store_many([item]) == [False]

    run(main())


def test_a_relays_own_table_is_read_by_block() -> None:
    async def main() -> None:
        one = ServerInfo(ServerState.ONLINE, 1.0, start_block=0, end_block=2)
        two = ServerInfo(ServerState.JOINING, 1.0, start_block=1, end_block=9)
        table = {
            ALICE: [Announcement("secret", one, 100.0), Announcement("open", two, 100.0)],
            BOB: [Announcement("secret", two, 100.0)],
        }
        read = announced_reader(lambda: table)
        assert await read("secret", 3) == [{ALICE: one}, {ALICE: one, BOB: two}, {BOB: two}]
        assert await read("other", 1) == [{}]

    run(main())
