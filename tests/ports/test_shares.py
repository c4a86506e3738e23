"""No circuit takes more than its share of a relay: told by bytes, not by the clock."""

from __future__ import annotations

import asyncio

from unit.native.test_relay import Scene, raw, read_exactly, run, until

from kwaainet.errors import StreamReset
from kwaainet.native.stream import RawStream

MIB = 1 << 20
TOLERANCE = 6 * MIB  # what lies in windows and sockets on the way


async def flood(stream: RawStream) -> None:
    try:
        while True:
            stream.write(bytes(64 << 10))
            await stream.drain()
    except StreamReset:
        pass


async def swallow(stream: RawStream, taken: dict[str, int], name: str) -> None:
    while data := await stream.read():
        taken[name] += len(data)


def test_circuits_to_one_peer_share_what_it_takes_whatever_each_wants() -> None:
    async def main(scene: Scene) -> None:
        taken = dict.fromkeys(("one", "two", "three"), 0)
        sources = []
        for name in taken:
            source, target = await raw(scene, await scene.join())
            sources.append(source)
            for task in (flood(source), swallow(target, taken, name)):
                scene.tasks.append(asyncio.ensure_future(task))
        await until(lambda: sum(taken.values()) > 32 * MIB)
        fair = sum(taken.values()) / 3
        assert all(fair - TOLERANCE < size < fair + TOLERANCE for size in taken.values()), taken
        for source in sources:
            source.reset()

    run(main)


def test_a_greedy_circuit_lets_a_modest_one_through_between_its_bytes() -> None:
    async def main(scene: Scene) -> None:
        greedy, full = await raw(scene)
        modest, calm = await raw(scene, await scene.join())
        taken = {"greedy": 0}
        for task in (flood(greedy), swallow(full, taken, "greedy")):
            scene.tasks.append(asyncio.ensure_future(task))
        await until(lambda: taken["greedy"] > 8 * MIB)
        for _ in range(20):
            before = taken["greedy"]
            modest.write(bytes(1000))
            assert await read_exactly(calm, 1000) == bytes(1000)
            assert taken["greedy"] - before < TOLERANCE
        greedy.reset()

    run(main)
