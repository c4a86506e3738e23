"""What a session makes of servers that misbehave; losses over real nodes: tests/swarm/test_failover.py."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest

from kwaainet.compression.codec import deserialize, serialize
from kwaainet.errors import UNAVAILABLE, ProtocolError, RequestError, Unreachable, UsageError
from kwaainet.node.client import Client, ClientOptions
from kwaainet.ports import Floats, Stream
from kwaainet.swarm.health import Reason
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.types import BlockRange, PeerId, ServerState
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, ExpertResponse

HIDDEN = np.arange(6, dtype=np.float32).reshape(1, 3, 2)
TOKEN = HIDDEN[:, :1]
Spoil = Callable[[Floats, int], Floats]


class Swarm:
    """Servers whose answer adds the number of positions so far, and so depends on their history."""

    version = "0.1.0"

    def __init__(self, **options: object) -> None:
        self.network = MemoryNetwork(latency=0.001)
        self.records: list[dict[PeerId, ServerInfo]] = [{}, {}]
        self.starts: dict[PeerId, list[int]] = {}
        ids = iter(range(1 << 30))

        async def read(prefix: str, num_blocks: int) -> Sequence[Mapping[PeerId, ServerInfo]]:
            return [dict(record) for record in self.records]

        self.client = Client(
            self.network.host(),
            read,
            "m",
            2,
            now=now,
            random_bytes=lambda size: next(ids).to_bytes(size, "big"),
            options=ClientOptions(**options),  # type: ignore[arg-type]
        )

    async def serve(
        self, text: str, spoil: Spoil = lambda hidden, count: hidden, rps: float = 100.0
    ) -> PeerId:
        host, blocks = self.network.host(), BlockRange.parse(text)
        self._handle(host, spoil)
        await host.listen()
        for block in range(blocks.start, blocks.end):
            self.records[block][host.peer_id] = ServerInfo(
                ServerState.ONLINE, 1.0, blocks.start, blocks.end, inference_rps=rps, version=self.version
            )
        return host.peer_id

    def _handle(self, host: MemoryHost, spoil: Spoil) -> None:
        starts = self.starts.setdefault(host.peer_id, [])

        async def inference(stream: Stream) -> None:
            position = count = 0
            while message := await stream.receive():
                request = ExpertRequest.decode(message)
                metadata = msgpack.loads(request.metadata)
                assert isinstance(metadata, dict)
                starts.append(metadata["start_from_position"])
                position = metadata["start_from_position"]
                hidden = deserialize(request.tensors[0])
                added = position + 1 + np.arange(hidden.shape[1], dtype=np.float32)[:, None]
                position += hidden.shape[1]
                output, count = spoil(hidden + added, count), count + 1
                await stream.send(ExpertResponse(tensors=(serialize(output),)).encode())

        async def ping(peer: PeerId, request: bytes) -> bytes:
            return b""

        host.handle_stream("TransformerConnectionHandler.rpc_inference", inference)
        host.handle_unary("DHTProtocol.rpc_ping", ping)


def nan(hidden: Floats, count: int) -> Floats:
    return hidden if count == 0 else np.full_like(hidden, np.nan)


def short(hidden: Floats, count: int) -> Floats:
    return hidden if count == 0 else hidden[:, :, :1]


@pytest.mark.parametrize("spoil", [nan, short])
def test_a_server_that_answers_nonsense_is_banned_as_faulty_and_replaced(spoil: Spoil) -> None:
    async def main() -> None:
        swarm = Swarm()
        bad, good = await swarm.serve("0:2", spoil, rps=1000.0), await swarm.serve("0:2")
        async with swarm.client.session(8) as session:
            await session.step(HIDDEN)
            np.testing.assert_array_equal(await session.step(TOKEN), TOKEN + 4)
            assert [hop.peer for hop in session.hops] == [good]
        assert swarm.client.view.health.bans(now())[bad].reason is Reason.FAULTY
        assert swarm.starts[good] == [0, 3]

    run(main())


def test_nonsense_from_everybody_is_told() -> None:
    async def main() -> None:
        swarm = Swarm(patience=1.0)
        bad = await swarm.serve("0:2", nan)
        async with swarm.client.session(8) as session:
            await session.step(HIDDEN)
            with pytest.raises(ProtocolError, match=f"{bad}.*not finite.*no server is online"):
                await session.step(TOKEN)
            assert session.position == 3

    run(main())


def test_a_server_that_refuses_for_now_is_replaced_at_once() -> None:
    def full(hidden: Floats, count: int) -> Floats:
        raise RequestError(f"{UNAVAILABLE}the attention cache is full")

    async def main() -> None:
        swarm = Swarm()
        await swarm.serve("0:2", full, rps=1000.0)
        free = await swarm.serve("0:2")
        async with swarm.client.session(8) as session:
            await session.step(HIDDEN)
            assert [hop.peer for hop in session.hops] == [free]

    run(main())


def test_the_history_is_replayed_in_pieces() -> None:
    async def main() -> None:
        swarm = Swarm(replay_tokens=2)
        first = await swarm.serve("0:2", rps=1000.0)
        second = await swarm.serve("0:2")
        async with swarm.client.session(8) as session:
            await session.step(HIDDEN)
            await session.step(TOKEN)
            swarm.network.vanish(first)
            await session.step(TOKEN)
            assert swarm.starts[second] == [0, 2, 4]

    run(main())


def test_a_step_is_sent_anew_only_to_the_replacement() -> None:
    async def main() -> None:
        swarm = Swarm()
        first = await swarm.serve("0:1")
        last = await swarm.serve("1:2", rps=1000.0)
        other = await swarm.serve("1:2")
        async with swarm.client.session(8) as session:
            await session.step(HIDDEN)
            swarm.network.vanish(last)
            np.testing.assert_array_equal(await session.step(TOKEN), TOKEN + 8)
        assert swarm.starts == {first: [0, 3], last: [0], other: [0, 3]}

    run(main())


def test_the_whole_step_has_a_time_limit() -> None:
    async def main() -> None:
        swarm = Swarm(step_timeout=3.0, patience=100.0)
        only = await swarm.serve("0:2")
        async with swarm.client.session(8) as session:
            await session.step(HIDDEN)
            swarm.network.vanish(only)
            started = now()
            with pytest.raises(Unreachable, match="longer than 3 s"):
                await session.step(TOKEN)
            assert now() - started == pytest.approx(3.0)

    run(main())


def test_one_step_at_a_time() -> None:
    async def main() -> None:
        swarm = Swarm()
        await swarm.serve("0:2")
        async with swarm.client.session(8) as session:
            step = asyncio.ensure_future(session.step(HIDDEN))
            await asyncio.sleep(0)
            with pytest.raises(UsageError, match="not been answered"):
                await session.step(TOKEN)
            await step
        with pytest.raises(UsageError, match="closed"):
            await session.step(TOKEN)

    run(main())


def test_a_rollback_goes_out_with_the_next_step() -> None:
    async def main() -> None:
        swarm = Swarm()
        peer = await swarm.serve("0:2")
        async with swarm.client.session(8) as session:
            await session.step(HIDDEN)
            await session.rollback(1)
            np.testing.assert_array_equal(await session.step(TOKEN), TOKEN + 2)
            assert swarm.starts[peer] == [0, 1]
            for length in (-1, 3):
                with pytest.raises(UsageError, match="roll"):
                    await session.rollback(length)

    run(main())


def test_a_server_that_cannot_roll_back_is_given_the_history_anew() -> None:
    async def main() -> None:
        swarm = Swarm()
        swarm.version = "2.2.0.post1"
        peer = await swarm.serve("0:2")
        async with swarm.client.session(8) as session:
            await session.step(HIDDEN)
            await session.rollback(1)
            np.testing.assert_array_equal(await session.step(TOKEN), TOKEN + 2)
            assert session.failovers == 0
        assert swarm.starts[peer] == [0, 0, 1]
        assert peer not in swarm.client.view.health.bans(now())

    run(main())


def test_a_part_of_the_model_can_be_run() -> None:
    async def main() -> None:
        swarm = Swarm(blocks=BlockRange(1, 2))
        await swarm.serve("0:2")
        async with swarm.client.session(8) as session:
            assert [str(hop.blocks) for hop in session.hops] == ["1:2"]

    run(main())
