"""Our own client: finds the servers of a model and opens sessions through chains of them.

Follows Petals' client (client/remote_sequential.py). Rule of the file: what a program needs to generate;
how a session survives is ``chain_session``'s, what is known of the swarm ``swarm_view``'s.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

from ..errors import ConfigError
from ..inference.head import LanguageHead
from ..inference.history import Budget
from ..inference.sampling import Sampling, choose
from ..ports import Clock, Host
from ..swarm import blocks as naming
from ..swarm.routing import Hop
from ..swarm.server_info import ServerInfo
from ..types import BlockRange, PeerId
from .chain_session import ChainSession
from .client_options import ClientOptions
from .directory import ReadServers
from .hop_opener import HopOpener
from .swarm_view import SwarmView

__all__ = ["ChainSession", "Client", "ClientOptions", "ReadServers", "generate"]


class Client:
    """Reads the swarm and opens sessions. ``read_servers`` gives the records of blocks 0 to n; ``now`` is
    any steady clock in seconds. ``view`` is what is known of the swarm."""

    def __init__(
        self,
        host: Host,
        read_servers: ReadServers,
        prefix: str,
        num_blocks: int,
        *,
        now: Clock,
        random_bytes: Callable[[int], bytes],
        options: ClientOptions | None = None,
    ) -> None:
        self._host, self._prefix = host, naming.check_prefix(prefix)
        self._now, self._random_bytes = now, random_bytes
        self._options = options or ClientOptions()
        self._blocks = self._options.blocks or BlockRange(0, num_blocks)
        if self._blocks.end > num_blocks:
            raise ConfigError(f"blocks {self._blocks} are not all in a model of {num_blocks}")

        async def read() -> Sequence[Mapping[PeerId, ServerInfo]]:
            return await read_servers(prefix, num_blocks)

        self.view = SwarmView(host, read, self._options, now=now, chance=self._chance)

    async def chain(self) -> list[Hop]:
        """The chain that a session of one position would take now. Raises ``Unreachable``."""
        return await self.view.route(self._blocks, 1)

    @asynccontextmanager
    async def session(
        self,
        max_length: int,
        batch: int = 1,
        *,
        blocks: BlockRange | None = None,
        history: Budget | None = None,
        request_id: str = "",
    ) -> AsyncIterator[ChainSession]:
        """A session of ``batch`` rows of up to ``max_length`` positions, through ``blocks`` if they are not
        the client's own; its history lies within ``history``, if that is given. Its ids begin with
        ``request_id``, by which logs of both sides are put together. Raises ``Unreachable``."""

        def session_id() -> str:
            return f"{request_id}/{self._uuid()}" if request_id else self._uuid()

        opener = HopOpener(self._host, self.view, self._prefix, session_id, max_length, batch)
        session = ChainSession(
            opener,
            self.view,
            self._options,
            blocks or self._blocks,
            max_length,
            batch,
            now=self._now,
            new_id=self._uuid,
            history=history,
        )
        async with self.view.kept_fresh():
            try:
                await self.view.catch_up()
                await session.open()
                yield session
            finally:
                await session.close()

    def _uuid(self) -> str:
        return str(UUID(bytes=self._random_bytes(16), version=4))

    def _chance(self) -> float:
        return int.from_bytes(self._random_bytes(6)) / (1 << 48)


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
