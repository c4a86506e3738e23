"""Whoever runs blocks as declared can stand behind the handler: here one that only notes what it is told."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import numpy as np

from kwaainet.compression.codec import deserialize, serialize
from kwaainet.errors import KwaaiNetError
from kwaainet.node.admission import Admission
from kwaainet.node.config import NodeConfig
from kwaainet.node.rpc import TransformerConnectionHandler
from kwaainet.node.runner import Runner, RunnerCache
from kwaainet.ports import Floats
from kwaainet.testing.clock import run
from kwaainet.testing.host import MemoryNetwork
from kwaainet.testing.model import TINY
from kwaainet.types import BlockRange, PeerId
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, ExpertResponse


class Noting:
    """Both declarations in one: answers twice what it gets."""

    def __init__(self) -> None:
        self.admission = Admission(100, 4)
        self.on_lost: Callable[[KwaaiNetError], None] = lambda error: None
        self.told: list[object] = []

    @asynccontextmanager
    async def open_cache(
        self,
        batch: int,
        max_length: int,
        timeout: float,
        blocks: BlockRange | None = None,
        peer: PeerId | None = None,
        request_id: str = "",
    ) -> AsyncIterator[RunnerCache]:
        self.told.append((batch, max_length, blocks))
        yield self
        self.told.append("closed")

    async def forward(
        self, hidden: Floats, timeout: float, blocks: BlockRange | None = None, peer: PeerId | None = None
    ) -> Floats:
        return hidden * 2

    async def run(self, hidden: Floats, is_wanted: Callable[[], bool] = lambda: True) -> Floats:
        self.told.append(hidden.shape)
        return hidden * 2

    async def truncate(self, length: int) -> None:
        self.told.append(("truncate", length))

    async def reorder(self, rows: Sequence[int]) -> None:
        self.told.append(("reorder", list(rows)))


def message(hidden: Floats, rows: Sequence[int] = (), **metadata: object) -> bytes:
    tensors = (hidden, np.zeros(0, np.float32), np.array(rows, np.int64))
    metadata["args_structure"] = ((b"__T0", b"__T1", b"__T2"), {})
    return ExpertRequest("tiny.1 tiny.2", tuple(map(serialize, tensors)), msgpack.dumps(metadata)).encode()


def test_a_session_is_carried_out_by_whoever_runs_it() -> None:
    async def main() -> None:
        noting = Noting()
        runner: Runner = noting
        network = MemoryNetwork(1)
        client, server = network.host(), network.host()
        handler = TransformerConnectionHandler(NodeConfig("tiny", BlockRange(0, 4)), TINY, runner)
        handler.register(server)
        await server.listen()
        stream = await client.open_stream(
            server.peer_id, "TransformerConnectionHandler.rpc_inference", timeout=5.0
        )
        hidden = np.ones((2, 3, TINY.hidden_size), np.float32)
        await stream.send(message(hidden, max_length=9))
        await stream.send(message(hidden[:, :1], rows=[1, 1], start_from_position=2))
        for _ in range(2):
            reply = await stream.receive()
            assert reply is not None
            assert (deserialize(ExpertResponse.decode(reply).tensors[0]) == 2).all()
        await stream.send(ExpertRequest().encode())
        await stream.end()
        assert await stream.receive() is None
        width = TINY.hidden_size
        assert noting.told == [
            (2, 9, BlockRange(1, 3)),
            (2, 3, width),
            ("truncate", 2),
            ("reorder", [1, 1]),
            (2, 1, width),
            "closed",
        ]

    run(main())
