"""Our own client: finds the servers of a model, keeps one inference session through a chain of them.

Follows Petals' client (client/inference_session.py, client/routing/sequence_manager.py), small: one
chain a session. Rule of the file: a hop that fails is named in the error; nothing is retried after a
server has reported an error of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from ..errors import KwaaiNetError, ProtocolError, RpcError, StreamReset, Unreachable
from ..inference.chain import HopSession
from ..inference.head import LanguageHead
from ..inference.sampling import Sampling, choose
from ..ports import Clock, Floats, Host, Stream
from ..swarm import blocks
from ..swarm.routing import Candidate, Hop, choose_chain
from ..swarm.server_info import Span, compute_spans
from ..wire.messages import PingRequest
from .directory import ReadServers

log = logging.getLogger(__name__)

PING_TIMEOUT = 5.0  # seconds to find, dial and ping a server before it is left out
OPEN_TIMEOUT = 15.0  # seconds to open the stream of one hop
STEP_TIMEOUT = 300.0  # seconds for one step of one hop: Petals' own step timeout
MAX_PINGS = 16  # servers measured before a chain is chosen
DEFAULT_SECONDS_PER_BLOCK = 0.01  # where a server announces no rate


class Client:
    """Reads the swarm and opens sessions. ``read_servers`` gives the records of blocks 0 to n."""

    def __init__(
        self,
        host: Host,
        read_servers: ReadServers,
        prefix: str,
        num_blocks: int,
        *,
        now: Clock,
        random_bytes: Callable[[int], bytes],
    ) -> None:
        self._host = host
        self._read_servers = read_servers
        self._prefix = blocks.check_prefix(prefix)
        self._num_blocks = num_blocks
        self._now = now
        self._random_bytes = random_bytes

    async def chain(self) -> list[Hop]:
        """The cheapest chain of servers that answer a ping now. Raises ``Unreachable``."""
        spans = compute_spans(await self._read_servers(self._prefix, self._num_blocks))
        measured = await asyncio.gather(*(self._measure(span) for span in spans[:MAX_PINGS]))
        candidates = [candidate for candidate in measured if candidate]
        if spans and not candidates:
            names = ", ".join(str(span.peer) for span in spans)
            raise Unreachable(
                f"none of the {len(spans)} servers announced for {self._prefix} answers: {names}"
            )
        return choose_chain(candidates, self._num_blocks)

    async def _measure(self, span: Span) -> Candidate | None:
        started = self._now()
        try:
            await self._host.call(
                span.peer, "DHTProtocol.rpc_ping", PingRequest().encode(), timeout=PING_TIMEOUT
            )
        except RpcError:
            log.debug("%s refuses pings but answers", span.peer)
        except (KwaaiNetError, TimeoutError) as error:
            log.info("server %s is left out: %s", span.peer, error)
            return None
        rate = span.info.inference_rps
        per_block = 1.0 / rate if rate else DEFAULT_SECONDS_PER_BLOCK
        return Candidate(span.peer, span.blocks, per_block, self._now() - started)

    @asynccontextmanager
    async def session(self, max_length: int) -> AsyncIterator[ChainSession]:
        """An inference session of up to ``max_length`` positions over the chain chosen now."""
        hops = await self.chain()
        session_id = self._uuid()
        session = ChainSession([], self._uuid)
        try:
            for hop in hops:
                stream = await self._open(hop)
                uid = blocks.join(self._prefix, hop.blocks)
                session.add(hop, stream, HopSession(uid, session_id, max_length))
            yield session
        finally:
            await session.close()

    async def _open(self, hop: Hop) -> Stream:
        protocol = "TransformerConnectionHandler.rpc_inference"
        try:
            return await self._host.open_stream(hop.peer, protocol, timeout=OPEN_TIMEOUT)
        except TimeoutError:
            raise Unreachable(f"server {hop.peer} did not open a session within {OPEN_TIMEOUT:g} s") from None

    def _uuid(self) -> str:
        return str(UUID(bytes=self._random_bytes(16), version=4))


class ChainSession:
    """A running session: hidden states go in at the first hop and come out of the last."""

    def __init__(self, hops: Sequence[tuple[Hop, Stream, HopSession]], new_id: Callable[[], str]) -> None:
        self._hops = list(hops)
        self._new_id = new_id

    @property
    def hops(self) -> list[Hop]:
        """The chain, first hop first."""
        return [hop for hop, _, _ in self._hops]

    def add(self, hop: Hop, stream: Stream, machine: HopSession) -> None:
        """Append the next hop."""
        self._hops.append((hop, stream, machine))

    async def step(self, hidden: Floats) -> Floats:
        """hidden [1, n, hidden] through every hop; the error of a hop that fails names its server."""
        step_id = self._new_id()
        for hop, stream, machine in self._hops:
            try:
                async with asyncio.timeout(STEP_TIMEOUT):
                    await stream.send(machine.step(hidden, step_id))
                    answer = await stream.receive()
                if answer is None:
                    raise StreamReset("it ended the session without an answer")
                hidden = machine.answer(answer)
            except (RpcError, StreamReset, ProtocolError) as error:
                raise type(error)(f"server {hop.peer} (blocks {hop.blocks}) failed: {error}") from error
            except TimeoutError:
                raise Unreachable(
                    f"server {hop.peer} (blocks {hop.blocks}) did not answer within {STEP_TIMEOUT:g} s"
                ) from None
        return hidden

    async def close(self) -> None:
        """End the session at every hop; a hop that is gone already does not matter."""
        for _, stream, machine in self._hops:
            try:
                await stream.send(machine.end())
                await stream.end()
            except KwaaiNetError as error:
                log.debug("ending a session: %s", error)
            await stream.close()
        self._hops.clear()


async def generate(
    session: ChainSession,
    head: LanguageHead,
    prompt: Sequence[int],
    max_new_tokens: int,
    *,
    sampling: Sampling,
    chance: Callable[[], float],
    stop: frozenset[int] = frozenset(),
) -> AsyncIterator[int]:
    """Token ids after ``prompt``, one by one, ending before a token in ``stop``.

    The session must be fresh and hold ``len(prompt) + max_new_tokens - 1`` positions.
    """
    hidden = head.embed(prompt)
    for count in range(max_new_tokens):
        output = await session.step(hidden)
        token = choose(head.logits(output[0, -1]), sampling, chance())
        if token in stop:
            return
        yield token
        if count + 1 < max_new_tokens:
            hidden = head.embed([token])
