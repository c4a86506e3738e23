"""What a newcomer is given, within bounds."""

import asyncio
from collections.abc import Sequence

from kwaainet.dht.answers import Answers
from kwaainet.dht.key import DHTID
from kwaainet.dht.protocol import Entry
from kwaainet.dht.record import Value
from kwaainet.dht.routing_table import Neighbour, RoutingTable
from kwaainet.dht.storage import Storage
from kwaainet.node.handover import MAX_HANDOVER, MAX_NEWCOMERS, Handover
from kwaainet.testing.clock import run
from kwaainet.types import PeerId

OWN = DHTID(0)
NEWCOMER = Neighbour(DHTID(9), PeerId(b"\x00\x02ab"))


def test_a_newcomer_gets_so_many_records_and_so_many_newcomers_get_any() -> None:
    async def main() -> None:
        storage = Storage()
        answers = Answers(OWN, RoutingTable(OWN, 0.0), storage)
        for n in range(MAX_HANDOVER + 300):
            answers.keep(Entry(DHTID(n), Value(b"x", 9.0)), 0.0)
        given: list[int] = []
        open_ = asyncio.Event()

        async def store_at(node: Neighbour, entries: Sequence[Entry]) -> None:
            given.append(len(entries))
            await open_.wait()

        handover = Handover(answers, storage, store_at, lambda: 0.0)
        tasks = [asyncio.ensure_future(handover.give(NEWCOMER)) for _ in range(MAX_NEWCOMERS + 3)]
        while len(given) < MAX_NEWCOMERS:
            await asyncio.sleep(0)
        open_.set()
        await asyncio.gather(*tasks)
        assert given == [MAX_HANDOVER] * MAX_NEWCOMERS
        await handover.give(NEWCOMER)
        assert len(given) == MAX_NEWCOMERS + 1

    run(main())
