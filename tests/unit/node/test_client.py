import asyncio
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from kwaainet.compression.codec import deserialize, serialize
from kwaainet.errors import ProtocolError, RequestError, RpcError, Unreachable
from kwaainet.inference.head import LanguageHead
from kwaainet.inference.push import MAX_ID_LENGTH
from kwaainet.inference.sampling import Sampling
from kwaainet.node.client import Client, generate
from kwaainet.ports import Floats, Stream
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.types import BlockRange, PeerId, ServerState
from kwaainet.wire.messages import ExpertRequest, ExpertResponse, PingResponse

PREFIX = "m"
IDENTITY = np.eye(4, dtype=np.float32)
HEAD = LanguageHead(IDENTITY, np.ones(4, dtype=np.float32), IDENTITY, 1e-6)


class Swarm:
    """Servers in memory; a block here rolls the hidden state by one position, so chains can be checked."""

    def __init__(self, num_blocks: int) -> None:
        self.network = MemoryNetwork(latency=0.001)
        self.num_blocks = num_blocks
        self.records: list[dict[PeerId, ServerInfo]] = [{} for _ in range(num_blocks)]
        self.requests: list[tuple[PeerId, str]] = []

    async def serve(self, text: str, spoil: Callable[[Floats, int], Floats] | None = None) -> MemoryHost:
        blocks = BlockRange.parse(text)
        host = self.network.host()

        async def inference(stream: Stream) -> None:
            count = 0
            while (message := await stream.receive()) is not None:
                request = ExpertRequest.decode(message)
                if not request.tensors:
                    continue
                self.requests.append((host.peer_id, request.uid))
                hidden = np.roll(deserialize(request.tensors[0]), len(blocks), axis=-1)
                if spoil:
                    hidden = spoil(hidden, count)
                count += 1
                await stream.send(ExpertResponse(tensors=(serialize(hidden),)).encode())

        async def ping(peer: PeerId, request: bytes) -> bytes:
            return PingResponse(dht_time=now()).encode()

        host.handle_stream("TransformerConnectionHandler.rpc_inference", inference)
        host.handle_unary("DHTProtocol.rpc_ping", ping)
        await host.listen()
        info = ServerInfo(
            ServerState.ONLINE, 1.0, start_block=blocks.start, end_block=blocks.end, using_relay=True
        )
        for block in range(blocks.start, blocks.end):
            self.records[block][host.peer_id] = info
        return host

    def client(self) -> Client:
        async def read(prefix: str, num_blocks: int) -> Sequence[dict[PeerId, ServerInfo]]:
            assert (prefix, num_blocks) == (PREFIX, self.num_blocks)
            return self.records

        return Client(
            self.network.host(),
            read,
            PREFIX,
            self.num_blocks,
            now=now,
            random_bytes=random.Random(1).randbytes,
        )


async def tokens(client: Client, count: int, stop: frozenset[int] = frozenset()) -> list[int]:
    async with client.session(16) as session:
        options = {"sampling": Sampling(), "chance": lambda: 0.0, "stop": stop}
        return [token async for token in generate(session, HEAD, [1, 0], count, **options)]  # type: ignore[arg-type]


def test_a_chain_of_two_computes_what_one_server_does() -> None:
    async def main(spans: list[str]) -> list[int]:
        swarm = Swarm(3)
        for span in spans:
            await swarm.serve(span)
        return await tokens(swarm.client(), 5)

    assert run(main(["0:3"])) == run(main(["0:2", "2:3"])) == [3, 2, 1, 0, 3]


def test_generation_stops_before_a_stop_token() -> None:
    async def main() -> list[int]:
        swarm = Swarm(3)
        await swarm.serve("0:3")
        return await tokens(swarm.client(), 5, frozenset({1}))

    assert run(main()) == [3, 2]


def test_a_server_that_vanished_is_left_out_before_the_chain_is_chosen() -> None:
    async def main() -> None:
        swarm = Swarm(2)
        gone = await swarm.serve("0:2")
        there = await swarm.serve("0:2")
        swarm.network.vanish(gone.peer_id)
        await tokens(swarm.client(), 2)
        assert {peer for peer, _ in swarm.requests} == {there.peer_id}
        swarm.network.vanish(there.peer_id)
        with pytest.raises(Unreachable, match=r"can be reached \([12] tried"):
            await tokens(swarm.client(), 2)

    run(main())


def test_nothing_announced_is_said_by_block() -> None:
    async def main() -> None:
        swarm = Swarm(2)
        await swarm.serve("0:1")
        with pytest.raises(Unreachable, match="block 1 of 2"):
            await tokens(swarm.client(), 2)

    run(main())


def refuse(hidden: Floats, step: int) -> Floats:
    raise RequestError("this block is closed")


@pytest.mark.parametrize(
    ("spoil", "kind", "text"),
    [
        (refuse, RpcError, "this block is closed"),
        (lambda hidden, step: np.full_like(hidden, np.inf), ProtocolError, "not finite"),
        (lambda hidden, step: hidden[:, :, :2], ProtocolError, "is due"),
    ],
)
def test_the_server_that_fails_is_named(
    spoil: Callable[[Floats, int], Floats], kind: type[Exception], text: str
) -> None:
    async def main() -> None:
        swarm = Swarm(2)
        await swarm.serve("0:1")
        bad = await swarm.serve("1:2", spoil)
        with pytest.raises(kind, match=f"{bad.peer_id}.*blocks 1:2.*{text}"):
            await tokens(swarm.client(), 2)

    run(main())


def test_a_server_lost_in_the_middle_is_named() -> None:
    async def main() -> None:
        swarm = Swarm(1)
        host = await swarm.serve("0:1")
        async with swarm.client().session(8) as session:
            await session.step(HEAD.embed([1]))
            swarm.network.vanish(host.peer_id)
            with pytest.raises(Unreachable, match=str(host.peer_id)):
                await session.step(HEAD.embed([1]))

    run(main())


def test_a_session_that_is_given_up_is_ended_at_every_hop() -> None:
    async def main() -> None:
        swarm = Swarm(2)
        ended = asyncio.Event()
        await swarm.serve("0:1")
        host = await swarm.serve("1:2")

        async def inference(stream: Stream) -> None:
            assert await stream.receive() == b""
            assert await stream.receive() is None
            ended.set()

        host.handle_stream("TransformerConnectionHandler.rpc_inference", inference)
        async with swarm.client().session(8) as session:
            assert [str(hop.blocks) for hop in session.hops] == ["0:1", "1:2"]
        await asyncio.wait_for(ended.wait(), 5)

    run(main())


def test_overlapping_spans_join_and_are_cut_only_where_that_is_no_dearer() -> None:
    async def main(spans: list[str]) -> list[str]:
        swarm = Swarm(4)
        for span in spans:
            await swarm.serve(span)
        return [str(hop.blocks) for hop in await swarm.client().chain()]

    assert run(main(["0:3", "2:4", "3:4"])) == ["0:3", "3:4"]
    assert run(main(["0:3", "2:4"])) == ["0:3", "3:4"]


def test_the_ids_of_a_session_begin_with_its_requests() -> None:
    async def main() -> list[str]:
        swarm = Swarm(2)
        await swarm.serve("0:2")
        ids = []
        for request_id in ("chatcmpl-1", ""):
            async with swarm.client().session(4, request_id=request_id) as session:
                ids += [server.machine.session_id for server in session._hops]
        return ids

    named, plain = run(main())
    assert named.startswith("chatcmpl-1/")
    assert len(named) <= MAX_ID_LENGTH
    assert "/" not in plain
