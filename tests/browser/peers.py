"""The other side of a tab under test: a client of ours in this process, and what it should be told.

Rule of the file: messages are put together here, field by field, so that a test can also send wrong
ones; the reference computes in numpy and shares no code with an engine of the tab.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from browser.tabs import PATIENCE, SOON
from safetensors.numpy import save_file

from kwaainet.compression.codec import deserialize, serialize
from kwaainet.dht.record import Dictionary, Record
from kwaainet.errors import StreamReset
from kwaainet.formats.config import ModelConfig
from kwaainet.formats.huggingface import write_config
from kwaainet.identity.keys import PrivateKey
from kwaainet.native.host import NativeHost
from kwaainet.native.model import open_model
from kwaainet.node.client import Client
from kwaainet.node.client_options import ClientOptions
from kwaainet.node.dht import DhtNode
from kwaainet.node.directory import dht_reader
from kwaainet.node.model import load_span
from kwaainet.ports import Floats, Stream
from kwaainet.swarm import blocks
from kwaainet.swarm.server_info import ServerInfo
from kwaainet.testing.engine import NumpyEngine
from kwaainet.testing.store import MemoryStore
from kwaainet.types import BlockRange, PeerId, ServerState
from kwaainet.wire import msgpack
from kwaainet.wire.messages import ExpertRequest, ExpertResponse

PREFIX = "small-llama"
SMALL = ModelConfig(
    num_hidden_layers=3,
    hidden_size=192,
    intermediate_size=500,
    num_attention_heads=6,
    num_key_value_heads=2,
    head_dim=32,
    vocab_size=64,
    max_position_embeddings=512,
    rms_norm_eps=1e-5,
    rope_theta=10000.0,
    tie_word_embeddings=False,
)
ALL = BlockRange(0, SMALL.num_hidden_layers)
_ARGUMENTS = ((b"__T0", b"__T1", b"__T2"), {})


def write_small_model(folder: Path, seed: int = 0) -> Path:
    """A random Llama of odd shape as a Hugging Face directory; the same seed gives the same weights."""
    random = np.random.default_rng(seed)
    tensors = {}
    for name, shape in SMALL.tensor_shapes().items():
        values = random.standard_normal(shape, np.float32)
        values = 1 + values * np.float32(0.1) if len(shape) == 1 else values / np.float32(shape[1] ** 0.5)
        tensors[name] = values.astype(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(write_config(SMALL)))
    return folder


def hidden_states(batch: int, tokens: int, seed: int = 1) -> Floats:
    """float32 [batch, tokens, hidden] of about unit size."""
    return np.random.default_rng(seed).standard_normal((batch, tokens, SMALL.hidden_size), np.float32)


async def expected(model: Path, hidden: Floats, span: BlockRange = ALL) -> Floats:
    """What ``span`` of the model makes of ``hidden``, from position 0 on."""
    opened = open_model(model)
    engine = NumpyEngine()
    await load_span(opened.manifest, span, opened.source, MemoryStore(), engine)
    cache = await engine.open_cache(hidden.shape[0], hidden.shape[1])
    return await engine.run(cache, hidden)


@dataclass(frozen=True)
class Peer:
    """A client that has joined the swarm of a relay; nobody can dial it."""

    host: NativeHost
    dht: DhtNode

    async def states(self, prefix: str, num_blocks: int, server: str) -> list[ServerState | None]:
        """What the DHT says of one server, block by block."""
        keys = [blocks.uid(prefix, block) for block in range(num_blocks)]
        found = await self.dht.get_many(keys)  # not through a reader: those leave out who is offline
        return [_state(found[key], server) for key in keys]

    def client(self, prefix: str, num_blocks: int) -> Client:
        """Our client proper, as patient with whoever is to take a server's place as a busy machine needs."""
        read, options = dht_reader(self.dht), ClientOptions(patience=SOON)
        return Client(
            self.host,
            read,
            prefix,
            num_blocks,
            now=time.perf_counter,
            random_bytes=os.urandom,
            options=options,
        )

    async def session(
        self, server: str, max_length: int = 128, span: BlockRange = ALL, prefix: str = PREFIX
    ) -> Session:
        """A session with one server."""
        stream = await self.host.open_stream(
            PeerId.parse(server), "TransformerConnectionHandler.rpc_inference", timeout=PATIENCE
        )
        return Session(stream, blocks.join(prefix, span), max_length)


def _state(record: Record | None, server: str) -> ServerState | None:
    if not isinstance(record, Dictionary):
        return None
    values = [value.data for subkey, value in record.entries.items() if subkey == server]
    return ServerInfo.decode(values[0]).state if values else None


class Session:
    """One inference session, spoken message by message."""

    session_id = "a-session"

    def __init__(self, stream: Stream, uid: str, max_length: int) -> None:
        self.stream, self._uid, self._max_length = stream, uid, max_length
        self._steps = 0

    async def step(self, hidden: Floats, rows: Sequence[int] = (), **options: Any) -> Floats:
        """Send hidden [batch, n, hidden] and return the answer; ``rows`` are hypo_ids, ``options``
        go into the metadata."""
        try:
            await self.stream.send(self.request(hidden, rows, **options))
        except StreamReset:
            await self.answer()  # raises what was said before the end, where it has come and was not read yet
            raise
        return await self.answer()

    def request(self, hidden: Floats, rows: Sequence[int] = (), **options: Any) -> bytes:
        """The message of the next step."""
        self._steps += 1
        metadata = {
            "session_id": self.session_id,
            "step_id": f"step-{self._steps}",
            "max_length": self._max_length,
            "args_structure": _ARGUMENTS,
            **options,
        }
        arrays = (hidden, np.zeros(0, np.float32), np.asarray(rows, np.int64))
        return ExpertRequest(
            uid=self._uid, tensors=tuple(map(serialize, arrays)), metadata=msgpack.dumps(metadata)
        ).encode()

    async def answer(self) -> Floats:
        """The next answer, also of a step that a server pushed."""
        answer = await asyncio.wait_for(self.stream.receive(), PATIENCE)
        assert answer is not None, "the server ended the session without an answer"
        [tensor] = ExpertResponse.decode(answer).tensors
        return np.asarray(deserialize(tensor), np.float32)


@asynccontextmanager
async def joined(initial_peer: str) -> AsyncIterator[Peer]:
    """A client of its own identity, joined through ``initial_peer``."""
    async with AsyncExitStack() as stack:
        host = await NativeHost.create(PrivateKey(os.urandom(32)))
        stack.push_async_callback(host.close)
        dht = DhtNode(host, now=time.time, random_bytes=os.urandom, client_mode=True)
        stack.push_async_callback(dht.close)
        await dht.join([await host.connect(initial_peer)])
        yield Peer(host, dht)
