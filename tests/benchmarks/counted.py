"""Figures for the guard that are counted, not timed: lines of Python for a step, bytes of weights.

Rule of the file: everything runs on the virtual clock and on seeded numbers, so that a figure changes
only with the code it counts.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np

import kwaainet
from kwaainet.formats.quants import STORAGE_TYPES
from kwaainet.formats.weights import Weight
from kwaainet.inference.nbits import BITS, repack
from kwaainet.node.admission import Admission
from kwaainet.node.client import Client
from kwaainet.node.config import NodeConfig
from kwaainet.node.model import load_span
from kwaainet.node.rpc import TransformerConnectionHandler, answer_pings
from kwaainet.node.span import ServedSpan
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.clock import now, run
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.host import MemoryHost, MemoryNetwork
from kwaainet.testing.model import TINY, random_model
from kwaainet.testing.store import MemorySource, MemoryStore
from kwaainet.types import BlockRange, PeerId, ServerState

PACKAGE = str(Path(kwaainet.__file__).parent)
NOT_COUNTED = str(Path(PACKAGE, "testing"))  # the network and the engine are those of the tests
PREFIX = "tiny"
BLOCKS = BlockRange(0, TINY.num_hidden_layers)
WARM_UP, STEPS = 5, 20


@dataclass
class Lines:
    """Lines of our own Python that were run, by this thread."""

    count: int = 0
    _ours: dict[str, bool] = field(default_factory=dict)

    def trace(self, frame: FrameType, event: str, argument: Any) -> Any:
        """For ``sys.settrace``: follow our own functions only."""
        file = frame.f_code.co_filename
        if file not in self._ours:
            self._ours[file] = file.startswith(PACKAGE) and not file.startswith(NOT_COUNTED)
        if not self._ours[file]:
            return None
        self.count += event == "line"
        return self.trace


@contextmanager
def lines_of() -> Iterator[Lines]:
    """Count while the context is open; another tracer, such as a debugger's, comes back after it."""
    lines, before = Lines(), sys.gettrace()
    sys.settrace(lines.trace)
    try:
        yield lines
    finally:
        sys.settrace(before)


def steps() -> dict[str, float]:
    """Lines of Python that one decode step takes, client and server together, over a network in memory."""
    return {"lines of Python for one decode step": run(_steps())}


async def _steps() -> float:
    manifest, files = random_model()
    network = MemoryNetwork(1)
    server, client = network.host(), network.host()
    engine = NumpyEngine()
    await load_span(manifest, BLOCKS, MemorySource(files), MemoryStore(), engine)
    config = NodeConfig(PREFIX, BLOCKS)
    span = ServedSpan(Admission(config.total_tokens(TINY), config.max_sessions), 64, lambda error: None)
    span.resume(engine)
    TransformerConnectionHandler(config, TINY, span).register(server)
    answer_pings(server, now)
    await server.listen()
    hidden = np.random.default_rng(0).standard_normal((1, 1, TINY.hidden_size), np.float32)
    async with _client(client, server).session(WARM_UP + STEPS) as session:
        for _ in range(WARM_UP):
            await session.step(hidden)
        with lines_of() as lines:
            for _ in range(STEPS):
                await session.step(hidden)
    return lines.count / STEPS


def _client(host: MemoryHost, server: MemoryHost) -> Client:
    info = ServerInfo(ServerState.ONLINE, 1.0, start_block=BLOCKS.start, end_block=BLOCKS.end)

    async def read(prefix: str, num_blocks: int) -> Sequence[dict[PeerId, ServerInfo]]:
        return [{server.peer_id: info}] * num_blocks

    return Client(host, read, PREFIX, len(BLOCKS), now=now, random_bytes=random.Random(1).randbytes)


def weights() -> dict[str, float]:
    """Bytes of repacked weights over those of the file, by type."""
    figures = {}
    for dtype in BITS:
        raw = bytes(64 * STORAGE_TYPES[dtype].size)
        blocks = repack(Weight(dtype, (32, 64), raw), TINY)
        arrays = (blocks.quants, blocks.scales, blocks.zeros)
        resident = sum(array.nbytes for array in arrays if array is not None)
        figures[f"bytes in memory per byte of {dtype} in the file"] = round(resident / len(raw), 4)
    return figures
